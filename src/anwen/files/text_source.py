"""CSV and NDJSON, both in UTF-8: one reader of records, and for each format what a record's bytes say.

CSV is that of RFC 4180 with a header, strict where a guess could put a value into another field. The delimiter is the
first of comma, semicolon and tab that the header line holds. A quoted cell may hold line breaks; a quote that is never
closed costs its own line only: reading goes on with the next one. Spaces around a column's name are no part of it. A
leading ' before = + - @, tab, NUL or carriage return, which our writer sets so that spreadsheets run no formula, is
taken off.

NDJSON is one JSON object a line. Keys twice, numbers that are not finite and deep nesting are refused.

Blank lines are no rows.
"""

from __future__ import annotations

import csv
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import BinaryIO, ClassVar

from anwen.errors import MalformedError
from anwen.files.rows import BOM, LINE_BYTES, Columns, Reject, Row, Span, by_field

DEPTH = 64
NUMBER_CHARACTERS = 64
FORMULA = re.compile(r"'*[=+\-@\t\r\0]")
"""What a spreadsheet may run, or has been kept from running: written with one more ' in front."""


class TextSource(ABC):
    """One text file, read record by record; `whole` is the span of all its rows."""

    quotes: ClassVar = False

    def __init__(self, path: Path, columns: Columns) -> None:
        self._path, self._columns = path, columns
        with path.open("rb") as file:
            head = file.read(4)
        if head[:2] in (b"\xff\xfe", b"\xfe\xff") or head == b"\0\0\xfe\xff":
            raise MalformedError("expected a file in UTF-8, got UTF-16 or UTF-32; save it as UTF-8")
        # a mark at the very start tells the encoding and nothing else (spreadsheets write it); anywhere else it is an
        # invisible character, and refused with its row
        self.size_bytes = path.stat().st_size
        self.whole = Span(len(BOM) if head.startswith(BOM) else 0, self.size_bytes, 1, 1)

    @abstractmethod
    def _parse(self, raw: bytes | None) -> dict[str, object]:
        """Return the values of a record; raise MalformedError with the reason where it is none."""

    def boundaries(self) -> Iterator[Span]:
        """Yield, in order, the span from each place where the file may be split to its end. Reads the whole file."""
        with self._path.open("rb") as file:
            for number, (start, line, _) in enumerate(self._records(file, self.whole), 1):
                yield Span(start, self.whole.end, number, line)

    def read(self, spans: Sequence[Span]) -> Iterator[Row | Reject]:
        """Yield every row of `spans`."""
        with self._path.open("rb") as file:
            for span in spans:
                for number, (_, line, raw) in enumerate(self._records(file, span), span.row):
                    try:
                        yield Row(number, line, self._parse(raw))
                    except MalformedError as refused:
                        yield Reject(number, line, str(refused))

    def _records(self, file: BinaryIO, span: Span) -> Iterator[tuple[int, int, bytes | None]]:
        """Yield start and line of each record but blank lines, and its bytes, or None if they are too many."""
        end, end_line = span.start, span.line
        file.seek(end)
        while end < span.end:
            start, line = end, end_line
            raw, size = _read_line(file)
            end, end_line = start + size, line + 1
            if self.quotes and raw is not None and raw.count(b'"') & 1:
                raw, lines = self._closed(file, raw, end)
                end, end_line = start + len(raw), line + lines
            if raw is None or raw.strip(b"\r\n"):
                yield start, line, raw

    def _closed(self, file: BinaryIO, raw: bytes, end: int) -> tuple[bytes, int]:
        """Return `raw` with the lines up to the closing quote, and their number; `raw` alone where that is no row."""
        whole, lines, odd = bytearray(raw), 1, 1
        while odd and (more := file.readline(LINE_BYTES - len(whole) + 1)):
            whole += more
            lines, odd = lines + 1, odd ^ more.count(b'"') & 1
        try:
            self._parse(bytes(whole) if len(whole) <= LINE_BYTES else None)
        except MalformedError:
            file.seek(end)
            return raw, 1
        return bytes(whole), lines


def _read_line(file: BinaryIO) -> tuple[bytes | None, int]:
    """Return the next line and its size; None where it is longer than `LINE_BYTES`, of which no more is held."""
    raw = file.readline(LINE_BYTES + 1)
    size = len(raw)
    if size <= LINE_BYTES:
        return raw, size
    while raw and not raw.endswith(b"\n"):
        raw = file.readline(LINE_BYTES)
        size += len(raw)
    return None, size


