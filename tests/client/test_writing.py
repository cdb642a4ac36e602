"""What a put shows a node, apart from random bytes: the same whichever values a row lacks. What it tells its caller."""

import asyncio
import dataclasses
import itertools
import os
from types import SimpleNamespace

import numpy as np
import pytest
from client_rig import late, person

import vault_texts
from anwen.client.records import ids_of
from anwen.client.rows import Plain, bodies_of, canonical_values, tokens_of
from anwen.client.session import Timing
from anwen.client.writing import CANDIDATES, Writer, _Batch
from anwen.errors import (
    BudgetError,
    DeniedError,
    DisputeError,
    MalformedError,
    RefusedError,
    StorageError,
    UnavailableError,
)
from anwen.formats import wire

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


def test_a_row_that_is_put_again_under_its_key_is_stored_once(rig, base):
    importer, keys = rig.connect("importer", "intake"), [os.urandom(16).hex() for _ in range(3)]
    rows = [person(base + i) for i in range(len(keys))]
    first = importer.put_many("person", rows[:2], idempotency_keys=keys[:2])
    again = importer.put_many("person", rows, idempotency_keys=keys)
    assert [dataclasses.replace(r, repeated=True) for r in first] == again[:2]
    assert [(r.error, r.repeated) for r in (*first, *again)] == [(None, at in {2, 3}) for at in range(5)]
    assert importer.put("person", rows[2], idempotency_key=keys[2]).record == again[2].record
    clerk = rig.connect("case_worker", "casework")
    for row, result in zip(rows, again, strict=True):
        (found,) = clerk.find("person", id_number=row["id_number"])
        assert (found.id, found.subject) == (result.record, result.subject)
        assert clerk.open([found], ["identity"])[0]["id_number"] == row["id_number"]


def test_rows_that_keepers_refuse_take_no_other_with_them_and_what_is_stored_is_told(rig, base, monkeypatch):
    keys, real = [os.urandom(16).hex() for _ in range(4)], Writer._put
    _, refused, _, late = (ids_of(bytes.fromhex(k))[0] for k in keys)
    ends = {refused: RefusedError("not opened"), late: UnavailableError("no answer")}

    async def put(self, purpose, rows):
        for record, error in ends.items():
            if any(row.record == record for row in rows):
                raise error
        return await real(self, purpose, rows)

    monkeypatch.setattr(Writer, "_put", put)
    importer, rows = rig.connect("importer", "intake"), [person(base + i) for i in range(4)]
    told = importer.put_many("person", rows, idempotency_keys=keys)
    assert [r.error and r.error.code for r in told] == [None, "refused", "unavailable", "unavailable"]
    monkeypatch.setattr(Writer, "_put", real)
    again = importer.put_many("person", rows, idempotency_keys=keys)
    assert [(r.error, r.repeated) for r in again] == [(None, True), (None, False), (None, False), (None, False)]


@pytest.mark.parametrize("keys", [["00" * 15], ["00" * 16], ["00" * 16, "00" * 16], ["00" * 16, "zz" * 16]])
def test_idempotency_keys_are_one_for_each_row_and_differ(rig, keys):
    with pytest.raises(MalformedError):
        rig.connect("importer", "intake").put_many("person", [person(1), person(2)], idempotency_keys=keys)


def test_neither_id_of_a_key_tells_of_the_other_or_of_the_key():
    key = os.urandom(16)
    (record, subject), near = ids_of(key), ids_of(key[:6] + os.urandom(10))[0]
    assert (len(record), len(subject)) == (16, 16)
    assert record[:6] == near[:6] != key[:6]
    assert record[6:] != near[6:]
    assert not {record[i : i + 4] for i in range(13)} & {b[i : i + 4] for b in (key, subject) for i in range(13)}


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


# --- rows that take a second pass -----------------------------------------------------------------------------------


