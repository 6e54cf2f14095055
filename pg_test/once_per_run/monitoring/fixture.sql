-- Something of everything: charges, a bad one, an overdraft, a charge in the queue, usage that waits and that nobody owns.
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer, created_at timestamptz DEFAULT now());
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
CREATE INDEX ON token_usage (workflow_id);
INSERT INTO users VALUES ('ann'), ('bob');
CREATE EXTENSION token_balance;
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_created_at => 'created_at', busy_account => 'queue');
INSERT INTO token_usage VALUES ('w1', 'ann', 10), ('w2', 'eve', 1), ('w3', 'bob', 2000000), ('w4', 'ann', 5), ('w5', 'ann', 3), (NULL, 'ann', 4);
INSERT INTO workflows VALUES ('w1', 'ann', 'completed'), ('w2', 'ann', 'completed'), ('w3', 'ann', 'completed'), ('w4', 'ann', 'running');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM users;
INSERT INTO workflows VALUES ('w5', 'ann', 'completed');
COMMIT;
