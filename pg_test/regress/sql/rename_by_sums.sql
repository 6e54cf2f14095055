-- Which usage a renamed workflow has taken along, where no foreign key takes it: what is there tells (DESIGN I2, I3, I10, I11).
\i common/try.sql
SET client_min_messages = warning;
CREATE SCHEMA rs;
SET search_path = rs, public;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE workflows (id text PRIMARY KEY DEFERRABLE, status text NOT NULL DEFAULT 'running');
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users VALUES ('ann'), ('bob');
CREATE EXTENSION token_balance SCHEMA rs;
-- Runs that are completed, each with what it has used, of ann if nothing else is said.
CREATE PROCEDURE completed(VARIADIC runs text[]) LANGUAGE plpgsql AS $$
BEGIN
  TRUNCATE token_usage, workflows, users;
  PERFORM token_balance.reset();
  INSERT INTO users VALUES ('ann'), ('bob');
  INSERT INTO workflows SELECT split_part(r, ' ', 1) FROM unnest(runs) AS r;
  INSERT INTO token_usage SELECT split_part(r, ' ', 1), 'ann', split_part(r, ' ', 2)::integer FROM unnest(runs) AS r WHERE r LIKE '% %';
  UPDATE workflows SET status = 'completed';
END $$;
-- The run goes on as run-1 with its usage, which moves first or last; another one gets its id, and uses so much.
CREATE PROCEDURE used_again(payer text, tokens integer, usage_first boolean DEFAULT false) LANGUAGE plpgsql AS $$
BEGIN
  IF usage_first THEN UPDATE token_usage SET workflow_id = 'run-1' WHERE workflow_id = 'run'; END IF;
  UPDATE workflows SET id = 'run-1' WHERE id = 'run';
  IF NOT usage_first THEN UPDATE token_usage SET workflow_id = 'run-1' WHERE workflow_id = 'run'; END IF;
  INSERT INTO workflows VALUES ('run');
  INSERT INTO token_usage VALUES ('run', payer, tokens);
END $$;
CREATE VIEW state AS
  SELECT (SELECT string_agg(id || ' ' || 1000000 - token_balance, ', ' ORDER BY id) FROM users) AS paid,
    (SELECT string_agg(workflow_id || ' ' || user_id || ' ' || charged_tokens, ', ' ORDER BY workflow_id, user_id) FROM token_balance.settlement) AS settlements,
    (SELECT string_agg(problem || ' ' || coalesce(workflow_id, ''), ', ') FROM token_balance.reconcile()) AS problems;
SET client_min_messages = error;

-- the old id is used again by a run of its own
CALL completed('run 500');
CALL used_again('ann', 30);
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
UPDATE workflows SET status = 'completed';
TABLE state;
-- of another account; the usage goes first
CALL completed('run 500');
CALL used_again('bob', 600, usage_first => true);
UPDATE workflows SET status = 'completed';
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
TABLE state;
-- of more than there was: both are paid for, whichever was which
CALL completed('run 500');
CALL used_again('ann', 600);
UPDATE workflows SET status = 'completed';
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
TABLE state;
-- late usage stays behind: it is of a workflow that nobody knows
CALL completed('a 5');
BEGIN;
UPDATE workflows SET id = 'b' WHERE id = 'a';
UPDATE token_usage SET workflow_id = 'b' WHERE workflow_id = 'a';
INSERT INTO token_usage VALUES ('a', 'ann', 3);
COMMIT;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
TABLE state;
SELECT state, reason, tokens FROM token_balance.usage_state() WHERE tokens > 0;
-- one that has used nothing gets the old id
CALL completed('a 5', 'x');
BEGIN;
UPDATE workflows SET id = CASE id WHEN 'a' THEN 'c' ELSE 'a' END;
UPDATE token_usage SET workflow_id = 'c';
COMMIT;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
TABLE state;
-- a chain, and then two that take one another's place
CALL completed('k7 1', 'k21 100');
BEGIN;
UPDATE workflows SET id = 'k32' WHERE id = 'k21';
UPDATE workflows SET id = 'k14' WHERE id = 'k32';
UPDATE workflows SET id = CASE id WHEN 'k7' THEN 'k14' ELSE 'k7' END;
UPDATE token_usage SET workflow_id = CASE workflow_id WHEN 'k7' THEN 'k14' ELSE 'k7' END;
COMMIT;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
TABLE state;
-- the usage of some follows, and of others it does not: by the keys
CALL completed('a 1', 'b 2', 'c 4');
BEGIN;
UPDATE workflows SET id = id || id;
UPDATE token_usage SET workflow_id = 'bb' WHERE workflow_id = 'b';
COMMIT;
TABLE state;
-- usage that was pruned before
CALL completed('a 1');
DELETE FROM token_usage;
UPDATE workflows SET id = 'b';
SELECT settlements FROM state;
-- what nobody can tell is charged again, and given back: the usage follows in a transaction of its own, or the id is lost
CALL completed('a 5');
UPDATE workflows SET id = 'b';
UPDATE token_usage SET workflow_id = 'b';
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
TABLE state;
SELECT token_balance.correct_workflow('a') ->> 'amount' AS amount;
TABLE state;
-- without a unique key: the usage tells as well
ALTER TABLE workflows DROP CONSTRAINT workflows_pkey;
CREATE INDEX ON workflows (id);
CALL completed('a 5');
BEGIN;
UPDATE workflows SET id = 'b' WHERE id = 'a';
UPDATE token_usage SET workflow_id = 'b';
INSERT INTO workflows VALUES ('a');
COMMIT;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
TABLE state;

