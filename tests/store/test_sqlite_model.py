"""The SQLite engine against a dictionary: any order of puts, updates, deletions and finds gives the same."""

import asyncio
import shutil
import tempfile
from pathlib import Path

from contract import CONTACT, CONTACT_CLASSES, EPOCH, IDENTITY, IDENTITY_CLASSES, TOMBSTONE, cell, row
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from anwen.formats.envelope import split_cells
from anwen.model import INDEX_CLASS
from anwen.store.base import Outcome, Posting
from anwen.store.sqlite import SqliteStore

RECORDS = [bytes([i]) * 16 for i in range(1, 5)]
NUMBERS = [b"number" + bytes([i]) * 10 for i in range(3)]
NAMES = [[b"name" + bytes([i, j]) * 6 for j in range(3)] for i in range(2)]
LABELS = [*NUMBERS, *(label for name in NAMES for label in name)]


class Model:
    """What a store is to do, in the plainest words."""

    def __init__(self):
        self.versions = {}  # record -> {version: tag}
        self.current = {}  # (record, class) -> version
        self.postings = {}  # label -> record, or a tombstone
        self.held = {}  # record -> {class: labels}
        self.deleted = {}

    def put(self, new):
        record, known = new.record, self.versions.get(new.record, {})
        if record in self.deleted and (new.version <= self.deleted[record] or not known):
            return Outcome.DELETED
        if new.version in known:
            return Outcome.STORED if known[new.version] == new.tag else Outcome.VERSION_TAKEN
        if new.version != max(known, default=0) + 1:
            return Outcome.VERSION_TAKEN
        chosen, failed = [], []
        for posting in new.postings:
            mine = [la for la in posting.labels if self.postings.get(la) == record]
            free = [la for la in posting.labels if self.postings.get(la, TOMBSTONE) == TOMBSTONE]
            found = (mine or free)[:1]
            chosen += [(posting.class_id, la) for la in found]
            failed += [] if found else [posting.unique]
        if failed:
            return Outcome.UNIQUE_TAKEN if any(failed) else Outcome.NO_SLOT
        for class_id in new.classes:
            for label in self.held.get(record, {}).pop(class_id, []):
                self.postings[label] = TOMBSTONE
        for class_id, label in chosen:
            self.postings[label] = record
            self.held.setdefault(record, {}).setdefault(class_id, []).append(label)
        self.versions.setdefault(record, {})[new.version] = new.tag
        self.current |= {(record, c): new.version for c in new.classes if c != INDEX_CLASS}
        return Outcome.STORED

    def delete(self, record, version):
        known = self.versions.get(record, {})
        if known and max(known) > version:
            return False  # a race that the contract has a test of its own for
        for label in [la for la, r in self.postings.items() if r == record]:
            self.postings[label] = TOMBSTONE
        self.versions.pop(record, None)
        self.held.pop(record, None)
        self.current = {k: v for k, v in self.current.items() if k[0] != record}
        self.deleted[record] = max(version, self.deleted.get(record, 0))
        return True


class StoreMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.loop = asyncio.new_event_loop()
        self.store = SqliteStore(Path(self.folder) / "anwen.sqlite")
        self.model = Model()

    def teardown(self):
        self.loop.run_until_complete(self.store.close())
        self.loop.close()
        shutil.rmtree(self.folder)

    @rule(
        rows=st.lists(
            st.tuples(
                st.sampled_from(RECORDS),
                st.sampled_from([-1, 0, 1, 1, 1, 2]),
                st.sampled_from([(), IDENTITY_CLASSES, CONTACT_CLASSES]),
                st.sampled_from(NUMBERS),
                st.sampled_from(NAMES),
                st.binary(min_size=16, max_size=16),
            ),
            min_size=1,
            max_size=4,
        )
    )
    def put(self, rows):
        made, expected = [], []
        for record, step, some, number, name, fresh in rows:
            version = max(max(self.model.versions.get(record, {}), default=0) + step, 0)
            classes = some if version > 1 and some else (*row().classes,)
            postings = [
                p
                for p in (
                    Posting(IDENTITY, True, (number,), b"m" * 16),
                    Posting(CONTACT, False, tuple(name), b"m" * 16),
                )
                if p.class_id in classes
            ]
            tag = self.model.versions.get(record, {}).get(version, fresh) if fresh[0] % 2 else fresh
            made.append(row(record, version, classes=classes, postings=postings, tag=tag))
            expected.append(self.model.put(made[-1]))
        results = self.loop.run_until_complete(self.store.put(EPOCH, made))
        assert [r.outcome for r in results] == expected

    @rule(record=st.sampled_from(RECORDS), step=st.sampled_from([-1, 0, 0, 1]))
    def delete(self, record, step):
        version = max(self.model.versions.get(record, {}), default=1) + step
        if self.model.delete(record, version):
            self.loop.run_until_complete(self.store.delete([(record, version)]))

    @rule()
    def start_again(self):
        self.loop.run_until_complete(self.store.close())
        self.store = SqliteStore(Path(self.folder) / "anwen.sqlite")

    @invariant()
    def labels_are_those_of_the_model(self):
        hits = self.loop.run_until_complete(self.store.find(LABELS))
        assert {LABELS[h.label_row]: h.record for h in hits} == self.model.postings

    @invariant()
    def each_class_comes_from_its_current_version_once(self):
        rows = self.loop.run_until_complete(self.store.get(EPOCH, RECORDS, ()))
        found = {}
        for got in rows:
            for class_id, envelope in split_cells(got.sealed).items():
                assert envelope == cell(got.tag, class_id)
                if class_id != INDEX_CLASS:
                    assert (got.record, class_id) not in found
                    found[got.record, class_id] = got.version
        assert found == self.model.current
        listed = self.loop.run_until_complete(self.store.list_subjects(1, [], bytes(16), 99))
        assert listed == sorted(self.model.versions)


TestStoreMachine = StoreMachine.TestCase
