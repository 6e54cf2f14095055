-- The completion of a run settles it: each way that a row can become completed (DESIGN A7, K1, O14, O15, T1, T2, T4, T5, T7).
\set SHOW_CONTEXT never
CREATE SCHEMA tg;
SET search_path = tg, public;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text, note text);
INSERT INTO users VALUES ('ann');
SET client_min_messages = warning;
CREATE EXTENSION token_balance SCHEMA tg;
CREATE FUNCTION ann() RETURNS bigint LANGUAGE sql AS 'SELECT token_balance FROM tg.users WHERE id = ''ann''';

-- the triggers: constraint triggers, deferrable, of updates that name the status; not ENABLE ALWAYS; on the usage one that tells of a TRUNCATE
SELECT t.tgrelid::regclass AS "table", t.tgtype & 1 = 1 AS "row", t.tgtype & 4 > 0 AS ins, t.tgtype & 8 > 0 AS del, t.tgtype & 16 > 0 AS upd,
  t.tgtype & 66 = 0 AS after, t.tgenabled AS enabled, t.tgconstraint <> 0 AS "constraint", t.tgdeferrable AS deferrable, t.tginitdeferred AS deferred,
  t.tgqual IS NOT NULL AS has_when, array_length(t.tgattr::int2[], 1) AS columns
  FROM pg_trigger t WHERE NOT t.tgisinternal AND t.tgrelid IN ('users'::regclass, 'token_usage'::regclass, 'workflows'::regclass)
 ORDER BY t.tgrelid::regclass::text, t.tgtype, t.tgname;

-- each of the default statuses, by UPDATE and by INSERT
INSERT INTO workflows SELECT 'u-' || s, 'ann', 'running' FROM unnest('{completed,succeeded,success,finished,done,failed,cancelled,Completed,"completed ",pending}'::text[]) s;
INSERT INTO token_usage SELECT id, 'ann', 1 FROM workflows;
INSERT INTO token_usage SELECT 'i-' || substr(id, 3), 'ann', 1 FROM workflows;
UPDATE workflows SET status = substr(id, 3);
SELECT ann();
INSERT INTO workflows SELECT 'i-' || status, 'ann', status FROM workflows;
SELECT ann();
SELECT workflow_id FROM token_balance.settlement ORDER BY workflow_id COLLATE "C";
-- from a failed one to a completed one; from NULL
UPDATE workflows SET status = 'done' WHERE id = 'u-failed';
SELECT ann();
UPDATE workflows SET status = NULL WHERE id = 'u-cancelled';
UPDATE workflows SET status = 'done' WHERE id = 'u-cancelled';
SELECT ann();

-- what does not settle: a change of another column, completed to completed, away from completed
INSERT INTO token_usage VALUES ('u-done', 'ann', 1000);
UPDATE workflows SET note = 'x' WHERE id = 'u-done';
UPDATE workflows SET status = 'done' WHERE id = 'u-done';
UPDATE workflows SET status = 'completed' WHERE id = 'u-done';
UPDATE workflows SET status = 'running' WHERE id = 'u-done';
UPDATE workflows SET status = NULL WHERE id = 'u-done';
DELETE FROM workflows WHERE id = 'u-failed';
SELECT ann();
-- completed once more: what is new
UPDATE workflows SET status = 'completed' WHERE id = 'u-done';
SELECT ann();

-- the balance is down when the statement returns, in the transaction and after a rollback to a savepoint not
BEGIN;
INSERT INTO workflows VALUES ('t1', 'ann', 'running');
INSERT INTO token_usage VALUES ('t1', 'ann', 10);
SAVEPOINT one;
UPDATE workflows SET status = 'completed' WHERE id = 't1';
SELECT ann();
ROLLBACK TO one;
SELECT ann();
UPDATE workflows SET status = 'completed' WHERE id = 't1';
SELECT ann();
ROLLBACK;
SELECT ann();

-- deferred: at commit, once, with the usage of then
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
INSERT INTO workflows VALUES ('t2', 'ann', 'running');
UPDATE workflows SET status = 'completed' WHERE id = 't2';
INSERT INTO token_usage VALUES ('t2', 'ann', 10);
SELECT ann();
COMMIT;
SELECT ann();
-- deferred, made immediate again
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
INSERT INTO token_usage VALUES ('t3', 'ann', 10);
INSERT INTO workflows VALUES ('t3', 'ann', 'completed');
SELECT ann();
SET CONSTRAINTS ALL IMMEDIATE;
SELECT ann();
COMMIT;
-- deferred, and the row is gone by then: no harm
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
INSERT INTO token_usage VALUES ('t4', 'ann', 10);
INSERT INTO workflows VALUES ('t4', 'ann', 'completed');
DELETE FROM workflows WHERE id = 't4';
COMMIT;
SELECT count(*) FROM workflows WHERE id = 't4';
SELECT settle_workflow('t4') ->> 'success' AS success;
SELECT ann();

