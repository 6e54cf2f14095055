-- Any column of any table with a key can hold the balance: its own default, NULLs and CHECKs, and what detach drops (DESIGN D7, D13, D14, H8, F15).
\set SHOW_CONTEXT never
CREATE SCHEMA bc;
SET search_path = bc, public;
SET client_min_messages = warning;
\i common/try.sql
CREATE EXTENSION token_balance SCHEMA bc;
SET client_min_messages = notice;
CREATE TABLE usage (workflow_id text, account text, total_tokens integer);
CREATE TABLE runs (id text PRIMARY KEY, status text DEFAULT 'running');
CREATE FUNCTION run(run text, account text, tokens integer) RETURNS void LANGUAGE sql AS $$
  INSERT INTO bc.usage VALUES (run, account, tokens);
  INSERT INTO bc.runs VALUES (run) ON CONFLICT DO NOTHING;
  UPDATE bc.runs SET status = 'completed' WHERE id = run $$;

-- organisations: the column's own default stays, and is what NULLs become
CREATE TABLE organisations (slug text UNIQUE, credits bigint DEFAULT 250 + 250);
INSERT INTO organisations VALUES ('acme', 40), ('initech', NULL), ('hooli', DEFAULT);
SELECT token_balance.attach('organisations', 'usage', 'runs', user_key => 'slug', usage_user => 'account', balance_column => 'credits');
INSERT INTO organisations VALUES ('umbrella');
SELECT run('r1', 'acme', 100), run('r2', 'umbrella', 7);
SELECT * FROM organisations ORDER BY slug;
SELECT initial_balance, made_column FROM token_balance.binding;
-- nothing to do; nor for the call that a hint gives
SELECT token_balance.attach('organisations', 'usage', 'runs', user_key => 'slug', usage_user => 'account', balance_column => 'credits');
SELECT token_balance.attach_again();
SELECT name, ok, detail FROM token_balance.verify() WHERE name LIKE 'column%';
-- said explicitly it is another default, and that is remembered: a column that is made anew has it
SELECT token_balance.attach('organisations', 'usage', 'runs', user_key => 'slug', usage_user => 'account', balance_column => 'credits', initial_balance => 9);
SELECT initial_balance, made_column FROM token_balance.binding;
SELECT token_balance.attach('organisations', 'usage', 'runs', user_key => 'slug', usage_user => 'account', balance_column => 'credits');
INSERT INTO organisations VALUES ('vandelay');
SELECT * FROM organisations ORDER BY slug;
-- somebody else's default after it stays again
ALTER TABLE organisations ALTER credits SET DEFAULT 11;
SELECT token_balance.attach('organisations', 'usage', 'runs', user_key => 'slug', usage_user => 'account', balance_column => 'credits');
SELECT token_balance.attach_again();
INSERT INTO organisations VALUES ('wonka');
SELECT credits FROM organisations WHERE slug = 'wonka';
-- it was there before: it stays, though asked for
SELECT token_balance.detach(drop_column => true);
SELECT count(credits) FROM organisations;
SELECT token_balance.attach('organisations', 'usage', 'runs', user_key => 'slug', usage_user => 'account', balance_column => 'credits');
-- dropped, it is made by attach, with what was said; then detach drops it
ALTER TABLE organisations DROP credits;
SELECT token_balance.attach('organisations', 'usage', 'runs', user_key => 'slug', usage_user => 'account', balance_column => 'credits');
INSERT INTO organisations VALUES ('zorin');
SELECT * FROM organisations ORDER BY slug;
SELECT made_column FROM token_balance.binding;
SELECT token_balance.detach(drop_column => true);
SELECT * FROM organisations WHERE slug = 'zorin';
-- one that attach has made, and somebody else made anew, is not dropped
SELECT token_balance.attach('organisations', 'usage', 'runs', user_key => 'slug', usage_user => 'account', balance_column => 'credits');
ALTER TABLE organisations DROP credits, ADD credits integer NOT NULL DEFAULT 5;
SELECT token_balance.detach(drop_column => true);
SELECT count(credits) FROM organisations;
-- one that attach has made is dropped by the next binding, too
ALTER TABLE organisations DROP credits;
SELECT token_balance.attach('organisations', 'usage', 'runs', user_key => 'slug', usage_user => 'account', balance_column => 'credits', accounts => 'same');
SELECT token_balance.detach();
CREATE TABLE calls (LIKE usage);
SELECT token_balance.attach('organisations', 'calls', user_key => 'slug', usage_user => 'account', balance_column => 'credits');
SELECT token_balance.detach(drop_column => true);
SELECT * FROM organisations WHERE slug = 'zorin';

