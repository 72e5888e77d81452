-- The same as one batch. The average of the prices that win, for each category.
SELECT category, avg(final) AS average FROM (
  SELECT id, category, max(price) AS final FROM auction JOIN bid ON auction = id
  WHERE bid.date_time BETWEEN auction.date_time AND expires GROUP BY id, category)
GROUP BY category
