-- The same as one batch. The last bid of each bidder on each auction; of one time, the one that came last.
WITH numbered AS (SELECT *, row_number() OVER () AS n FROM bid),
ranked AS (SELECT *, row_number() OVER (PARTITION BY bidder, auction ORDER BY date_time DESC, n DESC) AS rank FROM numbered)
SELECT auction, bidder, price, channel, url, date_time, extra FROM ranked WHERE rank = 1
