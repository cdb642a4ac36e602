"""A node gives and takes sealed bytes to those who may have them, and nothing else."""

import asyncio
import dataclasses
import hashlib
import os
import threading
from unittest.mock import AsyncMock

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from node_rig import (
    CONTACT,
    CONTACT_CLASSES,
    IDENTITY,
    INCIDENT,
    KEEPER_KEYS,
    NOW_S,
    PERSON,
    PERSON_CLASSES,
    POLICY,
    Put,
    Row,
    deletion,
    envelope,
    find,
    get,
    grant,
    listing,
    receipt,
    stack,
)

import vault_texts
from anwen.crypto import grants
from anwen.errors import (
    AnwenError,
    GrantError,
    MalformedError,
    NotFoundError,
    PolicyError,
    ProofError,
    StorageError,
    TooLargeError,
    UnavailableError,
)
from anwen.formats import policy_chain, wire
from anwen.formats.envelope import join_cells, split_cells, split_wraps
from anwen.model import INDEX_CLASS, RENDITION
from anwen.node import service
from anwen.node.service import Node
from anwen.store.base import NOWHERE, Outcome, StoredRow
from anwen.store.trim import NO_WRAPS

NO_CELLS = join_cells([], [])


def labels(count=1):
    return [os.urandom(16) for _ in range(count)]


def person(**parts):
    """A person with its three postings."""
    row = Row(**parts)
    if not row.postings:
        row.postings = [(IDENTITY, 1, labels(1)), (IDENTITY, 0, labels(9)), (CONTACT, 0, labels(9))]
    return row


def outcomes(answer):
    message = wire.decode(answer, "outcomes")
    return message.tables["records"]["outcome"].tolist(), message.tables["postings"]["slot"].tolist()


async def count(node):
    return (await node._store.statistics()).rows


# --- what goes in comes out ---------------------------------------------------------------------------------------------


async def test_what_is_put_is_found_got_and_listed(ask):
    rows = [person() for _ in range(3)]
    put = Put(*rows)
    assert outcomes(await ask("node_put", put.encode())) == ([0, 0, 0], [0] * 9)
    label = rows[1].postings[2][2][0]
    asked = [*labels(2), label]
    answers = [
        await ask("node_find", find(asked), "casework"),
        await ask("node_get", get([rows[1].record]), "casework"),
        await ask("node_list", listing(subjects=[rows[1].subject]), "casework"),
    ]
    for answer in answers:
        message = wire.decode(answer, "rows")
        assert message.tables["rows"]["record"].tobytes() == rows[1].record
        assert message.tables["rows"]["subject"].tobytes() == rows[1].subject
        assert message.tables["rows"]["tag"].tobytes() == rows[1].tag
        sealed, wraps = split_cells(message.blobs["sealed"][0]), split_wraps(message.blobs["wraps"][0])
        expected = dict(zip(rows[1].classes, rows[1].envelopes, strict=True))
        assert sealed == {c: e for c, e in expected.items() if c != INDEX_CLASS}  # casework does not open `_index`
        for class_id, (nonce, wrap) in wraps.items():
            cell = 5 + PERSON_CLASSES.index(class_id)
            assert nonce == put.scalars["nonce_base"] + cell.to_bytes(4)
            assert wrap == put.tables["wraps"]["wrap"][cell].tobytes()
    hits = wire.decode(answers[0], "rows").tables["hits"]
    assert (hits["label_row"].tolist(), hits["record"].tobytes(), hits["mac"].tobytes()) == (
        [2], rows[1].record, b"m" * 16,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("purpose", "classes", "given"),
    [
        ("casework", (), {1, 2, 0x8001, 0x8002}),
        ("casework", (CONTACT, INDEX_CLASS), {CONTACT}),
        ("overview", (), {0x8001, 0x8002}),
        ("overview", (CONTACT, CONTACT | RENDITION), {CONTACT | RENDITION}),
        ("statistics", (IDENTITY,), set()),
        ("deletion", (), set()),
    ],
)
async def test_only_cells_that_the_purpose_opens_are_given(ask, purpose, classes, given):
    row = person()
    await ask("node_put", Put(row).encode())
    message = wire.decode(await ask("node_get", get([row.record], classes), purpose), "rows")
    assert message.tables["rows"]["version"].tolist() == [1]
    assert set(split_cells(message.blobs["sealed"][0])) == given
    assert set(split_wraps(message.blobs["wraps"][0])) == given


