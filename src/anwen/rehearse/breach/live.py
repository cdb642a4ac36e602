"""One node, one keeper, one whole zone, live: what passes through them, what is in their memory, and what it opens.

While a load runs, the attacker's node and keeper write down all that passes, and their memory is read. What must not be
there is known, since the rehearsal holds all keys: every value, token key, index key, DEK and value of F of the load.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from anwen.client.rows import Cell
from anwen.crypto.envelope import context, open_envelope
from anwen.errors import AnwenError, OpenError
from anwen.formats import wire
from anwen.rehearse.breach import tap
from anwen.rehearse.breach.load import Load
from anwen.rehearse.breach.scene import STOLEN, Scene, copied_store
from anwen.rehearse.breach.search import Needle, Needles, memory_of
from anwen.rehearse.breach.shares import Shares, inputs_of
from anwen.rehearse.breach.tap import Passed
from anwen.rehearse.breach.theft import Theft

PARTS = ("node", "keeper")
ALLOWED = {"node": frozenset[str](), "keeper": frozenset({"tokens"})}
"""Secrets that a part meets by design: a keeper evaluates tokens, which say nothing without the field's key."""

Hits = dict[tuple[str, str], set[Needle]]
"""Secrets found, by part and kind."""

STEPS, LATER = 60, 60
CALL_S, REPLAYED = 5.0, 60
ANSWERS = {"open", "put", "index", "prehash", "verify"}
"""Operations that a keeper answers with values."""

_WORD = 32


@dataclass
class Loot:
    """What the attacker's zone saw of a load, and what of it only clients may hold."""

    passed: dict[str, list[Passed]] = field(default_factory=dict, repr=False)
    found: dict[str, dict[str, int]] = field(default_factory=dict)  # by part and kind: in memory, in what passed
    looked_for: dict[str, int] = field(default_factory=dict)
    memory_bytes: dict[str, int] = field(default_factory=dict)
    taken_again: dict[str, int] = field(default_factory=dict)  # grants that passed a part and were taken once more
    cells: list[Cell] = field(default_factory=list, repr=False)
    stood: set[bytes] = field(default_factory=set, repr=False)  # labels of the postings that were there at its end


