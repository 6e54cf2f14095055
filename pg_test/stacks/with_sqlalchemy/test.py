"""SQLAlchemy with psycopg, and with asyncpg: usage is written, a run is completed, its warnings are heard, a conflict
is retried, and connections that prepared SELECT * before attach go on."""
import asyncio
import logging
import sys

import recipe_sqlalchemy as recipe
import recipe_sqlalchemy_async as recipe_async
import recipe_sqlalchemy_warnings as recipe_warnings
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from check import all_adds_up, check, exit_code, sql, sqlstate_of
from models import Base, Run, Usage, User, UserWithBalance

heard = []
STALE = "0A000"
WARNING = (
    'WARNING: usage of workflow "{0}" names account "77", which does not exist; Tokens that stay unsettled: 5.'
)
DISTURB = "UPDATE users SET token_balance = token_balance - 1 WHERE id = 2"


class Heard(logging.Handler):
    def emit(self, record):
        heard.append(record.getMessage())


logging.getLogger("database").addHandler(Heard())


def everybody(conn):
    """Names no columns: what the server has prepared of it is stale once there is a column more."""
    return [tuple(row) for row in conn.exec_driver_sql("SELECT * FROM users ORDER BY id")]


BEFORE = [(1, "ann@example.com"), (2, "bob@example.com")]
AFTER = [(*row, 1000000) for row in BEFORE]


def prepare(engine):
    """psycopg prepares what it has executed five times."""
    for _ in range(7):
        with engine.begin() as conn:
            check_quietly(everybody(conn), BEFORE)


def check_quietly(got, expected):
    if got != expected:
        check("the users before attach", got, expected)


def counted(work):
    calls = []

    def run(conn):
        calls.append(conn)
        return work(conn)

    return run, calls


# --- psycopg ------------------------------------------------------------------------------------


def sync_before():
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([User(id=1, email="ann@example.com"), User(id=2, email="bob@example.com")])
        session.commit()
    prepare(engine)
    prepare(autocommit)


def sync_after():
    with autocommit.connect() as conn:
        check("psycopg: prepared before attach", sqlstate_of(lambda: everybody(conn)), STALE)
        check("psycopg: and again, without a transaction", sqlstate_of(lambda: everybody(conn)), STALE)
    autocommit.dispose()
    with autocommit.connect() as conn:
        check("psycopg: cured by connecting anew", everybody(conn), AFTER)
    work, calls = counted(everybody)
    check("psycopg: cured by in_transaction", recipe.in_transaction(engine, work), AFTER)
    check("psycopg: at the second attempt", len(calls), 2)

    with Session(engine) as session:
        session.add(Run(id=1, user_id=1))
        session.add_all([Usage(workflow_id=1, user_id=1, total_tokens=n) for n in (100, 23)])
        session.commit()
        ann = session.get(UserWithBalance, 1)
        check("psycopg: before the completion", ann.token_balance, 1000000)
        session.get(Run, 1).status = "completed"
        session.commit()
        session.refresh(ann)
        check("psycopg: a completed run is charged", ann.token_balance, 999877)
        session.add(Run(id=2, user_id=1))
        session.add(Usage(workflow_id=2, user_id=77, total_tokens=5))
        session.commit()
        check("psycopg: nothing was warned of", heard, [])
        session.get(Run, 2).status = "completed"
        session.commit()
        check("psycopg: the warning of a completion is heard", heard, [WARNING.format(2)])
        check("psycopg: the run is completed", sql("SELECT status FROM workflows WHERE id = 2"), "completed")

    check("psycopg: balance", recipe.balance(engine, 1), 999877)
    check("psycopg: settle again", recipe.settle(engine, 1)["status"], "already_settled")
    check("psycopg: credit", recipe.credit(engine, 2, 7, "pay-1")["new_balance"], 1000007)
    check("psycopg: credit again", recipe.credit(engine, 2, 7, "pay-1")["replayed"], True)
    check("psycopg: a malformed id", sqlstate_of(lambda: recipe.balance(engine, "bob")), "22P02")
    check("psycopg: of a run", sqlstate_of(lambda: recipe.settle(engine, "first")), "22P02")
    check("psycopg: of who is credited", sqlstate_of(lambda: recipe.credit(engine, "bob", 7, "pay-2")), "22P02")
    check("psycopg: an unknown id", sqlstate_of(lambda: recipe.balance(engine, 3)), "P0002")

    def complete(conn):
        conn.execute(text("SELECT count(*) FROM users"))
        if len(calls) == 1:  # another transaction, meanwhile
            sql(DISTURB)
        conn.execute(text("UPDATE workflows SET status = 'completed' WHERE id = 3"))

    sql("INSERT INTO workflows VALUES (3, 2, 'running')")
    sql("INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES (3, 2, 1000)")
    work, calls = counted(complete)
    recipe.in_transaction(engine.execution_options(isolation_level="REPEATABLE READ"), work)
    check("psycopg: after 40001 once more", len(calls), 2)
    check("psycopg: and charged once", recipe.balance(engine, 2), 1000007 - 1 - 1000)


