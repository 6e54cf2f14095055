-- The view overdrawn. (The notification is in the isolation tests, where sessions listen.) (DESIGN E3, F1)
\set SHOW_CONTEXT never
\pset null '-'
SET client_min_messages = warning;
CREATE SCHEMA od;
SET search_path = od, public;
\i common/tables.sql
INSERT INTO users VALUES ('ann'), ('bob'), ('cid'), ('dan'), ('zed');
CREATE EXTENSION token_balance SCHEMA od;
SELECT * FROM token_balance.overdrawn;

-- exactly zero is no overdraft
UPDATE users SET token_balance = 0 WHERE id = 'dan';
INSERT INTO token_usage VALUES ('w1', 'ann', 1000001), ('w2', 'bob', 1000500), ('w3', 'ann', 7), ('w4', 'zed', 1000500);
INSERT INTO workflows SELECT 'w' || i, 'ann', 'completed' FROM generate_series(1, 4) i;
-- deepest first, then by id
SELECT user_id, token_balance, since IS NOT NULL AS since_is_known FROM token_balance.overdrawn;
-- since is the crossing, not the last change: neither a deeper charge nor a credit that does not suffice moves it
SELECT since AS crossed FROM token_balance.overdrawn WHERE user_id = 'ann' \gset
SELECT o.since = l.created_at AS at_the_crossing, l.previous_balance, l.new_balance FROM token_balance.overdrawn o JOIN token_balance.ledger l USING (user_id) WHERE user_id = 'ann' AND l.previous_balance >= 0 AND l.new_balance < 0;
INSERT INTO token_usage VALUES ('w1', 'ann', 10);
SELECT settle_workflow('w1') ->> 'new_balance' AS ann;
SELECT token_balance.credit('ann', 5) ->> 'new_balance' AS ann;
SELECT token_balance, since = :'crossed' AS same FROM token_balance.overdrawn WHERE user_id = 'ann';
-- back, and down again: the last crossing
SELECT token_balance.credit('ann', 1000) ->> 'is_overdraft' AS is_overdraft;
SELECT count(*) FROM token_balance.overdrawn WHERE user_id = 'ann';
UPDATE users SET token_balance = -1 WHERE id = 'ann';
SELECT token_balance, since > :'crossed' AS later FROM token_balance.overdrawn WHERE user_id = 'ann';
-- a refund takes an account out
SELECT token_balance.refund_workflow('w2') ->> 'amount' AS refunded;
SELECT user_id, token_balance FROM token_balance.overdrawn;
-- one that was negative from the start: since when is not in the ledger
INSERT INTO users VALUES ('eve', -3);
SELECT user_id, token_balance, since FROM token_balance.overdrawn WHERE user_id = 'eve';
UPDATE users SET token_balance = -4 WHERE id = 'eve';
SELECT user_id, token_balance, since FROM token_balance.overdrawn WHERE user_id = 'eve';
-- a balance is never refused for an id that is too long to be notified
INSERT INTO users VALUES (repeat('x', 9000), 0);
UPDATE users SET token_balance = -2 WHERE id LIKE 'x%';
SELECT length(user_id), token_balance FROM token_balance.overdrawn WHERE user_id LIKE 'x%';
DELETE FROM users WHERE id LIKE 'x%';
-- an account that is gone is not overdrawn
DELETE FROM users WHERE id = 'zed';
SELECT user_id, token_balance FROM token_balance.overdrawn;
-- the function that it reads, for whom the view is not enough
SELECT user_id, token_balance FROM token_balance.overdrawn_accounts() WHERE token_balance < -1;
-- the view is of the statement's moment, and reads only
BEGIN READ ONLY;
SELECT count(*) FROM token_balance.overdrawn;
COMMIT;
SELECT token_balance.detach();
SELECT * FROM token_balance.overdrawn;

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA od CASCADE;
