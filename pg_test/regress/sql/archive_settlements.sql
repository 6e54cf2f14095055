-- archive_settlements: settlements of which nothing is left end, and refunds bring them back from their archive; the procedure archive (DESIGN S9, V8, V9, V40, V41, V42, V43, V45, V46, V47, V48, V49, V54).
\set SHOW_CONTEXT never
\pset null '-'
SET client_min_messages = warning;
CREATE SCHEMA ase;
SET search_path = ase, public;
\i common/try.sql
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer, created_at timestamptz DEFAULT clock_timestamp());
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users VALUES ('ann'), ('bob'), ('cid');
-- from before the extension: exempt
INSERT INTO token_usage VALUES ('old', 'ann', 60);
CREATE EXTENSION token_balance SCHEMA ase;
CREATE TABLE old_ledger (LIKE token_balance.ledger);
CREATE TABLE ended (LIKE token_balance.settlement);
CREATE VIEW settled AS SELECT workflow_id, user_id, usage_tokens AS used, charged_tokens AS charged, refunded_tokens AS refunded,
  archived_charged_tokens AS a_charged, archived_refunded_tokens AS a_refunded, archived_usage_tokens AS a_used, binding_id AS b
  FROM token_balance.settlement;
CREATE VIEW problems AS SELECT problem, user_id, workflow_id, expected, found FROM token_balance.reconcile();
CREATE VIEW balances AS SELECT string_agg(id || ' ' || token_balance, ', ' ORDER BY id) AS balances FROM users;
-- the law: what is in a state, less what shrank and what is archived, is the usage
CREATE VIEW law AS SELECT string_agg(state || ' ' || tokens, ', ' ORDER BY state) AS states,
  sum(CASE WHEN state IN ('shrunk', 'archived') THEN -tokens ELSE tokens END) = (SELECT coalesce(sum(total_tokens), 0) FROM token_usage) AS holds FROM token_balance.usage_state();
-- the usage of workflows leaves, and their settlements know it
CREATE PROCEDURE prune(workflows text[]) LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM ase.token_usage WHERE workflow_id = ANY (workflows);
  PERFORM token_balance.accept_deletions(clock_timestamp(), binding => (SELECT min(name) FROM token_balance.binding WHERE usage = 'ase.token_usage'::regclass AND detached_at IS NULL));
END $$;
CREATE PROCEDURE ledger() LANGUAGE plpgsql AS $$BEGIN PERFORM token_balance.archive_ledger(clock_timestamp(), 'ase.old_ledger'); END$$;
CREATE PROCEDURE rename(old text, new text) LANGUAGE plpgsql AS $$
BEGIN
  UPDATE ase.workflows SET id = new WHERE id = old;
  UPDATE ase.token_usage SET workflow_id = new WHERE workflow_id = old;
END $$;
CREATE FUNCTION archive(max_workflows integer DEFAULT NULL, archive regclass DEFAULT 'ase.ended') RETURNS jsonb LANGUAGE sql AS
  'SELECT token_balance.archive_settlements(clock_timestamp(), archive, max_workflows => max_workflows)';

INSERT INTO token_usage VALUES ('w1', 'ann', 100), ('w1', 'bob', 10), ('w2', 'ann', 7), ('w3', 'bob', 4);
INSERT INTO workflows VALUES ('w1', 'ann', 'done'), ('w2', 'ann', 'done'), ('w3', 'bob', 'done');
SELECT token_balance.refund_workflow('w1', 11, 'ticket-1') ->> 'amount' AS refunded;
SELECT clock_timestamp() AS settled_by \gset

-- for good: nothing is kept of the ids of a workflow that was renamed
BEGIN;
INSERT INTO token_usage VALUES ('r0', 'bob', 30);
INSERT INTO workflows VALUES ('r0', 'bob', 'done');
CALL rename('r0', 'r9');
CALL ledger();
CALL prune('{r9}');
SELECT workflow_id, family FROM token_balance.workflow_alias ORDER BY 1;
SELECT archive(archive => NULL) -> 'workflows' AS ended;
SELECT count(*) AS aliases FROM token_balance.workflow_alias;
ROLLBACK;

