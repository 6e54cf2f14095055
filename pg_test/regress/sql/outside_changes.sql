-- A program that saves whole rows undid a charge: what statements that are not the extension's may do to a balance is an option (DESIGN M1, M2, M3, M4, M5, M6).
\set SHOW_CONTEXT never
CREATE SCHEMA oc;
SET search_path = oc, public;
\i common/tables.sql
ALTER TABLE users ADD email text;
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users VALUES ('ann', 'ann@old'), ('bob', 'bob@old');
SET client_min_messages = warning;
CREATE EXTENSION token_balance SCHEMA oc;
\i common/try.sql
CREATE VIEW entries AS SELECT user_id, kind, amount, new_balance, note FROM token_balance.ledger ORDER BY user_id, entry_id;
SELECT outside_changes FROM token_balance.binding;

-- record, as ever: the save of a row that was read before the charge gives the tokens back, and reconcile() says so
INSERT INTO workflows VALUES ('w1', 'ann'), ('w2', 'ann'), ('w3', 'ann'), ('w4', 'ann');
INSERT INTO token_usage VALUES ('w1', 'ann', 100), ('w2', 'ann', 20), ('w3', 'ann', 3), ('w4', 'ann', 4000);
SELECT * FROM users WHERE id = 'ann';
UPDATE workflows SET status = 'completed' WHERE id = 'w1';
UPDATE users SET id = 'ann', email = 'ann@new', token_balance = 1000000 WHERE id = 'ann';
TABLE entries;
SELECT problem, user_id, expected, found, hint FROM token_balance.reconcile();
-- a credit in between is undone with it; an adjustment to another value is none, nor one without a charge in between
SELECT token_balance.credit('ann', 7) ->> 'new_balance' AS new_balance;
UPDATE workflows SET status = 'completed' WHERE id = 'w2';
UPDATE users SET token_balance = 1000000 WHERE id = 'ann';
UPDATE workflows SET status = 'completed' WHERE id = 'w3';
UPDATE users SET token_balance = 1000001 WHERE id = 'ann';
UPDATE users SET token_balance = 999000 WHERE id = 'ann';
UPDATE users SET token_balance = 1000001 WHERE id = 'ann';
SELECT problem, user_id, expected, found FROM token_balance.reconcile();
-- what was taken back is no problem any more; tokens that people give on purpose never are
SELECT token_balance.adjust('ann', -100, 'undo of a stale save') - 'success' AS answer;
SELECT token_balance.adjust('ann', -13);
UPDATE workflows SET status = 'completed' WHERE id = 'w4';
SELECT token_balance.adjust('ann', 4000);
SELECT problem, user_id, expected, found FROM token_balance.reconcile();
-- a daily quota that is filled up again is none
ALTER TABLE token_balance.ledger DISABLE TRIGGER append_only_rows;
INSERT INTO workflows VALUES ('w5', 'bob');
INSERT INTO token_usage VALUES ('w5', 'bob', 10);
UPDATE workflows SET status = 'completed' WHERE id = 'w5';
UPDATE token_balance.ledger SET created_at = created_at - interval '61 minutes' WHERE user_id = 'bob';
UPDATE users SET token_balance = 1000000 WHERE id = 'bob';
ALTER TABLE token_balance.ledger ENABLE ALWAYS TRIGGER append_only_rows;
SELECT problem, user_id, expected, found FROM token_balance.reconcile();
-- errors of adjust
CALL pg_temp.try($$SELECT token_balance.adjust('ann', 0)$$);
CALL pg_temp.try($$SELECT token_balance.adjust('ann', -0.0)$$);
CALL pg_temp.try($$SELECT token_balance.adjust('ann', 1.5)$$);
CALL pg_temp.try($$SELECT token_balance.adjust('ann', 'NaN')$$);
CALL pg_temp.try($$SELECT token_balance.adjust(NULL, 1)$$);
CALL pg_temp.try($$SELECT token_balance.adjust('ann', NULL)$$);
CALL pg_temp.try($$SELECT token_balance.adjust('zoe', 1)$$);
CALL pg_temp.try($$SELECT token_balance.adjust('ann', 9223372036854775808)$$);
CALL pg_temp.try($$SELECT token_balance.adjust('ann', -9223372036854775808)$$);
CALL pg_temp.try($$SELECT token_balance.adjust('ann', 3000000000)$$);

