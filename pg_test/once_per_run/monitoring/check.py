"""examples/monitoring: the exporter's metrics, the alarms, the dashboard and pgwatch's statements, held against the view.

The argument is the folder; PG* lead to an empty cluster, PG_BIN to its psql.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import yaml

FOLDER = Path(sys.argv[1])
HERE = Path(__file__).parent
failures = []


def check(what, holds, found=""):
    print(f"{'ok' if holds else 'FAILED'}: {what}" + ("" if holds else f": {found}"))
    if not holds:
        failures.append(what)


def psql(*arguments, database="shop", user="postgres", text=None):
    command = [Path(os.environ["PG_BIN"]) / "psql", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1"]
    command += ["-d", database, "-U", user, *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{arguments}: {done.stderr}")
    return done.stdout.strip()


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def exported(text):
    """The metrics of a page: name and labels of each, with its value."""
    found = []
    for line in text.splitlines():
        if match := re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line):
            labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2]))
            found.append((match[1], labels, float(match[3])))
    return found


def selectors(expression):
    """What an expression selects: names of metrics, each with its labels."""
    for name, labels in re.findall(r"(sql_\w+)(?:\{([^}]*)\})?", expression):
        yield name, re.findall(r'(\w+)\s*(=|!=)\s*"([^"]*)"', labels)


def is_exported(expression, metrics):
    """What an expression selects that the exporter never says; of labels that are equal to something, their values, too (but
    the scope, which is another one before PostgreSQL 17)."""
    for name, matchers in selectors(expression):
        of_name = [labels for metric, labels, _ in metrics if metric == name]
        for label, operator, value in matchers:
            of_name = [
                labels
                for labels in of_name
                if label in labels and (operator == "!=" or value.startswith("$") or label == "scope" or labels[label] == value)
            ]
        if not of_name:
            return f"{name} {matchers}"
    return None


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def scrape(program, folder):
    """What the exporter says when it has asked everything once."""
    config = (FOLDER / "sql_exporter.yml").read_text()
    host, port = os.environ["PGHOST"], os.environ["PGPORT"]
    theirs = "host=/var/run/postgresql&sslmode=disable"
    assert config.count(theirs) == 2, "the configuration has other connections"
    path = Path(folder) / "sql_exporter.yml"
    path.write_text(config.replace(theirs, f"host={host}&port={port}&sslmode=disable"))
    web = free_port()
    environment = {**os.environ, "LOGLEVEL": "warn"}
    with open(Path(folder) / "exporter.log", "w", encoding="utf-8") as log:
        exporter = subprocess.Popen(
            [program, "-config.file", path, "-web.listen-address", f"127.0.0.1:{web}"], env=environment, stdout=log, stderr=log
        )
    queries = sum(len(job["queries"]) for job in yaml.safe_load(config)["jobs"])
    try:
        for _ in range(200):
            time.sleep(0.1)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{web}/metrics", timeout=5) as answer:
                    text = answer.read().decode()
            except OSError:
                continue
            if text.count("\nsql_exporter_last_scrape_failed{") == queries:
                return exported(text)
    finally:
        exporter.terminate()
        exporter.wait()
    raise RuntimeError((Path(folder) / "exporter.log").read_text())


def check_exporter(metrics, columns):
    config = yaml.safe_load((FOLDER / "sql_exporter.yml").read_text())
    failed = [labels["query"] for name, labels, value in metrics if name == "sql_exporter_last_scrape_failed" and value]
    check("each query of the exporter succeeds", not failed, failed)
    for query in [query for job in config["jobs"] for query in job["queries"]]:
        of_query = {labels["col"] for name, labels, _ in metrics if name == "sql_" + query["name"]}
        check(f"{query['name']} exports its values", of_query == set(query["values"]), of_query)
    values = {labels["col"]: value for name, labels, value in metrics if name == "sql_token_balance"}
    # An age in place of a time; the scope is a label.
    expected = {"queued_seconds" if column == "oldest_queued" else column for column in columns} - {"scope"}
    check("every column of the view is exported", set(values) == expected, set(values) ^ expected)
    view = json.loads(psql("-c", "SELECT to_jsonb(s) FROM token_balance.stat AS s"))
    same = ["settled_by_trigger", "bad_charges", "overdrafts", "charges_queued", "queued_charges", "queued_tokens", "bindings"]
    differing = {name: (values[name], view[name]) for name in same if values[name] != view[name]}
    if view["scope"] == "server":
        check("the values are those of the view", not differing, differing)
        counted = [values[name] for name in ["settled_by_trigger", "bad_charges", "overdrafts", "charges_queued"]]
        check("they have counted the fixture", counted == [4, 1, 1, 1], counted)
    states = {(labels["state"], labels["reason"]) for name, labels, _ in metrics if name == "sql_token_balance_usage"}
    check("usage that waits is exported", {("waiting", "the run is open"), ("waiting", "no such account")} <= states, states)
    below = [value for name, labels, value in metrics if name == "sql_token_balance_overdrawn" and labels["col"] == "accounts"]
    check("accounts below zero are exported", below == [1], below)


def check_expressions(metrics):
    dashboard = json.loads((FOLDER / "grafana.json").read_text())
    targets = [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel["targets"]]
    rules = yaml.safe_load((FOLDER / "prometheus_rules.yml").read_text())
    others = [rule for group in rules["groups"] for rule in group["rules"] if set(rule["annotations"]) != {"summary"}]
    check("each alarm has a summary, and no more", not others, others)
    rules = [(rule["alert"], rule["expr"]) for group in rules["groups"] for rule in group["rules"]]
    check("the dashboard has panels, and there are alarms", len(targets) > 10 and len(rules) > 5, (len(targets), len(rules)))
    for title, expression in targets + rules:
        without = [name for name, matchers in selectors(expression) if not matchers]
        missing = is_exported(expression, metrics)
        check(f"{title}: what it asks for is exported", missing is None and not without, missing or without)
    variables = [item["query"]["query"] for item in dashboard["templating"]["list"] if item["type"] == "query"]
    check("the dashboard's database is exported", all(is_exported(query, metrics) is None for query in variables), variables)


def check_pgwatch(columns):
    pgwatch = yaml.safe_load((FOLDER / "pgwatch.yaml").read_text())
    for name, metric in pgwatch["metrics"].items():
        for version, sql in metric["sqls"].items():
            check(f"pgwatch {name}: the lowest version is one of ours", version == 14, version)
            row = psql("-c", f"SELECT to_jsonb(q) FROM ({sql}) AS q LIMIT 1", user="token_watcher")
            row = json.loads(row) if row else {}
            gauges = [gauge for gauge in metric["gauges"] if gauge != "*" and gauge not in row]
            check(f"pgwatch {name} answers", row.get("epoch_ns", 0) > 0 and not gauges, (row, gauges))
            # Its measurements are numbers, and texts with a prefix.
            texts = [key for key, value in row.items() if isinstance(value, str) and not key.startswith("tag_")]
            check(f"pgwatch {name} gives numbers and tags", not texts, texts)
            if name == "token_balance":
                renamed = {"scope": "tag_scope", "last_sweep": "last_sweep_s", "oldest_queued": "queued_s", "last_archive": "last_archive_s"}
                expected = {renamed.get(column, column) for column in columns} - {"since"} | {"epoch_ns"}
                check("pgwatch has every column of the view but since", set(row) == expected, set(row) ^ expected)
    presets = {metric for preset in pgwatch["presets"].values() for metric in preset["metrics"]}
    check("its preset is of its metrics", presets == set(pgwatch["metrics"]), presets)


# What docs/monitoring.md says of the server's own tools. What is here is done as in the page.
OWN_TOOLS = """
SET client_min_messages = log; SET track_functions = 'all';
LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on;
SET auto_explain.log_analyze = on; SET auto_explain.log_triggers = on; SET auto_explain.log_timing = off;
\\echo usual
UPDATE workflows SET status = 'completed' WHERE id = 'e1';
\\echo by SQL
SET token_balance.direct = off;
UPDATE workflows SET status = 'completed' WHERE id = 'e2';
BEGIN; UPDATE workflows SET status = 'completed' WHERE id = 'e3'; ROLLBACK;
"""


def check_own_tools(page):
    psql("-c", "SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_created_at => 'created_at', busy_account => 'wait')")
    psql("-c", "INSERT INTO workflows SELECT 'e' || n, 'ann', 'running' FROM generate_series(1, 4) AS n")
    psql("-c", "INSERT INTO token_usage SELECT 'e' || n, 'ann', 1 FROM generate_series(1, 4) AS n")
    # A session reads the bindings first.
    begin = "BEGIN; UPDATE workflows SET status = 'completed' WHERE id = 'e4'; ROLLBACK;\n"
    command = [Path(os.environ["PG_BIN"]) / "psql", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-d", "shop", "-U", "postgres"]
    done = subprocess.run(command, input=begin + OWN_TOOLS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    check("auto_explain and track_functions can be had", done.returncode == 0, done.stdout)
    _, _, shown = done.stdout.partition("usual\n")
    usual, _, by_sql = shown.partition("by SQL\n")
    texts = re.findall(r"Query Text: (\S+ \S+ \S+)", usual)
    check("a settlement the usual way has no statements", texts == ["UPDATE workflows SET"], texts)
    check("its trigger is shown", "Trigger for constraint token_balance_completed_update: calls=1" in usual, usual)
    of_page = blocks(page, "text")[1].split("Query Text: ")[1:]
    missing = [text for text in of_page if text.splitlines()[0].split(" …")[0] not in by_sql.replace("'e2'", "'w12'")]
    check("by SQL the statements of the page are shown", len(of_page) == 7 and not missing, missing)
    for _ in range(50):
        # Whose session has ended, of those is known what it has counted.
        functions = psql("-c", "SELECT funcname || ' ' || calls FROM pg_stat_user_functions ORDER BY 1").splitlines()
        if functions:
            break
        time.sleep(0.1)
    expected = ["note_usual_status 3", "record_balance_change 2", "refuse_foreign_write 6", "settle_on_completion 3"]
    check("functions are counted, and what is rolled back, too", functions == expected, functions)
    if psql("-c", "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_stat_statements'") != "1" or (
        "pg_stat_statements" not in psql("-c", "SHOW shared_preload_libraries")
    ):
        print("pg_stat_statements is not loaded: what it shows is not looked at")
        return
    psql("-c", "SELECT settle_workflow('w4')")
    psql("-c", "SELECT token_balance.settle_pending()")
    psql("-c", "CREATE EXTENSION pg_stat_statements")
    statements = psql("-c", "SELECT toplevel || ' ' || regexp_replace(query, '\\s+', ' ', 'g') FROM pg_stat_statements").splitlines()
    rows = [line.split("|", 2) for line in blocks(page, "text")[2].splitlines()[2:]]
    wanted = [("true " if row[1].strip() == "t" else "false ") + row[2].split("…")[0].strip() for row in rows]
    missing = [row for row in wanted if not any(statement.startswith(row) for statement in statements)]
    check("pg_stat_statements has what the page shows", len(wanted) == 8 and not missing, missing)


def main():
    psql("-c", "CREATE DATABASE shop", database="postgres")
    psql("-f", HERE / "fixture.sql")
    grants = blocks((FOLDER / "README.md").read_text(), "sql")
    check("the README has its grants", len(grants) == 1, len(grants))
    psql(text=grants[0])
    columns = psql("-c", "SELECT attname FROM pg_attribute WHERE attrelid = 'token_balance.stat'::regclass AND attnum > 0").split()
    check_pgwatch(columns)
    program = shutil.which("prometheus-sql-exporter")
    if program is not None:
        with tempfile.TemporaryDirectory() as folder:
            metrics = scrape(program, folder)
        check_exporter(metrics, columns)
        check_expressions(metrics)
    check_own_tools((FOLDER.parent.parent / "docs" / "monitoring.md").read_text())
    if failures:
        sys.exit(1)
    if program is None:
        print("the exporter is not here and cannot be installed: its part is skipped")
        sys.exit(77)


main()
