"""The service by HTTP: figures, refusals, events, a database that is stopped and comes back."""

import hashlib
import http.client
import itertools
import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
import urllib.parse

from service import API, SECRET, Service, eventually, failures, is_, run, sql, start_database, stop_database, token

USAGE = "usage: token_balance_dashboard [token|operator|cashier NAME [HOURS] | --help | --version]"


def balances(service):
    for user, overdrawn in (("ann", False), ("bob", True), ("dan", False)):
        answer = service.api("balance", user)
        balance = int(sql(f"SELECT token_balance FROM users WHERE id = '{user}'"))
        is_(f"balance of {user}", (answer.status, answer.json()), (200, {"token_balance": balance, "is_overdraft": overdrawn}))
        is_(f"{user} is where the fixture wants him", balance < 0, overdrawn)
    is_("a balance is JSON and is not kept", (answer.headers["content-type"], answer.headers["cache-control"]), ("application/json", "no-store"))


def summaries(service):
    for days in (7, 30, 366):
        answer = service.api(f"summary?days={days}", "ann").json()
        expected = json.loads(sql(f"""
            SELECT json_build_object('total_tokens', sum(total_tokens), 'record_count', count(*),
                'total_prompt_tokens', sum(prompt_tokens), 'total_completion_tokens', sum(completion_tokens))
            FROM token_usage WHERE user_id = 'ann' AND created_at >= now() - interval '{days} days'"""))
        is_(f"summary of {days} days: totals", answer["summary"], expected)
        for by in ("model", "stage"):
            groups = json.loads(sql(f"""SELECT json_object_agg({by}, tokens) FROM (SELECT {by}, sum(total_tokens) AS tokens
                FROM token_usage WHERE user_id = 'ann' AND created_at >= now() - interval '{days} days' GROUP BY 1) AS g"""))
            is_(f"summary of {days} days: by {by}", {group[by]: group["total_tokens"] for group in answer[f"by_{by}"]}, groups)
    bare = service.api("summary", "dan").json()
    is_("summary of one who did nothing: its shape", bare, {"summary": dict.fromkeys(answer["summary"], 0), "by_model": [], "by_stage": [],
        "recent_records": [], "token_balance": 1000000, "is_overdraft": False})
    is_("summary: a group", sorted(answer["by_stage"][0]), ["completion_tokens", "prompt_tokens", "record_count", "stage", "total_tokens"])
    is_("summary: a record", sorted(answer["recent_records"][0]),
        ["completion_tokens", "created_at", "id", "model", "prompt_tokens", "stage", "total_tokens", "workflow_id"])
    is_("summary: balance", answer["token_balance"], int(sql("SELECT token_balance FROM users WHERE id = 'ann'")))
    is_("summary: 30 days are the default", service.api("summary", "ann").json(), service.api("summary?days=30", "ann").json())
    is_("summary of one who did nothing", service.api("summary", "dan").json()["summary"]["record_count"], 0)


