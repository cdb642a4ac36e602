"""Copies of a store on PostgreSQL: the same rows as SQLite's, one moment, all or nothing; and from one engine to another."""

import asyncio
import signal
import socket

import pytest
from contract import EPOCH, put, row
from copies import CopyContract, dumped, filled
from postgresql_server import fresh_settings, needs_server, running_server

from anwen.errors import StorageError, UnavailableError
from anwen.store import copying, postgresql_copy

pytestmark = needs_server


@pytest.fixture(scope="module")
def server():
    with running_server() as one:
        yield one


@pytest.fixture
def fresh(server):
    return lambda: fresh_settings(server)


class TestPostgresqlCopy(CopyContract):
    ENGINE = "postgresql"


async def test_writes_during_a_dump_are_not_in_it(fresh, tmp_path):
    settings = fresh()
    store, _ = await filled("postgresql", settings, tmp_path)
    copy = await copying.connect("postgresql", settings, tmp_path)
    found = {}
    async for table, rows in copy.dump():
        found.setdefault(table, []).extend(rows)
        await put(store, row())
    await copy.close()
    await store.close()
    assert (len(found["row"]), len(found[f"wrap_{EPOCH}"]), len(found["subject"])) == (30, 29, 30)


async def test_no_server_is_unavailable(tmp_path):
    with pytest.raises(UnavailableError, match="no server"):
        await copying.connect("postgresql", {"conninfo": "host=127.0.0.1 port=1 dbname=x"}, tmp_path)


async def test_a_host_that_hangs_before_the_live_one_costs_nothing(fresh, tmp_path):
    """It accepts and says nothing, for which libpq waits two minutes."""
    settings = fresh()
    hanging = socket.create_server(("127.0.0.1", 0))
    parts = dict(part.split("=", 1) for part in settings["conninfo"].split())
    several = {"host": f"127.0.0.1,{parts['host']}", "port": f"{hanging.getsockname()[1]},{parts['port']}"}
    conninfo = " ".join(f"{name}={value}" for name, value in (parts | several).items())
    async with asyncio.timeout(1.5):
        copy = await copying.connect("postgresql", settings | {"conninfo": conninfo}, tmp_path)
    assert await dumped(copy) == {}
    await copy.close()
    hanging.close()


async def test_a_server_that_froze_is_not_waited_for(server, fresh, tmp_path, monkeypatch):
    """In the middle of a copy out, of one in, and before either."""
    monkeypatch.setattr(postgresql_copy, "STALLED_S", 1.0)
    monkeypatch.setattr(postgresql_copy, "ROWS", 7)
    settings, into = fresh(), fresh()
    store, _ = await filled("postgresql", settings, tmp_path)
    await store.close()
    out, again, target = [await copying.connect("postgresql", s, tmp_path) for s in (settings, settings, into)]
    content = await dumped(again)
    batches = out.dump()
    assert (await anext(batches))[0] == "row"

    def freezing():
        server.signal(signal.SIGSTOP)
        yield "row", content["row"]

    try:
        async with asyncio.timeout(20):
            with pytest.raises(StorageError, match=r"no answer for 1 s; look whether it is empty"):
                await target.load(freezing())
            with pytest.raises(StorageError, match=r"no answer for 1 s$"):
                await anext(batches)
            with pytest.raises(UnavailableError, match="no server takes writes"):
                await copying.connect("postgresql", settings, tmp_path)
            for copy in (out, again, target):
                await copy.close()
    finally:
        server.signal(signal.SIGCONT)
    copy = await copying.connect("postgresql", into, tmp_path)
    await copy.load(iter(content.items()))
    assert await dumped(copy) == content
    await copy.close()