-- a run that is renamed after it was completed, and before it is settled, is settled under the id that it has by then
CALL completed(VARIADIC '{}');
ALTER TABLE workflows ADD PRIMARY KEY (id);
ALTER TABLE token_usage ADD FOREIGN KEY (workflow_id) REFERENCES workflows ON UPDATE CASCADE;
INSERT INTO workflows VALUES ('a'), ('b');
INSERT INTO token_usage VALUES ('a', 'ann', 5), ('b', 'bob', 70);
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
UPDATE workflows SET status = 'completed' WHERE id = 'a';
UPDATE workflows SET id = 'tmp' WHERE id = 'a';
UPDATE workflows SET id = 'a' WHERE id = 'b';
COMMIT;
TABLE state;
-- several, with a savepoint rolled back, and one that is deleted
INSERT INTO workflows VALUES ('c'), ('d'), ('e');
INSERT INTO token_usage VALUES ('c', 'ann', 10), ('d', 'bob', 20);
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
UPDATE workflows SET status = 'completed';
SAVEPOINT s;
UPDATE workflows SET id = 'dd' WHERE id = 'd';
ROLLBACK TO s;
UPDATE workflows SET id = 'cc' WHERE id = 'c';
DELETE FROM workflows WHERE id = 'e';
COMMIT;
TABLE state;
-- a trigger of the application comes first
CREATE FUNCTION ren() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
  UPDATE workflows SET id = 'done-' || NEW.id WHERE id = NEW.id; RETURN NULL; END$$;
CREATE TRIGGER archive AFTER UPDATE OF status ON workflows FOR EACH ROW WHEN (NEW.status = 'done') EXECUTE FUNCTION ren();
INSERT INTO workflows VALUES ('f'), ('g');
INSERT INTO token_usage VALUES ('f', 'ann', 100), ('g', 'bob', 200);
UPDATE workflows SET status = 'done' WHERE id IN ('f', 'g');
TABLE state;

