-- The platform under test, the same for every contender. The tables belong to a plain role, as an
-- application's do: a superuser skips the checks of privileges. They are not in the extension's own
-- schema, so that it binds nothing before the data is there.
CREATE EXTENSION pg_prewarm;
CREATE SCHEMA app AUTHORIZATION app;

SET ROLE app;
CREATE TABLE app.users (id text PRIMARY KEY, email text NOT NULL, token_balance bigint NOT NULL DEFAULT 100000000);
CREATE TABLE app.workflows (
    id text PRIMARY KEY, number integer NOT NULL, user_id text NOT NULL, status text NOT NULL,
    progress integer NOT NULL DEFAULT 0, created_at timestamptz NOT NULL);
CREATE TABLE app.token_usage (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, workflow_id text NOT NULL, user_id text NOT NULL,
    stage text, model text, prompt_tokens integer NOT NULL, completion_tokens integer NOT NULL,
    total_tokens integer NOT NULL, created_at timestamptz NOT NULL);
RESET ROLE;

CREATE SCHEMA bench;
GRANT USAGE ON SCHEMA bench TO app;

-- CPU time of this backend, in nanoseconds. The kernel brings the figure up to date when a process
-- leaves the CPU: hence the short sleep.
CREATE FUNCTION bench.cpu() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM pg_sleep(0.001);
    RETURN split_part(pg_read_file('/proc/self/schedstat'), ' ', 1);
END $$;

-- The workflows of a step, scattered over the table: 7919 is a prime that divides no table's size.
CREATE FUNCTION bench.workflow(step bigint, workflows bigint) RETURNS text LANGUAGE sql IMMUTABLE
RETURN 'run-' || (step * 7919 % workflows + 1)::text;
