"""What the SQLite engine answers; each function reads one snapshot."""

# ruff: noqa: S608 - what is put into statements are names of tables and marks for parameters, never values

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from anwen.store import base, history
from anwen.store import sqlite_schema as schema
from anwen.store.base import Hit, Statistics, StoredRow
from anwen.store.placing import Known
from anwen.store.trim import NO_WRAPS, current

_COLUMNS = (
    "before, labels, collection, subject, row.record, row.version, tag, collected_s, expires_s, sealed, verified, "
    "{wraps}"
)
_NEWEST = (
    "WITH asked (record) AS (VALUES {marks}) SELECT {columns} FROM asked CROSS JOIN row ON row.record = asked.record "
    "AND row.version = (SELECT max(version) FROM row AS r WHERE r.record = asked.record) {join}"
)
_SOME = (
    "WITH asked (record, version) AS (VALUES {marks}) SELECT {columns} FROM asked CROSS JOIN row "
    "ON row.record = asked.record AND row.version = asked.version {join}"
)


def get(db: sqlite3.Connection, epoch: int, records: Sequence[bytes], classes: Sequence[int]) -> list[StoredRow]:
    """Return the rows that are current for any of `classes`, record by record, versions ascending."""
    wanted, asked = list(dict.fromkeys(records)), frozenset(classes)
    found = current_rows(db, wanted, epoch=epoch if epoch in schema.epochs(db) else None)
    return [row for record in wanted for row in current([k.row for k in found.get(record, [])], asked)]


def current_rows(
    db: sqlite3.Connection,
    records: Sequence[bytes],
    besides: Iterable[tuple[bytes, int]] = (),
    epoch: int | None = None,
) -> dict[bytes, list[Known]]:
    """Return of records, however often they were updated, what may be current; versions ascending.

    Args:
        besides: records and versions to be read, too. epoch: None: without wraps.
    """
    wraps, join = "NULL", ""
    if epoch is not None:
        wraps, table = "w.wraps", schema.wrap_table(epoch)
        join = f"LEFT JOIN {table} AS w ON w.record = row.record AND w.version = row.version"
    words = {"columns": _COLUMNS.format(wraps=wraps), "join": join}
    found: dict[bytes, dict[int, Known]] = {}
    more = set(besides)

    def take(select: str, marks: str, keys: Sequence[Any]) -> None:
        for before, labels, *about, verified, held in db.execute(select.format(marks=marks, **words), keys):
            row = StoredRow(*[*about, held or NO_WRAPS, bool(verified)])
            found.setdefault(row.record, {})[row.version] = Known(row, labels)
            if before:
                more.update((row.record, number) for number in history.unpack(before))

    for marks, keys in schema.chunks(records, "(?)"):
        take(_NEWEST, marks, keys)
    lacking = sorted((r, n) for r, n in more if r in found and n not in found[r])
    for marks, pairs in schema.chunks(lacking, "(?,?)"):
        take(_SOME, marks, list(itertools.chain.from_iterable(pairs)))
    return {record: [known for _, known in sorted(versions.items())] for record, versions in found.items()}


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