-- a BEFORE trigger of the application sets the status, and the UPDATE does not name it: told, swept, and mended by attach
CREATE FUNCTION finish() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF NEW.note = 'end' THEN NEW.status := 'completed'; END IF; RETURN NEW; END$$;
CREATE TRIGGER finish BEFORE INSERT OR UPDATE ON workflows FOR EACH ROW EXECUTE FUNCTION finish();
SELECT name, detail FROM token_balance.verify() WHERE name LIKE 'trigger %' AND NOT ok;
INSERT INTO token_usage VALUES ('t4b', 'ann', 10);
INSERT INTO workflows VALUES ('t4b', 'ann', 'running');
UPDATE workflows SET note = 'end' WHERE id = 't4b';
SELECT ann();
SELECT token_balance.settle_pending(max_workflows => 1000) ->> 'workflows' AS workflows, ann();
SELECT 'SELECT ' || substring(hint FROM 'token_balance[.]attach[(].*[)]') FROM token_balance.verify() WHERE name LIKE 'trigger %' AND NOT ok \gexec
SELECT name, detail FROM token_balance.verify() WHERE name LIKE 'trigger %';
INSERT INTO token_usage VALUES ('t5', 'ann', 10), ('t6', 'ann', 10);
INSERT INTO workflows VALUES ('t5', 'ann', 'running');
UPDATE workflows SET note = 'end' WHERE id = 't5';
SELECT ann();
INSERT INTO workflows VALUES ('t6', 'ann', 'running', 'end');
SELECT ann();
DROP TRIGGER finish ON workflows;
SELECT token_balance.attach('users', 'token_usage', 'workflows', accounts => 'new');
SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'workflows'::regclass ORDER BY tgname;

-- ON CONFLICT DO UPDATE, COPY, a CTE
INSERT INTO token_usage VALUES ('t7', 'ann', 10), ('t8', 'ann', 10), ('t9', 'ann', 10), ('t10', 'ann', 10);
INSERT INTO workflows VALUES ('t7', 'ann', 'running');
INSERT INTO workflows VALUES ('t7', 'ann', 'completed') ON CONFLICT (id) DO NOTHING;
SELECT ann();
INSERT INTO workflows VALUES ('t7', 'ann', 'completed') ON CONFLICT (id) DO UPDATE SET status = excluded.status;
SELECT ann();
COPY workflows FROM stdin;
t8	ann	completed	\N
t9	ann	running	\N
\.
SELECT ann();
WITH done AS (UPDATE workflows SET status = 'completed' WHERE id = 't9' RETURNING id) SELECT * FROM done;
SELECT ann();
-- a status that the UPDATE names, and a BEFORE trigger changes
CREATE TRIGGER finish BEFORE UPDATE ON workflows FOR EACH ROW EXECUTE FUNCTION finish();
INSERT INTO token_usage VALUES ('t9b', 'ann', 10);
INSERT INTO workflows VALUES ('t9b', 'ann', 'running');
UPDATE workflows SET status = 'failed', note = 'end' WHERE id = 't9b';
SELECT ann();
DROP TRIGGER finish ON workflows;
-- the usage and the completion in one statement
WITH usage AS (INSERT INTO token_usage VALUES ('t10', 'ann', 5)) INSERT INTO workflows VALUES ('t10', 'ann', 'completed');
SELECT ann();

-- a null id is nothing to the trigger
ALTER TABLE workflows DROP CONSTRAINT workflows_pkey;
ALTER TABLE workflows ALTER id DROP NOT NULL;
INSERT INTO workflows VALUES (NULL, 'ann', 'completed');
SELECT ann();
-- the same id in several rows: once
INSERT INTO token_usage VALUES ('t11', 'ann', 10);
INSERT INTO workflows VALUES ('t11', 'ann', 'completed'), ('t11', 'ann', 'completed'), ('t11', 'bob', 'completed');
SELECT ann();

-- a deferred trigger of the application on users runs at commit, and finds what it needs
CREATE TABLE alert (id text, token_balance bigint);
CREATE FUNCTION alert() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO alert VALUES (NEW.id, NEW.token_balance); RETURN NULL; END$$;
CREATE CONSTRAINT TRIGGER alert AFTER UPDATE ON users DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION alert();
INSERT INTO token_usage VALUES ('t13', 'ann', 10);
BEGIN;
INSERT INTO workflows VALUES ('t13', 'ann', 'completed');
SELECT count(*) FROM alert;
COMMIT;
SELECT token_balance = ann() AS same FROM alert;
DROP TRIGGER alert ON users;

-- as a logical subscriber applies it (session_replication_role = replica): not settled again
INSERT INTO token_usage VALUES ('t12', 'ann', 10);
SET session_replication_role = replica;
INSERT INTO workflows VALUES ('t12', 'ann', 'completed');
RESET session_replication_role;
SELECT ann();
SELECT settle_workflow('t12') ->> 'tokens_used' AS tokens_used;

