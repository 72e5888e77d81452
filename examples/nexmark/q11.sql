-- The same as one batch. How many bids each bidder makes in a session.
WITH steps AS (SELECT bidder, date_time, lag(date_time) OVER (PARTITION BY bidder ORDER BY date_time) AS before FROM bid),
marked AS (
  SELECT bidder, date_time,
    sum(CASE WHEN before IS NULL OR date_time - before >= INTERVAL '10 seconds' THEN 1 ELSE 0 END)
      OVER (PARTITION BY bidder ORDER BY date_time) AS session
  FROM steps)
SELECT bidder, count(*) AS bids, min(date_time) AS window_start, max(date_time) + INTERVAL '10 seconds' AS window_end
FROM marked GROUP BY bidder, session
