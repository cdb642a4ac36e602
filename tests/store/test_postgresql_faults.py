"""The PostgreSQL engine under faults: kills, cuts, hangs, duplicates, and clocks that it does not look at."""


import pytest
from faults import FaultContract, Load
from postgresql_server import execute, fresh_settings, needs_server, running_server

from anwen.store import engines, postgresql_schema

pytestmark = needs_server
CALL_S = 2.0


@pytest.fixture(scope="module")
def server():
    with running_server() as one:
        yield one


@pytest.fixture
def settings(server):
    return fresh_settings(server, statement_timeout_s=CALL_S)


@pytest.fixture
async def connect(settings, tmp_path):
    stores = []

    async def one():
        stores.append(await engines.connect("postgresql", settings, tmp_path))
        return stores[-1]

    yield one
    for store in stores:
        await store.close()


@pytest.fixture
def cut(server, settings):
    name = str(settings["conninfo"]).rpartition("=")[2]
    return lambda: execute(
        server, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    )  # fmt: skip


class TestPostgresqlFaults(FaultContract):
    CALL_S = CALL_S


async def test_the_suite_sees_a_loss(server, connect, settings, monkeypatch):
    """Commits that do not wait for the disk, if the engine let them: the same check finds what is gone."""
    monkeypatch.setattr(postgresql_schema, "_WEAK", {})
    name = str(settings["conninfo"]).rpartition("=")[2]
    execute(server, f"ALTER ROLE {name} SET synchronous_commit = off")
    load = Load([await connect()], 1)
    async with load.running():
        await load.wait(40)
        server.kill()
    await server.start()
    with pytest.raises(AssertionError, match="acknowledged"):
        await load.check(await connect())
