-- What is there to be charged.
\pset footer off
\pset border 1
SELECT (SELECT count(*) FROM users) AS users,
    (SELECT count(*) FROM demo.run) AS runs,
    to_char(count(*), 'FM999,999,999') AS calls,
    to_char(sum(prompt_tokens), 'FM999,999,999,999') AS "prompt tokens",
    to_char(sum(completion_tokens), 'FM999,999,999,999') AS "completion tokens",
    (SELECT to_char(count(*), 'FM999,999,999') FROM token_usage) || ' in all' AS "usage rows"
FROM demo.new_usage;

SELECT model, to_char(count(*), '9,999,999') AS calls,
    to_char(percentile_disc(0.5) WITHIN GROUP (ORDER BY total_tokens), '9,999,999') AS "median tokens",
    to_char(percentile_disc(0.99) WITHIN GROUP (ORDER BY total_tokens), '9,999,999') AS "99th of 100",
    to_char(max(total_tokens), '9,999,999') AS largest
FROM demo.new_usage GROUP BY model ORDER BY count(*) DESC;
