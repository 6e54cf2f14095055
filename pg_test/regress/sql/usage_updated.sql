-- late_usage => 'settle': usage of a completed run that is changed is charged at once, as one that is added (DESIGN G6, G7, G8, G9, G11, K1, T13).
\set SHOW_CONTEXT never
CREATE SCHEMA uu;
SET search_path = uu, public;
SET client_min_messages = warning;
\i common/try.sql
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (id integer PRIMARY KEY, workflow_id text, user_id text, total_tokens integer, model text, note text);
CREATE TABLE workflows (id text PRIMARY KEY, status text DEFAULT 'running');
CREATE INDEX ON token_usage (workflow_id);
INSERT INTO users VALUES ('ann'), ('bob'), ('cid');
INSERT INTO workflows VALUES ('done'), ('done 2'), ('open');
CREATE EXTENSION token_balance SCHEMA uu;
-- what each has paid, and what the last statement has added to the ledger
CREATE FUNCTION paid() RETURNS text LANGUAGE sql AS $$
  SELECT coalesce(string_agg(id || ' ' || 1000000 - token_balance, ', ' ORDER BY id), 'nobody') FROM uu.users WHERE token_balance <> 1000000 $$;
CREATE FUNCTION waits() RETURNS text LANGUAGE sql AS $$
  SELECT coalesce(string_agg(workflow_id || ' ' || user_id || ' ' || tokens, ', ' ORDER BY workflow_id, user_id), 'nothing')
  FROM token_balance.unsettled WHERE reason = 'completed and not settled' $$;
CREATE FUNCTION locked() RETURNS bigint LANGUAGE sql AS $$
  SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory' AND objsubid = 29794 $$;

-- without the option it waits for the sweep, and there is no trigger
INSERT INTO token_usage VALUES (1, 'done', 'ann', 100);
UPDATE workflows SET status = 'completed' WHERE id IN ('done', 'done 2');
UPDATE token_usage SET total_tokens = 250 WHERE id = 1;
SELECT paid(), waits();
SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'token_usage'::regclass AND tgname <> 'token_balance_truncated';
SELECT token_balance.settle_pending() ->> 'tokens_used' AS sweep;

-- with it: the totals are written again, as an upsert and as an UPDATE
SELECT token_balance.attach('users', 'token_usage', 'workflows', late_usage => 'settle');
SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'token_usage'::regclass AND tgname <> 'token_balance_truncated' ORDER BY 1;
SELECT name, ok FROM token_balance.verify() WHERE name LIKE 'trigger%usage%';
INSERT INTO token_usage VALUES (1, 'done', 'ann', 300) ON CONFLICT (id) DO UPDATE SET total_tokens = EXCLUDED.total_tokens;
SELECT paid(), waits();
UPDATE token_usage SET total_tokens = total_tokens + 7 WHERE id = 1;
SELECT paid(), waits();
-- one statement that adds a row and changes two, of two runs and two accounts: one entry for each account
INSERT INTO token_usage VALUES (2, 'done 2', 'bob', 10);
INSERT INTO token_usage VALUES (1, 'done', 'ann', 400), (2, 'done 2', 'bob', 30), (3, 'done', 'bob', 5)
  ON CONFLICT (id) DO UPDATE SET total_tokens = EXCLUDED.total_tokens;
SELECT paid(), waits();
SELECT user_id, workflow_id, amount FROM token_balance.ledger WHERE workflow_id IS NOT NULL ORDER BY user_id, entry_id;
-- MERGE, where there is one: 14 has none
\set ECHO none
SELECT current_setting('server_version_num')::integer >= 150000 AS has_merge \gset
\if :has_merge
MERGE INTO token_usage AS u USING (VALUES (3, 6), (4, 1)) AS n (id, tokens) ON u.id = n.id
  WHEN MATCHED THEN UPDATE SET total_tokens = n.tokens WHEN NOT MATCHED THEN INSERT VALUES (n.id, 'done', 'bob', n.tokens);
\else
INSERT INTO token_usage VALUES (3, 'done', 'bob', 6), (4, 'done', 'bob', 1) ON CONFLICT (id) DO UPDATE SET total_tokens = EXCLUDED.total_tokens;
\endif
\set ECHO all
SELECT paid(), waits();

