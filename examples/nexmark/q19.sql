-- The same as one batch. The ten highest bids of each auction; of equal ones, the one that came first.
WITH numbered AS (SELECT *, row_number() OVER () AS n FROM bid),
ranked AS (SELECT *, arrow_cast(row_number() OVER (PARTITION BY auction ORDER BY price DESC, date_time, n), 'Int64') AS rank FROM numbered)
SELECT auction, bidder, price, channel, url, date_time, extra, rank FROM ranked WHERE rank <= 10
