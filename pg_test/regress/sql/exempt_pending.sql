-- Who wants what waits to be forgiven says so: it becomes exempt, to the last token, and it is recorded (DESIGN W8, W9, S14).
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA ep;
SET search_path = ep, public;
\i common/try.sql
CREATE EXTENSION token_balance SCHEMA ep;
CALL pg_temp.try($$SELECT token_balance.exempt_pending()$$);
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer, created_at timestamptz DEFAULT '2026-01-01');
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
INSERT INTO users VALUES ('ann'), ('bob');
INSERT INTO token_usage VALUES ('old', 'ann', 1000);
SELECT token_balance.attach('users', 'token_usage', 'workflows');
CREATE VIEW state AS SELECT state, reason, workflows, usage_rows, tokens FROM token_balance.usage_state();
CREATE VIEW settled AS SELECT workflow_id, user_id, usage_tokens, charged_tokens, first_settled_at IS NOT NULL AS was_settled FROM token_balance.settlement ORDER BY workflow_id COLLATE "C", user_id COLLATE "C";
CREATE VIEW recorded AS SELECT binding_id, now() - exempted_at < interval '1 hour' AS is_now, until, actor, workflows, pairs, tokens FROM token_balance.exemption ORDER BY exempted_at;
-- a run that was charged and has late usage, one that completed unseen, an open one, one that nobody knows, a stranger's, and usage that nobody owns
INSERT INTO workflows VALUES ('late', 'ann', 'running'), ('unseen', 'bob', 'running'), ('open', 'ann', 'running'), ('stranger', 'eve', 'running'), ('paid', 'bob', 'running');
INSERT INTO token_usage VALUES ('late', 'ann', 10), ('late', 'bob', 20), ('unseen', 'bob', 40), ('open', 'ann', 80), ('nowhere', 'bob', 160), ('stranger', 'eve', 320), ('paid', 'bob', 1),
  (NULL, 'ann', 640), ('open', NULL, 1280);
