-- The same as one batch. Every bid, as it is: what the engine itself costs.
SELECT * FROM bid
