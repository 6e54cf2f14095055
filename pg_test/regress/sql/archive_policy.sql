-- The procedure archive: what is older leaves by one policy, a batch a transaction; stopped and called again, nothing is lost or done twice (DESIGN S8, V50, V51, V52, V53, V54).
\set SHOW_CONTEXT never
\pset null '-'
SET client_min_messages = warning;
CREATE SCHEMA apo;
SET search_path = apo, public;
\i common/try.sql
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer, created_at timestamptz DEFAULT clock_timestamp());
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users SELECT 'u' || n FROM generate_series(1, 7) n;
CREATE EXTENSION token_balance SCHEMA apo;
CREATE TABLE old_usage (LIKE token_usage, at_transaction bigint DEFAULT txid_current());
CREATE TABLE old_ledger (LIKE token_balance.ledger, at_transaction bigint DEFAULT txid_current());
CREATE TABLE ended (LIKE token_balance.settlement, at_transaction bigint DEFAULT txid_current());
CREATE VIEW problems AS SELECT problem, user_id, workflow_id, expected, found FROM token_balance.reconcile();
-- archive and ledger together are the whole ledger
CREATE VIEW whole AS SELECT user_id, entry_id, amount, previous_balance, new_balance FROM old_ledger
  UNION ALL SELECT user_id, entry_id, amount, previous_balance, new_balance FROM token_balance.ledger WHERE kind <> 'opening';
CREATE VIEW gaps AS SELECT * FROM (SELECT *, lag(new_balance) OVER (PARTITION BY user_id ORDER BY entry_id) AS before FROM whole) w WHERE before <> previous_balance;
CREATE VIEW counts AS SELECT (SELECT count(*) FROM token_usage) AS usage, (SELECT count(*) FROM old_usage) AS old_usage, (SELECT count(*) FROM token_balance.ledger WHERE kind <> 'opening') AS entries, (SELECT count(*) FROM token_balance.ledger WHERE kind = 'opening') AS openings,
  (SELECT count(*) FROM old_ledger) AS archived, (SELECT count(*) FROM token_balance.settlement) AS settlements, (SELECT count(*) FROM ended) AS ended;
-- five runs of seven accounts, and one that is open
INSERT INTO token_usage SELECT 'w' || w, 'u' || n, w * n FROM generate_series(1, 5) w, generate_series(1, 7) n;
INSERT INTO workflows SELECT 'w' || w, 'u1', 'done' FROM generate_series(1, 5) w;
INSERT INTO token_usage VALUES ('open', 'u1', 1);
CREATE TABLE balances AS SELECT id, token_balance FROM users;

-- refused: nulls, what makes no sense, a transaction block, a table that does not do, before anything leaves
CALL token_balance.archive(NULL);
CALL token_balance.archive('1 day', batch_size => NULL);
CALL token_balance.archive('0 days');
CALL token_balance.archive('-1 day');
CALL token_balance.archive('1 day', batch_size => 0);
CALL token_balance.archive('1 day', binding => 'nothing');
BEGIN;
CALL token_balance.archive('1 day');
ROLLBACK;
CALL pg_temp.try($$CALL token_balance.archive('1 day')$$);
CALL token_balance.archive('1 us', ledger_archive => 'old_ledger', settlement_archive => 'old_ledger');
CALL token_balance.archive('1 us', ledger_archive => 'ended', settlement_archive => 'ended');
TABLE counts;
-- nothing is that old
CALL token_balance.archive('1 day', usage_archive => 'old_usage', ledger_archive => 'old_ledger', settlement_archive => 'ended');
TABLE counts;

-- stopped in the midst of the usage
CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF coalesce(to_jsonb(NEW) ->> TG_ARGV[0], '') = TG_ARGV[1] THEN RAISE 'stopped'; END IF; RETURN NEW; END$$;
CREATE TRIGGER stop BEFORE INSERT ON old_usage FOR EACH ROW EXECUTE FUNCTION stop('workflow_id', 'w3');
CALL token_balance.archive('1 us', usage_archive => 'old_usage', ledger_archive => 'old_ledger', settlement_archive => 'ended', batch_size => 1);
SELECT count(*) < 35 AS some_left, (SELECT count(*) FROM token_balance.ledger) AS entries FROM old_usage;
TABLE problems;
DROP TRIGGER stop ON old_usage;
-- without an archive the ledger stays, and so do settlements with entries there
SET client_min_messages = notice;
CALL token_balance.archive('1 day', usage_archive => 'old_usage', settlement_archive => 'ended');
SET client_min_messages = warning;
CALL token_balance.archive('1 us', usage_archive => 'old_usage', settlement_archive => 'ended');
TABLE counts;

