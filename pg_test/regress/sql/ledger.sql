-- The ledger: every change of every balance, whoever makes it; append only (DESIGN L1, L2, L3, L4, S7, S8).
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_tb_clerk;
CREATE SCHEMA lg;
GRANT USAGE ON SCHEMA lg TO regress_tb_clerk;
SET search_path = lg, public;
\i common/try.sql
CREATE TABLE users (id text PRIMARY KEY, name text);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
INSERT INTO users VALUES ('ann'), ('bob'), ('cid');
GRANT SELECT, UPDATE ON users TO regress_tb_clerk;
CREATE EXTENSION token_balance SCHEMA lg;
CREATE VIEW book AS SELECT user_id, kind, amount, previous_balance, new_balance, workflow_id, reference, note,
  CASE actor WHEN session_user THEN 'me' ELSE actor END AS actor, created_at IS NOT NULL AS dated FROM token_balance.ledger ORDER BY user_id, entry_id;

-- attach back-fills nothing; the first entry of an account carries its opening balance
SELECT * FROM book;
INSERT INTO token_usage VALUES ('w1', 'ann', 10);
SELECT settle_workflow('w1') ->> 'new_balance' AS new_balance;
SELECT * FROM book;

-- a change from outside is an adjustment with the role that made it
UPDATE users SET token_balance = token_balance + 500 WHERE id = 'ann';
SET ROLE regress_tb_clerk;
UPDATE users SET token_balance = 7 WHERE id IN ('ann', 'bob');
RESET ROLE;
-- no change, no entry
UPDATE users SET token_balance = token_balance;
UPDATE users SET name = 'x';
UPDATE users SET token_balance = 7, name = 'y' WHERE id = 'bob';
-- many in one statement; two in one transaction; one that is rolled back
UPDATE users SET token_balance = token_balance - 1;
BEGIN;
UPDATE users SET token_balance = 1 WHERE id = 'cid';
UPDATE users SET token_balance = 2 WHERE id = 'cid';
COMMIT;
BEGIN;
UPDATE users SET token_balance = 3 WHERE id = 'cid';
ROLLBACK;
INSERT INTO users VALUES ('cid') ON CONFLICT (id) DO UPDATE SET token_balance = 33;
SELECT * FROM book;

-- UPDATE, DELETE and TRUNCATE are refused, to a superuser, and also as a replication worker
CALL pg_temp.try($$UPDATE token_balance.ledger SET amount = 0$$);
CALL pg_temp.try($$DELETE FROM token_balance.ledger$$);
CALL pg_temp.try($$TRUNCATE token_balance.ledger$$);
CALL pg_temp.try($$TRUNCATE token_balance.ledger, token_balance.settlement$$);
CALL pg_temp.try($$INSERT INTO token_balance.ledger OVERRIDING SYSTEM VALUE SELECT * FROM token_balance.ledger ON CONFLICT (accounts_id, user_id, entry_id) DO UPDATE SET amount = 0$$);
SET session_replication_role = replica;
CALL pg_temp.try($$UPDATE token_balance.ledger SET amount = 0$$);
CALL pg_temp.try($$DELETE FROM token_balance.ledger$$);
CALL pg_temp.try($$TRUNCATE token_balance.ledger$$);
RESET session_replication_role;
SELECT count(*) FROM token_balance.ledger;
-- kinds, and one reference an account
CALL pg_temp.try($$INSERT INTO token_balance.ledger (user_id, kind, amount, previous_balance, new_balance, actor) VALUES ('zed', 'gift', 1, 1, 2, 'x')$$);
BEGIN;
INSERT INTO token_balance.reference VALUES (1, 'zed', 'r', 'credit', 1, 1, 2), (1, 'zoe', 'r', 'credit', 1, 1, 2), (2, 'zed', 'r', 'credit', 1, 1, 2);
INSERT INTO token_balance.reference VALUES (1, 'zed', 'r', 'credit', 1, 2, 3);
ROLLBACK;

-- an application's trigger on users that changes another account: that change is an adjustment, and no settlement
CREATE TABLE sponsor (id text PRIMARY KEY, sponsor text);
INSERT INTO sponsor VALUES ('ann', 'bob');
CREATE FUNCTION sponsored() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE lg.users u SET token_balance = u.token_balance - 1 FROM lg.sponsor s WHERE s.id = NEW.id AND u.id = s.sponsor;
  RETURN NULL;
END $$;
CREATE TRIGGER sponsored AFTER UPDATE OF token_balance ON users FOR EACH ROW EXECUTE FUNCTION sponsored();
INSERT INTO token_usage VALUES ('w2', 'ann', 3);
SELECT settle_workflow('w2') ->> 'tokens_used' AS tokens_used;
SELECT * FROM book WHERE user_id IN ('ann', 'bob') ORDER BY user_id, new_balance DESC;
-- the same from a BEFORE trigger, which comes first
DROP TRIGGER sponsored ON users;
CREATE OR REPLACE FUNCTION sponsored() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE lg.users u SET token_balance = u.token_balance - 1 FROM lg.sponsor s WHERE s.id = NEW.id AND u.id = s.sponsor;
  RETURN NEW;
