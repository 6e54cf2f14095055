-- archive_usage of a view: the rows of a table below it leave, and the difference of what the view shows is archived (DESIGN V37).
\set SHOW_CONTEXT never
\pset null '-'
SET client_min_messages = warning;
CREATE SCHEMA av;
SET search_path = av, public;
\i common/try.sql
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE runs (id text PRIMARY KEY, user_id text, status text);
CREATE TABLE prices (model text PRIMARY KEY, factor numeric);
CREATE TABLE spans (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, run text, who text, model text, tokens integer, at timestamptz);
CREATE INDEX ON spans (run);
CREATE VIEW calls AS SELECT s.id AS span_id, s.run, s.who, s.tokens * p.factor AS tokens, s.at FROM spans AS s JOIN prices AS p USING (model);
CREATE TABLE old_spans (LIKE spans);
INSERT INTO users VALUES ('ann'), ('bob');
INSERT INTO prices VALUES ('small', 0.5), ('large', 2);
CREATE EXTENSION token_balance SCHEMA av;
SELECT count(*) FROM token_balance.attach('users', 'calls', 'runs', usage_user => 'who', usage_workflow => 'run', usage_tokens => '{tokens}', usage_created_at => 'at');
CREATE VIEW settled AS SELECT workflow_id, user_id, usage_tokens, charged_tokens, archived_usage_tokens FROM token_balance.settlement ORDER BY 1, 2;
CREATE VIEW law AS SELECT string_agg(state || ' ' || tokens, ', ' ORDER BY state) AS states FROM token_balance.usage_state();
CREATE VIEW problems AS SELECT problem, user_id, workflow_id, expected, found FROM token_balance.reconcile();

INSERT INTO spans (run, who, model, tokens, at) VALUES ('r1', 'ann', 'small', 101, '2026-01-01Z'), ('r1', 'ann', 'small', 2, '2026-02-03Z'), ('r1', 'bob', 'large', 5, '2026-01-02Z'),
  ('r2', 'bob', 'large', 7, '2026-01-03Z'), ('open', 'bob', 'large', 9, '2026-01-04Z'), ('r2', 'bob', 'unpriced', 3, '2026-01-05Z'), (NULL, 'bob', 'large', 1, '2026-01-06Z');
INSERT INTO runs VALUES ('r1', 'ann', 'completed'), ('r2', 'bob', 'completed'), ('open', 'bob', 'running');
TABLE settled;
-- which table, has to be said
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z')$$);
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z', usage_table => 'av.spans')$$);
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z', usage_table => 'av.runs(id)')$$);
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z', usage_table => 'av.spans(ID AS none)')$$);
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z', usage_table => 'av.spans(id AS tokens)')$$);
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z', 'users', usage_table => 'av.spans(id AS span_id)')$$);
CALL pg_temp.try($$SELECT token_balance.archive_usage(partition => 'av.spans', usage_table => 'av.spans(id AS span_id)')$$);
SELECT token_balance.archive_usage('2026-02-01Z', 'old_spans', usage_table => 'av.spans(id AS span_id)');
TABLE settled;
-- what the view does not show stays, and the view is readable as before
SELECT id, run, tokens FROM spans ORDER BY id;
SELECT id, run, model, tokens FROM old_spans ORDER BY id;
SELECT span_id, run, tokens FROM calls ORDER BY span_id;
TABLE law;
TABLE problems;
SELECT kind, archive, row_count, tokens FROM token_balance.archived;
SELECT token_balance.archive_usage('2026-02-01Z', 'old_spans', usage_table => 'av.spans(id AS span_id)');
INSERT INTO spans (run, who, model, tokens, at) VALUES ('r1', 'ann', 'small', 2, now()), ('r2', 'bob', 'small', 3, now());
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
TABLE settled;
TABLE problems;
-- a price that is changed is usage that is changed: it is not settled, and stays
UPDATE prices SET factor = 3 WHERE model = 'small';
SELECT token_balance.archive_usage(now(), usage_table => 'av.spans(id AS span_id)') - 'archive' AS archived;
UPDATE prices SET factor = 0.5 WHERE model = 'small';

