-- (DESIGN K11) A DBA alters the extension's own tables: what is read and written without SQL is left to SQL, and no value is taken for
-- one of another type.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA ot;
SET search_path = ot, public;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE INDEX ON token_usage (workflow_id);
CREATE TABLE workflows (id text PRIMARY KEY, status text);
INSERT INTO users VALUES ('ann');
INSERT INTO workflows VALUES ('w1', 'running'), ('w2', 'running');
CREATE EXTENSION token_balance SCHEMA ot;
INSERT INTO token_usage VALUES ('w1', 'ann', 100);
CREATE FUNCTION pg_temp.more(tokens integer) RETURNS TABLE (tokens_used text, balance integer, ledger bigint) LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE 'INSERT INTO token_usage VALUES (''w1'', ''ann'', $1)' USING tokens;
  EXECUTE 'SELECT settle_workflow(''w1'') ->> ''tokens_used''' INTO tokens_used;
  EXECUTE 'SELECT token_balance FROM users' INTO balance;
  EXECUTE 'SELECT sum(amount) FROM token_balance.ledger' INTO ledger;
  RETURN NEXT;
END $$;
SELECT * FROM pg_temp.more(1);
ALTER TABLE token_balance.settlement ALTER usage_tokens TYPE numeric;
SELECT * FROM pg_temp.more(10);
ALTER TABLE token_balance.settlement ALTER usage_tokens TYPE bigint, ALTER charged_tokens TYPE numeric;
SELECT * FROM pg_temp.more(10);
ALTER TABLE token_balance.settlement ALTER charged_tokens TYPE bigint, ALTER user_id TYPE varchar(40), ALTER workflow_id TYPE varchar(40);
SELECT * FROM pg_temp.more(10);
ALTER TABLE token_balance.settlement ALTER user_id TYPE text, ALTER workflow_id TYPE text;
ALTER TABLE token_balance.ledger ALTER amount TYPE numeric, ALTER entry_id TYPE integer, ALTER note TYPE varchar(100);
SELECT * FROM pg_temp.more(10);
ALTER TABLE token_balance.ledger ALTER amount TYPE bigint, ALTER entry_id TYPE bigint, ALTER note TYPE text;
-- a column less and one more, in the place of the former
ALTER TABLE token_balance.settlement RENAME usage_tokens TO was_usage_tokens;
ALTER TABLE token_balance.settlement ADD usage_tokens bigint;
UPDATE token_balance.settlement SET usage_tokens = was_usage_tokens;
ALTER TABLE token_balance.settlement DROP was_usage_tokens;
SELECT * FROM pg_temp.more(10);
UPDATE workflows SET status = 'completed';
SELECT count(*) FROM token_balance.reconcile();
SET client_min_messages = error;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA ot CASCADE;
