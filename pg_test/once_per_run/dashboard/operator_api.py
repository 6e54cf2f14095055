"""Operators by HTTP: what they see, who may give, and that a reference gives once."""

import concurrent.futures
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.parse

from service import Service, failures, is_, sql, token

OPERATOR = "/api/v1/operator/"
LOOKS = ("me", "account?id=ann", "statement?id=ann", "overdrawn", "usage", "queue", "archived")


def staff(role, name="mia"):
    return {"sub": name, "role": role, "exp": int(time.time()) + 600}


def look(service, path, claims="operator"):
    return service.get(OPERATOR + path, staff(claims) if isinstance(claims, str) else claims)


def give(service, kind, body, claims="cashier", content_type="application/json"):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    claims = staff(claims) if isinstance(claims, str) else claims
    return service.get(OPERATOR + kind, claims, {"Content-Type": content_type}, "POST", body)


def balance(account):
    return int(sql(f"SELECT token_balance.balance('{account}') ->> 'token_balance'"))


def entries():
    return int(sql("SELECT count(*) FROM token_balance.ledger"))


def off_without_a_login():
    service = Service()
    try:
        for path in ("/operator", OPERATOR + "me", OPERATOR + "account?id=ann"):
            is_(f"no login for operators: {path}", service.get(path, staff("cashier")).code(), (404, "not_found"))
        is_("no login for operators: no credit", give(service, "credit", {}).code(), (404, "not_found"))
    finally:
        service.stop()


def who(service):
    credit = {"account": "ann", "amount": "5", "reference": "who"}
    for path in LOOKS:
        is_(f"{path}: without a token", service.get(OPERATOR + path).code(), (401, "no_token"))
        forged = {"Authorization": "Bearer " + token(staff("cashier"), secret="another secret, as long as it must be")}
        is_(f"{path}: forged", service.get(OPERATOR + path, headers=forged).code(), (401, "invalid_token"))
        is_(f"{path}: a user", look(service, path, {"sub": "ann", "exp": int(time.time()) + 600}).code(), (403, "not_an_operator"))
        for role in ("operator", "cashier"):
            is_(f"{path}: {role}", look(service, path, role).status, 200)
    before = entries()
    for role in ("", "Cashier", "cashier ", "token_cashier", "postgres", "none", 7, ["cashier"], {"cashier": True}, None):
        is_(f"role {role!r} looks", look(service, "me", staff(role)).code(), (403, "not_an_operator"))
        is_(f"role {role!r} gives", give(service, "credit", credit, staff(role)).code(), (403, "not_an_operator"))
    is_("a user gives", give(service, "credit", credit, {"sub": "ann", "exp": int(time.time()) + 600}).code(), (403, "not_an_operator"))
    is_("an operator credits", give(service, "credit", credit, "operator").code(), (403, "may_not"))
    is_("an operator refunds", give(service, "refund", {"workflow": "ann-110", "reference": "who"}, "operator").code(), (403, "may_not"))
    is_("and nothing was given", entries(), before)
    for role, may in (("operator", False), ("cashier", True)):
        is_(f"{role}: what the database lets one do", look(service, "me", role).json(),
            {"name": "mia", "role": role, "may": {"may_credit": may, "may_refund": may}})
    is_("credit is no page to read", look(service, "credit", "cashier").code(), (405, "method_not_allowed"))
    is_("the page has the policy of the other", service.get("/operator").headers["content-security-policy"],
        service.get("/").headers["content-security-policy"])


def grants():
    """As the README's block makes them, asked of the database."""
    credit = "'token_balance.credit(text, numeric, text, text, name)', 'EXECUTE'"
    for role, may in (("token_dashboard", "f"), ("token_reader", "f"), ("token_desk", "f"), ("token_operator", "f"), ("token_cashier", "t")):
        is_(f"{role} may credit", sql(f"SELECT has_function_privilege('{role}', {credit})"), may)
    is_("the users' login is in no role of operators", sql("""SELECT count(*) FROM pg_roles AS r
        WHERE r.rolname IN ('token_operator', 'token_cashier', 'token_desk') AND pg_has_role('token_dashboard', r.oid, 'MEMBER')"""), "0")
    for table in ("users", "token_usage", "token_balance.ledger", "token_balance.settlement"):
        rights = "'SELECT, INSERT, UPDATE, DELETE'"
        is_(f"a cashier and {table}", sql(f"SELECT has_table_privilege('token_cashier', '{table}', {rights})"), "f")


