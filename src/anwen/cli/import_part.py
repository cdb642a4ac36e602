"""Import one part of a file: read, put in batches, note what is acknowledged. Runs in a process of its own.

Two batches are under way at once, so that sealing one overlaps with the keepers' work on the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from anwen.access import connect_async, open_async
from anwen.cli import failures
from anwen.cli.import_state import ImportFolder, PartState, Plan
from anwen.client.session import Timing
from anwen.client.vault import RESERVED, AsyncVault
from anwen.client.writing import PutResult
from anwen.errors import AnwenError, ConflictError, OverloadedError, StorageError, place
from anwen.files import Reject, RejectsWriter, Row, read_rows
from anwen.model import Collection, Policy

UNDER_WAY = 2
PATIENT = Timing(deadline_s=600.0, request_s=120.0)
"""Nobody waits for one batch: databases that have just started, or share a small machine, may take their time."""

OVERLOADED_TRIES = 7


@dataclass(frozen=True)
class Job:
    """What a worker needs to know. Keys travel as the name of their file."""

    vault: Path
    key: str
    plan: Plan
    part: int
    rejects: Path
    embedded: bool = False


@dataclass
class _Batch:
    rows: list[Row | Reject]
    sent: list[Row]
    outcome: asyncio.Task[list[PutResult]]


def references(policy: Policy, collection: Collection) -> dict[str, str]:
    """Return names of columns that may say whose a row is: `person_id_number`, `id_number` for `person.id_number`.

    The short one only where the collection has no field of that name itself.
    """
    if collection.subject == "own":
        return {}
    parent = policy.collections[collection.subject]
    unique = [f.name for f in parent.fields if f.index == "unique"]
    named = {f"{parent.name}_{name}": f"{parent.name}.{name}" for name in unique}
    return named | {name: f"{parent.name}.{name}" for name in unique if name not in collection.field_named}


def allowed_fields(policy: Policy, collection: Collection) -> list[str]:
    """Return every name that a column of a file may have, or be mapped to."""
    named = references(policy, collection)
    return [*collection.field_named, *RESERVED, *named, *named.values()]


class PartImport:
    """One run over one part."""

    def __init__(self, job: Job, tell: Callable[[PartState], None], stopped: Callable[[], bool]) -> None:
        self.job, self.tell, self.stopped = job, tell, stopped
        self.folder = ImportFolder(job.rejects)
        self.state = self.folder.load(job.part)
        self.sent_before = self.state.asked  # what an earlier run may have stored without noting it
        self.rejects: RejectsWriter

    async def run(self) -> None:
        """Import until the part is done or somebody says stop. Raises what ended it; the state is saved then."""
        if self.state.done:
            return
        with RejectsWriter(self.folder.rejects_of(self.job.part), self.state.rejects_bytes) as self.rejects:
            async with await self._vault() as vault:
                self.schema = vault.policy.collections[self.job.plan.collection]
                self.renamed = references(vault.policy, self.schema)
                await self._put_all(vault)

    async def _vault(self) -> AsyncVault:
        where, key, purpose = self.job.vault, self.job.key, self.job.plan.purpose
        if self.job.embedded:
            return await open_async(where, key=key, purpose=purpose)
        return connect_async(where, key=key, purpose=purpose, timing=PATIENT)

    def _batches(self, vault: AsyncVault) -> Iterator[list[Row | Reject]]:
        rows = read_rows(
            Path(self.job.plan.file), self.state.left, file_format=self.job.plan.file_format,
            mapping=self.job.plan.mapping, fields=allowed_fields(vault.policy, self.schema),
        )  # fmt: skip
        while batch := list(itertools.islice(rows, self.job.plan.batch)):
            yield batch

    async def _put_all(self, vault: AsyncVault) -> None:
        under_way: deque[_Batch] = deque()
        skipped = list(self.state.stored)
        try:
            for rows in self._batches(vault):
                if self.stopped():
                    break
                wanted = [r for r in rows if isinstance(r, Row) and not _within(skipped, r.number)]
                self.state.asked = max(self.state.asked, rows[-1].number)
                self.folder.save(self.job.part, self.state)  # before sending: what may be stored is known after a crash
                under_way.append(_Batch(rows, wanted, asyncio.create_task(self._put(vault, wanted))))
                if len(under_way) > UNDER_WAY - 1:
                    await self._settle(under_way.popleft(), skipped)
            while under_way:
                await self._settle(under_way.popleft(), skipped)
            self.state.done = not self.stopped() or self.state.left.start >= self.state.left.end
        finally:
            await self._note_the_rest(under_way)
            self.folder.save(self.job.part, self.state)

    async def _put(self, vault: AsyncVault, rows: list[Row]) -> list[PutResult]:
        if not rows:
            return []
        values = [{self.renamed.get(k, k): v for k, v in r.values.items()} for r in rows]
        for attempt in range(OVERLOADED_TRIES):
            try:
                return await vault.put_many(self.job.plan.collection, values)
            except OverloadedError as error:  # nothing was done yet
                await asyncio.sleep(error.retry_after_s or 0.25 * 2**attempt)
        return await vault.put_many(self.job.plan.collection, values)

    async def _settle(self, batch: _Batch, skipped: list[tuple[int, int]]) -> None:
        """Count a batch's rows and move on behind it."""
        try:
            results = iter(await batch.outcome)
        except BaseException:
            batch.outcome.cancel()
            raise
        counts, reasons = Counter(self.state.counts), Counter(self.state.reasons)
        for row in batch.rows:
            reject = row if isinstance(row, Reject) else None
            counts["read"] += 1
            if isinstance(row, Row):
                error = None if _within(skipped, row.number) else next(results).error
                if isinstance(error, ConflictError) and row.number <= self.sent_before:
                    counts["already"] += 1
                    continue
                reject = self._reject(row, error) if error else None
                counts["stored"] += error is None
            if reject:
                counts["rejected"] += 1
                reasons[reject.code] += 1
                self.rejects.write(reject)
        if counts["rejected"] != self.state.counts["rejected"]:
            self.state.rejects_bytes = self.rejects.sync()
        self.state.counts, self.state.reasons = dict(counts), dict(reasons)
        self.state.left = self.state.left.after(batch.rows[-1])
        self.state.stored = [r for r in self.state.stored if r[1] >= self.state.left.row]
        self.tell(self.state)

    def _reject(self, row: Row, error: AnwenError) -> Reject:
        named = re.match(rf"(?:{re.escape(self.schema.name)}\.)?([a-z][a-z0-9_]*): ", str(error))
        field_name = named.group(1) if named and named.group(1) in self.schema.field_named else None
        return Reject(row.number, row.line, row.end, row.end_line, str(error), field_name, error.code)

    async def _note_the_rest(self, under_way: deque[_Batch]) -> None:
        """Wait for what was sent behind a failure; rows stored there are left out when the import goes on."""
        for batch in under_way:
            try:
                results = await batch.outcome
            except AnwenError:
                continue
            numbers = [r.number for r, done in zip(batch.sent, results, strict=True) if done.error is None]
            self.state.stored += ranges(numbers)


