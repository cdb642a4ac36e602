"""What a put decides: which rows are stored, which labels their postings take, which become tombstones. Pure.

An engine with transactions looks up what this asks for, and writes the plan that it gets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from anwen.formats.envelope import split_cells
from anwen.formats.wire import NOWHERE, Outcome
from anwen.store import history
from anwen.store.base import Posting, PutResult, PutRow, StoredRow
from anwen.store.trim import NO_WRAPS, current

_LABEL = 16
_ENTRY = 2 + _LABEL  # class u2 | label, in `row.labels`


class Known(NamedTuple):
    """A version of a record."""

    row: StoredRow
    others: Collection[int]  # versions of which it says that they may be current beside it


class New(NamedTuple):
    """A row to be stored, with what is kept beside it."""

    row: PutRow
    labels: bytes  # `row.labels`
    before: tuple[int, ...]  # versions that were current, for some class, until then
    beside: tuple[int, ...]  # those of them that stay it


@dataclass(slots=True)
class Plan:
    """What to answer and what to write; nothing of it is valid while `unknown` names labels still to be looked up."""

    results: list[PutResult] = field(default_factory=list)
    rows: list[New] = field(default_factory=list)
    again: list[PutRow] = field(default_factory=list)  # stored before; the epoch may lack their wraps
    buried: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Labels and the records that give them up: tombstones where it is so, before `postings` are written."""
    postings: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)
    """Record and mac for each label, to take where it is free, a tombstone or the record's; empty: a tombstone."""
    unknown: set[bytes] = field(default_factory=set)


