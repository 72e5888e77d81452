-- The same as one batch. The auctions with most bids in the last ten seconds, every two seconds.
WITH bids AS (SELECT auction, arrow_cast(date_time, 'Int64') / 2000000 AS pane FROM bid),
hops AS (SELECT auction, pane - back AS hop FROM bids CROSS JOIN (VALUES (0), (1), (2), (3), (4)) AS backs (back)),
counts AS (SELECT hop, auction, count(*) AS num FROM hops GROUP BY hop, auction),
most AS (SELECT hop, max(num) AS most FROM counts GROUP BY hop)
SELECT auction, num FROM counts JOIN most ON counts.hop = most.hop AND num = most
