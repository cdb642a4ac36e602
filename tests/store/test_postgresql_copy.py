"""Copies of a store on PostgreSQL: the same rows as SQLite's, one moment, all or nothing; and from one engine to another."""

import pytest
from contract import EPOCH, exact, labels, put, row, unique
from postgresql_server import fresh_settings, needs_server, running_server

from anwen.errors import ConflictError, MalformedError, UnavailableError
from anwen.store import copying, engines
from anwen.store.copying import columns

pytestmark = needs_server


@pytest.fixture(scope="module")
def server():
    with running_server() as one:
        yield one


@pytest.fixture
async def filled(server, tmp_path):
    """Settings of a store with rows of two epochs, postings, a tombstone and a deleted record; and the rows."""
    settings = fresh_settings(server)
    store = await engines.connect("postgresql", settings, tmp_path)
    rows = [row(postings=(exact(*labels(2)), unique(*labels(1)))) for _ in range(30)]
    await put(store, *rows)
    await put(store, row(), epoch=EPOCH + 1)
    await store.delete([(rows[0].record, 1)])
    yield settings, store, rows
    await store.close()


async def dumped(copy):
    """All rows by table."""
    found = {}
    async for table, rows in copy.dump():
        found.setdefault(table, []).extend(rows)
    return found


async def test_what_is_dumped_is_loaded_into_another_server_and_into_sqlite(filled, server, tmp_path):
    settings, store, rows = filled
    copy = await copying.connect("postgresql", settings, tmp_path)
    content = await dumped(copy)
    await copy.close()
    assert set(content) == {"row", "posting", "subject", "deleted", f"wrap_{EPOCH}", f"wrap_{EPOCH + 1}"}
    assert len(content["row"]) == 30
    for table, found in content.items():
        assert found == sorted(found), table  # by key: the order of writing is told to nobody
        kinds = [int if kind == "i" else bytes for kind in columns(table)]
        assert {tuple(map(type, r)) for r in found} == {tuple(kinds)}, table
    records = [r.record for r in rows]
    others = [("postgresql", fresh_settings(server)), ("sqlite", {"path": "s/anwen.sqlite"})]
    for engine, into in others:
        target = await copying.connect(engine, into, tmp_path)
        await target.load(iter(content.items()))
        assert await dumped(target) == content
        with pytest.raises(ConflictError, match="not empty"):
            await target.load(iter(content.items()))
        await target.close()
        restored = await engines.connect(engine, into, tmp_path)
        assert await restored.get(EPOCH, records, ()) == await store.get(EPOCH, records, ())
        assert len(await restored.get(EPOCH, records, ())) == 29
        await restored.close()


async def test_what_fails_in_the_middle_leaves_nothing(filled, server, tmp_path):
    settings, _, _ = filled
    copy = await copying.connect("postgresql", settings, tmp_path)
    content = await dumped(copy)
    await copy.close()

    def cut():
        yield "row", content["row"]
        raise MalformedError("cut")

    target = await copying.connect("postgresql", fresh_settings(server), tmp_path)
    with pytest.raises(MalformedError):
        await target.load(cut())
    assert await dumped(target) == {}
    await target.load(iter(content.items()))
    assert await dumped(target) == content
    await target.close()


async def test_writes_during_a_dump_are_not_in_it(filled, tmp_path):
    settings, store, _ = filled
    copy = await copying.connect("postgresql", settings, tmp_path)
    found = {}
    async for table, rows in copy.dump():
        found.setdefault(table, []).extend(rows)
        await put(store, row())
    await copy.close()
    assert (len(found["row"]), len(found[f"wrap_{EPOCH}"]), len(found["subject"])) == (30, 29, 30)


async def test_no_server_is_unavailable(tmp_path):
    with pytest.raises(UnavailableError, match="no server"):
        await copying.connect("postgresql", {"conninfo": "host=127.0.0.1 port=1 dbname=x"}, tmp_path)
