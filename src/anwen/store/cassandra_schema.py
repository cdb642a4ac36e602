"""Keyspace, tables and settings of the Cassandra engine, and what it refuses to run on (docs/store-cassandra.md)."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping

from cassandra import ConsistencyLevel
from cassandra.pool import Host
from cassandra.query import SimpleStatement

from anwen.errors import PolicyError, StorageError, UnavailableError
from anwen.formats.wire import MEMBER_WHOLE
from anwen.store.cassandra_session import NotGrantedError, Session

REPLICAS = 3
GOSSIP_S = 10.0
_TABLES = {
    # a version of a record: visible when it is there, and above `deleted`
    "row": "record blob, version bigint, body blob, verified boolean, deleted bigint static, "
    "PRIMARY KEY (record, version)",
    # `owner`: of a unique value, by conditional writes alone; `record`: of an exact one, empty for a tombstone
    "posting": "label blob, record blob, run blob, mac blob, owner blob static, owner_mac blob static, "
    "owner_version bigint static, PRIMARY KEY (label, record, run)",
    "subject": "subject blob, collection bigint, record blob, PRIMARY KEY ((subject, collection), record)",
    "listing": "collection bigint, bucket int, record blob, PRIMARY KEY ((collection, bucket), record)",
    # a row: a copy is being loaded, and no node may serve
    "loading": "key int PRIMARY KEY",
}
_WRAP = "record blob, version bigint, tag blob, wraps blob, PRIMARY KEY (record, version, tag)"
_NEWEST_FIRST = {"row": "version DESC", "wrap": "version DESC, tag ASC"}
"""So that what is current is read without what it replaced."""
_SETTINGS = ("commitlog_sync", "auto_snapshot")
_ROLES = "system_auth"


async def make(session: Session) -> None:
    """Make keyspace and tables, unless they are there.

    Raises: UnavailableError. StorageError: an earlier build made them.
    """
    if await _keyspace(session, session.keyspace) is None:
        await session.define(
            f"CREATE KEYSPACE IF NOT EXISTS {session.keyspace} WITH replication = {_one_a_zone(await _zones(session))}"
        )
    there = await tables(session)
    if "row" in there:
        await _check_order(session)
    for name, columns in _TABLES.items():
        if name not in there:
            await _make_table(session, name, columns)
    await session.agree()  # another node may be making them at this moment


async def _check_order(session: Session) -> None:
    select = (
        "SELECT clustering_order FROM system_schema.columns "
        "WHERE keyspace_name = ? AND table_name = 'row' AND column_name = 'version'"
    )
    if await session.run(select, [(session.keyspace,)]) != [[("desc",)]]:
        raise StorageError(
            "store cassandra: tables of an earlier build: restore a backup that it makes into an empty keyspace"
        )


async def tables(session: Session) -> set[str]:
    """Return the names of the keyspace's tables."""
    select = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?"
    (rows,) = await session.run(select, [(session.keyspace,)])
    return {name for (name,) in rows}


async def is_loading(session: Session) -> bool:
    """Return whether a copy is being loaded, or its loading was cut off."""
    (rows,) = await session.run("SELECT key FROM {ks}.loading WHERE key = 0", [()])
    return bool(rows)


async def check_loaded(session: Session) -> None:
    """Raise StorageError where a copy is being loaded."""
    if await is_loading(session):
        raise StorageError("store cassandra: a restore is under way, or was cut off: run it to its end")


async def mark_loading(session: Session) -> None:
    """Let no node serve this store from now on."""
    await session.applied("INSERT INTO {ks}.loading (key) VALUES (0) IF NOT EXISTS", [()])
    if not await is_loading(session):
        raise StorageError("store cassandra: could not be marked")


async def unmark_loading(session: Session) -> None:
    """Let nodes serve this store."""
    await session.applied("DELETE FROM {ks}.loading WHERE key = 0 IF EXISTS", [()])
    if await is_loading(session):
        raise StorageError("store cassandra: all is loaded, but its mark could not be removed; run it again")


async def empty(session: Session, table: str) -> None:
    """Remove all rows of a table; all members have to be up."""
    await session.define(f"TRUNCATE TABLE {session.keyspace}.{table}")


async def epochs(session: Session) -> list[int]:
    """Return the epochs that have a table of wraps, ascending."""
    return sorted(int(name[5:]) for name in await tables(session) if name.startswith("wrap_"))


async def make_wrap_table(session: Session, epoch: int) -> None:
    """Make an epoch's table of wraps, unless it is there."""
    await _make_table(session, f"wrap_{int(epoch)}", _WRAP)


async def _make_table(session: Session, name: str, columns: str) -> None:
    # Two who make one table at a time give it two ids, and members that learnt of different ones never agree again:
    # the id is a function of the name, so both make the same table.
    table_id = uuid.uuid5(uuid.NAMESPACE_OID, f"anwen/{session.keyspace}/{name}")
    order = _NEWEST_FIRST.get(name.partition("_")[0])
    newest_first = f"CLUSTERING ORDER BY ({order}) AND " if order else ""
    await session.define(
        f"CREATE TABLE IF NOT EXISTS {session.keyspace}.{name} ({columns}) "
        f"WITH {newest_first}ID = {table_id} AND speculative_retry = 'MIN(99p,10ms)'"
    )


# --- promises ----------------------------------------------------------------------------------------------------


