"""Real keepers with real files, wired to each other by calls; only time, disk and network are the tests' own."""

import asyncio
import base64
import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from anwen.crypto import dprf, grants
from anwen.errors import UnavailableError
from anwen.formats import answer, policy_chain, wire
from anwen.keeper.folder import Disk, make_identity
from anwen.keeper.service import Keeper
from anwen.keeper.side import Block, Kind, subject_digest
from anwen.model import (
    SERIES,
    Budget,
    Collection,
    Counter,
    DataClass,
    Field,
    KeeperInfo,
    NodeInfo,
    Officer,
    Policy,
    Principal,
    Purpose,
    Role,
)  # fmt: skip
from anwen.supervisor import run_ceremony

VAULT = bytes(range(16))
START_S = 1_700_000_000
DAY_S = 86_400
PERSON = 1
NAME_CLASS, NAME_MASK, INDEX = 1, 0x8001, 0x7FFF
PHONE = 2


def public_der(key):
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


class Clock:
    def __init__(self, now_s=START_S):
        self.now_s = now_s

    def __call__(self):
        return self.now_s


class Crash(BaseException):
    """The machine stops here."""


class QuickDisk(Disk):
    """Real files, not waited for: no test here can see the difference; `CutDisk` and the processes do sync."""

    def sync(self, fd):
        pass

    def sync_folder(self, folder):
        pass


class CutDisk(Disk):
    """Stops the machine before or after the n-th durable step; -1 never."""

    def __init__(self, cut_at=-1, *, after=False, error=None):
        self.cut_at, self.after, self.error = cut_at, after, error
        self.steps = 0
        self.names = []

    def _step(self, name, act):
        self.names.append(name)
        mine = self.steps
        self.steps += 1
        if self.cut_at >= 0 and mine > self.cut_at and self.error is None:
            raise Crash
        if mine != self.cut_at or self.after:
            act()
        if mine == self.cut_at:
            raise self.error or Crash

    def write(self, fd, data):
        self._step("write", lambda: super(CutDisk, self).write(fd, data))

    def sync(self, fd):
        self._step("sync", lambda: super(CutDisk, self).sync(fd))

    def sync_folder(self, folder):
        self._step("sync_folder", lambda: super(CutDisk, self).sync_folder(folder))

    def rename(self, source, target):
        self._step("rename", lambda: super(CutDisk, self).rename(source, target))


def budgets(**limits):
    return {Counter(name): Budget(n, n) for name, n in limits.items()}


PLENTY = {counter: Budget(10**9, 10**9) for counter in Counter}


