"""What both tests of the dashboard use: the service as a process, its database, and tokens made without its help."""

import base64
import hashlib
import hmac
import json
import os
import subprocess
import time
import urllib.error
import urllib.request

SECRET = os.environ["DASHBOARD_JWT_SECRET"]
API = "/api/v1/token-usage/"
failures = []


def is_(what, got, expected):
    if got == expected:
        print(f"ok: {what}")
    else:
        print(f"FAILED: {what}: got {got!r}, expected {expected!r}")
        failures.append(what)


def eventually(what, get, expected, seconds=10):
    """As is_, but it may take a while to become so."""
    deadline = time.monotonic() + seconds
    while (got := get()) != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    is_(what, got, expected)


def sql(text):
    psql = [os.environ["PG_BIN"] + "/psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", text]
    return subprocess.run(psql, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _cluster(command):
    """A function of scripts/lib.sh, which knows whom the server belongs to."""
    script = 'source "$ROOT/scripts/lib.sh"; use_server "$PG_VERSION"; ' + command
    subprocess.run(["bash", "-c", script], check=True)


def stop_database():
    _cluster('stop_cluster "$DATA"')


def start_database():
    _cluster('start_cluster "$DATA" "$SOCKET" fsync=off')


def _part(value):
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def token(claims, secret=SECRET, alg="HS256", digest=hashlib.sha256):
    """A JWT as RFC 7515 has it. `claims` may be the name of a user."""
    if isinstance(claims, str):
        claims = {"sub": claims, "exp": int(time.time()) + 600}
    signed = _part(json.dumps({"alg": alg, "typ": "JWT"}).encode()) + "." + _part(json.dumps(claims).encode())
    signature = hmac.digest(secret.encode(), signed.encode(), digest) if digest else b""
    return signed + "." + _part(signature)


def run(*arguments, **settings):
    """The program with arguments: its exit status and what it said."""
    done = subprocess.run(
        [os.environ["DASHBOARD_PROGRAM"], *arguments], check=False, env=os.environ | settings, timeout=20,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    return done.returncode, done.stdout.strip()


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.text = response.read().decode()

    def json(self):
        return json.loads(self.text)

    def code(self):
        """Status, and the code of a JSON error."""
        return self.status, self.json()["error"]["code"]


class Service:
    def __init__(self, log=None, **settings):
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PG")
        } | {
            "DASHBOARD_ADDRESS": "127.0.0.1:0",
            "PGHOST": os.environ["SOCKET"],
            "PGUSER": "token_dashboard",
            "PGDATABASE": "postgres",
        } | settings
        self.process = subprocess.Popen(
            [os.environ["DASHBOARD_PROGRAM"]], env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
        self.url = self.process.stdout.readline().split()[-1].rstrip("/")

    def get(self, path, user=None, headers=None, method="GET", body=None):
        headers = dict(headers or {})
        if user:
            headers["Authorization"] = "Bearer " + token(user)
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return Answer(response)
        except urllib.error.HTTPError as error:
            return Answer(error)

    def api(self, path, user):
        return self.get(API + path, user)

    def stop(self):
        """Asks it to end as an init system does; gives its exit status."""
        self.process.terminate()
        try:
            return self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return "it did not stop"