-- keep: the rest of the statement is made
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows', outside_changes => 'ignore')$$);
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows', outside_changes => NULL)$$);
SELECT token_balance.attach('users', 'token_usage', 'workflows', outside_changes => 'keep');
SELECT outside_changes FROM token_balance.binding;
SELECT name, ok, detail FROM token_balance.verify() WHERE name LIKE 'trigger%';
SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'users'::regclass AND NOT tgisinternal ORDER BY tgname;
INSERT INTO workflows VALUES ('k1', 'ann'), ('k2', 'ann'), ('k3', 'bob'), ('k4', 'bob');
INSERT INTO token_usage VALUES ('k1', 'ann', 100), ('k1', 'bob', 5), ('k2', 'ann', 20), ('k3', 'bob', 1), ('k4', 'bob', 2);
TABLE users ORDER BY id;
UPDATE workflows SET status = 'completed' WHERE id = 'k1';
UPDATE users SET id = 'ann', email = 'ann@kept', token_balance = 996888 WHERE id = 'ann' RETURNING email, token_balance;
UPDATE users SET email = 'both', token_balance = token_balance + 1;
INSERT INTO users VALUES ('ann', 'upserted', 5) ON CONFLICT (id) DO UPDATE SET email = excluded.email, token_balance = excluded.token_balance;
PREPARE save AS UPDATE users SET email = $2, token_balance = $3 WHERE id = $1;
EXECUTE save('bob', 'prepared', 1);
-- PostgreSQL 14 has no MERGE
DO $$ BEGIN
  IF current_setting('server_version_num')::integer < 150000 THEN
    UPDATE users SET email = 'merged', token_balance = 1 WHERE id = 'bob';
  ELSE
    EXECUTE $sql$MERGE INTO users AS u USING (VALUES ('bob', 1)) AS v (id, tokens) ON u.id = v.id
      WHEN MATCHED THEN UPDATE SET email = 'merged', token_balance = v.tokens$sql$;
  END IF;
END $$;
TABLE users ORDER BY id;
-- settling, credits, refunds and adjust go on
SELECT settle_workflow('k2') ->> 'new_balance' AS settled;
SELECT token_balance.credit('ann', 20) ->> 'new_balance' AS credited;
SELECT token_balance.refund_workflow('k1', 105) ->> 'amount' AS refunded;
SELECT token_balance.adjust('bob', -999999, 'by hand') ->> 'new_balance' AS adjusted;
-- a new account brings its balance, however it comes; another id takes its balance along
INSERT INTO users VALUES ('cid', NULL, 5);
COPY users FROM stdin;
dan	\N	6
\.
UPDATE users SET id = 'eve', token_balance = 0 WHERE id = 'dan';
TABLE users ORDER BY id;
SELECT * FROM entries WHERE user_id IN ('cid', 'dan', 'eve');
-- replicated changes have been recorded where they were made
SET session_replication_role = replica;
UPDATE users SET token_balance = 7 WHERE id = 'cid';
RESET session_replication_role;
SELECT token_balance FROM users WHERE id = 'cid';
SELECT problem FROM token_balance.reconcile();
-- the application's own triggers: one before, which is kept as well, on the UPDATE of others and on a charge, where its part is recorded
CREATE FUNCTION a_gift() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.token_balance := NEW.token_balance + 1000; RETURN NEW; END $$;
CREATE TRIGGER a_gift BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION a_gift();
-- it sets a column that the UPDATE does not name: the list of columns is wrong now
SELECT name, ok, detail FROM token_balance.verify() WHERE NOT ok;
UPDATE users SET email = 'gift' WHERE id = 'bob';
SELECT token_balance.attach('users', 'token_usage', 'workflows', outside_changes => 'keep');
SELECT name, ok, detail FROM token_balance.verify() WHERE name LIKE '%keep%';
UPDATE users SET email = 'gift' WHERE id = 'bob';
UPDATE users SET email = 'gift', token_balance = 5 WHERE id = 'bob';
UPDATE workflows SET status = 'completed' WHERE id = 'k3';
SELECT * FROM entries WHERE user_id = 'bob';
-- one after ours by name: the ledger has what it does
ALTER TRIGGER a_gift ON users RENAME TO zzz_gift;
UPDATE users SET token_balance = 5 WHERE id = 'bob';
SELECT kind, amount, new_balance FROM entries WHERE user_id = 'bob' OFFSET 6;
DROP TRIGGER zzz_gift ON users;
-- off and away
ALTER TABLE users DISABLE TRIGGER zz_token_balance_keep;
SELECT name, ok, detail, hint FROM token_balance.verify() WHERE NOT ok;
ALTER TABLE users ENABLE TRIGGER zz_token_balance_keep;
DROP TRIGGER zz_token_balance_keep ON users;
SELECT name, ok, detail, hint FROM token_balance.verify() WHERE NOT ok;
SELECT token_balance.attach('users', 'token_usage', 'workflows', outside_changes => 'keep');
SELECT name FROM token_balance.verify() WHERE NOT ok;
-- a trigger that names a column holds its type: not with the others
CALL pg_temp.try('ALTER TABLE users ALTER token_balance TYPE bigint');
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT count(*) FROM pg_trigger WHERE tgname = 'zz_token_balance_keep';
ALTER TABLE users ALTER token_balance TYPE bigint;

