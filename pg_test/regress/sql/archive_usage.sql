-- archive_usage: old rows of settled workflows leave, and count as if they were there (DESIGN V30, V31, V33, V38, S17).
\set SHOW_CONTEXT never
\pset null '-'
SET client_min_messages = warning;
CREATE SCHEMA au;
SET search_path = au, public;
\i common/try.sql
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
CREATE TABLE token_usage (id bigint GENERATED ALWAYS AS IDENTITY, workflow_id text, user_id text, total_tokens integer,
  doubled integer GENERATED ALWAYS AS (total_tokens * 2) STORED, created_at timestamptz NOT NULL DEFAULT '2026-02-01 00:00Z');
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users VALUES ('ann'), ('bob');
-- from before the extension: exempt
INSERT INTO token_usage (workflow_id, user_id, total_tokens, created_at) VALUES ('old', 'ann', 60, '2026-01-01Z');
CREATE EXTENSION token_balance SCHEMA au;
CREATE TABLE old_usage (LIKE token_usage);
CREATE VIEW settled AS SELECT workflow_id, user_id, usage_tokens, charged_tokens, archived_usage_tokens FROM token_balance.settlement ORDER BY 1, 2;
CREATE VIEW balances AS SELECT string_agg(id || ' ' || token_balance - 1000000, ', ' ORDER BY id) AS balances FROM users;
-- the law: what is in a state, less what is archived and what shrank, is the usage
CREATE VIEW law AS SELECT string_agg(state || ' ' || tokens, ', ' ORDER BY state) AS states,
  sum(CASE WHEN state IN ('archived', 'shrunk') THEN -tokens ELSE tokens END) = COALESCE((SELECT sum(total_tokens) FROM token_usage), 0) AS holds FROM token_balance.usage_state();
CREATE VIEW problems AS SELECT problem, user_id, workflow_id, expected, found FROM token_balance.reconcile();
CREATE VIEW archived AS SELECT binding_id, kind, archive, before AT TIME ZONE 'UTC' AS before, actor = current_user AS actor_is_me, row_count, tokens FROM token_balance.archived WHERE kind = 'usage' ORDER BY archive COLLATE "C";

-- settled runs lose what is old, an open one keeps it, and so does what is nobody's
INSERT INTO token_usage (workflow_id, user_id, total_tokens, created_at) VALUES
  ('w1', 'ann', 100, '2026-01-01Z'), ('w1', 'bob', 10, '2026-01-02Z'), ('w1', 'ann', 5, '2026-02-02Z'),
  ('w2', 'bob', 7, '2026-01-03Z'), ('open', 'ann', 3, '2026-01-04Z'), (NULL, 'ann', 1, '2026-01-05Z'), ('w1', NULL, 2, '2026-01-05Z');
INSERT INTO workflows VALUES ('w1', 'ann', 'completed'), ('w2', 'bob', 'completed'), ('open', 'ann', 'running');
TABLE balances;
SELECT jsonb_pretty(token_balance.archive_usage('2026-02-01Z', 'old_usage'));
TABLE settled;
SELECT workflow_id, user_id, total_tokens FROM token_usage ORDER BY id;
SELECT id, workflow_id, user_id, total_tokens, doubled, created_at AT TIME ZONE 'UTC' AS created_at FROM old_usage ORDER BY id;
TABLE law;
TABLE problems;
TABLE archived;
-- again: there is nothing more, and nothing is charged again
SELECT token_balance.archive_usage('2026-02-01Z', 'old_usage');
SELECT settle_workflow('w1') ->> 'status' AS status;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
-- late usage is charged, to the token
INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('w1', 'ann', 40), ('w2', 'bob', 1);
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
TABLE balances;
TABLE law;
-- a correction gives back what is missing, and nothing of what is archived
DELETE FROM token_usage WHERE total_tokens = 40;
SELECT token_balance.correct_workflow('w1') ->> 'amount' AS amount;
TABLE settled;
TABLE law;
TABLE problems;
-- the exemption of what is archived stays, and is not charged after all
CALL token_balance.settle_backlog(existing => true);
TABLE settled;
TABLE balances;