-- what changes none of the bound columns takes no lock and no event; nor does an open run settle
BEGIN;
UPDATE token_usage SET model = 'm', note = repeat('x', 10000), total_tokens = total_tokens, id = id + 10;
SELECT locked();
UPDATE token_usage SET total_tokens = total_tokens + 1 WHERE id = 11;
SELECT locked();
ROLLBACK;
INSERT INTO token_usage VALUES (5, 'open', 'ann', 1);
UPDATE token_usage SET total_tokens = 50 WHERE id = 5;
SELECT paid(), waits();

-- the account, or the run, is filled in later; a row without either is nobody's
INSERT INTO token_usage VALUES (6, 'done', NULL, 1000), (7, NULL, 'ann', 2000), (8, NULL, NULL, 4000);
SELECT paid(), waits();
UPDATE token_usage SET user_id = 'cid' WHERE id = 6;
SELECT paid(), waits();
UPDATE token_usage SET workflow_id = 'done' WHERE id = 7;
SELECT paid(), waits();
UPDATE token_usage SET workflow_id = 'done' WHERE id = 8;
UPDATE token_usage SET user_id = 'cid' WHERE id = 8;
SELECT paid(), waits();
-- one that is taken away gives nothing back, and is told
UPDATE token_usage SET workflow_id = NULL WHERE id = 8;
SELECT paid(), waits();
SELECT state, tokens FROM token_balance.usage_state() WHERE state = 'shrunk';
UPDATE token_usage SET workflow_id = 'done' WHERE id = 8;
SELECT paid(), waits();
-- a row moves to another account, and to another run: the new one is charged; the old one has less than it paid for
UPDATE token_usage SET user_id = 'bob' WHERE id = 6;
SELECT paid(), waits();
UPDATE token_usage SET workflow_id = 'done 2' WHERE id = 6;
SELECT paid(), waits();
SELECT problem, user_id, workflow_id, expected, found FROM token_balance.reconcile() ORDER BY user_id, workflow_id;
UPDATE token_usage SET workflow_id = 'done', user_id = 'cid' WHERE id = 6;
SELECT paid(), waits();
-- to a run that is open, and with it into the completion
UPDATE token_usage SET workflow_id = 'open' WHERE id = 2;
SELECT paid(), waits();
UPDATE workflows SET status = 'completed' WHERE id = 'open';
SELECT paid(), waits();
-- an unknown account is a WARNING, and waits
UPDATE token_usage SET user_id = 'nobody' WHERE id = 4;
SELECT user_id, reason, tokens FROM token_balance.unsettled WHERE user_id = 'nobody';
UPDATE token_usage SET user_id = 'bob' WHERE id = 4;
-- a savepoint takes its change back
BEGIN;
SAVEPOINT s;
UPDATE token_usage SET total_tokens = total_tokens + 500 WHERE id = 1;
SELECT paid();
ROLLBACK TO s;
UPDATE token_usage SET total_tokens = total_tokens + 1 WHERE id = 1;
COMMIT;
SELECT paid(), waits();
-- a BEFORE trigger has the last word
CREATE FUNCTION double() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.total_tokens := 2 * NEW.total_tokens; RETURN NEW; END $$;
CREATE TRIGGER double BEFORE UPDATE ON token_usage FOR EACH ROW EXECUTE FUNCTION double();
UPDATE token_usage SET note = 'y' WHERE id = 1;
SELECT paid(), waits();
DROP TRIGGER double ON token_usage;
-- a session of a replica settles nothing, as with usage that is added
SET session_replication_role = replica;
UPDATE token_usage SET total_tokens = total_tokens + 3 WHERE id = 1;
RESET session_replication_role;
SELECT paid(), waits();
SELECT token_balance.settle_pending() ->> 'tokens_used' AS sweep;

-- the function by hand: of rows that are not there, that others have written, of another table; nothing is settled by it
SELECT token_balance.note_update('token_usage'::regclass, '(0,1)', '(0,2)'), token_balance.note_update('token_usage'::regclass, '(7,1)', '(0,0)'),
  token_balance.note_update('pg_class'::regclass, '(0,1)', '(0,1)'), token_balance.note_update(0, '(0,1)', '(0,1)'), token_balance.note_update(NULL, NULL, NULL);
