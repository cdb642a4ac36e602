"""A session over a transport of the test's own: order of nodes, retries within the deadline, probes, close."""

import asyncio
import hashlib
import time
from collections import Counter

import numpy as np
import pytest

import anwen
from anwen import vault_folder
from anwen.client.asking import told_by_most
from anwen.client.session import Session, Timing
from anwen.client.vault import AsyncVault
from anwen.crypto import grants
from anwen.errors import (
    BudgetError,
    DeniedError,
    NotFoundError,
    OverloadedError,
    QuorumError,
    StorageError,
    UnavailableError,
    from_code,
)
from anwen.formats import wire
from anwen.formats.answer import NONCE_BASE_BYTES, SIGNATURE_BYTES, Header, issuer_hash
from anwen.node.answers import encode_outcomes, encode_rows
from anwen.store.base import StoredRow

ROW = StoredRow(1, bytes(16), bytes(16), 1, bytes(16), 0, 0, b"", bytes(20), verified=True)
ROWS = encode_rows(bytes(wire.SALT_BYTES), [], [(ROW, b"", bytes(20))])
OUTCOMES = encode_outcomes(bytes(wire.SALT_BYTES), [], [])


class Wire:
    """Nodes and keepers that do as `says` tells for each recipient: an error, a number of seconds, or neither."""

    def __init__(self):
        self.says, self.calls, self.closed = {}, [], False

    async def call(self, recipient, op, grant, body, timeout_s):
        self.calls.append((recipient, op))
        says = self.says.get(recipient)
        if isinstance(says, list):
            says = says.pop(0) if says else None
        if isinstance(says, Exception):
            raise says
        await asyncio.sleep(says or 0)
        return OUTCOMES if op == "state" else ROWS

    async def close(self):
        self.closed = True

    def asked(self, op="node_get"):
        return Counter(recipient for recipient, o in self.calls if o == op)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    shape = vault_folder.Shape(nodes=("a", "b", "c"))
    return vault_folder.create(tmp_path_factory.mktemp("s") / "v", "police", shape=shape)


@pytest.fixture
def session(folder):
    def make(zone="", **timing):
        key = folder.principal_key("case_worker")
        return Session(folder.policy(), "case_worker", key, Wire(), timing=Timing(**timing), zone=zone)

    return make


async def get(session):
    vault = AsyncVault(session, "casework")
    return await vault.get(["00" * 16])


async def test_nodes_are_asked_in_turn_and_of_a_zone_its_own_first(session):
    spread, near = session(), session("b")
    for _ in range(9):
        await get(spread)
        await get(near)
    assert spread.transport.asked() == {"node/a": 3, "node/b": 3, "node/c": 3}
    assert near.transport.asked() == {"node/b": 9}


async def test_another_zone_serves_while_the_own_node_is_away_and_no_longer_once_it_is_back(session):
    near = session("b")
    near.transport.says["node/b"] = UnavailableError("x")
    for _ in range(4):
        await get(near)
    assert near.transport.asked()["node/b"] == 1
    del near.transport.says["node/b"]
    until = time.monotonic() + 5
    while near.transport.asked()["node/b"] == 1:
        await get(near)
        await asyncio.sleep(0.01)
        assert time.monotonic() < until
    assert near.transport.asked("state")["node/b"] >= 1
    await near.close()


async def test_a_node_that_became_slow_is_done_without_until_it_is_fast_again(session):
    spread = session()
    for _ in range(30):
        await get(spread)
    spread.transport.says["node/a"] = 0.3
    before = spread.transport.asked()["node/a"]
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        await get(spread)
        await asyncio.sleep(0.01)
    assert spread.transport.asked("state")["node/a"] >= 2  # probed
    assert spread.transport.asked()["node/a"] - before <= 3  # and not asked
    del spread.transport.says["node/a"]
    before, until = spread.transport.asked()["node/a"], time.monotonic() + 5
    while spread.transport.asked()["node/a"] == before:
        await get(spread)
        await asyncio.sleep(0.01)
        assert time.monotonic() < until
    await spread.close()


def test_a_zone_that_the_policy_does_not_name_is_refused(folder):
    with pytest.raises(NotFoundError, match="no zone"):
        anwen.connect_async(folder.path, key="case_worker", purpose="casework", zone="x")


@pytest.mark.parametrize(
    "error", [UnavailableError("x"), OverloadedError("x", retry_after_s=0.05), QuorumError("x")], ids=lambda e: e.code
)
async def test_what_may_pass_is_asked_again_until_it_has(session, error):
    patient = session(deadline_s=5.0)
    for node in "abc":
        patient.transport.says[f"node/{node}"] = [error, error]
    assert await get(patient) != [None]