-- a row that is renamed and moved to another partition: by two statements it is followed; by one it is charged again, and given back
CREATE TABLE parted (id text, part integer, status text) PARTITION BY LIST (part);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2);
CREATE INDEX ON parted (id);
CREATE TABLE parted_usage (workflow_id text, user_id text, total_tokens integer);
CREATE INDEX ON parted_usage (workflow_id) INCLUDE (user_id, total_tokens);
SELECT token_balance.attach('users', 'parted_usage', 'parted', name => 'parted');
INSERT INTO parted VALUES ('p', 1, 'running');
INSERT INTO parted_usage VALUES ('p', 'ann', 1000);
UPDATE parted SET status = 'done';
BEGIN;
UPDATE parted SET id = 'q';
UPDATE parted SET part = 2;
UPDATE parted_usage SET workflow_id = 'q';
COMMIT;
SELECT token_balance.settle_pending(binding => 'parted') ->> 'tokens_used' AS tokens_used;
BEGIN;
UPDATE parted SET id = 'r', part = 1;
UPDATE parted_usage SET workflow_id = 'r';
COMMIT;
SELECT token_balance.settle_pending(binding => 'parted') ->> 'tokens_used' AS tokens_used;
SELECT problem, expected, found FROM token_balance.reconcile();
SELECT token_balance.correct_workflow('q') ->> 'amount' AS amount;
SELECT * FROM token_balance.reconcile();
SELECT token_balance.detach(name => 'parted');

-- a trigger that suppresses what the extension writes: one error, and no loop
CREATE FUNCTION nil() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER nil BEFORE INSERT ON token_balance.settlement FOR EACH ROW EXECUTE FUNCTION nil();
INSERT INTO workflows VALUES ('h');
INSERT INTO token_usage VALUES ('h', 'ann', 1);
SET client_min_messages = warning;
SET statement_timeout = '20s';
CALL pg_temp.try($$UPDATE workflows SET status = 'done' WHERE id = 'h'$$);
RESET statement_timeout;
DROP TRIGGER nil ON token_balance.settlement;
-- a balance column of a type that holds none
DROP VIEW state;
ALTER TABLE users ALTER token_balance DROP DEFAULT, ALTER token_balance TYPE text;
CALL pg_temp.try($$UPDATE workflows SET status = 'done' WHERE id = 'h'$$);
CALL pg_temp.try($$SELECT token_balance.credit('ann', 1)$$);
ALTER TABLE users ALTER token_balance TYPE integer USING token_balance::integer, ALTER token_balance SET DEFAULT 1000000;
UPDATE workflows SET status = 'done' WHERE id = 'h';
SELECT * FROM users ORDER BY id;
-- ids of which two become one number
SET client_min_messages = notice;
CREATE TABLE numbered (id text PRIMARY KEY, status text);
CREATE TABLE spent (workflow_id text, user_id text, total_tokens integer);
CREATE INDEX ON spent (workflow_id) INCLUDE (user_id, total_tokens);
SET client_min_messages = warning;
SELECT token_balance.attach('users', 'spent', 'numbered', name => 'numbered');
CREATE PROCEDURE to_numbers() LANGUAGE plpgsql AS $$
BEGIN
  PERFORM token_balance.detach(name => 'numbered');
  ALTER TABLE numbered ALTER id TYPE bigint USING id::bigint;
  ALTER TABLE spent ALTER workflow_id TYPE bigint USING workflow_id::bigint;
  SET LOCAL client_min_messages = notice;
  PERFORM token_balance.attach('users', 'spent', 'numbered', name => 'numbered');
END $$;
INSERT INTO numbered VALUES ('04', 'running'), ('4', 'running'), ('06', 'running');
INSERT INTO spent VALUES ('04', 'ann', 7), ('4', 'ann', 7), ('06', 'ann', 3);
UPDATE numbered SET status = 'done' WHERE id LIKE '0%';
DELETE FROM numbered WHERE id = '04';
DELETE FROM spent WHERE workflow_id = '04';
BEGIN;
CALL to_numbers();
ROLLBACK;
-- as the hint says: they are two runs
BEGIN;
UPDATE numbered SET id = '5' WHERE id = '4';
UPDATE spent SET workflow_id = '5' WHERE workflow_id = '4';
COMMIT;
CALL to_numbers();
SELECT token_balance.settle_pending(binding => 'numbered') ->> 'tokens_used' AS tokens_used;
UPDATE numbered SET status = 'done';
SELECT workflow_id, charged_tokens FROM token_balance.settlement JOIN token_balance.binding AS b USING (binding_id) WHERE b.name = 'numbered' ORDER BY 1;
SET client_min_messages = error;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA rs CASCADE;
