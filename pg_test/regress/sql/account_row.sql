-- (DESIGN P21, P22) The account's row is changed without the executor where that comes to the same: what else an UPDATE of
-- users does is done all the same, with the setting and without.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA ar;
SET search_path = ar, public;
CREATE TABLE users (id text PRIMARY KEY, name text NOT NULL DEFAULT 'n', gone text DEFAULT 'gone');
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE INDEX ON token_usage (workflow_id);
CREATE TABLE workflows (id text PRIMARY KEY, status text);
INSERT INTO users (id) VALUES ('ann'), ('bob');
CREATE EXTENSION token_balance SCHEMA ar;
-- A run of 10 tokens is settled: what is left of ann, and what her ledger says; or the error.
CREATE FUNCTION ten(OUT ann text, OUT ledger text) LANGUAGE plpgsql AS $$
DECLARE workflow text;
BEGIN
  SELECT 'w' || count(*) INTO workflow FROM token_usage;
  INSERT INTO token_usage VALUES (workflow, 'ann', 10);
  PERFORM settle_workflow(workflow);
  SELECT u.token_balance INTO ann FROM users AS u WHERE id = 'ann';
  SELECT 1000000 + sum(amount) INTO ledger FROM token_balance.ledger WHERE user_id = 'ann';
EXCEPTION WHEN OTHERS THEN
  ann := SQLSTATE || ' ' || SQLERRM;
END $$;
-- The statement and a run, by SQL alone and without; all of it is undone.
CREATE FUNCTION beside(statement text, OUT ann text, OUT ledger text, OUT users text, OUT without_sql text) LANGUAGE plpgsql AS $$
DECLARE
  by_sql text[]; found text[];
BEGIN
  FOREACH statement IN ARRAY ARRAY['SET LOCAL token_balance.direct = off; ' || statement, statement] LOOP
    BEGIN
      EXECUTE statement;
      SELECT t.ann, t.ledger INTO ann, ledger FROM ten() AS t;
      EXECUTE 'SELECT string_agg(format(''%s'', u), '' '' ORDER BY id) FROM users AS u' INTO users;
      RAISE EXCEPTION 'undone' USING ERRCODE = 'TB001';
    EXCEPTION WHEN SQLSTATE 'TB001' THEN
      found := ARRAY[ann, ledger, users];
      by_sql := coalesce(by_sql, found);
    END;
  END LOOP;
  without_sql := CASE WHEN found IS NOT DISTINCT FROM by_sql THEN 'the same' ELSE found::text END;
  ann := by_sql[1]; ledger := by_sql[2]; users := by_sql[3];
