"""The PostgreSQL engine: a pool of connections, and one transaction for the puts that wait at the same time.

Nothing is acknowledged before its commit returned, which the server writes to its log on disk first. A connection
that is lost in a commit leaves the outcome open: the work is repeated, and gives what an uncut one gives.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from anwen.errors import AnwenError, OverloadedError, StorageError, UnavailableError
from anwen.formats.wire import NO_STANDBY
from anwen.store import postgresql_link, postgresql_read, postgresql_schema, postgresql_write
from anwen.store.base import Hit, PutResult, PutRow, Statistics, StoredRow

log = logging.getLogger("anwen.store")

LANES = 2
"""Transactions of puts at a time: while one waits for its commit, the next is prepared."""
GROUP_ROWS = 4_096
WAITING_ROWS = 65_536
STATISTICS_S = 60.0


async def connect(settings: Mapping[str, object], folder: Path) -> PostgresqlStore:
    """Return the store on the servers of `{"conninfo": ...}` (docs/store-postgresql.md), its tables made if missing.

    Raises: PolicyError: settings that are unknown or weak, here or on the server. UnavailableError: no server answers.
    """
    pool = postgresql_link.Pool(postgresql_link.target(settings, folder))
    try:
        await pool.run(postgresql_schema.make)
        found = await pool.run(lambda db: postgresql_schema.settings(db, len(pool.hosts)))
    except BaseException:
        await pool.close()
        raise
    if found["synchronous_standby_names"] == NO_STANDBY:
        log.warning("store postgresql: synchronous_standby_names: %s", NO_STANDBY)
    return PostgresqlStore(pool)


class _Job(NamedTuple):
    epoch: int
    rows: Sequence[PutRow]
    done: asyncio.Future[list[PutResult]]


class PostgresqlStore:
    """A `store.base.Store` on PostgreSQL. For one event loop."""

    engine = "postgresql"

    def __init__(self, pool: postgresql_link.Pool) -> None:
        self._pool = pool
        self._epochs: set[int] = set()  # those known to have a table of wraps
        self._waiting: deque[_Job] = deque()
        self._waiting_rows = 0
        self._lanes: set[asyncio.Task[None]] = set()
        self._answers = True
        self._look: asyncio.Task[None] | None = None

    async def put(self, epoch: int, rows: Sequence[PutRow]) -> list[PutResult]:
        if self._waiting_rows > WAITING_ROWS:
            raise OverloadedError("store postgresql: too many rows are waiting", retry_after_s=1.0)
        job = _Job(epoch, rows, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._waiting_rows += len(rows)
        if len(self._lanes) < LANES:
            lane = asyncio.create_task(self._write())
            self._lanes.add(lane)
        try:
            async with asyncio.timeout(self._pool.timeout_s):
                return await job.done
        except TimeoutError:
            raise UnavailableError("store postgresql: no answer in time; the outcome is not known") from None

    async def delete(self, records: Sequence[tuple[bytes, int]]) -> None:
        if records:
            await self._pool.run(lambda db: postgresql_write.delete(db, records))

    async def get(self, epoch: int, records: Sequence[bytes], classes: Sequence[int]) -> list[StoredRow]:
        if epoch not in self._epochs:
            self._epochs |= set(await self.epochs())
        held = epoch if epoch in self._epochs else None
        return await self._pool.run(lambda db: postgresql_read.get(db, held, records, classes)) if records else []

    async def find(self, labels: Sequence[bytes]) -> list[Hit]:
        return await self._pool.run(lambda db: postgresql_read.find(db, labels)) if labels else []

    async def list_subjects(self, collection: int, subjects: Sequence[bytes], after: bytes, limit: int) -> list[bytes]:
        return await self._pool.run(lambda db: postgresql_read.list_subjects(db, collection, subjects, after, limit))

    async def epochs(self) -> list[int]:
        return await self._pool.run(postgresql_schema.epochs)

    async def statistics(self) -> Statistics:
        hosts = len(self._pool.hosts)
        return await self._pool.run(lambda db: postgresql_read.statistics(db, hosts), STATISTICS_S)

    def members(self) -> tuple[int, int]:
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._looks())
        return int(self._answers), 1

    async def _looks(self) -> None:
        """See whether the servers answer; whoever asks next is told."""
        try:
            await self.epochs()
        except AnwenError:
            self._answers = False
        else:
            self._answers = True

    async def warm(self) -> None:
        """Do nothing: it is."""

    async def close(self) -> None:
        if self._look:
            self._look.cancel()
        await asyncio.gather(*self._lanes)
        await self._pool.close()

    # --- lanes ---------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        """Write what waits, then end."""
        while self._waiting:
            jobs, rows, epoch = [], 0, self._waiting[0].epoch
            while self._waiting and rows < GROUP_ROWS and self._waiting[0].epoch == epoch:
                job = self._waiting.popleft()
                self._waiting_rows -= len(job.rows)
                if not job.done.done():  # else its caller has given up
                    jobs.append(job)
                    rows += len(job.rows)
            if jobs:
                await self._group(jobs)
        # in the step that saw nothing wait: a put that still saw this lane would start none
        self._lanes -= {asyncio.current_task()}

    async def _group(self, jobs: Sequence[_Job]) -> None:
        """Run puts of one epoch in one transaction; if the server refuses them, each in its own."""
        try:
            results = iter(await self._transaction([row for job in jobs for row in job.rows], jobs[0].epoch))
        except BaseException as error:  # noqa: BLE001 - the edge of a lane: whoever waits gets it
            if len(jobs) > 1 and isinstance(error, StorageError):
                for job in jobs:
                    await self._group([job])
                return
            for job in jobs:
                if not job.done.done():
                    job.done.set_exception(error)
            return
        for job in jobs:
            answer = [next(results) for _ in job.rows]
            if not job.done.done():
                job.done.set_result(answer)

    async def _transaction(self, rows: Sequence[PutRow], epoch: int) -> list[PutResult]:
        if epoch not in self._epochs:
            await self._pool.run(lambda db: postgresql_schema.make_wrap_table(db, epoch))
            self._epochs.add(epoch)
        return await self._pool.run(lambda db: postgresql_write.put(db, epoch, rows)) if rows else []
