"""Rows into a new file of mode 0600, which appears under its name only when it is complete and durable."""

from __future__ import annotations

import codecs
import contextlib
import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import BinaryIO, Self

from anwen.errors import ConflictError, MalformedError
from anwen.files.parquet_source import pyarrow
from anwen.files.rows import FileFormat, Reject, detect_format
from anwen.files.text_source import FORMULA

PARQUET_GROUP_ROWS = 65_536


class RowWriter:
    """Takes canonical values by field; a field that is absent is written as no value."""

    def __init__(self, file: BinaryIO, kinds: Mapping[str, str]) -> None:
        self._file, self._fields = file, tuple(kinds)

    def write(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Append rows."""
        raise NotImplementedError

    def finish(self) -> None:
        """Write what is still held back, if anything; nothing may be written after it."""


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file of mode 0600; it is complete and durable under `path` when the block ends without error.

    Raises:
        ConflictError: `path` exists, before or when the file is done; nothing is replaced.
    """
    exists = ConflictError(f"{path.name}: expected a new file, but it exists")
    if os.path.lexists(path):
        raise exists
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)  # 0600, exclusive
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # a crash up to here leaves only the temporary file
        try:
            os.link(name, path)  # unlike a rename, it replaces nothing
        except FileExistsError:
            raise exists from None
    finally:
        Path(name).unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    # a crash from here on leaves the whole file; one before, the whole file or none


@contextlib.contextmanager
def writing(file: BinaryIO, kinds: Mapping[str, str], file_format: FileFormat) -> Iterator[RowWriter]:
    """Yield a writer into an open file, which need only have `write`; all is handed over when the block ends.

    Args:
        kinds: kind by field, in the order of the columns; masked fields are "text".
    """
    writer: RowWriter = _WRITERS[file_format](file, kinds)
    try:
        yield writer
    finally:
        writer.finish()  # after an error too: pyarrow's writer would else do it later, into a file that is closed


@contextlib.contextmanager
def create(path: Path, kinds: Mapping[str, str], *, file_format: FileFormat | None = None) -> Iterator[RowWriter]:
    """Yield a writer of a new file, as `new_file` and `writing` have it; without a format, by its name."""
    with new_file(path) as file, writing(file, kinds, file_format or detect_format(path)) as writer:
        yield writer


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def csv_cell(value: object) -> str:
    """Return a cell's text. What a spreadsheet might run as a formula gets a leading ', which our reader takes off."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else _dump(value)
    return "'" + text if FORMULA.match(text) else text


class _CsvWriter(RowWriter):
    def __init__(self, file: BinaryIO, kinds: Mapping[str, str]) -> None:
        super().__init__(file, kinds)
        self._csv = csv.writer(codecs.getwriter("utf-8")(file), lineterminator="\n")
        self._csv.writerow(map(csv_cell, self._fields))

    def write(self, rows: Iterable[Mapping[str, object]]) -> None:
        self._csv.writerows([csv_cell(row.get(name)) for name in self._fields] for row in rows)


class _NdjsonWriter(RowWriter):
    def write(self, rows: Iterable[Mapping[str, object]]) -> None:
        for row in rows:
            present = {name: row[name] for name in self._fields if row.get(name) is not None}
            self._file.write(_dump(present).encode() + b"\n")


_ARROW: dict[str, tuple[str, Callable[..., object]]] = {
    "int": ("int64", int),
    "bool": ("bool", bool),
    "date": ("date32", date.fromisoformat),
    "datetime": ("timestamp", datetime.fromisoformat),
    "json": ("string", _dump),
}
"""Arrow type and conversion by kind; all others are strings. Decimals too: a column of them has one scale for all."""


class _ParquetWriter(RowWriter):
    def __init__(self, file: BinaryIO, kinds: Mapping[str, str]) -> None:
        self._arrow = arrow = pyarrow()
        named = {name: _ARROW.get(kind, ("string", str)) for name, kind in kinds.items()}
        self._convert = [(name, convert) for name, (_, convert) in named.items()]
        types = {"timestamp": arrow.timestamp("us", "UTC")}
        self._schema = arrow.schema([(name, types.get(kind, kind)) for name, (kind, _) in named.items()])
        self._writer = arrow.parquet.ParquetWriter(file, self._schema, write_page_checksum=True)
        self._rows: list[dict[str, object]] = []

    def write(self, rows: Iterable[Mapping[str, object]]) -> None:
        for row in rows:
            present = {name: convert(row[name]) for name, convert in self._convert if row.get(name) is not None}
            self._rows.append(present)
            if len(self._rows) == PARQUET_GROUP_ROWS:
                self._write_group()

    def finish(self) -> None:
        self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        self._writer.write_table(self._arrow.Table.from_pylist(self._rows, schema=self._schema))
        self._rows.clear()


_WRITERS = {FileFormat.CSV: _CsvWriter, FileFormat.NDJSON: _NdjsonWriter, FileFormat.PARQUET: _ParquetWriter}


class RejectsWriter:
    """Appends rejects to a file of mode 0600: ``{"row", "line", "field", "code", "reason"}``; `line` 0 in Parquet."""

    def __init__(self, path: Path, keep_bytes: int = 0) -> None:
        """Open the report; an earlier one is cut to `keep_bytes`, what `sync` returned in the run that is resumed."""
        if keep_bytes and (not path.is_file() or path.stat().st_size < keep_bytes):
            raise MalformedError(f"{path.name}: expected at least {keep_bytes} bytes of the run that is resumed")
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.fdopen(os.open(path, flags, 0o600), "wb")
        os.fchmod(self._file.fileno(), 0o600)
        self._file.truncate(keep_bytes)
        self._file.seek(keep_bytes)

    def write(self, reject: Reject) -> None:
        """Append one reject; durable after the next `sync`."""
        entry = {"row": reject.number} | {name: getattr(reject, name) for name in ("line", "field", "code", "reason")}
        self._file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")

    def sync(self) -> int:
        """Make all rejects durable; return the size in bytes, to be kept with the position of the import."""
        self._file.flush()
        os.fsync(self._file.fileno())
        # a crash from here on leaves whole lines up to this size; later ones are cut off when the import resumes
        return self._file.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sync()
        self._file.close()
