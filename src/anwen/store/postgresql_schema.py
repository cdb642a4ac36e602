"""Tables of the PostgreSQL engine, and the settings of its servers that break a promise (docs/spec/store.md)."""

from __future__ import annotations

from typing import Any

import psycopg

from anwen.errors import PolicyError, StorageError
from anwen.formats.wire import NO_STANDBY

Connection = psycopg.AsyncConnection[tuple[Any, ...]]
FORMAT = "anwen store 2"
LOCKS = 0x414E5745  # "ANWE": the first key of advisory locks, so that they meet nobody else's
SCHEMA_LOCK = -1
BUCKETS = 16
"""Locks that puts share and deletes take alone, by the last byte of a record's id."""

OPTIONS = ("-c enable_seqscan=off", "-c jit=off")
"""Every statement goes by a key: a planner without statistics yet must not read a table whole for 3,000 of them."""

_WEAK = {"fsync": {"off"}, "synchronous_commit": {"off"}, "full_page_writes": {"off"}}
_WEAK_BEFORE_STANDBYS = {"synchronous_commit": {"local"}}
_REPORTED = ("server_version", *_WEAK, "synchronous_standby_names", "data_checksums")

# sealed bytes do not compress: EXTERNAL saves the attempt
_TABLES = f"""
CREATE TABLE row (
    record bytea NOT NULL, version bigint NOT NULL, tag bytea NOT NULL, collection bigint NOT NULL,
    subject bytea NOT NULL, collected_s bigint NOT NULL, expires_s bigint NOT NULL, verified boolean NOT NULL,
    labels bytea NOT NULL, sealed bytea NOT NULL, beside bytea NOT NULL, PRIMARY KEY (record, version));
ALTER TABLE row ALTER sealed SET STORAGE EXTERNAL;
CREATE INDEX row_unverified ON row (record) WHERE NOT verified;
CREATE TABLE posting (label bytea NOT NULL PRIMARY KEY, record bytea NOT NULL, mac bytea NOT NULL);
CREATE TABLE subject (
    subject bytea NOT NULL, collection bigint NOT NULL, record bytea NOT NULL,
    PRIMARY KEY (subject, collection, record));
CREATE TABLE deleted (record bytea NOT NULL PRIMARY KEY, version bigint NOT NULL);
COMMENT ON TABLE row IS '{FORMAT}';
"""


async def settings(db: Connection, hosts: int) -> dict[str, str]:
    """Return the settings that durability depends on, as this connection has them, and what those mean that are weak.

    Args:
        hosts: how many servers take each other's place.
    """
    rows = await db.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", (list(_REPORTED),))
    found: dict[str, str] = dict(await rows.fetchall())
    if found.get("data_checksums") == "off":
        found["data_checksums"] = "off: a page that the disk damages goes unnoticed"
    # no reason to refuse: a server that Patroni has just promoted has none until a standby follows it
    if hosts > 1 and not found.get("synchronous_standby_names"):
        found["synchronous_standby_names"] = NO_STANDBY
    return found


async def check(db: Connection, hosts: int) -> dict[str, str]:
    """Return `settings`. Raise PolicyError where the server, the database or the role has one that breaks a promise.

    Args:
        hosts: how many servers take each other's place.
    """
    found = await settings(db, hosts)
    for weak in (_WEAK, _WEAK_BEFORE_STANDBYS if hosts > 1 else {}):
        for name, values in weak.items():
            if found[name] in values:
                raise PolicyError(f"store postgresql: {name} is {found[name]}: acknowledged writes could be lost")
    return found


async def make(db: Connection) -> None:
    """Make the tables unless they are there; several nodes may do so at once. Raises StorageError: another format."""
    async with db.transaction():
        await db.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCKS, SCHEMA_LOCK))
        answer = await db.execute("SELECT obj_description(to_regclass('row'), 'pg_class'), to_regclass('row') IS NULL")
        found, absent = await answer.fetchone() or (None, True)
        if absent:
            await db.execute(_TABLES)
        elif found != FORMAT:
            raise StorageError(
                f"store postgresql: expected tables of {FORMAT}, got {found or 'no format'}; of an earlier build: "
                "restore a backup that it makes into an empty database"
            )


def wrap_table(epoch: int) -> str:
    """Return the name of an epoch's table of wraps."""
    return f"wrap_{int(epoch)}"


async def epochs(db: Connection) -> list[int]:
    """Return the epochs that have a table of wraps, ascending."""
    names = "SELECT substr(relname, 6)::bigint FROM pg_class WHERE relname ~ '^wrap_[0-9]+$' AND relkind = 'r'"
    rows = await db.execute(f"{names} AND pg_table_is_visible(oid) ORDER BY 1")
    return [epoch for (epoch,) in await rows.fetchall()]


async def make_wrap_table(db: Connection, epoch: int) -> None:
    """Make an epoch's table of wraps unless it is there; several nodes may do so at once."""
    async with db.transaction():
        await db.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCKS, SCHEMA_LOCK))
        await db.execute(
            f"CREATE TABLE IF NOT EXISTS {wrap_table(epoch)} (record bytea NOT NULL, version bigint NOT NULL, "
            "wraps bytea NOT NULL, PRIMARY KEY (record, version))"
        )
