"""A node over a real SQLite store; keepers are the keys they sign receipts with, clients are columns and grants."""

import dataclasses
import hashlib
import os
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import vault_texts
from anwen.crypto import grants
from anwen.formats import wire
from anwen.formats.answer import RECEIPT_BYTES, Header, encode_answer, issuer_hash
from anwen.formats.envelope import commitment, row_tag
from anwen.model import INDEX_CLASS, RENDITION

NOW_S = 1_750_000_000
PERSON, INCIDENT = 1, 2
IDENTITY, CONTACT = 1, 2
PERSON_CLASSES = (1, 2, INDEX_CLASS, 1 | RENDITION, 2 | RENDITION)
CONTACT_CLASSES = (2, INDEX_CLASS, 2 | RENDITION)
KEEPER_KEYS = {
    k: Ed25519PrivateKey.from_private_bytes(k.encode().ljust(32, b"\1")) for k in vault_texts.policy().keepers
}
ROLES = {"intake": "importer", "registration": "importer", "casework": "case_worker", "overview": "case_worker",
         "statistics": "analyst", "deletion": "records_officer", "rectification": "records_officer",
         "oversight": "dpo"}  # fmt: skip


def make_policy():
    policy = vault_texts.policy()
    keepers = {
        k: dataclasses.replace(info, identity=KEEPER_KEYS[k].public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
        for k, info in policy.keepers.items()
    }
    return dataclasses.replace(policy, keepers=keepers)


POLICY = make_policy()


def grant(body, purpose="intake", *, principal=None, **claims):
    principal = principal or ROLES[purpose]
    made = {
        "issuer": principal,
        "audience": grants.node_audience(POLICY.vault),
        "expires_s": NOW_S + 60,
        "jti": os.urandom(16),
        "purpose": purpose,
        "request": hashlib.sha256(body).digest(),
    } | claims
    return grants.sign(vault_texts.private_key(f"principal {principal}"), grants.Grant(**made))


def envelope(body=b""):
    return b"\1" + os.urandom(44) + (body or os.urandom(128 + 16))


def receipt(keeper, op, root, *, principal="importer", key=None, **changes):
    values = {
        "vault": POLICY.vault, "keeper": keeper, "op": op, "issuer": issuer_hash(principal), "request": bytes(32),
        "root": root, "components": hashlib.sha256(b"").digest(), "policy_version": POLICY.version, "epoch": 1,
        "generation": 1, "expires_s": NOW_S, "time_ms": NOW_S * 1000, "entry": 1, "rows": 0, "columns": 0,
    } | changes  # fmt: skip
    signed = encode_answer(Header(**values), key or KEEPER_KEYS[keeper], b"", np.zeros((0, 0, 32), np.uint8))
    return signed[:RECEIPT_BYTES]


def stack(values, width=16):
    return np.frombuffer(b"".join(values), np.uint8).reshape(len(values), width)


@dataclass
class Row:
    classes: tuple = PERSON_CLASSES
    version: int = 1
    collection: int = PERSON
    record: bytes = field(default_factory=lambda: os.urandom(16))
    subject: bytes = field(default_factory=lambda: os.urandom(16))
    postings: list = field(default_factory=list)  # (class, unique, labels)
    envelopes: list = None

    def __post_init__(self):
        self.envelopes = self.envelopes or [envelope() for _ in self.classes]

    @property
    def tag(self):
        return row_tag(self.classes, [commitment(e) for e in self.envelopes])


class Put:
    """A put whose parts a test may change before it is encoded. Receipts follow the tables unless a test says so."""

    def __init__(self, *rows):
        cells = [(i, c, e) for i, r in enumerate(rows) for c, e in zip(r.classes, r.envelopes, strict=True)]
        posts = [(i, *p) for i, r in enumerate(rows) for p in r.postings]
        self.scalars = {"epoch": 1, "generation": 1, "nonce_base": os.urandom(20), "verified": 1}
        self.tables = {
            "records": {
                "collection": np.array([r.collection for r in rows]),
                "subject": stack([r.subject for r in rows]),
                "record": stack([r.record for r in rows]),
                "version": np.array([r.version for r in rows]),
                "tag": stack([r.tag for r in rows]),
                "collected_s": np.array([NOW_S - 86_400 for _ in rows]),
                "expires_s": np.array([0 for _ in rows]),
            },
            "cells": {
                "record_row": np.array([i for i, _, _ in cells]),
                "class": np.array([c for _, c, _ in cells]),
                "commitment": stack([commitment(e) for _, _, e in cells], 32),
            },
            "wraps": {"wrap": stack([os.urandom(32) for _ in cells], 32)},
            "postings": {
                "record_row": np.array([i for i, *_ in posts], int),
                "class": np.array([c for _, c, _, _ in posts], int),
                "unique": np.array([u for _, _, u, _ in posts], int),
                "labels": np.array([len(la) for *_, la in posts], int),
                "mac": stack([b"m" * 16 for _ in posts]),
            },
            "labels": {"label": stack([la for *_, labels in posts for la in labels])},
        }
        self.envelopes = [e for *_, e in cells]
        self.receipts = None

    def root(self):
        return wire.put_root(self.tables["records"], self.tables["cells"])

    def encode(self):
        receipts = self.receipts
        if receipts is None:
            receipts = [receipt(k, "put", self.root()) for k in list(KEEPER_KEYS)[:2]]
        blobs = {"envelopes": self.envelopes, "receipts": receipts}
        return wire.encode("node_put", os.urandom(16), self.scalars, self.tables, blobs)


def find(labels, classes=()):
    tables = {"labels": {"label": stack(labels)}, "classes": {"class": np.array(classes, int)}}
    return wire.encode("node_find", os.urandom(16), tables=tables)


def get(records, classes=()):
    tables = {"records": {"record": stack(records)}, "classes": {"class": np.array(classes, int)}}
    return wire.encode("node_get", os.urandom(16), tables=tables)


def listing(collection=PERSON, subjects=(), after=bytes(16), limit=100, classes=()):
    scalars = {"collection": collection, "after": after, "limit": limit}
    tables = {"subjects": {"subject": stack(subjects)}, "classes": {"class": np.array(classes, int)}}
    return wire.encode("node_list", os.urandom(16), scalars, tables)


def deletion(*rows, receipts=None, **changes):
    table = {
        "collection": np.array([r.collection for r in rows]),
        "subject": stack([r.subject for r in rows]),
        "record": stack([r.record for r in rows]),
        "version": np.array([r.version for r in rows]),
    } | changes
    if receipts is None:
        root = wire.delete_root(table)
        receipts = [receipt(k, "delete", root, principal="records_officer") for k in list(KEEPER_KEYS)[:2]]
    return wire.encode("node_delete", os.urandom(16), tables={"records": table}, blobs={"receipts": receipts})