async def test_of_other_collections_nothing_is_said(ask):
    """Labels name no field: what a purpose neither opens nor searches stays a bare hit."""
    row = Row(collection=INCIDENT, postings=[(1, 1, labels(1))])
    await ask("node_put", Put(row).encode(), "registration")
    requests = {"node_find": find(row.postings[0][2]), "node_get": get([row.record])}
    for purpose, rows in (("casework", 1), ("registration", 0)):
        for op, body in requests.items():
            message = wire.decode(await ask(op, body, purpose), "rows")
            assert wire.rows_in(message.tables["rows"]) == rows
    message = wire.decode(await ask("node_find", requests["node_find"], "intake"), "rows")
    assert (wire.rows_in(message.tables["hits"]), wire.rows_in(message.tables["rows"])) == (1, 0)


async def test_listing_goes_by_pages(ask):
    rows = [person() for _ in range(7)]
    await ask("node_put", Put(*rows).encode())
    got, after = [], bytes(16)
    while True:
        message = wire.decode(await ask("node_list", listing(after=after, limit=3), "casework"), "rows")
        page = [r.tobytes() for r in message.tables["rows"]["record"]]
        got += page
        if len(page) < 3:
            break
        after = page[-1]
    assert got == sorted(r.record for r in rows)


class Compared(bytes):
    """Counts how often one is compared."""

    times = 0
    __hash__ = bytes.__hash__

    def __eq__(self, other):
        Compared.times += 1
        return bytes.__eq__(self, other)


async def test_a_large_listing_leaves_turns_to_others(node, ask, monkeypatch):
    subjects = sorted(labels(400))
    rows = [StoredRow(PERSON, Compared(s), s, 1, s, NOW_S, 0, NO_CELLS, NO_WRAPS, True) for s in subjects]
    monkeypatch.setattr(node._store, "list_subjects", AsyncMock(return_value=subjects))
    monkeypatch.setattr(node._store, "get", AsyncMock(return_value=rows))
    threads = []

    def given(self, *parts, _rows=Node._rows):
        threads.append(threading.current_thread() is threading.main_thread())
        return _rows(self, *parts)

    monkeypatch.setattr(Node, "_rows", given)
    answer = await ask("node_list", listing(subjects=subjects, limit=len(subjects)), "casework")
    assert 0 < Compared.times <= 2 * len(rows)  # not each row with each subject
    assert wire.rows_in(wire.decode(answer, "rows").tables["rows"]) == len(subjects)
    await ask("node_list", listing(), "casework")
    rows[1:] = []
    await ask("node_list", listing(), "casework")
    assert threads == [False, False, True]


async def test_a_replayed_put_answers_the_same_and_changes_nothing(node, ask):
    body = Put(person(), person()).encode()
    first = outcomes(await ask("node_put", body))
    assert outcomes(await ask("node_put", body)) == first
    again = grant(body)
    for _ in range(2):  # the same grant twice: node steps are idempotent
        assert outcomes(await node.handle("node_put", again, body)) == first
    assert await count(node) == 2


async def test_each_row_has_its_own_outcome(ask):
    first = person()
    await ask("node_put", Put(first).encode())
    same_number = person(postings=[(IDENTITY, 1, first.postings[0][2]), (CONTACT, 0, labels(2))])
    no_slot = person(postings=[(IDENTITY, 0, first.postings[1][2][:1])])
    later = person(record=first.record, subject=first.subject, version=3)
    got = outcomes(await ask("node_put", Put(same_number, person(), no_slot, later).encode()))
    assert got[0] == [Outcome.UNIQUE_TAKEN, Outcome.STORED, Outcome.NO_SLOT, Outcome.VERSION_TAKEN]
    assert got[1] == [NOWHERE] * 2 + [0, 0, 0] + [NOWHERE] + [NOWHERE] * 3


async def test_an_update_of_one_class_is_taken(ask):
    row = person()
    await ask("node_put", Put(row).encode())
    update = Row(CONTACT_CLASSES, 2, PERSON, row.record, row.subject, [(CONTACT, 0, labels(9))])
    put = Put(update)
    put.receipts = [receipt(k, "put", put.root(), principal="records_officer") for k in ("zone_a", "zone_b")]
    assert outcomes(await ask("node_put", put.encode(), "rectification"))[0] == [0]
    message = wire.decode(await ask("node_get", get([row.record], [CONTACT]), "casework"), "rows")
    assert message.tables["rows"]["version"].tolist() == [1, 2]
    assert [set(split_cells(b)) for b in message.blobs["sealed"]] == [set(), {CONTACT}]


