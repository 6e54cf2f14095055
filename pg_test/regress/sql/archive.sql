-- archive_ledger: old entries move to a table of the DBA's; statement, balance_at, references, refunds and reconcile hold (DESIGN S9, V1, V3, V4, V5, V6, V7, V9, V15, V16, V17, V18, V19, V20).
\set SHOW_CONTEXT never
\pset null '-'
SET client_min_messages = warning;
CREATE SCHEMA ar;
SET search_path = ar, public;
\i common/try.sql
\i common/tables.sql
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users VALUES ('ann'), ('bob'), ('cid');
CREATE EXTENSION token_balance SCHEMA ar;
CREATE TABLE old_ledger (LIKE token_balance.ledger);
CREATE VIEW entries AS SELECT l.user_id, l.entry_id, l.kind, l.amount, l.previous_balance, l.new_balance, l.workflow_id, l.reference, l.note
  FROM token_balance.ledger l;
CREATE VIEW problems AS SELECT problem, user_id, workflow_id, expected, found FROM token_balance.reconcile() ORDER BY 1, 2, 3;
-- archive and ledger together are the whole ledger
CREATE VIEW whole AS SELECT user_id, entry_id, amount, previous_balance, new_balance FROM old_ledger
  UNION ALL SELECT user_id, entry_id, amount, previous_balance, new_balance FROM token_balance.ledger WHERE kind <> 'opening';
CREATE VIEW gaps AS SELECT * FROM (SELECT *, lag(new_balance) OVER (PARTITION BY user_id ORDER BY entry_id) AS before FROM whole) w WHERE before <> previous_balance;

INSERT INTO token_usage VALUES ('w1', 'ann', 100), ('w1', 'bob', 10), ('w2', 'ann', 7), ('w3', 'bob', 4);
INSERT INTO workflows VALUES ('w1', 'ann', 'done'), ('w2', 'ann', 'done');
SELECT token_balance.credit('ann', 50, 'pay-1', 'card') ->> 'new_balance' AS credited;
SELECT token_balance.refund_workflow('w1', 11, 'ticket-1') ->> 'amount' AS refunded;
UPDATE users SET token_balance = token_balance + 1 WHERE id = 'bob';
SELECT clock_timestamp() AS middle \gset
INSERT INTO workflows VALUES ('w3', 'bob', 'done');
INSERT INTO token_usage VALUES ('w2', 'ann', 3);
SELECT settle_workflow('w2') ->> 'tokens_used' AS late;
TABLE entries ORDER BY user_id, entry_id;
CREATE TABLE before AS TABLE entries;

