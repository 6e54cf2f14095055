-- A workflow's id is changed in the workflow table, and its usage follows: what was charged is not charged again (DESIGN I1, I2, I3, I4, I5, I6).
\i common/try.sql
SET client_min_messages = warning;
CREATE SCHEMA wr;
SET search_path = wr, public;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text NOT NULL DEFAULT 'running');
CREATE TABLE token_usage (workflow_id text REFERENCES workflows ON UPDATE CASCADE, user_id text, total_tokens integer);
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users VALUES ('ann'), ('bob');
CREATE PROCEDURE anew() LANGUAGE plpgsql AS $$
BEGIN
  DROP EXTENSION IF EXISTS token_balance CASCADE;
  TRUNCATE token_usage, workflows;
  ALTER TABLE users DROP IF EXISTS token_balance;
  CREATE EXTENSION token_balance SCHEMA wr;
  CREATE VIEW state AS
  SELECT (SELECT string_agg(id || ' ' || token_balance, ', ' ORDER BY id) FROM users) AS balances,
      (SELECT string_agg(workflow_id || ' ' || user_id || ' ' || charged_tokens || coalesce(nullif('-' || refunded_tokens, '-0'), ''), ', ' ORDER BY workflow_id, user_id) FROM token_balance.settlement) AS settlements,
      (SELECT string_agg(workflow_id || '>' || coalesce(became, ''), ' ' ORDER BY workflow_id) FROM token_balance.workflow_alias) AS aliases;
END $$;
CREATE PROCEDURE run(workflow text, payer text, tokens integer) LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO workflows VALUES (workflow, payer);
  INSERT INTO token_usage VALUES (workflow, payer, tokens);
  UPDATE workflows SET status = 'completed' WHERE id = workflow;
END $$;
CREATE FUNCTION swept() RETURNS text LANGUAGE plpgsql AS $$BEGIN RETURN token_balance.settle_pending() ->> 'tokens_used'; END$$;

SET client_min_messages = error;
CALL anew();
SET client_min_messages = warning;

-- row 12: settled, renamed, swept
CALL run('a', 'ann', 100);
UPDATE workflows SET id = 'b' WHERE id = 'a';
SELECT swept();
SELECT * FROM state;
SELECT * FROM token_balance.reconcile();
-- the ledger's entries keep the old id
SELECT workflow_id, amount FROM token_balance.ledger;
-- a chain, and back
UPDATE workflows SET id = 'c' WHERE id = 'b';
UPDATE workflows SET id = 'a' WHERE id = 'c';
SELECT swept();
SELECT * FROM state;
SELECT * FROM token_balance.reconcile();
-- late usage is charged under the new id
UPDATE workflows SET id = 'd' WHERE id = 'a';
INSERT INTO token_usage VALUES ('d', 'bob', 5), ('d', 'ann', 1);
SELECT swept();
SELECT * FROM state;
-- refunds by the new id and by the old one, and both retried
SELECT token_balance.refund_workflow('d', 10, 'r1') - 'refunds';
SELECT token_balance.refund_workflow('a', 10, 'r2') - 'refunds';
UPDATE workflows SET id = 'e' WHERE id = 'd';
SELECT token_balance.refund_workflow('e', 10, 'r1') ->> 'replayed' AS replayed, token_balance.refund_workflow('d', 10, 'r2') ->> 'replayed' AS replayed_by_old_id;
CALL pg_temp.try($$SELECT token_balance.refund_workflow('e', 1000)$$);
SELECT * FROM state;
SELECT * FROM token_balance.reconcile();
-- who gets the old id has none of it
CALL run('a', 'bob', 7);
SELECT * FROM state;
SELECT swept();
SELECT * FROM token_balance.reconcile();
-- and may be renamed to an id that was in use as well
UPDATE workflows SET id = 'd' WHERE id = 'a';
SELECT swept();
SELECT * FROM state;
SELECT * FROM token_balance.reconcile();
CALL anew();