SELECT token_balance.detach();
DROP TABLE workflows, token_usage, users;
DROP EXTENSION token_balance;
CREATE EXTENSION token_balance SCHEMA tg;

-- statuses of the application's own, in a column of type varchar; failed runs pay too
CREATE TABLE users (id text PRIMARY KEY);
INSERT INTO users VALUES ('ann');
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE TABLE workflows (id text PRIMARY KEY, status varchar(10));
SELECT token_balance.attach('users', 'token_usage', 'workflows', completed_statuses => '{DONE,failed}');
INSERT INTO token_usage VALUES ('a', 'ann', 1), ('b', 'ann', 2), ('c', 'ann', 4);
INSERT INTO workflows VALUES ('a', 'DONE'), ('b', 'failed'), ('c', 'completed');
SELECT ann();
SELECT token_balance.detach();
DROP TABLE users, token_usage, workflows;

-- an enum; some of the default statuses are not in it
CREATE TYPE state AS ENUM ('queued', 'active', 'completed', 'failed');
CREATE TABLE users (id text PRIMARY KEY);
INSERT INTO users VALUES ('ann');
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE TABLE workflows (id text PRIMARY KEY, status state DEFAULT 'queued');
SELECT token_balance.attach('users', 'token_usage', 'workflows', accounts => 'new');
INSERT INTO token_usage VALUES ('e1', 'ann', 1), ('e2', 'ann', 2), ('e3', 'ann', 4);
INSERT INTO workflows VALUES ('e1', 'completed'), ('e2', 'active'), ('e3', 'failed');
SELECT ann();
UPDATE workflows SET status = 'completed' WHERE id = 'e2';
SELECT ann();
SELECT token_balance.detach();
DROP TABLE users, token_usage, workflows;

-- a completion timestamp
CREATE TABLE users (id text PRIMARY KEY);
INSERT INTO users VALUES ('ann');
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE TABLE workflows (id text PRIMARY KEY, state integer, ended_at timestamptz);
SELECT token_balance.attach('users', 'token_usage', 'workflows', workflow_status => NULL, workflow_completed_at => 'ended_at', accounts => 'new');
INSERT INTO token_usage VALUES ('c1', 'ann', 1), ('c2', 'ann', 2);
INSERT INTO workflows VALUES ('c1', 1, NULL), ('c2', 1, now());
SELECT ann();
UPDATE workflows SET state = 2 WHERE id = 'c1';
SELECT ann();
UPDATE workflows SET ended_at = now() WHERE id = 'c1';
SELECT ann();
-- a timestamp that moves is no new completion; one that was taken back and comes again is
INSERT INTO token_usage VALUES ('c1', 'ann', 10);
UPDATE workflows SET ended_at = now() + '1 second' WHERE id = 'c1';
SELECT ann();
UPDATE workflows SET ended_at = NULL WHERE id = 'c1';
SELECT ann();
UPDATE workflows SET ended_at = now() WHERE id = 'c1';
SELECT ann();
SELECT token_balance.detach();
DROP TABLE users, token_usage, workflows;

-- status and timestamp both named
CREATE TABLE users (id text PRIMARY KEY);
INSERT INTO users VALUES ('ann');
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE TABLE workflows (id text PRIMARY KEY, status text, ended_at timestamp);
SELECT token_balance.attach('users', 'token_usage', 'workflows', workflow_completed_at => 'ended_at', accounts => 'new');
INSERT INTO token_usage VALUES ('b1', 'ann', 1), ('b2', 'ann', 2);
INSERT INTO workflows VALUES ('b1', 'running', NULL), ('b2', 'running', NULL);
UPDATE workflows SET status = 'completed' WHERE id = 'b1';
SELECT ann();
UPDATE workflows SET ended_at = now() WHERE id = 'b2';
SELECT ann();
SELECT token_balance.detach();
DROP TABLE users, token_usage, workflows;

-- each inserted row is a completion
CREATE TABLE users (id text PRIMARY KEY);
INSERT INTO users VALUES ('ann');
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE TABLE workflow_completions (workflow_id text, note text);
SELECT token_balance.attach('users', 'token_usage', 'workflow_completions', workflow_key => 'workflow_id', workflow_status => NULL, accounts => 'new');
INSERT INTO token_usage VALUES ('i1', 'ann', 1), ('i2', 'ann', 2);
INSERT INTO workflow_completions VALUES ('i1');
SELECT ann();
INSERT INTO token_usage VALUES ('i1', 'ann', 10);
UPDATE workflow_completions SET note = 'x';
SELECT ann();
INSERT INTO workflow_completions VALUES ('i1'), ('i2');
SELECT ann();

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA tg CASCADE;
