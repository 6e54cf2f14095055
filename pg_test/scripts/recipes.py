"""Calls the functions of docs/recipes.md, which recipes.sh has put into modules, and checks what they do."""
import importlib.util
import queue
import sys
import threading

import psycopg
from psycopg import errors

import recipe_listen
import recipe_psycopg

failed = 0


def check(what, got, expected):
    global failed
    if got == expected:
        print(f"ok: {what}")
    else:
        failed = 1
        print(f"FAILED: {what}: got {got!r}, expected {expected!r}")


def raises(what, kind, call):
    try:
        got = call()
    except kind as error:
        print(f"ok: {what}: {str(error).splitlines()[0]}")
    else:
        check(what, got, kind)


def conflict(work, conn_of):
    """work() while another transaction, once, changes the account that a REPEATABLE READ one has seen."""
    calls = []

    def disturbed(conn):
        calls.append(conn)
        conn_of(conn, "SELECT count(*) FROM shop.users")
        if len(calls) == 1:
            with psycopg.connect("", autocommit=True) as other:
                other.execute("UPDATE shop.users SET token_balance = token_balance - 1 WHERE id = 'eve'")
        return work(conn)

    return disturbed, calls


def test_psycopg():
    recipe = recipe_psycopg
    with psycopg.connect("", autocommit=True) as conn:
        check("psycopg: settle", recipe.settle(conn, "p1")["tokens_used"], 100)
        check("psycopg: settle again", recipe.settle(conn, "p1")["status"], "already_settled")
        check("psycopg: balance", recipe.balance(conn, "eve"), 999900)
        check("psycopg: balance of nobody", recipe.balance(conn, "nobody"), None)
        check("psycopg: credit", recipe.credit(conn, "eve", 50, "pay-1")["new_balance"], 999950)
        check("psycopg: credit again", recipe.credit(conn, "eve", 50, "pay-1")["replayed"], True)
        check("psycopg: credited once", recipe.balance(conn, "eve"), 999950)
        raises("psycopg: another amount", ValueError, lambda: recipe.credit(conn, "eve", 51, "pay-1"))
        raises("psycopg: a bad amount", ValueError, lambda: recipe.credit(conn, "eve", 0, "pay-2"))
        raises("psycopg: settle an unknown run", errors.NoDataFound, lambda: recipe.settle(conn, "nothing"))
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        work, calls = conflict(
            lambda c: recipe.value(c, "SELECT token_balance.credit(%s, %s, %s)", "eve", 5, "pay-3"),
            lambda c, sql: c.execute(sql).fetchone(),
        )
        check("psycopg: after 40001", recipe.in_transaction(conn, work)["new_balance"], 999954)
        check("psycopg: at the second attempt", len(calls), 2)


def test_sqlalchemy():
    if importlib.util.find_spec("sqlalchemy") is None:
        print("skipped: SQLAlchemy is not installed")
        return
    import recipe_sqlalchemy as recipe
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import DBAPIError

    engine = create_engine("postgresql+psycopg://")
    check("SQLAlchemy: settle", recipe.settle(engine, "p2")["tokens_used"], 20)
    check("SQLAlchemy: balance", recipe.balance(engine, "fay"), 999980)
    check("SQLAlchemy: credit", recipe.credit(engine, "fay", 7, "pay-1")["new_balance"], 999987)
    check("SQLAlchemy: credit again", recipe.credit(engine, "fay", 7, "pay-1")["replayed"], True)
    try:
        recipe.credit(engine, "fay", 8, "pay-1")
        check("SQLAlchemy: another amount", "credited", "refused")
    except DBAPIError as error:
        check("SQLAlchemy: another amount", recipe.sqlstate(error), "23505")
    strict = create_engine("postgresql+psycopg://", isolation_level="REPEATABLE READ")
    credit = text("SELECT token_balance.credit('eve', 5, 'pay-4')")
    work, calls = conflict(
        lambda c: c.execute(credit).scalar_one(), lambda c, sql: c.execute(text(sql)).scalar_one()
    )
    check("SQLAlchemy: after 40001", recipe.in_transaction(strict, work)["success"], True)
    check("SQLAlchemy: at the second attempt", len(calls), 2)
    end_of_run(engine)
    engine.dispose()
    strict.dispose()


def end_of_run(engine):
    import recipe_end_of_run as recipe
    from sqlalchemy.orm import Session

    with Session(engine) as session, session.begin():
        session.connection().exec_driver_sql("INSERT INTO shop.token_usage VALUES ('p2', 'fay', 3)")
        check("end of a run: what is new", recipe.end_run(session, "p2")["tokens_used"], 3)
        check("end of a run: again", recipe.end_run(session, "p2")["status"], "already_settled")
        answer = recipe.token_usage_summary(session, "fay")
        check("end of a run: the summary", (answer["token_balance"], answer["summary"]["total_tokens"]), (999984, 23))
        check("end of a run: of no days", recipe.token_usage_summary(session, "fay", 0)["summary"]["record_count"], 0)
        session.rollback()


def test_listen():
    with psycopg.connect("", autocommit=True) as conn:
        conn.execute("UPDATE shop.users SET token_balance = -5 WHERE id = 'bob'")
        events = queue.Queue()

        def listen():
            for event in recipe_listen.overdrafts(""):
                events.put(event)

        threading.Thread(target=listen, daemon=True).start()
        seen = [events.get(timeout=20)]  # out of the view: it listens now
        conn.execute("INSERT INTO shop.token_usage VALUES ('p3', 'eve', 2000000)")
        conn.execute("UPDATE shop.workflows SET status = 'completed' WHERE id = 'p3'")
        seen.append(events.get(timeout=20))
        conn.execute("SELECT token_balance.credit('eve', 1)")  # still below zero: nothing to tell
        conn.execute("UPDATE shop.users SET token_balance = 10 WHERE id = 'bob'")
        seen.append(events.get(timeout=20))
        check(
            "listen: one event a crossing",
            [(event["event"], event["user_id"], event["token_balance"] < 0) for event in seen],
            [("overdrawn", "bob", True), ("overdrawn", "eve", True), ("recovered", "bob", False)],
        )


test_psycopg()
test_sqlalchemy()
test_listen()
sys.exit(failed)