def ranges(numbers: list[int]) -> list[tuple[int, int]]:
    """Return ascending numbers as ranges, ends included."""
    found: list[tuple[int, int]] = []
    for n in numbers:
        if found and found[-1][1] == n - 1:
            found[-1] = (found[-1][0], n)
        else:
            found.append((n, n))
    return found


def _within(ranges: list[tuple[int, int]], number: int) -> bool:
    return any(first <= number <= last for first, last in ranges)


def work(job: Job, channel: Connection) -> None:
    """Run one part in a process of its own. The channel takes its state as it grows, then an error or None: the end.

    Anything that comes through the channel says stop; so does the end of the parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    failures.guard_process()
    parent = os.getppid()

    def stopped() -> bool:
        return os.getppid() != parent or channel.poll()

    with contextlib.suppress(OSError):  # the parent is gone; the state is saved
        channel.send(run_part(job, channel.send, stopped))


def run_part(
    job: Job, tell: Callable[[PartState], None], stopped: Callable[[], bool] = lambda: False
) -> AnwenError | None:
    """Run a part to its end and return how it failed, if it did: a process edge."""
    try:
        asyncio.run(PartImport(job, tell, stopped).run())
    except AnwenError as error:
        return error
    except OSError as error:
        return StorageError(f"{error.filename or 'file'}: {error.strerror}")
    except Exception as error:  # noqa: BLE001 - a process edge
        return AnwenError(place(error))
    return None
