"""After a run: is every acknowledged write there, with all zones and without any one of them; once only; logged."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from anwen.client import audit
from anwen.client.records import Record
from anwen.client.rows import Values
from anwen.client.vault import AsyncVault
from anwen.errors import AnwenError, UnavailableError
from anwen.rehearse.outage.load import number_of
from anwen.rehearse.outage.zones import ZONES, Zones

BATCH = 256
CHECK_S, RETRY_S, PATIENCE_S = 10.0, 0.2, 120.0
"""An engine that elects a leader may take longer than a minute before it answers again."""
COSIGNED_TRIES, COSIGN_EVERY_S = 30, 1.0
WHOLE_S = 120.0

Person = Mapping[str, object]
T = TypeVar("T")


async def missing(zones: Zones, people: Sequence[Person], hot: Mapping[str, int]) -> dict[str, list[str]]:
    """Return what is lost, by pass: with all zones, then with each stopped in turn.

    Args:
        people: those whose put was acknowledged.
        hot: record ids, and the highest number acknowledged for each.
    """
    found = {"all zones": await lost(zones, people, hot)}
    for zone in (z for z in ZONES if z != zones.database.needed):
        zones.signal(zone, signal.SIGSTOP)
        try:
            found[f"without {zone}"] = await lost(zones, people, hot)
        finally:
            zones.signal(zone, signal.SIGCONT)
        await zones.whole(WHOLE_S)
    return found


async def lost(zones: Zones, people: Sequence[Person], hot: Mapping[str, int]) -> list[str]:
    """Return the people that do not open as they were put, and the hot ones whose number is too low."""
    gone: list[str] = []
    async with zones.connect() as vault:
        for start in range(0, len(people), BATCH):
            batch = people[start : start + BATCH]
            found = await _patiently(partial(_people, vault, batch))
            gone += [str(p["id_number"]) for p, values in zip(batch, found, strict=True) if not _equal(p, values)]
        numbers = await _patiently(partial(_numbers, vault, list(hot)))
        gone += [key for key, number in numbers.items() if number < hot[key]]
    return gone


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Return an answer; a zone that does not answer may cost tries, but no verdict. Raises UnavailableError."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        try:
            async with asyncio.timeout(CHECK_S):
                return await ask()
        except (UnavailableError, TimeoutError):
            await asyncio.sleep(RETRY_S)
    raise UnavailableError(f"the check got no answer in {PATIENCE_S:.0f} s")


async def _people(vault: AsyncVault, people: Sequence[Person]) -> list[Values | None]:
    """Return what is held about each person, None unless it is in exactly one record."""
    ids = [p["id_number"] for p in people]
    found = await vault.find_many("person", "id_number", ids, ["identity", "contact"])
    opened = iter(await _opened(vault, [records[0] for records in found if len(records) == 1], ["identity", "contact"]))
    return [next(opened) if len(records) == 1 else None for records in found]


async def _opened(vault: AsyncVault, records: Sequence[Record], classes: Sequence[str]) -> list[Values | None]:
    each = await vault.open_each(records, classes)
    for values in each:
        if isinstance(values, UnavailableError):
            raise values
    return [None if isinstance(values, AnwenError) else values for values in each]


def _equal(person: Person, values: Values | None) -> bool:
    return values is not None and all(values.get(name) == value for name, value in person.items())


async def _numbers(vault: AsyncVault, keys: Sequence[str]) -> dict[str, int]:
    """Return the number that each hot person holds, -1 for one that is not there."""
    records = await vault.get(keys, ["contact"], collection="person")
    there = [r for r in records if r is not None]
    opened = await _opened(vault, there, ["contact"])
    held = {r.id: number_of(values) for r, values in zip(there, opened, strict=True) if values}
    return {key: held.get(key, -1) for key in keys}


async def id_numbers(zones: Zones) -> list[str]:
    """Return the identity number in every live record of the whole collection."""
    found: list[str] = []
    async with zones.connect(CHECK_S) as vault:
        batch: list[Record] = []
        async for record in vault.scan("person", ["identity"]):
            batch.append(record)
            if len(batch) == BATCH:
                found += [str(v["id_number"]) for v in await _opened(vault, batch, ["identity"]) if v]
                batch.clear()
        found += [str(v["id_number"]) for v in await _opened(vault, batch, ["identity"]) if v]
    return found


async def logs(zones: Zones) -> list[str]:
    """Return what is wrong with the keepers' logs; waits a while for cosignatures of what was logged last."""
    problems: list[str] = []
    async with zones.connect(CHECK_S) as vault:
        for _ in range(COSIGNED_TRIES):
            problems = [v.problem for v in await audit.verify(vault.session, "oversight") if v.problem]
            if not problems:
                break
            await asyncio.sleep(COSIGN_EVERY_S)
    return problems