def entries(labels: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield class and label of what a row's postings took."""
    for at in range(0, len(labels), _ENTRY):
        yield int.from_bytes(labels[at : at + 2]), labels[at + 2 : at + _ENTRY]


class Held(NamedTuple):
    """What is current of a record."""

    classes: set[int]
    labels: set[bytes]


def held_by(rows: Iterable[StoredRow]) -> dict[bytes, Held]:
    """Return by record what is current, of rows that are so for any class. Of one that is junk that is nothing."""
    found: dict[bytes, Held] = {}
    for row in rows:
        here = found.setdefault(row.record, Held(set(), set()))
        classes = split_cells(row.sealed).keys() if row.sealed else set[int]()
        here.classes.update(classes)
        here.labels.update(label for class_id, label in entries(row.labels) if class_id in classes)
    return found


def given_up(versions: Iterable[tuple[int, bytes]], upto: int) -> set[bytes]:
    """Return the labels that a deletion frees: those that no version above it uses, of version and `row.labels`."""
    gone: set[bytes] = set()
    kept: set[bytes] = set()
    for version, labels in versions:
        (gone if version <= upto else kept).update(label for _, label in entries(labels))
    return gone - kept


def _held(known: Sequence[Known]) -> list[Known]:
    """Return the newest version, and those that it names: what a repeat had read, too, must not matter."""
    newest = known[-1] if known else None
    return [k for k in known if newest and (k is newest or k.row.version in newest.others)]


def as_stored(row: PutRow, labels: bytes = b"") -> StoredRow:
    """Return a row as a reader gets it, without wraps."""
    about = row.collection, row.subject, row.record, row.version, row.tag, row.collected_s, row.expires_s
    return StoredRow(*about, row.sealed, NO_WRAPS, row.verified, labels)


def columns(new: New) -> tuple[Any, ...]:
    """Return a row as the tables of SQLite and PostgreSQL have it."""
    r = new.row
    about = r.record, r.version, r.tag, r.collection, r.subject, r.collected_s, r.expires_s, r.verified
    return *about, new.labels, r.sealed, history.pack(new.beside)


def _pack(taken: Sequence[tuple[int, bytes]]) -> bytes:
    return b"".join(class_id.to_bytes(2) + label for class_id, label in taken)


def first_labels(rows: Sequence[PutRow]) -> set[bytes]:
    """Return the labels to look up first: a value that n rows hold takes n slots, an update may hold any of its own."""
    seen: Counter[bytes] = Counter()
    wanted: set[bytes] = set()
    for row in rows:
        for posting in row.postings:
            first = posting.labels[0]
            seen[first] += 1
            wanted.update(posting.labels[: seen[first]] if row.version == 1 else posting.labels)
    return wanted


def other_labels(rows: Sequence[PutRow], owner: Mapping[bytes, bytes]) -> set[bytes]:
    """Return the candidates of all postings whose first ones are taken: one look-up for all beats one for each."""
    full = (p for row in rows for p in row.postings if owner[p.labels[0]] and not p.unique)
    return {label for posting in full for label in posting.labels} - owner.keys()


def plan(
    rows: Sequence[PutRow],
    stored: Mapping[bytes, Sequence[Known]],
    deleted: Mapping[bytes, int],
    owner: Mapping[bytes, bytes],
) -> Plan:
    """Return what becomes of each row, as if they came one after the other.

    Args:
        rows: in the order in which results are wanted.
        stored: versions of the rows' records, ascending: the newest, what is current beside it, and the rows' own.
        deleted: highest deleted version of those that have one.
        owner: record that holds each label looked up so far; empty: free, or a tombstone.
    """
    placing = _Placing({record: list(known) for record, known in stored.items()}, deleted, dict(owner))
    placing.plan.results = [placing.one(row) for row in rows]
    return placing.plan


class _Placing:
    """The state of the store as the rows that came before would leave it."""

    def __init__(
        self, stored: dict[bytes, list[Known]], deleted: Mapping[bytes, int], owner: dict[bytes, bytes]
    ) -> None:
        self._stored, self._deleted, self._owner = stored, deleted, owner
        self.plan = Plan()

    def one(self, row: PutRow) -> PutResult:
        known, deleted = self._stored.setdefault(row.record, []), self._deleted.get(row.record)
        if deleted is not None and (row.version <= deleted or not known):
            return PutResult(Outcome.DELETED)
        same = next((k for k in known if k.row.version == row.version), None)
        if same is not None:
            return self._again(row, same)
        newest = known[-1].row if known else None
        if row.version != (newest.version if newest else 0) + 1:
            return PutResult(Outcome.VERSION_TAKEN)
        if newest and (newest.collection, newest.subject, newest.collected_s) != (
            row.collection, row.subject, row.collected_s,
        ):  # fmt: skip
            # a record stays what it is and whose it is, and its retention does not begin again
            return PutResult(Outcome.VERSION_TAKEN)
        result = self._place(row, updates=bool(known))
        if result.outcome is Outcome.STORED:
            self._store(row, known, [p.labels[s] for p, s in zip(row.postings, result.slots, strict=True)])
        return result

    def _again(self, row: PutRow, same: Known) -> PutResult:
        """Answer a repeated row from what is stored; only wraps of another epoch can be new."""
        if same.row.tag != row.tag:
            return PutResult(Outcome.VERSION_TAKEN)
        self.plan.again.append(row)
        held = {label for _, label in entries(same.row.labels)}
        slots = (next((i for i, la in enumerate(p.labels) if la in held), NOWHERE) for p in row.postings)
        return PutResult(Outcome.STORED, tuple(slots))

    def _place(self, row: PutRow, *, updates: bool) -> PutResult:
        slots: list[int] = []
        mine: set[bytes] = set()
        outcome = Outcome.STORED
        for posting in row.postings:
            slot = self._slot(row.record, posting, mine, updates=updates)
            if slot == NOWHERE:
                outcome = Outcome.UNIQUE_TAKEN if posting.unique else outcome or Outcome.NO_SLOT
            else:
                mine.add(posting.labels[slot])
            slots.append(slot)
        if outcome is not Outcome.STORED:
            return PutResult(outcome)
        self._owner |= dict.fromkeys(mine, row.record)
        return PutResult(outcome, tuple(slots))

    def _slot(self, record: bytes, posting: Posting, mine: set[bytes], *, updates: bool) -> int:
        labels = posting.labels[:1] if posting.unique else posting.labels
        if updates:  # a value that did not change keeps its slot, whatever became free before it
            for slot, label in enumerate(labels):
                if self._owner.get(label) == record and label not in mine:
                    return slot
        for slot, label in enumerate(labels):
            if label not in self._owner:
                self.plan.unknown.update(la for la in labels if la not in self._owner)
                return NOWHERE
            if self._owner[label] in (b"", record) and label not in mine:
                return slot
        return NOWHERE

    def _store(self, row: PutRow, known: list[Known], chosen: Sequence[bytes]) -> None:
        for posting, label in zip(row.postings, chosen, strict=True):
            self.plan.postings[label] = (row.record, posting.mac)
        held = _held(known)
        for old in held:  # tombstones of what it indexed of the row's classes; versions themselves never change
            for class_id, label in entries(old.row.labels):
                if class_id in row.classes and label not in chosen:
                    self._bury(label, row.record)
        labels = _pack([(p.class_id, label) for p, label in zip(row.postings, chosen, strict=True)])
        rows, stored = [k.row for k in held], as_stored(row, labels)
        before = history.numbers(current(rows, frozenset())) if rows else ()
        new = New(row, labels, before, history.beside(stored, rows) if rows else ())
        self.plan.rows.append(new)
        known.append(Known(stored, new.beside))

    def _bury(self, label: bytes, record: bytes) -> None:
        self.plan.buried.append((label, record))
        if self.plan.postings.get(label, (b"", b""))[0] == record:
            self.plan.postings[label] = (b"", b"")
        if self._owner.get(label) == record:  # a label of long ago may be another record's by now
            self._owner[label] = b""
