"""A row's sealed cells and wraps, as stores keep them: one blob of each (docs/spec/envelope.md).

Cells are ``(class u2 | length u4 | envelope)*``; wraps are ``nonce base 20 | (class u2 | row u4 | wrap 32)*``; both in
strictly ascending class order, so that one row has one encoding.

Pure.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import struct
from collections.abc import Iterable, Sequence

from anwen.crypto.padding import COMMITMENT_BYTES, HEADER_BYTES, OVERHEAD_BYTES, SUITE, is_padded_length
from anwen.errors import MalformedError

NONCE_BASE_BYTES = 20
WRAP_BYTES = 32
TAG_BYTES = 16

_CELL = struct.Struct(">HI")
_WRAP = struct.Struct(f">HI{WRAP_BYTES}s")


def _ascending(class_ids: Iterable[int]) -> bool:
    ids = list(class_ids)
    return all(0 <= i < 2**16 for i in ids) and all(a < b for a, b in itertools.pairwise(ids))


@functools.lru_cache(1024)
def _order(class_ids: tuple[int, ...], entries: int) -> tuple[int, ...]:
    """Return the positions in ascending class order; rows of a put mostly have the same classes.

    Raises:
        MalformedError: classes twice, or not as many entries.
    """
    order = tuple(sorted(range(len(class_ids)), key=class_ids.__getitem__))
    if entries != len(class_ids) or not _ascending(class_ids[at] for at in order):
        raise MalformedError(f"row: expected one entry for each of different classes, got {list(class_ids)}")
    return order


def join_cells(class_ids: Sequence[int], envelopes: Sequence[bytes]) -> bytes:
    """Return one blob of a row's envelopes, in ascending class order.

    Raises:
        MalformedError: a class twice, or as many envelopes as classes are missing.
    """
    order = _order(tuple(class_ids), len(envelopes))
    return b"".join([_CELL.pack(class_ids[at], len(envelopes[at])) + envelopes[at] for at in order])


def split_cells(blob: bytes) -> dict[int, bytes]:
    """Return a row's envelopes by class id, ascending. Raises MalformedError."""
    cells: dict[int, bytes] = {}
    at = 0
    while at < len(blob):
        if len(blob) - at < _CELL.size:
            raise MalformedError(f"cells: {len(blob) - at} bytes after the last cell")
        class_id, length = _CELL.unpack_from(blob, at)
        at += _CELL.size + length
        if at > len(blob) or (cells and class_id <= next(reversed(cells))):
            raise MalformedError(f"cells: class {class_id} is cut short, or out of order")
        cells[class_id] = blob[at - length : at]
    return cells


def join_wraps(base: bytes, class_ids: Sequence[int], rows: Sequence[int], wraps: Sequence[bytes]) -> bytes:
    """Return one blob of a row's wraps, in ascending class order.

    Args:
        base: nonce base of the put, 20 bytes.
        class_ids: one for each cell. rows: its number in the put. wraps: 32 bytes each.

    Raises:
        MalformedError: a class twice, sizes or counts that do not fit.
    """
    order = _order(tuple(class_ids), len(wraps))
    if len(base) != NONCE_BASE_BYTES or not set(map(len, wraps)) <= {WRAP_BYTES} or len(rows) != len(wraps):
        raise MalformedError(f"wraps: expected a base of {NONCE_BASE_BYTES} and wraps of {WRAP_BYTES} bytes")
    try:
        return base + b"".join([_WRAP.pack(class_ids[at], rows[at], wraps[at]) for at in order])
    except struct.error as error:
        raise MalformedError("wraps: a row number takes 4 bytes") from error


def split_wraps(blob: bytes) -> dict[int, tuple[bytes, bytes]]:
    """Return a row's (nonce 24, wrap 32) by class id, ascending. Raises MalformedError."""
    if len(blob) < NONCE_BASE_BYTES or (len(blob) - NONCE_BASE_BYTES) % _WRAP.size:
        raise MalformedError(f"wraps: {len(blob)} bytes are not a base and whole wraps")
    base, entries = blob[:NONCE_BASE_BYTES], list(_WRAP.iter_unpack(blob[NONCE_BASE_BYTES:]))
    if not _ascending(class_id for class_id, _, _ in entries):
        raise MalformedError("wraps: classes are out of order")
    return {class_id: (base + row.to_bytes(4), wrap) for class_id, row, wrap in entries}


def row_tag(class_ids: Sequence[int], commitments: Sequence[bytes]) -> bytes:
    """Return the 16-byte tag of a row: SHA-256 over its (class, commitment) pairs in ascending class order.

    Raises:
        MalformedError: a class twice, or a commitment that is not 32 bytes.
    """
    order = _order(tuple(class_ids), len(commitments))
    if not set(map(len, commitments)) <= {COMMITMENT_BYTES}:
        raise MalformedError(f"row tag: expected commitments of {COMMITMENT_BYTES} bytes")
    covered = b"".join([class_ids[at].to_bytes(2) + commitments[at] for at in order])
    return hashlib.sha256(covered).digest()[:TAG_BYTES]


def check_form(envelope: bytes) -> None:
    """Check that bytes look like an envelope: known suite, a padded length. Nodes store nothing else.

    Raises:
        MalformedError: they do not.
    """
    if len(envelope) < OVERHEAD_BYTES or envelope[0] != SUITE or not is_padded_length(len(envelope) - OVERHEAD_BYTES):
        raise MalformedError(f"not an envelope: {len(envelope)} bytes")


def commitment(envelope: bytes) -> bytes:
    """Return the 32-byte commitment of an envelope. Raises MalformedError if it is too short for one."""
    if len(envelope) < OVERHEAD_BYTES:
        raise MalformedError(f"not an envelope: {len(envelope)} bytes")
    return envelope[HEADER_BYTES - COMMITMENT_BYTES : HEADER_BYTES]
