#!/usr/bin/env python3
"""Makes a table and a chart of the figures that run.sh wrote.

    report.py FIGURES DIRECTORY < machine.md

DIRECTORY gets bench.md and bench.svg; the table is printed too. What comes in on standard input (the machine and the
server's settings) is put before it. A row that was not run is left out.
"""

import statistics
import sys
from collections import defaultdict
from pathlib import Path
from xml.sax.saxutils import escape

NAMES = {
    "floor": "status update only",
    "application": "application side",
    "twin": "PL/pgSQL twin",
    "extension": "token_balance",
    "queue": "token_balance, queue",
    "loop": "settle_workflow in a loop",
    "backlog": "settle_backlog",
    "without": "without the extension",
    "again": "without it, again",
    "with": "with token_balance",
    "late": "with late_usage => 'settle'",
    "queries": "four queries",
    "litellm": "LiteLLM's updates",
    "pgledger": "pgledger",
}

# What the others do not do.
LACKS = """\
- *Status update only* charges nothing: it is what is left of a completion without any charging.
- *Application side*: update, sum, read and write, each a transaction, as an ORM does it. A crash between them charges
  nothing, a retry charges again, two runs of one account that end together lose a deduction, and there is no ledger.
- *PL/pgSQL twin*: a careful trigger by hand, with the same settlement and ledger rows. Right in READ COMMITTED only; a
  balance changed by hand leaves no entry; who may write can change the ledger; a bad charge refuses the completion; no
  refunds, sweep or checks.
- *LiteLLM's updates*: a log row, and the spend of user, key, team and organization, for each completion in one
  transaction. LiteLLM itself adds them up for some seconds first, in memory or in Redis, and what is in the memory of a
  process that dies is lost; it also keeps sums by day, which are left out here. Money in binary fractions; no balance
  before and after.
- *pgledger*: a double-entry ledger in PL/pgSQL: a transfer from what a user has to what it has used, with two entries.
  It knows no usage and no runs: the application sums, and sees to it that each run is charged once."""

# row, case, what is measured, unit, its contenders, and the ratios: of which to which, what must be reached
# ("<=" at most, ">=" at least; None: for information). docs/performance.md has the targets, too.
TAX = (["without", "again", "with", "late"],
       [("again", "without", None), ("with", "without", ("<=", 1.02)), ("late", "without", None)])
PEERS = ["litellm", "pgledger"]
LATENCIES = (["floor", "twin", "extension", "queue", *PEERS],
             [("queue", "twin", None), *(("extension", other, None) for other in ("twin", *PEERS))])
ROWS = [
    ("B1", "settlement", "CPU per settlement, {} in one warm backend", "µs", ["twin", "extension"],
     [("extension", "twin", ("<=", 0.40))]),
    ("B2", "completions", "completions, 4 clients, spread accounts", "1/s",
     ["floor", "application", "twin", "extension"],
     [("application", "floor", None), ("twin", "floor", None), ("extension", "application", None),
      ("extension", "floor", (">=", 0.72))]),
    ("B3", "bulk", "one UPDATE completing {} workflows", "ms", ["floor", "twin", "extension"],
     [("extension", "twin", ("<=", 0.15))]),
    ("B3", "cpu", "CPU per workflow of one UPDATE completing {}", "µs", ["floor", "twin", "extension"],
     [("extension", "twin", None)]),
    ("B4", "backlog", "settling a backlog of {} workflows", "ms", ["loop", "backlog"], [("backlog", "loop", None)]),
    ("B4", "cpu", "CPU per workflow of a backlog of {}", "µs", ["loop", "backlog"], [("backlog", "loop", None)]),
    ("B5", "completions", "completions, 16 clients, one account", "1/s",
     ["floor", "application", "twin", "extension", "queue"],
     [("extension", "twin", None), ("extension", "floor", None),
      ("queue", "twin", None), ("queue", "floor", (">=", 0.6))]),
    ("B6", None, "settlement, usage rows in the table", "µs", None, None),
    ("B7", "insert", "INSERT of a usage row", "µs CPU", *TAX),
    ("B7", "insert of many", "INSERT of many usage rows, each", "µs CPU", *TAX),
    ("B7", "update", "UPDATE that completes nothing", "µs CPU", *TAX),
    ("B7", "update of many", "UPDATE of many that completes nothing, each", "µs CPU", *TAX),
    ("B8", "dashboard", "summary of an account with {} usage rows", "ms", ["queries", "extension"],
     [("extension", "queries", ("<=", 0.30))]),
    ("B9", "completions", "completions, 4 clients, spread accounts, peers", "1/s",
     ["floor", "twin", "extension", *PEERS], [("extension", other, None) for other in ("floor", "twin", *PEERS)]),
    *(("B10", f"Zipf {exponent} {part}", f"latency of a completion at {{}} a second, Zipf {exponent}, {part}", "ms",
       *LATENCIES) for exponent in (0, 1, 2) for part in ("p50", "p99", "p99.9")),
    ("B11", "completions", "completions, 4 clients, one synchronous standby", "1/s", ["floor", "twin", "extension"],
     [("twin", "floor", None), ("extension", "twin", None), ("extension", "floor", None)]),
]
GROWTH_LIMIT = ("<=", 1.25)