BEGIN;
UPDATE token_usage SET note = 'z' WHERE id = 5;
SELECT DISTINCT token_balance.note_update(tableoid, '(0,1)', ctid) FROM token_usage;
UPDATE token_usage SET total_tokens = total_tokens + 1 WHERE id = 1;
COMMIT;
SELECT paid(), waits();
-- and the trigger function on a table that is not bound
CREATE TABLE other (workflow_id text);
CREATE TRIGGER other AFTER UPDATE ON other FOR EACH ROW EXECUTE FUNCTION token_balance.settle_late_usage();
INSERT INTO other VALUES ('done');
CALL pg_temp.try($$UPDATE other SET workflow_id = 'x'$$);
DROP TABLE other;

-- columns are those that were bound, whatever their names and types are by now
ALTER TABLE token_usage RENAME total_tokens TO spent;
ALTER TABLE token_usage RENAME note TO total_tokens;
ALTER TABLE token_usage ALTER spent TYPE bigint, ALTER user_id TYPE varchar(20);
UPDATE token_usage SET spent = spent + 10 WHERE id = 1;
SELECT paid(), waits();
ALTER TABLE token_usage RENAME total_tokens TO note;
ALTER TABLE token_usage RENAME spent TO total_tokens;
ALTER TABLE token_usage ALTER total_tokens TYPE integer, ALTER user_id TYPE text, ALTER workflow_id TYPE varchar(20);
UPDATE token_usage SET total_tokens = total_tokens + 10 WHERE id = 1;
SELECT paid(), waits();
-- the trigger is gone: verify says so, and attach makes it
DROP TRIGGER token_balance_updated_usage ON token_usage;
SELECT name, ok, hint FROM token_balance.verify() WHERE NOT ok AND name LIKE 'trigger%';
SELECT token_balance.attach('users', 'token_usage', 'workflows', late_usage => 'settle');
UPDATE token_usage SET total_tokens = total_tokens + 10 WHERE id = 1;
SELECT paid(), waits();

-- ids that are renamed: their usage follows row by row, and is not charged again
SELECT sum(total_tokens) FROM token_usage WHERE workflow_id = 'done';
BEGIN;
UPDATE workflows SET id = 'did' WHERE id = 'done';
UPDATE token_usage SET workflow_id = 'did' WHERE id = 1;
UPDATE token_usage SET workflow_id = 'did' WHERE id = 3;
UPDATE token_usage SET workflow_id = 'did' WHERE workflow_id = 'done' AND id <> 8;
-- with the last one, what it has more
UPDATE token_usage SET workflow_id = 'did', total_tokens = total_tokens + 5 WHERE id = 8;
SELECT paid(), waits();
COMMIT;
SELECT paid(), waits();
SELECT state, tokens FROM token_balance.usage_state() WHERE state = 'shrunk';
BEGIN;
UPDATE users SET id = 'dan' WHERE id = 'cid';
UPDATE token_usage SET user_id = 'dan' WHERE user_id = 'cid';
COMMIT;
SELECT paid(), waits();
-- by a foreign key
ALTER TABLE token_usage ADD FOREIGN KEY (workflow_id) REFERENCES workflows ON UPDATE CASCADE,
  ADD FOREIGN KEY (user_id) REFERENCES users ON UPDATE CASCADE;
UPDATE workflows SET id = id || '!';
UPDATE users SET id = id || '!';
SELECT paid(), waits();
SELECT problem, user_id, workflow_id, expected, found FROM token_balance.reconcile() WHERE problem <> 'usage shrank';
-- off again
SELECT token_balance.attach('users', 'token_usage', 'workflows');
UPDATE token_usage SET total_tokens = total_tokens + 10 WHERE id = 1;
SELECT paid(), waits();
SELECT tgname FROM pg_trigger WHERE tgrelid = 'token_usage'::regclass AND tgname LIKE 'token_balance%usage';
SELECT token_balance.detach(drop_column => true);
DROP TABLE token_usage, workflows, users;

