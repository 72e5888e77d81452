-- The same as one batch. Who sells in category 10 and lives in one of three states. A stream's join needs a bound: 1,000 days here.
SELECT name, city, state, auction.id AS id
FROM auction JOIN person ON seller = person.id
WHERE category = 10 AND state IN ('or', 'id', 'ca')
