-- Whatever a session has set: the same answers, the same charges, the same names (DESIGN O12).
\set SHOW_CONTEXT never
SET client_min_messages = error;
SET TimeZone = UTC;
CREATE SCHEMA "Set";
SET search_path = "Set", public;
CREATE TABLE users (id bigint PRIMARY KEY, "Balance" integer NOT NULL DEFAULT 5000);
CREATE TABLE calls (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, run uuid, usr bigint, n numeric, f real, at timestamptz NOT NULL DEFAULT '2026-01-31 10:00 UTC');
CREATE TABLE "Run" (id uuid PRIMARY KEY, "Done at" timestamptz);
CREATE INDEX ON calls (run);
INSERT INTO users VALUES (1), (2);
-- its text names a function, whose own text names a table and a function
CREATE FUNCTION weight(f real) RETURNS numeric LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT CASE WHEN f > 1 THEN 2 ELSE 1 END; END;
CREATE EXTENSION token_balance SCHEMA public;
CREATE VIEW usage AS SELECT id, at, run, usr, n * weight(f) + token_balance.exact_numeric(f) AS tokens FROM calls;
CREATE TABLE old_calls (LIKE calls);
SELECT token_balance.attach(users => '"Set".users', usage => '"Set".usage', usage_user => 'usr', usage_workflow => 'run',
    usage_tokens => '{tokens}', usage_created_at => 'at', workflows => '"Set"."Run"', workflow_completed_at => 'Done at', balance_column => 'Balance') IS NOT NULL AS attached;
INSERT INTO calls (run, usr, n, f)
SELECT md5((n / 3)::text)::uuid, n % 2 + 1, n + 0.25, n / 7.0 FROM generate_series(1, 30) AS n;
INSERT INTO "Run" SELECT DISTINCT run, NULL::timestamptz FROM calls;
UPDATE "Run" SET "Done at" = '2026-02-01 10:00 UTC' WHERE id < md5('4')::uuid;
INSERT INTO calls (run, usr, n, f) SELECT id, 3, 5, 1 FROM "Run" LIMIT 1; -- nobody's account
SELECT token_balance.credit(1, 500, 'o''clock \ "paid"') ->> 'new_balance' AS balance;
CREATE TABLE taken AS SELECT min(id::text)::uuid AS run FROM "Run" WHERE "Done at" IS NOT NULL;
-- all that is told, but for the clock's times
CREATE FUNCTION told() RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object(
        'verify', (SELECT jsonb_agg(v) FROM token_balance.verify() AS v),
        'reconcile', (SELECT jsonb_agg(r) FROM token_balance.reconcile() AS r),
        'usage_state', (SELECT jsonb_agg(u) FROM token_balance.usage_state() AS u),
        'unsettled', (SELECT jsonb_agg(u ORDER BY u::text) FROM token_balance.unsettled AS u),
        'statement', (SELECT jsonb_agg(to_jsonb(s) - 'created_at') FROM token_balance.statement(1) AS s),
        'ledger', (SELECT jsonb_agg(to_jsonb(l) - 'created_at' ORDER BY l.user_id, l.entry_id) FROM token_balance.ledger AS l),
        'settlement', (SELECT jsonb_agg(to_jsonb(s) - 'settled_at' - 'created_at' ORDER BY s.workflow_id, s.user_id) FROM token_balance.settlement AS s),
        'summary', token_balance.summary(1),
        'suggest', (SELECT jsonb_agg(s) FROM token_balance.suggest() AS s),
        'suggestions', (SELECT jsonb_agg(s) FROM token_balance.suggestions() AS s),
        'balances', (SELECT jsonb_agg(u ORDER BY u.id) FROM users AS u))
$$;
-- and all that is done
CREATE FUNCTION done() RETURNS SETOF jsonb LANGUAGE plpgsql AS $$
DECLARE
    run uuid := (SELECT t.run FROM taken AS t);