-- partitions, written above and directly; a row that moves to another one is seen once
CREATE TABLE users (id integer PRIMARY KEY);
CREATE TABLE token_usage (id integer, total_tokens integer, workflow_id integer, user_id integer) PARTITION BY RANGE (total_tokens);
CREATE TABLE small_usage PARTITION OF token_usage FOR VALUES FROM (0) TO (100);
CREATE TABLE large_usage (junk text, user_id integer, workflow_id integer, total_tokens integer, id integer);
ALTER TABLE large_usage DROP junk;
ALTER TABLE token_usage ATTACH PARTITION large_usage FOR VALUES FROM (100) TO (1000000);
CREATE TABLE workflows (id integer PRIMARY KEY, status text);
INSERT INTO users VALUES (1), (2);
INSERT INTO workflows VALUES (1, 'completed'), (2, 'completed');
SELECT token_balance.attach('users', 'token_usage', 'workflows', late_usage => 'settle', usage_ids => 'new', accounts => 'new');
INSERT INTO token_usage VALUES (1, 10, 1, 1), (2, 200, 1, 2);
SELECT paid();
UPDATE token_usage SET total_tokens = total_tokens + 1;
SELECT paid();
UPDATE large_usage SET total_tokens = total_tokens + 100, workflow_id = 2;
SELECT paid();
UPDATE token_usage SET total_tokens = 150 WHERE id = 1;
SELECT paid();
UPDATE token_usage SET workflow_id = 3 - workflow_id, total_tokens = total_tokens + 1;
SELECT paid();
SELECT user_id, workflow_id, amount FROM token_balance.ledger WHERE workflow_id IS NOT NULL AND binding_id = 2 ORDER BY user_id, entry_id;
SELECT token_balance.detach(drop_column => true);
DROP TABLE token_usage, workflows, users;

-- generated columns (from 18 on virtual ones, too), no workflow table, several columns of tokens
\set ECHO none
SELECT CASE WHEN current_setting('server_version_num')::integer >= 180000 THEN 'VIRTUAL' ELSE 'STORED' END AS kind \gset
\set ECHO all
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE calls (body jsonb, input integer, output integer, run text GENERATED ALWAYS AS (body ->> 'run') STORED,
  who text GENERATED ALWAYS AS (body ->> 'who') STORED, extra integer GENERATED ALWAYS AS ((body ->> 'extra')::integer) :kind);
INSERT INTO users VALUES ('ann'), ('bob');
SELECT token_balance.attach('users', 'calls', usage_user => 'who', usage_workflow => 'run', usage_tokens => '{input,output,extra}',
  late_usage => 'settle', accounts => 'new', create_index => true);
INSERT INTO calls VALUES ('{"run": "r1", "who": "ann"}', 10, NULL), ('{"run": "r2", "who": "ann"}', 1, NULL);
SELECT settle_workflow('r1') ->> 'tokens_used' AS r1;
-- r1 was settled once and is over; r2 waits for whoever settles it
UPDATE calls SET output = 5;
SELECT paid();
UPDATE calls SET body = body || '{"extra": 100, "other": 1}' WHERE run = 'r1';
SELECT paid();
UPDATE calls SET body = '{"run": "r1", "who": "bob"}' WHERE run = 'r2';
SELECT paid();
BEGIN;
UPDATE calls SET body = body || '{"other": 2}';
SELECT locked();
COMMIT;
SELECT token_balance.detach(drop_column => true);
DROP TABLE calls, users;

-- the run's account pays
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (id integer, workflow_id text, total_tokens integer);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
INSERT INTO users VALUES ('ann'), ('bob');
INSERT INTO workflows VALUES ('w1', 'ann', 'running'), ('w2', 'bob', 'running');
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_user => NULL, late_usage => 'settle', usage_ids => 'new', accounts => 'new');
INSERT INTO token_usage VALUES (1, 'w1', 10), (2, 'w2', 20);
UPDATE workflows SET status = 'completed';
UPDATE token_usage SET total_tokens = total_tokens + 1;
SELECT paid();
UPDATE token_usage SET workflow_id = 'w2' WHERE id = 1;
SELECT paid();
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA uu CASCADE;
