"""Whoever writes to the database: rows swapped, spliced, edited, given to another person, put back after a change.

The store is a copy, read by a node in this process; keepers are the running ones. Whatever was done to a row, opening
it by its id gives its own person's values or nothing, and a search gives nobody else. What an update replaced opens
again once it is put back: it is genuine. What was deleted does not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from anwen.backup.drill import Inside
from anwen.client.vault import AsyncVault
from anwen.errors import AnwenError
from anwen.formats.envelope import join_cells, split_cells
from anwen.node.service import Node
from anwen.rehearse.breach.cast import Cast
from anwen.rehearse.breach.liar import same, searched
from anwen.rehearse.breach.scene import Known, Scene, copied_store
from anwen.rehearse.breach.theft import Theft
from anwen.store.sqlite import SqliteStore

PAIRS = 4
DAY_S = 86_400
Edit = Callable[[sqlite3.Connection, bytes, bytes], None]


async def steal(scene: Scene, cast: Cast, seed: int) -> Theft:
    """Return what came of every edit of rows of some pairs of people."""
    theft = Theft(
        "rows", "write access to the database", 0, "an edited row opens to nobody else's values, a deleted one to none",
        "rehearse/breach/rows.py",
    )  # fmt: skip
    chooser = random.Random(seed)  # noqa: S311 - pairs that can be had again
    outcomes: dict[str, int] = {"as it was": 0, "refused or not there": 0, "somebody else": 0}
    edits = list(_edits())
    for title, edit in edits:
        for _ in range(PAIRS):
            one, other = chooser.sample(scene.known, 2)
            with copied_store(scene) as path:
                with contextlib.closing(sqlite3.connect(path)) as db, db:
                    edit(db, bytes.fromhex(one.record), bytes.fromhex(other.record))
                for outcome in await _read(scene, cast, path, (one, other)):
                    outcomes[outcome] += 1
                    theft.must(outcome != "somebody else", f"{title}: a row opens to somebody else's values")
    theft.people = outcomes["somebody else"]
    theft.note(f"{len(edits)} edits of {PAIRS} pairs of people: " + ", ".join(title for title, _ in edits), **outcomes)
    theft.must(outcomes["refused or not there"] > 0, "no edit had any effect: this attack does not work")
    await _put_back(scene, cast, chooser.choice(scene.known), theft)
    theft.close()
    return theft


async def _read(scene: Scene, cast: Cast, path: Path, pair: Sequence[Known]) -> list[str]:
    """Return what became of each of two people, by id and by a search."""
    store = SqliteStore(path)
    vault = scene.connect(cast.reader.principal, cast.reader.purpose)
    try:
        transport = Inside(vault.session.transport, Node(scene.policy, store, clock=scene.now))
        inside = AsyncVault(dataclasses.replace(vault.session, transport=transport), vault.purpose)
        inside.session.clock = scene.now
        return [await _outcome(inside, scene, cast, known, by_id=by_id) for known in pair for by_id in (True, False)]
    finally:
        await vault.close()
        await store.close()


async def _outcome(vault: AsyncVault, scene: Scene, cast: Cast, known: Known, *, by_id: bool) -> str:
    reader, field = cast.reader, searched(scene, cast)
    try:
        if by_id:
            found = await vault.get([known.record], [reader.class_name], collection=reader.collection)
        else:
            found = [*await vault.find(reader.collection, [reader.class_name], **{field: known.values[field]})]
        opened = await vault.open([r for r in found if r is not None], [reader.class_name])
    except AnwenError:
        return "refused or not there"
    if not opened:
        return "refused or not there"
    return "as it was" if all(values and same(known, values) for values in opened) else "somebody else"


# --- put back ------------------------------------------------------------------------------------------------------


async def _put_back(scene: Scene, cast: Cast, known: Known, theft: Theft) -> None:
    """Add to `theft` what opens of a person's older rows, put back after an update, and after a deletion."""
    reader, record, changed = cast.reader, bytes.fromhex(known.record), _changed(scene, cast, known)
    if changed is None:
        theft.note("nothing was put back: nobody has a field that is not unique otherwise than another")
        return
    scene.known.remove(known)  # for others he is no longer as he was
    with copied_store(scene) as path:
        older = _held(path, record)
    async with scene.connect(reader.principal, reader.purpose) as vault:
        (sealed,) = await vault.get([known.record], collection=reader.collection)
    assert sealed is not None
    async with scene.connect(*cast.writer) as vault:
        await vault.update(sealed, reader.class_name, changed)
    updated, opened = await _with(scene, cast, known), await _with(scene, cast, known, older)
    theft.must("as it was" not in updated, "an update has no effect: this attack does not work")
    theft.must("somebody else" not in opened, "an older row opens to values that it never had")
    theft.note(
        "a row, its wrap and postings put back after an update, read by id and by a search (admitted: older values are "
        "genuine; keepers' logs tell that there was a later put, nothing that opens does)",
        older_values_opened=opened.count("as it was"),
    )
    if cast.deleter:
        async with scene.connect(*cast.deleter) as vault:
            await vault.delete([dataclasses.replace(sealed, version=sealed.version + 1)])
        opened = await _with(scene, cast, known, older)
        theft.got({known.subject} if "as it was" in opened else ())
        theft.note("the same put back after a deletion", deleted_values_opened=opened.count("as it was"))