@pytest.fixture
def crowd(rig, base):
    """Fifteen rows, of which every third holds a value so common that a client that knows no slots finds none free."""
    name = f"Crowded {chr(65 + base // 200 % 26)}{chr(65 + base // 5200 % 26)}"
    common = [person(base + i, name=name) for i in range(60)]
    assert not any(r.error for r in rig.connect("importer", "intake").put_many("person", common))
    return [person(base + 60 + i, **({"name": name} if i % 3 == 0 else {})) for i in range(15)]


def from_the_second(lie):
    """Lie from the second answer on."""
    calls = itertools.count()
    return lambda answer, body: lie(answer, body) if next(calls) else answer


def raising(error):
    def lie(_answer, _body):
        raise error

    return lie


def keepers(lie):
    """Let the second put fail at all keepers."""
    return {(f"keeper/{k}", "put"): from_the_second(lie) for k in "abc"}


def nodes(op, lie):
    return {(f"node/{n}", op): lie for n in "abc"}


def classes(results):
    return [type(r.error) for r in results]


def third(error):
    return [type(error) if i % 3 == 0 else type(None) for i in range(15)]


@pytest.mark.parametrize(
    "error", [BudgetError("spent", retry_after_s=60), DeniedError("no"), DisputeError("x")], ids=str
)
def test_what_ends_a_second_pass_is_the_error_of_the_rows_left_alone(rig, crowd, error):
    results = rig.connect("importer", "intake", lies=keepers(raising(error))).put_many("person", crowd)
    assert classes(results) == third(error)
    found = rig.connect("case_worker", "casework").find_many("person", "id_number", [p["id_number"] for p in crowd])
    assert [len(f) for f in found] == [int(i % 3 > 0) for i in range(15)]
    assert not any(r.error for r in rig.connect("importer", "intake").put_many("person", crowd[::3]))


def test_a_put_of_one_row_raises_what_ends_its_second_pass(rig, crowd):
    importer = rig.connect("importer", "intake", lies=keepers(raising(BudgetError("spent"))))
    with pytest.raises(BudgetError):
        importer.put("person", crowd[0])


def test_nodes_that_show_no_slots_after_they_stored_lose_no_outcome(rig, crowd):
    lies = nodes("node_find", StorageError("full"))
    results = rig.connect("importer", "intake", lies=lies).put_many("person", crowd)
    assert classes(results) == third(StorageError("full"))


def test_a_second_pass_that_hangs_is_given_up_before_the_call_is(rig, crowd):
    timing = Timing(deadline_s=5.0, grace_s=2.0, least_s=2.0, most_s=2.0)
    importer = rig.connect("importer", "intake", timing=timing, lies=keepers(late(60)))
    assert classes(importer.put_many("person", crowd)) == third(UnavailableError("late"))


def test_a_second_pass_that_is_tried_again_until_the_end_says_why(rig, crowd):
    timing = Timing(deadline_s=2.0, grace_s=2.0, least_s=2.0, most_s=2.0)
    lies = keepers(raising(StorageError("full")))
    results = rig.connect("importer", "intake", timing=timing, lies=lies).put_many("person", crowd)
    assert [r.error is None for r in results] == [i % 3 > 0 for i in range(15)]
    assert isinstance(results[0].error, UnavailableError)  # or narrower: the last try may end just in time
    assert "fewer than 2 keepers answered" in str(results[0].error)


def test_callers_whose_shared_put_has_no_answer_are_told_so_and_no_row_is_sealed_again(rig, base):
    """Rows that a node stored without saying so would come back as conflicts, though nobody else holds them."""

    def shared(answer, body):
        if wire.rows_in(wire.decode(body, "node_put").tables["records"]) > 1:
            raise StorageError("stored, and no word of it")
        return answer

    vault = rig.connect("importer", "intake", lies=nodes("node_put", shared)).asynchronous

    async def several():
        puts = (vault.put_many("person", [person(base + i)]) for i in range(6))
        return await asyncio.gather(*puts, return_exceptions=True)

    told = rig.loop.run(several())
    assert [type(t) for t in told] == [list, list, *[StorageError] * 4]
