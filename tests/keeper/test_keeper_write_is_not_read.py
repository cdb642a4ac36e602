"""What is stored comes out of `open` alone: not of a put that names the same rows, nor of any other request."""

import itertools
import os
from dataclasses import replace

import numpy as np
import pytest
from keeper_rig import NAME_CLASS, NAME_MASK, PERSON, PHONE, People, Rig, b64, plain, public_der

from anwen.crypto import dprf
from anwen.errors import AnwenError
from anwen.formats import answer, wire
from anwen.keeper import requests
from anwen.model import Principal, Purpose, Role

NOBODY, ALL_CLASSES = frozenset(), frozenset((PERSON, c) for c in (1, 2, NAME_MASK, 0x8002))
PHONES, PERSONS = frozenset({(PERSON, PHONE)}), frozenset({PERSON})
PURPOSES = {
    "work": Purpose("work", "test", ALL_CLASSES, PHONES, PERSONS, PERSONS, True),
    "open": Purpose("open", "test", ALL_CLASSES, NOBODY, NOBODY, NOBODY),
    "look": Purpose("look", "test", frozenset({(PERSON, NAME_MASK)}), NOBODY, NOBODY, NOBODY),
    "search": Purpose("search", "test", NOBODY, PHONES, NOBODY, NOBODY),
    "write": Purpose("write", "test", NOBODY, NOBODY, PERSONS, NOBODY),
    "delete": Purpose("delete", "test", NOBODY, NOBODY, NOBODY, PERSONS),
    "audit": Purpose("audit", "test", NOBODY, NOBODY, NOBODY, NOBODY, True),
}
MAY_OPEN = {"work": {NAME_CLASS, NAME_MASK}, "open": {NAME_CLASS, NAME_MASK}, "look": {NAME_MASK}}


@pytest.fixture
async def rig(tmp_path):
    """Keepers for whom a principal with every right, one more who writes, and one for each kind of purpose."""
    rig = Rig(tmp_path)
    every = Role("every", frozenset(PURPOSES), rig.limits)
    eve = Principal("eve", "every", public_der(rig.keys["eve"]))
    alice = replace(rig.policy.principals["alice"], role="every")
    rig.begin_with(
        replace(
            rig.policy, purposes=PURPOSES, roles=rig.policy.roles | {"every": every},
            principals=rig.policy.principals | {"alice": alice, "eve": eve},
        )
    )  # fmt: skip
    await rig.start()
    yield rig
    await rig.close()


def parts_of(rig, answers, rows):
    """Each key set's components of the first rows, as bytes."""
    parts = {}
    for keeper, got in answers.items():
        for key_set, column in zip(dprf.held_by(keeper, rig.ids, rig.threshold), got.components, strict=True):
            parts[key_set] = {row.tobytes() for row in column[:rows]}
    return parts


# --- a writer's key, the bodies it sent, and the store ---------------------------------------------------------------


async def by_writing(rig):
    """Which key sets' components of stored rows come out of later puts, whoever signs them and whatever he repeats."""
    people, jti = People(3), os.urandom(16)
    body = people.put()
    written = await rig.ask("put", body, ["a", "b"], jti=jti)
    cells = 3 * len(people.classes)
    stored = parts_of(rig, written, cells)
    order = np.array([2, 0, 1])
    tables = {"records": {k: v[order] for k, v in people.records.items()}, "cells": people.cells}
    moved = wire.encode("put", body[5:21], {"epoch": 1, "generation": 1}, tables)
    fresh = wire.encode("put", os.urandom(16), {"epoch": 1, "generation": 1}, tables | {"records": people.records})
    leaked = set()
    for wait_s, who, sent, sent_jti, life_s in itertools.product(
        (0, 61), ("alice", "eve"), (body, moved, fresh), (jti, os.urandom(16)), (60, 90)
    ):
        if wait_s:  # grants expire, and their `jti` are forgotten with the next that is spent
            rig.clock.now_s += wait_s
            await rig.ask("index", people.index())
        for keeper in ("c", "a", "b"):
            try:
                got = await rig.ask("put", sent, [keeper], who=who, jti=sent_jti, life_s=life_s)
            except AnwenError:
                continue
            for key_set, values in parts_of(rig, got, cells).items():
                leaked |= {key_set} if values & stored[key_set] else set()
    return leaked


@pytest.fixture
def no_pads(monkeypatch):
    """Pads would hide that a put gives what a row is sealed with; and whoever has a keeper takes them off."""
    monkeypatch.setattr(dprf, "pads", lambda *about: dict.fromkeys(about[3], np.uint8(0)))


@pytest.mark.usefixtures("no_pads")
async def test_no_put_gives_the_values_of_rows_that_are_stored(rig):
    """A keeper that was not asked at the time still answers the siblings' request; its part alone is not enough."""
    leaked = await by_writing(rig)
    assert leaked == set(dprf.held_by("c", rig.ids, rig.threshold))
    assert leaked < set(dprf.key_sets(rig.ids, rig.threshold))


@pytest.mark.usefixtures("no_pads")
async def test_a_nonce_that_the_client_makes_gives_them_all(rig, monkeypatch):
    def by_the_client(_principal, jti, _expires_s, _request):
        return jti + bytes(4)

    monkeypatch.setattr(requests.prf_input, "nonce_base", by_the_client)
    assert await by_writing(rig) == set(dprf.key_sets(rig.ids, rig.threshold))


