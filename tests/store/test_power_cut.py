"""Power fails for a PostgreSQL server, or for all Cassandra members at once, under load: nothing acknowledged is lost."""

import asyncio
import contextlib

import pytest
from faults import Load
from postgresql_server import fresh_settings, needs_server

from anwen.errors import StorageError
from anwen.rehearse import cassandra, postgresql
from anwen.store import engines
from power import disk

__all__ = ["disk"]

pytestmark = pytest.mark.deep

ADDRESSES = {zone: f"127.0.77.{11 + i}" for i, zone in enumerate("abc")}


class Postgresql:
    def __init__(self, folder):
        self.server = postgresql.Server(folder / "server")
        self.start = self.server.start
        self.kill = self.server.kill

    async def settings(self):
        return await asyncio.to_thread(fresh_settings, self.server)


class Cassandra:
    def __init__(self, folder):
        self.cluster = cassandra.Cluster(folder / "members", addresses=ADDRESSES)
        self.start = self.cluster.start

    def kill(self):
        for zone in self.cluster.zones:
            self.cluster.kill(zone)

    async def settings(self):
        return self.cluster.settings("a")


@pytest.mark.parametrize(
    "engine", [pytest.param("postgresql", marks=needs_server), "cassandra"],
)  # fmt: skip
async def test_nothing_acknowledged_is_lost_when_power_fails_for_all_members(engine, disk, tmp_path):
    if engine == "cassandra" and (reason := cassandra.missing()) is not None:
        pytest.skip(reason)
    made = (Postgresql if engine == "postgresql" else Cassandra)(disk.path)
    await made.start()
    try:
        settings = await made.settings()
        store = await engines.connect(engine, settings, tmp_path)
        disk.sync()  # the tables are older than the cut
        load = Load([store], 7)
        async with load.running():
            await load.wait(150)
            disk.cut()
            await asyncio.to_thread(made.kill)
        with contextlib.suppress(StorageError):
            await store.close()
        disk.gone()
        disk.back()
        await made.start()
        store = await engines.connect(engine, settings, tmp_path)
        await load.check(store, stepwise=True)
        await load.repeat(store)
        await load.check(store)
        await store.close()
    finally:
        await asyncio.to_thread(made.kill)
