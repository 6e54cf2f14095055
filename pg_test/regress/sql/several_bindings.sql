-- Several bindings are attached at once, and each function, view and report knows them.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA sev;
SET search_path = sev, public;
\i common/try.sql
CREATE EXTENSION token_balance SCHEMA sev;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE teams (id text PRIMARY KEY);
CREATE TABLE token_usage (id bigint GENERATED ALWAYS AS IDENTITY, workflow_id text, user_id text, team_id text, total_tokens integer,
    model text, created_at timestamptz DEFAULT '2026-01-01');
CREATE TABLE image_usage (run text, owner text, pixels bigint, model text, created_at timestamptz DEFAULT '2026-01-02');
CREATE TABLE workflows (id text PRIMARY KEY, status text, closed_at timestamptz);
INSERT INTO users VALUES ('ann'), ('bob'), ('x');
INSERT INTO teams VALUES ('red'), ('x');
CREATE PROCEDURE two() LANGUAGE sql AS $$
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT token_balance.attach('teams', 'token_usage', 'workflows', usage_user => 'team_id', name => 'teams', initial_balance => 5000);
$$;
CREATE PROCEDURE used(workflow text, account text, team text, tokens integer) LANGUAGE sql AS $$
INSERT INTO workflows VALUES (workflow, 'running') ON CONFLICT DO NOTHING;
INSERT INTO token_usage (workflow_id, user_id, team_id, total_tokens) VALUES (workflow, account, team, tokens);
$$;
CREATE PROCEDURE completed(workflow text) LANGUAGE sql AS $$ UPDATE workflows SET status = 'completed' WHERE id = workflow $$;
CREATE VIEW balances AS SELECT 'users' AS of, id, (to_jsonb(u) ->> 'token_balance')::bigint AS token_balance FROM users AS u
UNION ALL SELECT 'teams', id, (to_jsonb(t) ->> 'token_balance')::bigint FROM teams AS t ORDER BY 1 DESC, 2;
CREATE VIEW our_triggers AS SELECT c.relname, t.tgname, pg_get_triggerdef(t.oid) LIKE '% OR %' AS is_of_several
FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_proc AS p ON p.oid = t.tgfoid
WHERE p.pronamespace = 'token_balance'::regnamespace AND c.relnamespace = 'sev'::regnamespace ORDER BY 1, 2;

-- one run charges a user and a team (DESIGN P19, F16, F17)
BEGIN;
CALL two();
TABLE our_triggers;
CALL used('w1', 'ann', 'red', 100);
CALL used('w1', 'bob', 'red', 30);
CALL completed('w1');
TABLE balances;
SELECT workflow_id, user_id, b.name, charged_tokens FROM token_balance.settlement JOIN token_balance.binding AS b USING (binding_id) ORDER BY 3, 2;
-- late usage, by the function: in all that know the workflow
CALL used('w1', 'ann', 'red', 1);
SELECT jsonb_pretty(settle_workflow('w1'));
SELECT settle_workflow('w1') - 'workflow_id';
-- in one of them
CALL used('w1', 'ann', 'red', 2);
SELECT settle_workflow('w1', 'teams');
SELECT settle_workflow('w1', binding => 'default') ->> 'tokens_used' AS tokens_used;
CALL used('w2', 'x', 'x', 5);
SELECT * FROM token_balance.settle_workflows('{w2,w1}');
TABLE balances;
-- one id names two accounts, each with a ledger of its own
SELECT token_balance.balance('x', 'teams'), token_balance.balance('x', 'default');
SELECT token_balance.credit('x', 10, 'pay1', binding => 'teams') ->> 'new_balance' AS new_balance;
SELECT token_balance.credit('x', 10, 'pay1', binding => 'default') ->> 'replayed' AS replayed;
SELECT token_balance.adjust('x', -1, binding => 'teams') ->> 'new_balance' AS new_balance;
SELECT kind, amount, new_balance, workflow_id FROM token_balance.statement('x', binding => 'teams');
SELECT token_balance.balance_at('x', 'infinity', 'default');
SELECT token_balance.summary('red', 36500, 'teams') -> 'summary' AS of_team;
-- without a name it is not clear whose
CALL pg_temp.try($$SELECT token_balance.balance('x')$$);
CALL pg_temp.try($$SELECT token_balance.credit('x', 1)$$);
CALL pg_temp.try($$SELECT token_balance.summary('x')$$);
CALL pg_temp.try($$SELECT token_balance.detach()$$);
CALL pg_temp.try($$SELECT token_balance.attach_again()$$);
CALL pg_temp.try($$SELECT token_balance.reset()$$);
CALL pg_temp.try($$SELECT token_balance.balance('x', 'nobody')$$);
CALL pg_temp.try($$SELECT settle_workflow('w1', 'nobody')$$);
CALL pg_temp.try($$SELECT * FROM token_balance.verify('nobody')$$);
CALL pg_temp.try($$SELECT settle_workflow('nothing')$$);
-- a refund is of all that charged it
SELECT jsonb_pretty(token_balance.refund_workflow('w2', reference => 'r2'));
SELECT token_balance.refund_workflow('w2', reference => 'r2') ->> 'replayed' AS replayed;
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w1', 10)$$);
SELECT token_balance.refund_workflow('w1', 10, binding => 'teams') -> 'refunds' AS refunds;
SELECT token_balance.refund_workflow('w1') ->> 'amount' AS amount;
TABLE balances;
SELECT * FROM token_balance.usage_state();
SELECT * FROM token_balance.usage_state('teams');
SELECT * FROM token_balance.reconcile();
SELECT name, binding FROM token_balance.verify() WHERE NOT ok;
ROLLBACK;