def read(path):
    """{(row, case): {contender: [figure, ...]}}, in the order in which they were measured."""
    figures = defaultdict(lambda: defaultdict(list))
    for line in Path(path).read_text().splitlines():
        row, case, contender, *values = line.split("\t")
        figures[row, case][contender].append([float(value) for value in values[0].split()])
    return figures


def number(value):
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def spread(values):
    return f"{number(min(values))} – {number(max(values))}"


def verdict(ratio, target):
    """What must be reached and whether it is; the ratio counts as it stands, not rounded."""
    relation, limit = target
    reached = ratio <= limit if relation == "<=" else ratio >= limit
    return ("≤ " if relation == "<=" else "≥ ") + f"{limit:g}", "yes" if reached else "**no**"


class Measured:
    """One row of the table: its contenders' figures and the ratios between them."""

    def __init__(self, row, title, unit, by_contender, ratios):
        self.row, self.title, self.unit = row, title, unit
        self.by_contender = by_contender  # {name: figures}
        self.ratios = ratios  # {name: [(other's name, ratio, its spread, target)]}

    def figure(self, name):
        return f"{number(statistics.median(self.by_contender[name]))} {self.unit}"

    def lines(self):
        """A line a contender; where it is compared with several, a line for each of them."""
        for name, values in self.by_contender.items():
            ratios = self.ratios.get(name) or [("", None, "", None)]
            for i, (other, ratio, ratios_spread, target) in enumerate(ratios):
                figures = (self.figure(name), spread(values), str(len(values))) if i == 0 else ("", "", "")
                compared = f"{ratio:.3f} of {other}" if ratio is not None else ""
                yield [self.row, self.title, name, *figures, compared, ratios_spread]

    def targets(self):
        """A line for each ratio that has a target."""
        for name, ratios in self.ratios.items():
            for other, ratio, ratios_spread, target in ratios:
                if target is not None:
                    yield [self.row, self.title, f"{name}: {self.figure(name)}", f"{other}: {self.figure(other)}",
                           f"{ratio:.2f}", ratios_spread, *verdict(ratio, target)]


def ratio_of(values, others):
    """Of the medians; the spread is of the pairs that were measured one after the other."""
    pairs = [a / b for a, b in zip(values, others)]
    return statistics.median(values) / statistics.median(others), f"{min(pairs):.2f} – {max(pairs):.2f}"


def paired_ratio(values, others):
    """The median of the pairs: what disturbs the machine for a while disturbs both of a pair. Its spread is that of
    the middle half."""
    pairs = sorted(a / b for a, b in zip(values, others))
    middle = statistics.quantiles(pairs, n=4) if len(pairs) > 1 else pairs * 3
    return statistics.median(pairs), f"{middle[0]:.3f} – {middle[2]:.3f}"


def measured(figures):
    for row, case, title, unit, contenders, ratios in ROWS:
        if row == "B6":
            yield from growth(figures, title, unit)
            continue
        found = figures.get((row, case))
        if not found:
            continue
        by_contender = {NAMES[c]: [v[0] for v in found[c]] for c in contenders if c in found}
        of = paired_ratio if row == "B7" else ratio_of
        by_name = defaultdict(list)
        for one, other, target in ratios:
            if one in found and other in found:
                ratio, ratio_spread = of(by_contender[NAMES[one]], by_contender[NAMES[other]])
                by_name[NAMES[one]].append((NAMES[other], ratio, ratio_spread, target))
        for size in figures[row, "size"]["-"]:
            title = title.format(f"{size[0]:,.0f}")
        yield Measured(row, title, unit, by_contender, by_name)


def growth(figures, title, unit):
    sizes = sorted(int(case) for row, case in figures if row == "B6")
    if not sizes:
        return
    by_size = {f"{size:,} rows": [v[0] for v in figures["B6", str(size)]["extension"]] for size in sizes}
    medians = {name: statistics.median(values) for name, values in by_size.items()}
    slowest, fastest = max(medians, key=medians.get), min(medians, key=medians.get)
    ratio, ratio_spread = ratio_of(by_size[slowest], by_size[fastest])
    yield Measured("B6", title, unit, by_size, {slowest: [(fastest, ratio, ratio_spread, GROWTH_LIMIT)]})