@pytest.fixture
async def moved(node, ask, monkeypatch):
    """A person, and the update that gives its contact another label when the record is read the first time."""
    row = person()
    await ask("node_put", Put(row).encode())
    update = Row(CONTACT_CLASSES, 2, PERSON, row.record, row.subject, [(CONTACT, 0, labels(9))])
    put = Put(update)
    put.receipts = [receipt(k, "put", put.root(), principal="records_officer") for k in ("zone_a", "zone_b")]
    got = node._store.get

    async def late(*arguments):
        monkeypatch.setattr(node._store, "get", got)
        assert outcomes(await ask("node_put", put.encode(), "rectification"))[0] == [0]
        return await got(*arguments)

    monkeypatch.setattr(node._store, "get", late)
    return row, row.postings[2][2][0], update.postings[0][2][0]


async def found(ask, *asked):
    tables = wire.decode(await ask("node_find", find(asked), "casework"), "rows").tables
    return [h.tobytes() for h in tables["hits"]["record"]], [r.tobytes() for r in tables["rows"]["record"]]


async def test_a_value_that_is_replaced_while_it_is_looked_for_leads_nowhere(ask, moved):
    """Else whoever opened the record would not find the value in it, and take that for a lie."""
    row, old, new = moved
    assert await found(ask, old) == ([bytes(16)], [])
    assert await found(ask, row.postings[0][2][0], old, new) == ([row.record, bytes(16), row.record], [row.record] * 2)


async def test_a_value_that_moves_to_another_slot_while_it_is_looked_for_is_found(ask, moved):
    row, old, new = moved
    assert await found(ask, old, new) == ([bytes(16), row.record], [row.record] * 2)


async def test_where_part_of_a_record_is_junk_it_is_found_by_whatever_leads_to_it(node, ask, moved, monkeypatch):
    row, *_ = moved
    await node._store.get(1, [row.record], ())  # with which the update comes
    _, newest = await node._store.get(1, [row.record], ())
    junk = dataclasses.replace(newest, sealed=b"", wraps=NO_WRAPS)
    monkeypatch.setattr(node._store, "get", AsyncMock(return_value=[junk]))
    assert await found(ask, row.postings[0][2][0]) == ([row.record], [row.record])


async def test_large_puts_are_checked_beside_other_requests(ask):
    rows = [person() for _ in range(300)]
    assert set(outcomes(await ask("node_put", Put(*rows).encode()))[0]) == {0}


# --- grants -------------------------------------------------------------------------------------------------------------

BAD_GRANTS = {
    "for a keeper": {"audience": grants.keeper_audience(POLICY.vault, "zone_a")},
    "for another vault": {"audience": grants.node_audience(bytes(16))},
    "expired": {"expires_s": NOW_S},
    "valid too long": {"expires_s": NOW_S + 121},
    "for another body": {"request": bytes(32)},
    "unknown principal": {"issuer": "nobody"},
    "another principal's name": {"issuer": "dpo"},
    "another principal's key": {"issuer": "importer", "principal": "dpo"},
    "unknown purpose": {"purpose": "curiosity"},
    "purpose of another role": {"purpose": "casework"},
}
REQUESTS = {
    "node_put": Put(person()).encode(),
    "node_get": get(labels()),
    "node_find": find(labels()),
    "node_list": listing(),
    "node_delete": deletion(Row()),
}


@pytest.mark.parametrize("op", REQUESTS)
@pytest.mark.parametrize("claims", BAD_GRANTS.values(), ids=BAD_GRANTS)
async def test_bad_grants_are_refused_with_one_wording(node, op, claims):
    token = grant(REQUESTS[op], **({"principal": "importer"} | claims))
    with pytest.raises(GrantError) as caught:
        await node.handle(op, token, REQUESTS[op])
    assert str(caught.value) == grants.WORDING
    assert await count(node) == 0


@pytest.mark.parametrize("token", ["", "a.b.c", "x" * 5000])
async def test_no_grant_no_answer(node, token):
    for op in (*REQUESTS, "unknown", "put", ""):
        with pytest.raises(GrantError, match=grants.WORDING):
            await node.handle(op, token, b"junk that is never parsed")