async def check(session: Session) -> dict[str, str]:
    """Return what durability and steadiness depend on, as the cluster states it. Raises PolicyError, StorageError."""
    keyspace, zones = await _keyspace(session, session.keyspace), await _zones(session)
    if keyspace is None:
        raise StorageError(f"store cassandra: no keyspace {session.keyspace}")
    replication, durable = keyspace
    check_replication(replication, zones)
    if not durable:  # then writes go past the commit log, and no setting of it means anything
        raise PolicyError(f"store cassandra: durable_writes of keyspace {session.keyspace}: expected true, got false")
    found = {"replication": _words(replication), "durable_writes": "true"}
    if session.signs_in and (roles := await _keyspace(session, _ROLES)) is not None:
        check_replication(roles[0], zones, f" of {_ROLES}")  # as it comes it is in one zone, and sign-in ends with that
        found[f"replication of {_ROLES}"] = _words(roles[0])
    for host in session.cluster.metadata.all_hosts():
        place = _place(host)
        values = await _settings(session, host)
        found |= {f"{name} {place}": value for name, value in values.items()}
        sync = values.get("commitlog_sync")
        if sync not in (None, "batch", "group"):
            raise PolicyError(f"store cassandra: {place}: commitlog_sync: expected batch or group, got {sync}")
    return found


def _words(replication: Mapping[str, str]) -> str:
    return ", ".join(f"{k} {v}" for k, v in sorted(replication.items()))


def check_replication(replication: Mapping[str, str], zones: Mapping[str, Iterable[str]], of: str = "") -> None:
    """Raise PolicyError unless there are three replicas, each in a zone of its own.

    Args:
        replication: of a keyspace, as `system_schema.keyspaces` has it.
        zones: racks of each data centre.
        of: words that say which keyspace; none for the one with the tables.
    """
    setting = f"store cassandra: replication{of}"
    name = replication.get("class", "").rpartition(".")[2]
    if name != "NetworkTopologyStrategy":
        raise PolicyError(f"{setting}: expected NetworkTopologyStrategy, got {name}")
    copies = {dc: int(number) for dc, number in replication.items() if dc != "class"}
    if sum(copies.values()) < REPLICAS:
        raise PolicyError(f"{setting}: expected {REPLICAS} or more, got {sum(copies.values())}")
    for dc, number in copies.items():
        racks = len(set(zones.get(dc, ())))
        if number > racks and not of:  # roles may lie on more members: all they have to outlive is a zone
            raise PolicyError(f"{setting}: {number} replicas in {racks} zones of {dc}")


async def members(session: Session) -> dict[str, str]:
    """Return for each member "whole" if it reaches every copy, else that it does not."""
    statement = SimpleStatement(
        f"SELECT key FROM {session.keyspace}.loading WHERE key = 0",  # noqa: S608 - our own name
        consistency_level=ConsistencyLevel.ALL,
    )

    async def one(host: Host) -> str:
        try:
            await session.member(host, statement)
        except UnavailableError:
            return "does not reach every copy"
        return MEMBER_WHOLE

    hosts = session.cluster.metadata.all_hosts()
    said = await asyncio.gather(*map(one, hosts))
    return {f"member {_place(host)}": text for host, text in zip(hosts, said, strict=True)}


def _place(host: Host) -> str:
    return f"{host.datacenter}/{host.rack}/{host.address}"


async def _settings(session: Session, host: Host) -> dict[str, str]:
    """Return a member's own settings; none of one that is down, or has no such table. Raises PolicyError."""
    names = ", ".join(f"'{name}'" for name in _SETTINGS)
    select = f"SELECT name, value FROM system_views.settings WHERE name IN ({names})"  # noqa: S608 - our own names
    try:
        return dict(await session.member(host, select))
    except NotGrantedError as error:  # without them nobody would see that writes are acknowledged too early
        raise PolicyError(f"{error}; GRANT SELECT ON KEYSPACE system_views") from error
    except UnavailableError:
        return {}


async def _keyspace(session: Session, name: str) -> tuple[dict[str, str], bool] | None:
    """Return a keyspace's replication and whether its writes go through the commit log; None: it is not there."""
    select = "SELECT replication, durable_writes FROM system_schema.keyspaces WHERE keyspace_name = ?"
    (rows,) = await session.run(select, [(name,)])
    return (dict(rows[0][0]), bool(rows[0][1])) if rows else None


async def _zones(session: Session) -> dict[str, set[str]]:
    """Return the racks of each data centre; members that start together learn of each other within seconds."""
    until = time.monotonic() + GOSSIP_S
    while True:
        zones: dict[str, set[str]] = defaultdict(set)
        for host in session.cluster.metadata.all_hosts():
            zones[host.datacenter].add(host.rack)
        if sum(map(len, zones.values())) >= REPLICAS or time.monotonic() > until:
            return zones
        await asyncio.sleep(0.25)  # gossip makes a round a second, and tells nobody when it is done
        await session.refresh()


def _one_a_zone(zones: Mapping[str, Iterable[str]]) -> str:
    """Return three replicas in three racks of a data centre, else one in each of three data centres."""
    for dc, racks in sorted(zones.items()):
        if len(set(racks)) >= REPLICAS:
            return str({"class": "NetworkTopologyStrategy", dc: REPLICAS})
    if len(zones) >= REPLICAS:
        return str({"class": "NetworkTopologyStrategy"} | dict.fromkeys(sorted(zones)[:REPLICAS], 1))
    raise PolicyError(f"store cassandra: replication: expected three zones, got {len(zones)} data centres")


async def size_bytes(session: Session) -> int:
    """Return what the members that answer have on disk, in whole MiB, all replicas together."""
    select = f"SELECT mebibytes FROM system_views.disk_usage WHERE keyspace_name = '{session.keyspace}' ALLOW FILTERING"  # noqa: S608
    total = 0
    for host in session.cluster.metadata.all_hosts():
        try:
            total += sum(mebibytes for (mebibytes,) in await session.member(host, select))
        except UnavailableError:
            continue
    return total << 20
