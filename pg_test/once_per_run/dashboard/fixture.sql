-- A platform with a month behind it. ann is in credit, bob is overdrawn, eve is near zero, and dan has done nothing yet.
-- A model and a workflow have names that a careless page would take for markup.
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (id bigint GENERATED ALWAYS AS IDENTITY, workflow_id text, user_id text, model text, stage text,
    prompt_tokens integer, completion_tokens integer, total_tokens integer, created_at timestamptz DEFAULT now());
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text DEFAULT 'running');
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
CREATE INDEX ON token_usage (user_id, created_at);
INSERT INTO users VALUES ('ann'), ('bob'), ('eve'), ('dan');
CREATE EXTENSION token_balance;

-- Three runs a day of ann's, one of bob's, more on working days; the oldest of 40 days ago.
SELECT setseed(0.7);
CREATE TABLE run AS
SELECT format('%s-%s', who, lpad(n::text, 3, '0')) AS id, who, now() - interval '40 days' + n * gap AS at,
    round((0.4 + random()) * size * CASE WHEN extract(isodow FROM now() - interval '40 days' + n * gap) > 5 THEN 0.2 ELSE 1 END)::integer AS tokens
FROM (VALUES ('ann', 119, interval '8 hours', 6200), ('bob', 39, interval '1 day', 46000)) AS plan (who, runs, gap, size),
    LATERAL generate_series(1, runs) AS n;
INSERT INTO run VALUES ('eve-1', 'eve', now() - interval '3 days', 900000), ('<b>eve-2</b>', 'eve', now() - interval '1 day', 90000);
INSERT INTO workflows SELECT id, who FROM run;
INSERT INTO token_usage (workflow_id, user_id, model, stage, prompt_tokens, completion_tokens, total_tokens, created_at)
SELECT id, who, (ARRAY['large', 'medium', 'small'])[1 + call], (ARRAY['plan', 'draft', 'review'])[1 + (call + ascii(right(id, 1))) % 3],
    tokens * 6 / 10 / (call + 1), tokens * 4 / 10 / (call + 1), tokens * 6 / 10 / (call + 1) + tokens * 4 / 10 / (call + 1), at
FROM run, generate_series(0, 2) AS call WHERE who <> 'eve'
UNION ALL
SELECT id, who, '<img src=x onerror=document.title="hacked">', NULL, tokens, 0, tokens, at FROM run WHERE who = 'eve';

-- Completed in the order of time. The ledger has the time of the statement, so its entries are dated back here: only a
-- superuser can, with the guards off.
DO $$
DECLARE
    r run;
    guard name;
BEGIN
    FOR guard IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'token_balance.ledger'::regclass AND NOT tgisinternal LOOP
        EXECUTE format('ALTER TABLE token_balance.ledger DISABLE TRIGGER %I', guard);
    END LOOP;
    FOR r IN SELECT * FROM run ORDER BY at LOOP
        UPDATE workflows SET status = 'completed' WHERE id = r.id;
        UPDATE token_balance.ledger SET created_at = r.at + interval '90 seconds' WHERE workflow_id = r.id;
        IF r.id IN ('ann-060', 'ann-100') THEN
            PERFORM token_balance.credit(r.who, 250000, 'invoice-' || right(r.id, 3), 'paid by card');
            UPDATE token_balance.ledger SET created_at = r.at + interval '5 minutes' WHERE reference = 'invoice-' || right(r.id, 3);
        ELSIF r.id = 'ann-117' THEN
            PERFORM token_balance.refund_workflow(r.id, 1500, 'ticket-8', 'the answer was empty');
            UPDATE token_balance.ledger SET created_at = r.at + interval '5 minutes' WHERE reference = 'ticket-8';
        END IF;
    END LOOP;
    FOR guard IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'token_balance.ledger'::regclass AND NOT tgisinternal LOOP
        EXECUTE format('ALTER TABLE token_balance.ledger ENABLE ALWAYS TRIGGER %I', guard);
    END LOOP;
END $$;