@dataclass
class Rig:
    folder: Path
    count: int = 3
    threshold: int = 2
    limits: dict = field(default_factory=lambda: dict(PLENTY))
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self):
        self.keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("alice", "bob", "eve", "officer")}
        self.ids = [chr(ord("a") + i) for i in range(self.count)]
        self.disks = {i: QuickDisk() for i in self.ids}
        self.clocks = dict.fromkeys(self.ids, self.clock)  # on the wall: whoever sets one leaves the time as it is
        self.boots = dict.fromkeys(self.ids, self.clock)
        self.keepers, self.down, self.spy = {}, set(), []
        identities = {}
        for i in self.ids:
            self.path(i).mkdir(parents=True)
            identities[i] = make_identity(self.path(i))
            (self.path(i) / "policy").mkdir()
            (self.path(i) / "keeper.json").write_text(json.dumps({"id": i}))
        self.begin_with(self._policy(identities))

    def begin_with(self, policy):
        """Make this the first policy of all; before `start`."""
        self.policy, self.signed = policy, self.sign(policy)
        for i in self.ids:
            (self.path(i) / "policy" / "0001.json").write_bytes(self.signed)
            root = {"vault": VAULT.hex(), "root": policy_chain.digest(policy).hex()}
            (self.path(i) / "root.json").write_text(json.dumps(root))

    def path(self, keeper):
        return self.folder / keeper

    def _policy(self, identities):
        classes = (DataClass(1, "name"), DataClass(2, "contact"))
        fields = (
            Field(1, "name", "name", "name", mask="last4"),
            Field(PHONE, "phone", "phone", "contact", index="unique", region="CN"),
        )
        everything = frozenset((PERSON, c) for c in (1, 2, 0x8001, 0x8002))
        full = Purpose(
            "work", "test", everything, frozenset({(PERSON, PHONE)}), frozenset({PERSON}), frozenset({PERSON}), True
        )
        look = Purpose("look", "test", frozenset({(PERSON, NAME_MASK)}), frozenset(), frozenset(), frozenset())
        return Policy(
            vault=VAULT, name="test", version=1, previous=bytes(32), expires_s=START_S + 90 * DAY_S - (START_S % DAY_S),
            threshold=self.threshold, quorum=1, single_machine=True, engine="sqlite",
            officers={"officer": Officer("officer", "O", public_der(self.keys["officer"]))},
            keepers={
                i: KeeperInfo(i, f"z{i}", f"localhost:{7000 + n}", f"localhost:{7100 + n}", bytes([n]) * 32, identities[i])
                for n, i in enumerate(self.ids)
            },
            nodes={"a": NodeInfo("a", "za", "localhost:7300", bytes(32))},
            collections={"person": Collection(PERSON, "person", "own", classes, fields, 365)},
            purposes={"work": full, "look": look},
            roles={
                "worker": Role("worker", frozenset({"work", "look"}), self.limits),
                "viewer": Role("viewer", frozenset({"look"}), self.limits),
            },
            principals={
                "alice": Principal("alice", "worker", public_der(self.keys["alice"])),
                "bob": Principal("bob", "viewer", public_der(self.keys["bob"])),
            },
        )  # fmt: skip

    def sign(self, policy):
        signature = policy_chain.sign(policy, "officer", self.keys["officer"])
        return policy_chain.encode_signed(policy_chain.SignedPolicy(policy, {"officer": signature}))

    def next_policy(self, **changes):
        return replace(self.policy, version=2, previous=policy_chain.digest(self.policy), **changes)

    # --- keepers ---------------------------------------------------------------------------------------------------

    def call(self, keeper):
        async def peer(op, body):
            self.spy.append((keeper, op, body))
            if keeper in self.down or keeper not in self.keepers:
                raise UnavailableError(f"keeper {keeper} is down")
            return await self.keepers[keeper].handle_peer(op, body)

        return peer

    def open(self, keeper):
        peers = {i: self.call(i) for i in self.ids if i != keeper}
        self.keepers[keeper] = Keeper.open(
            self.path(keeper), clock=self.clocks[keeper], boot=self.boots[keeper], peers=peers, disk=self.disks[keeper]
        )
        return self.keepers[keeper]

    async def start(self, *, ceremonies=SERIES):
        for i in self.ids:
            self.open(i)
        for i in self.ids:
            await self.keepers[i].start()
        for series in ceremonies:
            await self.ceremony(series)
        return self

    async def ceremony(self, series="record", number=1):
        await run_ceremony(series, number, {i: self.call(i) for i in self.ids})

    async def restart(self, keeper):
        await self.keepers[keeper].close()
        self.open(keeper)
        await self.keepers[keeper].start()

    async def close(self):
        for keeper in self.keepers.values():
            await keeper.close()

    def append_about(self, op, people, **about):
        """Write what no operation writes yet, an erasure or a restriction, into every keeper's log; then `settle`."""
        digest = subject_digest(people.subject[0].tobytes())
        for keeper in self.keepers.values():
            keeper._append(op, about, [Block.of(Kind.SUBJECT, 0, digest)])

    async def settle(self):
        for keeper in self.keepers.values():
            await keeper.log.commit(keeper.log.next - 1)

    # --- clients ---------------------------------------------------------------------------------------------------

    def claims(self, body, keeper, *, who="alice", purpose="work", jti=None, life_s=60):
        return grants.Grant(
            who, grants.keeper_audience(VAULT, keeper), int(self.clock()) + life_s, jti or os.urandom(16), purpose,
            hashlib.sha256(body).digest(),
        )  # fmt: skip

    def grant(self, body, keeper, **kw):
        claims = self.claims(body, keeper, **kw)
        return grants.sign(self.keys[claims.issuer], claims)

    async def ask(self, op, body, keepers=None, **kw):
        """Return decoded answers by keeper; one grant for each, siblings."""
        kw.setdefault("jti", os.urandom(16))
        chosen = keepers or self.ids
        found = await asyncio.gather(*(self.keepers[k].handle(op, self.grant(body, k, **kw), body) for k in chosen))
        return dict(zip(chosen, map(answer.decode_answer, found), strict=True))

    def value(self, answers):
        """Return F for each row from any t answers, and check that doubly answered components agree."""
        parts = {}
        for keeper, a in answers.items():
            answer.verify_receipt(a.receipt, self.policy.keepers[keeper].identity)
            for key_set, column in zip(dprf.held_by(keeper, self.ids, self.threshold), a.components, strict=True):
                assert parts.setdefault(key_set, column.tobytes()) == column.tobytes()
        shape = next(iter(answers.values())).components.shape[1:]
        columns = [np.frombuffer(parts[s], np.uint8).reshape(shape) for s in dprf.key_sets(self.ids, self.threshold)]
        return dprf.combine(columns)


