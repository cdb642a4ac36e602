"""Columns and answers of a node: between arrays of messages and the store's values. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anwen.formats import wire
from anwen.model import Policy
from anwen.store.base import NOWHERE, Hit, PutResult, Statistics, StoredRow


def split(column: wire.Array) -> list[bytes]:
    """Return an opaque column, uint8 shape (n, width), as a list."""
    data, width = column.tobytes(), column.shape[1]
    return [data[at : at + width] for at in range(0, len(data), width)]


def stack(values: Sequence[bytes], width: int = 16) -> wire.Array:
    """Return values of one width as an opaque column."""
    return np.frombuffer(b"".join(values), np.uint8).reshape(len(values), width)


def encode_outcomes(salt: bytes, results: Sequence[PutResult], postings: Sequence[int]) -> bytes:
    """Return an `outcomes` message; `postings` is how many each row of the request had."""
    slots = [s for r, n in zip(results, postings, strict=True) for s in (r.slots or (NOWHERE,) * n)]
    tables: dict[str, wire.Table] = {
        "records": {"outcome": np.array([r.outcome for r in results], np.uint8)},
        "postings": {"slot": np.array(slots, np.uint32)},
    }
    return wire.encode("outcomes", salt, tables=tables)


def encode_rows(salt: bytes, hits: Sequence[Hit], rows: Sequence[tuple[StoredRow, bytes, bytes]]) -> bytes:
    """Return a `rows` message; each row comes with the sealed and wraps blobs that may be given away."""
    stored = [row for row, _, _ in rows]
    tables: dict[str, wire.Table] = {
        "hits": {
            "label_row": np.array([h.label_row for h in hits], np.uint32),
            "record": stack([h.record for h in hits]),
            "mac": stack([h.mac for h in hits]),
        },
        "rows": {
            "collection": np.array([r.collection for r in stored], np.uint16),
            "subject": stack([r.subject for r in stored]),
            "record": stack([r.record for r in stored]),
            "version": np.array([r.version for r in stored], np.uint32),
            "tag": stack([r.tag for r in stored]),
            "collected_s": np.array([r.collected_s for r in stored], np.uint64),
            "expires_s": np.array([r.expires_s for r in stored], np.uint64),
            "verified": np.array([r.verified for r in stored], np.uint8),
        },
    }
    blobs = {"sealed": [sealed for _, sealed, _ in rows], "wraps": [wraps for _, _, wraps in rows]}
    return wire.encode("rows", salt, tables=tables, blobs=blobs)


def encode_state(salt: bytes, policy: Policy, time_ms: int, engine: str, found: Statistics) -> bytes:
    """Return a `store_state` message."""
    counts = {name: int(getattr(found, name)) for name in wire.STORE_COUNTS}
    settings = [f"{name}={value}".encode() for name, value in sorted(found.settings.items())]
    settings += [] if found.complete else [wire.AT_LEAST.encode()]
    scalars: dict[str, int | bytes] = {"policy_version": policy.version, "time_ms": time_ms, **counts}
    return wire.encode("store_state", salt, scalars, {}, {"engine": [engine.encode()], "settings": settings})
