"""What one put or delete does to the Cassandra tables, step by step; the last step alone makes a row visible.

Every step may be repeated, in any order and by anybody: a row of version v is written at timestamp 2v, buried by
version v at 2v + 1, whatever clocks say. Conditional statements, which have no timestamp of their own, write cells that
nothing else writes. A put that was cut off is found as it was left by its repeat, which goes on from there.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from anwen.errors import UnavailableError
from anwen.store import cassandra_read as read
from anwen.store.base import Outcome, Posting, PutResult, PutRow
from anwen.store.cassandra_read import Label, Rows
from anwen.store.cassandra_session import Session, Steps
from anwen.store.placing import Plan, entries, first_labels, other_labels, plan

ROUNDS = 8
"""Times that a row which lost a race is placed anew."""
SETTLE_S = (0.0, 0.01, 0.02, 0.04, 0.08)
"""Pauses in which those who share a slot with a smaller record leave it."""
PUT_S = 60.0
ABANDONED_S = 600.0
"""A unique value is free when its holder's row is missing for so long, by this node's own count: ten times PUT_S, after
which no put sends a claim any more. One that was sent may lie with a member that hangs: ADR 9, left open (d)."""
FOREVER = 2**62
"""Timestamp of what removes rows and wraps, whose ids are spent: above every clock."""

WRAP = "INSERT INTO {{ks}}.wrap_{} (record, version, tag, wraps) VALUES (?, ?, ?, ?) USING TIMESTAMP ?"
_WRAPPED = "SELECT record, version, tag FROM {{ks}}.wrap_{} WHERE record IN ? PER PARTITION LIMIT 4"
POSTING = "INSERT INTO {ks}.posting (label, record, run, mac) VALUES (?, ?, ?, ?) USING TIMESTAMP ?"
TOMBSTONE = b"", b"", b"", 1
"""What stays of a posting that was given up: record, run, mac, timestamp."""
_LEAVE = "DELETE FROM {ks}.posting USING TIMESTAMP ? WHERE label = ? AND record = ? AND run = ?"
_BURY = "DELETE FROM {ks}.posting USING TIMESTAMP ? WHERE label = ? AND record = ?"
_TAKE = (
    "UPDATE {ks}.posting SET owner = ?, owner_mac = ?, owner_version = ? WHERE label = ? "
    "IF owner = ? AND owner_version = ?"
)
_FREE = "UPDATE {ks}.posting SET owner = 0x, owner_mac = 0x WHERE label = ? IF owner = ? AND owner_version <= ?"
SUBJECT = "INSERT INTO {ks}.subject (subject, collection, record) VALUES (?, ?, ?) USING TIMESTAMP ?"
LISTING = "INSERT INTO {ks}.listing (collection, bucket, record) VALUES (?, ?, ?) USING TIMESTAMP ?"
_CLAIM = "INSERT INTO {ks}.row (record, version, body, verified) VALUES (?, ?, ?, ?) IF NOT EXISTS"

MARK = "UPDATE {ks}.row USING TIMESTAMP ? SET deleted = ? WHERE record = ?"
_REMOVE = "DELETE FROM {{ks}}.{} USING TIMESTAMP ? WHERE record = ? AND version <= ?"
_UNSUBJECT = "DELETE FROM {ks}.subject USING TIMESTAMP ? WHERE subject = ? AND collection = ? AND record = ?"
_UNLIST = "DELETE FROM {ks}.listing USING TIMESTAMP ? WHERE collection = ? AND bucket = ? AND record = ?"


@dataclass(slots=True)
class Shared:
    """What the puts of one node know of each other."""

    taking: dict[bytes, bytes] = field(default_factory=dict)
    """Labels that puts under way are about to take, with their records: within a node no two race."""
    orphans: dict[tuple[bytes, bytes, int], float] = field(default_factory=dict)
    """Unique labels, owners and versions without a row, since when."""


@dataclass(slots=True)
class _Taking:
    """A row on its way: what it takes, and whether it lost any of it to another writer."""

    row: PutRow
    labels: bytes
    before: tuple[int, ...]
    chosen: dict[bytes, Posting]
    held: set[bytes]  # by its earlier versions
    lost: bool = False

    @property
    def at(self) -> int:
        return 2 * self.row.version

    def unique(self) -> list[bytes]:
        return sorted(label for label, posting in self.chosen.items() if posting.unique)

    def body(self) -> bytes:
        return read.body(self.row, self.labels, self.unique(), self.before)

    def exact(self) -> list[bytes]:
        return [label for label, posting in self.chosen.items() if not posting.unique]


class _WrapKey(NamedTuple):
    """What names the wraps of a row."""

    record: bytes
    version: int
    tag: bytes

    @classmethod
    def of(cls, row: PutRow) -> _WrapKey:
        return cls(row.record, row.version, row.tag)


class _Entry(NamedTuple):
    """An entry of an exact posting that this put wrote."""

    at: int
    label: bytes
    record: bytes
    run: bytes

    def runs_beside(self, here: Label) -> bool:
        """Whether the record has an entry of another run there: of one that held the label, unless it was deleted."""
        return any(record == self.record and run != self.run for record, run, _ in here.entries)


class Put:
    """One put: rounds of looking, planning and taking, until nobody is in the way."""

    def __init__(self, session: Session, shared: Shared, epoch: int, rows: Sequence[PutRow]) -> None:
        self._session, self._shared, self._epoch, self._rows = session, shared, epoch, rows
        self._run = b""  # of a round: what one round left, another may enter again
        self._wrapped: set[_WrapKey] = set()  # rows whose wraps are there
        self._repeated: set[_WrapKey] = set()  # of these, the rows that an earlier run put there, or stored
        self._entered: set[_Entry] = set()
        self._taken: set[tuple[bytes, bytes, int]] = set()  # unique label, record, version
        self._begun = time.monotonic()
        self._known: dict[bytes, Rows] = {}
        self._labels: dict[bytes, Label] = {}

    async def run(self) -> list[PutResult]:
        """Return outcomes in the order of the rows."""
        results: dict[int, PutResult] = {}
        pending, tries = list(range(len(self._rows))), [0] * len(self._rows)
        while pending:
            first: dict[bytes, int] = {}
            for i in pending:  # later versions of a record come after earlier ones
                first.setdefault(self._rows[i].record, i)
            wave = [i for i in pending if first[self._rows[i].record] == i and tries[i] < ROUNDS]
            late = [i for i in pending if tries[i] == ROUNDS]
            found = dict(zip(wave, await self._wave([self._rows[i] for i in wave]), strict=True)) if wave else {}
            results |= {i: result for i, result in found.items() if result}
            results |= {i: PutResult(Outcome.NO_SLOT) for i in late}  # come again with later labels
            for i in wave:
                tries[i] += 1
            pending = [i for i in pending if i not in results]
        await self._give_back()
        return [results[i] for i in range(len(self._rows))]

    async def _wave(self, rows: Sequence[PutRow]) -> list[PutResult | None]:
        """Return results of rows of different records; none of those that are to be tried again."""
        self._run = os.urandom(8)
        planned = await self._look(rows)
        taking = self._takings(planned)
        mine = {label: t.row.record for t in taking.values() for label in t.exact()}
        self._shared.taking |= mine
        try:
            await self._store(list(taking.values()), planned.again)
        finally:
            for label in mine:
                self._shared.taking.pop(label, None)
        new = {row.record for row, *_ in planned.rows}
        settled = len(new) == len(taking) and not any(t.lost for t in taking.values())
        results: list[PutResult | None] = []
        for row, result in zip(rows, planned.results, strict=True):
            if row.record in new:
                done = row.record in taking and not taking[row.record].lost
            else:  # a refusal counts when what it was refused for is there
                done = settled or result.outcome is Outcome.STORED
            results.append(result if done else None)
        return results

    # --- looking -------------------------------------------------------------------------------------------------

    async def _look(self, rows: Sequence[PutRow]) -> Plan:
        """Read what the rows meet, and plan."""
        self._known, self._labels = {}, {}
        self._known, self._labels, wrapped = await asyncio.gather(
            read.current_rows(self._session, (r.record for r in rows), ((r.record, r.version) for r in rows)),
            read.labels(self._session, first_labels(rows)),
            self._session.run(_WRAPPED.format(int(self._epoch)), read.groups(r.record for r in rows)),
        )
        there = {_WrapKey(*key) for part in wrapped for key in part}
        self._repeated |= there - self._wrapped  # wraps come before entries
        self._wrapped |= there
        owner = await self._owners(rows, self._labels)
        wanted = other_labels(rows, owner)
        stored = {record: [v.known() for v in here.versions] for record, here in self._known.items()}
        deleted = {record: here.deleted for record, here in self._known.items() if here.deleted is not None}
        while True:
            found = await read.labels(self._session, wanted)
            self._labels |= found
            owner |= await self._owners(rows, found)
            # what other puts of this node are about to take counts from here on; nothing is awaited until ours does
            busy = {la: r for la, r in self._shared.taking.items() if not owner.get(la, la)}
            planned = plan(rows, stored, deleted, owner | busy)
            if not planned.unknown:
                return planned
            wanted = planned.unknown

    async def _owners(self, rows: Iterable[PutRow], found: dict[bytes, Label]) -> dict[bytes, bytes]:
        """Return who holds each label for a plan; empty: free."""
        own = {r.record for r in rows}
        owner: dict[bytes, bytes] = {}
        foreign: dict[bytes, Label] = {}
        for label, here in found.items():
            records = here.records()
            listed = [r for r in records & own if r in self._known and label in self._known[r].held()]
            others = sorted(records - own) or sorted(records)
            owner[label] = here.owner or (listed or others or [b""])[0]
            if here.owner and here.owner not in own:
                foreign[label] = here
        if foreign:
            holders = await read.current_rows(self._session, (here.owner or b"" for here in foreign.values()))
            owner |= {la: b"" for la, here in foreign.items() if self._abandoned(la, here, holders)}
        return owner

    def _abandoned(self, label: bytes, here: Label, holders: dict[bytes, Rows]) -> bool:
        """Whether a unique value's owner was deleted, put it down, or replaced it, and never came back."""
        owner, version = here.owner or b"", here.owner_version or 0
        rows = holders.get(owner, Rows())
        key, since = (label, owner, version), self._shared.orphans
        if label in rows.named():
            since.pop(key, None)
            return False
        if rows.deleted is not None and version <= rows.deleted:
            return True
        if len(since) > 10_000:
            since.clear()
        return time.monotonic() - since.setdefault(key, time.monotonic()) >= ABANDONED_S

    def _takings(self, planned: Plan) -> dict[bytes, _Taking]:
        """Return what this wave takes: all but what another row of it gives up first."""
        given = dict(planned.buried)
        found: dict[bytes, _Taking] = {}
        for row, labels, before, _ in planned.rows:
            chosen = dict(zip((label for _, label in entries(labels)), row.postings, strict=True))
            if all(given.get(label, row.record) == row.record for label in chosen):
                held = self._known[row.record].held() if row.record in self._known else set()
                found[row.record] = _Taking(row, labels, before, chosen, held)
        return found

    # --- storing -------------------------------------------------------------------------------------------------

    async def _store(self, taking: Sequence[_Taking], again: Sequence[PutRow]) -> None:
        """Run the steps; what is cut off leaves nothing that a reader sees, and nothing that a repeat does not find."""
        await asyncio.gather(self._wrap([t.row for t in taking], again), self._take(taking))
        await self._place([t for t in taking if not t.lost])
        rows = [t for t in taking if not t.lost]
        await asyncio.gather(
            self._session.run(SUBJECT, [(t.row.subject, t.row.collection, t.row.record, t.at) for t in rows]),
            self._session.run(
                LISTING, [(t.row.collection, read.bucket(t.row.record), t.row.record, t.at) for t in rows]
            ),
        )
        await self._claim(rows)
        stored = [t for t in rows if not t.lost]
        self._entered -= {_Entry(t.at, label, t.row.record, self._run) for t in stored for label in t.exact()}
        self._taken -= {(label, t.row.record, t.row.version) for t in stored for label in t.unique()}
        repeated = [(row, self._stored_labels(row)) for row in again]
        await self._supersede([*((t.row, set(t.chosen)) for t in stored), *repeated])

    async def _wrap(self, new: Sequence[PutRow], again: Sequence[PutRow]) -> None:
        """Write wraps where the epoch has none."""
        self._repeated |= {_WrapKey.of(r) for r in again}
        rows = [r for r in (*new, *again) if _WrapKey.of(r) not in self._wrapped]
        await self._session.run(
            WRAP.format(int(self._epoch)), [(*_WrapKey.of(r), r.wraps, 2 * r.version) for r in rows]
        )
        self._wrapped |= {_WrapKey.of(r) for r in rows}

    async def _take(self, taking: Sequence[_Taking]) -> None:
        """Take unique labels, each on condition that it is as it was seen."""
        asked = [(t, label) for t in taking for label in t.unique()]
        keys: list[tuple[object, ...]] = []
        takers: list[_Taking] = []
        for t, label in asked:
            here, record, version, mac = self._labels[label], t.row.record, t.row.version, t.chosen[label].mac
            if (here.owner, here.owner_version, here.owner_mac) != (record, version, mac):
                keys.append((record, mac, version, label, here.owner, here.owner_version))
                takers.append(t)
                self._taken.add((label, record, version))
        for t, applied in zip(takers, await self._session.applied(_TAKE, keys), strict=True):
            t.lost |= not applied

    async def _place(self, taking: Sequence[_Taking]) -> None:
        """Enter exact labels, then read back who else did.

        Everybody enters before reading back, so of two in one slot at least one sees the other; who is not alone
        leaves, so no two stay. The one with the smallest record waits for the others first: else all would leave.
        """
        entered = {_Entry(t.at, label, t.row.record, self._run): t for t in taking for label in t.exact()}
        self._entered |= entered.keys()
        macs = [t.chosen[e.label].mac for e, t in entered.items()]
        keys = [(e.label, e.record, e.run, mac, e.at) for e, mac in zip(entered, macs, strict=True)]
        await self._session.run(POSTING, keys)
        for pause in SETTLE_S:
            if not entered:
                return
            await asyncio.sleep(pause)  # nothing tells when others have left
            found = await read.labels(self._session, (e.label for e in entered))
            waiting = {}
            for e, t in entered.items():
                here = found[e.label]
                others = here.records() - {e.record}
                if (e.record, e.run) not in {(record, run) for record, run, _ in here.entries}:
                    t.lost = True  # deleted meanwhile
                elif others and not (e.label in t.held and e.runs_beside(here)):
                    waiting[e] = t
                    t.lost |= min(others) < e.record
            entered = {e: t for e, t in waiting.items() if not t.lost}
            await self._leave([e for e, t in waiting.items() if t.lost])
        for t in entered.values():
            t.lost = True
        await self._leave(list(entered))

    async def _leave(self, entries_: Sequence[_Entry]) -> None:
        # others may have placed themselves behind these slots: a search that met many free ones would end before them
        await self._session.run(POSTING, [(e.label, *TOMBSTONE) for e in entries_])
        await self._session.run(_LEAVE, entries_)
        self._entered -= set(entries_)

    async def _claim(self, taking: Sequence[_Taking]) -> None:
        """Make rows visible. Commit point: before it a put is invisible, after it complete but for old labels."""
        keys = [(t.row.record, t.row.version, t.body(), t.row.verified) for t in taking]
        for t, applied in zip(taking, await self._session.applied(_CLAIM, keys, self._begun + PUT_S), strict=True):
            t.lost = not applied

    def _stored_labels(self, row: PutRow) -> set[bytes]:
        return next(v.held() for v in self._known[row.record].versions if v.row.version == row.version)

    async def _supersede(self, rows: Sequence[tuple[PutRow, set[bytes]]]) -> None:
        """Bury what earlier versions indexed of the rows' classes, also for a repeat of a row that was cut off here."""
        gone = [
            _Burial(label, row.record, row.version, label in old.unique)
            for row, kept in rows
            if row.version > 1
            for old in self._known[row.record].versions
            if old.row.version < row.version
            for class_id, label in entries(old.row.labels)
            if class_id in row.classes and label not in kept
        ]
        await bury(self._session, gone)

    async def _give_back(self) -> None:
        """Leave what refused rows took, and slots that rows, or an earlier run of theirs, took on the way."""
        repeated = [r for r in self._rows if _WrapKey.of(r) in self._repeated]
        records = {r for *_, r, _ in self._entered} | {r for _, r, _ in self._taken} | {r.record for r in repeated}
        known = await read.current_rows(self._session, records, ((r.record, r.version) for r in self._rows))
        # what a stored row names stays: a claim may have been applied although its answer was lost, and another writer
        # of the same version may have stored it under the same value
        held = {(label, record) for record, here in known.items() for label in here.held()}
        # no earlier run can claim a row any more that is stored: what that does not name is of no use to anybody
        stored = [r for r in repeated if known.get(r.record, Rows()).has(r.version, r.tag)]
        left = self._entered | await self._entries_of(stored)
        await self._leave([e for e in left if (e.label, e.record) not in held])
        await bury(self._session, [_Burial(*t, unique=True) for t in self._taken if t[:2] not in held])

    async def _entries_of(self, rows: Sequence[PutRow]) -> set[_Entry]:
        """Return the entries that rows have under any label that they might have taken."""
        exact = [(row, la) for row in rows for p in row.postings if not p.unique for la in p.labels]
        found = await read.labels(self._session, (label for _, label in exact))
        return {
            _Entry(2 * row.version, label, record, run)
            for row, label in exact
            for record, run, _ in found[label].entries
            if record == row.record
        }


