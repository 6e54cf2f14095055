-- Code in every place of the tables where their owner can put some, which tries to become more than she is.
CREATE TABLE app.seen (what text, who text);
GRANT INSERT ON app.seen TO PUBLIC;
CREATE FUNCTION app.try(what text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE me name := current_user;
BEGIN
    INSERT INTO app.seen VALUES (what, current_user);
    FOR i IN 1..5 LOOP
        BEGIN
            IF i = 1 THEN ALTER ROLE tb_eve SUPERUSER;
            ELSIF i = 2 THEN RESET ROLE;
            ELSIF i = 3 THEN RESET SESSION AUTHORIZATION;
            ELSIF i = 4 THEN EXECUTE format('SET ROLE %I', session_user);
            ELSE UPDATE token_balance.settlement SET usage_tokens = 0;
            END IF;
            IF i IN (1, 5) OR current_user <> me THEN
                INSERT INTO app.seen VALUES (what || ' could do ' || i, current_user);
            END IF;
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
    END LOOP;
END $$;
-- Immutable by name only: what it calls may write.
CREATE FUNCTION app.spy(what text, x integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS $$BEGIN PERFORM app.try(what); RETURN x; END $$;
CREATE FUNCTION app.spy(what text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$BEGIN PERFORM app.try(what); RETURN true; END $$;
CREATE FUNCTION app.on_row() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM app.try(TG_ARGV[0]); RETURN NEW; END $$;
CREATE TYPE app.status AS ENUM ('running', 'completed');
CREATE FUNCTION app.status_text(app.status) RETURNS text LANGUAGE plpgsql AS $$BEGIN PERFORM app.try('cast'); RETURN enum_out($1); END $$;
CREATE CAST (app.status AS text) WITH FUNCTION app.status_text(app.status);
CREATE DOMAIN app.tokens AS integer CHECK (app.spy('domain'));
CREATE TABLE app.users (id text PRIMARY KEY, token_balance app.tokens DEFAULT app.spy('default of users', 1000),
    watched integer GENERATED ALWAYS AS (app.spy('generated', token_balance)) STORED, CHECK (app.spy('check')));
CREATE TABLE app.token_usage (workflow_id text, user_id text, total_tokens integer, model text, created_at timestamptz DEFAULT now());
CREATE TABLE app.workflows (id text PRIMARY KEY, user_id text, status app.status, token integer DEFAULT app.spy('default of workflows', 1));
CREATE INDEX ON app.users (app.spy('index', token_balance));
CREATE INDEX ON app.users (id) WHERE app.spy('partial index', token_balance) > 0;
CREATE INDEX ON app.token_usage (app.spy('index of usage', total_tokens));
CREATE TRIGGER a_before BEFORE UPDATE ON app.users FOR EACH ROW EXECUTE FUNCTION app.on_row('before trigger');
CREATE TRIGGER z_after AFTER UPDATE ON app.users FOR EACH ROW WHEN (app.spy('when')) EXECUTE FUNCTION app.on_row('after trigger');
CREATE TRIGGER z_statement AFTER UPDATE ON app.users EXECUTE FUNCTION app.on_row('statement trigger');
CREATE TRIGGER z_workflow BEFORE UPDATE ON app.workflows FOR EACH ROW EXECUTE FUNCTION app.on_row('workflow trigger');
CREATE RULE watch AS ON UPDATE TO app.users DO ALSO SELECT app.spy('rule');
INSERT INTO app.users (id) VALUES ('ann'), ('bob');
INSERT INTO app.users (id, token_balance) VALUES ('cat', NULL);
INSERT INTO app.token_usage VALUES ('w0', 'ann', 5);
INSERT INTO app.workflows VALUES ('w0', 'ann', 'completed');
CREATE POLICY watch ON app.users USING (app.spy('policy on users'));
CREATE POLICY watch ON app.token_usage USING (app.spy('policy on usage'));
CREATE POLICY watch ON app.workflows USING (app.spy('policy on workflows'));
GRANT SELECT, INSERT, UPDATE ON app.token_usage, app.workflows TO tb_att_app;
DELETE FROM app.seen;
