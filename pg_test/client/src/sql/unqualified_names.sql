-- Code on the tables that names nothing by its schema.
SET search_path = app;
CREATE TABLE journal (what text);
CREATE TABLE notes (what text);
CREATE DOMAIN tag AS text;
CREATE TYPE kind AS ENUM ('a');
CREATE FUNCTION helper(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN $1; END';
CREATE FUNCTION same(text, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
CREATE OPERATOR === (LEFTARG = text, RIGHTARG = text, FUNCTION = same);
-- Everything that it names is found by the search_path.
CREATE FUNCTION probe(text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    tagged tag := $1;
BEGIN
    PERFORM helper($1), $1 === $1, $1::tag, 'a'::kind::text, count(what) FROM notes;
    INSERT INTO journal VALUES ($1);
    RETURN true;
END $$;
-- Immutable by name only: what it calls may write.
CREATE FUNCTION seen(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM app.probe($1); RETURN true; END';
CREATE FUNCTION seen(text, integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM app.probe($1); RETURN $2; END';
CREATE FUNCTION on_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM app.probe(TG_ARGV[0]); RETURN new; END';
CREATE TYPE status AS ENUM ('running', 'completed');
CREATE FUNCTION status_text(status) RETURNS text LANGUAGE plpgsql AS $$BEGIN PERFORM app.probe('cast'); RETURN enum_out($1); END $$;
CREATE CAST (status AS text) WITH FUNCTION status_text(status);
CREATE DOMAIN tokens AS integer CHECK (app.seen('domain'));
CREATE TABLE users (id text PRIMARY KEY, token_balance tokens DEFAULT 1000);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer, created_at timestamptz DEFAULT now());
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status status);
-- Before there are rows: the server itself runs such code with a path of its own while it builds an index.
ALTER TABLE users ADD CHECK (app.seen('check')), ADD watched integer GENERATED ALWAYS AS (app.seen('generated', token_balance)) STORED;
CREATE INDEX ON users (app.seen('index', token_balance));
CREATE INDEX ON users (id) WHERE app.seen('partial index', token_balance) > 0;
CREATE TRIGGER before_row BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION on_row('before trigger');
CREATE TRIGGER after_row AFTER UPDATE ON users FOR EACH ROW WHEN (app.seen('when')) EXECUTE FUNCTION on_row('after trigger');
CREATE TRIGGER after_all AFTER UPDATE ON users EXECUTE FUNCTION on_row('statement trigger');
CREATE RULE watch AS ON UPDATE TO users DO ALSO SELECT app.seen('rule');
CREATE POLICY watch ON users USING (app.seen('policy'));
ALTER TABLE users ENABLE ROW LEVEL SECURITY;
INSERT INTO users VALUES ('ann'), ('bob');
GRANT SELECT, INSERT, UPDATE ON token_usage, workflows TO tb_mallory;