-- late_usage_on names the table already
SELECT count(*) FROM token_balance.attach('users', 'calls', 'runs', usage_user => 'who', usage_workflow => 'run', usage_tokens => '{tokens}', usage_created_at => 'at',
  late_usage => 'settle', late_usage_on => '{av.spans(id AS span_id)}');
SELECT token_balance.archive_usage('2026-03-01Z') - 'archive' AS archived;
TABLE law;
TABLE problems;
SELECT count(*) FROM token_balance.detach();

-- one row of the table is that of two runs: if one of them stays, so does the row, and nothing is half done
CREATE TABLE shared (id bigint PRIMARY KEY, first text, second text, who text, tokens integer, at timestamptz);
CREATE INDEX ON shared (first);
CREATE INDEX ON shared (second);
CREATE VIEW both_runs AS SELECT id, first AS run, who, tokens, at FROM shared UNION ALL SELECT id, second, who, tokens, at FROM shared;
SELECT count(*) FROM token_balance.attach('users', 'both_runs', 'runs', name => 'shared', usage_user => 'who', usage_workflow => 'run', usage_tokens => '{tokens}', usage_created_at => 'at');
INSERT INTO runs VALUES ('s1', 'ann', 'running'), ('s2', 'ann', 'running'), ('s3', 'ann', 'running');
INSERT INTO shared VALUES (1, 's1', 's2', 'ann', 10, '2026-01-01Z'), (2, 's1', 's3', 'ann', 10, '2026-01-01Z');
UPDATE runs SET status = 'completed' WHERE id IN ('s1', 's2');
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z', usage_table => 'av.shared(id)')$$);
SELECT * FROM settled WHERE workflow_id LIKE 's%';
UPDATE runs SET status = 'completed' WHERE id = 's3';
SELECT token_balance.archive_usage('2026-02-01Z', usage_table => 'av.shared(id)') - 'archive' AS archived;
SELECT * FROM settled WHERE workflow_id LIKE 's%';
TABLE problems;
SELECT count(*) FROM token_balance.detach();
-- a view that adds up: what left is what it shows less
CREATE TABLE parts (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, run text, who text, tokens integer, at timestamptz);
CREATE INDEX ON parts (run);
CREATE VIEW newest AS SELECT max(id) AS id, run, who, sum(tokens) AS tokens, max(at) AS at FROM parts GROUP BY run, who;
SELECT count(*) FROM token_balance.attach('users', 'newest', 'runs', name => 'newest', usage_user => 'who', usage_workflow => 'run', usage_tokens => '{tokens}', usage_created_at => 'at');
INSERT INTO runs VALUES ('p1', 'ann', 'running');
INSERT INTO parts (run, who, tokens, at) VALUES ('p1', 'ann', 10, '2026-01-01Z'), ('p1', 'ann', 20, '2026-01-02Z');
UPDATE runs SET status = 'completed' WHERE id = 'p1';
SELECT token_balance.archive_usage('2026-02-01Z', usage_table => 'av.parts(id)') - 'archive' AS archived;
SELECT * FROM settled WHERE workflow_id = 'p1';
TABLE newest;
SELECT settle_workflow('p1') ->> 'status' AS status;
TABLE problems;
-- the table below is usage of another binding as well
SELECT count(*) FROM token_balance.attach('users', 'parts', 'runs', name => 'parts', usage_user => 'who', usage_workflow => 'run', usage_tokens => '{tokens}', usage_created_at => 'at', existing_usage => 'exempt');
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z', binding => 'newest', usage_table => 'av.parts(id)')$$);
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z', binding => 'parts')$$);
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z', binding => 'parts', usage_table => 'av.parts(id)')$$);
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA av CASCADE;
