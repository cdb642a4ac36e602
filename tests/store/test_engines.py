"""Which engine a node opens: named by the policy, reached as its own node.json says."""

import pytest
from contract import EPOCH, put, row

from anwen.errors import PolicyError
from anwen.store import copying, engines


async def test_sqlite_opens_the_file_that_node_json_names(tmp_path):
    folder = tmp_path / "nodes" / "a"
    folder.mkdir(parents=True)
    one = row()
    for _ in range(2):
        store = await engines.connect("sqlite", {"path": "../../store/anwen.sqlite"}, folder)
        await put(store, one)
        assert [r.record for r in await store.get(EPOCH, [one.record], ())] == [one.record]
        await store.close()
    assert (tmp_path / "store" / "anwen.sqlite").exists()


@pytest.mark.parametrize("settings", [{}, {"path": "x", "durable": False}, {"conninfo": "host=x"}])
async def test_settings_of_another_engine_are_refused(tmp_path, settings):
    with pytest.raises(PolicyError, match="store settings of sqlite: expected path"):
        await engines.connect("sqlite", settings, tmp_path)
    assert not list(tmp_path.iterdir())


async def test_an_unknown_engine_is_refused(tmp_path):
    with pytest.raises(PolicyError, match="engine os: expected one of sqlite, cassandra, postgresql"):
        await engines.connect("os", {"path": "x"}, tmp_path)


async def test_an_engine_without_its_driver_says_what_to_install(tmp_path, monkeypatch):
    def missing(_name):
        raise ModuleNotFoundError(name="cassandra")

    monkeypatch.setattr(engines, "import_module", missing)
    with pytest.raises(
        PolicyError, match=r"engine cassandra: cassandra is not installed: pip install 'anwen\[cassandra\]'"
    ):
        await engines.connect("cassandra", {}, tmp_path)
    with pytest.raises(PolicyError, match="cassandra is not installed"):
        await copying.connect("cassandra", {}, tmp_path)