-- many at once; each takes the place of another
DO $$BEGIN FOR g IN REVERSE 4..1 LOOP CALL wr.run('n' || g, 'ann', g * 10); END LOOP; END$$;
UPDATE workflows SET id = 'n' || (right(id, 1)::integer + 1);
SELECT swept();
SELECT * FROM state;
SELECT workflow_id, total_tokens FROM token_usage ORDER BY 1;
SELECT * FROM token_balance.reconcile();
CALL anew();

-- renamed and completed by one statement, after a part was settled
INSERT INTO workflows VALUES ('a', 'ann'), ('b', 'ann');
INSERT INTO token_usage VALUES ('a', 'ann', 100), ('b', 'ann', 1000);
SELECT settle_workflow('a') ->> 'tokens_used' AS a, settle_workflow('b') ->> 'tokens_used' AS b;
INSERT INTO token_usage VALUES ('a', 'ann', 10);
UPDATE workflows SET id = id || '2', status = 'completed';
SELECT * FROM state;
-- renamed and settled in one transaction, by each way
BEGIN;
UPDATE workflows SET id = 'a3' WHERE id = 'a2';
SELECT settle_workflow('a3') ->> 'status' AS status;
UPDATE workflows SET id = 'a4' WHERE id = 'a3';
SELECT count(*) FROM token_balance.settle_workflows('{a4,b2}');
UPDATE workflows SET id = 'a5' WHERE id = 'a4';
SELECT swept();
UPDATE workflows SET id = 'a6' WHERE id = 'a5';
SELECT token_balance.refund_workflow('a6', 1) ->> 'amount' AS amount;
COMMIT;
SELECT * FROM state;
SELECT * FROM token_balance.reconcile();
-- a savepoint is rolled back, before and after what was noted is done
BEGIN;
SAVEPOINT s;
UPDATE workflows SET id = 'x' WHERE id = 'a6';
ROLLBACK TO s;
UPDATE workflows SET id = 'b3' WHERE id = 'b2';
SAVEPOINT t;
SELECT settle_workflow('b3') ->> 'status' AS status;
ROLLBACK TO t;
SELECT workflow_id FROM token_balance.settlement ORDER BY 1;
COMMIT;
SELECT * FROM state;
BEGIN;
UPDATE workflows SET id = 'b4' WHERE id = 'b3';
ROLLBACK;
SELECT swept();
SELECT * FROM state;
-- onto an id that was settled before, whose row is gone: added up
CALL run('gone', 'ann', 1);
DELETE FROM token_usage WHERE workflow_id = 'gone';
DELETE FROM workflows WHERE id = 'gone';
UPDATE workflows SET id = 'gone' WHERE id = 'b3';
SELECT * FROM state;
SELECT problem, workflow_id, expected, found FROM token_balance.reconcile();
-- a replica only follows: the row's change is replicated, and so are the extension's tables
SET session_replication_role = replica;
UPDATE workflows SET id = 'rep' WHERE id = 'a6';
UPDATE token_usage SET workflow_id = 'rep' WHERE workflow_id = 'a6';
RESET session_replication_role;
SELECT settlements FROM state;
UPDATE workflows SET id = 'a6' WHERE id = 'rep';
SELECT swept();
CALL anew();

