"""What one put or delete does to the PostgreSQL tables: one transaction, two round trips, no global lock.

Writers do not wait for each other but where their keys meet. A put reads what is committed, decides, and writes under
conditions that fail if another has changed what it read: a row's key is taken, or a label is. Then all of it is done
again, and sees the other. Deletions leave no key to meet at, so puts share an advisory lock with each other by
record that a deletion takes alone. No step looks at a clock.
"""

# ruff: noqa: S608 - what is put into statements are names of tables and types, never values

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from anwen.store import placing
from anwen.store import postgresql_read as read
from anwen.store import postgresql_schema as schema
from anwen.store.base import PutResult, PutRow
from anwen.store.postgresql_schema import Connection

# its own isolation: in a higher one the snapshot would be older than the locks
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
_ROW = ("bytea", "bigint", "bytea", "bigint", "bytea", "bigint", "bigint", "boolean", "bytea", "bytea", "bytea")
COPY_ROWS = 256
"""Rows from which COPY's third less work for the server is worth its own round trip: a pipeline takes no COPY."""

_LOCK = "SELECT pg_advisory_xact_lock{shared}(%b, bucket) FROM unnest(%b::int[]) AS bucket"
_OWNERS = "SELECT label, record FROM posting WHERE label = ANY(%b) AND record <> ''"
_VERSIONS = "SELECT record, version, labels, subject, collection FROM row WHERE record = ANY(%b) ORDER BY 1, 2"
_DELETED = "SELECT record, version FROM deleted WHERE record = ANY(%b)"
_BURY = (
    "UPDATE posting SET record = '', mac = '' FROM unnest(%b::bytea[], %b::bytea[]) AS gone (label, record) "
    "WHERE posting.label = gone.label AND posting.record = gone.record"
)
CLAIM = (
    "WITH taken AS (INSERT INTO posting SELECT * FROM unnest(%b::bytea[], %b::bytea[], %b::bytea[]) "
    "ON CONFLICT (label) DO UPDATE SET record = excluded.record, mac = excluded.mac "
    "WHERE posting.record IN ('', excluded.record) RETURNING 1) SELECT 1 / (count(*) = %b)::int FROM taken"
)
"""Takes labels where they are free, tombstones or the record's. Fails, by a division by zero, unless it gets all of
them: so the commit can go with it in one round trip."""

_LOGGED = "SELECT pg_logical_emit_message(true, 'anwen', ''::text)"
"""Has a repeat's commit wait like any other: the first attempt may have been cut off before a standby had it."""


async def put(db: Connection, epoch: int, rows: Sequence[PutRow]) -> list[PutResult]:
    """Store rows, each wholly or not at all; return outcomes in their order."""
    records, first = sorted({r.record for r in rows}), placing.first_labels(rows)
    async with db.pipeline():
        await _begin(db, records, shared="_shared")
        # labels before rows: who finds a row stored meanwhile answers from it, who refuses one refuses it rightly
        found = await db.execute(_OWNERS, (list(first),), binary=True)
        own = await read.ask_versions(db, ((r.record, r.version) for r in rows))
        current = await read.ask_current(db, records)  # last: the newest of all that was read
        gone = await db.execute(_DELETED, (records,), binary=True)
    owner = dict.fromkeys(first, b"") | dict(await found.fetchall())
    stored = await read.known(own, current)
    deleted: dict[bytes, int] = dict(await gone.fetchall())
    owner |= await _owners(db, placing.other_labels(rows, owner))
    while (plan := placing.plan(rows, stored, deleted, owner)).unknown:
        owner |= await _owners(db, plan.unknown)
    await _write(db, epoch, plan)
    return plan.results


async def _begin(db: Connection, records: Iterable[bytes], *, shared: str) -> None:
    await db.execute(_BEGIN)
    buckets = sorted({record[-1] % schema.BUCKETS for record in records})
    await db.execute(_LOCK.format(shared=shared), (schema.LOCKS, buckets))