def reports(service):
    overdrawn = look(service, "overdrawn").json()
    accounts = json.loads(sql("SELECT json_agg(o ORDER BY token_balance) FROM token_balance.overdrawn AS o"))
    is_("overdrawn: all of them", (overdrawn["count"], overdrawn["accounts"]), (len(accounts), accounts))
    is_("overdrawn: what they owe", overdrawn["owed"], -sum(account["token_balance"] for account in accounts))
    is_("overdrawn: bob is among them", "bob" in {account["user_id"] for account in accounts}, True)
    sql("INSERT INTO workflows VALUES ('open-1', 'ann')")
    sql("INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('open-1', 'ann', 321), ('open-2', 'nobody', 17)")
    usage = look(service, "usage").json()
    states = json.loads(sql("SELECT json_agg(s ORDER BY binding, state, reason) FROM token_balance.usage_state() AS s"))
    is_("usage: its states", usage["states"], states)
    waiting = {(row["workflow_id"], row["user_id"], row["tokens"]) for row in usage["unsettled"]}
    is_("usage: what waits", {("open-1", "ann", 321), ("open-2", "nobody", 17)} <= waiting, True)
    is_("usage: how many wait", usage["unsettled_count"], int(sql("SELECT count(*) FROM token_balance.unsettled")))
    sql("DELETE FROM token_usage WHERE workflow_id LIKE 'open-%'")
    is_("queue: empty", look(service, "queue").json(), {"depth": 0, "accounts": 0, "tokens": 0, "oldest": None})
    is_("archived: nothing", look(service, "archived").json(), [])


