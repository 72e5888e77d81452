-- The same as one batch. The number of each bid's channel, from its address where it has no other.
SELECT auction, bidder, price, channel,
  CASE lower(channel) WHEN 'apple' THEN '0' WHEN 'google' THEN '1' WHEN 'facebook' THEN '2' WHEN 'baidu' THEN '3' ELSE regexp_replace(url, '.*channel_id=([^&]*).*', '\1') END AS channel_id
FROM bid WHERE url LIKE '%channel_id=%' OR lower(channel) IN ('apple', 'google', 'facebook', 'baidu')
