"""What one put or delete does to the SQLite tables. Runs inside the writer's transaction, which makes it whole."""

# ruff: noqa: S608 - what is put into statements are names of tables and marks for parameters, never values

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

from anwen.errors import StorageError
from anwen.store import placing, sqlite_read
from anwen.store import sqlite_schema as schema
from anwen.store.base import PutResult, PutRow


def put(db: sqlite3.Connection, epoch: int, rows: Sequence[PutRow]) -> list[PutResult]:
    """Store rows, each wholly or not at all; return outcomes in their order."""
    schema.make_wrap_table(db, epoch)
    records = list({r.record for r in rows})
    stored = sqlite_read.current_rows(db, records, ((r.record, r.version) for r in rows))
    deleted = _deleted(db, records)
    owner = _owners(db, placing.first_labels(rows))
    owner |= _owners(db, placing.other_labels(rows, owner))
    while (plan := placing.plan(rows, stored, deleted, owner)).unknown:
        owner |= _owners(db, plan.unknown)
    _write(db, epoch, plan)
    return plan.results


def _write(db: sqlite3.Connection, epoch: int, plan: placing.Plan) -> None:
    """Write each table in the order of its keys, so that no order of insertion is kept."""
    new = sorted(plan.rows, key=lambda n: (n.row.record, n.row.version))
    wraps = [(r.record, r.version, r.wraps) for r in (*(n.row for n in new), *plan.again)]
    db.executemany("INSERT INTO row VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", map(placing.columns, new))
    db.executemany(f"INSERT INTO {schema.wrap_table(epoch)} VALUES (?, ?, ?) ON CONFLICT DO NOTHING", wraps)
    subjects = sorted((r.subject, r.collection, r.record) for r, *_ in new if r.version == 1)
    db.executemany("INSERT INTO subject VALUES (?, ?, ?)", subjects)
    bury(db, plan.buried)
    claims = sorted((label, *taken) for label, taken in plan.postings.items())
    written = db.executemany(
        "INSERT INTO posting VALUES (?, ?, ?) ON CONFLICT (label) DO UPDATE SET record = excluded.record, "
        "mac = excluded.mac WHERE record IN (x'', excluded.record)",
        claims,
    ).rowcount
    if claims and written != len(claims):
        raise StorageError("store: a posting's slot was taken within a transaction")


def _owners(db: sqlite3.Connection, labels: Collection[bytes]) -> dict[bytes, bytes]:
    found = dict.fromkeys(labels, b"")
    for marks, keys in schema.chunks(list(labels)):
        found.update(db.execute(f"SELECT label, record FROM posting WHERE label IN ({marks})", keys))
    return found


def _deleted(db: sqlite3.Connection, records: Sequence[bytes]) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for marks, keys in schema.chunks(records):
        found.update(db.execute(f"SELECT record, version FROM deleted WHERE record IN ({marks})", keys))
    return found


def bury(db: sqlite3.Connection, given_up: Collection[tuple[bytes, bytes]]) -> None:
    """Make tombstones of labels that records give up; they keep no pointer, and are free for the next posting."""
    db.executemany("UPDATE posting SET record = x'', mac = x'' WHERE label = ? AND record = ?", sorted(given_up))


def delete(db: sqlite3.Connection, records: Sequence[tuple[bytes, int]]) -> None:
    """Remove records up to a version."""
    tables = [schema.wrap_table(epoch) for epoch in schema.epochs(db)]
    for record, version in sorted(records):
        select = "SELECT version, labels, subject, collection FROM row WHERE record = ?"
        rows = db.execute(select, (record,)).fetchall()
        gone = placing.given_up(((v, labels) for v, labels, *_ in rows), version)
        bury(db, [(label, record) for label in gone])
        if rows and all(v <= version for v, *_ in rows):
            where = "WHERE subject = ? AND collection = ? AND record = ?"
            db.execute(f"DELETE FROM subject {where}", (*rows[0][2:], record))
        for table in ("row", *tables):
            db.execute(f"DELETE FROM {table} WHERE record = ? AND version <= ?", (record, version))
        upsert = "ON CONFLICT (record) DO UPDATE SET version = max(version, excluded.version)"
        db.execute(f"INSERT INTO deleted VALUES (?, ?) {upsert}", (record, version))
