"""Where things stand in a TOML text: `tomllib` gives values without positions, errors and edits need them.

The scanner expects text that `tomllib` has accepted; it looks only for keys, headers and where values end.

Pure: no I/O.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

Path = tuple[str | int, ...]

_STRING = r'"""(?:\\.|[^\\])*?"{3,5}(?!")' r"|'''.*?'{3,5}(?!')" r'|"(?:\\.|[^"\\])*"' r"|'[^']*'"
_KEY = re.compile(rf"[ \t]*(?P<part>{_STRING}|[A-Za-z0-9_-]+)[ \t]*(?P<dot>\.?)", re.DOTALL)
_SCALAR = re.compile(rf"{_STRING}|[^,\]}}#\n]*", re.DOTALL)
_EQUALS = re.compile(r"=[ \t]*")
_BETWEEN = re.compile(r"(?:[ \t\r\n,]|#[^\n]*)*")
_LINE = re.compile(r"[^\n]*")


@dataclass(frozen=True, slots=True)
class Place:
    """Where one value, or the header of one table, stands."""

    line: int  # counted from 1
    start: int  # offset of the value's first character; of a table, that of its header's line
    end: int  # offset behind the value; of a table, behind its header's line


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.places: dict[Path, Place] = {}

    def take(self, pattern: re.Pattern[str]) -> re.Match[str]:
        match = pattern.match(self.text, self.at)
        assert match is not None  # in valid TOML
        self.at = match.end()
        return match

    def note(self, path: Path, start: int) -> None:
        self.places.setdefault(path, Place(self.text.count("\n", 0, start) + 1, start, self.at))

    def key(self) -> Path:
        parts, dot = [], "."
        while dot:
            match = self.take(_KEY)
            part, dot = match["part"], match["dot"]
            parts.append(part[1:-1] if part[0] in "\"'" else part)
        return tuple(parts)

    def header(self) -> Path:
        start = self.at
        self.at += 2 if self.text.startswith("[[", start) else 1
        path = self.key()
        self.take(_LINE)
        self.note(path, start)
        return path

    def pair(self, table: Path) -> None:
        start, path = self.at, table + self.key()
        for depth in range(len(table) + 1, len(path)):
            self.note(path[:depth], start)
        self.take(_EQUALS)
        self.value(path)

    def value(self, path: Path) -> None:
        start, closing = self.at, {"[": "]", "{": "}"}.get(self.text[self.at])
        if closing is None:
            self.at = start + len(self.take(_SCALAR)[0].rstrip())
        else:
            self.items(path, closing)
        self.note(path, start)

    def items(self, path: Path, closing: str) -> None:
        self.at += 1
        for index in itertools.count():
            self.take(_BETWEEN)
            if self.text[self.at] == closing:
                self.at += 1
                return
            if closing == "]":
                self.value((*path, index))
            else:
                self.pair(path)


def locate(text: str) -> dict[Path, Place]:
    """Return the place of every key, table header and array element of valid TOML, by its path."""
    scanner = _Scanner(text)
    path: Path = ()
    while scanner.take(_BETWEEN).end() < len(text):
        if text[scanner.at] == "[":
            path = scanner.header()
        else:
            scanner.pair(path)
    return scanner.places


def line_of(places: dict[Path, Place], path: Path) -> int:
    """Return the line of `path`, or of the nearest table around it; 1 when there is none."""
    around = (path[:length] for length in range(len(path), 0, -1))
    return next((places[part].line for part in around if part in places), 1)


def dotted(path: Path) -> str:
    """Return `purposes.import.open[2]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def set_value(text: str, table: Path, key: str, value: str) -> str:
    """Return the text with `key = value` in the table `[table]`: replaced in place, or added after the header.

    Comments and all else stay. `value` is TOML. Raises KeyError when the table has no header.
    """
    places = locate(text)
    place = places.get((*table, key))
    if place is not None:
        return text[: place.start] + value + text[place.end :]
    header = places[table]
    if text[header.start] != "[":
        raise KeyError(dotted(table))
    return f"{text[: header.end]}\n{key} = {value}{text[header.end :]}"