-- refused: nulls, a time that is to come, tables that cannot take entries
CALL pg_temp.try($$SELECT token_balance.archive_ledger(NULL, 'old_ledger')$$);
CALL pg_temp.try($$SELECT token_balance.archive_ledger(now(), NULL)$$);
CALL pg_temp.try($$SELECT token_balance.archive_ledger(now() + interval '1 minute', 'old_ledger')$$);
CALL pg_temp.try($$SELECT token_balance.archive_ledger('infinity', 'old_ledger')$$);
CALL pg_temp.try($$SELECT token_balance.archive_ledger(now(), 'nothing')$$);
CALL pg_temp.try($$SELECT token_balance.archive_ledger(now(), 1::regclass)$$);
CALL pg_temp.try($$SELECT token_balance.archive_ledger(now(), 'token_balance.ledger')$$);
CREATE TABLE child () INHERITS (token_balance.ledger);
CALL pg_temp.try($$SELECT token_balance.archive_ledger(now(), 'child')$$);
DROP TABLE child;
CALL pg_temp.try($$SELECT token_balance.archive_ledger(now(), 'entries')$$);
CREATE UNLOGGED TABLE mine (LIKE token_balance.ledger);
CALL pg_temp.try($$SELECT token_balance.archive_ledger(now(), 'mine')$$);
DROP TABLE mine;
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
CREATE FOREIGN TABLE mine (user_id text) SERVER nowhere;
CALL pg_temp.try($$SELECT token_balance.archive_ledger(now(), 'mine')$$);
DROP FOREIGN DATA WRAPPER nowhere CASCADE;
CALL pg_temp.try($$SELECT token_balance.archive_ledger(now(), 'users')$$);
CREATE TABLE mine (LIKE token_balance.ledger);
ALTER TABLE mine ALTER amount TYPE integer;
CALL pg_temp.try($$SELECT token_balance.archive_ledger(now(), 'mine')$$);
ALTER TABLE mine DROP amount, ADD amount bigint GENERATED ALWAYS AS (new_balance - previous_balance) STORED;
CALL pg_temp.try($$SELECT token_balance.archive_ledger(now(), 'mine')$$);
-- what it refuses row by row: a check, a column without a value, a trigger, a rule; nothing is lost
ALTER TABLE mine DROP amount, ADD amount bigint CHECK (amount > 0);
CALL pg_temp.try($$SELECT token_balance.archive_ledger(now(), 'mine')$$);
DROP TABLE mine;
CREATE TABLE mine (LIKE token_balance.ledger, batch integer NOT NULL);
CALL pg_temp.try($$SELECT token_balance.archive_ledger(now(), 'mine')$$);
ALTER TABLE mine DROP batch;
CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF NEW.kind = 'credit' THEN RETURN NULL; END IF; RETURN NEW; END$$;
CREATE TRIGGER swallow BEFORE INSERT ON mine FOR EACH ROW EXECUTE FUNCTION swallow();
CALL pg_temp.try($$SELECT token_balance.archive_ledger(now(), 'mine')$$);
DROP TRIGGER swallow ON mine;
CREATE RULE swallow AS ON INSERT TO mine DO INSTEAD NOTHING;
CALL pg_temp.try($$SELECT token_balance.archive_ledger(now(), 'mine')$$);
DROP TABLE mine;
BEGIN READ ONLY;
SELECT token_balance.archive_ledger(now(), 'old_ledger');
ROLLBACK;
TABLE entries EXCEPT TABLE before;

-- nothing is that old
SELECT token_balance.archive_ledger('-infinity', 'old_ledger'), token_balance.archive_ledger('2000-01-01', 'old_ledger');
TABLE entries EXCEPT TABLE before;
-- what is older than the middle
SELECT token_balance.archive_ledger(:'middle', 'old_ledger');
SELECT entry_id, user_id, kind, amount, previous_balance, new_balance, workflow_id, reference, note FROM old_ledger ORDER BY user_id, entry_id;
TABLE entries ORDER BY user_id, entry_id;
SELECT count(*) AS same_time FROM old_ledger o JOIN token_balance.ledger l USING (user_id, entry_id, created_at, new_balance) WHERE l.kind = 'opening';
TABLE gaps;
TABLE problems;
SELECT workflow_id, user_id, charged_tokens, refunded_tokens, archived_charged_tokens, archived_refunded_tokens FROM token_balance.settlement ORDER BY 1, 2;
-- again: nothing
SELECT token_balance.archive_ledger(:'middle', 'old_ledger');

-- the past that is left, and the past that is not
SELECT kind, amount, previous_balance, new_balance, workflow_id FROM token_balance.statement('ann');
SELECT kind, amount, previous_balance, new_balance FROM token_balance.statement('bob', since => :'middle');
SELECT token_balance.balance_at('ann', :'middle') AS ann, token_balance.balance_at('bob', :'middle') AS bob, token_balance.balance_at('cid', '2000-01-01') AS cid;
CALL pg_temp.try($$SELECT token_balance.balance_at('ann', '2000-01-01')$$);
CALL pg_temp.try($$SELECT count(*) FROM token_balance.statement('ann', until => '2000-01-01')$$);
SELECT count(*) FROM token_balance.statement('cid', until => '2000-01-01');

-- references that are archived stay used: a retry is answered as the first time, another use refused
SELECT token_balance.credit('ann', 50, 'pay-1');
SELECT token_balance.refund_workflow('w1', 11, 'ticket-1');
CALL pg_temp.try($$SELECT token_balance.credit('ann', 51, 'pay-1')$$);
CALL pg_temp.try($$SELECT token_balance.credit('ann', 1, 'ticket-1')$$);
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w2', 1, 'pay-1')$$);
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w1', 12, 'ticket-1')$$);
-- a refund of an archived workflow knows what is left; settled again it charges late usage only
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w1', 100)$$);
SELECT token_balance.refund_workflow('w1') ->> 'amount' AS the_rest;
INSERT INTO token_usage VALUES ('w1', 'bob', 2);
SELECT settle_workflow('w1') ->> 'tokens_used' AS late, settle_workflow('w2') ->> 'status' AS w2;
TABLE problems;