def accounts(service):
    for account, overdrawn in (("ann", False), ("bob", True), ("gil", False)):
        is_(f"account {account}", look(service, f"account?id={account}").json(),
            {"id": account, "token_balance": balance(account), "is_overdraft": overdrawn})
    for missing in ("zoe", "ann' OR '1'='1", "ANN", "ann ", "%", "<b>"):
        path = "id=" + urllib.parse.quote(missing)
        is_(f"account {missing!r}", look(service, "account?" + path).code(), (404, "unknown_id"))
        is_(f"statement of {missing!r}", look(service, "statement?" + path).code(), (404, "unknown_id"))
    for bad in ("", "id=", "id=a&id=b", "id=%00", "id=" + "x" * 2001):
        is_(f"account by {bad[:20]!r}", look(service, "account?" + bad).code(), (422, "invalid_parameter"))
    for bad in ("x", "-1", "1.5", "", "99999999999999999999", "1;DROP TABLE users"):
        path = "statement?id=ann&before=" + urllib.parse.quote(bad)
        is_(f"statement before {bad!r}", look(service, path).code(), (422, "invalid_parameter"))
    all_of_ann = json.loads(sql("SELECT json_agg(entry_id ORDER BY entry_id DESC) FROM token_balance.ledger WHERE user_id = 'ann'"))
    found, page, pages = [], look(service, "statement?id=ann").json(), 1
    is_("statement: how many there are", page["entry_count"], len(all_of_ann))
    is_("statement: an entry", sorted(page["entries"][0]),
        ["actor", "amount", "created_at", "entry_id", "kind", "new_balance", "note", "reference", "workflow_id"])
    while True:
        found += [entry["entry_id"] for entry in page["entries"]]
        if page["older_before"] is None or pages > 20:
            break
        page, pages = look(service, f"statement?id=ann&before={page['older_before']}").json(), pages + 1
    is_("statement: its pages have each entry once, newest first", found, all_of_ann)
    is_("statement: how many pages", pages, -(-len(all_of_ann) // 20))


def credits(service):
    before, count = balance("gil"), entries()
    body = {"account": "gil", "amount": "2500", "reference": "invoice-gil", "note": "<b>paid</b>"}
    answer = give(service, "credit", body).json()
    is_("credit: the answer", (answer["new_balance"], answer["replayed"]), (before + 2500, False))
    is_("credit: the balance", balance("gil"), before + 2500)
    row = sql("SELECT user_id, kind, amount, new_balance, note, actor FROM token_balance.ledger WHERE reference = 'invoice-gil'")
    is_("credit: the ledger", row, f"gil|credit|2500|{before + 2500}|<b>paid</b>|token_cashier")
    again = give(service, "credit", body).json()
    is_("credit again: replayed", (again["replayed"], again["new_balance"]), (True, before + 2500))
    is_("credit again: one entry", (balance("gil"), entries()), (before + 2500, count + 1))
    is_("credit: another amount", give(service, "credit", body | {"amount": "2501"}).code(), (409, "reference_used"))
    is_("credit: no such account", give(service, "credit", body | {"account": "zoe"}).code(), (404, "unknown_id"))
    too_much = give(service, "credit", body | {"amount": "9999999999999999999", "reference": "much"})
    is_("credit: out of range", too_much.code(), (422, "refused"))
    is_("credit: what was refused changed nothing", (balance("gil"), entries()), (before + 2500, count + 1))
    body = {"account": "gil", "amount": "70", "reference": "at once"}
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = [answer.json() for answer in pool.map(lambda _: give(service, "credit", body), range(6))]
    is_("six at once: one gives", sorted(answer["replayed"] for answer in answers), [False] + [True] * 5)
    is_("six at once: the balance", balance("gil"), before + 2570)


def refunds(service):
    run = "ann-111"
    charged = -int(sql(f"SELECT amount FROM token_balance.ledger WHERE workflow_id = '{run}' AND kind = 'settlement'"))
    before = balance("ann")
    body = {"workflow": run, "amount": "10", "reference": "ticket-a"}
    is_("refund: ten", (give(service, "refund", body).json()["amount"], balance("ann")), (10, before + 10))
    is_("refund again: replayed", (give(service, "refund", body).json()["replayed"], balance("ann")), (True, before + 10))
    is_("refund: another amount", give(service, "refund", body | {"amount": "11"}).code(), (409, "reference_used"))
    much = give(service, "refund", body | {"amount": str(charged), "reference": "ticket-b"})
    is_("refund: more than is left", (much.code(), "more than" in much.text), ((422, "refused"), True))
    rest = give(service, "refund", {"workflow": run, "reference": "ticket-c", "note": "all of it"}).json()
    is_("refund: the rest", (rest["amount"], balance("ann")), (charged - 10, before + charged))
    is_("refund: the ledger", sql("SELECT kind, workflow_id, note, actor FROM token_balance.ledger WHERE reference = 'ticket-c'"),
        f"refund|{run}|all of it|token_cashier")
    is_("refund: no such run", give(service, "refund", body | {"workflow": "none", "reference": "ticket-d"}).code(), (404, "unknown_id"))


def refused_bodies(service):
    good = {"account": "gil", "amount": "5", "reference": "r-1"}
    count = entries()
    for what, body in {
        "no amount": {"account": "gil", "reference": "r-1"}, "no reference": {"account": "gil", "amount": "5"},
        "no account": {"amount": "5", "reference": "r-1"}, "a number": good | {"amount": 5}, "zero": good | {"amount": "0"},
        "less than nothing": good | {"amount": "-5"}, "a fraction": good | {"amount": "5.5"}, "NaN": good | {"amount": "NaN"},
        "SQL": good | {"amount": "5; DROP TABLE users"}, "too many digits": good | {"amount": "1" * 20},
        "an empty reference": good | {"reference": ""}, "a space as reference": good | {"reference": " "},
        "a space at its end": good | {"reference": "r-1 "}, "two lines": good | {"reference": "r\n1"},
        "a long reference": good | {"reference": "x" * 256}, "a long note": good | {"note": "x" * 1001},
        "a zero byte": good | {"note": "a\0b"}, "an unknown field": good | {"binding": "other"}, "a list": [good], "null": None,
    }.items():
        is_(f"credit with {what}", give(service, "credit", body).code(), (422, "invalid_parameter"))
    is_("credit with half a JSON", give(service, "credit", b'{"account": "gil"').code(), (422, "invalid_parameter"))
    is_("credit that is too large", give(service, "credit", good | {"note": "x" * 20000}).code(), (422, "invalid_parameter"))
    # What a form of another site can send without asking first.
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        is_(f"credit as {kind}", give(service, "credit", good, content_type=kind).code(), (422, "invalid_parameter"))
    is_("no site may read or write from elsewhere",
        service.get(OPERATOR + "credit", method="OPTIONS", headers={"Origin": "https://evil.example"}).headers["access-control-allow-origin"], None)
    is_("nothing was given", entries(), count)


def roles_end(service):
    """A connection that gave a moment ago gives an operator nothing."""
    count = entries()
    codes = []
    for n in range(8):
        give(service, "credit", {"account": "gil", "amount": "1", "reference": f"turn-{n}"})
        codes.append(give(service, "credit", {"account": "gil", "amount": "1", "reference": f"not-{n}"}, "operator").code())
    is_("a role ends with its transaction", (codes, entries()), ([(403, "may_not")] * 8, count + 8))


def a_set_up_that_is_wrong(service):
    credit = {"account": "gil", "amount": "5", "reference": "wrong"}
    count = entries()
    sql("REVOKE token_cashier FROM token_desk")
    is_("a role that is not the login's to take", give(service, "credit", credit).code(), (500, "internal"))
    is_("the other one is", look(service, "me").status, 200)
    sql("GRANT token_cashier TO token_desk")
    sql("GRANT EXECUTE ON FUNCTION token_balance.credit(text, numeric, text, text, name) TO token_desk")
    is_("a login that may give by itself", (give(service, "credit", credit).code(), look(service, "me").code()), ((500, "internal"),) * 2)
    sql("REVOKE EXECUTE ON FUNCTION token_balance.credit(text, numeric, text, text, name) FROM token_desk")
    sql("REVOKE SELECT ON token_balance.queue FROM token_operator")
    is_("a grant that is missing", look(service, "queue").code(), (403, "may_not"))
    sql("GRANT SELECT ON token_balance.queue TO token_operator")
    for what, settings in (("a superuser", {"DASHBOARD_OPERATOR_PGUSER": "postgres"}),
            ("a role that is not there", {"DASHBOARD_OPERATOR_PGUSER": "token_desk", "DASHBOARD_CASHIER_ROLE": "no_such"})):
        other = Service(**settings)
        try:
            is_(f"set up with {what}", give(other, "credit", credit).code(), (500, "internal"))
        finally:
            other.stop()
    is_("set up wrong: nothing was given", entries(), count)


def queued(service):
    """A charge that waits is in the queue, and on the account's first page; a credit waits for the account, and not for ever."""
    sql("SELECT token_balance.attach('users', 'token_usage', 'workflows', busy_account => 'queue')")
    sql("INSERT INTO workflows VALUES ('gil-7', 'gil')")
    sql("INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('gil-7', 'gil', 700)")
    psql = [os.environ["PG_BIN"] + "/psql", "-X", "-q", "-A", "-t"]
    holder = subprocess.Popen(psql, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    holder.stdin.write("BEGIN;\nSELECT 'held' FROM users WHERE id = 'gil' FOR UPDATE;\n")
    holder.stdin.flush()
    is_("another session holds the account", holder.stdout.readline().strip(), "held")
    sql("UPDATE workflows SET status = 'completed' WHERE id = 'gil-7'")
    queue = look(service, "queue").json()
    is_("queue: one waits", (queue["depth"], queue["accounts"], queue["tokens"], queue["oldest"] is None), (1, 1, 700, False))
    page = look(service, "statement?id=gil").json()
    is_("queue: on the first page", (page["waiting_count"], page["entries"][0]["entry_id"], page["entries"][0]["workflow_id"]), (1, None, "gil-7"))
    busy = give(service, "credit", {"account": "gil", "amount": "5", "reference": "busy"})
    is_("a credit to an account that others hold", (busy.code(), busy.headers["retry-after"]), ((503, "account_busy"), "5"))
    holder.communicate("COMMIT;\n")
    again = give(service, "credit", {"account": "gil", "amount": "5", "reference": "busy"}).json()
    is_("and again when they let it go: given now", again["replayed"], False)
    sql("SELECT token_balance.settle_pending()")
    is_("queue: empty again", look(service, "queue").json()["depth"], 0)
    sql("SELECT token_balance.refund_workflow('gil-7')")
    sql("SELECT token_balance.attach('users', 'token_usage', 'workflows')")


def main():
    sql("INSERT INTO users (id) VALUES ('gil')")
    off_without_a_login()
    grants()
    with tempfile.TemporaryFile("w+", dir=os.environ["WORK"]) as log:
        service = Service(log, DASHBOARD_OPERATOR_PGUSER="token_desk")
        try:
            for test in (who, reports, accounts, credits, refunds, refused_bodies, roles_end, a_set_up_that_is_wrong, queued):
                test(service)
            give(service, "credit", {"account": "gil", "amount": "5", "reference": "logged"}, staff("cashier", 'mia\ncashier "zoe": credit'))
        finally:
            is_("it stops in good order", service.stop(), 0)
        log.seek(0)
        lines = [line for line in log if '"logged"' in line]
    is_("the log says who gave, on one line", [line.split(": credit to account")[0] for line in lines], [r'cashier "mia\ncashier \"zoe\": credit"'])
    is_("the ledger is whole", sql("SELECT count(*) FROM token_balance.reconcile()"), "0")
    print(f"{len(failures)} failed")
    sys.exit(1 if failures else 0)


main()
