"""What the SQLite engine answers; each function reads one snapshot."""

# ruff: noqa: S608 - what is put into statements are names of tables and marks for parameters, never values

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from anwen.store import base
from anwen.store import sqlite_schema as schema
from anwen.store.base import Hit, Statistics, StoredRow
from anwen.store.trim import NO_WRAPS, current

_COLUMNS = "collection, subject, row.record, row.version, tag, collected_s, expires_s, sealed, {wraps}, verified"


def get(db: sqlite3.Connection, epoch: int, records: Sequence[bytes], classes: Sequence[int]) -> list[StoredRow]:
    """Return the rows that are current for any of `classes`, record by record, versions ascending."""
    wanted = list(dict.fromkeys(records))
    table = schema.wrap_table(epoch)
    if epoch in schema.epochs(db):
        join, columns = f"LEFT JOIN {table} AS w USING (record, version)", _COLUMNS.format(wraps="w.wraps")
    else:
        join, columns = "", _COLUMNS.format(wraps="NULL")
    found: dict[bytes, list[StoredRow]] = {}
    for marks, keys in schema.chunks(wanted):
        select = f"SELECT {columns} FROM row {join} WHERE row.record IN ({marks}) ORDER BY row.record, row.version"
        for *head, wraps, verified in db.execute(select, keys):
            row = StoredRow(*[*head, wraps or NO_WRAPS, bool(verified)])
            found.setdefault(row.record, []).append(row)
    asked = frozenset(classes)
    return [row for record in wanted for row in current(found.get(record, []), asked)]


def find(db: sqlite3.Connection, labels: Sequence[bytes]) -> list[Hit]:
    """Return the taken labels, in the order of `labels`."""
    found: dict[bytes, tuple[bytes, bytes]] = {}
    for marks, keys in schema.chunks(labels):
        for label, record, mac in db.execute(f"SELECT label, record, mac FROM posting WHERE label IN ({marks})", keys):
            found[label] = (record or bytes(16), mac or bytes(16))
    return [Hit(i, *found[label]) for i, label in enumerate(labels) if label in found]


def list_subjects(
    db: sqlite3.Connection, collection: int, subjects: Sequence[bytes], after: bytes, limit: int
) -> list[bytes]:
    """Return at most `limit` record ids greater than `after`, ascending."""
    if not subjects:
        select = "SELECT DISTINCT record FROM row WHERE record > ? AND collection = ? ORDER BY record LIMIT ?"
        return [record for (record,) in db.execute(select, (after, collection, limit))]
    found: set[bytes] = set()
    for marks, keys in schema.chunks(list(dict.fromkeys(subjects))):
        select = (
            f"SELECT record FROM subject WHERE subject IN ({marks}) AND collection = ? AND record > ? "
            "ORDER BY record LIMIT ?"
        )
        found.update(record for (record,) in db.execute(select, (*keys, collection, after, limit)))
    return sorted(found)[:limit]


def statistics(db: sqlite3.Connection, path: Path) -> Statistics:
    """Return counts, each up to COUNT_MOST."""

    def count(what: str) -> int:
        select = f"SELECT count(*) FROM (SELECT 1 FROM {what} LIMIT {base.COUNT_MOST})"
        return int(db.execute(select).fetchone()[0])

    epochs = schema.epochs(db)
    rows = count(schema.wrap_table(epochs[-1])) if epochs else 0
    unverified = count("row INDEXED BY row_unverified WHERE verified = 0")
    size_bytes = sum(p.stat().st_size for p in (path, path.with_name(path.name + "-wal")) if p.exists())
    counts = count("subject"), rows, count("posting"), unverified
    return Statistics(*counts, size_bytes, schema.settings(db), max(counts) < base.COUNT_MOST)
