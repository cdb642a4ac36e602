"""The SQLite engine: one file, one writer thread that shares a commit among concurrent writes, a few readers.

Nothing is acknowledged before its transaction's fsync. A crash at any point leaves whole transactions alone: with
`synchronous = FULL` the write-ahead log is on disk when a commit returns, and what it holds of a transaction
without its commit record is ignored at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import queue
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from anwen.errors import AnwenError, PolicyError, StorageError
from anwen.store import sqlite_copy, sqlite_read, sqlite_schema, sqlite_write
from anwen.store.base import Hit, PutResult, PutRow, Statistics, StoredRow
from anwen.store.copying import Batch

T = TypeVar("T")
GROUP_ROWS = 16_384
"""Rows that share a commit: beyond it the cache spills, and who waits waits long."""
READERS = 2
MANY = 64
SHORT_S = 0.001
"""Fewer than MANY keys are read on the event loop as long as the last read took less: a thread costs more than that."""

IDLE_S = 1.0


async def connect(settings: Mapping[str, object], folder: Path, *, make: bool = True) -> SqliteStore:
    """Return the store in the file `{"path": ...}`, relative to `folder`.

    Raises: PolicyError, StorageError. NotFoundError: it is not there, and not to be made.
    """
    if set(settings) != {"path"}:
        raise PolicyError(f"store settings of sqlite: expected path, got {', '.join(settings) or 'none'}")
    return SqliteStore(folder / str(settings["path"]), make=make)


@dataclass(frozen=True, slots=True)
class _Job:
    run: Callable[[sqlite3.Connection], Any]
    rows: int
    done: Future[Any]


class SqliteStore:
    """A `store.base.Store` in one file. Safe for several event loops and threads of one process."""

    engine = "sqlite"

    def __init__(self, path: Path | str, *, make: bool = True) -> None:
        """Open the store, or make it. Raises StorageError, PolicyError (others may read the file), NotFoundError."""
        self._path = Path(path)
        self._db = sqlite_schema.open_writer(self._path, make=make)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._failed = ""
        self._closed = False
        self._read_s = 0.0  # how long the last read took
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="anwen-store-read")
        self._writer = threading.Thread(target=self._write, name="anwen-store-write", daemon=True)
        self._writer.start()

    # --- the protocol --------------------------------------------------------------------------------------------

    async def put(self, epoch: int, rows: Sequence[PutRow]) -> list[PutResult]:
        return await self._submit(lambda db: sqlite_write.put(db, epoch, rows), len(rows))

    async def delete(self, records: Sequence[tuple[bytes, int]]) -> None:
        await self._submit(lambda db: sqlite_write.delete(db, records), len(records))

    async def get(self, epoch: int, records: Sequence[bytes], classes: Sequence[int]) -> list[StoredRow]:
        return await self._read(lambda db: sqlite_read.get(db, epoch, records, classes), len(records))

    async def find(self, labels: Sequence[bytes]) -> list[Hit]:
        return await self._read(lambda db: sqlite_read.find(db, labels), len(labels))

    async def list_subjects(self, collection: int, subjects: Sequence[bytes], after: bytes, limit: int) -> list[bytes]:
        return await self._read(lambda db: sqlite_read.list_subjects(db, collection, subjects, after, limit))

    async def epochs(self) -> list[int]:
        return await self._read(sqlite_schema.epochs)

    async def statistics(self) -> Statistics:
        return await self._read(lambda db: sqlite_read.statistics(db, self._path))

    def members(self) -> tuple[int, int]:
        return int(not (self._failed or self._closed)), 1

    async def dump(self) -> AsyncIterator[Batch]:
        db = sqlite_schema.open_reader(self._path)
        batches = sqlite_copy.dump(db)
        try:
            while batch := await asyncio.to_thread(next, batches, None):
                yield batch
        except sqlite3.Error as error:
            raise self._error(error) from error
        finally:
            batches.close()
            db.close()

    async def load(self, batches: Iterator[Batch]) -> None:
        await self._submit(lambda db: sqlite_copy.load(db, batches), GROUP_ROWS)

    async def warm(self) -> None:
        """Do nothing: it is."""

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._writer.join)
        await asyncio.to_thread(self._pool.shutdown)
        for reader in self._readers:
            reader.close()
        self._db.close()

    # --- threads -------------------------------------------------------------------------------------------------

    async def _read(self, run: Callable[[sqlite3.Connection], T], keys: int = MANY) -> T:
        if self._closed:
            raise StorageError(f"store {self._path.name}: closed")
        if keys >= MANY or self._read_s > SHORT_S:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._run_reader, run)
        return self._run_reader(run)

    def _run_reader(self, run: Callable[[sqlite3.Connection], T]) -> T:
        begun = time.perf_counter()
        try:
            db: sqlite3.Connection | None = getattr(self._local, "db", None)
            if db is None:
                db = self._local.db = sqlite_schema.open_reader(self._path)
                self._readers.append(db)
            db.execute("BEGIN")
            try:
                return run(db)
            finally:
                if db.in_transaction:  # a failed read of the disk has ended it, and is what to tell
                    db.execute("COMMIT")
                self._read_s = time.perf_counter() - begun
        except sqlite3.Error as error:
            raise self._error(error) from error

    async def _submit(self, run: Callable[[sqlite3.Connection], T], rows: int) -> T:
        if self._closed or self._failed:
            raise StorageError(f"store {self._path.name}: {self._failed or 'closed'}")
        job = _Job(run, rows, Future())
        self._jobs.put(job)
        result: T = await asyncio.wrap_future(job.done)
        return result

    def _write(self) -> None:
        while self._turn():
            pass  # nothing of a turn is held while the next is waited for
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _turn(self) -> bool:
        """Run what waits as one transaction; False at `close`, after everything that came before it."""
        jobs = [self._next()]
        while jobs[-1] is not None and sum(j.rows for j in jobs if j) < GROUP_ROWS:
            try:
                jobs.append(self._jobs.get_nowait())
            except queue.Empty:
                break
        self._group([j for j in jobs if j and j.done.set_running_or_notify_cancel()])
        return jobs[-1] is not None

    def _next(self) -> _Job | None:
        """Return the next job; while none comes, give the page cache back to the system."""
        try:
            return self._jobs.get(timeout=IDLE_S)
        except queue.Empty:
            with contextlib.suppress(sqlite3.Error, OSError, AttributeError):
                self._db.execute("PRAGMA shrink_memory")
                ctypes.CDLL(None).malloc_trim(0)  # glibc alone: 17 MB of 80 after an import
            return self._jobs.get()

    def _group(self, jobs: Sequence[_Job]) -> None:
        """Run jobs in one transaction; if one fails, each in its own."""
        try:
            results = self._transaction(jobs)
        except BaseException as error:  # noqa: BLE001 - the edge of the writer's thread: whoever waits gets it
            failure = self._error(error)  # first of all: after a failed write none of them is tried again
            if len(jobs) > 1:
                for job in jobs:
                    self._group([job])
            elif jobs:
                jobs[0].done.set_exception(failure)
            return
        for job, result in zip(jobs, results, strict=True):
            job.done.set_result(result)

    def _transaction(self, jobs: Sequence[_Job]) -> list[Any]:
        if self._failed:
            raise StorageError(f"store {self._path.name}: {self._failed}")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            results = [job.run(self._db) for job in jobs]
            # commit point: a crash before it leaves nothing of these jobs, after it all of them
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # it must not hide what it follows
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            raise
        return results

    def _error(self, error: BaseException) -> BaseException:
        """Return what callers see. After a failed read or write of the disk nothing more is written until a restart.

        What the kernel could not write once it may drop, and report the next fsync as a success (PostgreSQL's
        "fsyncgate", 2018); the write-ahead log is read back, and checked, at the next start.
        """
        if isinstance(error, AnwenError) or not isinstance(error, sqlite3.Error | OverflowError | MemoryError):
            return error
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        if name.startswith(("SQLITE_IOERR", "SQLITE_CORRUPT", "SQLITE_NOTADB")):
            self._failed = f"{name}; start again when the disk is sound"
        return StorageError(f"store {self._path.name}: {name}")
