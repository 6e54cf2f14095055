-- A charge that cannot be made: the function raises it; a completion is not refused for it (DESIGN H1, H2, H3, H4, P14, P16).
\set SHOW_CONTEXT never
CREATE SCHEMA bc;
SET search_path = bc, public;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens bigint);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
INSERT INTO users VALUES ('ann'), ('bob');
SET client_min_messages = warning;
CREATE EXTENSION token_balance SCHEMA bc;
\i common/try.sql
CREATE FUNCTION state(OUT balances text, OUT accounted numeric, OUT charged numeric, OUT entries bigint) LANGUAGE plpgsql AS $$
BEGIN
  SELECT string_agg(id || ' ' || token_balance, ', ' ORDER BY id) INTO balances FROM bc.users;
  SELECT coalesce(sum(usage_tokens), 0), coalesce(sum(charged_tokens), 0) INTO accounted, charged FROM token_balance.settlement;
  SELECT count(*) INTO entries FROM token_balance.ledger;
END $$;

-- int4 overflow in the function: an error, and nothing is charged
INSERT INTO workflows VALUES ('big', 'ann', 'running');
INSERT INTO token_usage VALUES ('big', 'ann', 3000000000);
CALL pg_temp.try($$SELECT settle_workflow('big')$$);
SELECT settle_workflow('big');
SELECT * FROM state();
-- in the trigger: a warning, the row completes, the usage stays unsettled
UPDATE workflows SET status = 'completed' WHERE id = 'big';
SELECT status FROM workflows WHERE id = 'big';
SELECT * FROM state();
-- as an insert, deferred, and in a transaction that goes on
INSERT INTO token_usage VALUES ('big2', 'ann', 3000000000), ('small', 'ann', 10);
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
INSERT INTO workflows VALUES ('big2', 'ann', 'completed');
COMMIT;
BEGIN;
UPDATE workflows SET status = 'completed' WHERE id = 'big';
UPDATE workflows SET status = 'running' WHERE id = 'big';
UPDATE workflows SET status = 'completed' WHERE id = 'big';
INSERT INTO workflows VALUES ('small', 'ann', 'completed');
COMMIT;
SELECT * FROM state();
-- many in one statement: a good one among bad ones is charged
UPDATE workflows SET status = 'running';
INSERT INTO token_usage VALUES ('small', 'ann', 5);
UPDATE workflows SET status = 'completed';
SELECT * FROM state();
-- settled later, when the column can hold it
ALTER TABLE users ALTER token_balance TYPE bigint;
SELECT settle_workflow('big') ->> 'tokens_used' AS tokens_used;
UPDATE workflows SET status = 'running' WHERE id = 'big2';
UPDATE workflows SET status = 'completed' WHERE id = 'big2';
SELECT * FROM state();

-- int8 overflow: of the sum, and of the balance
INSERT INTO token_usage VALUES ('huge', 'bob', 9223372036854775807), ('huge', 'bob', 9223372036854775807);
CALL pg_temp.try($$SELECT settle_workflow('huge')$$);
INSERT INTO workflows VALUES ('huge', 'bob', 'completed');
UPDATE users SET token_balance = -10 WHERE id = 'bob';
INSERT INTO token_usage VALUES ('huge2', 'bob', 9223372036854775807);
CALL pg_temp.try($$SELECT settle_workflow('huge2')$$);
INSERT INTO workflows VALUES ('huge2', 'bob', 'completed');
SELECT * FROM state();

