"""Whole vaults for targets, in one process: the keepers and node of the other suites, on files in memory."""

import asyncio
import dataclasses
import functools
import hashlib
import itertools
import os
import shutil
from pathlib import Path

import numpy as np
from keeper_rig import PERSON, PLENTY, People, QuickDisk, Rig
from on_files import scratch

from anwen.crypto import grants
from anwen.errors import NotFoundError
from anwen.formats import wire
from anwen.keeper.folder import read_identity
from anwen.model import Collection, DataClass, Field
from anwen.node.service import Node
from anwen.store.sqlite import SqliteStore

LOOP = asyncio.new_event_loop()
CITY, VISIT = 3, 2
MOST_ENTRIES = 20_000
"""Of a keeper's log in memory; then the vault is made anew."""

_names = itertools.count()


def run(work):
    """What a coroutine returns."""
    return LOOP.run_until_complete(work)


class Keepers(Rig):
    """Three keepers of a vault with a field that many share, and a collection that refers to persons."""

    def _policy(self, identities):
        policy = super()._policy(identities)
        person = policy.collections["person"]
        shared = Field(CITY, "city", "address", "contact", index="exact")
        person = dataclasses.replace(person, fields=(*person.fields, shared))
        visit = Collection(
            VISIT,
            "visit",
            "person",
            (DataClass(1, "about"),),
            (Field(1, "note", "text", "about"),),
            365,
            dates="second",
        )
        work = policy.purposes["work"]
        both = frozenset({PERSON, VISIT})
        work = dataclasses.replace(
            work, search=work.search | {(PERSON, CITY)}, open=work.open | {(VISIT, 1), (VISIT, 0x8001)}, write=both,
            delete=both,
        )  # fmt: skip
        collections = {"person": person, "visit": visit}
        return dataclasses.replace(policy, collections=collections, purposes=policy.purposes | {"work": work})


class Vault:
    """Keepers, a node and its store; a transport for clients."""

    def __init__(self):
        self.folder = scratch() / f"vault{next(_names)}"
        self.rig = Keepers(self.folder, limits=dict(PLENTY))
        run(self.rig.start())
        self.policy = self.rig.policy
        self.store = SqliteStore(self.folder / "anwen.sqlite")
        self.node = Node(self.policy, self.store, clock=self.rig.clock)
        self.identities = {k: read_identity(self.rig.path(k)).key for k in self.rig.ids}

    @property
    def full(self):
        """Whether this vault has logged enough."""
        return max(k.log.size for k in self.rig.keepers.values()) > MOST_ENTRIES

    def discard(self):
        """Stop it and remove its files."""
        run(self.rig.close())
        run(self.store.close())
        shutil.rmtree(self.folder)

    async def call(self, recipient, op, grant, body, timeout_s):
        """Carry a client's request, as a transport does."""
        kind, _, name = recipient.partition("/")
        if kind == "node":
            return await self.node.handle(op, grant, body)
        if name not in self.rig.keepers:
            raise NotFoundError(f"no {recipient}")
        return await self.rig.keepers[name].handle(op, grant, body)

    async def close(self):
        """A session ends; the vault goes on."""

    def node_grant(self, body, purpose="work", who="alice"):
        """A good grant for the nodes."""
        claims = grants.Grant(
            who, grants.node_audience(self.policy.vault), int(self.rig.clock()) + 60, os.urandom(16), purpose,
            hashlib.sha256(body).digest(),
        )  # fmt: skip
        return grants.sign(self.rig.keys[who], claims)


def renewing(make):
    """`make` as a function that gives one thing many times, and another once that is `full`."""
    kept = []

    @functools.wraps(make)
    def current():
        if kept and kept[0].full:
            kept.pop().discard()
        if not kept:
            kept.append(make())
        return kept[0]

    return current


def requests_of(rig):
    """One good request of each operation of a keeper, decoded."""
    people, fresh = People(2), People(2)
    base = run(rig.ask("put", people.put()))["a"].nonce_base
    fields = {"collection": np.array([PERSON, PERSON]), "field": np.array([2, CITY])}
    bodies = {
        "put": fresh.put(), "open": people.open(base), "verify": people.open(base, op="verify"),
        "index": people.index(), "delete": People(2).delete(),
        "prehash": wire.encode("prehash", bytes(16), {}, {"fields": fields}),
        "audit": wire.encode("audit", bytes(16), {"subject": people.subject[0].tobytes(), "since_s": 0, "start": 0}),
        "log": wire.encode("log", bytes(16), {"start": 0, "count": 5}), "state": wire.encode("state", bytes(16)),
    }  # fmt: skip
    return {op: wire.decode(body, op) for op, body in bodies.items()}


def files_of(folder):
    """A folder's files by name, with their modes."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mode & 0o777)
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def put_back(folder, files):
    """A folder that holds these files and no others."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, (data, mode) in files.items():
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(mode)


__all__ = ["CITY", "LOOP", "PERSON", "QuickDisk", "Vault", "files_of", "put_back", "renewing", "requests_of", "run"]
