"""The drill: a backup, loaded into an empty store of its own, opens people with the keepers of today.

The running vault's store is neither touched nor asked. Its keepers are: openings are charged and logged like any other.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from anwen.backup import archive
from anwen.backup.archive import Backup
from anwen.client.spot_check import spot_check
from anwen.client.transport import Transport
from anwen.client.vault import AsyncVault
from anwen.errors import NotFoundError
from anwen.node.service import Node
from anwen.store.sqlite import SqliteStore

_RANDOM = random.SystemRandom()  # nobody can tell beforehand which records must open


@dataclass(frozen=True, slots=True)
class Drilled:
    """What became of a sample of records: how many opened, and of the others how many for which reason."""

    records: int  # in the backup, of collections that the purpose opens
    sampled: int
    opened: int
    failed: dict[str, int]  # as `spot_check` names them; "refused": deleted or erased since, or past their retention


class Inside:
    """Carries requests to the keepers of a running vault, and to a node in this process."""

    def __init__(self, keepers: Transport, node: Node) -> None:
        self._keepers, self._node = keepers, node

    async def call(self, recipient: str, op: str, grant: str, body: bytes, timeout_s: float) -> bytes:
        if recipient.startswith("node/"):
            return await self._node.handle(op, grant, body)
        return await self._keepers.call(recipient, op, grant, body, timeout_s)

    async def close(self) -> None:
        pass  # the connections are those of the vault that we were given


async def drill(backup: Backup, vault: AsyncVault, count: int, scratch: Path) -> Drilled:
    """Load a backup into `scratch`, open all that the vault's purpose opens of `count` records drawn from it.

    Raises: what `archive.restore` does. NotFoundError: there is none to draw. BudgetError, GrantError, QuorumError:
        nothing was opened.
    """
    purpose = vault.policy.purposes[vault.purpose]
    drawn, records = _draw(backup, {collection for collection, _ in purpose.open}, count)
    if not drawn:
        raise NotFoundError(f"no record to open: the backup holds none of which purpose {vault.purpose} opens a class")
    store = SqliteStore(scratch / "drill.sqlite")
    try:
        await archive.restore(backup, store, vault.policy.vault)
        transport = Inside(vault.session.transport, Node(vault.policy, store))
        inside = AsyncVault(dataclasses.replace(vault.session, transport=transport), vault.purpose)
        opened = Counter(await spot_check(inside, await inside.get([r.hex() for r in drawn])))
    finally:
        await store.close()
    return Drilled(records, len(drawn), opened.pop("", 0), dict(opened))


def _draw(backup: Backup, collections: Collection[int], count: int) -> tuple[list[bytes], int]:
    """Return some of the record ids of these collections, each as likely as any other, and how many there are."""
    drawn: list[bytes] = []
    seen, last = 0, b""
    for rows in backup.table("row"):
        for record, _, _, collection, *_ in rows:
            if collection not in collections or record == last:
                continue  # another version of the same: versions of a record follow one another
            assert isinstance(record, bytes)
            seen, last = seen + 1, record
            if len(drawn) < count:
                drawn.append(record)
            elif (place := _RANDOM.randrange(seen)) < count:
                drawn[place] = record
    return drawn, seen
