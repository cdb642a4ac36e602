"""What readers yield, what callers say about columns, and the limits that hold before anything is allocated."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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


@dataclass(slots=True)
class _Place:
    number: int
    line: int


@dataclass(slots=True)
class Row(_Place):
    """One row: `values` by field, as the file holds them. Its repr shows none of them."""

    values: dict[str, object] = field(repr=False)


@dataclass(slots=True)
class Reject(_Place):
    """A row that was not taken: where it stands, and why. Never holds a value."""

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
        if missing := sorted(set(self.mapping) - set(header)):
            raise MalformedError(f"the mapping names columns that the file does not have: {', '.join(missing)}")
        names = [self.mapping.get(column, column) for column in header]
        for number, name in enumerate(names, 1):
            first = names.index(name) + 1
            if name is not None and first < number:
                raise MalformedError(f"columns {first} and {number} of the file stand for the same field")
            if name == "" or (name is not None and self.fields is not None and name not in self.fields):
                known = "" if self.fields is None else f" (fields: {', '.join(self.fields)})"
                raise MalformedError(f"column {number} of the file is no field; map it, or leave it out{known}")
        if missing := [name for name in self.required if name not in names]:
            raise MalformedError(f"the file has no column for required fields: {', '.join(missing)}")
        return names


def by_field(names: Sequence[str | None], cells: Iterable[object]) -> dict[str, object]:
    """Return a row's values by field, without those of columns that are left out."""
    values = dict(zip(names, cells, strict=True))
    values.pop(None, None)
    return values  # type: ignore[return-value]  # no None is left among the names


def detect_format(path: Path) -> FileFormat:
    """Return the format of a file by its suffix, else by its first bytes.

    Raises:
        MalformedError: neither tells.
    """
    suffix = path.suffix.lower().removeprefix(".")
    suffix = {"tsv": "csv", "jsonl": "ndjson"}.get(suffix, suffix)
    if suffix in tuple(FileFormat):
        return FileFormat(suffix)
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(64)
        if head.startswith(b"PAR1"):
            return FileFormat.PARQUET
        if head.removeprefix(BOM).lstrip().startswith(b"{"):
            return FileFormat.NDJSON
    raise MalformedError("expected a file named .csv, .ndjson, .jsonl or .parquet")