def _changed(scene: Scene, cast: Cast, known: Known) -> dict[str, object] | None:
    """Return what a class has, but in one field that is not unique what somebody else has; None: nobody differs."""
    fields = scene.policy.collections[cast.reader.collection].fields_of(cast.reader.class_name)
    values = {f.name: known.values.get(f.name) for f in fields}
    others = ((f.name, one.values.get(f.name)) for one in scene.known for f in fields if f.index != "unique")
    return next(({**values, name: value} for name, value in others if value not in (None, values[name])), None)


Held = dict[str, list[tuple[object, ...]]]
"""By table, all that a store holds of a record."""


def _held(path: Path, record: bytes) -> Held:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return {
            table: db.execute(f"SELECT * FROM {table} WHERE record = ?", (record,)).fetchall()  # noqa: S608 - our names
            for table in ("row", "wrap_1", "posting", "subject", "deleted")
        }


async def _with(scene: Scene, cast: Cast, known: Known, held: Held | None = None) -> list[str]:
    """Return what becomes of a person, by id and by a search, once the store holds this of him."""
    with copied_store(scene) as path:
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            for table, rows in (held or {}).items():
                db.execute(f"DELETE FROM {table} WHERE record = ?", (bytes.fromhex(known.record),))  # noqa: S608
                for row in rows:
                    db.execute(f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608
        return await _read(scene, cast, path, [known])


# --- edits ---------------------------------------------------------------------------------------------------------


def _edits() -> Iterator[tuple[str, Edit]]:
    for column in ("sealed", "tag", "subject", "labels", "collected_s", "expires_s"):
        yield f"{column} exchanged", _exchange("row", column)
    yield "wraps exchanged", _exchange("wrap_1", "wraps")
    yield (
        "rows exchanged with their wraps",
        _all_of(*(_exchange("row", c) for c in ("sealed", "tag", "labels")), _exchange("wrap_1", "wraps")),
    )
    yield "one class of another person spliced in", _splice
    yield "classes of one row exchanged", _turn
    yield "dates a day earlier", _set("row", "collected_s = collected_s - 86400")
    yield "no end", _set("row", "expires_s = 0, collected_s = 0")
    yield "a later version", _all_of(_set("row", "version = 2"), _set("wrap_1", "version = 2"))
    yield "postings exchanged", _exchange_postings("record")
    yield "postings exchanged with their check values", _all_of(_exchange_postings("record"), _exchange_postings("mac"))


def _exchange(table: str, column: str) -> Edit:
    def edit(db: sqlite3.Connection, one: bytes, other: bytes) -> None:
        select = f"SELECT {column} FROM {table} WHERE record = ?"  # noqa: S608 - our own names
        ((first,), (second,)) = (db.execute(select, (record,)).fetchone() for record in (one, other))
        for record, value in ((one, second), (other, first)):
            db.execute(f"UPDATE {table} SET {column} = ? WHERE record = ?", (value, record))  # noqa: S608

    return edit


def _set(table: str, what: str) -> Edit:
    def edit(db: sqlite3.Connection, one: bytes, _other: bytes) -> None:
        db.execute(f"UPDATE {table} SET {what} WHERE record = ?", (one,))  # noqa: S608 - our own words

    return edit


def _all_of(*edits: Edit) -> Edit:
    def edit(db: sqlite3.Connection, one: bytes, other: bytes) -> None:
        for each in edits:
            each(db, one, other)

    return edit


def _cells(db: sqlite3.Connection, record: bytes) -> dict[int, bytes]:
    ((sealed,),) = db.execute("SELECT sealed FROM row WHERE record = ?", (record,)).fetchall()
    return split_cells(sealed)


def _keep(db: sqlite3.Connection, record: bytes, cells: dict[int, bytes]) -> None:
    sealed = join_cells(list(cells), list(cells.values()))
    db.execute("UPDATE row SET sealed = ? WHERE record = ?", (sealed, record))


def _splice(db: sqlite3.Connection, one: bytes, other: bytes) -> None:
    mine, theirs = _cells(db, one), _cells(db, other)
    first = min(mine)
    _keep(db, one, {**mine, first: theirs[first]})


def _turn(db: sqlite3.Connection, one: bytes, _other: bytes) -> None:
    cells = _cells(db, one)
    turned = [*list(cells.values())[1:], *list(cells.values())[:1]]
    _keep(db, one, dict(zip(cells, turned, strict=True)))


def _exchange_postings(column: str) -> Edit:
    def edit(db: sqlite3.Connection, one: bytes, other: bytes) -> None:
        held = {r: db.execute("SELECT label, mac FROM posting WHERE record = ?", (r,)).fetchall() for r in (one, other)}
        if column == "mac":  # after the records were exchanged: each label gets the other's check value
            macs = [mac for r in (other, one) for _, mac in held[r]]
            for (label, _), mac in zip([p for r in (one, other) for p in held[r]], macs, strict=False):
                db.execute("UPDATE posting SET mac = ? WHERE label = ?", (mac, label))
            return
        for record, labels in ((other, held[one]), (one, held[other])):
            for label, _ in labels:
                db.execute("UPDATE posting SET record = ? WHERE label = ?", (record, label))

    return edit
