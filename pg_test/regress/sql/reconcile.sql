-- reconcile: a deliberately damaged copy is reported line by line, a busy and healthy one not at all (DESIGN O16, R1, R2, R3).
\set SHOW_CONTEXT never
\pset null '-'
SET client_min_messages = warning;
CREATE SCHEMA rc;
SET search_path = rc, public;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE TABLE workflows (id text, user_id text, status text NOT NULL DEFAULT 'running', part integer NOT NULL DEFAULT 1) PARTITION BY LIST (part);
CREATE TABLE workflows_1 PARTITION OF workflows FOR VALUES IN (1);
CREATE TABLE workflows_2 PARTITION OF workflows FOR VALUES IN (2);
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users VALUES ('ann'), ('bob'), ('cid'), ('dan'), ('eve'), ('fay'), ('guy');
INSERT INTO token_usage VALUES ('old', 'ann', 1000), ('old', 'gone', 30);
INSERT INTO workflows VALUES ('old', 'ann', 'completed');
CREATE EXTENSION token_balance SCHEMA rc;
-- the lines come as they are found; here in an order
CREATE VIEW lines AS SELECT * FROM token_balance.reconcile() ORDER BY problem, user_id, workflow_id, expected, found;
SELECT * FROM lines;

-- usage below zero of a run that is over charges nothing, and is told; of one that goes on it may be made up for
BEGIN;
INSERT INTO token_usage VALUES ('below', 'ann', -50), ('open', 'ann', -50);
INSERT INTO workflows VALUES ('below', 'ann', 'completed'), ('open', 'ann', 'running');
SELECT * FROM lines;
ROLLBACK;

-- a healthy copy with all that can happen in one: settled, late and settled, refunded, credited, changed by hand,
-- overdrawn, an account that is gone, one that came back, one that was renamed, a run that goes on, usage of nobody
INSERT INTO token_usage SELECT 'w' || i, u, 10 FROM generate_series(1, 9) i, unnest(ARRAY['ann', 'bob', 'cid', 'dan', 'eve', 'fay', 'guy']) u;
INSERT INTO workflows SELECT 'w' || i, 'ann', 'completed', i % 2 + 1 FROM generate_series(1, 8) i;
INSERT INTO workflows VALUES ('w9', 'ann', 'running');
INSERT INTO token_usage VALUES ('w1', 'ann', 5), (NULL, 'ann', 1), ('w1', NULL, 1);
SELECT settle_workflow('w1') ->> 'tokens_used' AS tokens_used;
SELECT token_balance.refund_workflow('w2', 7) ->> 'amount' AS refunded, token_balance.credit('bob', 5, 'c') ->> 'amount' AS credited;
UPDATE users SET token_balance = token_balance - 2000000 WHERE id IN ('bob', 'cid');
DELETE FROM users WHERE id = 'guy';
DELETE FROM token_usage WHERE user_id = 'guy' AND workflow_id = 'w9';
UPDATE users SET id = 'faye' WHERE id = 'fay';
UPDATE token_usage SET user_id = 'faye' WHERE user_id = 'fay';
INSERT INTO users VALUES ('new', 5), ('hal', 6);
SELECT token_balance.credit('hal', 1) ->> 'amount' AS credited;
DELETE FROM users WHERE id = 'hal';
INSERT INTO users VALUES ('hal');
SELECT * FROM lines;