async def test_an_overloaded_node_is_left_alone_for_as_long_as_it_said(session):
    patient = session(deadline_s=5.0)
    for node in "abc":
        patient.transport.says[f"node/{node}"] = [OverloadedError("x", retry_after_s=0.3)]
    begun = time.monotonic()
    await get(patient)
    assert 0.3 <= time.monotonic() - begun < 2
    assert sum(patient.transport.asked().values()) == 4


@pytest.mark.parametrize("error", [BudgetError("spent"), StorageError("full")], ids=lambda e: e.code)
async def test_what_does_not_pass_is_not_asked_again(session, error):
    patient = session(deadline_s=30.0)
    patient.transport.says = {f"node/{n}": error for n in "abc"}
    with pytest.raises(type(error)):
        await get(patient)
    assert max(patient.transport.asked().values()) == 1


async def test_a_call_ends_within_its_deadline_in_the_error_that_stood_in_its_way(session):
    for says, kind in ((UnavailableError("x"), UnavailableError), (60.0, UnavailableError)):
        hasty = session(deadline_s=0.3)
        hasty.transport.says = {f"node/{n}": says for n in "abc"}
        begun = time.monotonic()
        with pytest.raises(kind):
            await get(hasty)
        assert time.monotonic() - begun < 2
        await hasty.close()


async def test_close_ends_what_lingers_and_what_is_tried_again(session):
    closing = session(deadline_s=30.0)
    closing.transport.says = {"node/a": 60.0, "node/b": 60.0}
    for _ in range(3):
        await get(closing)
    await closing.close()
    assert closing.transport.closed
    assert len(asyncio.all_tasks()) == 1


async def test_keepers_that_do_not_suffice_are_asked_again_with_fresh_grants(session):
    patient, grants = session(deadline_s=0.5), set()
    call = patient.transport.call

    async def noting(recipient, op, grant, body, timeout_s):
        grants.add(grant)
        return await call(recipient, op, grant, body, timeout_s)

    patient.transport.call = noting
    patient.transport.says = {f"keeper/{k}": UnavailableError("x") for k in "abc"}
    with pytest.raises(QuorumError):
        await patient.ask_some("open", "casework", np.zeros((1, 16), np.uint8), lambda _rows: b"body")
    asked = patient.transport.asked("open")
    assert min(asked.values()) > 1
    assert len(grants) == sum(asked.values()) + sum(patient.transport.asked("state").values())


class Keepers(Wire):
    """Keepers that sign what they are asked, without components."""

    def __init__(self, policy):
        super().__init__()
        self.policy = policy

    async def call(self, recipient, op, grant, body, timeout_s):
        await super().call(recipient, op, grant, body, timeout_s)
        root = wire.decode(body, op).sent_root("records") if op == "delete" else bytes(32)
        issuer = issuer_hash("records_officer")
        made = Header(
            self.policy.vault, recipient.partition("/")[2], op, issuer, hashlib.sha256(body).digest(), root,
            hashlib.sha256(b"").digest(), 1, 1, 1, grants.parse(grant)[0].expires_s, 0, 0, 0, 0,
        )  # fmt: skip
        return made.encode() + bytes(SIGNATURE_BYTES + NONCE_BASE_BYTES)


@pytest.mark.parametrize(("away", "enough"), [("", True), ("e", True), ("de", False), ("cde", False)])
async def test_a_deletion_waits_for_as_many_keepers_as_leave_no_t_others(tmp_path, away, enough):
    folder = vault_folder.create(tmp_path / "v", "police", shape=vault_folder.Shape(tuple("abcde"), 2))
    transport = Keepers(folder.policy())
    transport.says = {f"keeper/{k}": UnavailableError("x") for k in away}
    key = folder.principal_key("records_officer")
    session = Session(folder.policy(), "records_officer", key, transport, timing=Timing(deadline_s=0.5))
    assert len(await session.ask_all("index", "deletion", b"body")) >= 2
    body = wire.encode("delete", bytes(wire.SALT_BYTES))
    if enough:
        assert len(await session.ask_all("delete", "deletion", body)) >= 4
    else:
        with pytest.raises(QuorumError, match="fewer than 4 keepers"):
            await session.ask_all("delete", "deletion", body)
    await session.close()


def test_of_refusals_the_commonest_is_told_whatever_it_is():
    denied, broken = DeniedError("no"), from_code("error", "internal error")
    assert told_by_most([broken]) is broken
    assert told_by_most([broken, denied]) is denied
    assert told_by_most([UnavailableError("away")]) is None