-- a second period, to a table of its own that has more columns: partitioned, an identity, no order in common
CREATE TABLE newer (accounts_id smallint, binding_id smallint, period text DEFAULT 'second', created_at timestamptz, actor text, note text, reference text, workflow_id text, new_balance bigint,
  previous_balance bigint, amount bigint, kind text, entry_id bigint GENERATED ALWAYS AS IDENTITY, user_id text) PARTITION BY LIST (kind);
CREATE TABLE newer_settlement PARTITION OF newer FOR VALUES IN ('settlement');
CREATE TABLE newer_rest PARTITION OF newer DEFAULT;
SELECT clock_timestamp() AS later \gset
SELECT token_balance.archive_ledger(:'later', 'newer');
SELECT tableoid::regclass, period, user_id, kind, amount, previous_balance, new_balance FROM newer ORDER BY user_id, entry_id;
-- one opening entry per account
TABLE entries ORDER BY user_id, entry_id;
TABLE problems;
-- reconcile still sees a settlement that was changed by hand, also one that is gone
UPDATE token_balance.settlement SET charged_tokens = 8 WHERE workflow_id = 'w2';
TABLE problems;
UPDATE token_balance.settlement SET charged_tokens = 10 WHERE workflow_id = 'w2';
UPDATE users SET token_balance = token_balance - 4 WHERE id = 'bob';
BEGIN;
DELETE FROM token_balance.settlement WHERE workflow_id = 'w3';
TABLE problems;
ROLLBACK;

-- an account is renamed, one is deleted and comes back: their chains go on from the opening entry
UPDATE token_usage SET user_id = 'anna' WHERE user_id = 'ann';
UPDATE users SET id = 'anna' WHERE id = 'ann';
DELETE FROM users WHERE id = 'bob';
INSERT INTO users VALUES ('bob');
SELECT user_id, kind, amount, previous_balance, new_balance FROM entries WHERE kind <> 'opening' ORDER BY user_id, entry_id;
SELECT count(*) AS renamed FROM token_balance.settlement WHERE user_id = 'anna' AND archived_charged_tokens > 0;
TABLE problems;
-- entries of the old id, whose settlements have the new one
INSERT INTO token_usage VALUES ('w5', 'anna', 5);
INSERT INTO workflows VALUES ('w5', 'anna', 'done');
UPDATE token_usage SET user_id = 'ann' WHERE user_id = 'anna';
UPDATE users SET id = 'ann' WHERE id = 'anna';
-- at one go with what is older
SELECT token_balance.archive_ledger(clock_timestamp(), 'newer') - 'archive' AS archived;
TABLE problems;
SELECT user_id, usage_tokens, charged_tokens, archived_charged_tokens FROM token_balance.settlement WHERE workflow_id = 'w5' ORDER BY 1;
SELECT settle_workflow('w5') ->> 'status' AS status;
SELECT token_balance.refund_workflow('w5') ->> 'amount' AS refunded;
TABLE problems;

-- the guards stand, also right after an archiver that failed, and for the roles that write everything
CALL pg_temp.try($$SELECT token_balance.archive_ledger(now(), 'users')$$);
CALL pg_temp.try($$DELETE FROM token_balance.ledger$$);
CALL pg_temp.try($$UPDATE token_balance.ledger SET kind = 'opening'$$);
CALL pg_temp.try($$TRUNCATE token_balance.ledger$$);
SELECT count(*) AS open FROM token_balance.verify() WHERE name = 'ledger guard' AND NOT ok;
ALTER TABLE token_balance.archived_reference DISABLE TRIGGER owner_only;
SELECT detail, hint FROM token_balance.verify() WHERE name = 'ledger guard';
ALTER TABLE token_balance.archived_reference ENABLE ALWAYS TRIGGER owner_only;

