"""The SQLite engine: the contract, its file, crashes, full disks."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from contract import CONTACT_CLASSES, EPOCH, StoreContract, exact, labels, outcomes, owners, put, row, unique, updated

from anwen.errors import PolicyError, StorageError
from anwen.store import sqlite_copy, sqlite_read, sqlite_schema
from anwen.store.base import Outcome
from anwen.store.sqlite import SqliteStore


@pytest.fixture
async def store(tmp_path):
    engine = SqliteStore(tmp_path / "store" / "anwen.sqlite")
    yield engine
    await engine.close()


class TestSqlite(StoreContract):
    pass


async def test_what_was_acknowledged_is_there_after_a_restart(tmp_path):
    path = tmp_path / "anwen.sqlite"
    rows = [row(postings=[unique(os.urandom(16))]) for _ in range(20)]
    engine = SqliteStore(path)
    await put(engine, *rows)
    await engine.close()
    engine = SqliteStore(path)
    assert {r.record for r in await engine.get(EPOCH, [r.record for r in rows], ())} == {r.record for r in rows}
    assert await outcomes(engine, *rows) == [Outcome.STORED] * 20
    await engine.close()
    with pytest.raises(StorageError):
        await put(engine, row())
    with pytest.raises(StorageError):
        await engine.find([bytes(16)])


async def test_file_and_settings(store, tmp_path):
    await put(store, row())
    for path in (tmp_path / "store").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path.name
    settings = (await store.statistics()).settings
    assert (settings["journal_mode"], settings["synchronous"], settings["secure_delete"]) == ("wal", "2", "1")


def test_a_readable_file_is_refused(tmp_path):
    path = tmp_path / "anwen.sqlite"
    path.touch(mode=0o644)
    path.chmod(0o644)
    with pytest.raises(PolicyError, match="0644"):
        SqliteStore(path)


def test_another_database_and_junk_are_refused(tmp_path):
    other = sqlite3.connect(tmp_path / "other")
    other.execute("CREATE TABLE t (x)")
    other.close()
    (tmp_path / "junk").write_bytes(b"junk" * 1000)
    for name in ("other", "junk"):
        (tmp_path / name).chmod(0o600)
        with pytest.raises(StorageError):
            SqliteStore(tmp_path / name)


def test_a_file_of_an_earlier_build_is_refused(tmp_path):
    path = tmp_path / "anwen.sqlite"
    sqlite_schema.open_writer(path).execute("PRAGMA user_version = 1").connection.close()
    with pytest.raises(StorageError, match="of an earlier build: restore a backup"):
        SqliteStore(path)


async def test_a_record_is_read_and_updated_without_the_versions_that_were_replaced(store, tmp_path):
    last = await updated(store, 300)
    steps = []
    for record in (last.record, (await updated(store, 3)).record):
        with contextlib.closing(sqlite_schema.open_reader(tmp_path / "store" / "anwen.sqlite")) as db:
            counted = [0]
            db.set_progress_handler(lambda counted=counted: counted.__setitem__(0, counted[0] + 1), 1)
            found = sqlite_read.get(db, EPOCH, [record], ())
            assert next(r.version for r in found) == 1
            steps.append(counted[0])
    assert steps[0] == steps[1], "steps of SQLite's machine, for 301 versions and for 4"
    with contextlib.closing(sqlite3.connect(tmp_path / "store" / "anwen.sqlite")) as db, db:
        db.execute("UPDATE row SET sealed = x'01' WHERE record = ? AND version BETWEEN 2 AND 300", (last.record,))
    more = row(last.record, 302, subject=last.subject, classes=CONTACT_CLASSES)
    assert await outcomes(store, more) == [Outcome.STORED]
    assert [r.version for r in await store.get(EPOCH, [last.record], ())] == [1, 302]


@pytest.mark.parametrize("setting", ["synchronous = FULL", "journal_mode = WAL", "secure_delete = ON"])
def test_a_weaker_setting_is_refused(tmp_path, monkeypatch, setting):
    real = sqlite3.connect

    class Weaker(sqlite3.Connection):
        def execute(self, sql, *args):
            return super().execute("PRAGMA secure_delete = OFF" if "secure_delete = ON" in sql == setting in sql
                                   else "SELECT 0" if setting in sql else sql, *args)  # fmt: skip

    def connect(*args, **kwargs):
        db = real(*args, factory=Weaker, **kwargs)
        sqlite3.Connection.execute(db, "PRAGMA synchronous = NORMAL")
        sqlite3.Connection.execute(db, "PRAGMA secure_delete = OFF")
        return db

    monkeypatch.setattr(sqlite_schema.sqlite3, "connect", connect)
    with pytest.raises(StorageError, match=setting.split(" ")[0]):
        SqliteStore(tmp_path / "anwen.sqlite")


async def test_no_table_keeps_the_order_of_insertion(store, tmp_path):
    await put(store, row(postings=[unique(os.urandom(16))]))
    db = sqlite3.connect(tmp_path / "store" / "anwen.sqlite")
    tables = dict(db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table'"))
    db.close()
    assert set(tables) == {"row", "posting", "subject", "deleted", "wrap_1"}
    assert all("WITHOUT ROWID" in sql for sql in tables.values())


async def test_deleted_values_leave_no_bytes_in_the_file(store, tmp_path):
    """Secure deletion: once the log is checkpointed, what was deleted is nowhere; versions stay."""
    one, gone = row(), row()
    two = row(one.record, 2, subject=one.subject)
    await put(store, one, gone)
    await put(store, two)
    await store.delete([(gone.record, 1)])
    await store.close()
    data = (tmp_path / "store" / "anwen.sqlite").read_bytes()
    assert one.sealed in data
    assert gone.sealed[:40] not in data
    assert two.sealed in data


async def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    engine = SqliteStore(tmp_path / "anwen.sqlite")
    kept = row(postings=[unique(os.urandom(16))])
    await put(engine, kept)
    pages = engine._db.execute("PRAGMA page_count").fetchone()[0]
    engine._db.execute(f"PRAGMA max_page_count = {pages + 8}")
    slots = labels(300)
    lost = [row(postings=[exact(la)]) for la in slots]
    with pytest.raises(StorageError, match="SQLITE_FULL"):
        await put(engine, *lost)
    assert await engine.get(EPOCH, [r.record for r in lost], ()) == []
    assert await owners(engine, slots) == [None] * 300
    assert len(await engine.get(EPOCH, [kept.record], ())) == 1
    engine._db.execute("PRAGMA max_page_count = 1000000")
    assert set(await outcomes(engine, *lost)) == {Outcome.STORED}  # room again: the same put goes through
    await engine.close()


async def test_one_failing_put_does_not_take_its_neighbours_along(store):
    broken = row()
    await put(store, broken)
    store._db.execute(
        "CREATE TRIGGER broken BEFORE INSERT ON row WHEN NEW.version = 2 BEGIN SELECT raise(ABORT, 'x'); END"
    )
    update = row(broken.record, 2, subject=broken.subject)
    good = [row() for _ in range(6)]
    results = await asyncio.gather(*(put(store, r) for r in [*good[:3], update, *good[3:]]), return_exceptions=True)
    assert isinstance(results[3], Exception)
    assert [r[0].outcome for i, r in enumerate(results) if i != 3] == [Outcome.STORED] * 6


def disk_error(name):
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = name
    return error


async def test_after_a_disk_error_nothing_is_written_until_a_restart(tmp_path):
    engine = SqliteStore(tmp_path / "anwen.sqlite")
    await put(engine, row())

    def failing(_db):
        raise disk_error("SQLITE_IOERR_FSYNC")

    with pytest.raises(StorageError, match="SQLITE_IOERR_FSYNC"):
        await engine._submit(failing, 1)
    with pytest.raises(StorageError, match="start again"):
        await put(engine, row())
    await engine.close()


async def test_a_disk_error_in_a_group_has_none_of_it_tried_again(store):
    begun, go, runs = threading.Event(), threading.Event(), []

    def busy(_db):
        begun.set()
        go.wait()

    def failing(_db):
        runs.append(1)
        raise disk_error("SQLITE_IOERR_FSYNC")

    first = asyncio.create_task(store._submit(busy, 1))
    await asyncio.to_thread(begun.wait)
    one = row()
    group = [asyncio.create_task(c) for c in (store._submit(failing, 1), put(store, one), store._submit(failing, 1))]
    await asyncio.sleep(0)
    go.set()
    await first
    for refused in await asyncio.gather(*group, return_exceptions=True):
        assert isinstance(refused, StorageError)
        assert "SQLITE_IOERR_FSYNC" in str(refused)
    assert len(runs) == 1
    assert await store.get(EPOCH, [one.record], ()) == []
    with pytest.raises(StorageError, match="start again"):
        await put(store, row())


@pytest.mark.parametrize("keys", [1, 64])
async def test_a_disk_error_in_a_read_stops_writing_though_the_engine_has_ended_the_transaction(store, keys):
    def failing(db):
        db.execute("ROLLBACK")  # as SQLite does then by itself
        raise disk_error("SQLITE_IOERR_READ")

    with pytest.raises(StorageError, match="SQLITE_IOERR_READ"):
        await store._read(failing, keys)
    with pytest.raises(StorageError, match="start again"):
        await put(store, row())


async def test_a_disk_error_in_a_copy_stops_writing(store, monkeypatch):
    def failing(db, _dump=sqlite_copy.dump):
        batches = _dump(db)
        yield next(batches)
        db.execute("ROLLBACK")
        batches.throw(disk_error("SQLITE_IOERR_READ"))

    await put(store, row())
    monkeypatch.setattr(sqlite_copy, "dump", failing)
    with pytest.raises(StorageError, match="SQLITE_IOERR_READ"):
        _ = [batch async for batch in store.dump()]
    with pytest.raises(StorageError, match="start again"):
        await put(store, row())


_WRITER = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
from contract import put, row, unique, exact, labels
from anwen.store.sqlite import SqliteStore

async def write(store, number):
    while True:
        rows = [row(postings=[unique(labels(1)[0]), exact(*labels(3))]) for _ in range(5)]
        results = await put(store, *rows)
        for r, result in zip(rows, results):
            names = [p.labels[s].hex() for p, s in zip(r.postings, result.slots)]
            print(r.record.hex(), r.tag.hex(), *names, flush=False)
        sys.stdout.flush()

async def main():
    store = SqliteStore(sys.argv[1])
    await asyncio.gather(*(write(store, i) for i in range(4)))

asyncio.run(main())
"""