UPDATE workflows SET status = 'completed' WHERE id IN ('late', 'paid');
ALTER TABLE workflows DISABLE TRIGGER USER;
UPDATE workflows SET status = 'completed' WHERE id = 'unseen';
ALTER TABLE workflows ENABLE TRIGGER USER;
INSERT INTO token_usage VALUES ('late', 'ann', 5, '2026-02-01'), ('open', 'ann', 7, '2026-02-01'), ('open', 'bob', 9, '2026-03-01'), ('open', 'ann', 11, NULL);
TABLE state;
TABLE settled;
-- what makes no sense
CALL pg_temp.try($$SELECT token_balance.exempt_pending(now() + interval '1 day')$$);
CALL pg_temp.try($$SELECT token_balance.exempt_pending('infinity')$$);
BEGIN READ ONLY;
CALL pg_temp.try($$SELECT token_balance.exempt_pending()$$);
ROLLBACK;
-- rolled back: as if nothing had been
BEGIN;
SELECT token_balance.exempt_pending();
TABLE state;
TABLE recorded;
ROLLBACK;
TABLE state;
TABLE recorded;
-- a time before all usage, and one in the middle of a run: what is as new as that waits on, and what has no time
SELECT token_balance.exempt_pending('2026-01-01');
SELECT token_balance.exempt_pending('2026-02-01');
TABLE settled;
TABLE state;
-- it is exempt once
SELECT token_balance.exempt_pending('2026-02-01');
TABLE recorded;
-- the rest of the open run is charged, no balance was touched until then, and the sweep finds what is left of the others
SELECT id, token_balance FROM users ORDER BY id;
SELECT settle_workflow('unseen') ->> 'status' AS unseen, settle_workflow('nowhere') ->> 'status' AS nowhere;
UPDATE workflows SET status = 'completed' WHERE id = 'open';
SELECT token_balance.settle_pending();
SELECT id, token_balance FROM users ORDER BY id;
SELECT kind, user_id, workflow_id, amount FROM token_balance.ledger ORDER BY user_id, entry_id;
SELECT problem, user_id, workflow_id, expected, found FROM token_balance.reconcile();
TABLE state;
-- a later row of a run that is exempt is charged
INSERT INTO token_usage VALUES ('unseen', 'bob', 3), ('late', 'ann', 2), ('nowhere', 'bob', 4);
SELECT user_id, charged_tokens FROM token_balance.settle_workflows('{unseen}');
-- all that waits now; a refund is of what was charged, whatever is exempt
SELECT token_balance.exempt_pending();
SELECT token_balance.exempt_pending();
SELECT token_balance.refund_workflow('late') ->> 'amount' AS refunded;
TABLE settled;
TABLE state;
TABLE recorded;
-- more workflows than a transaction may lock, some of them settled in part
INSERT INTO token_usage SELECT 'm' || g, 'ann', 2 FROM generate_series(1, 2500) AS g;
INSERT INTO workflows SELECT 'm' || g, 'ann', 'completed' FROM generate_series(1, 2500) AS g WHERE g % 5 = 0;
INSERT INTO token_usage SELECT 'm' || g, 'ann', 1 FROM generate_series(1, 2500) AS g;
SELECT token_balance.exempt_pending();
SELECT sum(usage_tokens) AS usage, sum(charged_tokens) AS charged, count(*) FROM token_balance.settlement WHERE workflow_id LIKE 'm%';
SELECT token_balance.settle_pending();
-- the backlog takes back what is exempt, from whenever it is
CALL token_balance.settle_backlog(existing => true);
SELECT state, reason, workflows, tokens FROM token_balance.usage_state() WHERE state <> 'charged';
-- whom it is granted to: as credit, to nobody by attach
CREATE ROLE regress_tb_ep_owner;
CREATE ROLE regress_tb_ep_billing;
GRANT USAGE ON SCHEMA ep, token_balance TO regress_tb_ep_owner, regress_tb_ep_billing;
ALTER TABLE users OWNER TO regress_tb_ep_owner;
ALTER TABLE token_usage OWNER TO regress_tb_ep_owner;
ALTER TABLE workflows OWNER TO regress_tb_ep_owner;
SELECT token_balance.attach_again();
INSERT INTO token_usage VALUES ('late', 'ann', 6);
SET ROLE regress_tb_ep_owner;
CALL pg_temp.try($$SELECT token_balance.exempt_pending()$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION token_balance.exempt_pending TO regress_tb_ep_billing;
SET ROLE regress_tb_ep_billing;
SELECT token_balance.exempt_pending();
CALL pg_temp.try($$TABLE token_balance.exemption$$);
RESET ROLE;
SELECT actor, until, pairs, tokens FROM token_balance.exemption ORDER BY exempted_at DESC LIMIT 1;
-- nobody but the owner writes the record
GRANT pg_write_all_data TO regress_tb_ep_billing;
SET ROLE regress_tb_ep_billing;
CALL pg_temp.try($$DELETE FROM token_balance.exemption$$);
RESET ROLE;
ALTER TABLE token_balance.exemption DISABLE TRIGGER owner_only;
SELECT detail, hint FROM token_balance.verify() WHERE name = 'ledger guard';
ALTER TABLE token_balance.exemption ENABLE ALWAYS TRIGGER owner_only;
SELECT token_balance.detach();
DROP OWNED BY regress_tb_ep_owner CASCADE;
DROP OWNED BY regress_tb_ep_billing;
DROP ROLE regress_tb_ep_owner, regress_tb_ep_billing;

-- the account of the workflow pays: one, none, two
CREATE TABLE users (id bigint PRIMARY KEY);
CREATE TABLE runs (task serial, id bigint, user_id bigint, status text);
CREATE TABLE steps (run bigint, tokens bigint, at timestamp DEFAULT '2026-01-01');
INSERT INTO users VALUES (1), (2);
SELECT token_balance.attach('users', 'steps', 'runs', usage_user => NULL, usage_workflow => 'run', usage_tokens => '{tokens}', usage_created_at => 'at', accounts => 'new');
INSERT INTO runs (id, user_id, status) VALUES (1, 1, 'running'), (2, NULL, 'running'), (3, 1, 'running'), (3, 2, 'running'), (4, 2, 'running'), (4, 2, 'running'), (6, 1, 'running');
INSERT INTO steps VALUES (1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 9223372036854775807), (6, 5), (NULL, 32);
SELECT settle_workflow(1) ->> 'tokens_used' AS tokens_used;
INSERT INTO steps VALUES (1, 64, '2026-01-01'), (4, 128, '2026-02-01');
TABLE state;
SELECT token_balance.exempt_pending('2026-01-15');
SELECT workflow_id, user_id, usage_tokens, charged_tokens FROM token_balance.settlement WHERE binding_id = 2 ORDER BY 1, 2;
TABLE state;
UPDATE runs SET status = 'completed' WHERE id IN (1, 4);
SELECT id, token_balance FROM users ORDER BY id;
-- the account of the run is another one by now: what is exempt stays so
UPDATE runs SET user_id = 1 WHERE id = 4;
INSERT INTO steps VALUES (4, 3);
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
SELECT id, token_balance FROM users ORDER BY id;
SELECT binding_id, pairs, tokens FROM token_balance.exemption ORDER BY exempted_at DESC LIMIT 1;

-- no workflow table: what is exempt was not settled, so that the rest still waits for its first settlement; usage without a time
SELECT token_balance.detach();
CREATE TABLE calls (session uuid, user_id bigint, total_tokens integer);
SELECT token_balance.attach('users', 'calls', usage_workflow => 'session');
INSERT INTO calls VALUES ('00000000-0000-0000-0000-00000000000a', 1, 10), ('00000000-0000-0000-0000-00000000000b', 2, 20);
CALL pg_temp.try($$SELECT token_balance.exempt_pending('2026-01-01')$$);
SELECT token_balance.exempt_pending();
INSERT INTO calls VALUES ('00000000-0000-0000-0000-00000000000a', 1, 3);
SELECT state, reason, workflows, usage_rows, tokens FROM token_balance.usage_state();
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
SELECT settle_workflow('00000000-0000-0000-0000-00000000000A'::uuid) ->> 'tokens_used' AS tokens_used;
-- a binding that goes on has it, and a test suite's reset keeps the record
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'calls', usage_workflow => 'session');
SELECT state, reason, workflows, usage_rows, tokens FROM token_balance.usage_state();
TRUNCATE calls, users;
SELECT token_balance.reset() ->> 'settlements' AS settlements;
SELECT count(*) FROM token_balance.exemption;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA ep CASCADE;
