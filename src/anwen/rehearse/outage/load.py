"""One client of a rehearsal: `python -m anwen.rehearse.outage.load PLAN`, until its standard input ends.

Open loop: every step starts one operation of each kind of the plan, at its planned time, whether or not earlier ones
have ended. A find opens what it finds. Nothing is retried here: that is the library's part, within the deadline. What
ended is logged as a line of JSON, an `Operation` each.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import sys
import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import anwen
from anwen.client.records import Record
from anwen.client.session import Timing
from anwen.client.vault import AsyncVault
from anwen.errors import AnwenError, NotFoundError, UnavailableError
from anwen.rehearse.outage.figures import OK, Operation
from anwen.sample.people import People

DEADLINE_S, GIVE_UP_S = 2.0, 1.8
"""Of an operation; and of each call of the library in it, which says by then why it did not succeed."""

CLIENTS = 3
HOT_EACH = 10
SEED = 1
BREAKS = ("acknowledge-early", "stale")
_LOST_EVERY = 20
_CHUNK = 512
WARM_TRIES = 15


@dataclass(frozen=True)
class Plan:
    """What one client is to do. Rows are those of `anwen.sample`, seed 1."""

    folder: str
    log: str
    client: int
    zone: str
    every_s: float
    kinds: tuple[str, ...]
    loaded: tuple[int, ...]  # rows of people who were put before
    first_row: int  # of those that this run puts
    hot: tuple[str, ...]  # record ids of the first 30 of those; client i alone updates the ten from 10 * i on
    numbers: Mapping[str, int]  # the hot people's, as they stand
    broken: str = ""


def person(rows: Sequence[int]) -> list[dict[str, object]]:
    """Return the people of some rows as the rehearsal's vault takes them."""
    columns = People(SEED, np.array(rows, np.int64)).columns(("id_number", "name", "phone", "email", "address"))
    people = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [{k: v for k, v in p.items() if v is not None} for p in people]


def contact(row: Mapping[str, object], number: int) -> dict[str, object]:
    """Return a hot person's contact that holds a number."""
    return {"phone": row["phone"], "address": f"{number} Example Road"}


def number_of(values: Mapping[str, object]) -> int:
    """Return the number that a hot person's contact holds."""
    return int(str(values["address"]).split()[0])


def moments(now: float, client: int, every_s: float, kinds: int) -> Iterator[float]:
    """Yield when a client starts an operation, one of each kind in a step.

    All clients' lie evenly in a step, by the clock that they share: together they would be a burst that waits for
    processors, the longer the slower the pace, and delays and gaps would be the burst's.
    """
    apart = every_s / kinds
    first = now + (client * apart / CLIENTS - now) % apart
    return (first + turn * apart for turn in itertools.count())


