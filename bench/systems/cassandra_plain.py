"""`cassandra_plain`: the same rows in plaintext, a table for each way to find them, QUORUM: the limit of the engine."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cassandra import ConsistencyLevel
from cassandra.cluster import EXEC_PROFILE_DEFAULT as DEFAULT
from cassandra.cluster import Cluster, ExecutionProfile, Session
from cassandra.concurrent import execute_concurrent

from people import FIELDS

NAME = "cassandra_plain"
_INDEXED = ("id_number", "name", "phone")
_IN_FLIGHT = 128
SETTLE_S = 60.0


def load(addresses: Sequence[str], port: int, file: Path, batch: int) -> float:
    """Load an NDJSON file, each batch acknowledged by two of three members; return rows a second."""
    profile = ExecutionProfile(consistency_level=ConsistencyLevel.QUORUM, request_timeout=30)
    cluster = Cluster(list(addresses), port=port, execution_profiles={DEFAULT: profile})
    try:
        session = cluster.connect()
        _settle(cluster, session)
        session.execute(
            "CREATE KEYSPACE plain WITH replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 3}"
        )
        session.set_keyspace("plain")
        columns = ", ".join(f"{f} text" for f in FIELDS)
        session.execute(f"CREATE TABLE person (id bigint PRIMARY KEY, {columns})")
        for name in _INDEXED:
            session.execute(f"CREATE TABLE by_{name} ({name} text, id bigint, PRIMARY KEY ({name}, id))")
        rows = session.prepare(f"INSERT INTO person (id, {', '.join(FIELDS)}) VALUES ({', '.join('?' * 8)})")
        indexes = [(n, session.prepare(f"INSERT INTO by_{n} ({n}, id) VALUES (?, ?)")) for n in _INDEXED]
        numbers, start = itertools.count(), time.perf_counter()

        def statements(part: Sequence[str]) -> Iterator[tuple[Any, tuple[object, ...]]]:
            for row, number in zip(map(json.loads, part), numbers, strict=False):
                yield rows, (number, *(row[f] for f in FIELDS))
                for name, index in indexes:
                    yield index, (row[name], number)

        count = 0
        with file.open(encoding="utf-8") as lines:
            while part := list(itertools.islice(lines, batch)):
                execute_concurrent(session, statements(part), concurrency=_IN_FLIGHT)
                count += len(part)
        return count / (time.perf_counter() - start)
    finally:
        cluster.shutdown()


def _settle(cluster: Cluster, session: Session) -> None:
    """Return when each member knows the others' schema: the driver takes one that is not known for the same."""
    until = time.monotonic() + SETTLE_S
    for host in cluster.metadata.all_hosts():
        versions: set[object] = {None}
        while None in versions or len(versions) != 1:
            if time.monotonic() > until:
                raise RuntimeError(f"members disagree on the schema: {versions}")
            time.sleep(0.2)  # gossip makes a round a second, and tells nobody when it is done
            own = session.execute("SELECT schema_version FROM system.local", host=host)
            others = session.execute("SELECT schema_version FROM system.peers", host=host)
            versions = {row.schema_version for row in (*own, *others)}
