"""Bad requests: each gets its own clear error with a stable code, and leaves nothing behind."""

import base64
import hashlib
import hmac
import json
from dataclasses import replace

import numpy as np
import pytest
from keeper_rig import DAY_S, PERSON, START_S, VAULT, People, plain, public_der

from anwen.crypto import grants
from anwen.errors import (
    ConflictError,
    GrantError,
    MalformedError,
    NotFoundError,
    OverloadedError,
    RefusedError,
    TooLargeError,
)
from anwen.formats import wire
from anwen.keeper import requests, service

P = People(2)
OPEN = P.open(bytes(20))


def tokens(**changes):
    return P.index(**changes)


def cases():
    three = np.arange(3)
    yield "truncated", "open", OPEN[:-1], MalformedError
    yield "one byte more", "open", OPEN + b"\0", MalformedError
    yield "other operation inside", "open", P.put(), MalformedError
    yield "empty", "open", b"", MalformedError
    yield "no cells", "open", P.open(bytes(20), classes=(7,)), MalformedError
    yield "row out of range", "open", P.open(bytes(20), record_row=np.array([0, 0, 1, 2])), MalformedError
    yield "row far out of range", "put", P.put(cells={"record_row": np.array([0, 0, 1, 2**32 - 1])}), MalformedError
    yield "unknown class", "open", P.open(bytes(20), **{"class": np.array([1, 1, 1, 9])}), NotFoundError
    yield "unknown class in put", "put", P.put(cells={"class": np.array([1, 1, 1, 9])}), NotFoundError
    yield "unknown collection", "put", P.put(records={"collection": np.array([1, 3])}), NotFoundError
    yield (
        "rendition of the index class",
        "open",
        P.open(bytes(20), **{"class": np.array([1, 1, 1, 0xFFFF])}),
        NotFoundError,
    )
    yield "index class without a right", "open", P.open(bytes(20), **{"class": np.array([1, 1, 1, 0x7FFF])}), GrantError
    yield "version 0", "put", P.put(records={"version": np.array([1, 0])}), MalformedError
    yield "another epoch", "put", P.put(epoch=2), ConflictError
    yield "another epoch", "open", P.open(bytes(20), epoch=0), ConflictError
    yield "another generation", "put", P.put(generation=2), ConflictError
    yield "collected tomorrow", "put", P.put(records={"collected_s": P.full(P.collected_s + DAY_S)}), MalformedError
    yield "part of a day", "put", P.put(records={"collected_s": P.full(P.collected_s + 1)}), MalformedError
    yield "expired", "put", P.put(records={"expires_s": P.full(P.collected_s)}), MalformedError
    yield "expired", "open", P.open(bytes(20), expires_s=P.full(P.collected_s, 4)), RefusedError
    yield "date beyond five bytes", "open", P.open(bytes(20), expires_s=P.full(2**40, 4)), MalformedError
    yield "past retention", "open", P.open(bytes(20), collected_s=P.full(P.collected_s - 365 * DAY_S, 4)), RefusedError
    yield "unsorted tokens", "index", tokens(token=np.array(P.tokens[::-1], np.uint8)), MalformedError
    yield "a token twice", "index", tokens(token=np.array([P.tokens[0]] * 2, np.uint8)), MalformedError
    yield "another normaliser", "index", tokens(normaliser=P.full(2)), MalformedError
    yield "no tokens", "index", wire.encode("index", bytes(16), {"generation": 1}), MalformedError
    yield "field without index", "index", tokens(field=P.full(1)), GrantError
    yield "field without index in put", "put", P.put(tokens={"field": P.full(1)}), GrantError
    yield "collection without right", "delete", replace_collection(), NotFoundError
    yield "many entries", "log", plain("log", start=0, count=4097), TooLargeError
    many = {c.name: np.zeros((requests.MAX_RECORDS + 1, 16), np.uint8) for c in wire.OPEN_RECORDS[1:]}
    many["collection"] = np.ones(requests.MAX_RECORDS + 1, np.uint16)
    cells = {c.name: np.zeros((3, 24) if c.name == "nonce" else 3, np.uint8) for c in wire.OPEN_CELLS}
    cells["record_row"] = three
    yield (
        "many records",
        "open",
        wire.encode("open", bytes(16), {"epoch": 1}, {"records": many, "cells": cells}),
        TooLargeError,
    )
    yield "unknown operation", "rotate", OPEN, GrantError


def replace_collection():
    body = bytearray(P.delete())
    body[25:27] = (9).to_bytes(2)
    return bytes(body)