async def _owners(db: Connection, labels: Collection[bytes]) -> dict[bytes, bytes]:
    if not labels:
        return {}
    found = await db.execute(_OWNERS, (list(labels),), binary=True)
    return dict.fromkeys(labels, b"") | dict(await found.fetchall())


async def _write(db: Connection, epoch: int, plan: placing.Plan) -> None:
    """Write each table in the order of its keys: two writers never wait for each other in a circle."""
    new = sorted(plan.rows, key=lambda n: (n.row.record, n.row.version))
    rows = list(map(placing.columns, new))
    wraps = sorted((r.record, r.version, r.wraps) for r in (*(n.row for n in new), *plan.again))
    subjects = sorted((r.subject, r.collection, r.record) for r, *_ in new if r.version == 1)
    claims = sorted((label, *taken) for label, taken in plan.postings.items())
    copied = len(rows) >= COPY_ROWS
    if copied:
        await _copy(db, rows)
    async with db.pipeline():
        await _insert(db, "row", _ROW, [] if copied else rows)
        await _insert(db, schema.wrap_table(epoch), ("bytea", "bigint", "bytea"), wraps, "ON CONFLICT DO NOTHING")
        await _insert(db, "subject", ("bytea", "bigint", "bytea"), subjects)
        if plan.buried:
            await db.execute(_BURY, _columns(sorted(plan.buried)))
        if claims:
            await db.execute(CLAIM, (*_columns(claims), len(claims)))
        if plan.again:
            await db.execute(_LOGGED)
        # commit point: a crash before it leaves nothing of this put, after it all
        await db.execute("COMMIT")


async def _copy(db: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    async with db.cursor() as cursor, cursor.copy("COPY row FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(_ROW)
        for row in rows:
            await copy.write_row(row)


async def _insert(
    db: Connection, table: str, types: Sequence[str], rows: Sequence[tuple[Any, ...]], conflict: str = ""
) -> None:
    if rows:
        columns = ", ".join(f"%b::{t}[]" for t in types)
        await db.execute(f"INSERT INTO {table} SELECT * FROM unnest({columns}) {conflict}", _columns(rows))


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


async def delete(db: Connection, records: Sequence[tuple[bytes, int]]) -> None:
    """Remove records up to a version."""
    upto: dict[bytes, int] = {}
    for record, version in records:
        upto[record] = max(version, upto.get(record, version))
    async with db.pipeline():
        await _begin(db, upto, shared="")
        found = await db.execute(_VERSIONS, (list(upto),), binary=True)
        epochs = await schema.epochs(db)
    versions: dict[bytes, list[tuple[int, bytes]]] = {}
    whose: dict[bytes, tuple[bytes, int]] = {}
    for record, version, taken, subject, collection in await found.fetchall():
        versions.setdefault(record, []).append((version, taken))
        whose[record] = subject, collection
    freed = ((r, placing.given_up(known, upto[r])) for r, known in versions.items())
    labels = sorted((label, r) for r, given_up in freed for label in given_up)
    subjects = sorted((*whose[r], r) for r, known in versions.items() if known[-1][0] <= upto[r])
    marks = sorted(upto.items())
    async with db.pipeline():
        if labels:
            await db.execute(_BURY, _columns(labels))
        if subjects:
            await db.execute(
                "DELETE FROM subject AS s USING unnest(%b::bytea[], %b::bigint[], %b::bytea[]) "
                "AS g (subject, part, record) "
                "WHERE s.subject = g.subject AND s.collection = g.part AND s.record = g.record",
                _columns(subjects),
            )
        for table in ("row", *map(schema.wrap_table, epochs)):
            await db.execute(
                f"DELETE FROM {table} AS t USING unnest(%b::bytea[], %b::bigint[]) AS g (record, version) "
                "WHERE t.record = g.record AND t.version <= g.version",
                _columns(marks),
            )
        upsert = "ON CONFLICT (record) DO UPDATE SET version = greatest(deleted.version, excluded.version)"
        await _insert(db, "deleted", ("bytea", "bigint"), marks, upsert)
        # commit point: a crash before it leaves the records as they were, after it none of them
        await db.execute("COMMIT")
