"""Copies of a store on PostgreSQL: the same rows as SQLite's, one moment, all or nothing; and from one engine to another."""

import pytest
from contract import EPOCH, put, row
from copies import CopyContract, filled
from postgresql_server import fresh_settings, needs_server, running_server

from anwen.errors import UnavailableError
from anwen.store import copying

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
