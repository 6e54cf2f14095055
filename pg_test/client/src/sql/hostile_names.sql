-- Hostile names, tb.names of them: some by hand, the rest put together from fragments by tb.seed. md5 is a generator
-- that all versions share.
CREATE TABLE name_pool (n serial, name text UNIQUE);
INSERT INTO name_pool (name) SELECT name FROM unnest(ARRAY[
    '"', '""', '''', '''''', ';', '"; DROP TABLE x; --', '''; DROP TABLE x; --', '); SELECT 1; --', '--', '-- x', '/*', '*/', '/* x */',
    '$$', '$x$', '$1', '$2', '$body$;', E'\\', E'\\''', E'\\"', E'\\n', 'E''x''', ' ', '  x  ', ' x', 'x ', E'\t', E'a\nb', E'\r\n', '%', '%s', '%I', '%L', '%1$s', '%%', '%n%n%n',
    '{', '}', '{}', '{0}', '{},{}', '{a,b}', '{"a"}', ',', 'a,b', '(', ')', 'a(b)', '[', '[1]', '.', 'a.b', '"a"."b"', 'public.users', ':', ':x', ':''x''', '::', 'x::text', '?', '@', '@extschema@', '#', '#>>', '&', '|', '||', '!', '~', '^', '`', '=', '<>', '=>', ':=', '->', '..', '*', '+', '-', '/',
    'select', 'SELECT', 'from', 'table', 'user', 'order', 'group', 'null', 'NULL', 'true', 'default', 'current_user', 'session_user', 'all', 'array', 'case', 'end', 'with', 'lateral', 'only',
    'new', 'old', 'NEW', 'OLD', 'u', 'a', 'w', 's', 'g', 'k', 'c', 'r', 'l', 'e', 'm', 'b', 'id', 'tokens', 'workflow_id', 'user_id', 'usage_tokens', 'excluded', 'text', 'name', 'uuid', 'int8', 'sum', 'count', 'unnest', 'operator', 'OPERATOR(pg_catalog.=)', 'pg catalog', 'ledger', 'binding',
    'Users', 'UPPER', 'camelCase', '0', '1a', 'é', 'ß', 'İstanbul', 'ǅ', '漢字', 'пользователи', 'شركة', '😀', '👩‍👩‍👧', U&'\202Eabc', U&'\00A0', U&'\200B', U&'\FEFF', 'e' || U&'\0301', U&'\2028', 'ＦＵＬＬ', U&'\+01F9FF', E'\x01', E'\x7f',
    repeat('x', 63), repeat('"', 63), repeat('''', 63), repeat('é', 31), repeat('😀', 15), repeat(' ', 63), repeat('\', 63), repeat('%s', 31), repeat('漢', 21), repeat('x', 62) || '"'
]) AS hand (name);
DO $do$
DECLARE
    fragment CONSTANT text[] := ARRAY['"', '''', ';', '--', '/*', '*/', '$$', '$x$', '\', ' ', '%s', '%I', '{', '}', ',', '(', ')', E'\n', E'\t', 'é', '😀', 'ß', '漢',
        U&'\202E', '.', ':x', '@extschema@', 'NULL', 'select', '$1', '%%', '{0}', '::text', 'OPERATOR(', 'u.', '"u"', 'a', 'Z', '[1]', '#>>', '=>', '||', '`', '?', U&'\0301', 'drop table x'];
    made text; next text; k integer := 0; i integer := 0; wanted integer;
BEGIN
    LOOP
        EXIT WHEN (SELECT count(*) FROM name_pool) >= current_setting('tb.names')::integer;
        made := '';
        wanted := 1 + ('x' || substr(md5(current_setting('tb.seed') || '/' || i), 1, 4))::bit(16)::integer % 12;
        i := i + 1;
        FOR j IN 1..wanted LOOP
            k := k + 1;
            next := made || fragment[1 + ('x' || substr(md5(current_setting('tb.seed') || ':' || k), 1, 6))::bit(24)::integer % cardinality(fragment)];
            EXIT WHEN octet_length(next) > 63;
            made := next;
        END LOOP;
        INSERT INTO name_pool (name) VALUES (made) ON CONFLICT DO NOTHING;
    END LOOP;
END $do$;
CREATE TABLE names AS SELECT row_number() OVER (ORDER BY n) - 1 AS n, name FROM name_pool;
-- Where a name goes moves on by one with each case, so each name comes to stand everywhere.
CREATE FUNCTION hostile(i bigint, place integer) RETURNS text STABLE LANGUAGE sql AS
    'SELECT name FROM names WHERE n = (i + place) % (SELECT count(*) FROM names)';
-- The steps of case i, in order: what is checked and the answer that is expected; or, without that, what is done, or
-- what gives the statements to be run.
CREATE FUNCTION hostile_case(i bigint) RETURNS TABLE (kind text, statement text, expected text)
STABLE LANGUAGE plpgsql AS $do$
#variable_conflict use_column
DECLARE
    sort integer := i % 6; -- text status, enum, timestamp, the workflow pays, a row is a completion, no workflow table
    s text := quote_ident(hostile(i, 0));
    owner text := quote_ident(('tb_h ' || hostile(i, 1))::name::text);
    users text := s || '.' || quote_ident(hostile(i, 2));
    usage text := s || '.' || quote_ident(hostile(i, 3));
    runs text := s || '.' || quote_ident(hostile(i, 4));
    status_type text := CASE sort WHEN 1 THEN s || '.' || quote_ident(hostile(i, 5)) ELSE 'text' END;
    a text := quote_literal(hostile(i, 6) || i);
    b text := quote_literal(hostile(i, 7) || i || 'b');
    old text := quote_literal(hostile(i, 8) || 'old');
    run text := quote_literal(hostile(i, 8) || 'run');
    done text := quote_literal(hostile(i, 9));
    c text[] := ARRAY(SELECT quote_ident(hostile(i, 10 + place)) FROM generate_series(1, 14) AS place);
    l text[] := ARRAY(SELECT quote_literal(hostile(i, 10 + place)) FROM generate_series(1, 14) AS place);
    arguments text := format('users => %L, usage => %L, user_key => %s, usage_user => %s, usage_workflow => %s, usage_tokens => ARRAY[%s, %s]::name[], '
        'usage_prompt_tokens => %s, usage_completion_tokens => %s, usage_model => %s, usage_stage => %s, usage_created_at => %s, initial_balance => 1000',
        users, usage, l[1], CASE sort WHEN 3 THEN 'NULL' ELSE l[2] END, l[3], l[4], l[5], l[6], l[7], l[8], l[9], l[10]);
    spent integer := CASE sort WHEN 3 THEN 22 ELSE 15 END; -- what account a has paid
    late text := format('INSERT INTO %s (%s%s, %s, %s) VALUES (%s%s, 1, 1)', usage, CASE WHEN sort <> 3 THEN c[2] || ', ' END, c[3], c[4], c[5],
        CASE WHEN sort <> 3 THEN a || ', ' END, run);
BEGIN
    IF sort <> 5 THEN
        arguments := arguments || format(', workflows => %L, workflow_key => %s, workflow_user => %s, workflow_status => %s, workflow_completed_at => %s, completed_statuses => ARRAY[%s, %L]',
            runs, l[11], l[12], CASE WHEN sort IN (2, 4) THEN 'NULL' ELSE l[13] END, CASE sort WHEN 2 THEN l[14] ELSE 'NULL' END, done, hostile(i, 25));
    END IF;
    RETURN QUERY SELECT * FROM (VALUES
        ('do', 'DROP EXTENSION IF EXISTS token_balance', NULL),
        ('do', 'CREATE EXTENSION token_balance SCHEMA public', NULL),
        ('do', format('CREATE ROLE %s', owner), NULL),
        ('do', format('GRANT USAGE ON SCHEMA token_balance TO %s', owner), NULL),
        ('do', format('GRANT EXECUTE ON FUNCTION token_balance.attach, token_balance.detach TO %s', owner), NULL),
        ('do', format('CREATE SCHEMA %s AUTHORIZATION %s', s, owner), NULL),
        ('do', format('SET ROLE %s', owner), NULL),
        ('do', format('CREATE TABLE %s (%s text PRIMARY KEY)', users, c[1]), NULL),
        ('do', format('INSERT INTO %s VALUES (%s), (%s)', users, a, b), NULL),
        ('do', format('CREATE TABLE %s (%s text, %s text, %s integer, %s bigint, %s integer, %s integer, %s text, %s text, %s timestamptz DEFAULT now())',
            usage, c[2], c[3], c[4], c[5], c[6], c[7], c[8], c[9], c[10]), NULL),
        ('do', CASE sort WHEN 1 THEN format('CREATE TYPE %s AS ENUM (''tb running'', %s, ''tb other'')', status_type, done) END, NULL),
        ('do', format('CREATE TABLE %s (%s text, %s text, %s %s, %s timestamptz)', runs, c[11], c[12], c[13], status_type, c[14]), NULL),
        ('do', format('INSERT INTO %s (%s, %s, %s, %s) VALUES (%s, %s, 3, 1)', usage, c[2], c[3], c[4], c[5], a, old), NULL),
        ('do', CASE sort % 2 WHEN 0 THEN 'RESET ROLE' END, NULL),
        ('do', format('SELECT token_balance.attach(%s)', arguments), NULL),
        ('do', 'RESET ROLE', NULL),
        -- the hints: indexes, a trigger that is off, a trigger that is gone
        ('do', format('ALTER TABLE %s DISABLE TRIGGER "00_token_balance_ledger"', users), NULL),
        ('hints', 'SELECT count(*) FROM token_balance.verify() WHERE NOT ok', CASE sort WHEN 3 THEN '2' ELSE '3' END),
        ('run what it gives', 'SELECT hint FROM token_balance.verify() WHERE NOT ok', NULL),
        ('verify', 'SELECT string_agg(concat(name, detail, hint), ''; '') FROM token_balance.verify() WHERE NOT ok', ''),
        ('do', CASE WHEN i % 3 = 0 THEN format('DROP TRIGGER "00_token_balance_ledger" ON %s', users) END, NULL),
        ('run what it gives', 'SELECT ''SELECT '' || rtrim(substr(hint, 6), ''.'') FROM token_balance.verify() WHERE NOT ok', NULL),
        ('verify again', 'SELECT string_agg(concat(name, detail, hint), ''; '') FROM token_balance.verify() WHERE NOT ok', ''),
        ('do', format('SET ROLE %s', owner), NULL),
        ('do', format('SELECT token_balance.attach(%s)', arguments), NULL),
        -- use and complete; the account of the usage pays, or that of the run
        ('do', format('INSERT INTO %s (%s, %s, %s, %s, %s, %s) VALUES (%s, %s, 10, 5, %s, %s), (%s, %s, 7, NULL, NULL, NULL)',
            usage, c[2], c[3], c[4], c[5], c[8], c[9], a, run, l[8], l[9], b, run), NULL),
        ('do', CASE WHEN sort < 4 THEN format('INSERT INTO %s VALUES (%s, %s, NULL, NULL)', runs, run, a) END, NULL),
        ('do', CASE sort WHEN 2 THEN format('UPDATE %s SET %s = now() WHERE %s = %s', runs, c[14], c[11], run)
            WHEN 4 THEN format('INSERT INTO %s (%s) VALUES (%s)', runs, c[11], run)
            WHEN 5 THEN format('SELECT settle_workflow(%s)', run)
            ELSE format('UPDATE %s SET %s = %s WHERE %s = %s', runs, c[13], done, c[11], run) END, NULL),
        ('do', 'RESET ROLE', NULL),
        ('complete', format('SELECT token_balance.balance(%s) ->> ''token_balance''', a), (1000 - spent)::text),
        ('do', late, NULL),
        ('settle', format('SELECT settle_workflow(%s) ->> ''tokens_used''', run), '2'),
        ('do', late, NULL),
        ('settle many', format('SELECT sum(charged_tokens) FROM token_balance.settle_workflows(ARRAY[%s])', run), '2'),
        ('do', late, NULL),
        ('sweep', 'SELECT token_balance.settle_pending(since => ''2020-01-01'') ->> ''tokens_used''', '2'),
        ('do', late, NULL),
        ('do', 'CALL token_balance.settle_backlog()', NULL),
        ('backlog', format('SELECT settle_workflow(%s) ->> ''status''', run), 'already_settled'),
        ('credit', format('SELECT token_balance.credit(%s, 100, %s, %s) ->> ''new_balance''', a, l[1], l[2]), (1092 - spent)::text),
        ('credit again', format('SELECT token_balance.credit(%s, 100, %s, %s) ->> ''replayed''', a, l[1], l[2]), 'true'),
        ('refund', format('SELECT token_balance.refund_workflow(%s, NULL, %s, %s) ->> ''amount''', run, l[3], l[4]), '30'),
        ('statement', format('SELECT count(*), max(new_balance) FILTER (WHERE reference = %s) FROM token_balance.statement(%s)', l[3], a), '7|1100'),
        ('balance_at', format('SELECT token_balance.balance_at(%s, now() + interval ''1 day'')', a), '1100'),
        ('summary', format('SELECT x #>> ''{summary,total_tokens}'', x ->> ''token_balance'' FROM token_balance.summary(%s) AS x', a),
            CASE sort WHEN 3 THEN '30|1100' ELSE '27|1100' END),
        ('models', format('SELECT count(*) FROM jsonb_array_elements(token_balance.summary(%s) -> ''by_model'') AS x WHERE x ->> ''model'' = %s', a, l[8]), '1'),
        ('reconcile', 'SELECT string_agg(concat(problem, hint), ''; '') FROM token_balance.reconcile()', ''),
        ('do', CASE sort % 2 WHEN 1 THEN format('SET ROLE %s', owner) END, NULL),
        ('do', 'SELECT token_balance.detach(drop_column => true)', NULL),
        ('do', 'RESET ROLE', NULL),
        ('detach', format('SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgrelid IN (%L::regclass, %L::regclass)', users, runs), '0'),
        ('do', format('DROP SCHEMA %s CASCADE', s), NULL),
        ('do', format('DROP OWNED BY %s', owner), NULL),
        ('do', format('DROP ROLE %s', owner), NULL)
    ) AS steps (kind, statement, expected) WHERE statement IS NOT NULL;
END $do$;
