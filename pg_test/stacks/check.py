"""What the tests of this folder share: each check says what it found, and exit_code() is 1 when one failed."""
import psycopg

failed = 0


def check(what, got, expected):
    global failed
    if got == expected:
        print(f"ok: {what}")
    else:
        failed = 1
        print(f"FAILED: {what}: got {got!r}, expected {expected!r}")


def sqlstate_of(call):
    """The SQLSTATE of the error that call() raises, or what it gives."""
    try:
        return call()
    except Exception as error:
        return getattr(getattr(error, "orig", error), "sqlstate", None) or repr(error)


def sql(statement, *args):
    """In a transaction and a connection of its own; the first column of the first row, if there is one."""
    with psycopg.connect("", autocommit=True) as conn:
        cursor = conn.execute(statement, args or None)
        return cursor.fetchone()[0] if cursor.description else None


def all_adds_up():
    check("reconcile() finds nothing", sql("SELECT count(*) FROM token_balance.reconcile()"), 0)
    bad = "SELECT string_agg(name, ', ') FROM token_balance.verify() WHERE NOT ok"
    check("verify() misses the index of summaries alone", sql(bad), "summary index")
    sql(sql("SELECT hint FROM token_balance.verify() WHERE NOT ok"))
    check("verify() finds nothing", sql(bad), None)


def exit_code():
    return failed
