-- Prepared plans survive DDL in the session that holds them (DESIGN K12, O2).
\set SHOW_CONTEXT never
CREATE SCHEMA dd;
SET search_path = dd, public;
SET client_min_messages = warning;
CREATE ROLE regress_tb_new;
CREATE TABLE users (id varchar(20) PRIMARY KEY);
CREATE TABLE token_usage (workflow_id varchar(20), user_id varchar(20), total_tokens integer);
CREATE TABLE workflows (id varchar(20) PRIMARY KEY, user_id varchar(20), status text);
INSERT INTO users VALUES ('ann');
CREATE EXTENSION token_balance SCHEMA dd;
-- one settlement by the function and one by the trigger
CREATE FUNCTION pg_temp.two(label text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE j jsonb; b text;
BEGIN
  EXECUTE format('INSERT INTO dd.token_usage (workflow_id, user_id, total_tokens) VALUES (%1$L, ''ann'', 1), (%2$L, ''ann'', 10)', label, label || 't');
  EXECUTE 'SELECT dd.settle_workflow($1)' INTO j USING label;
  EXECUTE format('INSERT INTO dd.workflows (id, user_id, status) VALUES (%L, ''ann'', ''completed'')', label || 't');
  EXECUTE 'SELECT token_balance FROM dd.users' INTO b;
  RETURN format('%s: %s, %s -> %s, then %s', label, j->>'status', j->>'previous_balance', j->>'new_balance', b);
END $$;
SELECT pg_temp.two('start');
SELECT pg_temp.two('warm');

ALTER TABLE users ALTER token_balance TYPE bigint;
SELECT pg_temp.two('bigint');
UPDATE users SET token_balance = 5000000000;
SELECT pg_temp.two('large');
ALTER TABLE users ALTER token_balance TYPE numeric;
SELECT pg_temp.two('numeric');
ALTER TABLE token_usage ALTER total_tokens TYPE bigint;
ALTER TABLE users ALTER id TYPE text;
ALTER TABLE token_usage ALTER user_id TYPE text, ALTER workflow_id TYPE text;
SELECT pg_temp.two('text keys');
CREATE INDEX token_usage_index ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
SELECT pg_temp.two('index');
DROP INDEX token_usage_index;
SELECT pg_temp.two('no index');
ALTER TABLE users ADD COLUMN first integer DEFAULT 1, ADD COLUMN second text;
SELECT pg_temp.two('columns');
ALTER TABLE users DROP COLUMN first;
SELECT pg_temp.two('a column less');
ANALYZE users, token_usage, workflows;
SELECT pg_temp.two('analyzed');
DISCARD PLANS;
SELECT pg_temp.two('no plans');

-- a new owner of the tables: charges run as him from now on
ALTER SCHEMA dd OWNER TO regress_tb_new;
ALTER TABLE users OWNER TO regress_tb_new;
ALTER TABLE token_usage OWNER TO regress_tb_new;
ALTER TABLE workflows OWNER TO regress_tb_new;
CREATE FUNCTION who() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE WARNING 'runs as %', current_user; RETURN NEW; END$$;
CREATE TRIGGER who BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION who();
SELECT pg_temp.two('new owner');
DROP TRIGGER who ON users;

-- a table renamed, a table in another schema: the binding is by OID
ALTER TABLE token_usage RENAME TO usage_log;
ALTER TABLE workflows RENAME TO runs;
INSERT INTO usage_log VALUES ('renamed', 'ann', 7), ('renamed2', 'ann', 70);
SELECT settle_workflow('renamed') ->> 'tokens_used' AS tokens_used;
INSERT INTO runs VALUES ('renamed2', 'ann', 'completed');
SELECT settle_workflow('renamed2') ->> 'status' AS status;
ALTER TABLE usage_log RENAME TO token_usage;
ALTER TABLE runs RENAME TO workflows;

-- detach and attach again, with other names, without a reconnect
SELECT token_balance.detach();
SELECT settle_workflow('start');
ALTER TABLE users RENAME id TO user_name;
CREATE TABLE usage2 (run text, account text, a integer, b integer);
ALTER TABLE usage2 OWNER TO regress_tb_new;
SELECT token_balance.attach('users', 'usage2', user_key => 'user_name', usage_user => 'account', usage_workflow => 'run', usage_tokens => '{a,b}');
INSERT INTO usage2 VALUES ('r1', 'ann', 3, 4);
SELECT settle_workflow('r1') ->> 'tokens_used' AS tokens_used;
-- the detached table's completions do nothing
INSERT INTO workflows VALUES ('off', 'ann', 'completed');
SELECT token_balance.detach();
ALTER TABLE users RENAME user_name TO id;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT pg_temp.two('attached again');

-- a detach and an attach that are rolled back, as a whole and to a savepoint
BEGIN;
SELECT token_balance.detach();
SAVEPOINT one;
SELECT settle_workflow('start');
ROLLBACK TO one;
SELECT token_balance.attach('users', 'usage2', usage_user => 'account', usage_workflow => 'run', usage_tokens => '{a}', existing_usage => 'charge');
INSERT INTO usage2 VALUES ('r2', 'ann', 5, 6);
SELECT settle_workflow('r2') ->> 'tokens_used' AS tokens_used;
ROLLBACK TO one;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT pg_temp.two('in between');
ROLLBACK;
SELECT pg_temp.two('rolled back');
SELECT count(*) FROM token_balance.settlement WHERE workflow_id IN ('in between', 'r2');

-- a bound column renamed is bound still, and verify() says so; a bound table dropped is a clear error that says what to do
ALTER TABLE token_usage RENAME total_tokens TO tokens;
INSERT INTO token_usage (workflow_id, user_id, tokens) VALUES ('late', 'ann', 1);
SELECT settle_workflow('late') ->> 'tokens_used' AS tokens_used;
SELECT name, ok FROM token_balance.verify() WHERE NOT ok ORDER BY 1;
ALTER TABLE token_usage RENAME tokens TO total_tokens;
SELECT pg_temp.two('column is back');
DROP TABLE token_usage;
SELECT settle_workflow('late');
SELECT name, ok FROM token_balance.verify() WHERE NOT ok ORDER BY 1;
-- detach takes back what is left: no trigger stays on the other two, and balances can change
SELECT token_balance.detach();
SELECT count(*) AS triggers_left FROM pg_trigger WHERE NOT tgisinternal AND tgrelid IN ('users'::regclass, 'workflows'::regclass);
UPDATE users SET token_balance = token_balance + 1;

DROP EXTENSION token_balance;
DROP TABLE usage2;
ALTER TABLE users ALTER token_balance TYPE integer USING 1000;
-- the extension made again in the same session
CREATE TABLE token_usage (workflow_id varchar(20), user_id varchar(20), total_tokens integer);
ALTER TABLE token_usage OWNER TO regress_tb_new;
CREATE EXTENSION token_balance SCHEMA dd;
SELECT pg_temp.two('made again');

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA dd CASCADE;
DROP ROLE regress_tb_new;
