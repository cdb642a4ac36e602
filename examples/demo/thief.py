"""The thief of a login: opens as many people as he can, as fast as he can, until nobody lets him open any more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anwen.access import connect_async
from anwen.client.records import Record
from anwen.client.vault import AsyncVault
from anwen.errors import AnwenError, BudgetError

FIRST_BATCH = 64
CONNECTIONS = 4
GIVE_UP = 300
"""Single openings of other people, refused one after the other, before he gives up."""


@dataclass
class Loot:
    """What he got."""

    people: set[str] = field(default_factory=set)
    asked: int = 0
    refused: int = 0
    last: BudgetError | None = None


async def rob(vault: Path, principal: str, purpose: str, collection: str, class_name: str) -> Loot:
    """Return whom a principal's key opens: in batches over several connections, then one by one, through all keepers.

    He works as the software never would: no pauses, and on every refusal he goes on with other people and less.
    """
    loot = Loot()
    thieves = [connect_async(vault, key=principal, purpose=purpose) for _ in range(CONNECTIONS)]
    try:
        role = thieves[0].policy.roles[thieves[0].policy.principals[principal].role]
        most = sum(b.per_hour for counter, b in role.budgets.items() if counter == "open")
        records = await _sealed(thieves[0], collection, class_name, 5 * most + 2 * GIVE_UP)
        shares = [records[i::CONNECTIONS] for i in range(CONNECTIONS)]
        await asyncio.gather(*(_batches(t, s, class_name, loot) for t, s in zip(thieves, shares, strict=True)))
        rest = [r for r in records if r.subject not in loot.people]
        shares = [rest[i::CONNECTIONS] for i in range(CONNECTIONS)]
        await asyncio.gather(*(_singles(t, s, class_name, loot) for t, s in zip(thieves, shares, strict=True)))
    finally:
        await asyncio.gather(*(t.close() for t in thieves))
    return loot


async def _sealed(vault: AsyncVault, collection: str, class_name: str, most: int) -> list[Record]:
    """Return sealed records, which nobody counts: without the keepers they are noise."""
    records = []
    async for record in vault.scan(collection, [class_name]):
        records.append(record)
        if len(records) >= most:
            break
    return records


async def _batches(vault: AsyncVault, records: Sequence[Record], class_name: str, loot: Loot) -> None:
    size, at = FIRST_BATCH, 0
    while size and at < len(records):
        if await _open(vault, records[at : at + size], class_name, loot):
            at += size
        else:
            size //= 2


async def _singles(vault: AsyncVault, records: Sequence[Record], class_name: str, loot: Loot) -> None:
    refused = 0
    for record in records:
        refused = 0 if await _open(vault, [record], class_name, loot) else refused + 1
        if refused >= GIVE_UP // CONNECTIONS:
            return


async def _open(vault: AsyncVault, records: Sequence[Record], class_name: str, loot: Loot) -> bool:
    loot.asked += 1
    try:
        opened = await vault.open_each(records, [class_name])
    except AnwenError as error:
        loot.refused += 1
        if isinstance(error, BudgetError):
            loot.last = error
        return False
    loot.people |= {r.subject for r, values in zip(records, opened, strict=True) if not isinstance(values, AnwenError)}
    return True