def statements(service):
    zone = "Asia/Shanghai"
    answer = service.api(f"statement?days=30&tz={zone}", "ann").json()
    since = f"(date_trunc('day', now() AT TIME ZONE '{zone}') - interval '29 days') AT TIME ZONE '{zone}'"
    entries = json.loads(sql(f"""SELECT json_agg(entry_id ORDER BY entry_id DESC) FROM token_balance.ledger
        WHERE user_id = 'ann' AND created_at >= {since}"""))
    is_("statement: the newest 50 entries, newest first", [entry["entry_id"] for entry in answer["entries"]], entries[:50])
    is_("statement: how many there are", answer["entry_count"], len(entries))
    is_("statement: an entry has no role of the database in it", sorted(answer["entries"][0]),
        ["amount", "created_at", "entry_id", "kind", "new_balance", "note", "reference", "workflow_id"])
    days = answer["days"]
    today = sql(f"SELECT (now() AT TIME ZONE '{zone}')::date")
    is_("statement: thirty days, the last one today", (len(days), days[-1]["day"]), (30, today))
    charged = sql(f"SELECT -sum(amount) FROM token_balance.ledger WHERE user_id = 'ann' AND kind = 'settlement' AND created_at >= {since}")
    is_("statement: charged", sum(day["charged"] for day in days), int(charged))
    # Each day of the ledger by another way: what the extension says the balance was when the day ended.
    ends = json.loads(sql(f"""SELECT json_object_agg(day::date, token_balance.balance_at('ann', (day + interval '1 day') AT TIME ZONE '{zone}'
        - interval '1 microsecond')) FROM generate_series(timestamp '{days[0]['day']}', '{today}', interval '1 day') AS day"""))
    is_("statement: the balance at the end of each day", {day["day"]: day["balance"] for day in days}, ends)
    moves = all(a["balance"] - b["charged"] + b["added"] == b["balance"] for a, b in itertools.pairwise(days))
    is_("statement: each day goes on where the one before it ended", moves, True)
    is_("statement: no entries, the balance as it is", service.api("statement?days=2", "dan").json()["days"][0] | {"day": None},
        {"day": None, "charged": 0, "added": 0, "balance": 1000000})


def refused_parameters(service):
    for bad in ("0", "-1", "x", "", "1.5", "1e1", "367", "99999999999999999999", "2147483648", "+7", "%2B7", "0x1F", "7;DROP TABLE users", "NULL", "7&days=8"):
        for path in ("summary", "statement"):
            answer = service.api(f"{path}?days={urllib.parse.quote(bad, safe='%&=')}", "ann")
            is_(f"{path}?days={bad}", answer.code(), (422, "invalid_parameter"))
    for bad in ("Nowhere/Land", "UTC'; DROP TABLE users; --", "x" * 65, "", "\0"):
        answer = service.api("statement?tz=" + urllib.parse.quote(bad), "ann")
        is_(f"tz={bad[:20]!r}", answer.code(), (422, "unknown_time_zone"))
    is_("a path that is not there", service.get("/api/v1/nothing").code(), (404, "not_found"))
    is_("a method that writes", service.get(API + "balance", "ann", method="POST").code(), (405, "method_not_allowed"))


def refused_tokens(service):
    now = int(time.time())
    good = {"sub": "ann", "exp": now + 600}
    bearer = {
        "another secret": token(good, secret="another secret, as long as it must be"),
        "expired": token(good | {"exp": now - 2}),
        "no expiry": token({"sub": "ann"}),
        "an expiry that is text": token(good | {"exp": "4000000000"}),
        "not valid yet": token(good | {"nbf": now + 600}),
        "for another audience": token(good | {"aud": "billing"}),
        "no user": token({"exp": now + 600}),
        "an empty user": token(good | {"sub": ""}),
        "a user that is a number": token(good | {"sub": 1}),
        "a zero byte in the user": token(good | {"sub": "a\0b"}),
        "no algorithm, no signature": token(good, alg="none", digest=None),
        "no algorithm, signed": token(good, alg="none"),
        "HS512, signed with the secret": token(good, alg="HS512", digest=hashlib.sha512),
        "HS384, signed with the secret": token(good, alg="HS384", digest=hashlib.sha384),
        "RS256 by name": token(good, alg="RS256"),
        "no signature": token(good).rsplit(".", 1)[0] + ".",
        "two parts": token(good).rsplit(".", 1)[0],
        "another user under ann's signature": ".".join([*token("bob").split(".")[:2], token("ann").split(".")[2]]),
        "the secret itself": SECRET,
    }
    for path in ("balance", "summary", "statement", "events"):
        for what, value in bearer.items():
            answer = service.get(API + path, headers={"Authorization": "Bearer " + value})
            is_(f"{path}, {what}", (answer.code(), answer.headers["www-authenticate"]),
                ((401, "invalid_token"), 'Bearer realm="token-usage", error="invalid_token"'))
        for what, headers in {"no header": {}, "no token": {"Authorization": "Bearer"}, "basic": {"Authorization": "Basic YW5uOmFubg=="}, "no scheme": {"Authorization": token(good)}}.items():
            answer = service.get(API + path, headers=headers)
            is_(f"{path}, {what}", (answer.code(), answer.headers["www-authenticate"]), ((401, "no_token"), 'Bearer realm="token-usage"'))
    is_("a token in the address is none", service.get(f"{API}balance?token={token(good)}&access_token={token(good)}").status, 401)
    is_("the scheme in another case", service.get(API + "balance", headers={"Authorization": "bearer " + token(good)}).status, 200)