-- who: nobody but a superuser, until it is granted; then to a table of one's own
CREATE ROLE regress_tb_archivist;
CREATE ROLE regress_tb_mallory;
GRANT USAGE ON SCHEMA token_balance, ar TO regress_tb_archivist, regress_tb_mallory;
GRANT CREATE ON SCHEMA ar TO regress_tb_mallory;
UPDATE users SET token_balance = token_balance + 1;
CREATE TABLE vault (LIKE token_balance.ledger);
SET ROLE regress_tb_archivist;
CALL pg_temp.try($$SELECT token_balance.archive_ledger(now(), 'ar.vault')$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION token_balance.archive_ledger TO regress_tb_archivist;
GRANT INSERT ON vault TO regress_tb_archivist;
SET ROLE regress_tb_archivist;
CALL pg_temp.try($$SELECT token_balance.archive_ledger(now(), 'ar.vault')$$);
RESET ROLE;
ALTER TABLE vault OWNER TO regress_tb_archivist;
SET ROLE regress_tb_archivist;
SELECT token_balance.archive_ledger(clock_timestamp(), 'ar.vault');
RESET ROLE;
SELECT DISTINCT note, actor FROM token_balance.ledger WHERE kind = 'opening' AND note LIKE '%vault%';

-- a hostile owner of the archive: his trigger, default and check run as him, and can neither write elsewhere as somebody else, nor
-- change the ledger while it is being archived, nor leave a trigger behind for the end of the superuser's transaction
CREATE TABLE trap (LIKE token_balance.ledger);
ALTER TABLE trap OWNER TO regress_tb_mallory;
SET ROLE regress_tb_mallory;
CREATE TABLE seen (what text, who text);
CREATE FUNCTION evil() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE attempt text;
BEGIN
  INSERT INTO ar.seen VALUES ('trigger', current_user);
  FOREACH attempt IN ARRAY ARRAY['ALTER ROLE regress_tb_mallory SUPERUSER', 'RESET ROLE', 'RESET SESSION AUTHORIZATION', 'DELETE FROM token_balance.ledger',
    'UPDATE token_balance.settlement SET usage_tokens = 0', 'UPDATE ar.users SET token_balance = 1', 'SET ROLE regress_tb_archivist'] LOOP
    BEGIN
      EXECUTE attempt;
      INSERT INTO ar.seen VALUES (attempt || ': done', current_user);
    EXCEPTION WHEN OTHERS THEN INSERT INTO ar.seen VALUES (attempt || ': ' || SQLSTATE, current_user);
    END;
  END LOOP;
  RETURN NEW;
END $$;
CREATE TRIGGER evil BEFORE INSERT ON trap FOR EACH ROW EXECUTE FUNCTION evil();
RESET ROLE;
UPDATE users SET token_balance = token_balance + 1;
SELECT token_balance.archive_ledger(clock_timestamp(), 'trap') - 'archive' AS archived;
SELECT DISTINCT what, who FROM seen ORDER BY 1;
SELECT rolsuper FROM pg_roles WHERE rolname = 'regress_tb_mallory';
SELECT current_user = session_user AS restored;
SET ROLE regress_tb_mallory;
DROP TRIGGER evil ON trap;
CREATE CONSTRAINT TRIGGER evil AFTER INSERT ON trap DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION evil();
RESET ROLE;
UPDATE users SET token_balance = token_balance + 1;
CALL pg_temp.try($$SELECT token_balance.archive_ledger(clock_timestamp(), 'trap')$$);
SELECT count(*) AS stayed FROM token_balance.ledger WHERE kind <> 'opening';
TABLE problems;

-- after detach the ledger is there still, and can be archived; many entries and many accounts, in any isolation level
DROP TABLE trap;
SELECT token_balance.archive_ledger(clock_timestamp(), 'old_ledger') - 'archive' AS archived;
INSERT INTO users SELECT 'u' || i FROM generate_series(1, 1500) i;
UPDATE users SET token_balance = token_balance - 4;
UPDATE users SET token_balance = token_balance - 5;
INSERT INTO token_usage SELECT 'many', id, 2 FROM users;
INSERT INTO workflows VALUES ('many', 'ann', 'done');
SELECT token_balance.detach();
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT token_balance.archive_ledger(clock_timestamp(), 'old_ledger') - 'archive' AS archived;
COMMIT;
SELECT count(*), count(DISTINCT user_id) AS accounts, min(kind), max(kind) FROM token_balance.ledger;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
TABLE problems;
SELECT settle_workflow('many') ->> 'status' AS status;

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA ar CASCADE;
DROP ROLE regress_tb_archivist, regress_tb_mallory;
