-- The same as one batch. The highest bids of each ten seconds.
WITH high AS (SELECT arrow_cast(date_time, 'Int64') / 10000000 AS pane, max(price) AS high FROM bid GROUP BY 1)
SELECT auction, price, bidder, date_time, extra
FROM bid JOIN high ON price = high AND arrow_cast(date_time, 'Int64') / 10000000 = pane