def nobody_elses(service):
    for path in ("balance", "summary", "statement"):
        plain = service.api(path, "ann").text
        asked = service.api(f"{path}?user_id=bob&sub=bob&user=bob", "ann")
        is_(f"{path} of another user, asked by name", (asked.status, asked.text), (200, plain))
        is_(f"{path}: nothing of bob's in ann's", "bob" in plain, False)
        is_(f"{path}: something of ann's in ann's", "ann-" in plain or path == "balance", True)
    for name in ("zoe", "ann' OR '1'='1", "ANN", "ann ", "%"):
        is_(f"a user {name!r}", service.api("balance", name).code(), (404, "no_account"))
    is_("the service may not write", sql("SELECT has_table_privilege('token_dashboard', 'users', 'UPDATE, INSERT, DELETE, SELECT')"), "f")
    is_("nor credit", sql("SELECT has_function_privilege('token_dashboard', 'token_balance.credit(text, numeric, text, text, name)', 'EXECUTE')"), "f")


def a_set_up_that_is_wrong(service):
    sql("REVOKE EXECUTE ON FUNCTION token_balance.summary(text, integer, name) FROM token_reader")
    answer = service.api("summary", "ann")
    is_("a missing grant", answer.code(), (500, "internal"))
    is_("and nothing of the database in the answer", "permission" in answer.text or "summary" in answer.text, False)
    sql("GRANT EXECUTE ON FUNCTION token_balance.summary(text, integer, name) TO token_reader")
    is_("the grant is back", service.api("summary", "ann").status, 200)


def command_line(service):
    with open(os.path.join(os.environ["ROOT"], "Cargo.toml"), encoding="utf-8") as manifest:
        version = re.search(r'^version = "(.+)"', manifest.read(), re.M)[1]
    # They want no secret.
    for option, says in (
        ("--version", f"token_balance_dashboard {version}\n"), ("-V", f"token_balance_dashboard {version}\n"),
        ("--help", USAGE + "\n"), ("-h", USAGE + "\n"),
    ):
        done = subprocess.run([os.environ["DASHBOARD_PROGRAM"], option], check=False, capture_output=True, text=True,
            env=os.environ | {"DASHBOARD_JWT_SECRET": ""}, timeout=20)
        is_(option, (done.returncode, done.stdout[:len(says)], done.stderr), (0, says, ""))
    made = run("token", "ann", "1")
    is_("a token of its own making", service.get(API + "balance", headers={"Authorization": "Bearer " + made[1]}).status, 200)
    for what, arguments, settings, message in (
        ("hours that are none", ["token", "ann", "x"], {}, "x is not a number of hours"),
        ("an unknown command", ["serve"], {}, USAGE),
        ("no secret", [], {"DASHBOARD_JWT_SECRET": ""}, "DASHBOARD_JWT_SECRET is not set"),
        ("a short secret", [], {"DASHBOARD_JWT_SECRET": "x" * 31}, "DASHBOARD_JWT_SECRET is shorter than 32 bytes"),
        ("an address that is none", [], {"DASHBOARD_ADDRESS": "here"}, "DASHBOARD_ADDRESS=here is not ADDRESS:PORT"),
        ("TLS that it does not speak", [], {"PGSSLMODE": "require"},
            "PGSSLMODE=require: this service does not speak TLS to the database; connect by a unix socket, a private network or a tunnel"),
    ):
        is_(f"start with {what}", run(*arguments, **settings), (1, "error: " + message))
    address = service.url.removeprefix("http://")
    status, message = run(DASHBOARD_ADDRESS=address)
    is_("start on an address that is taken", (status, message.startswith(f"error: {address} cannot be served: ")), (1, True))


