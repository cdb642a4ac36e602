"""Where rows lie in a SQLite file, read from its raw bytes: what no query tells, and a thief of the disk sees.

B-trees grow by pages from the end of the file, and cells fill a page from its end, so places tell something of the
time at which a row was written.

Source of the format: https://www.sqlite.org/fileformat2.html, sections 1.3 to 2.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anwen.errors import MalformedError

_INTERIOR, _LEAF = 0x02, 0x0A  # pages of b-trees without rowid
_HEADER_BYTES = {_INTERIOR: 12, _LEAF: 8}
_FILE_HEADER_BYTES = 100
_WIDTHS = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)  # bytes of a value by serial type, up to those of blobs and texts


@dataclass(frozen=True, slots=True)
class Cell:
    """One row: its page (from 1), where in the file it begins, how many bytes it has, and its first three columns.

    Ids lie whole in the page; a longer column of a row that goes on in other pages may be cut, or spoilt.
    """

    page: int
    offset: int
    size_bytes: int
    columns: tuple[bytes, ...]


class Pages:
    """The pages of a database file that nobody writes to."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises MalformedError: it is no SQLite database."""
        self._bytes = path.read_bytes()
        if not self._bytes.startswith(b"SQLite format 3\0"):
            raise MalformedError(f"{path.name}: not a SQLite database")
        size = int.from_bytes(self._bytes[16:18])
        self._size = 65_536 if size == 1 else size

    def cells(self, root: int) -> Iterator[Cell]:
        """Yield the rows of the table without rowid whose b-tree begins at page `root`, in the order of its pages.

        About 3 us each. Raises MalformedError: another kind of page.
        """
        waiting = [root]
        while waiting:
            page = waiting.pop()
            start = (page - 1) * self._size
            head = start + (_FILE_HEADER_BYTES if page == 1 else 0)
            kind = self._bytes[head]
            if kind not in _HEADER_BYTES:
                raise MalformedError(f"page {page}: kind {kind}, expected a table without rowid")
            count = int.from_bytes(self._bytes[head + 3 : head + 5])
            pointers = head + _HEADER_BYTES[kind]
            if kind == _INTERIOR:
                waiting.append(int.from_bytes(self._bytes[head + 8 : head + 12]))
            for i in range(count):
                at = start + int.from_bytes(self._bytes[pointers + 2 * i : pointers + 2 * i + 2])
                if kind == _INTERIOR:
                    waiting.append(int.from_bytes(self._bytes[at : at + 4]))
                    at += 4
                yield self._cell(page, at)

    def _cell(self, page: int, at: int) -> Cell:
        size, start = self._varint(at)
        header, place = self._varint(start)
        value, columns = start + header, list[bytes]()
        while place < start + header and len(columns) < 3:
            kind, place = self._varint(place)
            width = (kind - 12) // 2 if kind >= 12 else _WIDTHS[kind]
            columns.append(self._bytes[value : value + width])
            value += width
        return Cell(page, at, size, tuple(columns))

    def _varint(self, at: int) -> tuple[int, int]:
        """Return an integer of one to nine bytes, and what follows it."""
        value = 0
        for i in range(8):
            byte = self._bytes[at + i]
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                return value, at + i + 1
        return value << 8 | self._bytes[at + 8], at + 9
