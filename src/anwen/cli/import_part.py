"""Import parts of a file: read, put in batches, note what is acknowledged. Runs in a process of its own.

Two batches are under way at once, so that sealing one overlaps with the keepers' work on the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from anwen.access import connect_async, open_async
from anwen.cli import failures
from anwen.cli.import_state import ImportFolder, PartState, Plan, Taken
from anwen.client.session import Timing
from anwen.client.vault import RESERVED, AsyncVault
from anwen.client.writing import PutResult
from anwen.errors import AnwenError, ConflictError, MalformedError, NotFoundError, RefusedError, StorageError, place
from anwen.files import Reject, RejectsWriter, Row, read_rows
from anwen.model import Collection, Policy

UNDER_WAY = 2
PATIENT = Timing(deadline_s=600.0, request_s=120.0)
"""Nobody waits for one batch: databases that have just started, or share a small machine, may take their time."""

OF_A_ROW = (ConflictError, MalformedError, NotFoundError, RefusedError)
"""What may be wrong with a row. Whatever else a row could not be stored for, it may be put again."""

Tell = Callable[[int, PartState], None]


@dataclass(frozen=True)
class Job:
    """What a process needs to know. Keys travel as the name of their file."""

    vault: Path
    key: str
    plan: Plan
    parts: tuple[int, ...]
    rejects: Path
    embedded: bool = False


@dataclass
class _Batch:
    start: int
    rows: list[Taken]
    sent: list[int]  # places, in the part's order
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

    def __init__(self, job: Job, part: int, tell: Tell, stopped: Callable[[], bool]) -> None:
        self.job, self.part, self.tell, self.stopped = job, part, tell, stopped
        self.folder = ImportFolder(job.rejects)
        self.state = self.folder.load(part)
        self.rejects: RejectsWriter

    async def run(self) -> None:
        """Import until the part is done or somebody says stop. Raises what ended it; the state is saved then."""
        if self.state.ended:
            return
        with RejectsWriter(self.folder.rejects_of(self.part), self.state.rejects_bytes) as self.rejects:
            async with await self._vault() as vault:
                self.schema = vault.policy.collections[self.job.plan.collection]
                self.renamed = references(vault.policy, self.schema)
                await self._put_all(vault)

    async def _vault(self) -> AsyncVault:
        where, key, purpose = self.job.vault, self.job.key, self.job.plan.purpose
        if self.job.embedded:
            return await open_async(where, key=key, purpose=purpose)
        return connect_async(where, key=key, purpose=purpose, timing=PATIENT)

    def _rows(self, vault: AsyncVault) -> list[Taken]:
        plan = self.job.plan
        return plan.in_order(read_rows(
            Path(plan.file), plan.parts[self.part], file_format=plan.file_format, mapping=plan.mapping,
            fields=allowed_fields(vault.policy, self.schema),
        ))  # fmt: skip

    async def _put_all(self, vault: AsyncVault) -> None:
        under_way: deque[_Batch] = deque()
        skipped, rows, size = list(self.state.stored), self._rows(vault), self.job.plan.batch
        try:
            for start in range(self.state.done, len(rows), size):
                if self.stopped():
                    break
                batch = rows[start : start + size]
                wanted = {i: r for i, r in enumerate(batch, start) if isinstance(r, Row) and not _within(skipped, i)}
                outcome = asyncio.create_task(self._put(vault, wanted))
                under_way.append(_Batch(start, batch, list(wanted), outcome))
                if len(under_way) > UNDER_WAY - 1:
                    await self._settle(under_way.popleft(), skipped)
            while under_way:
                await self._settle(under_way.popleft(), skipped)
            self.state.ended = self.state.done == len(rows)
        finally:
            await self._note_the_rest(under_way)
            self.folder.save(self.part, self.state)

    async def _put(self, vault: AsyncVault, rows: dict[int, Row]) -> list[PutResult]:
        if not rows:
            return []
        values = [{self.renamed.get(k, k): v for k, v in r.values.items()} for r in rows.values()]
        # the same in any run: what one stored without learning of it is not stored again by the next
        keys = [self.job.plan.key(self.part, place) for place in rows]
        return await vault.put_many(self.job.plan.collection, values, idempotency_keys=keys)

    async def _settle(self, batch: _Batch, skipped: list[tuple[int, int]]) -> None:
        """Count a batch's rows and move on behind it."""
        try:
            outcomes = await batch.outcome
        except BaseException:
            batch.outcome.cancel()
            raise
        wrong = next((r.error for r in outcomes if r.error and not isinstance(r.error, OF_A_ROW)), None)
        if wrong is not None:
            self._note(batch, outcomes)
            raise wrong
        results = iter(outcomes)
        counts, reasons = Counter(self.state.counts), Counter(self.state.reasons)
        for at, row in enumerate(batch.rows, batch.start):
            done = next(results) if isinstance(row, Row) and not _within(skipped, at) else None
            error = done.error if done else None
            reject = row if isinstance(row, Reject) else self._reject(row, error) if error else None
            counts["read"] += 1
            counts["rejected" if reject else "already" if done and done.repeated else "stored"] += 1
            if reject:
                reasons[reject.code] += 1
                self.rejects.write(reject)
        if counts["rejected"] != self.state.counts["rejected"]:
            self.state.rejects_bytes = self.rejects.sync()
        self.state.counts, self.state.reasons = dict(counts), dict(reasons)
        self.state.done = batch.start + len(batch.rows)
        self.state.stored = [r for r in self.state.stored if r[1] >= self.state.done]
        self.folder.save(self.part, self.state)
        self.tell(self.part, self.state)

    def _reject(self, row: Row, error: AnwenError) -> Reject:
        named = re.match(rf"(?:{re.escape(self.schema.name)}\.)?([a-z][a-z0-9_]*): ", str(error))
        field_name = named.group(1) if named and named.group(1) in self.schema.field_named else None
        return Reject(row.number, row.line, str(error), field_name, error.code)

    async def _note_the_rest(self, under_way: deque[_Batch]) -> None:
        """Wait for what was sent behind a failure; rows stored there are left out when the import goes on."""
        for batch in under_way:
            try:
                results = await batch.outcome
            except AnwenError:
                continue
            self._note(batch, results)

    def _note(self, batch: _Batch, results: list[PutResult]) -> None:
        """Note which rows of a batch are stored, for it is not counted."""
        places = [i for i, done in zip(batch.sent, results, strict=True) if done.error is None]
        self.state.stored += ranges(places)


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
    """Run a job in a process of its own. The channel takes parts' states as they grow, then an error or None: the end.

    Anything that comes through the channel says stop; so does the end of the parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    failures.guard_process()
    parent = os.getppid()

    def stopped() -> bool:
        return os.getppid() != parent or channel.poll()

    with contextlib.suppress(OSError):  # the parent is gone; the state is saved
        channel.send(run_parts(job, lambda part, state: channel.send((part, state)), stopped))


def run_parts(job: Job, tell: Tell, stopped: Callable[[], bool] = lambda: False) -> AnwenError | None:
    """Run a job's parts, one after the other, and return how it failed, if it did: a process edge."""
    try:
        for part in job.parts:
            if not stopped():
                asyncio.run(PartImport(job, part, tell, stopped).run())
    except AnwenError as error:
        return error
    except OSError as error:
        return StorageError(f"{error.filename or 'file'}: {error.strerror}")
    except Exception as error:  # noqa: BLE001 - a process edge
        return AnwenError(place(error))
    return None