def other_claims(_):
    """The user by another claim, and by a query: `sub` may be a username."""
    sql("""CREATE TABLE login (username text, uid bigint, user_id text);
        INSERT INTO login VALUES ('Ann Smith', 7, 'ann'), ('ann', 8, 'eve'), ('twice', 9, 'ann'), ('twice', 10, 'bob'), ('nobody', 11, NULL), ('gone', 12, 'zoe');
        GRANT SELECT ON login TO token_dashboard""")
    soon = int(time.time()) + 600
    balance = {user: int(sql(f"SELECT token_balance FROM users WHERE id = '{user}'")) for user in ("ann", "eve")}

    def asked(service, claims):
        answer = service.api("balance", claims | {"exp": soon})
        return answer.code() if answer.status != 200 else answer.json()["token_balance"]

    service = Service(DASHBOARD_USER_QUERY="SELECT user_id FROM login WHERE username = $1;")
    try:
        is_("a username is looked up", asked(service, {"sub": "Ann Smith"}), balance["ann"])
        is_("and is not taken for an id", asked(service, {"sub": "ann"}), balance["eve"])
        is_("nor is an id for a username", asked(service, {"sub": "eve"}), (404, "no_account"))
        for what, name in (("without a row", "Smith"), ("whose id is null", "nobody"), ("whose account is gone", "gone"),
                ("that is SQL", "' OR username <> '"), ("of other letters", "ann smith")):
            is_(f"a username {what}", asked(service, {"sub": name}), (404, "no_account"))
        is_("a username that two have", asked(service, {"sub": "twice"}), (500, "internal"))
        is_("no username", asked(service, {"username": "Ann Smith"}), (401, "invalid_token"))
        is_("a username that is a number", asked(service, {"sub": 7}), (401, "invalid_token"))
        eventually("it listens", lambda: EventStream(service, {"sub": "ann", "exp": soon}).response.status, 200)
        stream, ann = EventStream(service, {"sub": "ann", "exp": soon}), EventStream(service, {"sub": "Ann Smith", "exp": soon})
        sql("UPDATE users SET token_balance = -1 WHERE id = 'eve'")
        is_("events are those of the account that was found", (stream.event(), ann.event(0.5)), (("overdrawn", {"event": "overdrawn"}), None))
        sql(f"UPDATE users SET token_balance = {balance['eve']} WHERE id = 'eve'")
    finally:
        service.stop()
    service = Service(DASHBOARD_USER_CLAIM="uid", DASHBOARD_USER_QUERY="SELECT user_id FROM login WHERE uid = $1::bigint -- a number")
    try:
        is_("another claim, a number", asked(service, {"uid": 7, "sub": "bob"}), balance["ann"])
        is_("the same as text", asked(service, {"uid": "7"}), balance["ann"])
        for wrong in (7.5, True, None, [7], {"id": 7}, ""):
            is_(f"the claim is {wrong!r}", asked(service, {"uid": wrong, "sub": "ann"}), (401, "invalid_token"))
        is_("the claim is not there", asked(service, {"sub": "ann"}), (401, "invalid_token"))
        is_("a claim that the query cannot read", asked(service, {"uid": "seven"}), (404, "no_account"))
        made = run("token", "7", "1", DASHBOARD_USER_CLAIM="uid")[1]
        is_("a token of its own making has the claim", service.get(API + "balance", headers={"Authorization": "Bearer " + made}).json()["token_balance"], balance["ann"])
    finally:
        service.stop()
    service = Service(DASHBOARD_USER_CLAIM="user_id")
    try:
        is_("another claim without a query", asked(service, {"user_id": "ann", "sub": "bob"}), balance["ann"])
        is_("a number that is no account's", asked(service, {"user_id": 7}), (404, "no_account"))
    finally:
        service.stop()
    service = Service(DASHBOARD_USER_QUERY="SELECT user_id FROM logins WHERE username = $1")
    try:
        is_("a query that is wrong", asked(service, {"sub": "ann"}), (500, "internal"))
    finally:
        service.stop()
    sql("DROP TABLE login")


