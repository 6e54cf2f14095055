-- Numbers to watch: token_balance.stat counts what commits, by what did it, and shows what waits (DESIGN R6, R7, R8, R10).
\set SHOW_CONTEXT never
\pset null '-'
SET client_min_messages = error;
CREATE SCHEMA st;
SET search_path = st, public;
-- the sessions of this database may have counted before: what a step adds is what is looked at (tokens: pg_test/scripts/stat.sh)
CREATE TABLE token_usage (workflow_id text NOT NULL, user_id text, total_tokens bigint NOT NULL, created_at timestamptz DEFAULT now());
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users VALUES ('ann'), ('bob');
CREATE EXTENSION token_balance SCHEMA st;
CREATE TABLE seen (name text, value numeric);
CREATE FUNCTION numbers() RETURNS TABLE (name text, value numeric) LANGUAGE sql AS $$
  SELECT n.key, n.value::numeric FROM token_balance.stat AS s,
    jsonb_each_text(to_jsonb(s) - '{since,scope,last_sweep,oldest_queued,last_archive,settlement_rows,ledger_rows,queued_charges,queued_tokens,bindings,binding_reads,tokens_charged}'::text[]) AS n
$$;
CREATE FUNCTION look() RETURNS void LANGUAGE sql AS $$ TRUNCATE st.seen; INSERT INTO st.seen SELECT * FROM st.numbers() $$;
CREATE VIEW added AS SELECT string_agg(n.name || ' ' || n.value - s.value, ', ' ORDER BY n.name) AS added
  FROM numbers() AS n JOIN seen AS s USING (name) WHERE n.value <> s.value;

SELECT since <= now() AS has_begun, scope = CASE WHEN current_setting('server_version_num')::int >= 170000 THEN 'server' ELSE 'session' END AS as_the_server_can,
  bindings, queued_charges, queued_tokens, oldest_queued, last_archive FROM token_balance.stat;

-- each way by its name; the balances are changed without SQL
SELECT look() \g /dev/null
INSERT INTO token_usage VALUES ('w1', 'ann', 10), ('w1', 'bob', 5), ('w2', 'ann', 7), ('w3', 'bob', 1), ('w4', 'bob', 2), ('w5', 'ann', 3);
INSERT INTO workflows VALUES ('w1', 'ann', 'completed'), ('w6', 'ann', 'completed');
SELECT added FROM added;
SELECT look() \g /dev/null
SELECT settle_workflow('w2') ->> 'status' AS status;
SELECT settle_workflow('w2') ->> 'status' AS status;
SELECT added FROM added;
SELECT look() \g /dev/null
SELECT count(*) FROM token_balance.settle_workflows('{w3,w4}');
SELECT added FROM added;
SELECT look() \g /dev/null
INSERT INTO token_usage VALUES ('w1', 'ann', 4);
SELECT token_balance.settle_pending() ->> 'charges' AS charges;
SELECT added FROM added;
SELECT last_sweep BETWEEN now() - interval '1 minute' AND now() AS just_now FROM token_balance.stat;
SELECT look() \g /dev/null
INSERT INTO token_usage VALUES ('w1', 'ann', 4);
CALL token_balance.settle_backlog();
SELECT added FROM added;

-- what is rolled back is not counted; of a transaction what its savepoints leave
SELECT look() \g /dev/null
BEGIN; SELECT settle_workflow('w5') ->> 'status' AS status; ROLLBACK;
SELECT added FROM added;
BEGIN;
SAVEPOINT a; SELECT settle_workflow('w5') ->> 'status' AS status; ROLLBACK TO a;
SELECT added FROM added;
SAVEPOINT b; SAVEPOINT c; INSERT INTO token_usage VALUES ('w7', 'bob', 8); SELECT settle_workflow('w7') ->> 'status' AS status; RELEASE c;
SAVEPOINT d; SELECT settle_workflow('w5') ->> 'status' AS status; ROLLBACK TO d; RELEASE b;
INSERT INTO token_usage VALUES ('w8', 'bob', 9); SELECT settle_workflow('w8') ->> 'status' AS status;
SELECT added FROM added;
COMMIT;
SELECT added FROM added;
-- a subtransaction that was released goes with the one around it
SELECT look() \g /dev/null
BEGIN;
SAVEPOINT a; SAVEPOINT b; SELECT settle_workflow('w5') ->> 'status' AS status; RELEASE b; ROLLBACK TO a;
COMMIT;
SELECT added FROM added;
DO $$ BEGIN
  FOR n IN 1..3 LOOP
    BEGIN
      INSERT INTO st.token_usage VALUES ('l' || n, 'ann', 1);
      PERFORM st.settle_workflow('l' || n);
      IF n = 2 THEN RAISE 'no'; END IF;
    EXCEPTION WHEN raise_exception THEN NULL;
    END;
  END LOOP;
