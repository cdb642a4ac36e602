"""The table of docs/benchmarks.md, from the committed results: `bench/figures.py` prints it.

A test compares the page with it, so that no number on the page is typed by hand.
"""

from __future__ import annotations

import json
import operator
import sys
from pathlib import Path
from typing import Any

from report import OUT, number

WANTED = (  # what; to reach; suite, system and metric
    ("PRF alone, 1,024 rows, one core", ">= 3,000,000 rows/s", "keeper", "keeper", "K0 1024 rows"),
    ("keeper, 1,024 rows a request, durable: open", ">= 400,000 rows/s", "keeper", "keeper", "K2 open new, 1024 rows"),
    ("keeper, 1,024 rows a request, durable: seal", ">= 400,000 rows/s", "keeper", "keeper", "K2 seal, 1024 rows"),
    ("the same, a person's cells and tokens", "", "keeper", "keeper", "K2 put mix, 1024 rows"),
    ("keeper, 1 row, 32 clients, durable: open", ">= 5,000/s", "keeper", "keeper", "K2 open new, 1 rows, 32 clients"),
    ("the same over TLS", "", "keeper", "keeper", "K3 open new, 1 rows, 32 clients"),
    ("import, 2 processes", ">= 15,000 rows/s", "bulk", "anwen_sqlite", "import, 2 processes, batch 1024"),
    ("import, 1 process", "", "bulk", "anwen_sqlite", "import, 1 process, batch 1024"),
    ("plaintext SQLite, same B-trees and batches", "", "bulk", "sqlite_plain", "import, batch 1024"),
    ("CPU time of an import: keepers", "", "bulk", "anwen_sqlite", "keepers, all three, 2 processes, batch 1024"),
    ("CPU time of an import: node and store", "", "bulk", "anwen_sqlite", "node and store, 2 processes, batch 1024"),
    ("CPU time of an import: client", "", "bulk", "anwen_sqlite", "client, 2 processes, batch 1024"),
    ("import into PostgreSQL, 2 processes", "", "engines", "anwen_postgresql", "import"),
    ("import into three Cassandra members, 2 processes", "", "engines", "anwen_cassandra", "import"),
    ("plaintext PostgreSQL, same B-trees and batches", "", "engines", "postgresql_plain", "import"),
    ("plaintext Cassandra, same look-ups and batches", "", "engines", "cassandra_plain", "import"),
    ("open by id, both classes, 1 client, p50", "<= 4 ms", "single", "anwen_sqlite", "open, 1 client, p50"),
    ("open by id, renditions, 1 client, p50", "<= 4 ms", "single", "anwen_sqlite", "open masked, 1 client, p50"),
    ("find + open, 1 client, p50", "<= 8 ms", "single", "anwen_sqlite", "find + open, 1 client, p50"),
    ("put of one person, 1 client, p50", "", "single", "anwen_sqlite", "put, 1 client, p50"),
    ("opens a second, 32 clients", ">= 1,500/s", "single", "anwen_sqlite", "open, 32 clients, rate"),
    (
        "find, unique hit, large against small",
        "<= 1.1 x",
        "lookup",
        "anwen_sqlite",
        "find, hit, 1000000 against 10000 rows",
    ),
    ("find, miss, large against small", "<= 1.1 x", "lookup", "anwen_sqlite", "find, miss, 1000000 against 10000 rows"),
    ("keeper at rest, resident", "<= 80 MB", "single", "anwen_sqlite", "keeper a, RSS at rest"),
    ("node at rest, resident", "<= 80 MB", "single", "anwen_sqlite", "node a, RSS at rest"),
    ("node at rest, proportional share", "", "single", "anwen_sqlite", "node a, PSS at rest"),
    ("one keeper killed under load: errors", "0", "single", "anwen_sqlite", "keeper killed: errors"),
)
_OPERATORS = {">=": operator.ge, "<=": operator.le}


def table(folder: Path = OUT) -> str:
    """Return the table in Markdown; a figure that was not measured, or is void, says so."""
    results = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in folder.glob("*.json")}
    lines = ["| what | to reach | reached | to the limit | |", "| --- | --- | --- | --- | --- |"]
    for what, goal, suite, system, metric in WANTED:
        found = _find(results.get(suite), system, metric)
        if found is None:
            lines.append(f"| {what} | {goal} | not measured | | |")
            continue
        limit = found.get("limit")
        share = f"{limit['ratio']:.2f} [{limit['low']:.2f}, {limit['high']:.2f}]" if limit else ""
        reached = f"{number(found['median'])} {found['unit']} [{number(found['q1'])}, {number(found['q3'])}]"
        lines.append(f"| {what} | {goal} | {reached} | {share} | {_met(goal, found['median'])} |")
    return "\n".join(lines) + "\n"


def _find(result: dict[str, Any] | None, system: str, metric: str) -> dict[str, Any] | None:
    rows = result["summary"] if result else []
    return next((r for r in rows if (r["system"], r["metric"]) == (system, metric)), None)


def _met(goal: str, reached: float) -> str:
    """Return whether a goal such as ">= 15,000 rows/s" is reached."""
    words = goal.replace(",", "").replace("/s", "").split()
    if not words:
        return ""
    compare = _OPERATORS.get(words[0], operator.eq)
    return "reached" if compare(reached, float(words[-1 if words[0] not in _OPERATORS else 1])) else "**not reached**"


if __name__ == "__main__":
    sys.stdout.write(table())
