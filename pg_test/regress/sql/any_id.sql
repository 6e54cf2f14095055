-- Ids as a driver sends them: text, bigint and uuid, and what becomes one of these (DESIGN F11, F21).
\set SHOW_CONTEXT never
\pset null '-'
SET client_min_messages = warning;
CREATE SCHEMA ai;
SET search_path = ai, public;
\i common/try.sql
CREATE EXTENSION token_balance SCHEMA ai;

-- each function that takes an id takes it so, and is otherwise the same; a list of ids is text
SELECT p.proname, array_agg(p.proargtypes[0]::regtype::text ORDER BY p.proargtypes[0]::regtype::text) AS types, p.proargnames[1] AS id,
  count(DISTINCT (p.pronargs, p.pronargdefaults, p.proargnames, p.proargtypes[1], p.proargtypes[2], p.proargtypes[3], p.proargtypes[4], p.prorettype, p.provolatile, p.proparallel, p.proacl::text)) AS kinds,
  bool_and(obj_description(p.oid, 'pg_proc') IS NOT NULL) AS told
 FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'token_balance' JOIN pg_proc p ON p.oid = d.objid AND d.classid = 'pg_proc'::regclass
 WHERE d.deptype = 'e' AND p.proargnames[1] ~ '(user|workflow)_ids?$' GROUP BY p.proname, p.pronargs, p.proargnames[1] ORDER BY 1, p.pronargs;

-- accounts and workflows with numbers
CREATE TABLE users (id bigint PRIMARY KEY);
CREATE TABLE token_usage (workflow_id integer, user_id bigint, total_tokens integer, created_at timestamptz DEFAULT now());
CREATE TABLE workflows (id integer PRIMARY KEY, user_id bigint, status text);
CREATE TABLE uuid_users (id uuid PRIMARY KEY);
CREATE TABLE uuid_usage (workflow_id uuid, user_id uuid, total_tokens integer, created_at timestamptz DEFAULT now());
INSERT INTO users VALUES (7), (-7), (9223372036854775807);
INSERT INTO uuid_users VALUES ('00000000-0000-0000-0000-00000000000a');
SELECT token_balance.attach('users', 'token_usage', 'workflows');
INSERT INTO token_usage VALUES (7, 7, 1000);
INSERT INTO workflows VALUES (7, 7, 'completed');