-- the damage, one thing at a time; each line stays until it is repaired
ALTER TABLE users DISABLE TRIGGER USER;
SELECT * FROM lines;
-- balances set while the trigger was off
UPDATE users SET token_balance = token_balance + 500 WHERE id = 'ann';
UPDATE users SET token_balance = token_balance - 40 WHERE id = 'bob';
ALTER TABLE users ENABLE TRIGGER USER;
SELECT * FROM lines;
-- the next entry of one of them: the gap is in the chain now
UPDATE users SET token_balance = token_balance + 1 WHERE id = 'ann';
SELECT * FROM lines;
-- ledger rows added by a superuser, guards off; one taken away
ALTER TABLE token_balance.ledger DISABLE TRIGGER ALL;
INSERT INTO token_balance.ledger (user_id, entry_id, kind, amount, previous_balance, new_balance, workflow_id, actor) OVERRIDING SYSTEM VALUE VALUES
  ('cid', 100, 'credit', 77, 0, 77, NULL, 'me'), ('dan', 100, 'settlement', -3, 999920, 999917, 'w3', 'me'), ('nobody', 100, 'credit', 1, 0, 1, NULL, 'me');
DELETE FROM token_balance.ledger WHERE user_id = 'eve' AND workflow_id = 'w4';
SELECT problem, user_id, workflow_id, expected, found FROM lines WHERE user_id IS NOT NULL OR workflow_id IS NOT NULL;
-- the guards of the ledger are off
SELECT problem, hint FROM lines WHERE user_id IS NULL AND workflow_id IS NULL AND problem <> 'usage shrank';
SELECT format('ALTER TABLE token_balance.ledger ENABLE ALWAYS TRIGGER %I', tgname) FROM pg_trigger WHERE tgrelid = 'token_balance.ledger'::regclass AND NOT tgisinternal ORDER BY tgname \gexec
SELECT problem, hint FROM lines WHERE user_id IS NULL AND workflow_id IS NULL AND problem <> 'usage shrank';
-- usage deleted, and lowered
DELETE FROM token_usage WHERE workflow_id = 'w5' AND user_id = 'ann';
UPDATE token_usage SET total_tokens = 4 WHERE workflow_id = 'w5' AND user_id = 'bob';
SELECT * FROM lines WHERE problem = 'usage shrank';
-- settlements changed by hand: charged, refunded, accounted for, taken away
UPDATE token_balance.settlement SET charged_tokens = 8 WHERE workflow_id = 'w6' AND user_id = 'ann';
UPDATE token_balance.settlement SET refunded_tokens = 3 WHERE workflow_id = 'w7' AND user_id = 'ann';
UPDATE token_balance.settlement SET usage_tokens = 0, charged_tokens = 0 WHERE workflow_id = 'w8' AND user_id = 'bob';
DELETE FROM token_balance.settlement WHERE workflow_id = 'w8' AND user_id = 'ann';
SELECT * FROM lines WHERE workflow_id IN ('w6', 'w7', 'w8');
-- usage of an account that does not exist, also of a run that goes on
INSERT INTO token_usage VALUES ('w1', 'zoe', 20), ('w9', 'zoe', 5);
SELECT * FROM lines WHERE user_id = 'zoe';
-- a completed run with unsettled usage: never settled, late
ALTER TABLE workflows DISABLE TRIGGER USER;
INSERT INTO workflows VALUES ('x1', 'dan', 'done', 2);
ALTER TABLE workflows ENABLE TRIGGER USER;
INSERT INTO token_usage VALUES ('x1', 'dan', 60), ('w2', 'dan', 6);
SELECT * FROM lines WHERE problem = 'unsettled usage' AND user_id = 'dan';
-- a partition's trigger disabled, another trigger dropped
ALTER TABLE workflows_2 DISABLE TRIGGER USER;
SELECT problem, hint FROM lines WHERE user_id IS NULL AND workflow_id IS NULL AND problem <> 'usage shrank';
ALTER TABLE workflows_2 ENABLE TRIGGER USER;
SELECT problem, hint FROM lines WHERE user_id IS NULL AND workflow_id IS NULL AND problem <> 'usage shrank';
DO $$
DECLARE t record;
BEGIN
  FOR t IN SELECT tgname, tgrelid::regclass AS rel FROM pg_trigger WHERE tgrelid IN ('rc.users'::regclass, 'rc.workflows'::regclass) AND NOT tgisinternal LOOP
    EXECUTE format('DROP TRIGGER %I ON %s', t.tgname, t.rel);
  END LOOP;
