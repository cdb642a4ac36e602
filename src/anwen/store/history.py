"""Which versions of a record are read: the newest, and those that it names as current, for some class, beside it. Pure.

However often a record is updated, what was replaced costs nobody a read (docs/spec/store.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from anwen.store.base import StoredRow
from anwen.store.trim import NO_WRAPS, current

_NUMBER = 4
MOST_BYTES = 4 * 4096
"""Of a row's numbers no more are read, so that junk among them costs others little: a record has fewer classes."""


def pack(numbers: Iterable[int]) -> bytes:
    """Return numbers of versions as a row keeps them."""
    return b"".join(number.to_bytes(_NUMBER) for number in numbers)


def unpack(blob: bytes | None) -> list[int]:
    """Return what was packed, nothing of None; of junk some numbers."""
    blob = blob or b""
    return [int.from_bytes(blob[at : at + _NUMBER]) for at in range(0, min(len(blob), MOST_BYTES), _NUMBER)]


def beside(row: StoredRow, others: Sequence[StoredRow]) -> tuple[int, ...]:
    """Return the versions that stay current, for some class, when `row` is stored after `others` (ascending)."""
    return numbers(r for r in current([*others, row], frozenset()) if r.version != row.version)


def numbers(rows: Iterable[StoredRow]) -> tuple[int, ...]:
    """Return the versions of rows."""
    return tuple(row.version for row in rows)


class Loaded(NamedTuple):
    """A row of a copy, and which versions were current before it and are beside it: copies do not say."""

    row: StoredRow
    before: tuple[int, ...]
    beside: tuple[int, ...]


class Loading:
    """The rows of a copy on their way into a store."""

    def __init__(self) -> None:
        self._current: list[StoredRow] = []  # of the record that rows come of

    def take(self, columns: Sequence[Any]) -> Loaded:
        """Return the next row, its columns as in `copying.BULK`; those of a record follow each other, ascending."""
        record, version, tag, collection, subject, collected_s, expires_s, verified, labels, sealed = columns
        about = collection, subject, record, version, tag, collected_s, expires_s, sealed, NO_WRAPS, bool(verified)
        earlier = [r for r in self._current if r.record == record]
        row = StoredRow(*about, labels)
        self._current = current([*earlier, row], frozenset())
        return Loaded(row, numbers(earlier), numbers(r for r in self._current if r.version != version))