@pytest.mark.parametrize(("op", "body", "error"), [pytest.param(*c[1:], id=f"{c[1]} {c[0]}") for c in cases()])
async def test_a_bad_request_is_refused_by_name_and_charges_nothing(rig, op, body, error):
    keeper = rig.keepers["a"]
    with pytest.raises(error) as refused:
        await keeper.handle(op, rig.grant(body, "a"), body)
    assert type(refused.value) is error
    await keeper.log.commit(keeper.log.next - 1)
    last = json.loads(keeper.log.read(keeper.log.size - 1, 1)[0])
    assert (last["op"], last["of"], last["code"]) == ("refused", op, error.code)
    assert not keeper._state.ledger._windows


# --- grants --------------------------------------------------------------------------------------------------------


def part(value):
    return base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).rstrip(b"=").decode()


def forged(rig):
    """Grants that must not pass, by name; the body is `OPEN`."""
    good = rig.claims(OPEN, "a")
    key = rig.keys["alice"]
    head, claims, signature = grants.sign(key, good).split(".")
    yield "for keeper b", rig.grant(OPEN, "b")
    yield "for nodes", grants.sign(key, replace(good, audience=grants.node_audience(VAULT)))
    yield "for another vault", grants.sign(key, replace(good, audience=grants.keeper_audience(bytes(16), "a")))
    yield "expired", grants.sign(key, replace(good, expires_s=START_S))
    yield "too long", grants.sign(key, replace(good, expires_s=START_S + 121))
    yield "another body", grants.sign(key, replace(good, request=hashlib.sha256(b"").digest()))
    yield "unknown principal", grants.sign(rig.keys["eve"], replace(good, issuer="eve"))
    yield "another's key", grants.sign(rig.keys["eve"], good)
    yield "unknown purpose", grants.sign(key, replace(good, purpose="other"))
    yield "purpose of another role", grants.sign(rig.keys["bob"], replace(good, issuer="bob"))
    yield "empty", ""
    yield "not a grant", "x.y.z"
    yield "no signature", f"{head}.{claims}."
    yield "zero signature", f"{head}.{claims}.{base64.urlsafe_b64encode(bytes(64)).rstrip(b'=').decode()}"
    for header in ({"alg": "none", "typ": "anwen-grant-1"}, {"alg": "HS256", "typ": "anwen-grant-1"}, {"alg": "ES256"}):
        signed = f"{part(header)}.{claims}"
        mac = hmac.digest(public_der(key), signed.encode(), "sha256")
        yield header["alg"], f"{signed}.{base64.urlsafe_b64encode(mac + mac).rstrip(b'=').decode()}"
    yield "extra header", f"{part({'alg': 'ES256', 'typ': 'anwen-grant-1', 'jwk': {}})}.{claims}.{signature}"


async def test_no_forged_grant_passes_and_all_are_refused_in_one_wording(rig):
    keeper, said = rig.keepers["a"], set()
    size = keeper.log.next
    for name, grant in forged(rig):
        with pytest.raises(GrantError) as refused:
            await keeper.handle("open", grant, OPEN)
        said.add(str(refused.value))
        if "purpose" not in name:
            assert keeper.log.next == size, f"{name}: requests without a valid grant are not logged"
        size = keeper.log.next
    assert said == {grants.WORDING}


async def test_every_changed_byte_of_a_request_or_its_grant_is_refused(rig):
    body = P.index()
    keeper, grant = rig.keepers["a"], rig.grant(body, "a")
    for i in range(0, len(body), 5):
        changed = body[:i] + bytes([body[i] ^ 1]) + body[i + 1 :]
        with pytest.raises(GrantError):
            await keeper.handle("index", grant, changed)
    for i in range(0, len(grant), 3):
        changed = grant[:i] + ("A" if grant[i] != "A" else "B") + grant[i + 1 :]
        with pytest.raises(GrantError):
            await keeper.handle("index", changed, body)
    await keeper.handle("index", grant, body)
    with pytest.raises(GrantError):
        await keeper.handle("index", grant, body)


async def test_too_many_waiting(rig, monkeypatch):
    monkeypatch.setattr(service, "MAX_WAITING", 0)
    with pytest.raises(OverloadedError) as refused:
        await rig.ask("index", P.index(), ["a"])
    assert refused.value.retry_after_s == 1


async def test_another_collection_needs_its_own_right(rig):
    assert PERSON in rig.policy.purposes["work"].write
    with pytest.raises(GrantError):
        await rig.ask("put", P.put(), ["a"], who="bob", purpose="look")
    with pytest.raises(GrantError):
        await rig.ask("delete", P.delete(), ["a"], who="bob", purpose="look")
    with pytest.raises(GrantError):
        await rig.ask("verify", P.open(bytes(20), op="verify"), ["a"], who="bob", purpose="look")
    with pytest.raises(GrantError):
        await rig.ask("index", P.index(), ["a"], who="bob", purpose="look")
