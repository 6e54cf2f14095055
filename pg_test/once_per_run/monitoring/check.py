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
    if failures:
        sys.exit(1)
    if program is None:
        print("the exporter is not here and cannot be installed: its part is skipped")
        sys.exit(77)


main()
