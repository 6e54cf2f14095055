-- A charge is in the queue when its account is deleted: it is applied when the account is there again, as the hint of reconcile() says
-- (DESIGN Q5).
SET client_min_messages = warning;
CREATE SCHEMA qd; SET search_path = qd, public; CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE INDEX ON token_usage (workflow_id);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
INSERT INTO users VALUES ('ann');
CREATE EXTENSION token_balance SCHEMA qd;
SELECT token_balance.attach('users','token_usage','workflows', busy_account => 'queue');
INSERT INTO workflows VALUES ('w1','ann','running'); INSERT INTO token_usage VALUES ('w1','ann',101);
BEGIN ISOLATION LEVEL REPEATABLE READ; UPDATE workflows SET status='completed'; COMMIT;
SELECT user_id, workflow_id, tokens FROM token_balance.queue;
DELETE FROM users;
SELECT problem, expected, found, hint from token_balance.reconcile();
INSERT INTO users VALUES ('ann');
SELECT token_balance.settle_pending();
SELECT problem, expected, found, hint from token_balance.reconcile();
TABLE users; SELECT entry_id, kind, amount, new_balance from token_balance.ledger;
DROP EXTENSION token_balance CASCADE; DROP SCHEMA qd CASCADE;
