-- What attach does to the users table, and each of its options (DESIGN D6, D7, F7, L7, O13).
\set SHOW_CONTEXT never
CREATE SCHEMA ao;
SET search_path = ao, public;
SET client_min_messages = warning;
CREATE EXTENSION token_balance SCHEMA ao;
CREATE TABLE usage (workflow_id text, user_id text, total_tokens integer);
CREATE TABLE runs (id text PRIMARY KEY, user_id text, status text);
CREATE VIEW columns AS
  SELECT a.attrelid::regclass AS "table", format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS not_null, pg_get_expr(d.adbin, d.adrelid) AS "default"
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
   WHERE a.attname = 'token_balance' AND NOT a.attisdropped AND c.relnamespace = 'ao'::regnamespace AND c.relkind IN ('r', 'p');

-- the new column is a fast default: the table is not written again
CREATE TABLE users (id text PRIMARY KEY);
INSERT INTO users SELECT 'u' || i FROM generate_series(1, 1000) i;
SELECT pg_relation_filenode('users') AS before \gset
SELECT token_balance.attach('users', 'usage', 'runs', accounts => 'new');
SELECT pg_relation_filenode('users') = :before AS not_rewritten;
SELECT * FROM columns;
SELECT token_balance, count(*) FROM users GROUP BY 1;
-- attached again: nothing changes, a balance that was spent stays spent
UPDATE users SET token_balance = 5 WHERE id = 'u1';
SELECT token_balance.attach('users', 'usage', 'runs', accounts => 'new');
SELECT token_balance, count(*) FROM users GROUP BY 1 ORDER BY 1;
SELECT token_balance.detach();
DROP TABLE users;

-- initial_balance and balance_type
CREATE TABLE users (id text PRIMARY KEY);
INSERT INTO users VALUES ('ann');
SELECT token_balance.attach('users', 'usage', 'runs', initial_balance => 5000000000, balance_type => 'bigint', accounts => 'new');
INSERT INTO users VALUES ('bob');
SELECT * FROM columns;
SELECT * FROM users ORDER BY id;
SELECT token_balance.detach();
DROP TABLE users;
CREATE TABLE users (id text PRIMARY KEY);
INSERT INTO users VALUES ('ann');
SELECT token_balance.attach('users', 'usage', 'runs', initial_balance => 0, accounts => 'new');
SELECT * FROM users;
SELECT token_balance.detach();
DROP TABLE users;
CREATE TABLE users (id text PRIMARY KEY);
INSERT INTO users VALUES ('ann');
SELECT token_balance.attach('users', 'usage', 'runs', initial_balance => -10, accounts => 'new');
SELECT * FROM users;
INSERT INTO users VALUES ('bob');
SELECT * FROM users ORDER BY id;
SELECT token_balance.detach();
DROP TABLE users;

-- a column that is there: its type and its values are kept, NULLs become the initial balance, default and NOT NULL are set
CREATE TABLE users (id text PRIMARY KEY, token_balance bigint);
INSERT INTO users VALUES ('ann', 42), ('bob', NULL), ('cid', -7);
SELECT token_balance.attach('users', 'usage', 'runs', initial_balance => 100, accounts => 'new');
SELECT * FROM columns;
SELECT * FROM users ORDER BY id;
INSERT INTO users (id) VALUES ('new');
SELECT * FROM users WHERE id = 'new';
INSERT INTO runs VALUES ('w1', 'ann', 'running');
INSERT INTO usage VALUES ('w1', 'ann', 12);
SELECT settle_workflow('w1') ->> 'new_balance' AS new_balance;
SELECT kind, amount, previous_balance, new_balance FROM token_balance.ledger WHERE user_id = 'ann';
SELECT token_balance.detach();
DROP TABLE users;