-- usage that does not follow moves nothing
ALTER TABLE token_usage DROP CONSTRAINT token_usage_workflow_id_fkey;
CALL run('a', 'ann', 100);
UPDATE workflows SET id = 'b' WHERE id = 'a';
SELECT * FROM state;
UPDATE workflows SET id = 'a' WHERE id = 'b';
-- usage that the application writes anew, before or after, in one transaction
BEGIN;
UPDATE workflows SET id = 'b' WHERE id = 'a';
UPDATE token_usage SET workflow_id = 'b' WHERE workflow_id = 'a';
COMMIT;
SELECT swept();
BEGIN;
UPDATE token_usage SET workflow_id = 'c' WHERE workflow_id = 'b';
UPDATE workflows SET id = 'tmp' WHERE id = 'b';
UPDATE workflows SET user_id = 'ann' WHERE id = 'tmp';
UPDATE workflows SET id = 'c' WHERE id = 'tmp';
SELECT swept();
COMMIT;
SELECT swept();
SELECT * FROM state;
-- what comes in between does not name the id: it is not noted, and some of it is rolled back or locked by several
CREATE TABLE steps (workflow_id text REFERENCES workflows ON UPDATE CASCADE);
BEGIN;
UPDATE token_usage SET workflow_id = 'e' WHERE workflow_id = 'c';
UPDATE workflows SET id = 'tmp' WHERE id = 'c';
SAVEPOINT s;
UPDATE workflows SET user_id = 'bob' WHERE id = 'tmp';
ROLLBACK TO s;
INSERT INTO steps VALUES ('tmp');
SAVEPOINT t;
UPDATE workflows SET user_id = 'eve' WHERE id = 'tmp';
UPDATE workflows SET user_id = 'ann' WHERE id = 'tmp';
UPDATE workflows SET id = 'tmp2' WHERE id = 'tmp';
INSERT INTO workflows VALUES ('tmp', 'bob');
RELEASE t;
UPDATE workflows SET user_id = 'eve';
UPDATE workflows SET id = 'other' WHERE id = 'tmp';
UPDATE workflows SET user_id = 'ann' WHERE id = 'tmp2';
UPDATE workflows SET id = 'e' WHERE id = 'tmp2';
COMMIT;
SELECT * FROM state;
DROP TABLE steps;
DELETE FROM workflows WHERE id = 'other';
BEGIN;
UPDATE token_usage SET workflow_id = 'c';
UPDATE workflows SET id = 'c';
COMMIT;
SELECT swept();
SELECT * FROM state;
SELECT * FROM token_balance.reconcile();
-- two swap their ids, and so does the usage
ALTER TABLE workflows DROP CONSTRAINT workflows_pkey, ADD UNIQUE (id) DEFERRABLE;
CALL run('d', 'bob', 7);
BEGIN;
UPDATE workflows SET id = CASE id WHEN 'c' THEN 'd' ELSE 'c' END;
UPDATE token_usage SET workflow_id = CASE workflow_id WHEN 'c' THEN 'd' ELSE 'c' END;
COMMIT;
SELECT swept();
SELECT * FROM state;
-- and so it does not
UPDATE workflows SET id = CASE id WHEN 'c' THEN 'd' ELSE 'c' END;
SELECT swept();
SELECT * FROM state;
SELECT * FROM token_balance.reconcile();
CALL anew();

-- ids that many rows share: the settlement is where the usage is
ALTER TABLE workflows DROP CONSTRAINT workflows_id_key;
CREATE INDEX ON workflows (id);
INSERT INTO workflows VALUES ('s', 'ann', 'completed'), ('s', 'ann', 'running');
INSERT INTO token_usage VALUES ('s', 'ann', 100);
SELECT swept();
BEGIN;
UPDATE workflows SET id = 't' WHERE status = 'completed';
DELETE FROM token_usage;
INSERT INTO token_usage VALUES ('t', 'ann', 100);
COMMIT;
SELECT settlements FROM state;
UPDATE token_usage SET workflow_id = 's';
UPDATE workflows SET id = 's';
SELECT swept();
BEGIN;
UPDATE workflows SET id = 'u';
UPDATE token_usage SET workflow_id = 'u';
COMMIT;
SELECT swept();
SELECT * FROM state;
CALL anew();