class Client:
    """Starts operations at their planned times and logs how they end."""

    def __init__(self, plan: Plan, vault: AsyncVault) -> None:
        self.plan, self.vault, self._loading = plan, vault, vault.for_purpose("load")
        self.random = random.Random(plan.first_row + plan.client)  # noqa: S311 - which person is read next
        self.file = Path(plan.log).open("w", encoding="ascii", buffering=1)  # noqa: SIM115 - until the process ends
        mine = slice(HOT_EACH * plan.client, HOT_EACH * (plan.client + 1))
        self._rows = dict(zip(plan.hot[mine], person(plan.loaded[mine]), strict=True))
        self._numbers = {key: plan.numbers[key] for key in self._rows}
        self._turns = itertools.cycle(self._rows)
        self._open: set[str] = set()
        self._read: dict[str, Record] = {}  # hot people as they were last written by us, to save a get
        self._new = self._people()
        self._put: list[dict[str, object]] = []  # acknowledged
        self._known = person(self.random.choices(plan.loaded, k=_CHUNK))
        self._cached: dict[str, list[Record | None]] = {}

    def _people(self) -> itertools.chain[dict[str, object]]:
        starts = itertools.count(self.plan.first_row + self.plan.client, CLIENTS * _CHUNK)
        return itertools.chain.from_iterable(
            person(range(start, start + CLIENTS * _CHUNK, CLIENTS)) for start in starts
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the pace until `stop` is set, then wait for what is under way."""
        tasks: set[asyncio.Task[None]] = set()
        kinds = [{"write": self._write, "read": self._look, "find": self._find}[kind] for kind in self.plan.kinds]
        for turn, planned in enumerate(moments(time.monotonic(), self.plan.client, self.plan.every_s, len(kinds))):
            try:
                async with asyncio.timeout_at(planned):
                    await stop.wait()
                    break
            except TimeoutError:
                pass
            task = asyncio.create_task(kinds[turn % len(kinds)](turn // len(kinds), planned))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        self.file.close()

    async def warm(self) -> None:
        """Connect to all and fetch what is fetched once. What fails to be there in time shows in the pace."""
        for _ in range(WARM_TRIES):
            with contextlib.suppress(UnavailableError):
                await self._seen(self.plan.hot[0])
                await self._found(self._known[0])
                return

    async def _timed(self, kind: str, key: str, planned: float, work: Awaitable[int], number: int = 0) -> bool:
        """Log one operation; return whether it succeeded. `number`: what is written if it fails."""
        started, outcome = time.monotonic(), OK
        try:
            async with asyncio.timeout_at(planned + DEADLINE_S):
                number = await work
        except TimeoutError:
            outcome = "deadline"
        except AnwenError as error:
            outcome = error.code
        self._log(Operation(self.plan.client, kind, key, number, planned, started, time.monotonic(), outcome))
        return outcome == OK

    def _log(self, operation: Operation) -> None:
        self.file.write(json.dumps(operation) + "\n")

    # --- writes ------------------------------------------------------------------------------------------------

    async def _write(self, step: int, planned: float) -> None:
        if step % 2 == 0:
            row = next(self._new)
            if await self._written(str(row["id_number"]), 1, planned, self._stored(row)):
                self._put.append(row)
            return
        key = next((k for k in itertools.islice(self._turns, HOT_EACH) if k not in self._open), None)
        if key is None:
            return  # all are still being written
        self._open.add(key)
        self._numbers[key] += 1
        if not await self._written(key, self._numbers[key], planned, self._updated(key, self._numbers[key])):
            self._read.pop(key, None)  # in doubt: its version has to be read again
        self._open.discard(key)

    async def _written(self, key: str, number: int, planned: float, work: Awaitable[int]) -> bool:
        if self.plan.broken != "acknowledge-early":
            return await self._timed("write", key, planned, work, number)
        now = time.monotonic()  # said to be written, and then some of it is forgotten
        self._log(Operation(self.plan.client, "write", key, number, planned, now, now, OK))
        if self.random.randrange(_LOST_EVERY):
            try:
                await work
            except AnwenError:
                return False
        else:
            work.close()  # type: ignore[attr-defined]
        return True

    async def _stored(self, row: Mapping[str, object]) -> int:
        await self._loading.put("person", row)
        return 1

    async def _updated(self, key: str, number: int) -> int:
        record = self._read.get(key) or (await self._sealed(key))
        if record is None:
            raise NotFoundError(f"record {key}: not there")
        result = await self.vault.update(record, "contact", contact(self._rows[key], number))
        self._read[key] = replace(record, version=result.version)
        return number

    # --- reads -------------------------------------------------------------------------------------------------

    async def _look(self, _step: int, planned: float) -> None:
        key = self.random.choice(self.plan.hot)
        await self._timed("read", key, planned, self._seen(key))

    async def _seen(self, key: str) -> int:
        record = await self._sealed(key)
        if record is None:
            return -1
        (values,) = await self.vault.open([record], ["contact"])
        return number_of(values)

    async def _sealed(self, key: str) -> Record | None:
        if self.plan.broken == "stale":  # a cache that nothing invalidates
            if key not in self._cached:
                self._cached[key] = await self.vault.get([key], ["contact"], collection="person")
            return self._cached[key][0]
        (record,) = await self.vault.get([key], ["contact"], collection="person")
        return record

    async def _find(self, step: int, planned: float) -> None:
        from_own = step % 2 and self._put
        row = self.random.choice(self._put if from_own else self._known)
        await self._timed("find", str(row["id_number"]), planned, self._found(row))

    async def _found(self, row: Mapping[str, object]) -> int:
        records = await self.vault.find("person", ["identity"], id_number=row["id_number"])
        opened = await self.vault.open(records, ["identity"])
        return sum(values["name"] == row["name"] for values in opened)


def read_log(path: Path) -> list[Operation]:
    """Return what a client has logged."""
    return [Operation(*json.loads(line)) for line in path.read_text(encoding="ascii").splitlines()]


async def _run(plan: Plan) -> None:
    timing = Timing(deadline_s=GIVE_UP_S, request_s=DEADLINE_S)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stop.set)
    key = f"client{plan.client}"
    async with anwen.connect_async(plan.folder, key=key, purpose="work", timing=timing, zone=plan.zone) as vault:
        client = Client(plan, vault)
        await client.warm()
        print("ready", flush=True)  # noqa: T201 - whoever started this waits for it
        await client.run(stop)


if __name__ == "__main__":
    asyncio.run(_run(Plan(**json.loads(Path(sys.argv[1]).read_text()))))
