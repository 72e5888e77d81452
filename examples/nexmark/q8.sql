-- The same as one batch. Who opened an auction within the ten seconds in which they arrived.
WITH newcomers AS (SELECT DISTINCT id, name, date_bin(INTERVAL '10 seconds', date_time) AS starts FROM person),
sellers AS (SELECT DISTINCT seller, date_bin(INTERVAL '10 seconds', date_time) AS starts FROM auction)
SELECT id, name, newcomers.starts AS starts FROM newcomers JOIN sellers ON id = seller AND newcomers.starts = sellers.starts