class _Burial(NamedTuple):
    """A label that a record gives up, as far as it took it up to a version."""

    label: bytes
    record: bytes
    version: int
    unique: bool


async def bury(session: Session, burials: Sequence[_Burial]) -> None:
    """Make tombstones of labels; they keep no pointer, and are free for the next posting. Raises UnavailableError."""
    exact = [b for b in burials if not b.unique]
    await session.run(POSTING, [(b.label, *TOMBSTONE) for b in exact])
    await session.run(_BURY, [(2 * b.version + 1, b.label, b.record) for b in exact])
    unique = [b for b in burials if b.unique]
    for _ in range(ROUNDS):
        await session.applied(_FREE, [(b.label, b.record, b.version) for b in unique])
        found = await read.labels(session, (b.label for b in unique))
        unique = [
            b for b in unique
            if found[b.label].owner == b.record and (found[b.label].owner_version or 0) <= b.version
        ]  # fmt: skip
        if not unique:
            return
    raise UnavailableError("store cassandra: a unique value could not be freed")


async def delete(session: Session, epochs: Sequence[int], records: Sequence[tuple[bytes, int]]) -> None:
    """Remove records up to a version; a repeat goes on where a cut was.

    The mark comes first and never goes: what a late repair or a backup brings back stays hidden under it.
    """
    # commit point: from here on the versions are gone for every reader; a crash leaves labels and bytes to a repeat
    await session.run(MARK, [(version, version, record) for record, version in records])
    known = await read.rows(session, (record for record, _ in records))
    burials, empty = [], []
    for record, version in records:
        here = known.get(record, Rows())
        gone = [v for v in here.hidden if v.row.version <= version]
        burials += [_Burial(la, record, version, la in v.unique) for v in gone for la in v.held()]
        if gone and not here.versions:
            empty.append((gone[-1].row, version))
    await bury(session, burials)
    await session.run(_UNSUBJECT, [(2 * v + 1, r.subject, r.collection, r.record) for r, v in empty])
    await session.run(_UNLIST, [(2 * v + 1, r.collection, read.bucket(r.record), r.record) for r, v in empty])
    for table in (*(f"wrap_{epoch}" for epoch in epochs), "row"):  # rows last: a repeat finds the labels in them
        await session.run(_REMOVE.format(table), [(FOREVER, record, version) for record, version in records])


def warm_up() -> Steps:
    """Return statements of each sort that a put and a read make, under a key that nobody has: they change nothing."""
    key = os.urandom(16)
    reads = [(statement, ([key],)) for statement in (read.NEWEST_ROWS, read.POSTING)]
    return [*reads, (_BURY, (1, key, key)), (_TAKE, (None, None, None, key, None, None))]
