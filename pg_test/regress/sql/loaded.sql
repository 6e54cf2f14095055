-- A load of users with their balances and of usage by plain INSERTs, as loaddata makes them: the usage counted as late and was charged a second time (DESIGN J7, J8).
\set SHOW_CONTEXT never
CREATE SCHEMA ld;
SET search_path = ld, public;
\i common/tables.sql
ALTER TABLE token_usage ADD created_at timestamptz NOT NULL DEFAULT now();
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
SET client_min_messages = warning;
CREATE EXTENSION token_balance SCHEMA ld;
\i common/try.sql
-- ann had 1,000,000 and has paid for what she used
CREATE PROCEDURE load(days_ago integer DEFAULT 90) LANGUAGE sql AS $$
  INSERT INTO users VALUES ('ann', 998800);
  INSERT INTO workflows SELECT 'w' || n, 'ann', 'completed' FROM generate_series(1, 120) AS n;
  INSERT INTO token_usage SELECT 'w' || n, 'ann', 10, now() - days_ago * interval '1 day' FROM generate_series(1, 120) AS n;
$$;

-- into tables that are attached: it is late usage, and said so when it is charged
BEGIN;
CALL load();
SET LOCAL client_min_messages = notice;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS charged_again;
TABLE users;
ROLLBACK;
BEGIN;
SELECT token_balance.attach('users', 'token_usage', 'workflows', late_usage => 'settle');
SET LOCAL client_min_messages = notice;
CALL load();
TABLE users;
ROLLBACK;
CALL load();
CALL token_balance.settle_backlog(1000);
TABLE users;
TRUNCATE users, workflows, token_usage;
SELECT token_balance.reset() ->> 'settlements' AS settlements;
-- what is young, or little, is nothing to tell of; nor is it where the usage has no time
BEGIN;
CALL load(6);
SET LOCAL client_min_messages = notice;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS charged;
ROLLBACK;
BEGIN;
CALL load();
DELETE FROM token_usage WHERE workflow_id LIKE 'w1__';
SET LOCAL client_min_messages = notice;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS charged;
ROLLBACK;
BEGIN;
ALTER TABLE token_usage DROP created_at;
ALTER TABLE token_usage ADD day date;
INSERT INTO workflows SELECT 'w' || n, 'ann', 'completed' FROM generate_series(1, 120) AS n;
INSERT INTO users VALUES ('ann');
INSERT INTO token_usage SELECT 'w' || n, 'ann', 10, '2020-01-01' FROM generate_series(1, 120) AS n;
SET LOCAL client_min_messages = notice;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS charged;
ROLLBACK;
BEGIN;
SELECT token_balance.detach();
ALTER TABLE token_usage DROP created_at, ADD day date;
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_created_at => 'day', existing_usage => 'charge');
INSERT INTO workflows SELECT 'w' || n, 'ann', 'completed' FROM generate_series(1, 120) AS n;
INSERT INTO users VALUES ('ann');
INSERT INTO token_usage SELECT 'w' || n, 'ann', 10, '2020-01-01' FROM generate_series(1, 120) AS n;
SET LOCAL client_min_messages = notice;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS charged;
ROLLBACK;

-- between detach and attach: usage from before. There was nothing to remember, so this attach is a first one
SELECT token_balance.detach();
SELECT count(*) FROM token_balance.binding;
CALL load();
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT token_balance.settle_pending();
TABLE users;
INSERT INTO workflows VALUES ('new', 'ann', 'running');
INSERT INTO token_usage VALUES ('new', 'ann', 7);
UPDATE workflows SET status = 'completed' WHERE id = 'new';
TABLE users;
SELECT problem FROM token_balance.reconcile();
-- what was exempt stays so
BEGIN;
SELECT token_balance.detach();
SELECT count(*) AS remembered FROM token_balance.binding;
ROLLBACK;
CALL token_balance.settle_backlog(1000, existing => true);
TABLE users;

-- each of these is remembered: usage, a settlement, an entry, a reference
TRUNCATE users, workflows, token_usage;
SELECT token_balance.reset() ->> 'settlements' AS settlements;
BEGIN;
INSERT INTO token_usage VALUES ('open', 'ann', 900);
SELECT token_balance.detach();
SELECT count(*) AS remembered FROM token_balance.binding;
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows', existing_usage => 'exempt')$$);
ROLLBACK;
BEGIN;
INSERT INTO users VALUES ('ann');
UPDATE users SET token_balance = 5;
SELECT token_balance.detach();
SELECT count(*) AS remembered FROM token_balance.binding;
ROLLBACK;
BEGIN;
INSERT INTO token_usage VALUES ('w', 'ann', 900);
INSERT INTO users VALUES ('ann');
SELECT settle_workflow('w') ->> 'tokens_used' AS tokens_used;
TRUNCATE token_usage;
SELECT token_balance.detach();
SELECT count(*) AS remembered FROM token_balance.binding;
ROLLBACK;
-- a usage table that is gone says nothing
BEGIN;
DROP TABLE token_usage;
SELECT token_balance.detach();
SELECT count(*) AS remembered FROM token_balance.binding;
ROLLBACK;

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA ld CASCADE;
