"""Junk in the store, be it a thief's or a broken disk's, costs the record that it is in: everybody else still opens."""

import contextlib
import sqlite3

import pytest

from anwen.errors import AnwenError, NotFoundError, OpenError

EVERYTHING = ["identity", "contact"]
TABLES = ("row", "wrap_1", "posting")

JUNK = {
    "no cells": "UPDATE row SET sealed = x'' WHERE record = :record",
    "a byte for cells": "UPDATE row SET sealed = x'01' WHERE record = :record",
    "cells cut short": "UPDATE row SET sealed = substr(sealed, 1, length(sealed) - 1) WHERE record = :record",
    "other cells": "UPDATE row SET sealed = randomblob(length(sealed)) WHERE record = :record",
    "a byte for wraps": "UPDATE wrap_1 SET wraps = x'01' WHERE record = :record",
    "wraps cut short": "UPDATE wrap_1 SET wraps = substr(wraps, 1, length(wraps) - 1) WHERE record = :record",
    "no wraps": "DELETE FROM wrap_1 WHERE record = :record",
    "a short tag": "UPDATE row SET tag = x'01' WHERE record = :record",
    "a short subject": "UPDATE row SET subject = x'01' WHERE record = :record",
    "another's subject": "UPDATE row SET subject = randomblob(16) WHERE record = :record",
    "version 0": "UPDATE row SET version = 0 WHERE record = :record",
    "a version beyond all": "UPDATE row SET version = 1 << 40 WHERE record = :record",
    "a date beyond all": "UPDATE row SET expires_s = 1 << 41 WHERE record = :record",
    "a date before all": "UPDATE row SET collected_s = -1 WHERE record = :record",
    "no collection": "UPDATE row SET collection = 0 WHERE record = :record",
    "another collection": "UPDATE row SET collection = 2 WHERE record = :record",
    "a short check value": "UPDATE posting SET mac = x'01' WHERE record = :record",
    "postings of nobody": "UPDATE posting SET record = x'01' WHERE record = :record",
}


@contextlib.contextmanager
def harmed(rig, record, statement):
    """The store with one statement done to one record; afterwards the record is as it was."""
    id_ = bytes.fromhex(record)
    with contextlib.closing(sqlite3.connect(rig.folder.path / "store" / "anwen.sqlite", isolation_level=None)) as db:
        before = {t: db.execute(f"SELECT * FROM {t} WHERE record = ?", (id_,)).fetchall() for t in TABLES}
        assert db.execute(statement, {"record": id_}).rowcount > 0
        try:
            yield
        finally:
            for table, rows in before.items():
                db.execute(f"DELETE FROM {table} WHERE record IN (?, x'01')", (id_,))
                db.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({','.join('?' * len(rows[0]))})", rows)


@pytest.mark.parametrize("junk", JUNK)
def test_a_junk_row_costs_its_own_record_alone(rig, people, junk):
    vault = rig.connect("case_worker", "casework")
    every = vault.find_many("person", "id_number", [p["id_number"] for p in people], classes=EVERYTHING)
    records = [found[0] for found in every]
    with harmed(rig, records[3].id, JUNK[junk]):
        found = vault.find_many("person", "id_number", [p["id_number"] for p in people], classes=EVERYTHING)
        assert [len(f) for i, f in enumerate(found) if i != 3] == [1] * 9
        got = vault.get([r.id for r in records], EVERYTHING, collection="person")
        scanned = {r.id: r for r in vault.scan("person", EVERYTHING, page=7)}
        for seen in ([f[0] if f else None for f in found], got, [scanned.get(r.id) for r in records]):
            there = [r for r in seen if r is not None and r.collection == "person"]
            opened = dict(zip((r.id for r in there), vault.open_each(there, EVERYTHING), strict=True))
            for i, (record, true) in enumerate(zip(records, people, strict=True)):
                if i != 3:
                    assert opened[record.id] == true | opened[record.id]
            mine = opened.get(records[3].id, NotFoundError("not there"))
            assert isinstance(mine, NotFoundError | OpenError) or "posting" in JUNK[junk]
    assert vault.open(vault.get([records[3].id], EVERYTHING, collection="person"), EVERYTHING)


def test_a_batch_with_a_record_that_was_read_without_a_class_opens_the_others(rig, people):
    vault = rig.connect("case_worker", "casework")
    whole, narrow = (
        vault.find("person", id_number=p["id_number"], classes=classes)[0]
        for p, classes in zip(people, (EVERYTHING, ["contact"]), strict=False)
    )
    opened = vault.open_each([narrow, whole], EVERYTHING)
    assert isinstance(opened[0], NotFoundError)
    assert opened[1]["phone"] == people[0]["phone"]
    with pytest.raises(AnwenError, match=narrow.id):
        vault.open([narrow, whole], EVERYTHING)
