"""What is current of a record, with junk among its versions: never an error, and nothing older under a newer one."""

import dataclasses
import os

import pytest
from contract import ALL, CONTACT, CONTACT_CLASSES, IDENTITY, row
from hypothesis import given
from hypothesis import strategies as st

from anwen.formats.envelope import split_cells, split_wraps
from anwen.model import INDEX_CLASS, RENDITION
from anwen.store.base import StoredRow
from anwen.store.trim import current

RECORD = os.urandom(16)
OLD, NEW = row(RECORD), row(RECORD, 2, classes=CONTACT_CLASSES)


def stored(put, **changes):
    names = [f.name for f in dataclasses.fields(StoredRow) if f.compare]
    return dataclasses.replace(StoredRow(**{n: getattr(put, n) for n in names}), **changes)


def given_by_version(rows, asked=frozenset()):
    return {r.version: set(split_cells(r.sealed)) for r in current(rows, asked)}


def test_without_junk_each_class_comes_from_its_newest_version():
    left = {IDENTITY, INDEX_CLASS, IDENTITY | RENDITION}
    assert given_by_version([stored(OLD), stored(NEW)]) == {1: left, 2: set(CONTACT_CLASSES)}
    assert given_by_version([stored(OLD), stored(NEW)], frozenset({CONTACT})) == {2: {CONTACT}}


@pytest.mark.parametrize("junk", [{"sealed": b"\1"}, {"wraps": b"\1"}, {"sealed": NEW.sealed[:-1]}])
def test_what_a_junk_version_may_have_replaced_does_not_come_in_its_place(junk):
    assert given_by_version([stored(OLD), stored(NEW, **junk)]) == {2: set()}
    assert given_by_version([stored(OLD, **junk), stored(NEW)]) == {1: set(), 2: set(CONTACT_CLASSES)}


@pytest.mark.parametrize(
    "junk",
    [
        {"tag": b"t"}, {"subject": b"s"}, {"record": b"r"}, {"version": 0}, {"version": 2**32}, {"collected_s": -1},
        {"expires_s": 2**40}, {"collected_s": 2**63},
    ],
)  # fmt: skip
def test_a_version_that_no_node_stored_does_not_come_nor_what_is_older(junk):
    assert given_by_version([stored(OLD, **junk), stored(NEW)]) == {2: set(CONTACT_CLASSES)}
    assert given_by_version([stored(OLD), stored(NEW, **junk)]) == {}


@pytest.mark.parametrize("other", [{"collection": 7}, {"subject": bytes(16)}])
def test_versions_that_disagree_whose_they_are_do_not_come_together(other):
    assert given_by_version([stored(OLD, **other), stored(NEW)]) == {2: set(CONTACT_CLASSES)}
    assert given_by_version([stored(OLD), stored(NEW, **other)]) == {2: set(CONTACT_CLASSES)}


@given(sealed=st.binary(max_size=200), wraps=st.binary(max_size=200), asked=st.sets(st.sampled_from(ALL)))
def test_whatever_the_store_holds_comes_whole_or_not_at_all(sealed, wraps, asked):
    for found in current([stored(OLD), stored(NEW, sealed=sealed, wraps=wraps)], frozenset(asked)):
        split_cells(found.sealed)
        split_wraps(found.wraps)
