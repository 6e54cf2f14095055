-- Every column that attach binds, generated: as :kind says.
DROP SCHEMA IF EXISTS gc CASCADE;
CREATE SCHEMA gc;
SET search_path = gc, public;
SET client_min_messages = warning;
CREATE EXTENSION token_balance SCHEMA gc;
CREATE TABLE people (id text PRIMARY KEY);
INSERT INTO people VALUES ('ann'), ('bob');
CREATE TABLE calls (id bigint GENERATED ALWAYS AS IDENTITY, body jsonb, cents integer,
  run text GENERATED ALWAYS AS (body ->> 'run') :kind,
  who varchar(20) GENERATED ALWAYS AS (lower(body ->> 'who')) :kind,
  tokens bigint GENERATED ALWAYS AS ((body ->> 'tokens')::integer) :kind);
CREATE TABLE jobs (body jsonb, finished_at timestamptz,
  run varchar(8) GENERATED ALWAYS AS (body ->> 'run') :kind,
  payer text GENERATED ALWAYS AS (body ->> 'payer') :kind,
  state text GENERATED ALWAYS AS (CASE WHEN finished_at IS NOT NULL THEN 'done' END) :kind);
CREATE FUNCTION call(run text, who text, tokens integer) RETURNS void LANGUAGE sql AS $$
  INSERT INTO gc.calls (body) VALUES (jsonb_build_object('run', run, 'who', who, 'tokens', tokens)) $$;
CREATE FUNCTION job(run text, payer text) RETURNS void LANGUAGE sql AS $$
  INSERT INTO gc.jobs (body) VALUES (jsonb_build_object('run', run, 'payer', payer)) $$;
CREATE FUNCTION balances() RETURNS text LANGUAGE plpgsql AS $$
  BEGIN RETURN (SELECT string_agg(id || ' ' || token_balance, ', ' ORDER BY id) FROM gc.people); END $$;
-- the usage names the account; workflow key and status
SELECT token_balance.attach('people', 'calls', 'jobs', usage_user => 'who', usage_workflow => 'run', usage_tokens => '{tokens}',
  workflow_key => 'run', workflow_status => 'state');
SELECT call('r1', 'ANN', 100), job('r1', 'bob');
UPDATE jobs SET finished_at = now() WHERE run = 'r1';
SELECT balances();
-- many rows in one statement: all but the first are read where they are stored
SELECT call('r' || n, CASE WHEN n % 2 = 0 THEN 'ANN' ELSE 'Bob' END, 10), job('r' || n, 'bob') FROM generate_series(2, 6) AS n;
UPDATE jobs SET finished_at = now() WHERE finished_at IS NULL;
SELECT balances();
-- a value out of line
INSERT INTO jobs (body) VALUES (jsonb_build_object('run', 'long', 'x', (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 500) AS n)));
SELECT job('long2', NULL), call('long', 'bob', 1), call('long2', 'bob', 1);
UPDATE jobs SET finished_at = now() WHERE finished_at IS NULL;
SELECT balances();
-- the function, in text and as the column spells it
SELECT call('r1', 'ann', 5), job('r9', 'ann');
SELECT settle_workflow('r1') ->> 'tokens_used' AS tokens_used;
SELECT name, ok FROM token_balance.verify() WHERE name IN ('usage index', 'summary index');
DO $$ BEGIN EXECUTE (SELECT replace(hint, 'CONCURRENTLY ', '') FROM token_balance.verify() WHERE name = 'usage index'); END $$;
SELECT name, ok FROM token_balance.verify() WHERE name = 'usage index';
SELECT problem, user_id, workflow_id FROM token_balance.reconcile();
SELECT token_balance.detach();
-- the workflow names the account; usage that comes late is settled at once
SELECT token_balance.attach('people', 'calls', 'jobs', usage_user => NULL, usage_workflow => 'run', usage_tokens => '{tokens}',
  workflow_key => 'run', workflow_status => 'state', workflow_user => 'payer', late_usage => 'settle', existing_usage => 'charge',
  create_index => true);
SELECT job('p1', 'bob'), job('p2', 'ann'), call('p1', NULL, 1000), call('p2', NULL, 2000);
UPDATE jobs SET finished_at = now() WHERE run IN ('p1', 'p2');
SELECT balances();
INSERT INTO calls (body) SELECT jsonb_build_object('run', run, 'tokens', 7) FROM jobs WHERE run IN ('p1', 'p2') ORDER BY run;
SELECT balances();
SELECT problem, user_id, workflow_id FROM token_balance.reconcile();
SELECT token_balance.detach();
-- the same keys are varchar(n), and the index that the hint asks for serves them
ALTER TABLE calls DROP run, ADD run varchar(8) GENERATED ALWAYS AS (body ->> 'run') :kind;
SELECT token_balance.attach('people', 'calls', 'jobs', usage_user => 'who', usage_workflow => 'run', usage_tokens => '{tokens}',
  workflow_key => 'run', workflow_status => 'state', create_index => true, usage_ids => 'same');
SELECT name, ok FROM token_balance.verify() WHERE name = 'usage index';
SELECT call('v', 'bob', 100), job('v', NULL);
UPDATE jobs SET finished_at = now() WHERE run = 'v';
SELECT balances();
SELECT token_balance.detach();
-- a number, from one that is narrower
ALTER TABLE calls DROP run, ADD run bigint GENERATED ALWAYS AS (cents) :kind;
ALTER TABLE jobs ADD n integer;
SELECT token_balance.attach('people', 'calls', 'jobs', usage_user => 'who', usage_workflow => 'run', usage_tokens => '{tokens}',
  workflow_key => 'n', workflow_completed_at => 'finished_at', create_index => true, usage_ids => 'same');
SELECT name, ok FROM token_balance.verify() WHERE name = 'usage index';
INSERT INTO calls (body, cents) VALUES ('{"who": "ann", "tokens": 3}', 77);
INSERT INTO jobs (n) VALUES (77);
UPDATE jobs SET finished_at = now() WHERE n = 77;
SELECT balances();
-- partitions, whose columns stand in another order
SELECT token_balance.detach();
CREATE TABLE parts (id integer, finished_at timestamptz, run text GENERATED ALWAYS AS ('run ' || id::text) :kind,
  state text GENERATED ALWAYS AS (CASE WHEN finished_at IS NOT NULL THEN 'done' END) :kind) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE TABLE parts_2 (junk text, finished_at timestamptz, id integer NOT NULL, run text GENERATED ALWAYS AS ('run ' || id::text) :kind,
  state text GENERATED ALWAYS AS (CASE WHEN finished_at IS NOT NULL THEN 'done' END) :kind);
ALTER TABLE parts_2 DROP junk;
ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES FROM (10) TO (20);
ALTER TABLE calls DROP run, ADD run text GENERATED ALWAYS AS (body ->> 'run') :kind;
SELECT token_balance.attach('people', 'calls', 'parts', usage_user => 'who', usage_workflow => 'run', usage_tokens => '{tokens}',
  workflow_key => 'run', workflow_status => 'state');
INSERT INTO parts (id) VALUES (1), (2), (11), (12);
SELECT call(run, 'ann', 1) FROM unnest('{run 1,run 2,run 11,run 12}'::text[]) AS run;
UPDATE parts SET finished_at = now();
SELECT balances();
SELECT token_balance.detach();
DROP EXTENSION token_balance;
