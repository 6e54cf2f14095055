-- The notice tells what was bound. Everything that was used before now is exempt.
CREATE EXTENSION token_balance;

CREATE TABLE demo.opening AS SELECT id, token_balance::bigint AS balance FROM users;
CREATE TABLE demo.cutoff AS SELECT coalesce(max(id), 0) AS usage_id FROM token_usage;

CREATE FUNCTION demo.start(way text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO demo.step (way, charges, started_at)
    SELECT way, -count(*), clock_timestamp() FROM token_balance.ledger
$$;

CREATE FUNCTION demo.finish(way text) RETURNS void LANGUAGE sql AS $$
    UPDATE demo.step SET finished_at = clock_timestamp(), charges = charges + (SELECT count(*) FROM token_balance.ledger)
    WHERE step.way = finish.way
$$;

CREATE VIEW demo.new_usage AS
    SELECT * FROM token_usage WHERE id > (SELECT usage_id FROM demo.cutoff);
