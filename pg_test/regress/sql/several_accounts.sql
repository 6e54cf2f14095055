-- One workflow, several accounts: each pays for its own usage, all or nothing (DESIGN A3, H3).
\set SHOW_CONTEXT never
CREATE SCHEMA sa;
SET search_path = sa, public;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, prompt_tokens integer, completion_tokens integer);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text NOT NULL DEFAULT 'running');
INSERT INTO users VALUES ('ann'), ('bob'), ('cid');
SET client_min_messages = warning;
CREATE EXTENSION token_balance SCHEMA sa;
RESET client_min_messages;

INSERT INTO workflows VALUES ('w1', 'ann');
INSERT INTO token_usage VALUES ('w1', 'cid', 1, 2), ('w1', 'ann', 10, 20), ('w1', 'bob', 100, 200), ('w1', 'ann', 1000, NULL);
SELECT jsonb_pretty(settle_workflow('w1'));
SELECT * FROM users ORDER BY id;
SELECT workflow_id, user_id, usage_tokens, charged_tokens FROM token_balance.settlement ORDER BY user_id;
SELECT jsonb_pretty(settle_workflow('w1'));

-- late usage of one of them, and of a new one: only what is new
INSERT INTO token_usage VALUES ('w1', 'bob', 5, 5);
SELECT jsonb_pretty(settle_workflow('w1'));
INSERT INTO users VALUES ('dan');
INSERT INTO token_usage VALUES ('w1', 'dan', 6, 1);
UPDATE workflows SET status = 'completed' WHERE id = 'w1';
SELECT * FROM users ORDER BY id;

-- one in overdraft, one not
UPDATE users SET token_balance = 10 WHERE id IN ('ann', 'bob');
INSERT INTO token_usage VALUES ('w2', 'ann', 9, 0), ('w2', 'bob', 11, 0);
SELECT jsonb_pretty(settle_workflow('w2'));

-- one of two cannot be charged: the function takes from neither
INSERT INTO token_usage VALUES ('w3', 'ann', 1, 0), ('w3', 'nobody', 1, 0);
SELECT settle_workflow('w3');
SELECT * FROM users ORDER BY id;
SELECT count(*) FROM token_balance.settlement WHERE workflow_id = 'w3';
-- it can once the account is there
INSERT INTO users VALUES ('nobody');
SELECT settle_workflow('w3') ->> 'tokens_used' AS tokens_used;
SELECT * FROM users ORDER BY id;

SELECT user_id, kind, amount, previous_balance, new_balance, workflow_id FROM token_balance.ledger ORDER BY user_id, entry_id;
SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA sa CASCADE;
