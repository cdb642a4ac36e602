"""Sealed cells and wraps of rows, cut down to what is current and to some classes. Pure."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace

from anwen.errors import MalformedError
from anwen.formats.envelope import NONCE_BASE_BYTES, join_cells, join_wraps, split_cells, split_wraps
from anwen.formats.wire import MOST_SECONDS
from anwen.model import INDEX_CLASS
from anwen.store.base import StoredRow


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


def current(versions: Sequence[StoredRow], asked: frozenset[int]) -> list[StoredRow]:
    """Return what of a record's versions (ascending) is current, cut down to `asked` (empty: all).

    A class is current in the highest version that holds it; `_index` as long as a class of its own version is. Nobody
    else's answer may suffer from junk in the store: a version whose blobs are junk comes without cells, one whose
    numbers or ids are does not come, and what is older than either may have been replaced, so it does not come.
    """
    rows: list[StoredRow] = []
    newer: set[int] = set()
    for row in reversed(versions):
        if not _sound(row, versions[-1]):
            break
        try:
            held = split_cells(row.sealed).keys() - {INDEX_CLASS}
            kept = held - newer
            newer |= held
            kept |= {INDEX_CLASS} if kept else set()
            kept = kept & asked if asked else kept
            if kept:
                rows.append(replace(row, sealed=trim_cells(row.sealed, kept), wraps=trim_wraps(row.wraps, kept)))
        except MalformedError:
            rows.append(replace(row, sealed=b"", wraps=NO_WRAPS))
            break
    return rows[::-1]


def _sound(row: StoredRow, newest: StoredRow) -> bool:
    """Return whether a node may have stored a row, besides the newest version of its record."""
    return (
        {len(row.record), len(row.subject), len(row.tag)} == {16}
        and 0 < row.version < 2**32
        and 0 <= min(row.collected_s, row.expires_s) <= max(row.collected_s, row.expires_s) < MOST_SECONDS
        and (row.collection, row.subject) == (newest.collection, newest.subject)
    )