@pytest.mark.parametrize(
    ("op", "purpose"),
    [
        ("node_put", "casework"), ("node_put", "registration"), ("node_get", "intake"), ("node_get", "oversight"),
        ("node_find", "statistics"), ("node_find", "oversight"), ("node_list", "intake"), ("node_list", "oversight"),
        ("node_delete", "intake"), ("node_delete", "rectification"),
    ],
)  # fmt: skip
async def test_purposes_cover_their_operations_alone(node, ask, op, purpose):
    with pytest.raises(GrantError, match=grants.WORDING):
        await ask(op, REQUESTS[op], purpose)
    assert await count(node) == 0


async def test_a_put_into_one_collection_too_many_is_refused(node, ask):
    with pytest.raises(GrantError):
        await ask("node_put", Put(person(), Row(collection=INCIDENT)).encode())
    assert await count(node) == 0


# --- receipts -----------------------------------------------------------------------------------------------------------


def signed(put, keepers=("zone_a", "zone_b"), **changes):
    return [receipt(k, **({"op": "put", "root": put.root()} | changes)) for k in keepers]


def flipped(data):
    return data[:-40] + bytes([data[-40] ^ 1]) + data[-39:]


BAD_RECEIPTS = {
    "none": lambda _: [],
    "one": lambda put: signed(put, ["zone_a"]),
    "one twice": lambda put: signed(put, ["zone_a", "zone_a"]),
    "of another vault": lambda put: signed(put, vault=bytes(16)),
    "of another operation": lambda put: signed(put, op="delete"),
    "of another principal": lambda put: signed(put, principal="dpo"),
    "over another root": lambda put: signed(put, root=bytes(32)),
    "of another epoch": lambda put: signed(put, epoch=2),
    "of another generation": lambda put: signed(put, generation=2),
    "old": lambda put: signed(put, time_ms=(NOW_S - 601) * 1000),
    "of tomorrow": lambda put: signed(put, time_ms=(NOW_S + 601) * 1000),
    "one forged": lambda put: [*signed(put, ["zone_a"]), flipped(signed(put, ["zone_b"])[0])],
    "signed by another keeper": lambda put: [
        *signed(put, ["zone_a"]),
        receipt("zone_b", "put", put.root(), key=KEEPER_KEYS["zone_a"]),
    ],
    "of an unknown keeper": lambda put: [
        *signed(put, ["zone_a"]),
        receipt("zone_x", "put", put.root(), key=KEEPER_KEYS["zone_a"]),
    ],
    "junk": lambda _: [b"junk", b"ANWA" + bytes(364)],
    "hidden behind junk": lambda put: [b"junk"] * 3 + signed(put),  # more blobs than keepers are not read
}


@pytest.mark.parametrize("make", BAD_RECEIPTS.values(), ids=BAD_RECEIPTS)
async def test_nothing_is_stored_without_receipts_of_t_keepers(node, ask, make):
    put = Put(person())
    put.receipts = make(put)
    with pytest.raises(ProofError):
        await ask("node_put", put.encode())
    assert await count(node) == 0


async def test_a_bad_receipt_beside_enough_good_ones_does_no_harm(ask):
    put = Put(person())
    put.receipts = [*signed(put, ["zone_a"], root=bytes(32)), *signed(put, ["zone_b", "zone_c"])]
    assert outcomes(await ask("node_put", put.encode()))[0] == [0]


async def test_receipts_of_a_policy_that_this_node_does_not_have_yet(node, ask):
    put = Put(person())
    put.receipts = signed(put, policy_version=2)
    with pytest.raises(UnavailableError, match="policy 2"):
        await ask("node_put", put.encode())
    assert await count(node) == 0


async def test_receipts_cover_every_row_as_it_is(node, ask):
    """Any change to a record or cell after the keepers logged it is refused."""
    for table, column in [("records", c.name) for c in wire.RECORDS] + [("cells", c.name) for c in wire.CELLS]:
        put = Put(person(), person())
        put.receipts = signed(put)
        changed = put.tables[table][column].copy()
        changed[-1] = changed[-1] ^ 1
        put.tables[table][column] = changed
        with pytest.raises((ProofError, GrantError)):
            await ask("node_put", put.encode())
    assert await count(node) == 0


