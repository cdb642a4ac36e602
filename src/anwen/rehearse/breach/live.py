"""One node, one keeper, one whole zone, live: what passes through them, what is in their memory, and what it opens.

While a load runs, the attacker's node and keeper write down all that passes, and their memory is read. What must not be
there is known, since the rehearsal holds all keys: every value, token key, index key, DEK and F(x) of the load.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from anwen.client.records import Record
from anwen.client.rows import Cell, open_cell
from anwen.client.vault import AsyncVault
from anwen.crypto import blind_index, grants
from anwen.errors import AnwenError, OpenError
from anwen.formats import wire
from anwen.rehearse.breach import tap
from anwen.rehearse.breach.scene import STOLEN, Known, Scene
from anwen.rehearse.breach.search import Needles, files_below, memory_of
from anwen.rehearse.breach.shares import Shares, inputs_of
from anwen.rehearse.breach.tap import Passed
from anwen.rehearse.breach.theft import Theft
from anwen.rehearse.breach.thief import Target

STEPS, CELLS = 60, 4_000
CALL_S = 5.0
SHORT = 8


@dataclass
class Loot:
    """What the attacker's zone saw, and what was secret about it: the truth to compare with."""

    passed: dict[str, list[Passed]] = field(default_factory=dict)  # by "node", "keeper"
    secrets: dict[str, list[bytes]] = field(default_factory=dict, repr=False)  # what only clients may hold, by kind
    memory: dict[str, dict[str, set[int]]] = field(default_factory=dict)  # found there, by part and kind
    cells: list[Cell] = field(default_factory=list, repr=False)


async def watch(scene: Scene, whose: Target, load: Load) -> Loot:
    """Run a load with the taps on; read the memory of node and keeper in the middle of it and after."""
    loot = Loot()
    for part in ("node", "keeper"):
        tap.file_of(part, scene.outside).unlink(missing_ok=True)
    tap.switch(scene.outside, on=True)
    touched: list[Record] = []
    for half in range(2):
        touched += await load.run(scene, STEPS // 2, half)
        loot.cells = [cell for record in touched for cell in record.cells.values()]
        loot.secrets = await _secrets(scene, whose, loot.cells, load)
        for part in ("node", "keeper"):
            found = loot.memory.setdefault(part, {})
            for kind, values in loot.secrets.items():
                found[kind] = found.get(kind, set()) | _in_memory(scene.pid(part, STOLEN), Needles(values))
    tap.switch(scene.outside, on=False)
    loot.passed = {part: list(tap.read(part, scene.outside)) for part in ("node", "keeper")}
    return loot


def _in_memory(pid: int, needles: Needles) -> set[int]:
    return set().union(*(needles.within(region) for region in memory_of(pid)))


async def _secrets(scene: Scene, whose: Target, cells: Sequence[Cell], load: Load) -> dict[str, list[bytes]]:
    """Return what only clients may ever have held, made from the shares of all keepers."""
    everybody = [scene.path("keeper", k) for k in scene.policy.keepers]
    values = Shares(scene.policy, everybody, "record").values(inputs_of(cells))
    wraps = np.frombuffer(b"".join(c.wrap for c in cells), np.uint8).reshape(len(cells), -1)
    async with scene.connect(whose.principal, whose.purpose) as vault:
        schema = scene.policy.collections[whose.collection]
        fields = [(schema.id, f.id) for f in schema.fields if f.index]
        token_keys = list((await vault.session.prehash_keys(whose.purpose, fields)).values())
    texts = {str(v) for known in load.people for v in known.values.values()}
    return {
        "values": [t.encode() for t in sorted(texts) if len(t.encode()) >= SHORT],
        "values of F": [row.tobytes() for row in values],
        "DEKs": [row.tobytes() for row in wraps ^ values],
        "token keys": token_keys,
        "index keys": [blind_index.token(key, b"") for key in token_keys],  # replaced below by those that were used
    }