-- a charge that is bad in one binding waits there, and is made in the other (DESIGN P20)
BEGIN;
CALL two();
CALL used('w1', 'ann', 'nobody', 100);
CALL completed('w1');
TABLE balances;
SELECT binding, workflow_id, user_id, reason, tokens FROM token_balance.unsettled;
CALL pg_temp.try($$SELECT settle_workflow('w1')$$);
INSERT INTO teams VALUES ('nobody');
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
-- a refusal of one is one of all: nothing half done
CALL used('w3', 'ann', 'red', 7);
ALTER TABLE teams ADD CONSTRAINT teams_token_balance_check CHECK (token_balance > 4999 OR teams IS NULL) NOT VALID;
CALL pg_temp.try($$CALL completed('w3')$$);
SELECT status FROM workflows WHERE id = 'w3';
TABLE balances;
ROLLBACK;

-- two usage tables and one users table: one balance, one chain, one summary (DESIGN S15)
BEGIN;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT token_balance.attach('users', 'image_usage', 'workflows', usage_workflow => 'run', usage_user => 'owner', usage_tokens => '{pixels}',
    name => 'images');
SELECT name, accounts_id FROM token_balance.binding ORDER BY 1;
CALL used('w1', 'ann', NULL, 100);
INSERT INTO image_usage VALUES ('w1', 'ann', 1000, 'dali');
CALL completed('w1');
-- one UPDATE of the account, an entry of each
SELECT entry_id, amount, previous_balance, new_balance, b.name FROM token_balance.ledger JOIN token_balance.binding AS b USING (binding_id) ORDER BY 1;
SELECT token_balance.balance('ann');
SELECT jsonb_path_query_array(token_balance.summary('ann', 36500), '$.recent_records[*].total_tokens') AS newest_first;
SELECT token_balance.summary('ann', 36500) -> 'summary' ->> 'total_tokens' AS total_tokens;
SELECT token_balance.summary('ann', 36500, 'images') -> 'summary' ->> 'total_tokens' AS total_tokens;
-- the accounts' options are those of both
CALL pg_temp.try($$SELECT token_balance.attach('users', 'image_usage', name => 'third', usage_workflow => 'run', usage_user => 'owner', usage_tokens => '{pixels}')$$);
SELECT token_balance.attach('users', 'token_usage', 'workflows', outside_changes => 'keep', busy_account => 'queue');
SELECT name, outside_changes, busy_account FROM token_balance.binding ORDER BY 1;
UPDATE users SET token_balance = 5 WHERE id = 'ann';
SELECT token_balance FROM users WHERE id = 'ann';
SELECT token_balance.detach(name => 'images');
CALL pg_temp.try($$SELECT token_balance.attach('users', 'image_usage', 'workflows', usage_workflow => 'run', usage_user => 'owner', usage_tokens => '{pixels}', name => 'images')$$);
-- the hint is right
SELECT token_balance.attach('users', 'image_usage', 'workflows', usage_workflow => 'run', usage_user => 'owner', usage_tokens => '{pixels}', name => 'images',
    outside_changes => 'keep', busy_account => 'queue');
