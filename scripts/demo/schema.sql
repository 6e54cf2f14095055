-- A workflow platform as an application would have it, owned by a role that is
-- no superuser. Nothing here knows of token_balance.
CREATE ROLE platform;
GRANT CREATE, USAGE ON SCHEMA public TO platform;
SET ROLE platform;

CREATE TABLE users (
    id bigint PRIMARY KEY,
    email text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE workflows (
    id text PRIMARY KEY,
    user_id bigint NOT NULL REFERENCES users,
    name text NOT NULL,
    status text NOT NULL DEFAULT 'running'
        CHECK (status IN ('pending', 'running', 'completed', 'failed')),
    created_at timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz
);

CREATE TABLE token_usage (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workflow_id text NOT NULL REFERENCES workflows,
    user_id bigint NOT NULL REFERENCES users,
    model text NOT NULL,
    stage text NOT NULL,
    prompt_tokens integer NOT NULL,
    completion_tokens integer NOT NULL,
    total_tokens integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- A settlement finds the usage of its workflow here, without the table.
CREATE INDEX token_usage_workflow ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
-- A user's usage page reads the newest rows of one user here.
CREATE INDEX token_usage_user ON token_usage (user_id, created_at);

RESET ROLE;

-- What the demo itself keeps.
CREATE SCHEMA demo;

CREATE TABLE demo.trace (
    n bigint GENERATED ALWAYS AS IDENTITY (START 0 MINVALUE 0),
    happened_at timestamptz NOT NULL,
    context_tokens integer NOT NULL,
    generated_tokens integer NOT NULL
);

-- The runs that are completed after the extension came, each in one of four ways.
CREATE TABLE demo.run (n integer PRIMARY KEY, workflow_id text NOT NULL, way text);

CREATE TABLE demo.step (
    n integer GENERATED ALWAYS AS IDENTITY,
    way text PRIMARY KEY,
    charges bigint NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz
);

-- A standard normal number (Box-Muller), for the log-normal token counts.
CREATE FUNCTION demo.normal() RETURNS double precision LANGUAGE sql VOLATILE AS $$
    SELECT sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random())
$$;

CREATE FUNCTION demo.log_normal(median double precision, sigma double precision)
RETURNS integer LANGUAGE sql VOLATILE AS $$
    SELECT least(greatest(round(median * exp(sigma * demo.normal())), 1), 200000)::integer
$$;

-- One of the given things, the first ones more often than the last ones.
CREATE FUNCTION demo.pick(things text[], skew double precision) RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT things[1 + floor(cardinality(things) * random() ^ skew)::integer]
$$;