-- refuse
SELECT token_balance.attach('users', 'token_usage', 'workflows', outside_changes => 'refuse');
SELECT name, ok FROM token_balance.verify() WHERE name LIKE 'trigger%';
CALL pg_temp.try($$UPDATE users SET email = 'refused', token_balance = 5 WHERE id = 'bob'$$);
CALL pg_temp.try($$UPDATE users SET id = 'rob', token_balance = 5 WHERE id = 'bob'$$);
CALL pg_temp.try($$INSERT INTO users VALUES ('ann', 'x', 5) ON CONFLICT (id) DO UPDATE SET token_balance = excluded.token_balance$$);
UPDATE users SET email = 'same', token_balance = token_balance WHERE id = 'bob';
UPDATE users SET id = 'rob' WHERE id = 'bob';
UPDATE users SET id = 'bob' WHERE id = 'rob';
UPDATE workflows SET status = 'completed' WHERE id = 'k4';
SELECT token_balance.adjust('bob', 3, 'a gift') ->> 'new_balance' AS adjusted;
INSERT INTO users VALUES ('fay', NULL, 5);
TABLE users ORDER BY id;
-- a trigger of the application that changes another account's balance as one is charged
CREATE FUNCTION to_cid() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE users SET token_balance = token_balance + 1 WHERE id = 'cid'; RETURN NULL; END $$;
CREATE TRIGGER to_cid AFTER UPDATE ON users FOR EACH ROW WHEN (OLD.id <> 'cid') EXECUTE FUNCTION to_cid();
CALL pg_temp.try($$SELECT token_balance.adjust('bob', 1)$$);
DROP TRIGGER to_cid ON users;

-- detach takes the trigger along
SELECT token_balance.attach('users', 'token_usage', 'workflows', outside_changes => 'keep');
SELECT token_balance.detach();
SELECT count(*) FROM pg_trigger WHERE tgname = 'zz_token_balance_keep';
CALL pg_temp.try($$SELECT token_balance.adjust('bob', 1)$$);

-- partitions: a row that moves fires no AFTER UPDATE trigger
CREATE TABLE people (id integer PRIMARY KEY, token_balance numeric(12)) PARTITION BY RANGE (id);
CREATE TABLE people_low PARTITION OF people FOR VALUES FROM (0) TO (100);
CREATE TABLE people_high PARTITION OF people FOR VALUES FROM (100) TO (200);
CREATE TABLE calls (workflow_id text, user_id integer, total_tokens integer);
INSERT INTO people VALUES (1, 1000), (101, 1000);
SELECT token_balance.attach('people', 'calls', outside_changes => 'refuse');
SELECT name, ok FROM token_balance.verify() WHERE name LIKE 'trigger%';
-- what moves to another partition does so under another id, which is refused (M4)
CALL pg_temp.try('UPDATE people SET id = 102, token_balance = 5 WHERE id = 1');
CALL pg_temp.try('UPDATE people SET id = 2, token_balance = 5 WHERE id = 1');
CALL pg_temp.try('UPDATE people_low SET token_balance = 5');
INSERT INTO calls VALUES ('p', 1, 10), ('p', 101, 20);
SELECT settle_workflow('p') ->> 'tokens_used' AS tokens_used;
SELECT token_balance.attach('people', 'calls', outside_changes => 'keep');
UPDATE people SET id = 2, token_balance = 5 WHERE id = 1;
UPDATE people_high SET token_balance = 5;
TABLE people ORDER BY id;
SELECT user_id, kind, amount, new_balance FROM entries WHERE user_id IN ('1', '2', '101');
-- another partition gets the trigger with the others
CREATE TABLE people_higher PARTITION OF people FOR VALUES FROM (200) TO (300);
INSERT INTO people VALUES (201, 9);
UPDATE people SET token_balance = 10 WHERE id = 201;
SELECT token_balance FROM people WHERE id = 201;

-- not a trigger for other tables
CREATE TABLE other (id integer, token_balance integer);
INSERT INTO other VALUES (1, 1);
CREATE TRIGGER t BEFORE UPDATE ON other FOR EACH ROW EXECUTE FUNCTION token_balance.keep_balance();
UPDATE other SET id = 2;
CALL pg_temp.try('UPDATE other SET token_balance = 2');

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA oc CASCADE;