-- refused: nulls, a time that is to come, numbers that make no sense, tables that cannot take settlements
CALL pg_temp.try($$SELECT token_balance.archive_settlements(NULL)$$);
CALL pg_temp.try($$SELECT token_balance.archive_settlements(now() + interval '1 minute')$$);
CALL pg_temp.try($$SELECT token_balance.archive_settlements(now(), max_workflows => 0)$$);
CALL pg_temp.try($$SELECT token_balance.archive_settlements(now(), binding => 'nothing')$$);
CALL pg_temp.try($$SELECT token_balance.archive_settlements(now(), 1::regclass)$$);
CALL pg_temp.try($$SELECT token_balance.archive_settlements(now(), 'token_balance.settlement')$$);
CALL pg_temp.try($$SELECT token_balance.archive_settlements(now(), 'settled')$$);
CALL pg_temp.try($$SELECT token_balance.archive_settlements(now(), 'old_ledger')$$);
CREATE UNLOGGED TABLE mine (LIKE token_balance.settlement);
CALL pg_temp.try($$SELECT token_balance.archive_settlements(now(), 'mine')$$);
DROP TABLE mine;
CREATE TABLE mine (LIKE token_balance.settlement);
ALTER TABLE mine ALTER archived_usage_tokens TYPE bigint;
CALL pg_temp.try($$SELECT token_balance.archive_settlements(now(), 'mine')$$);
DROP TABLE mine;
BEGIN READ ONLY;
SELECT token_balance.archive_settlements(now());
ROLLBACK;

-- nothing leaves too early, with one condition missing at a time: usage is there
SELECT archive();
CALL ledger();
SELECT archive();
-- the ledger is there, of what is settled meanwhile
INSERT INTO token_usage VALUES ('w4', 'cid', 5), ('w5', 'cid', 6);
INSERT INTO workflows VALUES ('w4', 'cid', 'done'), ('w5', 'cid', 'done');
CALL prune('{w4}');
SELECT archive();
-- a refund's entry is there
CALL ledger();
SELECT token_balance.refund_workflow('w4', 1) ->> 'amount' AS refunded;
SELECT archive();
-- usage went and was not recorded: reconcile tells of it
BEGIN;
CALL ledger();
DELETE FROM token_usage WHERE workflow_id = 'w5';
SELECT archive();
TABLE problems;
ROLLBACK;
-- some of it was recorded
BEGIN;
CALL ledger();
CALL prune('{w5}');
UPDATE token_balance.settlement SET archived_usage_tokens = 5 WHERE workflow_id = 'w5';
SELECT archive() -> 'workflows' AS w4_alone;
SELECT DISTINCT workflow_id FROM settled ORDER BY 1;
ROLLBACK;
-- too young
CALL ledger();
SELECT token_balance.archive_settlements('2000-01-01', 'ended');
SELECT token_balance.archive_settlements(:'settled_by', 'ended');
-- a charge that waits in the queue is an entry that is to come
SELECT token_balance.attach('users', 'token_usage', 'workflows', busy_account => 'queue');
INSERT INTO token_usage VALUES ('w6', 'cid', 2);
BEGIN ISOLATION LEVEL SERIALIZABLE;
INSERT INTO workflows VALUES ('w6', 'cid', 'done');
COMMIT;
SELECT count(*) AS queued FROM token_balance.queue;
CALL prune('{w6}');
BEGIN;
CALL ledger();
SELECT archive() -> 'workflows' AS w4_alone;
ROLLBACK;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT count(*) AS queued FROM token_balance.queue;

-- all is met of w1, w2, w4 and w6
CALL ledger();
CALL prune('{w1,w2,w6}');
TABLE settled ORDER BY 1, 2;
TABLE law;
TABLE problems;
CREATE TABLE before AS TABLE token_balance.settlement;
-- one at a time
SELECT archive(1);
SELECT workflow_id, user_id FROM ended ORDER BY 1, 2;
-- one whose usage is there stands in nobody's way
SELECT archive(2);
SELECT archive();
SELECT archive();
TABLE settled ORDER BY 1, 2;
TABLE law;
TABLE problems;
TABLE balances;
-- archive and table together are the whole
(TABLE ended UNION ALL TABLE token_balance.settlement) EXCEPT TABLE before;
SELECT (SELECT count(*) FROM before) = (SELECT count(*) FROM ended) + (SELECT count(*) FROM token_balance.settlement) AS as_many;
SELECT kind, archive, row_count, tokens FROM token_balance.archived ORDER BY binding_id, kind;