BEGIN
    RETURN NEXT told();
    UPDATE "Run" SET "Done at" = '2026-02-03 10:00 UTC' WHERE "Done at" IS NULL AND id < md5('5')::uuid;
    RETURN NEXT settle_workflow(run);
    RETURN NEXT token_balance.refund_workflow(run, 3, 'back');
    RETURN NEXT token_balance.credit(2, 70, 'o''clock');
    RETURN NEXT token_balance.adjust(1, -7, 'a ' || chr(92) || ' b');
    INSERT INTO calls (run, usr, n, f) VALUES (run, 1, 10.5, 1234567), (run, 2, 0.1, 0.1);
    RETURN NEXT (SELECT jsonb_agg(s) FROM token_balance.settle_workflows(ARRAY[run::text]) AS s);
    DELETE FROM calls AS c WHERE c.run = (SELECT t.run FROM taken AS t) AND c.usr = 1;
    RETURN NEXT token_balance.correct_workflow(run);
    RETURN NEXT token_balance.archive_usage('2026-02-02 00:00 UTC', '"Set".old_calls', usage_table => '"Set".calls(id AS id)');
    PERFORM token_balance.attach_again();
    RETURN NEXT token_balance.export_account(2, 'elsewhere') -> 'account';
    RETURN NEXT told();
EXCEPTION WHEN OTHERS THEN
    RETURN NEXT to_jsonb(SQLSTATE || ': ' || SQLERRM);
END $$;
-- and undone
CREATE FUNCTION answers() RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    got text[];
BEGIN
    got := ARRAY(SELECT jsonb_pretty(d) FROM done() AS d);
    RAISE EXCEPTION USING ERRCODE = 'TB000';
EXCEPTION WHEN SQLSTATE 'TB000' THEN
    RETURN got;
END $$;
CREATE TABLE usual AS SELECT answers() AS answers;
SELECT cardinality(answers), answers[cardinality(answers)] LIKE '%summary%' AS at_the_end FROM usual;
\set otherwise 'SELECT n, line, other FROM usual, unnest(answers, answers()) WITH ORDINALITY AS x (a, b, n), unnest(string_to_array(a, chr(10)), string_to_array(b, chr(10))) AS y (line, other) WHERE line IS DISTINCT FROM other AND line NOT LIKE ''%_settled_at%'' LIMIT 20'
CREATE TABLE odd (setting, value) AS VALUES
    ('standard_conforming_strings', 'off'), ('backslash_quote', 'off'), ('escape_string_warning', 'off'), ('quote_all_identifiers', 'on'),
    ('DateStyle', 'German, DMY'), ('IntervalStyle', 'sql_standard'), ('extra_float_digits', '-15'), ('bytea_output', 'escape'),
    ('transform_null_equals', 'on'), ('array_nulls', 'off'), ('xmlbinary', 'hex'), ('row_security', 'off'), ('enable_seqscan', 'off'),
    ('enable_sort', 'off'), ('plan_cache_mode', 'force_generic_plan'), ('plpgsql.variable_conflict', 'use_column'),
    ('default_transaction_isolation', 'serializable');
\set odd_session 'SET client_min_messages = error; SET search_path = "Set", public; SET TimeZone = UTC; SELECT count(set_config(setting, value, false)) AS settings FROM odd'
\set usual_session 'SET client_min_messages = error; SET search_path = "Set", public; SET TimeZone = UTC'
-- bound under the usual ones, asked under the others
\c -
:odd_session;
:otherwise;
-- bound under these, asked under the usual ones
SELECT token_balance.attach_again() IS NOT NULL AS attached;
\c -
:usual_session;
:otherwise;
-- made anew by a statement of theirs: the same definition, told otherwise; and what may not be bound is refused
\c -
:odd_session;
DO $$ BEGIN EXECUTE 'CREATE OR REPLACE VIEW usage AS ' || pg_get_viewdef('usage'::regclass); END $$;
CREATE VIEW by_chance AS SELECT run, usr, at, n * random() AS tokens FROM calls;
SELECT token_balance.attach(users => '"Set".users', usage => '"Set".by_chance', usage_user => 'usr', usage_workflow => 'run', usage_tokens => '{tokens}',
    workflows => '"Set"."Run"', workflow_completed_at => 'Done at', balance_column => 'Balance', name => 'other');
\c -
:usual_session;
:otherwise;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA "Set" CASCADE;