-- smallint and numeric
CREATE TABLE users (id text PRIMARY KEY, token_balance smallint);
INSERT INTO users VALUES ('ann', 42);
SELECT token_balance.attach('users', 'usage', 'runs', initial_balance => 1000, accounts => 'new');
SELECT * FROM columns;
INSERT INTO usage VALUES ('w2', 'ann', 50);
SELECT settle_workflow('w2') ->> 'new_balance' AS new_balance;
SELECT token_balance.detach();
DROP TABLE users;
CREATE TABLE users (id text PRIMARY KEY, token_balance numeric);
INSERT INTO users VALUES ('ann', 42), ('bob', NULL);
SELECT token_balance.attach('users', 'usage', 'runs', initial_balance => 1000, accounts => 'new');
SELECT * FROM columns;
INSERT INTO usage VALUES ('w3', 'bob', 50), ('w4', 'ann', 2);
SELECT settle_workflow('w3') ->> 'new_balance' AS new_balance;
SELECT settle_workflow('w4') ->> 'new_balance' AS new_balance;
SELECT * FROM users ORDER BY id;
-- balances are whole tokens: a change to a fraction is refused, since the ledger could not say it
UPDATE users SET token_balance = 1.5 WHERE id = 'ann';
UPDATE users SET token_balance = 1.0 WHERE id = 'ann';
SELECT * FROM users ORDER BY id;
SELECT user_id, kind, amount, new_balance FROM token_balance.ledger ORDER BY created_at DESC, entry_id DESC LIMIT 1;
SELECT token_balance.detach();
DROP TABLE users;
-- a column made for fractions is refused
CREATE TABLE users (id text PRIMARY KEY, token_balance numeric(20, 4));
SELECT token_balance.attach('users', 'usage', 'runs', accounts => 'new');
-- and so are fractions in a numeric column, before anything is altered: a run of that account could never be charged
DROP TABLE users;
CREATE TABLE users (id text PRIMARY KEY, token_balance numeric);
INSERT INTO users VALUES ('ann', 42.5);
BEGIN;
SELECT token_balance.attach('users', 'usage', 'runs', accounts => 'new');
ROLLBACK;
SELECT * FROM columns;
DROP TABLE users;

-- a default and a NOT NULL of the application's own
CREATE TABLE users (id text PRIMARY KEY, token_balance integer NOT NULL DEFAULT 77);
INSERT INTO users VALUES ('ann');
SELECT token_balance.attach('users', 'usage', 'runs', accounts => 'new');
SELECT * FROM columns;
SELECT * FROM users;
SELECT token_balance.detach();
DROP TABLE users;

-- names that need quotes, in the tables, the columns and the statuses
CREATE SCHEMA "Odd ""Schema""";
CREATE TABLE "Odd ""Schema"""."User Table" ("User Id" text PRIMARY KEY);
CREATE TABLE "Odd ""Schema"""."Usage; --" ("Run" text, "Who?" text, "in" integer, "Out'" bigint);
CREATE TABLE "Odd ""Schema"""."select" ("Key" text PRIMARY KEY, "State" text);
INSERT INTO "Odd ""Schema"""."User Table" VALUES ('o''neil "x"');
SELECT token_balance.attach('"Odd ""Schema"""."User Table"', '"Odd ""Schema"""."Usage; --"', '"Odd ""Schema"""."select"',
  user_key => 'User Id', usage_user => 'Who?', usage_workflow => 'Run', usage_tokens => '{in,Out''}',
  workflow_key => 'Key', workflow_status => 'State', completed_statuses => ARRAY['it''s done', 'a "b" \c']);
SELECT name, ok FROM token_balance.verify() WHERE NOT ok;
INSERT INTO "Odd ""Schema"""."Usage; --" VALUES ('r''1', 'o''neil "x"', 3, 4), ('r2', 'o''neil "x"', 5, NULL);
INSERT INTO "Odd ""Schema"""."select" VALUES ('r''1', 'it''s done'), ('r2', 'a "b" \c'), ('r3', 'completed');
SELECT * FROM "Odd ""Schema"""."User Table";
SELECT token_balance.balance('o''neil "x"');
SELECT token_balance.detach();
DROP SCHEMA "Odd ""Schema""" CASCADE;

-- create_index makes the index that verify() asks for, and only then
CREATE TABLE users (id text PRIMARY KEY);
SELECT token_balance.attach('users', 'usage', 'runs', accounts => 'new');
SELECT count(*) FROM pg_index WHERE indrelid = 'usage'::regclass;
SELECT name, hint FROM token_balance.verify() WHERE NOT ok;
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'usage', 'runs', create_index => true, accounts => 'new');
SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'usage'::regclass;
SELECT name, ok FROM token_balance.verify() WHERE NOT ok;
-- once is enough
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'usage', 'runs', create_index => true, accounts => 'new');
SELECT count(*) FROM pg_index WHERE indrelid = 'usage'::regclass;
SELECT token_balance.detach();

-- attach is transactional
BEGIN;
CREATE TABLE users2 (id text PRIMARY KEY);
SELECT token_balance.attach('users2', 'usage', 'runs');
ROLLBACK;
SELECT count(*) FROM token_balance.binding;
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'runs'::regclass AND NOT tgisinternal;

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA ao CASCADE;