-- what is called; %s is the id. The answer says whose it is, or fails.
CREATE TABLE call (name text, call text, named text);
INSERT INTO call VALUES
  ('settle_workflow', $$settle_workflow(%s) ->> 'workflow_id'$$, $$settle_workflow(workflow_id => %s, binding => NULL) ->> 'workflow_id'$$),
  ('balance', $$token_balance.balance(%s) ->> 'is_overdraft'$$, $$token_balance.balance(binding => NULL, user_id => %s) ->> 'is_overdraft'$$),
  ('credit', $$token_balance.credit(%s, 1) ->> 'user_id'$$, $$token_balance.credit(amount => 1, user_id => %s, note => 'n') ->> 'user_id'$$),
  ('adjust', $$token_balance.adjust(%s, -1) ->> 'user_id'$$, $$token_balance.adjust(amount => -1, user_id => %s) ->> 'user_id'$$),
  ('refund_workflow', $$token_balance.refund_workflow(%s, 1) ->> 'workflow_id'$$, $$token_balance.refund_workflow(amount => 1, workflow_id => %s) ->> 'workflow_id'$$),
  ('correct_workflow', $$token_balance.correct_workflow(%s) ->> 'workflow_id'$$, $$token_balance.correct_workflow(binding => NULL, workflow_id => %s) ->> 'workflow_id'$$),
  ('statement', $$(SELECT min(workflow_id) FROM token_balance.statement(%s))$$, $$(SELECT min(workflow_id) FROM token_balance.statement(since => '2000-01-01', user_id => %s))$$),
  ('balance_at', $$token_balance.balance_at(%s, '2000-01-01')$$, $$token_balance.balance_at(at => '2000-01-01', user_id => %s)$$),
  ('summary', $$token_balance.summary(%s) #>> '{summary,total_tokens}'$$, $$token_balance.summary(days => 7, user_id => %s) #>> '{summary,total_tokens}'$$);
CREATE FUNCTION answer(statement text, VARIADIC more text[] DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
DECLARE answer text; one text;
BEGIN
  FOREACH one IN ARRAY more LOOP EXECUTE one; END LOOP;
  EXECUTE statement INTO answer;
  RETURN answer;
EXCEPTION WHEN OTHERS THEN
  RETURN concat_ws(' ', SQLSTATE, SQLERRM);
END $$;

-- one answer, however the id is written, with places and with names
SELECT name, answer, count(*) AS ways FROM (
  SELECT name, answer('SELECT ' || format(c, id)) FROM call, LATERAL unnest(ARRAY[call, named]) AS c,
    unnest(ARRAY['7', $$'7'$$, '7::smallint', '7::integer', '7::bigint', $$'7'::text$$, $$'7'::varchar$$, $$'7'::varchar(9)$$, $$'7'::char(1)$$, $$'7'::name$$, '(SELECT id FROM users WHERE id = 7)']) AS id) AS a
 GROUP BY 1, 2 ORDER BY 1, 2;
-- prepared, with the types that drivers give, and with none
SELECT name, answer, string_agg(type, ' ' ORDER BY type COLLATE "C") AS types FROM (
  SELECT name, type, answer(format('EXECUTE p_%s_%s(%s)', name, type, $$'7'$$), format('PREPARE p_%s_%s %s AS SELECT %s', name, type, CASE type WHEN 'none' THEN '' ELSE '(' || type || ')' END, format(call, '$1'))) FROM call,
    unnest(ARRAY['int2', 'int4', 'int8', 'text', 'varchar', 'none']) AS type ORDER BY name, type) AS a
 GROUP BY 1, 2 ORDER BY 1, 2;
-- what has no type is text
SELECT parameter_types, count(*) FROM pg_prepared_statements WHERE name ~ '_none$' GROUP BY 1;
DEALLOCATE ALL;
-- NULL without a type and with one: the function's own error
SELECT name, answer, count(*) AS ways FROM (
  SELECT name, answer('SELECT ' || format(c, id)) FROM call, LATERAL unnest(ARRAY[call, named]) AS c,
    unnest(ARRAY['NULL', 'NULL::integer', 'NULL::bigint', 'NULL::uuid', 'NULL::text']) AS id) AS a
 GROUP BY 1, 2 ORDER BY 1, 2;
-- a number that nobody has, the ends of the range, and a uuid where accounts have numbers
SELECT id, answer(format('SELECT token_balance.balance(%s)', id)) FROM unnest(ARRAY['8', '-7', '(-7)::smallint', '9223372036854775807', '-9223372036854775808', '9223372036854775808', '7.0', $$'00000000-0000-0000-0000-00000000000a'::uuid$$]) AS id;
SELECT id, answer(format('SELECT settle_workflow(%s)', id)) FROM unnest(ARRAY['2147483648', $$'00000000-0000-0000-0000-00000000000a'::uuid$$]) AS id;
-- an amount is what it was
SELECT answer, count(*) AS ways FROM (
  SELECT answer(format('SELECT token_balance.credit(%s, %s)', id, amount)) FROM unnest(ARRAY['7', $$'7'$$, '7::smallint']) AS id,
    unnest(ARRAY['0', $$'0'$$, '0::smallint', '0::bigint', '0.0', 'NULL', '9223372036854775808', '1.5']) AS amount) AS a GROUP BY 1 ORDER BY 1;
-- many at once: a list of text, or one that is cast to it
SELECT answer('SELECT count(*) FROM token_balance.settle_workflows(''{7}'')') AS literal, answer('SELECT count(*) FROM token_balance.settle_workflows(ARRAY[7]::text[])') AS cast;
-- each account by its own id
SELECT bool_and(token_balance.balance(id) = token_balance.balance(id::text)) AS same FROM users;

-- accounts and workflows with uuids, and the usage alone
SELECT token_balance.detach();
SELECT token_balance.attach('uuid_users', 'uuid_usage', name => 'uuids');
INSERT INTO uuid_usage VALUES ('00000000-0000-0000-0000-00000000000a', '00000000-0000-0000-0000-00000000000a', 1000);
SELECT settle_workflow('00000000-0000-0000-0000-00000000000A') ->> 'tokens_used' AS tokens_used;
SELECT name, answer, count(*) AS ways FROM (
  SELECT name, answer('SELECT ' || format(c, id)) FROM call, LATERAL unnest(ARRAY[call, named]) AS c,
    unnest(ARRAY[$$'00000000-0000-0000-0000-00000000000a'$$, $$'{00000000-0000-0000-0000-00000000000A}'$$, $$'00000000-0000-0000-0000-00000000000a'::uuid$$, $$'00000000-0000-0000-0000-00000000000a'::text$$,
      $$'00000000-0000-0000-0000-00000000000A'::varchar$$, '(SELECT id FROM uuid_users)']) AS id) AS a
 GROUP BY 1, 2 ORDER BY 1, 2;
SELECT name, answer, string_agg(type, ' ' ORDER BY type COLLATE "C") AS types FROM (
  SELECT name, type, answer(format('EXECUTE p_%s_%s(%s)', name, type, $$'00000000-0000-0000-0000-00000000000A'$$), format('PREPARE p_%s_%s %s AS SELECT %s', name, type, CASE type WHEN 'none' THEN '' ELSE '(' || type || ')' END, format(call, '$1'))) FROM call,
    unnest(ARRAY['uuid', 'text', 'varchar', 'none']) AS type ORDER BY name, type) AS a
 GROUP BY 1, 2 ORDER BY 1, 2;
DEALLOCATE ALL;
SELECT answer('SELECT token_balance.balance(7)') AS number;
SELECT count(*) FROM token_balance.reconcile();

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA ai CASCADE;
