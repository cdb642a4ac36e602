"""What a copy of any engine on servers must be. An engine's own test file subclasses `CopyContract` and brings:

- `fresh`: `fresh()` gives the settings of an empty store of the engine named `ENGINE`.
"""

import pytest
from contract import CONTACT_CLASSES, EPOCH, IDENTITY_CLASSES, exact, labels, put, row, unique

from anwen.errors import ConflictError, MalformedError
from anwen.store import copying, engines
from anwen.store.copying import columns


async def dumped(copy):
    """All rows by table."""
    found = {}
    async for table, rows in copy.dump():
        found.setdefault(table, []).extend(rows)
    return found


async def filled(engine, settings, folder):
    """A store with rows of two epochs, postings, a tombstone and a deleted record; and the rows."""
    store = await engines.connect(engine, settings, folder)
    rows = [row(postings=(exact(*labels(2)), unique(*labels(1)))) for _ in range(30)]
    await put(store, *rows)
    await put(store, row(), epoch=EPOCH + 1)
    await store.delete([(rows[0].record, 1)])
    return store, rows


class CopyContract:
    ENGINE = ""

    async def test_what_is_dumped_is_loaded_into_another_server_and_into_sqlite(self, fresh, tmp_path):
        settings = fresh()
        store, rows = await filled(self.ENGINE, settings, tmp_path)
        copy = await copying.connect(self.ENGINE, settings, tmp_path)
        content = await dumped(copy)
        await copy.close()
        assert set(content) == {"row", "posting", "subject", "deleted", f"wrap_{EPOCH}", f"wrap_{EPOCH + 1}"}
        assert [len(content[t]) for t in ("row", "posting", "subject", "deleted")] == [30, 60, 30, 1]
        for table, found in content.items():
            assert found == sorted(found), table  # by key: the order of writing is told to nobody
            kinds = [int if kind == "i" else bytes for kind in columns(table)]
            assert {tuple(map(type, r)) for r in found} == {tuple(kinds)}, table
        records = [r.record for r in rows]
        for engine, into in [(self.ENGINE, fresh()), ("sqlite", {"path": "s/anwen.sqlite"})]:
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
        await store.close()

    async def test_a_record_of_many_versions_is_after_a_restore_what_it_was(self, fresh, tmp_path):
        settings = fresh()
        store = await engines.connect(self.ENGINE, settings, tmp_path)
        ones = [row() for _ in range(3)]
        await put(store, *ones)
        for version in range(2, 9):
            classes = IDENTITY_CLASSES if version == 5 else CONTACT_CLASSES
            await put(store, *(row(r.record, version, subject=r.subject, classes=classes) for r in ones))
        records = [r.record for r in ones]
        expected = await store.get(EPOCH, records, ())
        assert [r.version for r in expected] == [5, 8] * 3
        copy = await copying.connect(self.ENGINE, settings, tmp_path)
        content = await dumped(copy)
        await copy.close()
        for engine, into in [(self.ENGINE, fresh()), ("sqlite", {"path": "s/anwen.sqlite"})]:
            target = await copying.connect(engine, into, tmp_path)
            one_by_one = [(table, [r]) for table, rows in content.items() for r in rows]  # a record goes on in the next
            await target.load(iter(one_by_one))
            await target.close()
            restored = await engines.connect(engine, into, tmp_path)
            assert await restored.get(EPOCH, records, ()) == expected
            await put(restored, *(row(r.record, 9, subject=r.subject, classes=CONTACT_CLASSES) for r in ones))
            assert [r.version for r in await restored.get(EPOCH, records, ())] == [5, 9] * 3
            await restored.close()
        await store.close()

    async def test_what_fails_in_the_middle_leaves_nothing_that_is_served(self, fresh, tmp_path):
        settings, into = fresh(), fresh()
        store, rows = await filled(self.ENGINE, settings, tmp_path)
        await store.close()
        copy = await copying.connect(self.ENGINE, settings, tmp_path)
        content = await dumped(copy)
        await copy.close()

        def cut():
            yield "row", content["row"]
            raise MalformedError("cut")

        target = await copying.connect(self.ENGINE, into, tmp_path)
        with pytest.raises(MalformedError):
            await target.load(cut())
        await self.is_empty_or_refused(into, tmp_path)
        await target.load(iter(content.items()))
        assert await dumped(target) == content
        await target.close()
        restored = await engines.connect(self.ENGINE, into, tmp_path)
        assert len(await restored.get(EPOCH, [r.record for r in rows], ())) == 29
        await restored.close()

    async def is_empty_or_refused(self, settings, folder):
        copy = await copying.connect(self.ENGINE, settings, folder)
        assert await dumped(copy) == {}
        await copy.close()