END $$;
SELECT * FROM ten();
SELECT * FROM beside('SELECT 1');
-- nothing that an UPDATE of the balance would do more
SELECT * FROM beside('ALTER TABLE users DROP gone, ADD later integer DEFAULT 7');
SELECT * FROM beside('CREATE INDEX ON users (token_balance); CREATE INDEX ON users (name) INCLUDE (token_balance)');
-- the entry in the index of the balance is the new one
CREATE INDEX users_balance ON users (token_balance);
SELECT * FROM ten();
SET enable_seqscan = off;
SELECT id, token_balance FROM users WHERE token_balance < 1000000;
RESET enable_seqscan;
DROP INDEX users_balance;
SELECT * FROM beside('ALTER TABLE users ADD boss text REFERENCES users; UPDATE users SET boss = ''bob'' WHERE id = ''ann''');
-- more that it does
SELECT * FROM beside('ALTER TABLE users ADD half integer GENERATED ALWAYS AS (token_balance / 2) STORED');
SELECT * FROM beside('CREATE UNIQUE INDEX ON users ((token_balance % 7), id)');
SELECT * FROM beside('CREATE INDEX ON users (id) WHERE token_balance < 1000000');
SELECT * FROM beside('ALTER TABLE users ADD CHECK (name <> ''bad'') NOT VALID; UPDATE users SET name = ''good''');
SELECT * FROM beside('UPDATE users SET name = ''bad''; ALTER TABLE users ADD CHECK (name <> ''bad'') NOT VALID');
SELECT * FROM beside('ALTER TABLE users ADD CHECK (token_balance > 999975)');
CREATE FUNCTION twice() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.token_balance := 2 * NEW.token_balance - OLD.token_balance; RETURN NEW; END $$;
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE FUNCTION named() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE users SET name = name || TG_OP WHERE id = 'bob'; RETURN NULL; END $$;
SELECT * FROM beside('CREATE TRIGGER t BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION twice()');
SELECT * FROM beside('CREATE TRIGGER t BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION nothing()');
SELECT * FROM beside('CREATE TRIGGER t AFTER UPDATE OF token_balance ON users FOR EACH STATEMENT EXECUTE FUNCTION named()');
SELECT * FROM beside('CREATE TRIGGER t AFTER UPDATE OF name ON users FOR EACH ROW EXECUTE FUNCTION twice()');
SELECT * FROM beside('CREATE RULE r AS ON UPDATE TO users DO INSTEAD NOTHING');
SELECT * FROM beside('ALTER TABLE users DISABLE TRIGGER "00_token_balance_ledger"');
SELECT * FROM beside('ALTER TABLE users ENABLE REPLICA TRIGGER "00_token_balance_ledger"');
SELECT * FROM beside('SET LOCAL session_replication_role = replica');
SELECT * FROM beside('ALTER TABLE users ALTER token_balance TYPE numeric');
SELECT * FROM beside('CREATE DOMAIN tokens AS integer CHECK (VALUE > 999975); ALTER TABLE users ALTER token_balance TYPE tokens');
SELECT * FROM beside('CREATE TABLE more () INHERITS (users)');
-- A row that this transaction has inserted: its own foreign key is checked again, and now it is broken.
SELECT * FROM beside('ALTER TABLE users ADD boss text REFERENCES users DEFERRABLE INITIALLY IMMEDIATE;
  DELETE FROM users WHERE id = ''ann''; SET LOCAL session_replication_role = replica;
  INSERT INTO users (id, boss, token_balance) VALUES (''ann'', ''nobody'', 1000000); SET LOCAL session_replication_role = origin');
-- Published, with nothing to tell a subscriber which row it is.
SELECT * FROM beside('ALTER TABLE users REPLICA IDENTITY NOTHING; SET LOCAL client_min_messages = error; CREATE PUBLICATION ar_p FOR TABLE users');
-- Toasted values and a row that moves to another page stay as they are.
ALTER TABLE users ADD story text;
ALTER TABLE users ALTER story SET STORAGE EXTERNAL;
UPDATE users SET story = repeat(id, 3000);
SELECT * FROM ten();
SELECT id, name, gone, story = repeat(id, 3000) AS story, token_balance FROM users ORDER BY id;
-- Each of the types to its end.
CREATE FUNCTION ends(type text) RETURNS TABLE (left_over numeric, error text) LANGUAGE plpgsql AS $$
DECLARE smallest numeric := CASE type WHEN 'smallint' THEN -32768 WHEN 'integer' THEN -2147483648 ELSE -9223372036854775808 END;
BEGIN
  EXECUTE 'UPDATE users SET token_balance = 0';
  EXECUTE format('ALTER TABLE users ALTER token_balance TYPE %s', type);
  EXECUTE format('UPDATE users SET token_balance = %s + 15', smallest);
  SELECT t.ann INTO error FROM ten() AS t;
  left_over := error::numeric - smallest;
  SELECT t.ann INTO error FROM ten() AS t;
  RETURN NEXT;
END $$;
ALTER TABLE users ALTER token_balance SET DEFAULT 0;
SELECT * FROM ends('smallint');
SELECT * FROM ends('integer');
SELECT * FROM ends('bigint');
SELECT count(*) AS problems FROM token_balance.reconcile() WHERE problem NOT LIKE 'unsettled%';
DROP SCHEMA ar CASCADE;
DROP EXTENSION IF EXISTS token_balance CASCADE;
