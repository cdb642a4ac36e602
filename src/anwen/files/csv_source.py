"""CSV as RFC 4180 has it, in UTF-8, with a header: strict where a guess could put a value into another field.

The delimiter is the first of comma, semicolon and tab that the header line holds. A quoted cell may hold line breaks; a
quote that is never closed costs its own line only: reading goes on with the next one. Blank lines are no rows, spaces
around a column's name no part of it.

A leading ' before = + - @, tab, NUL or carriage return, which our writer sets so that spreadsheets run no formula, is
taken off.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from anwen.errors import MalformedError
from anwen.files.rows import LINE_BYTES, Columns, Line, Reject, Row, Span, decode, read_line, text_start

FORMULA = re.compile(r"'*[=+\-@\t\r\0]")
"""What a spreadsheet may run, or has been kept from running: written with one more ' in front."""

_ESCAPED = re.compile(r"'+[=+\-@\t\r\0]")


class CsvSource:
    """One CSV file. The header is read and checked at once."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self._path = path
        with path.open("rb") as file:
            start = text_start(file)
            file.seek(start)
            line = read_line(file, start, 1)
        text, problem = decode(line.raw) if line is not None and line.raw is not None else ("", "too long or missing")
        self._delimiter = next((d for d in ",;\t" if d in text), ",")
        header = self._cells(text)
        if line is None or problem or not text or isinstance(header, str):
            raise MalformedError(f"line 1: expected a header of column names, got {problem or 'another line'}")
        self._width = len(header)
        self._names = columns.names([name.strip() for name in header])
        self._whole = Span(line.end, path.stat().st_size, 1, 2)

    def whole(self) -> Span:
        return self._whole

    def boundaries(self) -> Iterator[Span]:
        number = 1
        for record, _lines in self._records(self._whole):
            yield Span(record.start, self._whole.end, number, record.number)
            number += 1

    def read(self, span: Span) -> Iterator[Row | Reject]:
        number = span.row
        for record, lines in self._records(span):
            cells = self._parse(record, lines)
            place = (number, record.number, record.end, record.number + lines)
            if isinstance(cells, str):
                yield Reject(*place, cells)
            else:
                values = dict(zip(self._names, cells, strict=True))
                values.pop(None, None)
                yield Row(*place, values)  # type: ignore[arg-type]  # no None is left among the names
            number += 1

    def _records(self, span: Span) -> Iterator[tuple[Line, int]]:
        """Yield each record, blank lines apart, with the number of its physical lines."""
        offset, number = span.start, span.line
        with self._path.open("rb") as file:
            file.seek(offset)
            while offset < span.end and (record := read_line(file, offset, number)) is not None:
                lines = 1
                if record.raw is not None and record.raw.count(b'"') & 1:
                    lines = self._extend(file, record, record.raw)
                offset, number = record.end, number + lines
                if record.raw is None or record.raw.strip(b"\r\n"):
                    yield record, lines

    def _extend(self, file: BinaryIO, record: Line, raw: bytes) -> int:
        """Add the lines up to the closing quote to `record`; return how many it has. One, where that gives no row."""
        lines = 1
        while raw.count(b'"') & 1:
            more = file.readline(LINE_BYTES - len(raw) + 1)
            raw, lines = raw + more, lines + 1
            if not more or len(raw) > LINE_BYTES:
                break
        else:
            whole = Line(record.start, record.start + len(raw), record.number, raw)
            if not isinstance(self._parse(whole, lines), str):
                record.raw, record.end = raw, whole.end
                return lines
        file.seek(record.end)
        return 1

    def _parse(self, record: Line, lines: int) -> list[str] | str:
        """Return the cells of a record, or why it is none."""
        if record.raw is None:
            return f"longer than {LINE_BYTES} bytes"
        if lines == 1 and record.raw.count(b'"') & 1:
            return "a quote that is not closed, or not where a cell begins"
        text, problem = decode(record.raw)
        if problem:
            return problem
        cells = self._cells(text)
        if not isinstance(cells, str) and len(cells) != self._width:
            return f"expected {self._width} columns, got {len(cells)}"
        return cells

    def _cells(self, text: str) -> list[str] | str:
        if '"' in text:
            try:
                records = list(csv.reader([text], delimiter=self._delimiter, strict=True))
            except csv.Error:
                return "quotes that do not follow RFC 4180"
            if len(records) != 1:
                return "quotes that do not follow RFC 4180"
            cells = records[0]
        else:
            cells = text.split(self._delimiter)
        if "'" in text:
            cells = [cell[1:] if _ESCAPED.match(cell) else cell for cell in cells]
        return cells