# --- forms --------------------------------------------------------------------------------------------------------------


def swapped(put):
    """Two people's cells exchanged, with receipts that fit."""
    put.envelopes[0], put.envelopes[5] = put.envelopes[5], put.envelopes[0]


def swapped_in_tables(put):
    swapped(put)
    column = put.tables["cells"]["commitment"].copy()
    column[[0, 5]] = column[[5, 0]]
    put.tables["cells"]["commitment"] = column


def with_column(table, column, values):
    def change(put):
        put.tables[table][column] = np.array(values, put.tables[table][column].dtype)

    return change


def without_wrap(put):
    put.tables["wraps"]["wrap"] = put.tables["wraps"]["wrap"][:-1]


def without_label(put):
    put.tables["labels"]["label"] = put.tables["labels"]["label"][:-1]


def with_scalar(name, value):
    def change(put):
        put.scalars[name] = value

    return change


JUNK = {
    "swapped envelopes": swapped,
    "swapped cells": swapped_in_tables,
    "a wrap too few": without_wrap,
    "a label too few": without_label,
    "cells out of order": with_column("cells", "record_row", [0, 0, 0, 1, 0, 1, 1, 1, 1, 0]),
    "cells of no row": with_column("cells", "record_row", [0] * 5 + [2] * 5),
    "a cell of the other row": with_column("cells", "record_row", [0] * 6 + [1] * 4),
    "a class twice": with_column("cells", "class", [1, 1, 0x7FFF, 0x8001, 0x8002] * 2),
    "classes out of order": with_column("cells", "class", [2, 1, 0x7FFF, 0x8001, 0x8002] * 2),
    "unknown class": with_column("cells", "class", [1, 3, 0x7FFF, 0x8001, 0x8003] * 2),
    "version 0": with_column("records", "version", [0, 1]),
    "far dates": with_column("records", "collected_s", [2**40, 1]),
    "endless expiry": with_column("records", "expires_s", [2**62, 1]),
    "posting of no row": with_column("postings", "record_row", [0, 0, 0, 2, 2, 2]),
    "postings out of order": with_column("postings", "record_row", [1, 0, 0, 1, 1, 0]),
    "posting of a class without index": with_column("postings", "class", [1, 1, 0x8002, 1, 1, 2]),
    "two postings of one field": with_column("postings", "class", [1, 2, 2, 1, 1, 2]),
    "unique where the policy says exact": with_column("postings", "unique", [1, 1, 0, 1, 0, 0]),
    "unique 2": with_column("postings", "unique", [2, 0, 0, 1, 0, 0]),
    "posting without labels": with_column("postings", "labels", [0, 10, 9, 1, 9, 9]),
    "verified 2": with_scalar("verified", 2),
}


@pytest.mark.parametrize("change", JUNK.values(), ids=JUNK)
async def test_junk_is_refused_though_its_receipts_fit(node, ask, change):
    put = Put(person(), person())
    change(put)
    with pytest.raises(MalformedError):
        await ask("node_put", put.encode())
    assert await count(node) == 0


NOT_ENVELOPES = {
    "plaintext": b'{"name": "Li Na", "phone": "+8613800138000"}'.ljust(189),
    "another suite": b"\2" + envelope()[1:],
    "unpadded length": envelope()[:-3],
    "too short for its padding": envelope(bytes(16)),
}


@pytest.mark.parametrize("junk", NOT_ENVELOPES.values(), ids=NOT_ENVELOPES)
async def test_what_is_no_envelope_is_refused_though_everything_names_it(node, ask, junk):
    """Tag, commitments and receipts fit: the form alone keeps plaintext out."""
    put = Put(Row(envelopes=[junk, *(envelope() for _ in PERSON_CLASSES[1:])]))
    with pytest.raises(MalformedError, match="envelope"):
        await ask("node_put", put.encode())
    assert await count(node) == 0


@pytest.mark.parametrize("junk", [b"", b"\1", bytes(60)])
async def test_bytes_too_short_for_an_envelope_are_refused(node, ask, junk):
    put = Put(person())
    put.envelopes[0] = junk
    with pytest.raises(MalformedError, match="envelope"):
        await ask("node_put", put.encode())
    assert await count(node) == 0


async def test_a_new_record_without_a_class_and_its_rendition_is_refused(node, ask):
    with pytest.raises(MalformedError, match="a new person has classes"):
        await ask("node_put", Put(Row(CONTACT_CLASSES)).encode())
    assert await count(node) == 0


