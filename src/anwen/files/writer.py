"""Rows into a new file of mode 0600, which appears under its name only when it is complete and durable."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from anwen.errors import ConflictError
from anwen.files.csv_source import FORMULA
from anwen.files.parquet_source import pyarrow
from anwen.files.rows import FileFormat, detect_format

PARQUET_GROUP_ROWS = 65_536


class RowWriter(Protocol):
    """Takes canonical values by field; a field that is absent is written as no value."""

    def write(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Append rows."""
        ...

    def finish(self) -> None:
        """Write what is still held back; nothing may be written after it."""
        ...

    def close(self) -> None:
        """Let go of the file, finished or not."""
        ...


@contextlib.contextmanager
def create(path: Path, kinds: Mapping[str, str], *, file_format: FileFormat | None = None) -> Iterator[RowWriter]:
    """Yield a writer of a new file; it is complete and durable under `path` when the block ends without error.

    Args:
        kinds: kind by field, in the order of the columns; masked fields are "text".

    Raises:
        ConflictError: `path` exists, before or when the file is done; nothing is replaced.
    """
    if os.path.lexists(path):
        raise ConflictError(f"{path.name}: expected a new file, but it exists")
    make = _WRITERS[file_format or detect_format(path)]
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)  # 0600, exclusive
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with contextlib.closing(make(file, kinds)) as writer:
                yield writer
                writer.finish()
            file.flush()
            os.fsync(file.fileno())
        # a crash up to here leaves only the temporary file
        try:
            os.link(temporary, path)  # unlike a rename, it replaces nothing
        except FileExistsError:
            raise ConflictError(f"{path.name}: expected a new file, but it exists") from None
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)
    # a crash from here on leaves the whole file; one before, the whole file or none


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def csv_cell(value: object) -> str:
    """Return a cell's text. What a spreadsheet might run as a formula gets a leading ', which our reader takes off."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = value if isinstance(value, str) else str(value) if isinstance(value, int) else _dump(value)
    return "'" + text if FORMULA.match(text) else text


class _CsvWriter:
    def __init__(self, file: BinaryIO, kinds: Mapping[str, str]) -> None:
        self._text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=False)
        self._csv = csv.writer(self._text, lineterminator="\n")
        self._fields = tuple(kinds)
        self._csv.writerow([csv_cell(name) for name in self._fields])

    def write(self, rows: Iterable[Mapping[str, object]]) -> None:
        self._csv.writerows([csv_cell(row.get(name)) for name in self._fields] for row in rows)

    def finish(self) -> None:
        self._text.flush()

    def close(self) -> None:
        self._text.detach()


class _NdjsonWriter:
    def __init__(self, file: BinaryIO, kinds: Mapping[str, str]) -> None:
        self._file = file
        self._fields = tuple(kinds)

    def write(self, rows: Iterable[Mapping[str, object]]) -> None:
        for row in rows:
            present = {name: row[name] for name in self._fields if row.get(name) is not None}
            self._file.write(_dump(present).encode() + b"\n")

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


def _plain(value: object) -> object:
    return value


_ARROW: dict[str, tuple[str, Callable[..., object]]] = {
    "int": ("int64", _plain),
    "bool": ("bool_", _plain),
    "date": ("date32", date.fromisoformat),
    "datetime": ("timestamp", datetime.fromisoformat),
    "json": ("string", _dump),
}
"""Arrow type and conversion by kind; all others are strings. Decimals too: a column of them has one scale for all."""


class _ParquetWriter:
    def __init__(self, file: BinaryIO, kinds: Mapping[str, str]) -> None:
        self._arrow = arrow = pyarrow()
        self._convert = {name: _ARROW.get(kind, ("string", _plain))[1] for name, kind in kinds.items()}
        types = {"timestamp": arrow.timestamp("us", "UTC")}
        named = [(name, _ARROW.get(kind, ("string", _plain))[0]) for name, kind in kinds.items()]
        self._schema = arrow.schema([(name, types.get(kind) or getattr(arrow, kind)()) for name, kind in named])
        self._writer = arrow.parquet.ParquetWriter(file, self._schema, write_page_checksum=True)
        self._rows: list[Mapping[str, object]] = []

    def write(self, rows: Iterable[Mapping[str, object]]) -> None:
        for row in rows:
            self._rows.append(row)
            if len(self._rows) == PARQUET_GROUP_ROWS:
                self._write_group()

    def finish(self) -> None:
        self._write_group()
        self._writer.close()

    def close(self) -> None:
        self._writer.close()

    def _write_group(self) -> None:
        columns = [self._column(name, [row.get(name) for row in self._rows]) for name in self._schema.names]
        self._writer.write_table(self._arrow.Table.from_arrays(columns, schema=self._schema))
        self._rows.clear()

    def _column(self, name: str, values: Sequence[object]) -> object:
        convert = self._convert[name]
        converted = [None if value is None else convert(value) for value in values]
        return self._arrow.array(converted, self._schema.field(name).type)


_WRITERS: dict[FileFormat, Callable[[BinaryIO, Mapping[str, str]], RowWriter]] = {
    FileFormat.CSV: _CsvWriter,
    FileFormat.NDJSON: _NdjsonWriter,
    FileFormat.PARQUET: _ParquetWriter,
}
