"""What one put or delete does to the SQLite tables. Runs inside the writer's transaction, which makes it whole."""

# ruff: noqa: S608 - what is put into statements are names of tables and marks for parameters, never values

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from anwen.errors import StorageError
from anwen.store import sqlite_schema as schema
from anwen.store.base import NOWHERE, Outcome, Posting, PutResult, PutRow

_LABEL = 16
_ENTRY = 2 + _LABEL  # class u2 | label, in `row.labels`


def _entries(labels: bytes) -> Iterator[tuple[int, bytes]]:
    for at in range(0, len(labels), _ENTRY):
        yield int.from_bytes(labels[at : at + 2]), labels[at + 2 : at + _ENTRY]


def _pack(entries: Sequence[tuple[int, bytes]]) -> bytes:
    return b"".join(class_id.to_bytes(2) + label for class_id, label in entries)


@dataclass(frozen=True, slots=True)
class _Known:
    """What is stored about one version of a record."""

    version: int
    tag: bytes
    collection: int
    subject: bytes
    labels: bytes


class Put:
    """One put: finds places for postings first, then writes everything sorted by key, so that no order is kept."""

    def __init__(self, db: sqlite3.Connection, epoch: int, rows: Sequence[PutRow]) -> None:
        self._db, self._epoch, self._rows = db, epoch, rows
        self._owner: dict[bytes, bytes] = {}  # of each label looked up; empty: free, or a tombstone
        self._new: dict[bytes, tuple[PutRow, bytes]] = {}  # not yet written, by record, with their labels
        self._claims: list[tuple[bytes, bytes, bytes]] = []

    def run(self) -> list[PutResult]:
        """Return outcomes in the order of the rows."""
        schema.make_wrap_table(self._db, self._epoch)
        records = list({r.record for r in self._rows})
        stored, deleted = self._stored(records), self._deleted(records)
        self._look_up(self._first_labels())
        self._look_up(self._other_labels())
        results = []
        for row in self._rows:
            if row.record in self._new:
                self._flush()
                stored |= self._stored([row.record])
            results.append(self._one(row, stored.get(row.record, []), deleted.get(row.record)))
            if row.version > 1:
                stored |= self._stored([row.record])
        self._flush()
        return results

    def _one(self, row: PutRow, known: list[_Known], deleted: int | None) -> PutResult:
        if deleted is not None and (row.version <= deleted or not known):
            return PutResult(Outcome.DELETED)
        same = next((k for k in known if k.version == row.version), None)
        if same is not None:
            return self._again(row, same)
        current = known[-1] if known else None
        if row.version != (current.version if current else 0) + 1:
            return PutResult(Outcome.VERSION_TAKEN)
        if current and (current.collection, current.subject) != (row.collection, row.subject):
            return PutResult(Outcome.VERSION_TAKEN)  # a record stays what it is and whose it is
        result = self._place(row, updates=bool(known))
        if result.outcome is Outcome.STORED:
            chosen = [(p.class_id, p.labels[s]) for p, s in zip(row.postings, result.slots, strict=True)]
            macs = (p.mac for p in row.postings)
            self._claims += [(label, row.record, mac) for (_, label), mac in zip(chosen, macs, strict=True)]
            self._new[row.record] = (row, _pack(chosen))
            if known:
                self._flush()
                self._supersede(row, known, {label for _, label in chosen})
        return result

    def _again(self, row: PutRow, same: _Known) -> PutResult:
        """Answer a repeated row from what is stored; only wraps of another epoch can be new."""
        if same.tag != row.tag:
            return PutResult(Outcome.VERSION_TAKEN)
        key, table = (row.record, row.version), schema.wrap_table(self._epoch)
        self._db.execute(f"INSERT INTO {table} VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (*key, row.wraps))
        held = {label: class_id for class_id, label in _entries(same.labels)}
        slots = (next((i for i, la in enumerate(p.labels) if la in held), NOWHERE) for p in row.postings)
        return PutResult(Outcome.STORED, tuple(slots))

    # --- places for postings ---------------------------------------------------------------------------------

    def _first_labels(self) -> set[bytes]:
        """Return the labels that will be looked at: a value that n rows hold takes n slots."""
        seen: Counter[bytes] = Counter()
        wanted: set[bytes] = set()
        for row in self._rows:
            for posting in row.postings:
                first = posting.labels[0]
                seen[first] += 1
                wanted.update(posting.labels[: seen[first]])
        return wanted

    def _other_labels(self) -> set[bytes]:
        """Return the candidates of all postings whose first ones are taken: one look-up for all beats one for each."""
        full = (p for row in self._rows for p in row.postings if self._owner[p.labels[0]] and not p.unique)
        return {label for posting in full for label in posting.labels} - self._owner.keys()

    def _look_up(self, labels: Collection[bytes]) -> None:
        self._owner |= dict.fromkeys(labels, b"")
        for marks, keys in schema.chunks(list(labels)):
            self._owner.update(self._db.execute(f"SELECT label, record FROM posting WHERE label IN ({marks})", keys))

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
            self._look_up([la for la in labels if la not in self._owner])
            for slot, label in enumerate(labels):
                if self._owner[label] == record and label not in mine:
                    return slot
        for slot, label in enumerate(labels):
            if label not in self._owner:
                self._look_up([la for la in labels[slot:] if la not in self._owner])
            if self._owner[label] in (b"", record) and label not in mine:
                return slot
        return NOWHERE

    # --- writing ---------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Write what was placed, each table in the order of its keys."""
        new = sorted(self._new.values(), key=lambda n: n[0].record)
        rows = [
            (r.record, r.version, r.tag, r.collection, r.subject, r.collected_s, r.expires_s, r.verified, la, r.sealed)
            for r, la in new
        ]
        wraps = [(r.record, r.version, r.wraps) for r, _ in new]
        subjects = sorted((r.subject, r.collection, r.record) for r, _ in new if r.version == 1)
        many = self._db.executemany
        many("INSERT INTO row VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        many(f"INSERT INTO {schema.wrap_table(self._epoch)} VALUES (?, ?, ?)", wraps)
        many("INSERT INTO subject VALUES (?, ?, ?)", subjects)
        written = many(
            "INSERT INTO posting VALUES (?, ?, ?) ON CONFLICT (label) DO UPDATE SET record = excluded.record, "
            "mac = excluded.mac WHERE record IN (x'', excluded.record)",
            sorted(self._claims),
        ).rowcount
        if self._claims and written != len(self._claims):
            raise StorageError("store: a posting's slot was taken within a transaction")
        self._new, self._claims = {}, []

    def _supersede(self, row: PutRow, known: Sequence[_Known], kept: set[bytes]) -> None:
        """Make tombstones of what earlier versions indexed of the row's classes; versions themselves never change."""
        for old in known:
            gone = [label for class_id, label in _entries(old.labels) if class_id in row.classes and label not in kept]
            bury(self._db, row.record, gone)
            # a label of long ago may be another record's by now
            self._owner |= dict.fromkeys([la for la in gone if self._owner.get(la) == row.record], b"")

    # --- reading -----------------------------------------------------------------------------------------------

    def _stored(self, records: Sequence[bytes]) -> dict[bytes, list[_Known]]:
        """Return what is stored about records, by ascending version."""
        found: dict[bytes, list[_Known]] = {}
        for marks, keys in schema.chunks(records):
            select = f"SELECT record, version, tag, collection, subject, labels FROM row WHERE record IN ({marks})"
            for record, *rest in self._db.execute(select, keys):
                found.setdefault(record, []).append(_Known(*rest))
        for known in found.values():
            known.sort(key=lambda k: k.version)
        return found

    def _deleted(self, records: Sequence[bytes]) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        for marks, keys in schema.chunks(records):
            found.update(self._db.execute(f"SELECT record, version FROM deleted WHERE record IN ({marks})", keys))
        return found


def bury(db: sqlite3.Connection, record: bytes, labels: Sequence[bytes]) -> None:
    """Make tombstones of a record's labels; they keep no pointer, and are free for the next posting."""
    update = "UPDATE posting SET record = x'', mac = x'' WHERE label = ? AND record = ?"
    db.executemany(update, [(label, record) for label in sorted(labels)])


def delete(db: sqlite3.Connection, records: Sequence[tuple[bytes, int]]) -> None:
    """Remove records up to a version."""
    tables = [schema.wrap_table(epoch) for epoch in schema.epochs(db)]
    for record, version in sorted(records):
        select = "SELECT version, labels, subject, collection FROM row WHERE record = ?"
        rows = db.execute(select, (record,)).fetchall()
        bury(db, record, [label for v, labels, *_ in rows if v <= version for _, label in _entries(labels)])
        if rows and all(v <= version for v, *_ in rows):
            where = "WHERE subject = ? AND collection = ? AND record = ?"
            db.execute(f"DELETE FROM subject {where}", (*rows[0][2:], record))
        for table in ("row", *tables):
            db.execute(f"DELETE FROM {table} WHERE record = ? AND version <= ?", (record, version))
        upsert = "ON CONFLICT (record) DO UPDATE SET version = max(version, excluded.version)"
        db.execute(f"INSERT INTO deleted VALUES (?, ?) {upsert}", (record, version))