-- stopped in the midst of the ledger: each account's chain is whole in between
CREATE TRIGGER stop BEFORE INSERT ON old_ledger FOR EACH ROW EXECUTE FUNCTION stop('user_id', 'u5');
CALL token_balance.archive('1 us', usage_archive => 'old_usage', ledger_archive => 'old_ledger', settlement_archive => 'ended', batch_size => 6);
SELECT user_id, count(*) FROM old_ledger GROUP BY 1 ORDER BY 1;
TABLE counts;
TABLE gaps;
TABLE problems;
SELECT user_id, kind, amount, new_balance FROM token_balance.ledger WHERE user_id = 'u4';
DROP TRIGGER stop ON old_ledger;
-- called again, and stopped in the midst of the settlements: all of a workflow leave together
CREATE TRIGGER stop BEFORE INSERT ON ended FOR EACH ROW EXECUTE FUNCTION stop('workflow_id', 'w3');
CALL token_balance.archive('1 us', usage_archive => 'old_usage', ledger_archive => 'old_ledger', settlement_archive => 'ended', batch_size => 1);
SELECT workflow_id, count(*) FROM ended GROUP BY 1 ORDER BY 1;
TABLE counts;
TABLE gaps;
TABLE problems;
DROP TRIGGER stop ON ended;
SELECT count(*) AS cursors_left FROM pg_cursors WHERE is_holdable;
CALL token_balance.archive('1 us', usage_archive => 'old_usage', ledger_archive => 'old_ledger', settlement_archive => 'ended', batch_size => 2, binding => 'default');
SELECT count(*) AS cursors_left FROM pg_cursors WHERE is_holdable;
TABLE counts;
TABLE gaps;
TABLE problems;
SELECT count(DISTINCT at_transaction) AS transactions FROM old_ledger;
SELECT count(DISTINCT at_transaction) AS transactions FROM ended;
SELECT count(*) AS changed FROM (SELECT id, token_balance FROM users EXCEPT TABLE balances) AS c;
SELECT binding_id, kind, archive, row_count, tokens FROM token_balance.archived ORDER BY 1, 2;
-- again: nothing
CALL token_balance.archive('1 us', usage_archive => 'old_usage', ledger_archive => 'old_ledger', settlement_archive => 'ended');
TABLE counts;
-- what comes later leaves by the same call; an account's entries in one transaction, also of the second opening
INSERT INTO token_usage SELECT 'v' || w, 'u1', 1 FROM generate_series(1, 3) w;
INSERT INTO workflows SELECT 'v' || w, 'u1', 'done' FROM generate_series(1, 3) w;
CALL token_balance.archive('1 us', usage_archive => 'old_usage', ledger_archive => 'old_ledger', settlement_archive => 'ended', batch_size => 1);
SELECT user_id, kind, amount, new_balance FROM token_balance.ledger WHERE user_id = 'u1';
TABLE counts;
TABLE gaps;
TABLE problems;

-- two bindings, the one of which is named: its usage has no time, and stays till somebody else takes it away; the rest leaves
CREATE TABLE calls (workflow_id text, user_id text, total_tokens integer);
SELECT token_balance.attach('users', 'calls', name => 'calls');
INSERT INTO calls VALUES ('c1', 'u1', 5);
SELECT settle_workflow('c1', 'calls') ->> 'tokens_used' AS tokens_used;
INSERT INTO token_usage VALUES ('x1', 'u2', 5);
SELECT settle_workflow('x1', 'default') ->> 'tokens_used' AS tokens_used;
CALL token_balance.archive('1 us', usage_archive => 'old_usage', ledger_archive => 'old_ledger', settlement_archive => 'ended', binding => 'calls');
SELECT workflow_id, archived_charged_tokens FROM token_balance.settlement ORDER BY 1;
DELETE FROM calls;
UPDATE token_balance.settlement SET archived_usage_tokens = 5 WHERE workflow_id = 'c1';
CALL token_balance.archive('1 us', usage_archive => 'old_usage', ledger_archive => 'old_ledger', settlement_archive => 'ended', binding => 'calls');
SELECT workflow_id FROM token_balance.settlement ORDER BY 1;
-- all of them, and for good
CALL token_balance.archive('1 us', ledger_archive => 'old_ledger');
TABLE counts;
SELECT workflow_id FROM token_usage;
SELECT binding_id, kind, archive, row_count, tokens FROM token_balance.archived ORDER BY 1, 2, 3;
TABLE problems;

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA apo CASCADE;