END $$;
SELECT problem, hint FROM lines WHERE user_id IS NULL AND workflow_id IS NULL AND problem <> 'usage shrank';
-- all of it at once: what a DBA sees
SELECT problem, user_id, workflow_id, expected, found FROM lines;
-- it only reads
BEGIN READ ONLY;
SELECT count(*) > 0 AS works FROM token_balance.reconcile();
COMMIT;
-- one row is fetched and the rest left: no error, no cursor left behind
SELECT problem IS NOT NULL AS one FROM token_balance.reconcile() LIMIT 1;
SELECT count(*) FROM pg_cursors;

-- repair by the hints
SELECT token_balance.attach('users', 'token_usage', 'workflows');
INSERT INTO users VALUES ('zoe');
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
SELECT problem, user_id, workflow_id, expected, found FROM lines;

-- the binding points at a dropped table; the ledger is still looked at
ALTER TABLE workflows RENAME TO workflows_old;
SELECT problem, hint FROM lines WHERE problem LIKE 'binding%';
ALTER TABLE workflows_old RENAME TO workflows;
DROP TABLE workflows;
SELECT problem, hint FROM lines WHERE user_id IS NULL AND workflow_id IS NULL AND problem <> 'usage shrank';
SELECT count(*) FILTER (WHERE problem = 'chain broken') > 0 AS ledger_is_read FROM token_balance.reconcile();
CREATE TABLE workflows (id text, user_id text, status text);
DROP TABLE users CASCADE;
SELECT problem, hint FROM lines WHERE user_id IS NULL AND workflow_id IS NULL AND problem <> 'usage shrank';
DROP EXTENSION token_balance CASCADE;

-- nothing attached: that is no problem of the books, and said
CREATE EXTENSION token_balance SCHEMA rc;
SELECT * FROM token_balance.reconcile();
DROP EXTENSION token_balance;

-- more entries than one batch of any check, healthy, then one wrong in each
CREATE TABLE users (id integer PRIMARY KEY);
DROP TABLE token_usage, workflows;
CREATE TABLE token_usage (workflow_id integer, user_id integer, total_tokens integer);
CREATE TABLE workflows (id integer PRIMARY KEY, user_id integer, status text);
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users SELECT generate_series(1, 2500);
CREATE EXTENSION token_balance SCHEMA rc;
CREATE VIEW lines AS SELECT * FROM token_balance.reconcile() ORDER BY problem, user_id, workflow_id, expected, found;
INSERT INTO token_usage SELECT w, u, 1 FROM generate_series(1, 3) w, generate_series(1, 2500) u;
INSERT INTO workflows SELECT w, 1, 'completed' FROM generate_series(1, 3) w;
INSERT INTO token_usage SELECT w, w, 1 FROM generate_series(4, 2500) w;
INSERT INTO workflows SELECT w, w, 'completed' FROM generate_series(4, 2500) w;
SELECT count(*) AS entries FROM token_balance.ledger;
SELECT * FROM lines;
ALTER TABLE users DISABLE TRIGGER USER;
UPDATE users SET token_balance = 0 WHERE id IN (1, 2345);
ALTER TABLE users ENABLE TRIGGER USER;
UPDATE users SET token_balance = 1 WHERE id = 1;
DELETE FROM token_usage WHERE workflow_id = 2200;
INSERT INTO token_usage VALUES (3, 7, 1), (10, 2500, 1);
SELECT problem, user_id, workflow_id, expected, found FROM lines;
-- unsettled usage of a transaction of one's own is seen, and gone with it
BEGIN;
INSERT INTO token_usage VALUES (4, 4, 100);
SELECT count(*) AS problems FROM token_balance.reconcile();
ROLLBACK;
SELECT count(*) AS problems FROM token_balance.reconcile();

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA rc CASCADE;