def notes(figures):
    """What else was seen, a sentence each."""
    for row in ("B2", "B5"):
        lost = [v[0] for v in figures[row, "lost"]["application"]]
        if lost:
            yield f"{row}: the application side failed to deduct {spread(lost)} % of the tokens."
    queued = [v[0] for v in figures["B5", "queued"]["queue"]]
    if queued:
        yield f"B5: {spread(queued)} charges were left in the queue at the end; all were applied by `settle_pending()`."
    bare = [v[0] for v in figures["B3", "cpu"]["floor"]]
    for contender in ("twin", "extension"):
        cpu = [v[0] for v in figures["B3", "cpu"][contender]]
        if bare and cpu:
            beyond = statistics.median(cpu) - statistics.median(bare)
            yield f"B3: beyond the bare update, {NAMES[contender]} takes {beyond:.2f} µs of CPU per workflow."
    memory = figures["B4", "memory"]["backlog"]
    if memory:
        first, second = (max(v[i] for v in memory) for i in (0, 1))
        yield (f"B4: the backend's own memory while `settle_backlog` ran: at most {first:,.0f} kB in the first half, "
               f"{second:,.0f} kB in the second.")
    for row, case in list(figures):
        if case.endswith("reached"):
            yield from behind(case.removesuffix(" reached"), figures["B10", "size"]["-"][0][0], figures[row, case])


def behind(law, rate, by_contender):
    """Who did not keep up with the rate that was offered: its latencies are those of a queue that grows."""
    for contender, values in by_contender.items():
        reached = statistics.median(v[0] for v in values)
        if reached < 0.95 * rate:
            yield f"B10, {law}: {NAMES[contender]} did not keep up: {reached:,.0f} completions a second of {rate:,.0f}."


def table(head, lines):
    lines = list(lines)
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    out = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in [head, *lines]]
    return "\n".join([out[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *out[1:]])


def latencies(figures):
    """All of B10 in one table: a line a contender."""
    cases = [case for row, case, *_ in ROWS if row == "B10" and ("B10", case) in figures]
    if not cases:
        return ""
    medians = {case: {c: statistics.median(v[0] for v in values) for c, values in figures["B10", case].items()}
               for case in cases}
    lines = ([NAMES[c], *(number(medians[case][c]) for case in cases)] for c in LATENCIES[0] if c in medians[cases[0]])
    return table(["latencies of B10, in ms", *cases], lines)


def report(machine, figures, rows):
    targets = (line for row in rows for line in row.targets())
    lines = (line for row in rows for line in row.lines())
    parts = [
        machine, LACKS,
        table(["row", "what", "median", "against", "ratio", "its range", "target", "reached"], targets),
        table(["row", "what", "contender", "median", "range", "runs", "ratio", "its range"], lines),
        latencies(figures),
        "\n".join("- " + note for note in notes(figures))]
    return "\n\n".join(part for part in parts if part)


# --- the chart ---------------------------------------------------------------

WIDTH, LABEL, BAR = 760, 210, 360  # of the chart, of the names, of the longest bar; pixels
OURS = ("token_balance", "settle_backlog", "rows")


def label(x, y, content, style=""):
    return f'<text x="{x}" y="{y}" {style}>{escape(content)}</text>'


def bar(y, name, values, unit, longest):
    """A contender's median, with a line from its least to its largest figure."""
    def x(value):
        return LABEL + round(BAR * value / longest, 1)
    median = statistics.median(values)
    colour = "#2f6f9f" if any(word in name for word in OURS) else "#b9c3cc"
    return [
        label(LABEL - 8, y + 12, name, 'text-anchor="end"'),
        f'<rect x="{LABEL}" y="{y}" width="{x(median) - LABEL:.1f}" height="16" fill="{colour}"/>',
        f'<path d="M{x(min(values))} {y + 8}H{x(max(values))}" stroke="#222"/>',
        label(x(max(values)) + 8, y + 12, f"{number(median)} {unit}")]


def chart(rows):
    parts, y = [], 10
    for row in rows:
        better = "more is better" if row.unit == "1/s" else "less is better"
        parts.append(label(10, y + 14, f"{row.row}: {row.title} ({better})", 'font-weight="bold"'))
        y += 24
        longest = max(max(values) for values in row.by_contender.values())
        for name, values in row.by_contender.items():
            parts += bar(y, name, values, row.unit, longest)
            y += 20
        y += 14
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{y}" fill="white"/>', *parts, "</svg>", ""])


def main():
    figures_path, directory = sys.argv[1], Path(sys.argv[2])
    figures = read(figures_path)
    rows = list(measured(figures))
    text = report(sys.stdin.read().strip(), figures, rows)
    (directory / "bench.md").write_text(text + "\n")
    (directory / "bench.svg").write_text(chart(rows))
    print(text)


main()