async def watch(scene: Scene, load: Load, steps: int = STEPS) -> Loot:
    """Run a load with the taps on; read the memory of node and keeper in the middle of it and at its end.

    When the taps are off again, more people are put.
    """
    loot = Loot()
    hits: Hits = {}
    for part in PARTS:
        tap.file_of(part, scene.outside).unlink(missing_ok=True)
    tap.switch(scene.outside, PARTS)
    for half in range(2):
        await load.run(steps // 2, half)
        secrets = load.secrets()
        for part in PARTS:
            loot.memory_bytes[part] = look(memory_of(scene.pid(part, STOLEN)), secrets, hits, part)
    tap.switch(scene.outside, ())
    for part in PARTS:
        loot.passed[part] = list(tap.read(part, scene.outside))
        loot.taken_again[part] = await _replay(scene, loot.passed[part])  # at once, as long as grants live
        look((np.frombuffer(b, np.uint8) for p in loot.passed[part] for b in (p.body, p.answer)), secrets, hits, part)
        loot.found[part] = {kind: len(hits.get((part, kind), ())) for kind in secrets}
    loot.looked_for = {kind: len(set(values)) for kind, values in secrets.items()}
    loot.stood = labels_of(scene)
    await load.add(LATER)
    loot.cells = [cell for record in load.touched for cell in record.cells.values()]
    return loot


def look(regions: Iterable[np.ndarray], secrets: Mapping[str, Sequence[Needle]], hits: Hits, part: str) -> int:
    """Add to `hits` which secrets of each kind stand in some memory or traffic; return how many bytes that was."""
    kinds = [(kind, value) for kind, values in secrets.items() for value in set(values)]
    needles, size = Needles([value for _, value in kinds]), 0
    for region in regions:
        size += len(region)
        for i in needles.within(region.data):
            hits.setdefault((part, kinds[i][0]), set()).add(kinds[i][1])
    return size


def steal_node(scene: Scene, loot: Loot) -> Theft:
    """Return what a live node gives: its traffic, its memory, and grants that passed it."""
    theft = Theft(
        "node", f"node {STOLEN}, live: its process, traffic and store", 0,
        "no value, token, index key, DEK or value of F; nobody opened", "rehearse/breach/live.py",
    )  # fmt: skip
    _count_secrets(theft, loot, "node")
    _check_replay(theft, loot, "node")
    opened = open_with(scene.policy.vault, loot.cells, _words(loot.passed["node"]))
    theft.got(opened)
    theft.note("words of 32 bytes that passed, tried as the key of every row that passed", opened=len(opened))
    later = labels_of(scene) - loot.stood
    linked = len(later & _seen(loot.passed["node"]))
    share = f"{linked / len(later):.2%} of them" if later else "nobody could be put"
    theft.note(
        f"{len(later):,} postings of a later dump, written after it watched, recognised by labels that it saw as one "
        f"value's (admitted): {share}",
        later_postings=len(later), later_postings_recognised=linked,
    )  # fmt: skip
    theft.close()
    return theft


def steal_keeper(scene: Scene, loot: Loot, dump: Sequence[Cell]) -> Theft:
    """Return what a live keeper gives, with its disk and a dump of the store."""
    theft = Theft(
        "keeper", f"keeper {STOLEN}, live: its disk, shares, memory and traffic; and a dump of the store", 0,
        "no value, index key, DEK or value of F; nobody opened", "rehearse/breach/live.py",
    )  # fmt: skip
    _count_secrets(theft, loot, "keeper")
    _check_replay(theft, loot, "keeper")
    _try_sums(scene, theft, [*loot.cells, *dump])
    theft.close()
    return theft


def steal_zone(scene: Scene, loot: Loot, dump: Sequence[Cell]) -> Theft:
    """Return what node, keeper and store of one zone give together."""
    theft = Theft(
        "zone", f"zone {STOLEN}, live: node, keeper and store together", 0, "no more than each alone",
        "rehearse/breach/live.py",
    )  # fmt: skip
    for part in PARTS:
        _count_secrets(theft, loot, part)
        _check_replay(theft, loot, part)
    everything = [*loot.passed["node"], *loot.passed["keeper"]]
    _try_sums(scene, theft, [*loot.cells, *dump])
    theft.got(open_with(scene.policy.vault, loot.cells, _words(everything)))
    theft.note("grants of each tried at the other's peers, 32 bytes of both as keys")
    theft.close()
    return theft


# --- parts ---------------------------------------------------------------------------------------------------------


def _count_secrets(theft: Theft, loot: Loot, part: str) -> None:
    bad = {kind: n for kind, n in loot.found[part].items() if n and kind not in ALLOWED[part]}
    theft.values += sum(bad.values())
    theft.must(not bad, f"{part}: {', '.join(f'{n} {kind}' for kind, n in bad.items())} in its memory or traffic")
    looked = ", ".join(f"{n} {kind}" for kind, n in loot.looked_for.items())
    theft.note(
        f"{part}: {looked} looked for in {loot.memory_bytes[part] >> 20} MiB of memory and in {len(loot.passed[part])} "
        "requests and answers",
        **{f"{kind} at {part}": n for kind, n in loot.found[part].items()},
    )


async def _replay(scene: Scene, passed: Sequence[Passed]) -> int:
    """Send what passed again, newest first: to its own recipient and to all keepers, as it was and as an opening.

    Returns how many of them a keeper answered.
    """
    taken = 0
    async with scene.connect(*_anybody(scene)) as vault:
        for request, keeper in itertools.product(passed[: -REPLAYED - 1 : -1], scene.policy.keepers):
            for op in {request.op, "open"} & ANSWERS:
                try:
                    await vault.session.transport.call(f"keeper/{keeper}", op, request.grant, request.body, CALL_S)
                except AnwenError:
                    continue
                taken += 1
    return taken


def _check_replay(theft: Theft, loot: Loot, part: str) -> None:
    taken = loot.taken_again[part]
    theft.must(not taken, f"{taken} grants that passed a {part} were taken again")
    theft.note(
        f"the last {min(len(loot.passed[part]), REPLAYED)} grants that passed the {part}, sent to every keeper at once",
        **{f"{part} grants taken again": taken},
    )


def _anybody(scene: Scene) -> tuple[str, str]:
    """Return a principal and purpose to hold connections with; the grants sent are those that were stolen."""
    principal = next(iter(scene.policy.principals.values()))
    return principal.id, min(scene.policy.roles[principal.role].purposes)


def _words(passed: Sequence[Passed]) -> set[bytes]:
    """Return words of 32 bytes that passed, at every fourth byte of the first 4,096 of a message; 20,000 at most."""
    found: set[bytes] = set()
    for request in passed:
        for message in (request.body, request.answer):
            found |= {message[i : i + _WORD] for i in range(len(message) % 4, min(len(message), 4096) - _WORD, 4)}
    return set(itertools.islice(found, 20_000))


def open_with(vault: bytes, cells: Sequence[Cell], keys: Iterable[bytes]) -> set[str]:
    """Return the people that any of some keys opens."""
    opened: set[str] = set()
    for cell in {(c.record, c.class_id): c for c in cells}.values():
        where = context(
            vault, cell.collection.id, cell.class_id, cell.version, cell.subject, cell.record
        )  # fmt: skip
        for key in keys:
            try:
                open_envelope(key, where, cell.envelope)
            except OpenError:
                continue
            opened.add(cell.subject.hex())
    return opened


def _try_sums(scene: Scene, theft: Theft, cells: Sequence[Cell]) -> None:
    """Try every XOR of what the stolen shares give as F(x) of each cell."""
    mine = Shares(scene.policy, [scene.path("keeper", STOLEN)], "record")
    opened: set[str] = set()
    tried = 0
    for total in mine.sums(inputs_of(cells)):
        for cell, value in zip(cells, total, strict=True):
            tried += 1
            key = bytes(a ^ b for a, b in zip(cell.wrap, value.tobytes(), strict=True))
            opened |= open_with(scene.policy.vault, [cell], [key])
    theft.got(opened)
    theft.note(
        f"its {len(mine.held)} shares in every combination as F(x) of {len(cells):,} cells",
        tried=tried,
        opened=len(opened),
    )


def labels_of(scene: Scene) -> set[bytes]:
    """Return the labels of all postings in a dump."""
    with copied_store(scene) as path, contextlib.closing(sqlite3.connect(path)) as db:
        return {label for (label,) in db.execute("SELECT label FROM posting WHERE record != x''")}


def _seen(passed: Sequence[Passed]) -> set[bytes]:
    """Return every label that passed a node: candidates of postings, and those that searches asked for."""
    asked = [wire.decode(p.body, p.op).tables["labels"]["label"] for p in passed if p.op in {"node_put", "node_find"}]
    return {label.tobytes() for labels in asked for label in labels}