@pytest.mark.parametrize(
    ("classes", "posting"),
    [((3, INDEX_CLASS, 3 | RENDITION), ()), (CONTACT_CLASSES, ((IDENTITY, 0, [bytes(16)]),))],
    ids=["a class that the collection has not", "a posting of a class that the row has not"],
)
async def test_an_update_of_what_is_not_there_is_refused(ask, classes, posting):
    row = person()
    await ask("node_put", Put(row).encode())
    with pytest.raises(MalformedError):
        await ask("node_put", Put(Row(classes, 2, PERSON, row.record, row.subject, list(posting))).encode())


async def test_a_new_record_without_one_of_its_classes_is_refused(node, ask):
    for left_out in PERSON_CLASSES:
        classes = tuple(c for c in PERSON_CLASSES if c != left_out)
        with pytest.raises(MalformedError, match="classes"):
            await ask("node_put", Put(Row(classes)).encode())
    assert await count(node) == 0


@pytest.mark.parametrize("classes", [(2,), (2, 0x8002), (2, INDEX_CLASS), (INDEX_CLASS,), (2, INDEX_CLASS, 0x8001)])
async def test_an_update_brings_class_rendition_and_index_together(ask, classes):
    row = person()
    await ask("node_put", Put(row).encode())
    with pytest.raises(MalformedError, match="renditions"):
        await ask("node_put", Put(Row(classes, 2, PERSON, row.record, row.subject)).encode())


async def test_sizes_are_bounded(node, ask, monkeypatch):
    many = Put(person(postings=[(CONTACT, 0, labels(65))]))
    with pytest.raises(TooLargeError, match="65 labels"):
        await ask("node_put", many.encode())
    monkeypatch.setattr("anwen.node.puts.MAX_ROWS", 2)
    monkeypatch.setattr("anwen.node.service.MAX_RECORDS", 2)
    with pytest.raises(TooLargeError):
        await ask("node_put", Put(person(), person(), person()).encode())
    for op, body in (("node_get", get(labels(3))), ("node_find", find(labels(3))), ("node_list", listing(limit=3)),
                     ("node_list", listing(limit=0)), ("node_list", listing(subjects=labels(3)))):  # fmt: skip
        with pytest.raises(TooLargeError):
            await ask(op, body, "casework")
    with pytest.raises(TooLargeError):
        await ask("node_delete", deletion(Row(), Row(), Row()), "deletion")
    assert await count(node) == 0


@pytest.mark.parametrize("op", REQUESTS)
async def test_bodies_that_do_not_follow_the_format(node, ask, op):
    good = REQUESTS[op]
    purpose = {"node_put": "intake", "node_delete": "deletion"}.get(op, "casework")
    other = REQUESTS["node_get" if op != "node_get" else "node_find"]
    for body in (b"", good[:-1], good + b"\0", b"ANW2" + good[4:], other, good[:21] + b"\xff" * 8 + good[29:]):
        with pytest.raises((MalformedError, TooLargeError, ProofError, GrantError)):
            await ask(op, body, purpose)
    assert await count(node) == 0


# --- deletion -----------------------------------------------------------------------------------------------------------


async def test_a_deleted_record_is_gone(node, ask):
    row = person()
    await ask("node_put", Put(row).encode())
    body = deletion(row)
    for _ in range(2):
        assert outcomes(await ask("node_delete", body, "deletion")) == ([0], [])
    assert await count(node) == 0
    message = wire.decode(await ask("node_find", find([row.postings[0][2][0]]), "casework"), "rows")
    assert message.tables["hits"]["record"].tobytes() == bytes(16)  # a tombstone
    assert wire.rows_in(message.tables["rows"]) == 0
    assert outcomes(await ask("node_put", Put(row).encode()))[0] == [Outcome.DELETED]


@pytest.mark.parametrize("receipts", [[], "put", "other"])
async def test_a_stolen_key_alone_deletes_nothing(node, ask, receipts):
    row, other = person(), person()
    put = Put(row)
    await ask("node_put", put.encode())
    match receipts:
        case "put":
            receipts = signed(put, principal="records_officer")
        case "other":
            receipts = wire.decode(deletion(other), "node_delete").blobs["receipts"]
    with pytest.raises(ProofError):
        await ask("node_delete", deletion(row, receipts=receipts), "deletion")
    assert await count(node) == 1