def killed_writer(path, acknowledged):
    """What a process said was stored until it was killed."""
    command = [sys.executable, "-c", _WRITER, str(path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline() for _ in range(acknowledged)]
        process.send_signal(signal.SIGKILL)
        return lines + process.stdout.read().splitlines(keepends=True)


@pytest.mark.parametrize("acknowledged", [1, 40, 400])
async def test_kill_9_loses_nothing_acknowledged_and_leaves_nothing_half(tmp_path, acknowledged):
    path = tmp_path / "anwen.sqlite"
    lines = killed_writer(path, acknowledged)
    told = [line.split() for line in lines if line.endswith("\n")]  # a last line may be cut
    engine = SqliteStore(path)
    for record, tag, *posted in told:
        (got,) = await engine.get(EPOCH, [bytes.fromhex(record)], ())
        assert got.tag.hex() == tag
        assert len(got.wraps) > 20
        assert {o.hex() for o in await owners(engine, [bytes.fromhex(la) for la in posted])} == {record}
    counts = await engine.statistics()
    assert counts.records == counts.rows == counts.postings / 2 >= len(told)
    assert engine._db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    await engine.close()


@pytest.mark.parametrize(("last_s", "on_the_loop"), [(0.0, True), (1.0, False)])
async def test_few_keys_are_read_on_the_event_loop_while_the_disk_is_fast(store, last_s, on_the_loop):
    one = row()
    await put(store, one)
    store._read_s = last_s
    threads = []
    await store._read(lambda _db: threads.append(threading.current_thread() is threading.main_thread()), keys=1)
    store._read_s = 0.0
    await store._read(lambda _db: threads.append(threading.current_thread() is threading.main_thread()), keys=64)
    assert threads == [on_the_loop, False]
