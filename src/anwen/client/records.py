"""Sealed records as a client holds them between a find and an open."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from anwen.client.rows import Cell
from anwen.errors import MalformedError, ProofError
from anwen.formats import wire
from anwen.formats.envelope import split_cells, split_wraps
from anwen.model import Collection, Policy

NEAR = 6
"""Bytes at the beginning of a record id that rows of one put share."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record that was found: ids in hex, cells still sealed."""

    collection: str
    id: str
    subject: str
    version: int
    cells: dict[int, Cell] = field(repr=False)
    searched: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)  # what an opened class must then hold


def records_of(policy: Policy, message: wire.Message) -> dict[bytes, Record]:
    """Return the records in a node's answer, by id, each class at its highest version.

    Raises:
        ProofError: rows of one record disagree about whom or what they are, or have numbers that no node stores.
        MalformedError: junk in a row.
    """
    rows = message.tables["rows"]
    found: dict[bytes, Record] = {}
    sealed, wraps = message.blobs["sealed"], message.blobs["wraps"]
    if not len(sealed) == len(wraps) == wire.rows_in(rows):
        raise ProofError("node: rows and blobs differ in number")
    if not rows["version"].all() or (np.maximum(rows["collected_s"], rows["expires_s"]) >= wire.MOST_SECONDS).any():
        raise ProofError("node: a row of version 0, or with a date that no row has")
    for i in range(wire.rows_in(rows)):
        collection = policy.collection_by_id.get(int(rows["collection"][i]))
        if collection is None:
            raise ProofError(f"node: a record of unknown collection {int(rows['collection'][i])}")
        _add(found, collection, rows, i, (sealed[i], wraps[i]))
    return found


def _add(
    found: dict[bytes, Record], collection: Collection, rows: wire.Table, i: int, sealed: tuple[bytes, bytes]
) -> None:
    envelopes, wraps = split_cells(sealed[0]), split_wraps(sealed[1])
    record, subject, version = rows["record"][i].tobytes(), rows["subject"][i].tobytes(), int(rows["version"][i])
    known = found.get(record)
    if known is not None and (known.collection, known.subject) != (collection.name, subject.hex()):
        raise ProofError(f"record {record.hex()}: its rows name different collections or subjects")
    cells = known.cells if known else {}
    for class_id, envelope in envelopes.items():
        if class_id in cells and cells[class_id].version > version:
            continue
        if class_id not in wraps:
            continue  # its wrap is of another epoch, or gone: this class does not open
        nonce, wrap = wraps[class_id]
        collected_s, expires_s = int(rows["collected_s"][i]), int(rows["expires_s"][i])
        cells[class_id] = Cell(
            collection, subject, record, class_id, version, collected_s, expires_s, envelope, nonce, wrap
        )
    top = max(version, known.version if known else 0)
    found[record] = Record(collection.name, record.hex(), subject.hex(), top, cells)


def ids_of(key: bytes) -> tuple[bytes, bytes]:
    """Return the ids of a record, and of a person of its own, that an idempotency key makes: either tells of neither.

    Keys that begin alike make records that do, which lie near each other in a store.
    """
    digest = hashlib.sha256(b"anwen-put-1" + key).digest()
    return hashlib.sha256(b"anwen-near-1" + key[:NEAR]).digest()[:NEAR] + digest[NEAR:16], digest[16:]


def handle_of(value: object) -> bytes:
    """Return an id or handle. Raises MalformedError."""
    try:
        handle = bytes.fromhex(str(value))
    except ValueError:
        handle = b""
    if len(handle) != 16:
        raise MalformedError("an id or handle is 32 hexadecimal digits")
    return handle
