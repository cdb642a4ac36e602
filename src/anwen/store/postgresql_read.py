"""What the PostgreSQL engine answers: each record and each posting as it is in one snapshot."""

# ruff: noqa: S608 - what is put into statements are names of tables, never values

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from typing import Any

import psycopg

from anwen.store import base, history
from anwen.store import postgresql_schema as schema
from anwen.store.base import Hit, Statistics, StoredRow
from anwen.store.placing import Known
from anwen.store.postgresql_schema import Connection
from anwen.store.trim import NO_WRAPS, current

COUNTED_AT_ONCE = 10_000

_FEW = f"substr(beside, 1, {history.MOST_BYTES})"
_COLUMNS = f"{_FEW}, labels, collection, subject, record, version, tag, collected_s, expires_s"
_NEWEST = (
    "SELECT newest.* FROM unnest(%b::bytea[]) AS asked (record) "
    f"CROSS JOIN LATERAL (SELECT {_COLUMNS}, sealed, verified, {{wraps}} FROM row {{join}} "
    "WHERE record = asked.record ORDER BY version DESC LIMIT 1) AS newest"
)
_BESIDE = (  # numbers of four bytes each; whatever the bytes are, no cast can fail
    "ARRAY(SELECT ('x' || encode(substr(beside, at, 4), 'hex'))::bit(32)::bigint "
    f"FROM generate_series(1, least(length(beside), {history.MOST_BYTES}), 4) AS at)"
)
_CURRENT = (  # OFFSET 0: record by record, whatever the planner knows of the table
    "SELECT found.* FROM unnest(%b::bytea[]) AS asked (record) "
    f"CROSS JOIN LATERAL (SELECT version, {_BESIDE} AS others FROM row AS r WHERE r.record = asked.record "
    "ORDER BY version DESC LIMIT 1) AS newest "
    f"CROSS JOIN LATERAL (SELECT {_COLUMNS}, sealed, verified, {{wraps}} FROM row {{join}} "
    "WHERE record = asked.record AND version = ANY (newest.others || newest.version) OFFSET 0) AS found"
)
_OWN = (  # what tells a repeat
    "SELECT found.* FROM unnest(%b::bytea[], %b::bigint[]) AS asked (record, version) "
    f"CROSS JOIN LATERAL (SELECT {_COLUMNS}, ''::bytea, verified, NULL::bytea FROM row AS r "
    "WHERE r.record = asked.record AND r.version = asked.version OFFSET 0) AS found"
)
_Answer = psycopg.AsyncCursor[tuple[Any, ...]]


async def get(db: Connection, epoch: int | None, records: Sequence[bytes], classes: Sequence[int]) -> list[StoredRow]:
    """Return the rows that are current for any of `classes`, record by record; epoch None: without wraps."""
    wanted, asked = list(dict.fromkeys(records)), frozenset(classes)
    found = await known(await db.execute(_with_wraps(_NEWEST, epoch), (wanted,), binary=True))
    if more := [record for record, versions in found.items() if versions[-1].others]:
        again = await known(await ask_current(db, more, epoch))  # all of these in one snapshot
        found |= {record: again.get(record, []) for record in more}  # deleted meanwhile: no half of it
    return [row for record in wanted for row in current([k.row for k in found.get(record, [])], asked)]


async def ask_current(db: Connection, records: Sequence[bytes], epoch: int | None = None) -> _Answer:
    """Ask for what may be current of records, however often they were updated; epoch None: without wraps."""
    return await db.execute(_with_wraps(_CURRENT, epoch), (list(records),), binary=True)


async def ask_versions(db: Connection, versions: Iterable[tuple[bytes, int]]) -> _Answer:
    """Ask for what is there of records and versions, without what is sealed."""
    pairs = sorted(set(versions))
    return await db.execute(_OWN, ([r for r, _ in pairs], [version for _, version in pairs]), binary=True)


def _with_wraps(select: str, epoch: int | None) -> str:
    join = "" if epoch is None else f"LEFT JOIN {schema.wrap_table(epoch)} AS w USING (record, version)"
    return select.format(wraps="w.wraps" if join else "NULL::bytea", join=join)


async def known(*answers: _Answer) -> dict[bytes, list[Known]]:
    """Return versions of records, ascending; those of a later answer count."""
    found: dict[bytes, dict[int, Known]] = {}
    for answer in answers:
        for beside, labels, *about, sealed, verified, wraps in await answer.fetchall():
            row = StoredRow(*[*about, sealed, wraps or NO_WRAPS, verified, labels])
            found.setdefault(row.record, {})[row.version] = Known(row, history.unpack(beside))
    return {record: [k for _, k in sorted(versions.items())] for record, versions in found.items()}


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
    return Statistics(records, versions, postings, unverified, size_bytes, settings, complete=all(whole))


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