# --- asyncpg ------------------------------------------------------------------------------------


async def async_everybody(conn):
    return [tuple(row) for row in await conn.exec_driver_sql("SELECT * FROM users ORDER BY id")]


async def async_before(engine):
    async with engine.begin() as conn:
        check_quietly(await async_everybody(conn), BEFORE)


async def async_after(engine):
    calls = []

    async def read(conn):
        calls.append(conn)
        return await async_everybody(conn)

    check("asyncpg: cured by in_transaction", await recipe_async.in_transaction(engine, read), [
        (1, "ann@example.com", 999877),
        (2, "bob@example.com", 999006),
    ])
    check("asyncpg: what was prepared before attach took two attempts", len(calls), 2)

    heard.clear()
    async with AsyncSession(engine) as session:
        session.add(Run(id=11, user_id=1))
        session.add_all([Usage(workflow_id=11, user_id=1, total_tokens=n) for n in (50, 7)])
        session.add(Usage(workflow_id=11, user_id=77, total_tokens=5))
        await session.commit()
        (await session.get(Run, 11)).status = "completed"
        await session.commit()
    check("asyncpg: the warning of a completion is heard", heard, [WARNING.format(11)])
    check("asyncpg: a completed run is charged", await recipe_async.balance(engine, 1), 999877 - 57)
    # The account 77 does not exist: the function raises where the completion warns.
    try:
        check("asyncpg: settle", await recipe_async.settle(engine, 11), "23503")
    except DBAPIError as error:
        check("asyncpg: settle", recipe.sqlstate(error), "23503")
    try:
        check("asyncpg: a malformed id", await recipe_async.balance(engine, "bob"), "22P02")
    except DBAPIError as error:
        check("asyncpg: a malformed id", recipe.sqlstate(error), "22P02")

    async with engine.connect() as conn:
        numbered = text("SELECT token_balance.balance(CAST(:id AS bigint)) ->> 'token_balance'")
        check("asyncpg: a number in text()", await conn.scalar(numbered, {"id": 1}), str(999877 - 57))

    calls.clear()

    async def complete(conn):
        calls.append(conn)
        await conn.execute(text("SELECT count(*) FROM users"))
        if len(calls) == 1:
            sql(DISTURB)
        await conn.execute(text("UPDATE workflows SET status = 'completed' WHERE id = 12"))

    sql("INSERT INTO workflows VALUES (12, 2, 'running')")
    sql("INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES (12, 2, 30)")
    before = await recipe_async.balance(engine, 2)
    await recipe_async.in_transaction(engine.execution_options(isolation_level="REPEATABLE READ"), complete)
    check("asyncpg: after 40001 once more", len(calls), 2)
    check("asyncpg: and charged once", await recipe_async.balance(engine, 2), before - 1 - 30)


async def main():
    async_engine = create_async_engine("postgresql+asyncpg://")
    recipe_warnings.hear_asyncpg(async_engine)
    sync_before()
    await async_before(async_engine)
    heard.clear()
    sql("CREATE EXTENSION token_balance SCHEMA public")  # it finds the three tables
    sync_after()
    await async_after(async_engine)
    await async_engine.dispose()


engine = create_engine("postgresql+psycopg://", pool_size=1)
recipe_warnings.hear_psycopg(engine)
autocommit = create_engine("postgresql+psycopg://", pool_size=1, isolation_level="AUTOCOMMIT")
asyncio.run(main())
engine.dispose()
autocommit.dispose()

# What waits for the account is all that is left.
check("reconcile() tells of it", sql("SELECT string_agg(DISTINCT user_id, ', ') FROM token_balance.reconcile()"), "77")
sql("INSERT INTO users (id, email) VALUES (77, 'zoe@example.com')")
check("the sweep charges it", sql("SELECT token_balance.settle_pending() ->> 'tokens_used'"), "10")
all_adds_up()
sys.exit(exit_code())
