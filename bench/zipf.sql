-- Draws the accounts of the workflows by Zipf's law, for load.sql in the same session: the k-th of :accounts is drawn
-- as often as k ^ -:exponent says. With 0 all are drawn alike; with 2 the first has three fifths of the workflows.
-- (pgbench's random_zipfian knows no exponent up to 1, and cannot tell which run of an account is not completed yet.)
SET ROLE app;
CREATE TEMP TABLE draw AS
SELECT n AS workflow, 1 + width_bucket((n::bigint * 7919 % :workflows + 0.5)::float8 / :workflows, (
    SELECT array_agg(share ORDER BY k) FROM (
        SELECT k, sum(k ^ -:exponent) OVER (ORDER BY k) / sum(k ^ -:exponent) OVER () AS share
        FROM generate_series(1, :accounts - 1) AS k) AS up_to)) AS account
FROM generate_series(1, :workflows) AS n;
ALTER TABLE draw ADD PRIMARY KEY (workflow);
ANALYZE draw;
RESET ROLE;
