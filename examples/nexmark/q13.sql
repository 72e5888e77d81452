-- The same as one batch. Bids with what a table of a file says of them.
SELECT auction, bidder, price, date_time, value
FROM bid JOIN side_input ON auction % 500 = key