def pages(service):
    for path, kind in (("/", "text/html; charset=utf-8"), ("/dashboard.css", "text/css"), ("/dashboard.js", "text/javascript")):
        answer = service.get(path)
        is_(f"{path}", (answer.status, answer.headers["content-type"]), (200, kind))
        policy = answer.headers["content-security-policy"]
        is_(f"{path}: a strict policy", ("default-src 'none'" in policy, "frame-ancestors 'none'" in policy, "unsafe" in policy), (True, True, False))
        is_(f"{path}: other headers", [answer.headers[name] for name in ("x-content-type-options", "referrer-policy")], ["nosniff", "no-referrer"])
        # The namespaces of SVG are names and are not fetched.
        is_(f"{path}: nothing of a third party", [part for part in answer.text.split("http")[1:] if not part.startswith("://www.w3.org/2000/svg")], [])
    is_("health", (service.get("/healthz").status, service.get("/healthz").json()), (200, {"status": "ok"}))


class EventStream:
    """The events of one user, read as they come."""

    def __init__(self, service, claims):
        host = urllib.parse.urlsplit(service.url).netloc
        self.connection = http.client.HTTPConnection(host, timeout=60)
        self.connection.request("GET", API + "events", headers={"Authorization": "Bearer " + token(claims)})
        self.response = self.connection.getresponse()
        self.lines = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        try:
            for line in self.response:
                self.lines.put(line.decode().rstrip("\n"))
        except (http.client.HTTPException, OSError):
            pass
        self.lines.put(None)

    def event(self, seconds=5):
        """The next event's name and data, "ended", or None when there is none in time."""
        name = None
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                line = self.lines.get(timeout=left)
            except queue.Empty:
                return None
            if line is None:
                return "ended"
            if line.startswith("event:"):
                name = line[6:].strip()
            elif line.startswith("data:"):
                return name, json.loads(line[5:])
        return None