-- an account that does not exist
INSERT INTO token_usage VALUES ('nobody', 'zoe', 10);
CALL pg_temp.try($$SELECT settle_workflow('nobody')$$);
INSERT INTO workflows VALUES ('nobody', 'zoe', 'completed');
SELECT status FROM workflows WHERE id = 'nobody';
-- the other account of the same run: what it owes is taken, or waits with the rest, but is never taken twice
INSERT INTO token_usage VALUES ('mixed', 'ann', 7), ('mixed', 'zoe', 10);
CALL pg_temp.try($$SELECT settle_workflow('mixed')$$);
INSERT INTO workflows VALUES ('mixed', 'ann', 'completed');
SELECT user_id, charged_tokens FROM token_balance.settlement WHERE workflow_id IN ('nobody', 'mixed') AND charged_tokens <> 0 ORDER BY 1;
INSERT INTO users VALUES ('zoe', 100);
SELECT settle_workflow('nobody') ->> 'tokens_used' AS tokens_used;
SELECT settle_workflow('mixed') ->> 'success' AS success;
SELECT workflow_id, user_id, charged_tokens FROM token_balance.settlement WHERE workflow_id IN ('nobody', 'mixed') ORDER BY 1, 2;
SELECT * FROM state();

-- what was settled of a run before is as it was found, with its times, however it was read: nothing is charged now
BEGIN;
SET LOCAL client_min_messages = error;
INSERT INTO users (id) VALUES ('eve');
INSERT INTO token_usage VALUES ('left1', 'eve', 10), ('left2', 'eve', 20), ('left2', 'ann', 1);
INSERT INTO workflows VALUES ('left1', 'eve', 'completed'), ('left2', 'eve', 'completed');
UPDATE token_balance.settlement SET charged_tokens = 0, first_settled_at = NULL, last_settled_at = NULL WHERE workflow_id = 'left1'; -- as exempt
DELETE FROM users WHERE id = 'eve';
INSERT INTO token_usage VALUES ('left1', 'eve', 3), ('left2', 'eve', 5);
CREATE TEMPORARY TABLE found AS TABLE token_balance.settlement;
SELECT token_balance.settle_pending(max_workflows => 100) ->> 'tokens_used' AS tokens_used;
UPDATE workflows SET status = 'running' WHERE id = 'left1';
UPDATE workflows SET status = 'completed' WHERE id = 'left1';
SET LOCAL token_balance.direct = off;
SELECT token_balance.settle_pending(max_workflows => 100) ->> 'tokens_used' AS tokens_used;
UPDATE workflows SET status = 'running' WHERE id = 'left1';
UPDATE workflows SET status = 'completed' WHERE id = 'left1';
SELECT * FROM (TABLE found EXCEPT ALL TABLE token_balance.settlement) AS other;
ROLLBACK;

-- a constraint of the application's own on the balance: the run is not refused for it, and waits (DESIGN H8)
ALTER TABLE users ADD CONSTRAINT positive CHECK (id <> 'zoe' OR token_balance >= 0);
INSERT INTO token_usage VALUES ('check', 'zoe', 1000);
CALL pg_temp.try($$SELECT settle_workflow('check')$$);
INSERT INTO workflows VALUES ('check', 'zoe', 'completed');
SELECT count(*) FROM workflows WHERE id = 'check';
SELECT * FROM state();

-- a real fault raises in the trigger as well: the application's own trigger on users fails
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'disk on fire' USING ERRCODE = '58030'; END$$;
CREATE TRIGGER refuse BEFORE UPDATE ON users FOR EACH ROW WHEN (NEW.id = 'bob') EXECUTE FUNCTION refuse();
INSERT INTO token_usage VALUES ('fault', 'bob', 1);
INSERT INTO workflows VALUES ('fault', 'bob', 'completed');
SELECT count(*) FROM workflows WHERE id = 'fault';
CALL pg_temp.try($$SELECT settle_workflow('fault')$$);
SELECT * FROM state();
-- a trigger of the application that swallows the update: the charge did not reach its row
CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;
CALL pg_temp.try($$SELECT settle_workflow('fault')$$);
SELECT * FROM state();
DROP TRIGGER refuse ON users;
-- after all these the chain is whole
SELECT count(*) AS broken FROM (SELECT *, lag(new_balance) OVER (PARTITION BY user_id ORDER BY entry_id) AS before FROM token_balance.ledger) e
 WHERE amount <> new_balance - previous_balance OR before <> previous_balance;
SELECT u.id FROM users u WHERE token_balance <> (SELECT new_balance FROM token_balance.ledger l WHERE l.user_id = u.id ORDER BY entry_id DESC LIMIT 1);

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA bc CASCADE;
