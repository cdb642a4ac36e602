"""`sqlite_plain`: the same rows in plaintext, integer key, the same B-trees, no audit: the limit of the engine."""

from __future__ import annotations

import itertools
import json
import resource
import sqlite3
import time
from pathlib import Path

from people import FIELDS

NAME = "sqlite_plain"
_SCHEMA = """
CREATE TABLE person (id INTEGER PRIMARY KEY, id_number TEXT NOT NULL, name TEXT NOT NULL, birth_date TEXT, sex TEXT,
    phone TEXT, email TEXT, address TEXT);
CREATE UNIQUE INDEX person_id_number ON person (id_number);
CREATE INDEX person_name ON person (name);
CREATE INDEX person_phone ON person (phone);
"""
_INSERT = f"INSERT INTO person ({', '.join(FIELDS)}) VALUES ({', '.join('?' * len(FIELDS))})"


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection with the durability that Anwen's store has."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    return db


def load(path: Path, file: Path, batch: int) -> dict[str, float]:
    """Load an NDJSON file; return rows, seconds, CPU seconds and bytes."""
    db = connect(path)
    db.executescript(_SCHEMA)
    used, start = _cpu(), time.perf_counter()
    rows = 0
    with file.open(encoding="utf-8") as lines:
        while part := list(itertools.islice(lines, batch)):
            values = [tuple(row[f] for f in FIELDS) for row in map(json.loads, part)]
            db.execute("BEGIN IMMEDIATE")
            db.executemany(_INSERT, values)
            db.execute("COMMIT")
            rows += len(values)
    taken = {"rows": rows, "seconds": time.perf_counter() - start, "cpu_s": _cpu() - used}
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return taken | {"bytes": path.stat().st_size}


def settings(path: Path) -> dict[str, object]:
    """Return the settings as the engine reads them back."""
    db = connect(path)
    try:
        names = ("journal_mode", "synchronous", "page_size")
        return {name: db.execute(f"PRAGMA {name}").fetchone()[0] for name in names}
    finally:
        db.close()


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