@pytest.mark.usefixtures("no_pads")
async def test_a_nonce_without_the_grants_end_gives_them_all(rig, monkeypatch):
    """A `jti` is forgotten once its grant has expired: whoever recorded the body signs it again."""
    base = requests.prf_input.nonce_base

    def without_end(principal, jti, _expires_s, request):
        return base(principal, jti, 0, request)

    monkeypatch.setattr(requests.prf_input, "nonce_base", without_end)
    assert await by_writing(rig) == set(dprf.key_sets(rig.ids, rig.threshold))


async def test_no_two_puts_of_a_run_share_a_nonce(rig):
    people, bases = People(2), []
    bodies = [people.put(with_tokens=False), people.put(with_tokens=False), people.put()]
    for body, who, restart in itertools.product(bodies, ("alice", "eve"), (False, True)):
        if restart:
            await rig.restart("a")
        bases.append((await rig.ask("put", body, who=who))["a"].nonce_base)
    assert len(set(bases)) == len(bases)


# --- every stored input, at every endpoint, for every purpose ----------------------------------------------------------

OPS = ("put", "verify", "index", "prehash", "audit", "log", "state", "policy", "open", "delete")
PEER_OPS = ("cosign", "last_seen", *(f"ceremony_{s}" for s in ("state", "abandon", "announce", "reveal", "confirm")))


def bodies_of(people, base):
    """A request of each kind about the same stored rows, made of the bytes that the store and the log show."""
    ids = np.frombuffer(people.cells["commitment"].tobytes(), np.uint8).reshape(-1, 32)
    commitments = np.array(sorted(ids.tolist()), np.uint8)
    tokens = {
        "collection": np.full(len(ids), PERSON), "field": np.full(len(ids), PHONE), "normaliser": np.full(len(ids), 1),
        "token": commitments,
    }  # fmt: skip
    again = {"records": people.records, "cells": people.cells}
    fields = {"collection": np.array([PERSON]), "field": np.array([PHONE])}
    yield "put", wire.encode("put", os.urandom(16), {"epoch": 1, "generation": 1}, again)
    for op, classes in itertools.product(("open", "verify"), ((NAME_CLASS,), (NAME_MASK,), (NAME_CLASS, NAME_MASK))):
        yield op, people.open(base, op=op, classes=classes)
    yield "index", wire.encode("index", os.urandom(16), {"generation": 1}, {"tokens": tokens})
    yield "index", people.index()
    yield "prehash", wire.encode("prehash", os.urandom(16), {}, {"fields": fields})
    yield "audit", plain("audit", subject=people.subject[0].tobytes(), since_s=0, start=0)
    yield "log", plain("log", start=0, count=100)
    yield "state", plain("state")
    yield "delete", people.delete()


async def everything(rig, people, base):
    """Yield keeper, operation, purpose, body and answer of every request to every endpoint that is answered."""
    for op, purpose in itertools.product(OPS, PURPOSES):
        for _, body in bodies_of(people, base):
            for keeper in rig.ids:
                try:
                    said = await rig.keepers[keeper].handle(op, rig.grant(body, keeper, purpose=purpose), body)
                except AnwenError as error:
                    said = repr(error).encode() + repr(error.__dict__).encode()
                yield keeper, op, purpose, body, said
    for op, keeper in itertools.product(PEER_OPS, rig.ids):
        for _, body in bodies_of(people, base):
            try:
                yield keeper, op, "", body, await rig.keepers[keeper].handle_peer(op, body)
            except AnwenError as error:
                yield keeper, op, "", body, repr(error).encode()


async def matrix(rig):
    """Operations and purposes by which a part of a stored row's value, or the value, ever left a keeper."""
    people = People(2)
    written = await rig.ask("put", people.put())
    cells, classes = 2 * len(people.classes), np.tile(people.classes, 2)
    values = {row.tobytes(): int(c) for row, c in zip(rig.value(written)[:cells], classes, strict=True)}
    for got in written.values():
        values |= {row.tobytes(): int(c) for column in got.components for row, c in zip(column, classes, strict=False)}
    found = set()
    async for _, op, purpose, _, said in everything(rig, people, written["a"].nonce_base):
        for shape in (lambda v: v, lambda v: v.hex().encode(), lambda v: b64(v).encode()):
            found |= {(op, purpose, c) for value, c in values.items() if shape(value) in said}
    return found


async def test_a_stored_rows_value_leaves_by_open_under_a_purpose_that_opens_and_by_nothing_else(rig):
    assert await matrix(rig) == {("open", p, c) for p, opened in MAY_OPEN.items() for c in opened}


async def test_the_matrix_sees_a_verify_that_answers_components(rig, monkeypatch):
    real = requests.CHECKS["verify"]
    monkeypatch.setitem(requests.CHECKS, "verify", lambda ask: replace(real(ask), only_hashes=False))
    assert {op for op, *_ in await matrix(rig)} == {"open", "verify"}


async def test_all_answers_to_verify_together_are_no_value(rig):
    people = People(2)
    written = await rig.ask("put", people.put())
    verified = await rig.ask("verify", people.open(written["a"].nonce_base, op="verify"))
    values = {v.tobytes() for v in rig.value(written)[:4]}
    columns = [column for got in verified.values() for column in got.components]
    for count in range(1, len(columns) + 1):
        for some in itertools.combinations(columns, count):
            assert not values & {row.tobytes() for row in dprf.combine(some)}
    opened = await rig.ask("open", people.open(written["a"].nonce_base))
    columns = [column for got in opened.values() for column in got.components]  # the same search finds what is there
    assert any(values & {row.tobytes() for row in dprf.combine(some)} for some in itertools.combinations(columns, 3))
    assert all(answer.verify_receipt(a.receipt, rig.policy.keepers[k].identity) for k, a in verified.items())