-- nobody is charged again; late usage of such a run is charged as new
SELECT settle_workflow('w1') ->> 'status' AS status;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
INSERT INTO token_usage VALUES ('w1', 'bob', 3);
TABLE problems;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS late;
SELECT * FROM settled WHERE workflow_id = 'w1';
TABLE balances;
TABLE law;
TABLE problems;

-- a refund whose reference was used is answered as the first time, though what paid is archived, or paid by another account since
SELECT token_balance.refund_workflow('w1', 11, 'ticket-1');
SELECT token_balance.refund_workflow('w1', reference => 'ticket-1') -> 'replayed' AS replayed;
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w1', 12, 'ticket-1')$$);
CALL pg_temp.try($$SELECT token_balance.credit('ann', 11, 'ticket-1')$$);
-- it has paid, and nobody knows it any more: the archive is named
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w2', 7)$$);
-- charged again since: more than that may have been paid before
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w1', 50)$$);
CALL pg_temp.try($$SELECT token_balance.refund_workflow('unheard', 7)$$);
CALL pg_temp.try($$SELECT token_balance.refund_workflow('unheard')$$);
SELECT token_balance.refund_workflow('w2') -> 'refunds' AS nothing;
-- with it, the settlement comes back and is refunded; a retry by reference; what fails leaves the archive as it was
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w2', 8, 'ticket-2', archive => 'ended')$$);
SELECT count(*) AS stayed FROM ended WHERE workflow_id = 'w2';
SELECT token_balance.refund_workflow('w2', 3, 'ticket-2', archive => 'ended');
SELECT count(*) AS stayed FROM ended WHERE workflow_id = 'w2';
SELECT * FROM settled WHERE workflow_id = 'w2';
TABLE problems;
TABLE law;
SELECT token_balance.refund_workflow('w2', 3, 'ticket-2', archive => 'ended') -> 'replayed' AS replayed;
SELECT token_balance.refund_workflow('w2', 3, 'ticket-2') -> 'replayed' AS replayed;
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w2', 5, archive => 'ended')$$);
-- archived once more, and the reference stays; it brings nothing back
CALL ledger();
SELECT archive() -> 'workflows' AS again;
SELECT token_balance.refund_workflow('w2', 3, 'ticket-2') -> 'replayed' AS replayed, token_balance.refund_workflow('w2', 3, 'ticket-2', archive => 'ended') -> 'replayed' AS replayed;
SELECT count(*) AS stayed FROM ended WHERE workflow_id = 'w2';
SELECT token_balance.refund_workflow('w2', archive => 'ended') ->> 'amount' AS the_rest;
-- to both who paid, added to what was settled since; twice ended, it comes back as one
CALL ledger();
CALL prune('{w1}');
SELECT archive() -> 'settlements' AS w1_and_w2;
SELECT user_id, usage_tokens, charged_tokens FROM ended WHERE workflow_id = 'w1' ORDER BY 1, 2;
INSERT INTO token_usage VALUES ('w1', 'bob', 2);
SELECT settle_workflow('w1') ->> 'tokens_used' AS late;
SELECT token_balance.refund_workflow('w1', 24, 'ticket-3', archive => 'ended') -> 'refunds' AS refunds;
SELECT * FROM settled WHERE workflow_id = 'w1' ORDER BY 1, 2;
SELECT settle_workflow('w1') ->> 'status' AS status;
TABLE problems;
TABLE law;
-- in an archive where there is none, and of what nobody knows
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w3', 1000, archive => 'ended')$$);
CALL pg_temp.try($$SELECT token_balance.refund_workflow('unheard', archive => 'ended')$$);

-- what is all exempt has no time: that of attach and of the last exemption count
INSERT INTO token_usage VALUES ('open', 'cid', 9);
SELECT token_balance.exempt_pending();
CALL prune('{old,open}');
SELECT workflow_id, used, charged, a_used FROM settled WHERE workflow_id IN ('old', 'open') ORDER BY 1;
BEGIN;
UPDATE token_balance.exemption SET exempted_at = exempted_at + interval '1 hour';
SELECT archive() -> 'workflows' AS ended;
ROLLBACK;
SELECT archive() -> 'workflows' AS ended;
TABLE problems;

