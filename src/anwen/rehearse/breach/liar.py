"""A keeper that lies: wrong on one or all components, two-faced, silent, slow.

Reads have to go on, no disputed write may be stored, and whoever is named has to be the liar alone.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping

from anwen.client.session import Timing
from anwen.client.vault import AsyncVault
from anwen.errors import AnwenError, DisputeError
from anwen.rehearse.breach import tap
from anwen.rehearse.breach.cast import Cast
from anwen.rehearse.breach.load import Load
from anwen.rehearse.breach.scene import STOLEN, Known, Scene
from anwen.rehearse.breach.theft import Theft

PEOPLE, WRITES = 12, 3
PATIENT = Timing(grace_s=5.0, least_s=5.0, most_s=5.0)
"""Waits for all keepers: whoever is not heard is not caught."""

WRONG = ("one", "both", "two-faced")


async def steal(scene: Scene, cast: Cast, load: Load) -> Theft:
    """Return what came of every lie of `tap.LIES`, told by the attacker's keeper."""
    theft = Theft(
        "liar", f"keeper {STOLEN}, lying: " + ", ".join(tap.LIES), 0,
        "reads go on, no write is stored about which keepers contradict each other, the liar alone is named",
        "rehearse/breach/liar.py",
    )  # fmt: skip
    try:
        for lie, title in tap.LIES.items():
            tap.tell(scene.outside, lie)
            read, suspected, longest_s = await _read(scene, cast, scene.known[:PEOPLE], patient=lie in WRONG)
            named = {suspects[0] for suspects in suspected if len(suspects) == 1}
            theft.must(read == PEOPLE, f"{lie}: {read} of {PEOPLE} people could be read")
            theft.must(named <= {STOLEN}, f"{lie}: keepers {sorted(named - {STOLEN})} were accused, who did not lie")
            theft.must(all(STOLEN in suspects for suspects in suspected), f"{lie}: honest keepers alone were suspected")
            theft.must(lie not in WRONG or named == {STOLEN}, f"{lie}: the liar was not named")
            rows = list(itertools.islice(load.spare, WRITES))
            disputed, stored = await _write(scene, cast, rows, patient=lie in WRONG)
            _check_writes(theft, lie, len(rows), disputed, stored)
            theft.note(
                f"{lie}: {title}",
                **{
                    f"{lie}: read": read,
                    f"{lie}: named": "".join(sorted(named)),
                    f"{lie}: longest s": round(longest_s, 1),
                },
                **{f"{lie}: writes": len(rows), f"{lie}: writes disputed": disputed, f"{lie}: writes stored": stored},
            )
    finally:
        tap.tell(scene.outside, "")
    theft.must(await _all_open(scene, cast), "a person put while a keeper lied does not open")
    if not any(theft.figures[f"{lie}: writes"] for lie in tap.LIES):
        theft.promise = "reads go on, the liar alone is named; NO WRITE WAS TRIED: there is nobody to put"
    theft.close()
    return theft


def _check_writes(theft: Theft, lie: str, tried: int, disputed: int, stored: int) -> None:
    """Note what should not have come of writes: stored in spite of a lie, or failed for another reason."""
    theft.must(disputed + stored == tried, f"{lie}: {tried - disputed - stored} of {tried} writes failed, undisputed")
    if lie in {"one", "both"}:  # a two-faced one is honest in between
        theft.must(disputed == tried, f"{lie}: {stored} disputed writes were stored")
    if lie not in WRONG:
        theft.must(not disputed, f"{lie}: {disputed} writes were disputed, of a keeper that is only {lie}")


async def _read(
    scene: Scene, cast: Cast, people: list[Known], *, patient: bool
) -> tuple[int, set[tuple[str, ...]], float]:
    """Return how many people were found and opened as they are, who was suspected, and the longest time for one."""
    right, longest_s = 0, 0.0
    vault = _connect(scene, *cast_of(cast), patient=patient)
    field = searched(scene, cast)
    async with vault:
        for known in people:
            began = time.monotonic()
            records = await vault.find(cast.reader.collection, [cast.reader.class_name], **{field: known.values[field]})
            opened = await vault.open([r for r in records if r.id == known.record], [cast.reader.class_name])
            right += [same(known, values) for values in opened] == [True]
            longest_s = max(longest_s, time.monotonic() - began)
        # a search meets no commitment: where one component is wrong it leaves two suspects, and accuses neither
        return right, {r.suspects for r in vault.session.reports}, longest_s


async def _write(scene: Scene, cast: Cast, rows: list[Mapping[str, object]], *, patient: bool) -> tuple[int, int]:
    """Return how many writes were refused as disputed, and how many were stored."""
    disputed = stored = 0
    async with _connect(scene, *cast.writer, patient=patient) as vault:
        for row in rows:
            try:
                result = await vault.put(cast.reader.collection, row)
            except DisputeError:
                disputed += 1
            except AnwenError:
                continue
            else:
                stored += 1
                scene.known.append(Known(result.record, result.subject, row))
    return disputed, stored


async def _all_open(scene: Scene, cast: Cast) -> bool:
    """Return whether everybody who was stored meanwhile opens now that nobody lies."""
    newest = scene.known[-len(tap.LIES) * WRITES :]
    read, _, _ = await _read(scene, cast, newest, patient=True)
    return read == len(newest)


def cast_of(cast: Cast) -> tuple[str, str]:
    """Return who reads, and for what purpose."""
    return cast.reader.principal, cast.reader.purpose


def _connect(scene: Scene, principal: str, purpose: str, *, patient: bool) -> AsyncVault:
    return scene.connect(principal, purpose, PATIENT if patient else None)


def searched(scene: Scene, cast: Cast) -> str:
    """Return a unique field that the reader may search."""
    schema = scene.policy.collections[cast.reader.collection]
    purpose = scene.policy.purposes[cast.reader.purpose]
    return next(f.name for f in schema.fields if f.index == "unique" and (schema.id, f.id) in purpose.search)


def same(known: Known, values: dict[str, object]) -> bool:
    """Return whether what was opened is what is really there; values may have been normalised on the way."""
    return all(str(value).casefold() == str(known.values.get(name)).casefold() for name, value in values.items())
