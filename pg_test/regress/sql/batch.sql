-- token_balance.settle_workflows: many at once, the same rules (DESIGN F1, P1, P2).
\set SHOW_CONTEXT never
CREATE SCHEMA ba;
SET search_path = ba, public;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens bigint);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text DEFAULT 'running');
INSERT INTO users VALUES ('ann'), ('bob');
SET client_min_messages = warning;
CREATE EXTENSION token_balance SCHEMA ba;
RESET client_min_messages;
INSERT INTO workflows VALUES ('w1', 'ann'), ('w2', 'ann'), ('w3', 'bob'), ('empty', 'bob');
INSERT INTO token_usage VALUES ('w1', 'ann', 1), ('w1', 'bob', 2), ('w2', 'ann', 4), ('w3', 'bob', 8), ('only usage', 'bob', 16), ('w3', NULL, 99);

-- one row per charge; an id twice is one; without usage is no row
SELECT * FROM token_balance.settle_workflows('{w3,w1,w1,empty,"only usage"}') ORDER BY user_id COLLATE "C", new_balance DESC;
SELECT * FROM token_balance.settle_workflows('{w3,w1}');
SELECT * FROM users ORDER BY id;
-- what is new, of those that have something new
INSERT INTO token_usage VALUES ('w1', 'bob', 32);
SELECT * FROM token_balance.settle_workflows('{w1,w2,w3}') ORDER BY 1, 2;
-- nothing to do
SELECT * FROM token_balance.settle_workflows('{}');
SELECT * FROM token_balance.settle_workflows('{empty}');

-- a null list, a null among them, an id that nobody knows: an error, and nothing charged
INSERT INTO token_usage VALUES ('w1', 'bob', 64);
SELECT * FROM token_balance.settle_workflows(NULL);
BEGIN;
SELECT * FROM token_balance.settle_workflows('{w1,NULL}');
ROLLBACK;
SELECT * FROM token_balance.settle_workflows('{w1,nobody knows}');
-- one bad charge takes the whole call back
INSERT INTO token_usage VALUES ('w2', 'ann', 3000000000);
SELECT * FROM token_balance.settle_workflows('{w1,w2}');
SELECT * FROM users ORDER BY id;
SELECT * FROM token_balance.settle_workflows('{w1}');

SELECT workflow_id, user_id, usage_tokens, charged_tokens FROM token_balance.settlement ORDER BY 1, 2;
SELECT user_id, kind, sum(amount) FROM token_balance.ledger GROUP BY 1, 2 ORDER BY 1, 2;
SELECT count(*) AS broken FROM (SELECT *, lag(new_balance) OVER (PARTITION BY user_id ORDER BY entry_id) AS before FROM token_balance.ledger) e
 WHERE amount <> new_balance - previous_balance OR before <> previous_balance;

SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA ba CASCADE;