def events(service):
    eventually("the service listens", lambda: sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"), "1")
    eve, ann = EventStream(service, "eve"), EventStream(service, "ann")
    is_("events are a stream", (eve.response.status, eve.response.headers["content-type"]), (200, "text/event-stream"))
    sql("UPDATE users SET token_balance = token_balance - 100 WHERE id = 'eve'")
    is_("no event for a change that does not cross zero", eve.event(1), None)
    # A run that completes: the extension's own way across zero.
    sql("INSERT INTO workflows VALUES ('eve-3', 'eve')")
    sql("INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('eve-3', 'eve', 50000)")
    sql("UPDATE workflows SET status = 'completed' WHERE id = 'eve-3'")
    is_("an event when a run takes the balance below zero", eve.event(), ("overdrawn", {"event": "overdrawn"}))
    is_("and the balance says so", service.api("balance", "eve").json()["is_overdraft"], True)
    sql("SELECT token_balance.credit('eve', 100000, 'top-up')")
    is_("an event when a top-up takes it back", eve.event(), ("recovered", {"event": "recovered"}))
    is_("nothing of it for another user", ann.event(0.5), None)
    sql("NOTIFY token_balance, 'not ours'")
    sql("""NOTIFY token_balance, '{"event": "overdrawn", "user_id": null}'""")
    is_("an event that names nobody: reload", (eve.event(), ann.event()), (("reload", {"event": "reload"}),) * 2)
    short = EventStream(service, {"sub": "ann", "exp": int(time.time()) + 2})
    is_("the stream ends with the token", short.event(6), "ended")
    is_("and the others go on", ann.event(0.5), None)



def queued(service):
    """A charge that waits because another transaction holds the account counts already."""
    sql("SELECT token_balance.attach('users', 'token_usage', 'workflows', busy_account => 'queue')")
    sql("INSERT INTO workflows VALUES ('dan-1', 'dan')")
    sql("INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('dan-1', 'dan', 700)")
    holder = subprocess.Popen([os.environ["PG_BIN"] + "/psql", "-X", "-q", "-A", "-t"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    holder.stdin.write("BEGIN;\nSELECT 'held' FROM users WHERE id = 'dan' FOR UPDATE;\n")
    holder.stdin.flush()
    is_("another session holds the account", holder.stdout.readline().strip(), "held")
    sql("UPDATE workflows SET status = 'completed' WHERE id = 'dan-1'")
    is_("the column waits", sql("SELECT token_balance FROM users WHERE id = 'dan'"), "1000000")
    is_("queued: the balance", service.api("balance", "dan").json()["token_balance"], 999300)
    statement = service.api("statement", "dan").json()
    is_("queued: the newest entry", [statement["entries"][0][name] for name in ("entry_id", "amount", "new_balance", "workflow_id")], [None, -700, 999300, "dan-1"])
    is_("queued: today", (statement["days"][-1]["charged"], statement["days"][-1]["balance"]), (700, 999300))
    holder.communicate("COMMIT;\n")
    sql("SELECT token_balance.settle_pending()")
    is_("applied: the newest entry", service.api("statement", "dan").json()["entries"][0]["entry_id"] is None, False)
    sql("SELECT token_balance.refund_workflow('dan-1')")
    sql("SELECT token_balance.attach('users', 'token_usage', 'workflows')")


def outage(service):
    """Stops the database and starts it again; the service stays."""
    stream = EventStream(service, "ann")
    before = service.api("balance", "ann").text
    stop_database()
    is_("a stopped database ends the streams", stream.event(), "ended")
    for path in ("balance", "summary", "statement", "events"):
        answer = service.api(path, "ann")
        is_(f"{path} without a database", (answer.code(), answer.headers["retry-after"]), ((503, "database_unavailable"), "5"))
    is_("health without a database", service.get("/healthz").code(), (503, "database_unavailable"))
    is_("a wrong token without a database", service.get(API + "balance", headers={"Authorization": "Bearer x.y.z"}).status, 401)
    is_("the page without a database", service.get("/").status, 200)
    start_database()
    eventually("health when the database is back", lambda: service.get("/healthz").status, 200)
    is_("the balance when the database is back", service.api("balance", "ann").text, before)
    eventually("events when the database is back", lambda: EventStream(service, "ann").response.status, 200)
    stream = EventStream(service, "eve")
    sql("UPDATE users SET token_balance = -1 WHERE id = 'eve'")
    is_("an event after the database was back", stream.event(), ("overdrawn", {"event": "overdrawn"}))
    # Connections that were cut under the service's hands: at most the first answer is a 503.
    sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'token_dashboard'")
    eventually("after its connections were cut", lambda: service.api("balance", "ann").status, 200)


def main():
    service = Service()
    try:
        for test in (balances, summaries, statements, refused_parameters, refused_tokens, nobody_elses, a_set_up_that_is_wrong, command_line, other_claims, pages):
            test(service)
        events(service)
        queued(service)
        outage(service)
    finally:
        open_stream = EventStream(service, "ann")
        is_("it stops in good order, with a stream open", (service.stop(), open_stream.event()), (0, "ended"))
    is_("nobody else's balance changed, the ledger is whole", sql("SELECT count(*) FROM token_balance.reconcile()"), "0")
    print(f"{len(failures)} failed")
    sys.exit(1 if failures else 0)


main()
