"""A dump, a disk, a backup: all files of store and node, searched for known values, and rows as a thief reads them."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from anwen.backup import archive
from anwen.client.rows import Cell
from anwen.formats.envelope import split_cells, split_wraps
from anwen.rehearse.breach.cast import Cast
from anwen.rehearse.breach.live import open_with
from anwen.rehearse.breach.load import texts
from anwen.rehearse.breach.scene import STOLEN, Scene, copied_store
from anwen.rehearse.breach.search import Needles, files_below
from anwen.rehearse.breach.theft import Theft

_ROWS = """
SELECT row.record, row.version, collection, subject, collected_s, expires_s, sealed, wraps
FROM row JOIN wrap_1 USING (record, version) ORDER BY row.record LIMIT ?
"""


async def steal(scene: Scene, cast: Cast) -> Theft:
    """Return what all files of the store and the node give, and those of a backup."""
    theft = Theft(
        "dump", "a dump, the disk of store and node, a backup", 0, "no value in any spelling",
        "rehearse/breach/dump.py",
    )  # fmt: skip
    values = texts(scene.policy.collections[cast.reader.collection], [known.values for known in scene.known])
    needles = Needles(values)
    backup = await _back_up(scene)
    places = {"store": scene.store, "node": scene.path("node", STOLEN), "backup": backup}
    found: set[int] = set()
    for name, folder in places.items():
        files, size = files_below(folder), 0
        for file in files:
            found |= needles.in_file(file)
            size += file.stat().st_size
        theft.note(f"{len(files)} files of the {name}, {size / 2**20:.1f} MiB", **{f"{name} bytes": size})
    shutil.rmtree(backup)
    theft.note(
        f"{len(values):,} known values in {needles.forms:,} spellings: as put, as normalised, as indexed and "
        "without case, of each raw, UTF-16, JSON, hexadecimal, base64",
        values_looked_for=len(values), spellings=needles.forms, values_found=len(found),
    )  # fmt: skip
    theft.got(values=len(found))
    theft.must(not found, f"{len(found)} values stand in files")
    cells = cells_of(scene, 2_000)
    opened = open_with(scene.policy.vault, cells, {cell.wrap for cell in cells[:200]})
    theft.got(opened)
    theft.note("wraps of the dump as keys of its rows", opened=len(opened))
    theft.close()
    return theft


async def _back_up(scene: Scene) -> Path:
    target = scene.outside / "backup"
    shutil.rmtree(target, ignore_errors=True)
    documents = {f"policy-{i + 1:04}.json": text for i, text in enumerate(scene.folder.documents())}
    async with archive.opened(scene.policy, scene.path("node", STOLEN)) as store:
        await archive.back_up(store, scene.policy, documents, target)
    return target


def cells_of(scene: Scene, rows: int) -> Sequence[Cell]:
    """Return the sealed cells of so many rows of a stolen store."""
    cells: list[Cell] = []
    with copied_store(scene) as path, contextlib.closing(sqlite3.connect(path)) as db:
        for record, version, collection, subject, collected_s, expires_s, sealed, wraps in db.execute(_ROWS, (rows,)):
            known = split_wraps(wraps)
            cells += [
                Cell(
                    scene.policy.collection_by_id[collection], subject, record, class_id, version, collected_s,
                    expires_s, envelope, *known[class_id],
                )
                for class_id, envelope in split_cells(sealed).items()
            ]  # fmt: skip
    return cells