END $$;
CREATE TRIGGER sponsored BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION sponsored();
INSERT INTO token_usage VALUES ('w3', 'ann', 3);
SELECT settle_workflow('w3') ->> 'tokens_used' AS tokens_used;
SELECT user_id, kind, amount, workflow_id FROM token_balance.ledger ORDER BY created_at DESC, entry_id DESC LIMIT 2;
DROP TRIGGER sponsored ON users;
-- one that changes the charged amount: the ledger says what really happened
CREATE OR REPLACE FUNCTION sponsored() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.token_balance := greatest(NEW.token_balance, 0); RETURN NEW; END $$;
CREATE TRIGGER sponsored BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION sponsored();
INSERT INTO token_usage VALUES ('w4', 'ann', 300);
CALL pg_temp.try($$SELECT settle_workflow('w4') - 'charges'$$);
SELECT id, token_balance FROM users ORDER BY id;
SELECT kind, amount, previous_balance, new_balance, workflow_id FROM token_balance.ledger WHERE user_id = 'ann' ORDER BY entry_id DESC LIMIT 2;
DROP TRIGGER sponsored ON users;
-- a settlement inside a trigger of users: nested, each with its own name
CREATE OR REPLACE FUNCTION sponsored() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM lg.settle_workflow('inner'); RETURN NULL; END $$;
CREATE TRIGGER sponsored AFTER UPDATE ON users FOR EACH ROW WHEN (OLD.id = 'ann') EXECUTE FUNCTION sponsored();
INSERT INTO token_usage VALUES ('outer', 'ann', 1), ('outer', 'cid', 2), ('inner', 'bob', 4);
SELECT settle_workflow('outer') ->> 'tokens_used' AS tokens_used;
SELECT user_id, kind, amount, workflow_id FROM token_balance.ledger WHERE workflow_id IN ('outer', 'inner') ORDER BY user_id;
DROP TRIGGER sponsored ON users;

-- a caught error, a savepoint: what comes after is named rightly
BEGIN;
SAVEPOINT one;
INSERT INTO token_usage VALUES ('w5', 'ann', 1), ('w5', 'nobody', 1);
CALL pg_temp.try($$SELECT settle_workflow('w5')$$);
UPDATE users SET token_balance = token_balance + 1 WHERE id = 'ann';
SELECT settle_workflow('w5');
ROLLBACK TO one;
UPDATE users SET token_balance = token_balance + 2 WHERE id = 'ann';
INSERT INTO token_usage VALUES ('w6', 'ann', 1);
SELECT settle_workflow('w6') ->> 'tokens_used' AS tokens_used;
ROLLBACK TO one;
UPDATE users SET token_balance = token_balance + 4 WHERE id = 'ann';
COMMIT;
SELECT user_id, kind, amount, workflow_id FROM token_balance.ledger ORDER BY created_at DESC, entry_id DESC LIMIT 1;

-- a new account has no entry; a deleted one keeps its own
INSERT INTO users (id, token_balance) VALUES ('eve', 5);
SELECT count(*) FROM token_balance.ledger WHERE user_id = 'eve';
UPDATE users SET token_balance = 6 WHERE id = 'eve';
DELETE FROM users WHERE id = 'eve';
SELECT user_id, kind, amount, previous_balance, new_balance FROM token_balance.ledger WHERE user_id = 'eve' ORDER BY entry_id;

-- an id that had an account before goes on with that one's chain
INSERT INTO users (id, token_balance) VALUES ('eve', 100);
SELECT user_id, kind, amount, previous_balance, new_balance FROM token_balance.ledger WHERE user_id = 'eve' ORDER BY entry_id;
-- an account that gets another id: it is not charged again, and both chains stay whole
INSERT INTO users (id, token_balance) VALUES ('old-name', 100);
INSERT INTO token_usage VALUES ('w7', 'old-name', 10);
SELECT settle_workflow('w7') ->> 'new_balance' AS new_balance;
UPDATE users SET id = 'new-name' WHERE id = 'old-name';
UPDATE token_usage SET user_id = 'new-name' WHERE user_id = 'old-name';
SELECT settle_workflow('w7') ->> 'status' AS status;
SELECT user_id, kind, amount, previous_balance, new_balance FROM token_balance.ledger WHERE user_id LIKE '%-name' ORDER BY created_at, entry_id;
SELECT user_id, charged_tokens FROM token_balance.settlement WHERE workflow_id = 'w7';

-- a charge as seen with all constraints deferred is still a settlement in the ledger
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
INSERT INTO token_usage VALUES ('w8', 'cid', 5), ('w9', 'cid', 6);
INSERT INTO workflows VALUES ('w8', 'cid', 'completed');
SELECT settle_workflow('w9') ->> 'tokens_used' AS tokens_used;
UPDATE users SET token_balance = token_balance + 1 WHERE id = 'cid';
COMMIT;
SELECT kind, amount, workflow_id FROM token_balance.ledger ORDER BY created_at DESC, entry_id DESC LIMIT 3;

-- each chain is whole and its end is the column
SELECT count(*) AS broken FROM (SELECT *, lag(new_balance) OVER (PARTITION BY user_id ORDER BY entry_id) AS before FROM token_balance.ledger) e
 WHERE amount <> new_balance - previous_balance OR before <> previous_balance;
SELECT u.id FROM users u WHERE token_balance <> (SELECT new_balance FROM token_balance.ledger l WHERE l.user_id = u.id ORDER BY entry_id DESC LIMIT 1);

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA lg CASCADE;
DROP ROLE regress_tb_clerk;