-- for good
CALL prune('{w3}');
SELECT archive(archive => NULL);
TABLE settled ORDER BY 1, 2;
SELECT kind, archive, row_count, tokens FROM token_balance.archived WHERE kind = 'settlement' ORDER BY archive;
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w3', 4)$$);
-- an archive that is named has to have it, whatever amount is asked for
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w3', archive => 'ase.ended')$$);
BEGIN;
DELETE FROM token_balance.archived WHERE archive <> '';
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w3', 4)$$);
ROLLBACK;

-- an account that gets another id: its entries are under the old one
INSERT INTO token_usage VALUES ('a1', 'ann', 20);
INSERT INTO workflows VALUES ('a1', 'ann', 'done');
UPDATE token_usage SET user_id = 'anna' WHERE user_id = 'ann';
UPDATE users SET id = 'anna' WHERE id = 'ann';
CALL ledger();
CALL prune('{a1}');
SELECT * FROM settled WHERE workflow_id = 'a1' ORDER BY 2;
SELECT archive();
TABLE problems;
SELECT token_balance.refund_workflow('a1', 5, 'ticket-4', archive => 'ended') -> 'refunds' -> 0 ->> 'user_id' AS who;
SELECT * FROM settled WHERE workflow_id = 'a1' ORDER BY 2;
TABLE problems;
-- one that gets it afterwards is known by the old one there: nothing is given to nobody
CALL ledger();
SELECT archive();
UPDATE users SET id = 'ann' WHERE id = 'anna';
CALL pg_temp.try($$SELECT token_balance.refund_workflow('a1', 5, archive => 'ended')$$);
SELECT token_balance.refund_workflow('a1', 5, 'ticket-4') -> 'replayed' AS replayed;
UPDATE ended SET user_id = 'ann' WHERE user_id = 'anna';
SELECT token_balance.refund_workflow('a1', 5, archive => 'ended') -> 'refunds' -> 0 ->> 'user_id' AS who;
TABLE problems;

-- a workflow that gets another id: all of its ids leave together, and come back so
INSERT INTO token_usage VALUES ('r1', 'bob', 30);
INSERT INTO workflows VALUES ('r1', 'bob', 'done');
SELECT token_balance.refund_workflow('r1', 1, 'ticket-5') ->> 'amount' AS refunded;
BEGIN;
UPDATE workflows SET id = 'r2' WHERE id = 'r1';
UPDATE token_usage SET workflow_id = 'r2' WHERE workflow_id = 'r1';
COMMIT;
CALL ledger();
SELECT * FROM settled WHERE workflow_id LIKE 'r_' ORDER BY 1;
SELECT archive() -> 'workflows' AS a1_alone;
CALL prune('{r2}');
-- usage of one of the ids keeps all of them
INSERT INTO token_usage VALUES ('r1', 'bob', 1);
SELECT archive() -> 'workflows' AS usage_is_there;
DELETE FROM token_usage WHERE workflow_id = 'r1';
SELECT archive();
TABLE problems;
SELECT workflow_id, family, became FROM token_balance.workflow_alias ORDER BY 1;
SELECT token_balance.refund_workflow('r2', 1, 'ticket-5') -> 'replayed' AS by_the_new, token_balance.refund_workflow('r1', 1, 'ticket-5') -> 'replayed' AS by_the_old;
SELECT token_balance.refund_workflow('r1', 4, archive => 'ended') -> 'amount' AS by_the_old;
SELECT * FROM settled WHERE workflow_id LIKE 'r_' ORDER BY 1;
TABLE problems;
-- for good the aliases stay where an entry or a reference has one of the ids
CALL ledger();
SELECT archive(archive => NULL) -> 'workflows' AS ended;
SELECT count(*) AS aliases FROM token_balance.workflow_alias;
-- and unless an archive may have settlements of one: once more for good, and then they come back, of both ids
BEGIN;
INSERT INTO token_usage VALUES ('r3', 'bob', 30);
INSERT INTO workflows VALUES ('r3', 'bob', 'done');
CALL rename('r3', 'r4');
SELECT token_balance.refund_workflow('r4', 7) ->> 'amount' AS refunded;
CALL ledger();
CALL prune('{r4}');
SELECT archive() -> 'workflows' AS kept;
INSERT INTO token_usage VALUES ('r4', 'cid', 2);
SELECT settle_workflow('r4') ->> 'status' AS status;
CALL ledger();
CALL prune('{r4}');
SELECT archive(archive => NULL) -> 'workflows' AS for_good;
SELECT workflow_id FROM token_balance.workflow_alias WHERE workflow_id IN ('r3', 'r4') ORDER BY 1;
SELECT token_balance.refund_workflow('r4', 3, archive => 'ended') ->> 'amount' AS refunded;
SELECT * FROM settled WHERE workflow_id IN ('r3', 'r4') ORDER BY 1, 2;
TABLE problems;
ROLLBACK;

