"""Sealed cells and wraps of a row, cut down to some of its classes. Pure."""

from __future__ import annotations

from collections.abc import Container

from anwen.formats.envelope import NONCE_BASE_BYTES, join_cells, join_wraps, split_cells, split_wraps


def trim_cells(blob: bytes, classes: Container[int]) -> bytes:
    """Return the cells of `classes` alone. Raises MalformedError."""
    cells = split_cells(blob)
    kept = {c: envelope for c, envelope in cells.items() if c in classes}
    return blob if len(kept) == len(cells) else join_cells(list(kept), list(kept.values()))


def trim_wraps(blob: bytes, classes: Container[int]) -> bytes:
    """Return the wraps of `classes` alone. Raises MalformedError."""
    wraps = split_wraps(blob)
    kept = {c: wrap for c, wrap in wraps.items() if c in classes}
    if len(kept) == len(wraps):
        return blob
    base, rows = blob[:NONCE_BASE_BYTES], [int.from_bytes(nonce[NONCE_BASE_BYTES:]) for nonce, _ in kept.values()]
    return join_wraps(base, list(kept), rows, [wrap for _, wrap in kept.values()])


NO_WRAPS = join_wraps(bytes(NONCE_BASE_BYTES), [], [], [])
"""Wraps of a row that has none in an epoch."""
