"""What a put shows a node, apart from random bytes: the same whichever values a row lacks."""

import itertools
import os
from types import SimpleNamespace

import numpy as np
import pytest
from client_rig import person

import vault_texts
from anwen.client.rows import Plain, bodies_of, canonical_values, tokens_of
from anwen.client.writing import CANDIDATES, _Batch
from anwen.errors import MalformedError

ROWS = {
    "person": {"id_number": "11010519491231002X", "name": "Li Na", "phone": "+8613800138000", "email": "a@example.org"},
    "incident": {"kind": "theft", "occurred": "2024-05-01T10:00:00Z", "case_number": "AB-7"},
}
COLLECTIONS = vault_texts.policy().collections
KEYS = {(c.id, f.id): bytes(32) for c in COLLECTIONS.values() for f in c.fields}


def plain(schema, values, classes=None, version=1):
    names = classes or [c.name for c in schema.classes]
    canonical = canonical_values(schema, values, names)
    tokens = tokens_of(schema, canonical, names, KEYS)
    return Plain(
        schema, os.urandom(16), os.urandom(16), version, 0, 0, bodies_of(schema, canonical, names, tokens), tokens
    )


def sent(*rows):
    """The tables that a node gets of a put, and how many tokens keepers get."""
    batch = _Batch(SimpleNamespace(policy=vault_texts.policy(), random=os.urandom), rows)
    tokens = len(batch.keeper_tables()["tokens"]["token"])
    batch.answered(np.frombuffer(os.urandom(32 * (batch.cells + tokens)), np.uint8).reshape(-1, 32))
    return batch.node_tables([0] * len(batch.queries)), tokens


def shown(*rows):
    """All of it that is not random: shapes, and columns of numbers."""
    tables, _ = sent(*rows)
    numbers = {
        (t, c): column.tolist() for t, columns in tables.items() for c, column in columns.items() if column.ndim == 1
    }
    return numbers, {(t, c): column.shape for t, columns in tables.items() for c, column in columns.items()}


def lacking(name, fields):
    return {k: v for k, v in ROWS[name].items() if k not in fields}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("version", [1, 2])
def test_a_node_is_sent_the_same_whatever_a_row_lacks(name, version):
    schema = COLLECTIONS[name]
    optional = [f.name for f in schema.fields if f.name in ROWS[name] and not f.required]
    classes = None if version == 1 else [schema.field_named[optional[0]].class_name]
    fields = ROWS[name] if version == 1 else {f.name for f in schema.fields_of(classes[0])}
    looks = []
    for some in (s for n in range(len(optional) + 1) for s in itertools.combinations(optional, n)):
        values = {k: v for k, v in lacking(name, some).items() if k in fields}
        looks.append(shown(plain(schema, values, classes, version)))
    assert len(looks) >= 2
    assert all(look == looks[0] for look in looks)


def test_labels_of_what_is_not_there_are_new_each_time_and_keepers_are_not_asked():
    schema = COLLECTIONS["person"]
    row = plain(schema, lacking("person", {"phone"}))
    full, _ = sent(plain(schema, ROWS["person"]))
    seen = set()
    for _ in range(3):
        tables, tokens = sent(row)
        assert tokens == 2
        assert (
            tables["postings"]["labels"].tolist() == full["postings"]["labels"].tolist() == [1, CANDIDATES, CANDIDATES]
        )
        seen |= {label.tobytes() for label in tables["labels"]["label"][-CANDIDATES:]}
        seen.add(tables["postings"]["mac"][-1].tobytes())
    assert len(seen) == 3 * (CANDIDATES + 1)


@pytest.mark.parametrize(
    ("collection", "extra"),
    [
        ("person", {"passport.no": "x"}),
        ("person", {"person.id_number": "x"}),
        ("person", {"subject": "ab" * 16}),
        ("incident", {"zz.person": "x"}),
        ("incident", {"subject": "ab" * 16}),
        ("incident", {"note": "x"}),
    ],
    ids=str,
)
def test_nothing_that_a_caller_gives_is_left_out_without_a_word(rig, people, base, collection, extra):
    vault = rig.connect("importer", "intake" if collection == "person" else "registration")
    known = {"person.id_number": people[0]["id_number"]}
    row = person(base + 190) if collection == "person" else ROWS["incident"] | known
    with pytest.raises(MalformedError, match=r"unknown field|expected person\.FIELD"):
        vault.put(collection, row | extra)


def test_whoever_asks_about_a_handle_that_is_none_is_told_so(rig):
    auditor = rig.connect("dpo", "oversight")
    for handle in ("zz" * 16, "ab", ""):
        with pytest.raises(MalformedError, match="32 hexadecimal digits"):
            auditor.audit_subject(handle)
