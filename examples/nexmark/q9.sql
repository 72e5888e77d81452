-- The same as one batch. The bid that wins each auction.
WITH numbered AS (SELECT *, row_number() OVER () AS n FROM bid),
offers AS (
  SELECT id, item_name, description, initial_bid, reserve, auction.date_time AS date_time, expires, seller, category,
    auction.extra AS extra, auction, bidder, price, numbered.date_time AS bid_date_time, numbered.extra AS bid_extra,
    row_number() OVER (PARTITION BY id ORDER BY price DESC, numbered.date_time, n) AS rank
  FROM auction JOIN numbered ON auction = id WHERE numbered.date_time BETWEEN auction.date_time AND expires)
SELECT id, item_name, description, initial_bid, reserve, date_time, expires, seller, category, extra,
  auction, bidder, price, bid_date_time, bid_extra
FROM offers WHERE rank = 1
