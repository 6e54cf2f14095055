"""SQLAlchemy with psycopg, and async with asyncpg."""

import asyncio
from datetime import datetime, timedelta, timezone

from sqlalchemy import create_engine, event, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session as Orm

from agents import Base, SummaryResponse, Task, TokenUsage, User, balance, end_run, summary
from checks import end, fails, is_

ATTACH = "SELECT token_balance.attach('users', 'token_usage', usage_workflow => 'session_id', create_index => true)"


def use(session_id, tokens, user_id=1, **more):
    return TokenUsage(user_id=user_id, session_id=session_id, prompt_tokens=tokens, completion_tokens=0, total_tokens=tokens, **more)


def end_of_a_run(engine):
    with Orm(engine) as orm:
        orm.add_all([use("folder-1", 70, model="large", stage="plan"), use("folder-1", 30, stage="")])
        orm.flush()
        answer = orm.scalar(end_run("folder-1"))
        is_("the end of a run charges", (answer["tokens_used"], answer["new_balance"]), (100, 999900))
        orm.rollback()
        is_("with its transaction alone", orm.scalar(balance(1)), {"token_balance": 1000000, "is_overdraft": False})
        orm.add_all([use("folder-1", 70, model="large", stage="plan"), use("folder-1", 30, stage="")])
        orm.flush()
        orm.scalar(end_run("folder-1"))
        is_("again charges nothing", orm.scalar(end_run("folder-1"))["status"], "already_settled")
        orm.commit()
        fails("a run that has used nothing", DBAPIError, "P0002", lambda: orm.scalar(end_run("folder-0")))
        orm.rollback()
        orm.add(use("folder-2", 50, created_at=datetime.now(timezone.utc) - timedelta(hours=2)))
        orm.commit()
        swept = orm.scalar(text("SELECT token_balance.settle_pending(idle => :idle)"), {"idle": timedelta(hours=1)})
        is_("a run whose process died is swept", swept["tokens_used"], 50)
        orm.commit()


def ids(engine):
    """Whatever type the driver gives a number."""
    with engine.connect() as connection:
        for what, value in (("a number", 1), ("text", "1"), ("a number past integer", 2**40)):
            statement = text("SELECT token_balance.balance(:id) ->> 'token_balance'")
            if value == 2**40:
                fails(f"{what} that nobody has", DBAPIError, "P0002", lambda: connection.scalar(statement, {"id": value}))
                connection.rollback()
            else:
                is_(what, connection.scalar(statement, {"id": value}), "999850")
        fails("an id that is none", DBAPIError, "22P02", lambda: connection.scalar(balance("kim")))
        connection.rollback()
        raw = connection.connection.driver_connection
        is_("psycopg itself, a number", raw.execute("SELECT token_balance.balance(%s)", (1,)).fetchone()[0]["token_balance"], 999850)
        is_("prepared", raw.execute("SELECT token_balance.balance(%s)", (1,), prepare=True).fetchone()[0]["token_balance"], 999850)
        is_("in binary", raw.execute("SELECT token_balance.balance(%b)", (1,)).fetchone()[0]["token_balance"], 999850)
        many = raw.execute("SELECT count(*) FROM token_balance.settle_workflows(%s::text[])", (["folder-1", "folder-2"],))
        is_("a list of ids", many.fetchone()[0], 0)


def responses(engine):
    """The response model takes the answer unchanged."""
    with Orm(engine) as orm:
        answer = SummaryResponse.model_validate(orm.scalar(summary(1)))
        is_("the summary of a user", (answer.summary.total_tokens, answer.token_balance), (150, 999850))
        is_("its stages", [(group.stage, group.total_tokens) for group in answer.by_stage], [("unknown", 80), ("plan", 70)])
        is_("its models", [(group.model, group.total_tokens) for group in answer.by_model], [(None, 80), ("large", 70)])
        is_("its records", [record.session_id for record in answer.recent_records], ["folder-1", "folder-1", "folder-2"])
        answer = SummaryResponse.model_validate(orm.scalar(summary(2)))
        is_("of a user who did nothing", (answer.summary.record_count, answer.recent_records, answer.token_balance), (0, [], 1000000))
        orm.add(TokenUsage(user_id=2, session_id=None))
        orm.flush()
        answer = SummaryResponse.model_validate(orm.scalar(summary(2)))
        is_("of one whose tokens are NULL", (answer.summary.total_tokens, answer.recent_records[0].total_tokens), (0, 0))
        is_("of no days", SummaryResponse.model_validate(orm.scalar(summary(1, 0))).summary.record_count, 0)
        orm.rollback()


