"""Two keepers in one epoch, with the store: what falls, said plainly. And what one of them gives from a dump alone."""

from __future__ import annotations

from collections.abc import Sequence

from anwen.client.rows import Cell, open_cell
from anwen.errors import OpenError
from anwen.rehearse.breach.cast import Cast
from anwen.rehearse.breach.scene import Scene
from anwen.rehearse.breach.shares import Shares, inputs_of
from anwen.rehearse.breach.theft import Theft


def steal(scene: Scene, cast: Cast, dump: Sequence[Cell]) -> Theft:
    """Return what the shares of a threshold of keepers open of a dump: all of it. This shows that the attack works."""
    threshold = scene.policy.threshold
    names = list(scene.policy.keepers)[:threshold]
    collection = scene.policy.collections[cast.reader.collection]
    cells = [c for c in dump if c.collection.id == collection.id and c.class_id in {d.id for d in collection.classes}]
    people = {cell.subject for cell in cells}
    theft = Theft(
        f"{threshold} keepers", f"the shares of keepers {' and '.join(names)} of one epoch, and a dump of the store",
        len(people), f"none: {threshold} keepers and the store open the living data", "rehearse/breach/keepers.py",
    )  # fmt: skip
    shares = Shares(scene.policy, [scene.path("keeper", name) for name in names], "record")
    opened, values = set(), 0
    for cell, value in zip(cells, shares.values(inputs_of(cells)), strict=True):
        try:
            values += len(open_cell(scene.policy.vault, cell, value.tobytes()))
        except OpenError:
            continue
        opened.add(cell.subject.hex())
    theft.got(opened, values)
    theft.must(len(opened) == len(people), f"{len(opened)} of {len(people)} people opened: this attack does not work")
    theft.note("F computed from their shares, no keeper asked, nothing logged", cells=len(cells), values=values)
    theft.close()
    return theft