@pytest.mark.parametrize("receipts", [2, 3])
async def test_with_five_keepers_of_whom_two_open_a_deletion_needs_four(node, ask, receipts):
    """The three that never heard of it would open a copy of the record for ever."""
    signing = {f"zone_{z}": Ed25519PrivateKey.from_private_bytes(z.encode() * 32) for z in "abcde"}
    public = {k: key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw) for k, key in signing.items()}
    five = vault_texts.policy(keepers=5, threshold=2)
    node.policy = dataclasses.replace(
        five, keepers={k: dataclasses.replace(info, identity=public[k]) for k, info in five.keepers.items()}
    )
    row = person()
    put = Put(row)
    put.receipts = [receipt(k, "put", put.root(), key=signing[k]) for k in list(signing)[:2]]
    await ask("node_put", put.encode())
    root = wire.delete_root(wire.decode(deletion(row), "node_delete").tables["records"])
    signed_by = [receipt(k, "delete", root, principal="records_officer", key=key) for k, key in signing.items()]
    with pytest.raises(ProofError, match=f"receipts of 4 keepers, got {receipts}"):
        await ask("node_delete", deletion(row, receipts=signed_by[:receipts]), "deletion")
    assert await count(node) == 1
    await ask("node_delete", deletion(row, receipts=signed_by[:4]), "deletion")
    assert await count(node) == 0


async def test_who_is_charged_is_whose_record_is_deleted(node, ask):
    """Keepers count the subjects that a deletion names; naming one person for many people's records is refused."""
    rows = [person(), person()]
    await ask("node_put", Put(*rows).encode())
    for changes in ({"subject": stack([rows[0].subject] * 2)}, {"collection": np.array([PERSON, INCIDENT])}):
        with pytest.raises(NotFoundError):
            await ask("node_delete", deletion(*rows, **changes), "deletion")
    assert await count(node) == 2


# --- policy -------------------------------------------------------------------------------------------------------------


def version_2(signers=("ada", "ben"), **changes):
    policy = dataclasses.replace(POLICY, **({"version": 2, "previous": policy_chain.digest(POLICY)} | changes))
    signatures = {o: policy_chain.sign(policy, o, vault_texts.private_key(f"officer {o}")) for o in signers}
    return policy_chain.encode_signed(policy_chain.SignedPolicy(policy, signatures))


async def test_the_next_policy_is_followed_once_it_is_kept(node):
    kept = []
    node = Node(
        POLICY, node._store, clock=lambda: NOW_S, save=lambda version, document: kept.append((version, document))
    )
    document = version_2(name="renamed")
    assert await node.handle("policy", "", document) == b""
    assert kept == [(2, document)]
    assert node.policy.name == "renamed"
    # that it is followed already is said to principals alone, and whatever officers signed it
    for present in (document, version_2(["ada"], name="renamed")):
        with pytest.raises(GrantError):
            await node.handle("policy", "", present)
        assert await node.handle("policy", grant(present), present) == b""
    assert kept == [(2, document)]


async def test_a_policy_that_cannot_be_kept_is_not_followed(node):
    def full(_version, _document):
        raise StorageError("disk full")

    node = Node(POLICY, node._store, save=full)
    with pytest.raises(StorageError):
        await node.handle("policy", "", version_2())
    assert node.policy.version == 1


@pytest.mark.parametrize(
    "document",
    [b"", b"junk", b"{}", version_2(signers=["ada"]), version_2(version=3), version_2(previous=bytes(32)),
     version_2(vault=bytes(16)), version_2(threshold=3), version_2().replace(b"police test", b"police tost")],
)  # fmt: skip
async def test_another_policy_is_refused_like_everything_without_a_grant(node, document):
    for nothing in ("", "a.b.c", grant(document, expires_s=NOW_S - 1), grant(b"another body")):
        with pytest.raises(GrantError, match=grants.WORDING):
            await node.handle("policy", nothing, document)
    with pytest.raises(PolicyError):
        await node.handle("policy", grant(document), document)
    assert node.policy.version == 1


async def test_the_present_policy_is_no_answer_to_strangers(node):
    document = version_2(version=1, previous=POLICY.previous)
    with pytest.raises(GrantError):
        await node.handle("policy", "", document)
    assert await node.handle("policy", grant(document), document) == b""


