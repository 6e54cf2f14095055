-- What attach tells of that its caller may not expect: arguments without effect, and what becomes of a balance column that is there (DESIGN B8, L7, F15).
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA td;
SET search_path = td, public;
\i common/try.sql
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
INSERT INTO users VALUES ('ann'), ('bob');
CREATE EXTENSION token_balance SCHEMA td;
SET client_min_messages = notice;
-- it is there: with what was said, and with what is usual, nothing is told
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT token_balance.attach('users', 'token_usage', 'workflows', existing_usage => 'exempt', balance_type => 'integer');
SELECT token_balance.attach_again();
-- with another one, it is, and nothing is changed
SELECT token_balance.attach('users', 'token_usage', 'workflows', existing_usage => 'charge');
SELECT token_balance.attach('users', 'token_usage', 'workflows', existing_usage => 'charge', balance_type => 'bigint');
SELECT existing_usage, balance_type FROM token_balance.binding;
-- another initial balance is that of accounts to come, and stays where none is named
SELECT token_balance.attach('users', 'token_usage', 'workflows', initial_balance => 5);
INSERT INTO users VALUES ('cid');
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT token_balance.attach('users', 'token_usage', 'workflows', initial_balance => 1000000);
TABLE users ORDER BY id;
-- one that goes on
INSERT INTO token_usage VALUES ('w', 'ann', 7);
SELECT settle_workflow('w') ->> 'new_balance' AS new_balance;
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows', existing_usage => 'charge');
-- of a column that is there: a default, NOT NULL, NULLs
SELECT token_balance.detach();
CREATE TABLE accounts (id text PRIMARY KEY, token_balance bigint DEFAULT 7);
INSERT INTO accounts VALUES ('ann', 3), ('bob', NULL), ('cid', NULL);
SELECT token_balance.attach('accounts', 'token_usage', 'workflows', initial_balance => 100, balance_type => 'bigint');
TABLE accounts ORDER BY id;
SELECT token_balance.attach('accounts', 'token_usage', 'workflows', initial_balance => 100);
SELECT token_balance.detach();
-- without a default; and one that fits already
CREATE TABLE payers (id text PRIMARY KEY, token_balance integer NOT NULL);
SELECT token_balance.attach('payers', 'token_usage', 'workflows');
SELECT token_balance.detach();
SELECT token_balance.attach('payers', 'token_usage', 'workflows');
SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA td CASCADE;
