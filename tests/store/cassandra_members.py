"""Three Cassandra members for tests, one set for a session."""

import asyncio
import os
from pathlib import Path

import pytest

from anwen.rehearse import cassandra
from anwen.store import engines

EMPTIED = ("row", "posting", "subject", "listing")


@pytest.fixture(scope="session")
def members(tmp_path_factory):
    """A cluster at addresses that no other session has."""
    if (reason := cassandra.missing()) is not None:
        assert os.environ.get("ANWEN_ENGINES") != "required", reason
        pytest.skip(reason)
    net = f"127.{1 + os.getpid() // 256 % 250}.{os.getpid() % 256}"
    addresses = {zone: f"{net}.{11 + i}" for i, zone in enumerate("abc")}
    cluster = cassandra.Cluster(tmp_path_factory.mktemp("cassandra"), addresses=addresses)
    try:
        asyncio.run(cluster.start())
        yield cluster
    finally:
        for zone in cluster.zones:
            cluster.kill(zone)


async def connected(members, zone="a", **settings):
    return await engines.connect("cassandra", members.settings(zone) | settings, Path("/"))


async def emptied(store):
    """Nothing is left of another test, where one asks for everything."""
    tables = EMPTIED, (f"wrap_{e}" for e in await store.epochs())
    for table in [t for part in tables for t in part]:
        drops = table.startswith("wrap_") and table != "wrap_1"
        await store._session.define(f"{'DROP' if drops else 'TRUNCATE'} TABLE {store._session.keyspace}.{table}")