async def test_a_grant_may_be_looked_at_before_the_body_it_is_for(node):
    body = REQUESTS["node_get"]
    assert node.admit(grant(body)).issuer == "importer"
    stranger = grants.sign(vault_texts.private_key("stranger"), grants.parse(grant(body))[0])
    nobody = grants.sign(vault_texts.private_key("principal importer"), grants.parse(grant(body, issuer="nobody"))[0])
    for bad in ("", "a.b.c", grant(body, expires_s=NOW_S), grant(body, audience="00" * 16 + "/node"), stranger, nobody):
        with pytest.raises(GrantError, match=grants.WORDING):
            node.admit(bad)


async def test_after_a_policy_the_version_before_still_counts_and_older_ones_do_not(node, ask):
    await node.handle("policy", "", version_2())
    put = Put(person())
    put.receipts = [*signed(put, ["zone_a"]), *signed(put, ["zone_b"], policy_version=2)]
    assert outcomes(await ask("node_put", put.encode()))[0] == [0]
    put = Put(person())
    put.receipts = signed(put, policy_version=0)
    with pytest.raises(ProofError, match="policy version"):
        await ask("node_put", put.encode())


async def test_errors_name_no_handle_and_no_bytes_of_a_value(ask):
    """Messages hold counts, names and row numbers; a whole row of junk leaves no trace in them."""
    mark = b"13800138000"
    put = Put(person())
    put.envelopes[0] = mark.ljust(189)
    with pytest.raises(AnwenError) as caught:
        await ask("node_put", put.encode())
    text = str(caught.value) + repr(caught.value) + "".join(getattr(caught.value, "__notes__", []))
    assert mark.decode() not in text
    assert mark.hex() not in text
    assert hashlib.sha256(mark).hexdigest() not in text


async def test_a_sign_of_life_says_that_the_store_is_read_as_callers_read_it(node, ask, monkeypatch):
    """A database member that comes back answers for itself before it reaches the others."""
    body = wire.encode("state", os.urandom(wire.SALT_BYTES))
    await ask("state", body)

    async def cut_off(_labels):
        raise StorageError("two of three members are out of reach")

    monkeypatch.setattr(node._store, "find", cut_off)
    with pytest.raises(StorageError, match="out of reach"):
        await ask("state", body)


# --- clocks and counts -----------------------------------------------------------------------------------------------


async def test_the_epoch_is_looked_up_again_although_the_wall_clock_was_set_back(node, monkeypatch):
    monkeypatch.setattr(service, "_EPOCHS_LAST_S", 0.05)
    now_s, asked = [NOW_S], []

    async def epochs():
        asked.append(now_s[0])
        return [1]

    monkeypatch.setattr(node._store, "epochs", epochs)
    monkeypatch.setattr(node, "_clock", lambda: now_s[0])
    assert [await node._current_epoch() for _ in range(3)] == [1, 1, 1]
    now_s[0] -= 86_400
    await asyncio.sleep(0.1)
    assert await node._current_epoch() == 1
    assert asked == [NOW_S, NOW_S - 86_400]


async def test_a_store_that_was_not_counted_to_the_end_says_so_and_the_time_is_that_of_the_answer(node, monkeypatch):
    now_s, counted = [NOW_S], node._store.statistics

    async def slow():
        now_s[0] += 7
        return dataclasses.replace(await counted(), complete=False)

    monkeypatch.setattr(node, "_clock", lambda: now_s[0])
    for statistics, settings in ((counted, 0), (slow, 1)):
        monkeypatch.setattr(node._store, "statistics", statistics)
        body = wire.encode("node_state", bytes(wire.SALT_BYTES))
        said = wire.decode(await node.handle("node_state", grant(body, "oversight"), body), "store_state")
        assert said.blobs["settings"].count(wire.AT_LEAST.encode()) == settings
        assert said.number("time_ms") == now_s[0] * 1000


async def test_a_node_names_the_engine_that_it_has_and_not_the_one_of_its_policy(node, monkeypatch):
    monkeypatch.setattr(node, "policy", dataclasses.replace(node.policy, engine="cassandra"))
    body = wire.encode("node_state", bytes(wire.SALT_BYTES))
    said = wire.decode(await node.handle("node_state", grant(body, "oversight"), body), "store_state")
    assert said.blobs["engine"] == [b"sqlite"]