-- an archive that does not take all, or gives and keeps
INSERT INTO token_usage VALUES ('s1', 'cid', 1), ('s2', 'bob', 2);
INSERT INTO workflows VALUES ('s1', 'cid', 'done'), ('s2', 'bob', 'done');
CALL ledger();
CALL prune('{s1,s2}');
CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF coalesce(NEW.user_id, OLD.user_id) = 'cid' THEN RETURN NULL; END IF; RETURN coalesce(NEW, OLD); END$$;
CREATE TABLE mine (note text DEFAULT 'mine', LIKE token_balance.settlement);
CREATE TRIGGER swallow BEFORE INSERT OR DELETE ON mine FOR EACH ROW EXECUTE FUNCTION swallow();
CALL pg_temp.try($$SELECT ase.archive(archive => 'ase.mine')$$);
CREATE RULE swallow AS ON INSERT TO mine DO INSTEAD NOTHING;
CALL pg_temp.try($$SELECT ase.archive(archive => 'ase.mine')$$);
DROP RULE swallow ON mine;
ALTER TABLE mine DISABLE TRIGGER swallow;
SELECT count(*) AS stayed FROM settled WHERE workflow_id IN ('s1', 's2');
SELECT archive(archive => 'mine') -> 'settlements' AS settlements;
ALTER TABLE mine ENABLE TRIGGER swallow;
CALL pg_temp.try($$SELECT token_balance.refund_workflow('s1', archive => 'ase.mine')$$);
SELECT note, workflow_id FROM mine ORDER BY 2;
ALTER TABLE mine DISABLE TRIGGER swallow;
SELECT token_balance.refund_workflow('s1', archive => 'mine') ->> 'amount' AS refunded;