-- where usage is missing, late usage may make up for it: nothing leaves before somebody says what that is to be
INSERT INTO token_usage (workflow_id, user_id, total_tokens, created_at) VALUES ('s1', 'ann', 50, '2026-01-01Z'), ('s1', 'ann', 20, '2026-01-02Z'), ('s1', 'bob', 8, '2026-01-02Z');
INSERT INTO workflows VALUES ('s1', 'ann', 'completed');
DELETE FROM token_usage WHERE total_tokens = 50;
INSERT INTO token_usage (workflow_id, user_id, total_tokens, created_at) VALUES ('s1', 'ann', 7, clock_timestamp());
SELECT token_balance.archive_usage('2026-02-01Z');
SELECT token_balance.correct_workflow('s1') ->> 'amount' AS amount;
SELECT token_balance.archive_usage('2026-02-01Z');
DELETE FROM token_usage WHERE total_tokens = 7;
SELECT token_balance.accept_deletions(clock_timestamp());
TABLE law;
TABLE problems;
-- for good, and as many as are wanted
INSERT INTO token_usage (workflow_id, user_id, total_tokens, created_at) SELECT 'm' || n, 'bob', n, '2026-01-10Z' FROM generate_series(1, 5) AS n;
INSERT INTO workflows SELECT 'm' || n, 'bob', 'completed' FROM generate_series(1, 5) AS n;
SELECT token_balance.archive_usage('2026-02-01Z', max_workflows => 2);
SELECT token_balance.archive_usage('2026-02-01Z', max_workflows => 3);
SELECT token_balance.archive_usage('2026-02-01Z', max_workflows => 3);
TABLE archived;
TABLE law;
-- more workflows than a transaction has locks for
INSERT INTO token_usage (workflow_id, user_id, total_tokens, created_at) SELECT 'n' || n, 'bob', 1, '2026-01-10Z' FROM generate_series(1, 2100) AS n;
INSERT INTO workflows SELECT 'n' || n, 'bob', 'completed' FROM generate_series(1, 2100) AS n;
BEGIN;
SELECT token_balance.archive_usage('2026-02-01Z', 'old_usage');
SELECT count(*) FROM pg_locks WHERE locktype = 'relation' AND relation = 'users'::regclass AND mode = 'ShareRowExclusiveLock';
ROLLBACK;
SELECT token_balance.archive_usage('2026-02-01Z', 'old_usage');
TABLE law;
TABLE problems;

-- an id that is changed takes along what is archived
INSERT INTO token_usage (workflow_id, user_id, total_tokens, created_at) VALUES ('w3', 'ann', 30, '2026-01-01Z'), ('w3', 'ann', 4, '2026-02-03Z');
INSERT INTO workflows VALUES ('w3', 'ann', 'completed');
SELECT token_balance.archive_usage('2026-02-01Z');
BEGIN;
UPDATE token_usage SET workflow_id = 'w3b' WHERE workflow_id = 'w3';
UPDATE workflows SET id = 'w3b' WHERE id = 'w3';
COMMIT;
UPDATE users SET id = 'eve' WHERE id = 'ann';
UPDATE token_usage SET user_id = 'eve' WHERE user_id = 'ann';
SELECT * FROM settled WHERE workflow_id = 'w3b';
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
TABLE problems;
TABLE law;
-- all of a workflow's usage is gone, and its id is changed
INSERT INTO token_usage (workflow_id, user_id, total_tokens, created_at) VALUES ('w4', 'eve', 30, '2026-01-01Z');
INSERT INTO workflows VALUES ('w4', 'eve', 'completed');
SELECT token_balance.archive_usage('2026-02-01Z');
UPDATE workflows SET id = 'w4b' WHERE id = 'w4';
INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('w4b', 'eve', 2);
SELECT settle_workflow('w4b') ->> 'tokens_used' AS tokens_used;
TABLE problems;
-- the id of one whose run was deleted: what is archived of both is added up
INSERT INTO token_usage (workflow_id, user_id, total_tokens, created_at) VALUES ('w9', 'eve', 30, '2026-01-01Z'), ('w10', 'eve', 4, '2026-01-01Z');
INSERT INTO workflows VALUES ('w9', 'eve', 'completed'), ('w10', 'eve', 'completed');
SELECT token_balance.archive_usage('2026-02-01Z') ->> 'tokens' AS tokens;
DELETE FROM workflows WHERE id = 'w9';
UPDATE workflows SET id = 'w9' WHERE id = 'w10';
SELECT * FROM settled WHERE workflow_id IN ('w9', 'w10');
-- in the transaction that has changed the id
INSERT INTO token_usage (workflow_id, user_id, total_tokens, created_at) VALUES ('w8', 'eve', 70, '2026-01-01Z');
INSERT INTO workflows VALUES ('w8', 'eve', 'completed');
BEGIN;
UPDATE token_usage SET workflow_id = 'w8b' WHERE workflow_id = 'w8';
UPDATE workflows SET id = 'w8b' WHERE id = 'w8';
SELECT token_balance.archive_usage('2026-02-01Z') ->> 'tokens' AS tokens;
COMMIT;
SELECT * FROM settled WHERE workflow_id LIKE 'w8%';
TABLE law;

-- tokens below zero are no settlement, and count all the same
INSERT INTO token_usage (workflow_id, user_id, total_tokens, created_at) VALUES ('w5', 'bob', -20, '2026-01-01Z');
INSERT INTO workflows VALUES ('w5', 'bob', 'completed');
SELECT token_balance.archive_usage('2026-02-01Z') ->> 'tokens' AS tokens;
INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('w5', 'bob', 25);
SELECT settle_workflow('w5') ->> 'tokens_used' AS tokens_used;
TABLE law;

