-- refund_workflow: a charge given back, all or a part, to the accounts that paid (DESIGN C2, C5, C6).
\set SHOW_CONTEXT never
\pset null '-'
SET client_min_messages = warning;
CREATE SCHEMA rf;
SET search_path = rf, public;
\i common/tables.sql
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users VALUES ('ann'), ('bob'), ('cid');
CREATE EXTENSION token_balance SCHEMA rf;
RESET client_min_messages;
\i common/try.sql
CREATE VIEW state AS SELECT (SELECT string_agg(id || ' ' || token_balance, ', ' ORDER BY id) FROM users) AS balances, count(*) AS entries FROM token_balance.ledger;
CREATE FUNCTION settled(id text) RETURNS TABLE (user_id text, usage_tokens bigint, charged bigint, refunded bigint) LANGUAGE sql AS
  'SELECT user_id, usage_tokens, charged_tokens, refunded_tokens FROM token_balance.settlement WHERE workflow_id = id ORDER BY 1';

-- all of it: the whole answer
INSERT INTO workflows VALUES ('w1', 'ann'), ('w2', 'ann'), ('w3', 'ann'), ('w4', 'ann'), ('none', 'ann');
INSERT INTO token_usage VALUES ('w1', 'ann', 100), ('w1', 'ann', 20);
UPDATE workflows SET status = 'completed' WHERE id = 'w1';
SELECT jsonb_pretty(token_balance.refund_workflow('w1', note => 'the model was down'));
SELECT * FROM settled('w1');
SELECT kind, amount, previous_balance, new_balance, workflow_id, reference, note, actor = session_user AS actor_is_me FROM token_balance.ledger ORDER BY created_at, entry_id;
-- settled again, it is not charged again for the same usage
SELECT settle_workflow('w1') ->> 'status' AS status;
UPDATE workflows SET status = 'running' WHERE id = 'w1';
UPDATE workflows SET status = 'completed' WHERE id = 'w1';
SELECT token_balance.settle_pending();
SELECT * FROM state;
-- late usage is charged for the new alone, and can be refunded again
INSERT INTO token_usage VALUES ('w1', 'ann', 7);
SELECT settle_workflow('w1') ->> 'tokens_used' AS tokens_used;
SELECT * FROM settled('w1');
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w1', 8)$$);
SELECT token_balance.refund_workflow('w1') ->> 'amount' AS amount;
-- nothing is left: no amount gives nothing, an amount is too much
SELECT token_balance.refund_workflow('w1');
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w1', 1)$$);
SELECT * FROM state;

-- a part, another part, more than the rest, the rest
INSERT INTO token_usage VALUES ('w2', 'ann', 1000);
UPDATE workflows SET status = 'completed' WHERE id = 'w2';
SELECT token_balance.refund_workflow('w2', 300) -> 'refunds' AS refunds;
SELECT token_balance.refund_workflow('w2', 1, 'r-1') ->> 'replayed' AS replayed;
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w2', 700)$$);
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w2', 1001)$$);
SELECT * FROM settled('w2');
-- by reference: replayed for the same amount or none, an error for another
SELECT token_balance.refund_workflow('w2', 1, 'r-1');
SELECT token_balance.refund_workflow('w2', NULL, 'r-1') ->> 'replayed' AS replayed;
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w2', 2, 'r-1')$$);
SELECT * FROM settled('w2');
SELECT token_balance.refund_workflow('w2', reference => 'r-2') ->> 'amount' AS the_rest;
SELECT token_balance.refund_workflow('w2', reference => 'r-2') ->> 'replayed' AS replayed;
-- the replay of a refund answers although nothing is left
SELECT token_balance.refund_workflow('w2', 1, 'r-1') ->> 'replayed' AS replayed;
SELECT * FROM settled('w2');
SELECT * FROM state;
-- a reference belongs to one thing: of another workflow, of a credit, and the other way round
INSERT INTO token_usage VALUES ('w3', 'ann', 50);
UPDATE workflows SET status = 'completed' WHERE id = 'w3';
SELECT token_balance.credit('ann', 50, 'c-1') ->> 'success' AS credited;
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w3', 1, 'r-1')$$);
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w3', 50, 'c-1')$$);
CALL pg_temp.try($$SELECT token_balance.credit('ann', 1, 'r-1')$$);
SELECT * FROM settled('w3');