-- a default that is NULL, or a domain's; a column without room for the usual balance
CREATE DOMAIN tokens AS integer DEFAULT 77;
CREATE FUNCTION nothing() RETURNS integer LANGUAGE sql AS 'SELECT NULL::integer';
CREATE TABLE keys (id integer PRIMARY KEY, by_domain tokens, by_function integer DEFAULT nothing(), small smallint DEFAULT 3, bare smallint);
INSERT INTO keys VALUES (1, NULL, NULL, NULL);
DROP TABLE calls;
CREATE TABLE calls (workflow_id text, account integer, total_tokens integer);
SELECT token_balance.attach('keys', 'calls', balance_column => 'by_domain', usage_user => 'account', name => 'domain');
SELECT token_balance.attach('keys', 'calls', balance_column => 'by_function', usage_user => 'account', name => 'function');
SELECT token_balance.attach('keys', 'calls', balance_column => 'small', usage_user => 'account', name => 'small');
CALL pg_temp.try($$SELECT token_balance.attach('keys', 'calls', balance_column => 'bare', usage_user => 'account', name => 'bare')$$);
SELECT token_balance.attach('keys', 'calls', balance_column => 'bare', usage_user => 'account', name => 'bare', initial_balance => 4);
INSERT INTO keys (id, by_function) VALUES (2, 0);
SELECT * FROM keys ORDER BY id;
-- two bindings of one column have one initial balance
CREATE TABLE more (LIKE calls);
SELECT token_balance.attach('keys', 'more', balance_column => 'bare', usage_user => 'account', name => 'more', initial_balance => 6);
SELECT name, initial_balance, made_column FROM token_balance.binding WHERE detached_at IS NULL ORDER BY name;
SELECT token_balance.detach(name => 'more'), token_balance.detach(name => 'bare'), token_balance.detach(name => 'small'),
  token_balance.detach(name => 'function'), token_balance.detach(name => 'domain');
-- a key of a type that cannot be one
CREATE TABLE api_keys (hash bytea PRIMARY KEY, balance integer);
CALL pg_temp.try($$SELECT token_balance.attach('api_keys', 'calls', user_key => 'hash', usage_user => 'account', balance_column => 'balance')$$);

-- a CHECK that forbids an overdraft: a WARNING, a row of verify, and a run that costs more than its account has completes
CREATE TABLE purses (id text PRIMARY KEY, coins integer NOT NULL DEFAULT 100, CONSTRAINT no_debt CHECK (coins >= 0));
INSERT INTO purses VALUES ('ann'), ('bob');
SELECT token_balance.attach('purses', 'usage', 'runs', usage_user => 'account', balance_column => 'coins');
SELECT name, ok, detail, hint FROM token_balance.verify() WHERE name LIKE 'overdraft%';
SELECT run('p1', 'ann', 60), run('p2', 'bob', 30);
SELECT run('p3', 'ann', 50);
SELECT status FROM runs WHERE id = 'p3';
TABLE purses ORDER BY id;
SELECT workflow_id, reason, tokens FROM token_balance.unsettled WHERE user_id = 'ann';
CALL pg_temp.try($$SELECT settle_workflow('p3')$$);
-- of several runs those are charged for which there is something left
INSERT INTO usage VALUES ('p4', 'bob', 40), ('p5', 'bob', 40), ('p6', 'bob', 20);
INSERT INTO runs VALUES ('p4', 'completed'), ('p5', 'completed'), ('p6', 'completed');
TABLE purses ORDER BY id;
CALL pg_temp.try($$SELECT token_balance.adjust('bob', -11)$$);
SELECT token_balance.adjust('bob', -10) ->> 'new_balance' AS adjusted;
-- in the queue it waits as well
SELECT token_balance.attach('purses', 'usage', 'runs', usage_user => 'account', balance_column => 'coins', busy_account => 'queue');
SELECT token_balance.credit('ann', 15) ->> 'new_balance' AS credited;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS swept;
TABLE purses ORDER BY id;
-- without the constraint it is charged
ALTER TABLE purses DROP CONSTRAINT no_debt;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS swept;
TABLE purses ORDER BY id;
SELECT name FROM token_balance.verify() WHERE name LIKE 'overdraft%';
-- one that allows some; functions and operators of the owner's, whatever the search_path; one that is not validated
CREATE SCHEMA ours;
CREATE FUNCTION ours.floor(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT -1000';
ALTER TABLE purses ADD CONSTRAINT some_debt CHECK (coins >= ours.floor(coins) AND coins BETWEEN -5000 AND 5000) NOT VALID;
SELECT name FROM token_balance.verify() WHERE name LIKE 'overdraft%';
SELECT run('p7', 'ann', 900), run('p8', 'ann', 200);
TABLE purses ORDER BY id;
-- one that other columns may satisfy
ALTER TABLE purses ADD unlimited boolean DEFAULT false, ADD CONSTRAINT of_row CHECK (unlimited OR coins > -980);
SELECT name FROM token_balance.verify() WHERE name LIKE 'overdraft%';
SELECT run('p9', 'ann', 90);
UPDATE purses SET unlimited = true WHERE id = 'ann';
SELECT settle_workflow('p9') ->> 'new_balance' AS new_balance;
-- what a domain forbids, or one that it is made of: the same, in a session that is open, too
CREATE DOMAIN coin AS integer CHECK (VALUE > -990);
CREATE DOMAIN copper AS coin;
ALTER TABLE purses DROP CONSTRAINT some_debt, ALTER coins TYPE copper;
SELECT name FROM token_balance.verify() WHERE name LIKE 'overdraft%';
SELECT run('p10', 'ann', 10), run('p11', 'ann', 1);
SELECT id, coins FROM purses ORDER BY id;
SELECT count(*) FROM runs WHERE id IN ('p10', 'p11');
CALL pg_temp.try($$SELECT token_balance.adjust('ann', -1000)$$);
ALTER DOMAIN copper ADD CONSTRAINT no_debt CHECK (VALUE >= 0) NOT VALID;
SELECT detail FROM token_balance.verify() WHERE name LIKE 'overdraft%';
SELECT run('p12', 'ann', 1);
ALTER DOMAIN copper DROP CONSTRAINT no_debt;
ALTER DOMAIN coin DROP CONSTRAINT coin_check;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS used;
SELECT name FROM token_balance.verify() WHERE name LIKE 'overdraft%';
SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA bc CASCADE;