-- what is refused, and nothing is half done
CALL pg_temp.try($$SELECT token_balance.archive_usage()$$);
CALL pg_temp.try($$SELECT token_balance.archive_usage(now() + interval '1 day')$$);
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z', max_workflows => 0)$$);
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z', partition => 'token_usage')$$);
CALL pg_temp.try($$SELECT token_balance.archive_usage(partition => 'old_usage')$$);
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z', 'token_usage')$$);
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z', 'settled')$$);
-- what the usage would still show: a child of it, at whatever level, and a table of other usage
CREATE TABLE child () INHERITS (token_usage);
CREATE TABLE grandchild () INHERITS (child);
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z', 'child')$$);
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z', 'grandchild')$$);
DROP TABLE child CASCADE;
CREATE TABLE whole (LIKE token_usage) PARTITION BY LIST (workflow_id);
CREATE TABLE part PARTITION OF whole DEFAULT;
SELECT count(*) FROM token_balance.attach('users', 'part', NULL, name => 'part');
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z', 'part', 'default')$$);
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z', 'whole', 'part')$$);
SELECT count(*) FROM token_balance.detach(name => 'part');
DROP TABLE whole;
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z', 4294967295)$$);
CREATE TABLE narrow (LIKE old_usage);
ALTER TABLE narrow DROP created_at;
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z', 'narrow')$$);
ALTER TABLE narrow ADD created_at timestamp;
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z', 'narrow')$$);
CREATE UNLOGGED TABLE fleeting (LIKE old_usage);
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z', 'fleeting')$$);
BEGIN READ ONLY;
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z')$$);
ROLLBACK;
-- an archive that swallows rows, or has a check
INSERT INTO token_usage (workflow_id, user_id, total_tokens, created_at) VALUES ('w6', 'bob', 9, '2026-01-01Z');
INSERT INTO workflows VALUES ('w6', 'bob', 'completed');
CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER swallow BEFORE INSERT ON old_usage FOR EACH ROW EXECUTE FUNCTION swallow();
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z', 'old_usage')$$);
DROP TRIGGER swallow ON old_usage;
ALTER TABLE old_usage ADD CONSTRAINT few CHECK (total_tokens <> 9);
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z', 'old_usage')$$);
ALTER TABLE old_usage DROP CONSTRAINT few;
SELECT total_tokens FROM token_usage WHERE workflow_id = 'w6';
-- a trigger of the usage that keeps its rows, or some of them: nothing is said to have left, and nobody is told to call again for ever
CREATE TRIGGER stays BEFORE DELETE ON token_usage FOR EACH ROW EXECUTE FUNCTION swallow();
SELECT token_balance.archive_usage('2026-02-01Z', 'old_usage');
DROP TRIGGER stays ON token_usage;
-- nor is one that writes again what leaves gone after for ever
CREATE FUNCTION comes_back() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO token_usage (workflow_id, user_id, total_tokens, created_at) VALUES (OLD.workflow_id, OLD.user_id, OLD.total_tokens, OLD.created_at); RETURN NULL; END $$;
CREATE TRIGGER comes_back AFTER DELETE ON token_usage FOR EACH ROW EXECUTE FUNCTION comes_back();
SELECT token_balance.archive_usage('2026-02-01Z', 'old_usage');
DROP TRIGGER comes_back ON token_usage;
SELECT token_balance.archive_usage('2026-02-01Z', 'old_usage') ->> 'usage_rows' AS usage_rows;
TABLE law;

-- half of an exemption is archived: the other half is charged after all, once
INSERT INTO token_usage (workflow_id, user_id, total_tokens, created_at) VALUES ('e1', 'bob', 100, '2026-01-01Z'), ('e1', 'bob', 20, '2026-02-02Z');
INSERT INTO workflows VALUES ('e1', 'bob', 'running');
SELECT token_balance.exempt_pending() ->> 'tokens_exempt' AS tokens_exempt;
INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('e1', 'bob', 5);
UPDATE workflows SET status = 'completed' WHERE id = 'e1';
SELECT * FROM settled WHERE workflow_id = 'e1';
SELECT token_balance.archive_usage('2026-02-01Z') ->> 'tokens' AS tokens;
CALL token_balance.settle_backlog(existing => true);
SELECT * FROM settled WHERE workflow_id = 'e1';
CALL token_balance.settle_backlog(existing => true);
CALL token_balance.settle_backlog(existing => true);
SELECT * FROM settled WHERE workflow_id = 'e1';
TABLE law;
TABLE problems;

-- rights: it is granted, and the archive is the usage's owner's
CREATE ROLE regress_tb_au_owner;
CREATE ROLE regress_tb_au_sweeper;
GRANT USAGE ON SCHEMA au, token_balance TO regress_tb_au_owner, regress_tb_au_sweeper;
GRANT SELECT ON ALL TABLES IN SCHEMA au TO regress_tb_au_sweeper;
SET ROLE regress_tb_au_sweeper;
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z')$$);
CALL pg_temp.try($$SELECT token_balance.accept_deletions('2026-02-01Z')$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION token_balance.archive_usage TO regress_tb_au_sweeper;
SET ROLE regress_tb_au_sweeper;
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z', 'old_usage')$$);
SELECT token_balance.archive_usage('2026-02-01Z') ->> 'usage_rows' AS usage_rows;
RESET ROLE;
ALTER TABLE old_usage OWNER TO regress_tb_au_owner;
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z', 'old_usage')$$);
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA au CASCADE;
DROP ROLE regress_tb_au_owner, regress_tb_au_sweeper;