-- several accounts: in proportion, and the total is exact
INSERT INTO token_usage VALUES ('m', 'ann', 50), ('m', 'bob', 30), ('m', 'cid', 21);
SELECT settle_workflow('m') ->> 'tokens_used' AS tokens_used;
SELECT jsonb_pretty(token_balance.refund_workflow('m', 10, 'm-1') -> 'refunds');
SELECT * FROM settled('m');
SELECT token_balance.refund_workflow('m', 10, 'm-1');
SELECT token_balance.refund_workflow('m', 1) ->> 'amount' AS one;
SELECT sum(refunded) AS eleven FROM settled('m');
SELECT (token_balance.refund_workflow('m', 33) ->> 'amount') AS amount;
SELECT sum(refunded) AS forty_four, bool_and(refunded <= charged) AS within FROM settled('m');
CALL pg_temp.try($$SELECT token_balance.refund_workflow('m', 58)$$);
SELECT token_balance.refund_workflow('m') ->> 'amount' AS rest;
SELECT * FROM settled('m');
-- every amount from nothing to all, of awkward shares: exact, and nobody gets more than he paid
CREATE TABLE wrong (amount integer, got bigint, over boolean);
INSERT INTO token_usage VALUES ('p', 'ann', 1), ('p', 'bob', 1), ('p', 'cid', 5);
SELECT settle_workflow('p') ->> 'tokens_used' AS tokens_used;
DO $$
BEGIN
  FOR i IN 1..7 LOOP
    BEGIN
      PERFORM token_balance.refund_workflow('p', i);
      INSERT INTO wrong SELECT i, sum(refunded), bool_or(refunded > charged) FROM settled('p');
      RAISE EXCEPTION USING ERRCODE = 'TB000', MESSAGE = (SELECT string_agg(w::text, ' ') FROM wrong w);
    EXCEPTION WHEN SQLSTATE 'TB000' THEN RAISE NOTICE '%', SQLERRM;
    END;
  END LOOP;
  -- one at a time
  FOR i IN 1..7 LOOP PERFORM token_balance.refund_workflow('p', 1); END LOOP;
END $$;
SELECT * FROM settled('p');
SELECT * FROM state;
-- a refund of several accounts is one thing: if one account is gone, none gets any
INSERT INTO token_usage VALUES ('q', 'ann', 10), ('q', 'cid', 10);
SELECT settle_workflow('q') ->> 'tokens_used' AS tokens_used;
DELETE FROM users WHERE id = 'cid';
CALL pg_temp.try($$SELECT token_balance.refund_workflow('q')$$);
SELECT * FROM settled('q');
SELECT * FROM state;

-- arguments
CALL pg_temp.try($$SELECT token_balance.refund_workflow(NULL)$$);
CALL pg_temp.try($$SELECT token_balance.refund_workflow('nobody knows')$$);
CALL pg_temp.try($$SELECT token_balance.refund_workflow('nobody knows', 5)$$);
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w3', 0)$$);
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w3', -1)$$);
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w3', 0.5)$$);
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w3', 9223372036854775808)$$);
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w3', 1, '')$$);
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w3', 1, repeat('x', 256))$$);
-- known, but without a charge: nothing to give back
SELECT token_balance.refund_workflow('none');
CALL pg_temp.try($$SELECT token_balance.refund_workflow('none', 1)$$);
-- known by its usage alone, not settled yet
INSERT INTO token_usage VALUES ('new', 'ann', 10);
SELECT token_balance.refund_workflow('new') ->> 'amount' AS amount;
CALL pg_temp.try($$SELECT token_balance.refund_workflow('new', 10)$$);
SELECT * FROM settled('w3');
SELECT * FROM state;
BEGIN READ ONLY;
SELECT token_balance.refund_workflow('w3');
ROLLBACK;
-- out of the column's range
UPDATE users SET token_balance = 2147483647 WHERE id = 'ann';
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w3')$$);
SELECT * FROM settled('w3');

-- all adds up, by the ledger's books
SELECT * FROM token_balance.reconcile();

-- usage from before the extension was never charged: there is nothing to give back
SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
CREATE EXTENSION token_balance SCHEMA rf;
RESET client_min_messages;
SELECT token_balance.refund_workflow('w3');
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w3', 1)$$);
INSERT INTO token_usage VALUES ('w3', 'ann', 4);
SELECT settle_workflow('w3') ->> 'tokens_used' AS tokens_used;
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w3', 5)$$);
SELECT token_balance.refund_workflow('w3') ->> 'amount' AS amount;
SELECT * FROM settled('w3');

SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA rf CASCADE;
