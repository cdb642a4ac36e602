"""NDJSON: one JSON object a line, in UTF-8. Keys twice, numbers that are not finite and deep nesting are refused."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

from anwen.errors import MalformedError
from anwen.files.rows import LINE_BYTES, Columns, Line, Reject, Row, Span, decode, read_line, text_start

DEPTH = 64
NUMBER_CHARACTERS = 64
_DEEP = frozenset((dict, list))


class _RefusedError(ValueError):
    """Why a line is no row; raised inside the JSON parser."""


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _RefusedError("a key is there twice")
    return result


def _integer(digits: str) -> int:
    if len(digits) > NUMBER_CHARACTERS:
        raise _RefusedError(f"a number of more than {NUMBER_CHARACTERS} characters")
    return int(digits)


def _fraction(digits: str) -> Decimal:
    # Decimal, not float: 12.50 keeps its scale, and 1e999 does not become infinite unseen
    if len(digits) > NUMBER_CHARACTERS:
        raise _RefusedError(f"a number of more than {NUMBER_CHARACTERS} characters")
    if not math.isfinite(float(digits)):
        raise _RefusedError("a number that is not finite")
    return Decimal(digits)


def _constant(_name: str) -> object:
    raise _RefusedError("a number that is not finite")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_int=_integer, parse_float=_fraction, parse_constant=_constant
)


def _check_depth(value: object, levels: int) -> None:
    if levels == 0:
        raise _RefusedError(f"more than {DEPTH} levels")
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _check_depth(item, levels - 1)


def _parse(raw: bytes | None) -> dict[str, object]:
    if raw is None:
        raise _RefusedError(f"longer than {LINE_BYTES} bytes")
    text, problem = decode(raw)
    if problem:
        raise _RefusedError(problem)
    try:
        values = _DECODER.decode(text)
    except _RefusedError:
        raise
    except (ValueError, RecursionError):
        raise _RefusedError("expected a JSON object") from None
    if not isinstance(values, dict):
        raise _RefusedError("expected a JSON object")
    if not _DEEP.isdisjoint(map(type, values.values())):
        _check_depth(values, DEPTH)
    if "\\u" in text:
        try:
            json.dumps(values, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            raise _RefusedError("holds a lone surrogate") from None
    return values


class NdjsonSource:
    """One NDJSON file. Keys are checked row by row: there is no header."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self._columns = columns
        self._renames = bool(columns.mapping)
        taken = [name for name in columns.mapping.values() if name is not None]
        if len(set(taken)) != len(taken):
            raise MalformedError("the mapping gives two columns to one field")
        self._path = path
        with path.open("rb") as file:
            self._whole = Span(text_start(file), path.stat().st_size, 1, 1)

    def whole(self) -> Span:
        return self._whole

    def boundaries(self) -> Iterator[Span]:
        number = 1
        for line in self._lines(self._whole):
            yield Span(line.start, self._whole.end, number, line.number)
            number += 1

    def read(self, span: Span) -> Iterator[Row | Reject]:
        number = span.row
        for line in self._lines(span):
            place = (number, line.number, line.end, line.number + 1)
            try:
                yield Row(*place, self._named(_parse(line.raw)))
            except _RefusedError as refused:
                yield Reject(*place, str(refused))
            number += 1

    def _lines(self, span: Span) -> Iterator[Line]:
        offset, number = span.start, span.line
        with self._path.open("rb") as file:
            file.seek(offset)
            while offset < span.end and (line := read_line(file, offset, number)) is not None:
                offset, number = line.end, number + 1
                if line.raw is None or line.raw.strip(b"\r\n"):
                    yield line

    def _named(self, values: dict[str, object]) -> dict[str, object]:
        if self._renames:
            mapping = self._columns.mapping
            renamed = [(mapping.get(key, key), value) for key, value in values.items()]
            values = {key: value for key, value in renamed if key is not None}
            if len(values) != sum(key is not None for key, _ in renamed):
                raise _RefusedError("two keys stand for the same field")
        fields = self._columns.fields
        if fields is not None:
            for position, key in enumerate(values, 1):
                if key not in fields:
                    raise _RefusedError(f"key {position} is no field")
        return values