SELECT name, outside_changes, busy_account FROM token_balance.binding ORDER BY 1;
CALL pg_temp.try($$SELECT token_balance.detach(true, 'images')$$);
SELECT * FROM token_balance.reconcile();
SELECT name, detail, binding FROM token_balance.verify() WHERE NOT ok AND name NOT LIKE '%index%';
-- the account of another id takes along what both have settled
UPDATE users SET id = 'anna' WHERE id = 'ann';
UPDATE token_usage SET user_id = 'anna';
UPDATE image_usage SET owner = 'anna';
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
ROLLBACK;

-- two balance columns of one users table (DESIGN S15)
BEGIN;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT token_balance.attach('users', 'image_usage', 'workflows', usage_workflow => 'run', usage_user => 'owner', usage_tokens => '{pixels}',
    name => 'images', balance_column => 'pixels_left', balance_type => 'bigint', initial_balance => 500000, outside_changes => 'keep');
TABLE our_triggers;
CALL used('w1', 'ann', NULL, 100);
INSERT INTO image_usage VALUES ('w1', 'ann', 1000, 'dali');
CALL completed('w1');
SELECT * FROM users ORDER BY id;
UPDATE users SET token_balance = 7, pixels_left = 8 WHERE id = 'ann';
SELECT * FROM users WHERE id = 'ann';
SELECT kind, amount FROM token_balance.statement('ann', binding => 'default');
SELECT kind, amount FROM token_balance.statement('ann', binding => 'images');
INSERT INTO image_usage VALUES ('w1', 'bob', 600000, 'dali');
SELECT settle_workflow('w1') -> 'charges' AS charges;
SELECT user_id, token_balance, binding FROM token_balance.overdrawn;
SELECT problem, user_id, binding FROM token_balance.reconcile();
SELECT name, detail, binding FROM token_balance.verify() WHERE NOT ok AND name NOT LIKE '%index%';
-- the column is made by attach and may go with the binding; the other one stays
SELECT token_balance.detach(true, 'images');
SELECT * FROM users ORDER BY id;
TABLE our_triggers;
CALL completed('w1');
ROLLBACK;