-- partitions; late usage at once; the workflow's account pays
DROP TABLE workflows, token_usage;
SELECT token_balance.detach();
CREATE TABLE workflows (id bigint, owner text, at date NOT NULL DEFAULT '2026-01-01', status text NOT NULL DEFAULT 'running', PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE workflows_1 PARTITION OF workflows FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE token_usage (workflow_id bigint, total_tokens integer);
CREATE INDEX ON token_usage (workflow_id);
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_user => NULL, workflow_user => 'owner', late_usage => 'settle');
INSERT INTO token_usage VALUES (1, 100), (2, 10);
INSERT INTO workflows VALUES (1, 'ann', DEFAULT, 'completed'), (2, 'bob', DEFAULT, 'completed');
BEGIN;
UPDATE token_usage SET workflow_id = 11 WHERE workflow_id = 1;
UPDATE workflows SET id = 11 WHERE id = 1;
INSERT INTO token_usage VALUES (11, 1);
COMMIT;
SELECT swept();
SELECT * FROM state;
SELECT * FROM token_balance.reconcile();

-- after the ledger was archived, and an account renamed
CREATE TABLE archived (LIKE token_balance.ledger);
SELECT token_balance.archive_ledger(clock_timestamp(), 'archived') ->> 'entries' AS entries;
UPDATE users SET id = 'eve' WHERE id = 'ann';
BEGIN;
UPDATE token_usage SET workflow_id = 12 WHERE workflow_id = 11;
UPDATE workflows SET id = 12, owner = 'eve' WHERE id = 11;
COMMIT;
SELECT swept();
SELECT token_balance.refund_workflow('12') ->> 'amount' AS amount;
SELECT * FROM state;
SELECT * FROM token_balance.reconcile();

-- an id that is left by one run, and in the same transaction by a new one, was ambiguous: the first was charged again
CREATE SCHEMA twice;
SET search_path = twice, public;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE workflows (id text PRIMARY KEY, status text NOT NULL DEFAULT 'running');
CREATE TABLE token_usage (workflow_id text REFERENCES workflows ON UPDATE CASCADE, user_id text, total_tokens integer);
INSERT INTO users VALUES ('ann');
INSERT INTO workflows VALUES ('a');
SELECT token_balance.attach('users', 'token_usage', 'workflows', name => 'twice');
INSERT INTO token_usage VALUES ('a', 'ann', 100);
UPDATE workflows SET status = 'completed';
BEGIN;
UPDATE workflows SET id = 'b' WHERE id = 'a';
INSERT INTO workflows VALUES ('a');
UPDATE workflows SET id = 'c' WHERE id = 'a';
COMMIT;
SELECT workflow_id, charged_tokens FROM token_balance.settlement AS s JOIN token_balance.binding USING (binding_id) WHERE name = 'twice';
SELECT token_balance.settle_pending(binding => 'twice') ->> 'tokens_used' AS tokens_used;
SELECT * FROM users;
SELECT token_balance.detach(name => 'twice');
SET client_min_messages = error;
DROP SCHEMA twice CASCADE;
RESET client_min_messages;
SET search_path = wr, public;

-- a broken binding refuses no change of the workflow table, and the table is nobody else's
SELECT name, ok, detail FROM token_balance.verify() WHERE name LIKE '%workflow_id%';
DROP TABLE token_usage;
UPDATE workflows SET id = 13 WHERE id = 12;
SET client_min_messages = error;
DROP SCHEMA wr CASCADE;