-- who: nobody but a superuser, until it is granted; then to a table of one's own. A hostile owner's trigger runs as him
CREATE ROLE regress_tb_archivist;
CREATE ROLE regress_tb_refunder;
GRANT USAGE ON SCHEMA token_balance, ase TO regress_tb_archivist, regress_tb_refunder;
INSERT INTO token_usage VALUES ('p1', 'cid', 1), ('p2', 'bob', 2);
INSERT INTO workflows VALUES ('p1', 'cid', 'done'), ('p2', 'bob', 'done');
CALL ledger();
CALL prune('{p1,p2}');
CREATE TABLE vault (LIKE token_balance.settlement);
SET ROLE regress_tb_archivist;
CALL pg_temp.try($$SELECT token_balance.archive_settlements(now(), 'ase.vault')$$);
CALL pg_temp.try($$CALL token_balance.archive('1 day')$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION token_balance.archive_settlements TO regress_tb_archivist;
SET ROLE regress_tb_archivist;
CALL pg_temp.try($$SELECT token_balance.archive_settlements(now(), 'ase.vault')$$);
RESET ROLE;
ALTER TABLE vault OWNER TO regress_tb_archivist;
GRANT CREATE ON SCHEMA ase TO regress_tb_archivist, regress_tb_refunder;
SET ROLE regress_tb_archivist;
CREATE TABLE seen (what text, who text);
CREATE FUNCTION evil() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE attempt text;
BEGIN
  FOREACH attempt IN ARRAY ARRAY['ALTER ROLE regress_tb_archivist SUPERUSER', 'RESET ROLE', 'DELETE FROM token_balance.settlement',
    'UPDATE ase.users SET token_balance = 1', 'SET ROLE regress_tb_refunder', 'CREATE TEMP TABLE left_behind ()'] LOOP
    BEGIN
      EXECUTE attempt;
      INSERT INTO ase.seen VALUES (TG_OP || ', ' || attempt || ': done', current_user);
    EXCEPTION WHEN OTHERS THEN INSERT INTO ase.seen VALUES (TG_OP || ', ' || attempt || ': ' || SQLSTATE, current_user);
    END;
  END LOOP;
  RETURN coalesce(NEW, OLD);
END $$;
CREATE TRIGGER evil BEFORE INSERT OR DELETE ON vault FOR EACH ROW EXECUTE FUNCTION evil();
RESET ROLE;
SELECT token_balance.archive_settlements(clock_timestamp(), 'vault') - 'archive' AS archived;
SELECT token_balance.refund_workflow('p1', archive => 'vault') ->> 'amount' AS refunded;
SELECT DISTINCT what, who FROM seen ORDER BY 1;
-- who may refund makes no archive up: it is one where settlements of the binding went, and his own
GRANT EXECUTE ON FUNCTION token_balance.refund_workflow(text, numeric, text, text, name, regclass) TO regress_tb_refunder;
SET ROLE regress_tb_refunder;
CALL pg_temp.try($$SELECT token_balance.refund_workflow('p2', archive => 'ase.vault')$$);
CREATE TABLE ase.made_up (workflow_id text, user_id text, usage_tokens bigint, charged_tokens bigint, refunded_tokens bigint, first_settled_at timestamptz, last_settled_at timestamptz,
  archived_charged_tokens bigint, archived_refunded_tokens bigint, binding_id smallint, corrected_tokens bigint, archived_usage_tokens numeric);
INSERT INTO ase.made_up VALUES ('p2', 'bob', 1000, 1000, 0, now(), now(), 1000, 0, 1, 0, 1000);
CALL pg_temp.try($$SELECT token_balance.refund_workflow('p2', archive => 'ase.made_up')$$);
RESET ROLE;
ALTER TABLE ended OWNER TO regress_tb_refunder;
ALTER TABLE vault OWNER TO regress_tb_refunder;
DROP TRIGGER evil ON vault;
SET ROLE regress_tb_refunder;
SELECT token_balance.refund_workflow('p2', archive => 'ase.vault') ->> 'amount' AS refunded;
RESET ROLE;
-- an archive that lost a column since
ALTER TABLE vault DROP corrected_tokens;
CALL pg_temp.try($$SELECT token_balance.refund_workflow('p2', 1, archive => 'ase.vault')$$);
TABLE problems;

-- where the workflow's account pays, its settlements stand for one usage, which is rounded as one; in two bindings each has its own
SELECT token_balance.detach();
CREATE TABLE calls (run text, tokens numeric, created_at timestamptz DEFAULT clock_timestamp());
CREATE TABLE runs (id text, payer text, status text);
SELECT token_balance.attach('users', 'calls', 'runs', usage_user => NULL, usage_workflow => 'run', usage_tokens => '{tokens}', workflow_user => 'payer', name => 'calls');
SELECT token_balance.attach('users', 'token_usage', 'workflows', name => 'usage');
INSERT INTO calls VALUES ('both', 1.4), ('both', 1.3);
INSERT INTO runs VALUES ('both', 'ann', 'done');
INSERT INTO calls VALUES ('both', 2.5);
INSERT INTO runs VALUES ('both', 'bob', 'done');
INSERT INTO token_usage VALUES ('both', 'cid', 8);
INSERT INTO workflows VALUES ('both', 'cid', 'done');
SELECT settle_workflow('both', 'calls') ->> 'status' AS calls;
SELECT b.name, s.user_id, s.usage_tokens FROM token_balance.settlement s JOIN token_balance.binding b USING (binding_id) WHERE workflow_id = 'both' ORDER BY 1, 2;
CALL ledger();
CREATE FUNCTION two(binding text, max_workflows integer DEFAULT NULL) RETURNS text LANGUAGE sql AS
  $$SELECT token_balance.archive_settlements(clock_timestamp(), 'ase.ended', binding, max_workflows) - 'archive'$$;
SELECT two(NULL), two('calls'), two('usage');
-- its usage leaves: recorded with one of the two
DELETE FROM calls;
SELECT two('calls');
SELECT token_balance.accept_deletions(clock_timestamp(), binding => 'calls') -> 'tokens' AS accepted;
SELECT user_id, usage_tokens, archived_usage_tokens FROM token_balance.settlement WHERE workflow_id = 'both' ORDER BY 1;
SELECT two('usage'), two('calls');
TABLE problems;
CALL prune('{both}');
SELECT two(NULL);
CALL pg_temp.try($$SELECT token_balance.refund_workflow('both', 1, 'ticket-6', archive => 'ase.ended')$$);
SELECT token_balance.refund_workflow('both', reference => 'ticket-6', archive => 'ended') -> 'refunds' AS refunds;
SELECT token_balance.refund_workflow('both', reference => 'ticket-6') -> 'replayed' AS replayed;
CALL ledger();
SELECT two(NULL, 1), two(NULL, 1), two(NULL, 1);
SELECT jsonb_array_length(token_balance.refund_workflow('both', reference => 'ticket-6') -> 'refunds') AS replayed;
SELECT token_balance.refund_workflow('both', 8, 'ticket-6', binding => 'usage') -> 'refunds' AS replayed;
TABLE problems;
SELECT token_balance.detach(name => 'calls');
-- where the usage names the account, each settlement is rounded by itself
CREATE TABLE parts (workflow_id text, user_id text, total_tokens numeric);
SELECT token_balance.attach('users', 'parts', name => 'parts');
INSERT INTO parts VALUES ('half', 'ann', 0.5), ('half', 'bob', 0.5);
SELECT settle_workflow('half', 'parts') ->> 'tokens_used' AS tokens_used;
CALL ledger();
DELETE FROM parts;
UPDATE token_balance.settlement SET archived_usage_tokens = 0.5 WHERE workflow_id = 'half' AND user_id = 'ann';
SELECT two('parts');
UPDATE token_balance.settlement SET archived_usage_tokens = 0.5 WHERE workflow_id = 'half' AND user_id = 'bob';
SELECT two('parts');
SELECT user_id, usage_tokens, archived_usage_tokens FROM ended WHERE workflow_id = 'half' ORDER BY 1;
SELECT token_balance.detach(name => 'parts');

-- usage is looked for under the ids of each workflow, of which one may be behind those of others (V41)
INSERT INTO token_usage VALUES ('v1', 'bob', 1), ('v2', 'bob', 1);
INSERT INTO workflows VALUES ('v1', 'bob', 'done'), ('v2', 'bob', 'done');
BEGIN;
UPDATE workflows SET id = 'v3' WHERE id = 'v1';
UPDATE token_usage SET workflow_id = 'v3' WHERE workflow_id = 'v1';
COMMIT;
CALL ledger();
CALL prune('{v2,v3}');
INSERT INTO token_usage VALUES ('v2', NULL, 5);
SELECT archive() -> 'workflows' AS renamed;
SELECT workflow_id FROM settled WHERE workflow_id LIKE 'v_';
DELETE FROM token_usage WHERE workflow_id = 'v2';
SELECT archive() -> 'workflows' AS other;

-- more than are locked singly, in any isolation level; the aliases of none
INSERT INTO token_usage SELECT 'm' || n, 'cid', 1 FROM generate_series(1, 1500) n;
INSERT INTO workflows SELECT 'm' || n, 'cid', 'done' FROM generate_series(1, 1500) n;
CALL ledger();
SELECT array_agg('m' || n) AS many FROM generate_series(1, 1500) n \gset
CALL prune(:'many');
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT archive(1200) -> 'workflows' AS workflows;
SELECT count(*) AS locks_out FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'users'::regclass AND mode = 'ShareRowExclusiveLock';
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT archive(900) - 'archive' AS archived;
SELECT count(*) AS locks_out FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'users'::regclass AND mode = 'ShareRowExclusiveLock';
ROLLBACK;
SELECT archive() - 'archive' AS archived;
SELECT count(*) AS left FROM settled WHERE workflow_id LIKE 'm%';
TABLE problems;

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA ase CASCADE;
DROP ROLE regress_tb_archivist, regress_tb_refunder;
