"""What the PostgreSQL engine answers; each function but the counts reads one snapshot, by one statement."""

# ruff: noqa: S608 - what is put into statements are names of tables, never values

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import psycopg

from anwen.store import base
from anwen.store import postgresql_schema as schema
from anwen.store.base import Hit, Statistics, StoredRow
from anwen.store.postgresql_schema import Connection
from anwen.store.trim import NO_WRAPS, current

COUNTED_AT_ONCE = 10_000


async def get(db: Connection, epoch: int | None, records: Sequence[bytes], classes: Sequence[int]) -> list[StoredRow]:
    """Return the rows that are current for any of `classes`, record by record; epoch None: without wraps."""
    wanted = list(dict.fromkeys(records))
    wraps, join = ("NULL::bytea", "") if epoch is None else ("wraps", f"LEFT JOIN {schema.wrap_table(epoch)} ")
    using = "USING (record, version) " if join else ""
    rows = await db.execute(
        f"SELECT collection, subject, record, version, tag, collected_s, expires_s, sealed, {wraps}, verified "
        f"FROM row {join}{using}WHERE record = ANY(%b) ORDER BY record, version",
        (wanted,),
        binary=True,
    )
    found: dict[bytes, list[StoredRow]] = {}
    for *head, held, verified in await rows.fetchall():
        row = StoredRow(*[*head, held or NO_WRAPS, verified])
        found.setdefault(row.record, []).append(row)
    asked = frozenset(classes)
    return [row for record in wanted for row in current(found.get(record, []), asked)]


async def find(db: Connection, labels: Sequence[bytes]) -> list[Hit]:
    """Return the taken labels, in the order of `labels`."""
    select = "SELECT label, record, mac FROM posting WHERE label = ANY(%b)"
    rows = await db.execute(select, (list(set(labels)),), binary=True)
    found = {label: (record or bytes(16), mac or bytes(16)) for label, record, mac in await rows.fetchall()}
    return [Hit(i, *found[label]) for i, label in enumerate(labels) if label in found]


async def list_subjects(
    db: Connection, collection: int, subjects: Sequence[bytes], after: bytes, limit: int
) -> list[bytes]:
    """Return at most `limit` record ids greater than `after`, ascending."""
    table, where = ("subject", "subject = ANY(%b) AND") if subjects else ("row", "")
    rows = await db.execute(
        f"SELECT DISTINCT record FROM {table} WHERE {where} collection = %b AND record > %b ORDER BY record LIMIT %b",
        (*([list(set(subjects))] if subjects else []), collection, after, limit),
        binary=True,
    )
    return [record for (record,) in await rows.fetchall()]


async def statistics(db: Connection, hosts: int) -> Statistics:
    """Return counts, each up to COUNT_MOST, and the settings. Raises PolicyError: they have become weak."""
    settings = await schema.check(db, hosts)
    epochs = await schema.epochs(db)
    tables = ["row", "posting", "subject", "deleted", *map(schema.wrap_table, epochs)]
    counted = "subject", tables[-1] if epochs else "row WHERE false", "posting", "row WHERE NOT verified"
    answer = await db.execute(
        "SELECT sum(pg_total_relation_size(name::regclass))::bigint FROM unnest(%s::text[]) AS name", (tables,)
    )
    ((size_bytes,),) = await answer.fetchall()
    (records, versions, postings, unverified), whole = zip(*[await _count(db, what) for what in counted], strict=True)
    return Statistics(records, versions, postings, unverified, size_bytes, settings, all(whole))


async def _count(db: Connection, what: str) -> tuple[int, bool]:
    """Return how many rows there are, as far as COUNT_MOST and COUNT_S go, and whether these are all."""
    found, whole, until = 0, False, time.monotonic() + base.COUNT_S
    await db.execute("BEGIN READ ONLY")
    with contextlib.suppress(psycopg.errors.QueryCanceled):  # what was counted before stands
        await db.execute(f"SET LOCAL statement_timeout = {round(1000 * base.COUNT_S)}")  # the session's is for calls
        await db.execute(f"DECLARE counted NO SCROLL CURSOR FOR SELECT FROM {what}")
        while not whole and found < base.COUNT_MOST and time.monotonic() < until:
            step = min(COUNTED_AT_ONCE, base.COUNT_MOST - found)
            passed = (await db.execute(f"MOVE {step} FROM counted")).rowcount
            found, whole = found + passed, passed < step
    await db.execute("ROLLBACK")
    return found, whole
