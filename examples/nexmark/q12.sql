-- The same as one batch, without windows, which depend on when the bids are read: the windows of a bidder add up to it.
SELECT bidder, count(*) AS bid_count FROM bid GROUP BY bidder