def rand(*shape):
    return np.frombuffer(os.urandom(int(np.prod(shape))), np.uint8).reshape(shape)


@dataclass
class People:
    """Rows to put and open: `count` persons, one record each, class name and its rendition."""

    count: int = 1
    classes: tuple = (NAME_CLASS, NAME_MASK)
    version: int = 1
    collected_s: int = START_S - START_S % DAY_S
    expires_s: int = 0

    def __post_init__(self):
        self.subject, self.record, self.tag = rand(self.count, 16), rand(self.count, 16), rand(self.count, 16)
        self.tokens = sorted(rand(self.count, 32).tolist())

    def full(self, value, rows=None):
        return np.full(self.count if rows is None else rows, value, np.uint64)

    @property
    def cell_rows(self):
        return np.repeat(np.arange(self.count, dtype=np.uint32), len(self.classes))

    def tokens_table(self):
        return {
            "collection": self.full(PERSON), "field": self.full(PHONE), "normaliser": self.full(1),
            "token": np.array(self.tokens, np.uint8),
        }  # fmt: skip

    def put(self, *, with_tokens=True, epoch=1, generation=1, **changes):
        cells = len(self.classes) * self.count
        records = {
            "collection": self.full(PERSON), "subject": self.subject, "record": self.record,
            "version": self.full(self.version), "tag": self.tag, "collected_s": self.full(self.collected_s),
            "expires_s": self.full(self.expires_s),
        }  # fmt: skip
        self.cells = {
            "record_row": self.cell_rows, "class": np.tile(np.array(self.classes), self.count),
            "commitment": rand(cells, 32),
        }  # fmt: skip
        tables = {"records": records, "cells": self.cells} | ({"tokens": self.tokens_table()} if with_tokens else {})
        for name, table in changes.items():
            tables[name] = tables[name] | table
        self.records = tables["records"]
        return wire.encode("put", os.urandom(16), {"epoch": epoch, "generation": generation}, tables)

    def open(self, nonce_base, *, classes=None, op="open", epoch=1, **changes):
        classes = classes or self.classes
        chosen = np.isin(np.tile(np.array(self.classes), self.count), classes)
        nonces = np.hstack([
            np.tile(np.frombuffer(nonce_base, np.uint8), (len(chosen), 1)),
            np.arange(len(chosen), dtype=">u4").view(np.uint8).reshape(-1, 4),
        ])  # fmt: skip
        n = int(chosen.sum())
        cells = {
            "record_row": self.cell_rows[chosen], "class": np.tile(np.array(self.classes), self.count)[chosen],
            "version": self.full(self.version, n), "collected_s": self.full(self.collected_s, n),
            "expires_s": self.full(self.expires_s, n), "nonce": nonces[chosen],
        } | changes  # fmt: skip
        records = {"collection": self.full(PERSON), "subject": self.subject, "record": self.record}
        return wire.encode(op, os.urandom(16), {"epoch": epoch}, {"records": records, "cells": cells})

    def delete(self):
        records = {
            "collection": self.full(PERSON),
            "subject": self.subject,
            "record": self.record,
            "version": self.full(self.version),
        }
        return wire.encode("delete", os.urandom(16), {}, {"records": records})

    def index(self, **changes):
        return wire.encode("index", os.urandom(16), {"generation": 1}, {"tokens": self.tokens_table() | changes})


def plain(op, **scalars):
    return wire.encode(op, os.urandom(16), scalars)


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
