"""Three Cassandra members for tests, one set for a session."""

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from anwen.rehearse import cassandra
from anwen.store import cassandra_schema as schema
from anwen.store import engines


def stopped(folder, place=0, **options):
    """Return a cluster, not started yet, at addresses that no other session and no other place has."""
    if (reason := cassandra.missing()) is not None:
        assert os.environ.get("ANWEN_ENGINES") != "required", reason
        pytest.skip(reason)
    net = f"127.{1 + os.getpid() // 256 % 250}.{os.getpid() % 256}"
    addresses = {zone: f"{net}.{11 + 10 * place + i}" for i, zone in enumerate("abc")}
    return cassandra.Cluster(folder, addresses=addresses, options=options)


@contextlib.contextmanager
def running(cluster):
    asyncio.run(cluster.start())
    try:
        yield cluster
    finally:
        for zone in cluster.zones:
            cluster.kill(zone)


@pytest.fixture(scope="session")
def members(tmp_path_factory):
    with running(stopped(tmp_path_factory.mktemp("cassandra"))) as cluster:
        yield cluster


async def connected(members, zone="a", **settings):
    return await engines.connect("cassandra", members.settings(zone) | settings, Path("/"))


async def emptied(session):
    """Nothing is left of another test: where one asks for everything, and rather than seconds for another keyspace."""
    for table in await schema.tables(session):
        drops = table.startswith("wrap_") and table != "wrap_1"
        await session.define(f"{'DROP' if drops else 'TRUNCATE'} TABLE {session.keyspace}.{table}")