-- two tenants with schemas of their own; what becomes of one is nothing to the other (DESIGN B19)
BEGIN;
CREATE SCHEMA one;
CREATE SCHEMA two;
CREATE PROCEDURE tenant(schema text) LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('CREATE TABLE %I.users (id integer PRIMARY KEY); CREATE TABLE %1$I.token_usage (workflow_id integer, user_id integer, total_tokens integer);
    CREATE TABLE %1$I.workflows (id integer, status text); INSERT INTO %1$I.users VALUES (1), (2)', schema);
  PERFORM token_balance.attach(schema || '.users', schema || '.token_usage', schema || '.workflows', name => schema);
END $$;
CALL tenant('one');
CALL tenant('two');
INSERT INTO one.token_usage VALUES (1, 1, 10);
INSERT INTO two.token_usage VALUES (1, 1, 20);
INSERT INTO one.workflows VALUES (1, 'completed');
SELECT 'one' AS of, * FROM one.users UNION ALL SELECT 'two', * FROM two.users ORDER BY 1, 2;
INSERT INTO two.workflows VALUES (1, 'completed');
SELECT 'one' AS of, * FROM one.users UNION ALL SELECT 'two', * FROM two.users ORDER BY 1, 2;
DROP TABLE two.workflows;
INSERT INTO one.token_usage VALUES (2, 2, 5);
INSERT INTO one.workflows VALUES (2, 'completed');
SELECT token_balance.balance('2', 'one');
-- what is broken is left out, with a warning
INSERT INTO one.token_usage VALUES (2, 2, 5);
SELECT settle_workflow(2) ->> 'tokens_used' AS tokens_used;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
CALL pg_temp.try($$SELECT settle_workflow(2, 'two')$$);
CALL pg_temp.try($$SELECT settle_workflow(77)$$);
UPDATE two.users SET id = 3 WHERE id = 2;
INSERT INTO two.token_usage VALUES (9, 1, 1);
SELECT problem, binding FROM token_balance.reconcile();
SELECT name, ok, binding FROM token_balance.verify() WHERE name = 'binding';
SELECT token_balance.detach(name => 'two');
SELECT settle_workflow(2) ->> 'status' AS status;
ROLLBACK;

-- bindings of one workflow table whose runs are completed by another column (DESIGN T15)
BEGIN;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT token_balance.attach('teams', 'token_usage', 'workflows', usage_user => 'team_id', workflow_completed_at => 'closed_at', name => 'teams');
TABLE our_triggers;
CALL used('w1', 'ann', 'red', 100);
CALL completed('w1');
TABLE balances;
UPDATE workflows SET closed_at = now();
TABLE balances;
CALL used('w2', 'ann', 'red', 11);
UPDATE workflows SET status = 'completed', closed_at = now() WHERE id = 'w2';
TABLE balances;
-- one row for both
INSERT INTO token_usage (workflow_id, user_id, team_id, total_tokens) VALUES ('w3', 'bob', 'red', 3);
INSERT INTO workflows VALUES ('w3', 'done', now());
TABLE balances;
SELECT name, detail FROM token_balance.verify() WHERE NOT ok AND name NOT LIKE '%index%';
SELECT token_balance.detach(name => 'default');
TABLE our_triggers;
UPDATE workflows SET closed_at = NULL;
CALL used('w3', 'bob', 'red', 4);
UPDATE workflows SET closed_at = now() WHERE id = 'w3';
TABLE balances;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
TABLE balances;
ROLLBACK;

-- late usage at once, in the one that wants it
BEGIN;
SELECT token_balance.attach('users', 'token_usage', 'workflows', late_usage => 'settle');
SELECT token_balance.attach('teams', 'token_usage', 'workflows', usage_user => 'team_id', name => 'teams');
CALL used('w1', 'ann', 'red', 100);
CALL completed('w1');
CALL used('w1', 'ann', 'red', 1);
TABLE balances;
SELECT token_balance.attach('teams', 'token_usage', 'workflows', usage_user => 'team_id', name => 'teams', late_usage => 'settle');
CALL used('w1', 'ann', 'red', 2);
TABLE balances;
SELECT token_balance.detach(name => 'default');
CALL used('w1', 'ann', 'red', 4);
TABLE balances;
ROLLBACK;

-- a workflow of another id takes along what both have settled
BEGIN;
CALL two();
CALL used('w1', 'ann', 'red', 100);
CALL completed('w1');
UPDATE workflows SET id = 'v1';
UPDATE token_usage SET workflow_id = 'v1';
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
SELECT token_balance.refund_workflow('w1') ->> 'amount' AS amount;
SELECT * FROM token_balance.reconcile();
ROLLBACK;

-- what cannot stand beside another says why, and its hint is right (DESIGN S16)
BEGIN;
CALL two();
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows', name => 'again')$$);
CALL pg_temp.try($$SELECT token_balance.attach('users', 'image_usage', usage_workflow => 'run', usage_user => 'owner', usage_tokens => '{pixels}')$$);
ALTER TABLE users ADD email text UNIQUE;
CALL pg_temp.try($$SELECT token_balance.attach('users', 'image_usage', usage_workflow => 'run', usage_user => 'owner', usage_tokens => '{pixels}', name => 'images',
    user_key => 'email', balance_column => 'pixels')$$);
CREATE TABLE parts (id text, status text, day integer) PARTITION BY LIST (day);
CREATE TABLE part PARTITION OF parts FOR VALUES IN (1);
SELECT token_balance.attach('users', 'image_usage', 'parts', usage_workflow => 'run', usage_user => 'owner', usage_tokens => '{pixels}', name => 'images');
CREATE TABLE more_usage (LIKE image_usage);
CALL pg_temp.try($$SELECT token_balance.attach('teams', 'more_usage', 'part', usage_workflow => 'run', usage_user => 'owner', usage_tokens => '{pixels}', name => 'part')$$);
SELECT token_balance.detach(name => 'images');
SELECT token_balance.attach('teams', 'more_usage', 'part', usage_workflow => 'run', usage_user => 'owner', usage_tokens => '{pixels}', name => 'part');
SELECT name, detached_at IS NULL AS attached FROM token_balance.binding ORDER BY 1;
-- one that is remembered goes on by another name as well
SELECT token_balance.detach(name => 'teams');
SELECT token_balance.attach('teams', 'token_usage', 'workflows', usage_user => 'team_id', name => 'groups');
SELECT name, detached_at IS NULL AS attached FROM token_balance.binding ORDER BY 1;
ROLLBACK;

DROP EXTENSION token_balance CASCADE;
RESET client_min_messages;
DROP SCHEMA sev CASCADE;
