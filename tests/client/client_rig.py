"""An embedded vault with a node in each zone, and liars between it and its clients.

Keepers, nodes and store are the real ones. A lie changes a real answer on its way; a keeper's is signed anew with the
keeper's own key, as a keeper that lies would.
"""

import asyncio
import dataclasses
import re
import sqlite3
from collections import Counter

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from anwen import vault_folder
from anwen.client.session import Session, Timing
from anwen.client.sync import Loop, Vault
from anwen.client.vault import AsyncVault
from anwen.embedded import EmbeddedTransport
from anwen.formats import wire
from anwen.formats.answer import column_hashes, decode_answer, encode_answer

PATIENT = Timing(deadline_s=8.0, grace_s=2.0, least_s=2.0, most_s=2.0)
"""On a busy machine a keeper may be late, and whoever is not asked is not caught."""


def id_number(first17):
    """GB 11643: the check digit of an identity number."""
    weights = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2]
    return first17 + "10X98765432"[sum(int(d) * w for d, w in zip(first17, weights, strict=True)) % 11]


def person(i, **changes):
    """A made-up resident; different numbers are different people."""
    return {
        "id_number": id_number(f"110101{1950 + i // 1000 % 70}{1 + i // 70_000 % 12:02}01{i % 1000:03}"),
        "name": f"Person {chr(65 + i % 26)}{chr(97 + i // 26 % 26)}",
        "phone": f"+86138{i:08}",
        **changes,
    }


class Between:
    """Carries requests to the embedded vault. `lies`: (recipient, op) -> error, or function of (answer, body)."""

    def __init__(self, rig):
        self.rig, self.calls, self.lies = rig, [], {}

    async def call(self, recipient, op, grant, body, timeout_s):
        self.calls.append((recipient, op, body))
        lie = self.lies.get((recipient, op))
        if isinstance(lie, Exception):
            raise lie
        answer = await self.rig.inner.call(recipient, op, grant, body, timeout_s)
        if lie is not None:
            answer = lie(answer, body)
            if asyncio.iscoroutine(answer):
                answer = await answer
        return answer

    async def close(self):
        """The vault goes on for other clients."""

    def asked(self, *ops):
        """How often each recipient was asked for these operations."""
        return Counter(recipient for recipient, op, _ in self.calls if op in ops)


class ClientRig:
    """The vault, and connections to it that share nothing else."""

    def __init__(self, path):
        text = re.sub(
            r"per_hour = [\d_]+, per_day = [\d_]+",
            "per_hour = 4_000_000, per_day = 4_000_000",
            vault_folder.template("police"),
        )
        self.folder = vault_folder.create(path, text, shape=vault_folder.Shape(nodes=("a", "b", "c")))
        self.policy = self.folder.policy()
        self.loop, self.clients = Loop(), []
        self.inner = self.loop.run(EmbeddedTransport.start(self.folder))
        secrets = {k: (path / "keepers" / k / "identity.key").read_bytes() for k in self.policy.keepers}
        self.keys = {k: Ed25519PrivateKey.from_private_bytes(s) for k, s in secrets.items()}

    def session(self, key, *, timing=PATIENT, policy=None, **kw):
        return Session(policy or self.policy, key, self.folder.principal_key(key), Between(self), timing=timing, **kw)

    def connect(self, key, purpose, *, lies=None, **kw):
        client = Vault(AsyncVault(self.session(key, **kw), purpose), self.loop)
        client.session.transport.lies = lies or {}
        self.clients.append(client)
        return client

    def is_verified(self, record):
        """Whether a record's newest row is marked as checked."""
        with sqlite3.connect(f"file:{self.folder.path}/store/anwen.sqlite?mode=ro", uri=True) as db:
            rows = db.execute("SELECT verified FROM row WHERE record = ? ORDER BY version", (bytes.fromhex(record),))
            return bool(rows.fetchall()[-1][0])

    def end_clients(self):
        for client in self.clients:
            self.loop.run(client.asynchronous.close())
        self.clients.clear()

    def close(self):
        self.loop.run(self.inner.close())
        self.loop.close()

    # --- lies ------------------------------------------------------------------------------------------------------

    def header(self, keeper, /, **changes):
        """Change members of a keeper's signed header; a member may be given as a function of the true one."""

        def lie(answer, _body):
            true = decode_answer(answer)
            new = {n: v(getattr(true.header, n)) if callable(v) else v for n, v in changes.items()}
            header = dataclasses.replace(true.header, **new)
            signed = header.encode()
            return signed + self.keys[keeper].sign(signed) + answer[len(true.receipt) :]

        return lie

    def components(self, keeper, columns=(0, 1)):
        """Change component columns."""

        def lie(answer, _body):
            true = decode_answer(answer)
            components = true.components.copy()
            components[list(columns)] ^= 1
            header = dataclasses.replace(true.header, components=column_hashes(components))
            return encode_answer(header, self.keys[keeper], true.nonce_base, components)

        return lie


def late(seconds, lie=None):
    """Answer only after some seconds."""

    async def wait(answer, body):
        await asyncio.sleep(seconds)
        return lie(answer, body) if lie else answer

    return wait


def edited(kind, change):
    """Change a node's, or an auditor's, decoded answer: `change` gets scalars, tables and blobs, which it may edit."""

    def lie(answer, _body):
        message = wire.decode(answer, kind)
        tables = {n: {c: np.array(v) for c, v in table.items()} for n, table in message.tables.items()}
        scalars, blobs = dict(message.scalars), {n: list(b) for n, b in message.blobs.items()}
        change(scalars, tables, blobs)
        return wire.encode(kind, message.salt, scalars, tables, blobs)

    return lie


def nothing(scalars, tables, blobs):
    """Withhold every row of a `rows` answer."""
    for name, table in tables.items():
        tables[name] = {c: v[:0] for c, v in table.items()}
    for name in blobs:
        blobs[name] = []
