-- The same as one batch. Bids on auctions of category 10, with their auction.
SELECT auction, bidder, price, channel, url, bid.date_time AS date_time, bid.extra AS extra,
  item_name, initial_bid, reserve, expires, seller, category
FROM bid JOIN auction ON auction = id WHERE category = 10