-- a trigger of the application gives a row another id where the UPDATE does not name it: known when the table is bound, or
-- told by verify()
CREATE EXTENSION IF NOT EXISTS token_balance;
CREATE SCHEMA wr;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE workflows (id text PRIMARY KEY, moved_to text, status text);
CREATE TABLE token_usage (workflow_id text REFERENCES workflows ON UPDATE CASCADE, user_id text, total_tokens integer);
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users VALUES ('ann');
CREATE FUNCTION move() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.id = coalesce(NEW.moved_to, NEW.id); RETURN NEW; END$$;
SELECT token_balance.attach('users', 'token_usage', 'workflows', name => 'moved');
INSERT INTO workflows VALUES ('a', NULL, 'running');
INSERT INTO token_usage VALUES ('a', 'ann', 100);
UPDATE workflows SET status = 'completed';
CREATE TRIGGER move BEFORE UPDATE ON workflows FOR EACH ROW EXECUTE FUNCTION move();
SELECT name, ok, detail, hint FROM token_balance.verify() WHERE NOT ok AND name LIKE 'trigger%';
SELECT token_balance.attach_again('moved');
SELECT name, ok, detail, hint FROM token_balance.verify() WHERE NOT ok AND name LIKE 'trigger%';
UPDATE workflows SET moved_to = 'b';
SELECT token_balance.settle_pending(binding => 'moved') ->> 'tokens_used' AS tokens_used;
SELECT workflow_id, charged_tokens FROM token_balance.settlement JOIN token_balance.binding AS b USING (binding_id) WHERE b.name = 'moved';
SET client_min_messages = error;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA wr CASCADE;

-- keys of each type, of which the last byte alone is another; long ones, too, that are compressed or elsewhere
CREATE EXTENSION IF NOT EXISTS token_balance;
CREATE SCHEMA keyed;
SET search_path = keyed, public;
CREATE TABLE followed (key text, settled text, more text);
CREATE PROCEDURE follows(key_type text, old text, new text) LANGUAGE plpgsql AS $$
DECLARE settled text;
BEGIN
  EXECUTE format('CREATE TABLE users (id text PRIMARY KEY); CREATE TABLE workflows (note text, id %1$s, status text); CREATE TABLE token_usage (workflow_id %1$s, user_id text, total_tokens integer)', key_type);
  PERFORM token_balance.attach('users', 'token_usage', 'workflows', name => 'keyed');
  INSERT INTO users VALUES ('ann');
  EXECUTE format('INSERT INTO workflows VALUES (NULL, %1$L, ''running''); INSERT INTO token_usage VALUES (%1$L, ''ann'', 100)', old);
  UPDATE workflows SET status = 'done';
  COMMIT;
  UPDATE workflows SET note = repeat('x', 100), id = id;
  EXECUTE format('UPDATE workflows SET id = %1$L; UPDATE token_usage SET workflow_id = %1$L', new);
  UPDATE workflows SET note = 'y';
  COMMIT;
  SELECT string_agg(workflow_id, ', ') INTO settled FROM token_balance.settlement JOIN token_balance.binding AS b USING (binding_id) WHERE b.name = 'keyed';
  INSERT INTO followed VALUES (key_type || ' of ' || length(old), right(settled, 12), token_balance.settle_pending(binding => 'keyed') ->> 'tokens_used');
  TRUNCATE users, workflows, token_usage;
  PERFORM token_balance.reset('keyed');
  PERFORM token_balance.detach(name => 'keyed');
  DROP TABLE users, workflows, token_usage;
  COMMIT;
END $$;
CALL follows('smallint', '1', '2');
CALL follows('integer', '2147483646', '2147483647');
CALL follows('bigint', '5000000000', '5000000001');
CALL follows('uuid', '00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000002');
CALL follows('varchar(20)', 'run-1', 'run-2');
CALL follows('text', '', 'x');
CALL follows('text', repeat('z', 3000) || '1', repeat('z', 3000) || '2');
SELECT string_agg(md5(g::text), '') AS long FROM generate_series(1, 65) AS g \gset
CALL follows('text', :'long' || '1', :'long' || '2');
TABLE followed;
-- a null names no workflow
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE workflows (id integer, status text);
CREATE TABLE token_usage (workflow_id integer, user_id text, total_tokens integer);
SELECT token_balance.attach('users', 'token_usage', 'workflows', name => 'keyed');
INSERT INTO workflows VALUES (NULL, 'running');
UPDATE workflows SET status = 'waiting';
UPDATE workflows SET id = 1;
UPDATE workflows SET id = NULL;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA keyed CASCADE;
