-- verify(): all that the extension needs, each with what to do when it is not so (DESIGN K3, S4).
\set SHOW_CONTEXT never
CREATE SCHEMA vf;
SET search_path = vf;
SET client_min_messages = warning;
\i common/tables.sql
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
CREATE INDEX ON token_usage (user_id);
INSERT INTO users VALUES ('ann');
CREATE EXTENSION token_balance SCHEMA vf;
-- all is well
SELECT name, ok, replace(detail, session_user, 'me') AS detail, hint FROM token_balance.verify();
CREATE VIEW bad AS SELECT name, detail, hint FROM token_balance.verify() WHERE NOT ok;

-- the index: missing; one that begins with something else, partial, of block ranges: no use for a probe; one that begins rightly is enough
DROP INDEX token_usage_workflow_id_user_id_total_tokens_idx;
SELECT * FROM bad;
CREATE INDEX other ON token_usage (user_id, workflow_id);
CREATE INDEX partial ON token_usage (workflow_id) WHERE total_tokens > 10;
SELECT name FROM bad;
CREATE INDEX block_ranges ON token_usage USING brin (workflow_id);
SELECT name FROM bad;
CREATE INDEX plain ON token_usage (workflow_id, user_id);
SELECT name FROM bad;
-- the statement of the hint works as it stands
DROP INDEX plain, other, partial, block_ranges;
SELECT substring(hint FROM 'CREATE INDEX.*') AS statement FROM bad \gset
:statement ;
SELECT * FROM bad;

-- triggers: disabled, changed, gone
ALTER TABLE workflows DISABLE TRIGGER USER;
SELECT * FROM bad;
ALTER TABLE workflows ENABLE TRIGGER USER;
ALTER TABLE users DISABLE TRIGGER ALL;
SELECT * FROM bad;
ALTER TABLE users ENABLE TRIGGER ALL;
SELECT count(*) FROM bad;
DO $$
DECLARE t record;
BEGIN
  FOR t IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'vf.workflows'::regclass AND NOT tgisinternal LOOP
    EXECUTE format('ALTER TABLE vf.workflows ENABLE ALWAYS TRIGGER %I', t.tgname);
  END LOOP;
END $$;
SELECT * FROM bad;
DO $$
DECLARE t record;
BEGIN
  FOR t IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'vf.workflows'::regclass AND NOT tgisinternal LOOP
    EXECUTE format('DROP TRIGGER %I ON vf.workflows', t.tgname);
  END LOOP;
END $$;
SELECT * FROM bad;
-- attach again repairs, called as the hint says
SELECT 'SELECT ' || substring(hint FROM 'token_balance[.]attach[(].*[)]') FROM bad LIMIT 1 \gexec
SELECT * FROM bad;

-- columns: renamed, of another type
ALTER TABLE token_usage RENAME user_id TO account;
SELECT * FROM bad;
ALTER TABLE token_usage RENAME account TO user_id;
ALTER TABLE users RENAME token_balance TO credits;
SELECT * FROM bad;
ALTER TABLE users RENAME credits TO token_balance;
ALTER TABLE users ALTER token_balance DROP NOT NULL;
SELECT * FROM bad;
ALTER TABLE users ALTER token_balance SET NOT NULL;
-- the unique key of users
ALTER TABLE users DROP CONSTRAINT users_pkey;
SELECT * FROM bad;
ALTER TABLE users ADD PRIMARY KEY (id);
-- owners
CREATE ROLE regress_tb_vf;
ALTER TABLE users OWNER TO regress_tb_vf;
SELECT * FROM bad;
ALTER TABLE users OWNER TO CURRENT_USER;
SELECT * FROM bad;
-- a bound table dropped
DROP TABLE workflows;
SELECT * FROM bad;
SELECT token_balance.detach();
-- nothing attached
SELECT * FROM bad;

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA vf CASCADE;
DROP ROLE regress_tb_vf;
