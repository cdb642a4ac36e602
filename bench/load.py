"""A load generator: some clients in one process, closed loop, each its next call when the last has ended.

Started by suites with one JSON line on standard input; prints one JSON line with raw latencies. All clients of a
process share one `AsyncVault`, as an application's tasks do, so their keeper calls travel together.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import anwen
import people
from anwen.client.vault import AsyncVault
from anwen.errors import AnwenError

FULL = ("identity", "contact")
MASKED = ("identity.masked", "contact.masked")
MISSES = 0.1


@dataclass
class Plan:
    """What one process does. Times are of the monotonic clock, which all processes share."""

    vault: str
    operation: str
    clients: int
    warm_until: float
    end: float
    rows: int  # residents that are stored: numbers 0 to rows - 1
    ids: list[str]  # record ids of some of them
    first_new: int  # number of the first resident that this process may put
    seed: int
    samples: list[tuple[float, float]] = field(default_factory=list)  # start, seconds
    errors: Counter[str] = field(default_factory=Counter)
    wrong: int = 0


class Client:
    """One client's calls."""

    def __init__(self, plan: Plan, vault: AsyncVault, number: int) -> None:
        self.plan, self.vault = plan, vault
        self.random = random.Random(plan.seed * 1000 + number)
        self.next_new = plan.first_new + number
        self.calls: dict[str, Callable[[], Awaitable[bool]]] = {
            "open masked": lambda: self.open(MASKED),
            "open": lambda: self.open(FULL),
            "find": self.find,
            "find + open": self.find_open,
            "put": self.put,
            "nothing": self.nothing,
        }

    async def open(self, classes: tuple[str, ...]) -> bool:
        """Open one record by its id: a node call and a keeper round."""
        record = (await self.vault.get([self.random.choice(self.plan.ids)], classes, collection="person"))[0]
        if record is None:
            return False
        (values,) = await self.vault.open([record], classes)
        return "phone" in values and "id_number" in values

    async def find(self) -> bool:
        """Find by number, one in ten unknown; the answer holds the sealed rows."""
        miss = self.random.random() < MISSES
        number = self.random.randrange(self.plan.rows) + (10**9 if miss else 0)
        found = await self.vault.find("person", FULL, id_number=id_number(number))
        return len(found) == (0 if miss else 1)

    async def find_open(self) -> bool:
        """Find by number and open both classes."""
        number = self.random.randrange(self.plan.rows)
        found = await self.vault.find("person", FULL, id_number=id_number(number))
        if len(found) != 1:
            return False
        (values,) = await self.vault.open(found, FULL)
        return values["id_number"] == id_number(number)

    async def put(self) -> bool:
        """Put one new person."""
        row = people.rows(self.next_new, 1)[0]
        self.next_new += self.plan.clients
        return (await self.vault.put("person", row)).error is None

    async def nothing(self) -> bool:
        """Do nothing: what the generator itself costs."""
        await asyncio.sleep(0)
        return True

    async def loop(self) -> None:
        """Call until the end."""
        call, plan = self.calls[self.plan.operation], self.plan
        while (start := time.monotonic()) < plan.end:
            try:
                plan.wrong += not await call()
            except AnwenError as error:
                plan.errors[error.code] += 1
            if start >= plan.warm_until:
                plan.samples.append((start, time.monotonic() - start))


def id_number(r: int) -> str:
    """Return a resident's number."""
    return f"{(r * 7046029254386353 + 1234567) % 10**16:016d}"


async def main(plan: Plan) -> dict[str, Any]:
    """Run all clients of this process."""
    async with anwen.connect_async(plan.vault, key="worker", purpose="work") as vault:
        await asyncio.gather(*(Client(plan, vault, i).loop() for i in range(plan.clients)))
        reports = len(vault.session.reports)
    digest = hashlib.sha256(json.dumps([plan.seed, plan.operation, plan.rows]).encode()).hexdigest()
    return {
        "samples": [(round(s, 6), round(t, 7)) for s, t in plan.samples],
        "errors": dict(plan.errors),
        "wrong": plan.wrong,
        "reports": reports,
        "trace": digest,
    }


if __name__ == "__main__":
    given = json.loads(sys.stdin.readline())
    print(json.dumps(asyncio.run(main(Plan(**given)))))