def _text(raw: bytes | None) -> str:
    """Return a record's text without its end of line."""
    if raw is None:
        raise MalformedError(f"longer than {LINE_BYTES} bytes")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise MalformedError("expected UTF-8") from None
    if "\0" in text:
        raise MalformedError("holds a NUL")
    if "\ufeff" in text:
        raise MalformedError("holds a byte order mark")
    return text.removesuffix("\n").removesuffix("\r")


class CsvSource(TextSource):
    """One CSV file. The header is read and checked at once."""

    quotes = True

    def __init__(self, path: Path, columns: Columns) -> None:
        super().__init__(path, columns)
        with path.open("rb") as file:
            file.seek(self.whole.start)
            raw, size = _read_line(file)
        try:
            text = _text(raw)
            self._delimiter = next((d for d in ",;\t" if d in text), ",")
            header = [name.strip() for name in self._cells(text)]
        except MalformedError as refused:
            raise MalformedError(f"line 1: expected a header of column names, got a line that {refused}") from None
        if not text:
            raise MalformedError("line 1: expected a header of column names, got an empty line")
        self._names = columns.names(header)
        self.whole = Span(self.whole.start + size, self.whole.end, 1, 2)

    def _parse(self, raw: bytes | None) -> dict[str, object]:
        cells = self._cells(_text(raw))
        if len(cells) != len(self._names):
            raise MalformedError(f"expected {len(self._names)} columns, got {len(cells)}")
        return by_field(self._names, cells)

    def _cells(self, text: str) -> list[str]:
        if '"' in text:
            if text.count('"') & 1:
                raise MalformedError("a quote that is not closed, or not where a cell begins")
            try:
                [cells] = csv.reader([text], delimiter=self._delimiter, strict=True)
            except (csv.Error, ValueError):
                raise MalformedError("quotes that do not follow RFC 4180") from None
        else:
            cells = text.split(self._delimiter)
        if "'" in text:
            cells = [cell[1:] if cell[:1] == "'" and FORMULA.match(cell) else cell for cell in cells]
        return cells


class NdjsonSource(TextSource):
    """One NDJSON file. Keys are checked row by row: there is no header."""

    def __init__(self, path: Path, columns: Columns) -> None:
        super().__init__(path, columns)
        taken = [name for name in columns.mapping.values() if name is not None]
        if len(set(taken)) != len(taken):
            raise MalformedError("the mapping gives two columns to one field")

    def _parse(self, raw: bytes | None) -> dict[str, object]:
        text = _text(raw)
        try:
            values = _DECODER.decode(text)
            if "[" in text or text.count("{") > 1:
                _check_depth(values)
            if "\\u" in text:
                json.dumps(values, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            raise MalformedError("holds a lone surrogate") from None
        except (ValueError, RecursionError, ArithmeticError):  # the last: an exponent beyond those of `Decimal`
            values = None
        if not isinstance(values, dict):
            raise MalformedError("expected a JSON object")
        return self._named(values)

    def _named(self, values: dict[str, object]) -> dict[str, object]:
        mapping, fields = self._columns.mapping, self._columns.fields
        if mapping:
            renamed = [(mapping.get(key, key), value) for key, value in values.items()]
            values = {key: value for key, value in renamed if key is not None}
            if len(values) != sum(key is not None for key, _ in renamed):
                raise MalformedError("two keys stand for the same field")
        if fields is not None:
            for position, key in enumerate(values, 1):
                if key not in fields:
                    raise MalformedError(f"key {position} is no field")
        return values


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise MalformedError("a key is there twice")
    return result


def _finite(number: str) -> str:
    if len(number) > NUMBER_CHARACTERS:
        raise MalformedError(f"a number of more than {NUMBER_CHARACTERS} characters")
    if not math.isfinite(float(number)):
        raise MalformedError("a number that is not finite")
    return number


def _check_depth(value: object, levels: int = DEPTH) -> None:
    if levels == 0:
        raise MalformedError(f"more than {DEPTH} levels")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_depth(item, levels - 1)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_pairs,
    parse_int=lambda digits: int(_finite(digits)),
    parse_float=lambda digits: Decimal(_finite(digits)),  # 12.50 keeps its scale, unlike in a float
    parse_constant=_finite,
)