def with_tasks(engine, heard):
    """The generated column: no change of code. A charge is part of the flush that completes the task."""
    with engine.begin() as connection:
        connection.execute(text("SELECT token_balance.detach()"))
        connection.execute(text("ALTER TABLE tasks ADD COLUMN folder text GENERATED ALWAYS AS (result_data ->> 'session_id') STORED"))
        connection.execute(text("""SELECT token_balance.attach('users', 'token_usage', 'tasks',
            usage_workflow => 'session_id', workflow_key => 'folder')"""))
    with Orm(engine) as orm:
        orm.add(task := Task(user_id=1))
        orm.add(use("folder-3", 20))
        orm.commit()
        task.status, task.result_data = "completed", {"session_id": "folder-3"}
        orm.flush()
        is_("a completed task is charged", orm.scalar(balance(1))["token_balance"], 999830)
        orm.rollback()
        is_("a rollback takes it back", orm.scalar(balance(1))["token_balance"], 999850)
        task.status, task.result_data = "completed", {"session_id": "folder-3"}
        orm.commit()
        is_("a commit keeps it", orm.scalar(balance(1))["token_balance"], 999830)
        # One flush writes table by table: the task comes before the usage, which then is late.
        orm.add_all([use("folder-7", 40), Task(user_id=1, status="completed", result_data={"session_id": "folder-7"})])
        orm.flush()
        is_("usage of the same flush is late", orm.scalar(balance(1))["token_balance"], 999830)
        is_("and the sweep charges it", orm.scalar(text("SELECT token_balance.settle_pending()"))["tokens_used"], 40)
        orm.rollback()
        orm.add(use("folder-7", 40))
        orm.flush()
        orm.add(Task(user_id=1, status="completed", result_data={"session_id": "folder-7"}))
        orm.flush()
        is_("flushed before, it is charged", orm.scalar(balance(1))["token_balance"], 999790)
        orm.rollback()
        orm.add(use("folder-4", 7, user_id=999))
        orm.flush()
        orm.add(Task(user_id=1, status="completed", result_data={"session_id": "folder-4"}))
        orm.commit()
        is_("usage of nobody: the task completes", orm.scalar(select(Task.status).order_by(Task.id.desc())), "completed")
    is_("and psycopg hears a WARNING", [notice for notice in heard if notice[0] == "WARNING"], [("WARNING", "23503")])


async def with_asyncpg():
    engine = create_async_engine("postgresql+asyncpg://")
    heard = []
    async with AsyncSession(engine) as orm:
        connection = await orm.connection()
        raw = (await connection.get_raw_connection()).driver_connection
        raw.add_log_listener(lambda _, message: heard.append((message.severity, message.sqlstate)))
        is_("asyncpg: a number", (await orm.scalar(balance(1)))["token_balance"], 999830)
        is_("asyncpg: text", (await orm.scalar(balance("1")))["token_balance"], 999830)
        is_("asyncpg itself, a parameter without a type is text", await raw.fetchval("SELECT token_balance.balance($1) ->> 'token_balance'", "1"), "999830")
        is_("asyncpg itself, a number", await raw.fetchval("SELECT token_balance.balance($1::bigint) ->> 'token_balance'", 1), "999830")
        SummaryResponse.model_validate(await orm.scalar(summary(1)))
        orm.add(use("folder-5", 30))
        await orm.flush()
        answer = await orm.scalar(end_run("folder-5"))
        is_("asyncpg: the end of a run", (answer["tokens_used"], answer["new_balance"]), (30, 999800))
        await orm.commit()
        await orm.execute(text("INSERT INTO token_usage (user_id, session_id, total_tokens) VALUES (998, 'folder-6', 1)"))
        orm.add(Task(user_id=1, status="completed", result_data={"session_id": "folder-6"}))
        await orm.commit()
    await asyncio.sleep(0)
    is_("asyncpg: hears a WARNING", heard, [("WARNING", "23503")])
    await engine.dispose()


def main():
    engine = create_engine("postgresql+psycopg://")
    heard = []
    event.listen(engine, "connect", lambda connection, _: connection.add_notice_handler(
        lambda notice: heard.append((notice.severity_nonlocalized, notice.sqlstate))))
    Base.metadata.create_all(engine)
    with Orm(engine) as orm:
        orm.add_all([User(username="kim"), User(username="lee")])
        orm.commit()
    with engine.connect() as early:
        psycopg = early.connection.driver_connection
        is_("before attach: all of a row", len(psycopg.execute("SELECT * FROM users WHERE id = 1", prepare=True).fetchone()), 2)
        psycopg.commit()
        with engine.begin() as connection:
            connection.execute(text(ATTACH))
        fails("a statement that was prepared before attach", Exception, "0A000",
            lambda: psycopg.execute("SELECT * FROM users WHERE id = 1", prepare=True).fetchone())
        psycopg.rollback()
    engine.dispose()
    with engine.connect() as again:
        is_("a new connection has the new column", len(again.execute(text("SELECT * FROM users WHERE id = 1")).one()), 3)
    end_of_a_run(engine)
    ids(engine)
    responses(engine)
    with_tasks(engine, heard)
    asyncio.run(with_asyncpg())
    with engine.connect() as connection:
        is_("what is not charged is the usage of nobody", [tuple(row) for row in connection.execute(text(
            "SELECT problem, user_id, expected FROM token_balance.reconcile() ORDER BY user_id"))],
            [("usage of an unknown account", "998", 1), ("usage of an unknown account", "999", 7)])
    engine.dispose()
    end()


main()
