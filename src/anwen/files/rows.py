"""What readers yield, where they start and stop, and the limits that hold before anything is allocated."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from anwen.errors import MalformedError

LINE_BYTES = 2**20
"""Longest row of a text file, over all its physical lines."""

MAX_COLUMNS = 1024
BOM = b"\xef\xbb\xbf"


class FileFormat(enum.StrEnum):
    """A file format that Anwen reads and writes."""

    CSV = "csv"
    NDJSON = "ndjson"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a file that begins and ends between rows.

    `start` and `end` are byte offsets of a text file, row indexes of a Parquet file. `row` is the number of the first
    row (from 1, over the whole file) and `line` that of its first physical line.
    """

    start: int
    end: int
    row: int
    line: int

    def after(self, done: Row | Reject) -> Span:
        """Return what is left once `done` and all before it have been dealt with: where to resume."""
        return Span(done.end, self.end, done.number + 1, done.end_line)


@dataclass(slots=True)
class Row:
    """One row: `values` by field, as the file holds them. Its repr shows none of them."""

    number: int
    line: int
    end: int
    end_line: int
    values: dict[str, object] = field(repr=False)


@dataclass(slots=True)
class Reject:
    """A row that was not taken: where it stands, and why. Never holds a value."""

    number: int
    line: int
    end: int
    end_line: int
    reason: str
    field: str | None = None
    code: str = MalformedError.code


@dataclass(frozen=True, slots=True)
class Columns:
    """What the caller knows of the columns: how they are renamed, which there may be and which there must be."""

    mapping: Mapping[str, str | None] = field(default_factory=dict)
    fields: Collection[str] | None = None
    required: Collection[str] = ()

    def names(self, header: list[str]) -> list[str | None]:
        """Return the field of each column, None for one that is left out.

        Raises:
            MalformedError: a column that is there twice, is mapped but missing, or is no field; or a required one
                that is missing. Columns that are no field are named by number: a file without header has values there.
        """
        if len(header) > MAX_COLUMNS:
            raise MalformedError(f"expected at most {MAX_COLUMNS} columns, got {len(header)}")
        missing = sorted(set(self.mapping) - set(header))
        if missing:
            raise MalformedError(f"the mapping names columns that the file does not have: {', '.join(missing)}")
        names = [self.mapping.get(column, column) for column in header]
        used: dict[str, int] = {}
        for number, name in enumerate(names, 1):
            if name is None:
                continue
            if name in used:
                raise MalformedError(f"columns {used[name]} and {number} of the file stand for the same field")
            if name == "" or (self.fields is not None and name not in self.fields):
                known = "" if self.fields is None else f" (fields: {', '.join(self.fields)})"
                raise MalformedError(f"column {number} of the file is no field; map it, or leave it out{known}")
            used[name] = number
        self.check_required(used)
        return names

    def check_required(self, present: Collection[str]) -> None:
        """Refuse a file that lacks a required column."""
        missing = [name for name in self.required if name not in present]
        if missing:
            raise MalformedError(f"the file has no column for required fields: {', '.join(missing)}")


class Source(Protocol):
    """One opened file of one format."""

    def whole(self) -> Span:
        """Return the span of all rows."""
        ...

    def boundaries(self) -> Iterator[Span]:
        """Yield, in order, the span from each place where the file may be split to its end. Reads the whole file."""
        ...

    def read(self, span: Span) -> Iterator[Row | Reject]:
        """Yield every row of `span`."""
        ...


def detect_format(path: Path) -> FileFormat:
    """Return the format of a file by its suffix, else by its first bytes.

    Raises:
        MalformedError: neither tells.
    """
    by_suffix = {
        ".csv": FileFormat.CSV,
        ".tsv": FileFormat.CSV,
        ".ndjson": FileFormat.NDJSON,
        ".jsonl": FileFormat.NDJSON,
        ".parquet": FileFormat.PARQUET,
    }
    suffix = path.suffix.lower()
    if suffix in by_suffix:
        return by_suffix[suffix]
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(64)
        if head.startswith(b"PAR1"):
            return FileFormat.PARQUET
        if head.removeprefix(BOM).lstrip().startswith(b"{"):
            return FileFormat.NDJSON
    raise MalformedError("expected a file named .csv, .ndjson, .jsonl or .parquet")


@dataclass(slots=True)
class Line:
    """One physical line with its end of line; `raw` is None where it is longer than `LINE_BYTES`."""

    start: int
    end: int
    number: int
    raw: bytes | None


def read_line(file: BinaryIO, start: int, number: int) -> Line | None:
    """Return the line at the file's position, or None at its end. Holds no more than `LINE_BYTES` of it."""
    raw = file.readline(LINE_BYTES + 1)
    if not raw:
        return None
    size = len(raw)
    if size <= LINE_BYTES:
        return Line(start, start + size, number, raw)
    while raw and not raw.endswith(b"\n"):
        raw = file.readline(LINE_BYTES)
        size += len(raw)
    return Line(start, start + size, number, None)


def text_start(file: BinaryIO) -> int:
    """Return where the text begins, after a UTF-8 byte order mark; refuse UTF-16 and UTF-32.

    A mark at the very start tells the encoding and nothing else (spreadsheets write it); anywhere else it is
    an invisible character, and refused with its row.
    """
    file.seek(0)
    head = file.read(4)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or head == b"\0\0\xfe\xff":
        raise MalformedError("expected a file in UTF-8, got UTF-16 or UTF-32; save it as UTF-8")
    return len(BOM) if head.startswith(BOM) else 0


def decode(raw: bytes) -> tuple[str, str | None]:
    """Return a line's text without its end, and None; or nothing and why it cannot be text."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return "", "expected UTF-8"
    if "\0" in text:
        return "", "holds a NUL"
    if "\ufeff" in text:
        return "", "holds a byte order mark"
    return text.removesuffix("\n").removesuffix("\r"), None


SourceOpener = Callable[[Path, Columns], Source]
