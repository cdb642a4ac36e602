"""What the SQLite engine answers; each function reads one snapshot."""

# ruff: noqa: S608 - what is put into statements are names of tables and marks for parameters, never values

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from anwen.store import base, history
from anwen.store import sqlite_schema as schema
from anwen.store.base import Hit, Statistics, StoredRow
from anwen.store.placing import Known
from anwen.store.trim import NO_WRAPS, current

_ROW = (
    f"SELECT substr(beside, 1, {history.MOST_BYTES}), labels, collection, subject, row.record, row.version, tag, "
    "collected_s, expires_s, sealed, verified, {wraps} FROM row {join} WHERE row.record = ? "
)
_NEWEST, _ONE = _ROW + "ORDER BY row.version DESC LIMIT 1", _ROW + "AND row.version = ?"


def get(db: sqlite3.Connection, epoch: int, records: Sequence[bytes], classes: Sequence[int]) -> list[StoredRow]:
    """Return the rows that are current for any of `classes`, record by record, versions ascending."""
    wanted, asked = list(dict.fromkeys(records)), frozenset(classes)
    found = current_rows(db, wanted, epoch=epoch if epoch in schema.epochs(db) else None)
    return [row for record in wanted for row in current([k.row for k in found.get(record, [])], asked)]


def current_rows(
    db: sqlite3.Connection,
    records: Iterable[bytes],
    besides: Iterable[tuple[bytes, int]] = (),
    epoch: int | None = None,
) -> dict[bytes, list[Known]]:
    """Return of records, however often they were updated, what may be current; versions ascending.

    Args:
        besides: records and versions to be read, too. epoch: None: without wraps.
    """
    join = "" if epoch is None else f"LEFT JOIN {schema.wrap_table(epoch)} AS w USING (record, version)"
    newest, one = (s.format(wraps="w.wraps" if join else "NULL", join=join) for s in (_NEWEST, _ONE))
    own: dict[bytes, set[int]] = {}
    for record, version in besides:
        own.setdefault(record, set()).add(version)
    found: dict[bytes, list[Known]] = {}
    for record in records:
        for columns in db.execute(newest, (record,)):
            last = _known(columns)
            found[record] = [last]
            if last.others or record in own:
                more = own.get(record, set()).union(last.others) - {last.row.version}
                others = [row for number in sorted(more) for row in db.execute(one, (record, number))]
                found[record] = [*map(_known, others), last]
    return found


def _known(columns: Sequence[Any]) -> Known:
    beside, labels, *about, verified, wraps = columns
    row = StoredRow(*[*about, wraps or NO_WRAPS, bool(verified), labels])
    return Known(row, history.unpack(beside))  # of no bytes substr makes NULL


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
    free_bytes, complete = shutil.disk_usage(path.parent).free, max(counts) < base.COUNT_MOST
    return Statistics(*counts, size_bytes, schema.settings(db), free_bytes, complete)
