-- Bindings that share tables: what is broken in one stops no run of the others, and what one reference refunds is one change (DESIGN P20, C8, G10).
\set SHOW_CONTEXT never
CREATE SCHEMA st;
SET search_path = st, public;
SET client_min_messages = warning;
CREATE EXTENSION token_balance SCHEMA st;
\i common/try.sql
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE teams (id text PRIMARY KEY);
CREATE TABLE runs (id text PRIMARY KEY, status text);
CREATE TABLE calls (run text, u text, team text, tokens integer);
CREATE TABLE tools (run text, u text, tokens integer);
SELECT token_balance.attach('users', 'calls', 'runs', usage_user => 'u', usage_workflow => 'run', usage_tokens => '{tokens}', name => 'calls');
SELECT token_balance.attach('users', 'tools', 'runs', usage_user => 'u', usage_workflow => 'run', usage_tokens => '{tokens}', name => 'tools');
SELECT token_balance.attach('teams', 'calls', 'runs', usage_user => 'team', usage_workflow => 'run', usage_tokens => '{tokens}', name => 'teams');
INSERT INTO users VALUES ('ann');
INSERT INTO teams VALUES ('red');
INSERT INTO runs VALUES ('r1', 'running'), ('r2', 'running'), ('r3', 'running'), ('r4', 'running');
INSERT INTO calls VALUES ('r1', 'ann', 'red', 100), ('r2', 'ann', 'red', 10), ('r3', 'ann', 'red', 1);
INSERT INTO tools VALUES ('r1', 'ann', 7);
UPDATE runs SET status = 'completed' WHERE id = 'r1';

-- one balance, two bindings, one reference
SELECT token_balance.refund_workflow('r1', 7, 'ticket 1', binding => 'calls') -> 'refunds' AS refunds;
CALL pg_temp.try($$SELECT token_balance.refund_workflow('r1', 7, 'ticket 1', binding => 'tools')$$);
SELECT token_balance.refund_workflow('r1', 7, 'ticket 1', binding => 'calls') -> 'replayed' AS replayed;
-- what it did not refund is of another account
SELECT jsonb_pretty(token_balance.refund_workflow('r1', reference => 'ticket 1') - 'success');
SELECT jsonb_pretty(token_balance.refund_workflow('r1', reference => 'ticket 1') - 'success');
SELECT token_balance.refund_workflow('r1', reference => 'ticket 2') -> 'refunds' AS refunds;
SELECT jsonb_pretty(token_balance.refund_workflow('r1', reference => 'ticket 2') - 'success');
CALL pg_temp.try($$SELECT token_balance.refund_workflow('r1', reference => 'ticket 2', binding => 'tools')$$);
SELECT amount, workflow_id, reference FROM token_balance.statement('ann', binding => 'calls') WHERE kind = 'refund';
SELECT * FROM users, teams;
SELECT problem, binding FROM token_balance.reconcile();

-- one that is broken waits
DROP TABLE teams;
UPDATE runs SET status = 'completed' WHERE id = 'r2';
SELECT status FROM runs WHERE id = 'r2';
SELECT * FROM users;
SELECT count(*) FROM token_balance.overdrawn;
CALL pg_temp.try($$SELECT settle_workflow('nobody''s')$$);
CALL pg_temp.try($$SELECT settle_workflow('r2')$$);
CALL pg_temp.try($$SELECT token_balance.settle_pending()$$);
SELECT problem, binding, hint FROM token_balance.reconcile();
-- what the hint says heals it, and the sweep charges what waits
CREATE TABLE teams (id text PRIMARY KEY);
INSERT INTO teams VALUES ('red');
CALL pg_temp.try($$SELECT token_balance.attach('teams', 'calls', 'runs', usage_user => 'team', usage_workflow => 'run', usage_tokens => '{tokens}', name => 'teams')$$);
SELECT token_balance.attach('teams', 'calls', 'runs', usage_user => 'team', usage_workflow => 'run', usage_tokens => '{tokens}', name => 'teams', accounts => 'same');
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
TABLE teams;
-- late usage goes by one rule with completions: the whole ones charge it, at once, with a WARNING per statement for the broken one
SELECT token_balance.attach('users', 'calls', 'runs', usage_user => 'u', usage_workflow => 'run', usage_tokens => '{tokens}', name => 'calls', late_usage => 'settle');
SELECT token_balance.attach('teams', 'calls', 'runs', usage_user => 'team', usage_workflow => 'run', usage_tokens => '{tokens}', name => 'teams', accounts => 'same', late_usage => 'settle');
INSERT INTO calls VALUES ('r2', 'ann', 'red', 1000);
TABLE users;
TABLE teams;
DROP TABLE teams;
INSERT INTO calls VALUES ('r2', 'ann', 'red', 2000), ('r1', 'ann', 'red', 4000), ('r3', 'ann', 'red', 0);
TABLE users;
UPDATE calls SET tokens = tokens + 10000 WHERE run = 'r1' AND tokens = 4000;
TABLE users;
-- what changes none of the bound columns says nothing
UPDATE calls SET tokens = tokens WHERE run = 'r1';
UPDATE calls SET team = 'blue' WHERE run = 'r1';
SELECT binding, state, reason, tokens FROM token_balance.usage_state('calls') WHERE state = 'waiting';
-- where all are broken, usage is written all the same
BEGIN;
ALTER TABLE users RENAME token_balance TO tokens;
ALTER TABLE users DROP tokens;
INSERT INTO calls VALUES ('r2', 'ann', 'red', 1), ('r1', 'ann', 'red', 1);
ROLLBACK;
-- or it is given up, and this session knows
UPDATE runs SET status = 'completed' WHERE id = 'r3';
SELECT token_balance.detach(name => 'teams');
UPDATE runs SET status = 'completed' WHERE id = 'r4';
SELECT binding, problem FROM token_balance.reconcile();
SELECT * FROM users;

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA st CASCADE;
