"""Behind PgBouncer in transaction mode, with one connection to the server for all clients: runs are completed, settled
and swept, and warnings heard, as without it. LISTEN is not heard there, and is on a direct connection. BOUNCER is the
pooler."""
import asyncio
import os
import queue
import sys
import threading

import asyncpg
import recipe_listen
import recipe_pgbouncer
import recipe_psycopg as recipe

from check import all_adds_up, check, exit_code, sql, sqlstate_of

BOUNCER = os.environ["BOUNCER"]
DIRECT = ""

sql(
    """CREATE TABLE users (id bigint PRIMARY KEY);
       CREATE TABLE token_usage (workflow_id bigint, user_id bigint, total_tokens integer);
       CREATE TABLE workflows (id bigint PRIMARY KEY, user_id bigint, status text);
       CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
       CREATE EXTENSION token_balance SCHEMA public;
       INSERT INTO users VALUES (1), (2);
       INSERT INTO workflows SELECT id, 1, 'running' FROM generate_series(1, 9) AS id;
       INSERT INTO token_usage SELECT id, 1, 10 FROM generate_series(1, 9) AS id"""
)


def server_of(conn):
    return conn.execute("SELECT pg_backend_pid()").fetchone()[0]


with recipe_pgbouncer.connect(BOUNCER) as one, recipe_pgbouncer.connect(BOUNCER) as two:
    check("two clients have one server connection", server_of(one), server_of(two))
    for conn, run in ((one, 1), (two, 2), (one, 3), (two, 4), (one, 5), (two, 6), (one, 7)):
        conn.execute("UPDATE workflows SET status = 'completed' WHERE id = %s", (run,))
    check("seven completed runs are charged", recipe.balance(two, 1), 1000000 - 70)
    check("settle", recipe.settle(one, 8)["tokens_used"], 10)
    check("settle again, from the other client", recipe.settle(two, 8)["status"], "already_settled")
    check("credit", recipe.credit(one, 2, 5, "pay-1")["new_balance"], 1000005)
    check("credit again, from the other client", recipe.credit(two, 2, 5, "pay-1")["replayed"], True)
    check("a malformed id", sqlstate_of(lambda: recipe.balance(one, "ann")), "22P02")

    with one.transaction(force_rollback=True):
        one.execute("UPDATE workflows SET status = 'completed' WHERE id = 9")
        check("inside a transaction", recipe.balance(one, 1), 1000000 - 90)
    check("rolled back", recipe.balance(two, 1), 1000000 - 80)

    one.execute("UPDATE workflows SET status = 'completed' WHERE id = 8")
    one.execute("INSERT INTO token_usage VALUES (8, 1, 4), (7, 1, 6)")
    two.execute("CALL token_balance.settle_backlog(batch_size => 1)")  # commits in between
    check("the sweep, with its commits", recipe.balance(one, 1), 1000000 - 90)

    warned = []
    one.add_notice_handler(lambda notice: warned.append(notice.message_primary))
    one.execute("INSERT INTO token_usage VALUES (9, 77, 5)")
    one.execute("UPDATE workflows SET status = 'completed' WHERE id = 9")
    check("warnings are heard", warned, ['usage of workflow "9" names account "77", which does not exist'])

    # A listener behind the pooler says LISTEN on a connection that is another client's a moment later.
    heard = queue.Queue()

    def listen():
        for event in recipe_listen.overdrafts(DIRECT):
            heard.put(event)

    sql("UPDATE users SET token_balance = -1 WHERE id = 2")
    two.execute("LISTEN token_balance")
    threading.Thread(target=listen, daemon=True).start()
    check("a direct listener has the view", heard.get(timeout=20)["user_id"], "2")
    one.execute("INSERT INTO token_usage VALUES (8, 1, 2000000)")
    recipe.settle(one, 8)
    check("a direct connection hears", heard.get(timeout=20)["user_id"], "1")
    check("one behind the pooler does not", list(two.notifies(timeout=1)), [])



async def with_asyncpg():
    """As docs/recipes.md says: nothing is prepared for later."""
    place = dict(part.split("=") for part in BOUNCER.split())
    conn = await asyncpg.connect(host=place["host"], port=int(place["port"]), statement_cache_size=0)
    for tokens in (7, 8):
        async with conn.transaction():
            await conn.execute("INSERT INTO token_usage VALUES (1, 2, $1)", tokens)
            settled = await conn.fetchval("SELECT settle_workflow($1::bigint) ->> 'tokens_used'", 1)
        check("asyncpg: settle", settled, str(tokens))
    await conn.close()


asyncio.run(with_asyncpg())
sql("INSERT INTO users VALUES (77)")
check("the rest", sql("SELECT token_balance.settle_pending() ->> 'tokens_used'"), "5")
all_adds_up()
sys.exit(exit_code())
