"""Requests to a keeper alone, ready to send, and what the right answers to them are.

Keepers know no records, so random ids do: every row is charged, logged and evaluated as a real one.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFCMAC, CounterLocation, Mode

from anwen.crypto import grants, prf_input
from anwen.formats import wire
from anwen.formats.answer import decode_answer
from anwen.model import INDEX_CLASS, RENDITION

PERSON, PURPOSE, PRINCIPAL = 1, "work", "worker"
CLASSES = (1, 2, INDEX_CLASS, 1 | RENDITION, 2 | RENDITION)
FIELDS = (1, 2, 5)
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Request:
    """One request, signed for one keeper."""

    op: str
    grant: str
    body: bytes
    rows: int


def _opaque(rows: int, width: int) -> np.ndarray:
    return np.frombuffer(os.urandom(rows * width), np.uint8).reshape(rows, width)


def _today() -> int:
    return int(time.time()) // DAY_S * DAY_S


def seal(rows: int) -> tuple[str, bytes]:
    """Return a `put` of `rows` people with one class each."""
    return "put", _put(rows, (1,), 0)


def mix(rows: int) -> tuple[str, bytes]:
    """Return a `put` of rows // 8 people as an import sends them: five cells and three tokens each."""
    return "put", _put(max(1, rows // 8), CLASSES, 3)


def _put(people: int, classes: Sequence[int], tokens: int) -> bytes:
    cells = people * len(classes)
    records = {
        "collection": np.full(people, PERSON),
        "subject": _opaque(people, 16),
        "record": _opaque(people, 16),
        "version": np.ones(people, np.int64),
        "tag": _opaque(people, 16),
        "collected_s": np.full(people, _today()),
        "expires_s": np.zeros(people, np.int64),
    }
    columns = {
        "record_row": np.repeat(np.arange(people), len(classes)),
        "class": np.tile(np.array(classes), people),
        "commitment": _opaque(cells, 32),
    }
    count = people * tokens
    values = sorted((f, os.urandom(32)) for f in FIELDS for _ in range(count // len(FIELDS)))
    table = {
        "collection": np.full(count, PERSON),
        "field": np.array([f for f, _ in values], np.int64),
        "normaliser": np.ones(count, np.int64),
        "token": np.frombuffer(b"".join(t for _, t in values), np.uint8).reshape(count, 32),
    }
    scalars = {"epoch": 1, "generation": 1}
    return wire.encode("put", os.urandom(16), scalars, {"records": records, "cells": columns, "tokens": table})


def open_(rows: int, subjects: np.ndarray | None = None) -> tuple[str, bytes]:
    """Return an `open` of one cell of each of `rows` people, new ones unless given."""
    records = {
        "collection": np.full(rows, PERSON),
        "subject": _opaque(rows, 16) if subjects is None else subjects,
        "record": _opaque(rows, 16),
    }
    cells = {
        "record_row": np.arange(rows),
        "class": np.ones(rows, np.int64),
        "version": np.ones(rows, np.int64),
        "collected_s": np.full(rows, _today()),
        "expires_s": np.zeros(rows, np.int64),
        "nonce": _opaque(rows, 24),
    }
    return "open", wire.encode("open", os.urandom(16), {"epoch": 1}, {"records": records, "cells": cells})


def sign(key: EllipticCurvePrivateKey, vault: bytes, keeper: str, request: tuple[str, bytes], rows: int) -> Request:
    """Return a request with a grant of its own for one keeper."""
    op, body = request
    expires_s, digest = int(time.time()) + 100, hashlib.sha256(body).digest()
    audience = grants.keeper_audience(vault, keeper)
    grant = grants.Grant(PRINCIPAL, audience, expires_s, os.urandom(16), PURPOSE, digest)
    return Request(op, grants.sign(key, grant), body, rows)


def oracle(secret: bytes, inputs: np.ndarray) -> np.ndarray:
    """Return the PRF of every row by another implementation: the CMAC-based KDF of `cryptography`."""
    out = []
    for row in inputs:
        kdf = KBKDFCMAC(
            AES256, Mode.CounterMode, 32, 1, None, CounterLocation.BeforeFixed, None, None, row.tobytes()
        )  # fmt: skip
        out.append(kdf.derive(secret))
    return np.frombuffer(b"".join(out), np.uint8).reshape(len(inputs), 32)


def is_right(request: Request, answered: bytes, secrets: dict[str, list[bytes]]) -> bool:
    """Return whether every component of an answer of keeper a is what the oracle says. `secrets`: by series."""
    answer, (mask,) = decode_answer(answered), secrets["mask"]
    for i in range(answer.header.columns):
        expected = [
            oracle(secrets[series][i], inputs) ^ _pads(mask, request, inputs)[i]
            for series, inputs in _inputs(request, answer.nonce_base)
        ]
        if not np.array_equal(np.concatenate(expected), answer.components[i]):
            return False
    return answer.header.columns == len(secrets["record"])


def _pads(mask: bytes, request: Request, inputs: np.ndarray) -> list[np.ndarray]:
    """Return the pads over the components of key sets b and c, of 2 of 3 (docs/spec/prf.md)."""
    grant, of = grants.parse(request.grant)[0], []
    for member in ("a", "b"):
        parts = [b"anwen-pad-1", grant.issuer.encode(), grant.expires_s.to_bytes(8), member.encode()]
        text = len(parts).to_bytes(4) + b"".join(len(part).to_bytes(4) + part for part in parts)
        about = np.frombuffer(hashlib.sha256(text).digest()[:31], np.uint8)
        of.append(oracle(oracle(mask, about[None, :]).tobytes(), inputs))
    return [of[1], of[0] ^ of[1]]


def _inputs(request: Request, base: bytes) -> list[tuple[str, np.ndarray]]:
    message = wire.decode(request.body, request.op)
    records, cells = message.tables["records"], message.tables["cells"]
    rows = cells["record_row"].astype(int)
    put = request.op == "put"
    dates = records if put else cells
    version = records["version"][rows] if put else cells["version"]
    collected, expires = (dates[n][rows] if put else dates[n] for n in ("collected_s", "expires_s"))
    nonce = prf_input.nonces(base, len(rows)) if put else cells["nonce"]
    found = prf_input.record_inputs(
        records["collection"][rows], cells["class"], version, 1, collected, expires,
        records["subject"][rows], records["record"][rows], nonce,
    )  # fmt: skip
    out = [("record", found)]
    if put and wire.rows_in(message.tables["tokens"]):
        t = message.tables["tokens"]
        out.append(("index", prf_input.index_inputs(t["collection"], t["field"], t["normaliser"], 1, t["token"])))
    return out
