-- What `drizzle-kit push` and TypeORM's `synchronize` send for a schema that declares neither the balance column nor
-- the index: DROP INDEX, DROP COLUMN, and, where an entity has gained one column of the same type, a RENAME.
-- (DESIGN J1, J2, B14)
\set SHOW_CONTEXT never
CREATE SCHEMA op;
SET search_path = op, public;
SET client_min_messages = warning;
CREATE EXTENSION token_balance SCHEMA op;
\i common/try.sql
CREATE TABLE users (id bigint PRIMARY KEY, email text);
CREATE TABLE token_usage (id bigint GENERATED ALWAYS AS IDENTITY, workflow_id bigint, user_id bigint, total_tokens integer);
CREATE TABLE workflows (id bigint PRIMARY KEY, user_id bigint, status text);
SELECT token_balance.attach('users', 'token_usage', 'workflows', create_index => true);
INSERT INTO users VALUES (1, 'ann@example.com'), (2, 'bob@example.com');
INSERT INTO workflows VALUES (1, 1, 'running'), (2, 1, 'running'), (3, 2, 'running');
INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES (1, 1, 100), (2, 1, 20), (3, 2, 5);
UPDATE workflows SET status = 'completed' WHERE id = 1;
SELECT name FROM token_balance.verify() WHERE NOT ok;

-- A push of a schema without them: nothing refuses it.
DROP INDEX "token_usage_workflow_id_user_id_total_tokens_idx";
ALTER TABLE "users" DROP COLUMN "token_balance";
SELECT name, detail, left(hint, 45) AS hint FROM token_balance.verify() WHERE NOT ok;
-- Users are written as before; what needs the column says so, with the call of attach as hint (column_dropped.sql).
INSERT INTO users VALUES (4, 'dan@example.com');
\set VERBOSITY sqlstate
UPDATE workflows SET status = 'completed' WHERE id = 2;
SELECT token_balance.balance('1');
\set VERBOSITY default

-- attach makes both again: 1000000 less the 100 of the ledger, not a new 1000000; run 2 goes on.
SELECT token_balance.attach('users', 'token_usage', 'workflows', create_index => true);
SELECT id, token_balance FROM users ORDER BY id;
UPDATE workflows SET status = 'completed' WHERE id = 2;
SELECT id, token_balance FROM users ORDER BY id;
SELECT name FROM token_balance.verify() WHERE NOT ok;
SELECT count(*) AS problems FROM token_balance.reconcile();

-- The index as Drizzle can declare it, which knows no INCLUDE: three columns of the key are as good.
DROP INDEX "token_usage_workflow_id_user_id_total_tokens_idx";
CREATE INDEX "token_usage_of_run" ON "token_usage" USING btree ("workflow_id", "user_id", "total_tokens");
SELECT name FROM token_balance.verify() WHERE NOT ok;

-- TypeORM takes a column that an entity has gained for one that it has lost, if the types are the same. The column stays
-- the balance, under the new name.
ALTER TABLE "users" RENAME COLUMN "token_balance" TO "age";
UPDATE workflows SET status = 'completed' WHERE id = 3;
SELECT id, age FROM users ORDER BY id;
SELECT token_balance.balance('2') ->> 'token_balance' AS balance;
ALTER TABLE users RENAME COLUMN age TO token_balance;

-- With outside_changes the triggers name the column, and neither tool says CASCADE.
SELECT token_balance.attach('users', 'token_usage', 'workflows', outside_changes => 'keep');
CALL pg_temp.try($$ALTER TABLE "users" DROP COLUMN "token_balance"$$);
SELECT id, token_balance FROM users ORDER BY id;
SELECT count(*) AS problems FROM token_balance.reconcile();

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA op CASCADE;
