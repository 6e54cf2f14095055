"""What the programs of this folder share."""

import sys

failures = []


def is_(what, got, expected):
    if got == expected:
        print(f"ok: {what}")
    else:
        print(f"FAILED: {what}: got {got!r}, expected {expected!r}")
        failures.append(what)


def fails(what, kind, sqlstate, work):
    """work() raises an error of this kind with this SQLSTATE."""
    try:
        got = work()
    except kind as error:
        cause = getattr(error, "orig", None) or error
        is_(what, getattr(cause, "sqlstate", None), sqlstate)
    else:
        is_(what, f"no error: {got!r}", sqlstate)


def end():
    print(f"{len(failures)} failed")
    sys.exit(1 if failures else 0)