END $$;
SELECT added FROM added;

-- a bad charge, an overdraft, and what only SQL can do
SELECT look() \g /dev/null
INSERT INTO token_usage VALUES ('w9', 'eve', 1), ('w10', 'ann', 2000000);
INSERT INTO workflows VALUES ('w9', 'ann', 'completed'), ('w10', 'ann', 'completed');
SELECT added FROM added;
SELECT look() \g /dev/null
SET token_balance.direct = off;
SELECT settle_workflow('w5') ->> 'status' AS status;
RESET token_balance.direct;
SELECT added FROM added;
-- tokens past bigint: they stay at the largest
ALTER TABLE users ALTER token_balance TYPE bigint;
UPDATE users SET token_balance = 9223372036854775807 WHERE id = 'bob';
INSERT INTO token_usage VALUES ('big1', 'bob', 9223372036854775807), ('big2', 'bob', 9223372036854775807);
SELECT settle_workflow('big1') ->> 'status' AS status;
UPDATE users SET token_balance = 9223372036854775807 WHERE id = 'bob';
SELECT settle_workflow('big2') ->> 'status' AS status;
SELECT tokens_charged FROM token_balance.stat;

-- usage that is late is charged at once, deletions are recorded, a busy account has a queue
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_created_at => 'created_at', late_usage => 'settle', deleted_usage => 'record', busy_account => 'queue') \g /dev/null
SELECT look() \g /dev/null
INSERT INTO token_usage VALUES ('w1', 'ann', 6);
SELECT added FROM added;
-- what was due is charged as it is deleted
SELECT token_balance.attach('users', 'token_usage', 'workflows', late_usage => 'pending', deleted_usage => 'record', busy_account => 'queue') \g /dev/null
INSERT INTO token_usage VALUES ('w1', 'ann', 6);
SELECT look() \g /dev/null
DELETE FROM token_usage WHERE workflow_id = 'w1';
SELECT added FROM added;
-- a transaction that keeps one snapshot leaves its charge; a sweep applies it
SELECT look() \g /dev/null
INSERT INTO token_usage VALUES ('q1', 'ann', 6);
BEGIN ISOLATION LEVEL REPEATABLE READ; UPDATE workflows SET status = 'running' WHERE id = 'w6'; INSERT INTO workflows VALUES ('q1', 'ann', 'completed'); COMMIT;
SELECT added FROM added;
SELECT queued_charges, queued_tokens, oldest_queued <= now() AS since_before FROM token_balance.stat;
SELECT look() \g /dev/null
SELECT token_balance.settle_pending() \g /dev/null
SELECT added FROM added;
SELECT queued_charges, queued_tokens, oldest_queued FROM token_balance.stat;

-- the planner's estimates, the last archive, and a binding that is read again
ANALYZE token_balance.settlement; ANALYZE token_balance.ledger;
SELECT settlement_rows = (SELECT count(*) FROM token_balance.settlement) AS settlements, ledger_rows = (SELECT count(*) FROM token_balance.ledger) AS entries FROM token_balance.stat;
SELECT token_balance.archive_usage(clock_timestamp()) ->> 'usage_rows' AS rows;
SELECT last_archive BETWEEN now() - interval '1 minute' AND now() AS just_now FROM token_balance.stat;
SELECT binding_reads AS before FROM token_balance.stat \gset
ALTER TABLE users ADD COLUMN note text;
BEGIN; SELECT token_balance.balance('ann') IS NULL AS none; ROLLBACK;
SELECT binding_reads > :before AS again FROM token_balance.stat;

-- who may read it: monitoring, and nobody besides; what it reads from it may not
CREATE ROLE st_monitor IN ROLE pg_monitor;
GRANT USAGE ON SCHEMA token_balance TO st_monitor;
CREATE ROLE st_nobody;
SET ROLE st_monitor;
SELECT bindings FROM token_balance.stat;
SELECT count(*) FROM token_balance.queue;
SELECT count(*) FROM token_balance.overdrawn;
SET ROLE st_nobody;
SELECT bindings FROM token_balance.stat;
RESET ROLE;
GRANT USAGE ON SCHEMA token_balance TO st_nobody;
SET ROLE st_nobody;
SELECT bindings FROM token_balance.stat;
SELECT since FROM token_balance.counters();
RESET ROLE;
-- nothing is attached: it is read all the same, also where nothing may be written
SELECT token_balance.detach() \g /dev/null
BEGIN READ ONLY; SELECT bindings, charges > 0 AS has_counted FROM token_balance.stat; COMMIT;

DROP EXTENSION token_balance CASCADE;
SET client_min_messages = error;
DROP SCHEMA st CASCADE;
DROP ROLE st_monitor, st_nobody;
