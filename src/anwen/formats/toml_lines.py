"""Where things stand in a TOML text: `tomllib` gives values without positions, errors and edits need them.

The scanner expects text that `tomllib` has accepted; it looks only for keys, headers and where values end.

Pure: no I/O.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Path = tuple[str | int, ...]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_STRINGS = (
    re.compile(r'"""(?:\\.|[^\\])*?"{3,5}(?!")', re.DOTALL),
    re.compile(r"'''.*?'{3,5}(?!')", re.DOTALL),
    re.compile(r'"(?:\\.|[^"\\])*"'),
    re.compile(r"'[^']*'"),
)
_SCALAR = re.compile(r"[^,\]}#\n]*")


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

    def skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        found = match.group() if match else ""
        self.at += len(found)
        return found

    def peek(self, literal: str) -> bool:
        return self.text.startswith(literal, self.at)

    def string(self) -> str:
        return next((found for pattern in _STRINGS if (found := self.skip(pattern))), "")

    def note(self, path: Path, start: int, end: int) -> None:
        self.places.setdefault(path, Place(self.text.count("\n", 0, start) + 1, start, end))

    def key(self) -> Path:
        parts: list[str] = []
        while True:
            self.skip(_SPACE)
            quoted = self.string()
            parts.append(quoted[1:-1] if quoted else self.skip(_BARE_KEY))
            self.skip(_SPACE)
            if not self.peek("."):
                return tuple(parts)
            self.at += 1

    def header(self) -> Path:
        start, brackets = self.at, 2 if self.peek("[[") else 1
        self.at += brackets
        path = self.key()
        self.at += brackets
        end = self.text.find("\n", self.at)
        self.note(path, start, len(self.text) if end < 0 else end)
        return path

    def pair(self, table: Path) -> None:
        start, path = self.at, table + self.key()
        for depth in range(len(table) + 1, len(path)):
            self.note(path[:depth], start, self.at)
        self.at += 1  # =
        self.skip(_SPACE)
        self.value(path)

    def value(self, path: Path) -> None:
        start = self.at
        if self.peek("["):
            self.items(path, "]")
        elif self.peek("{"):
            self.items(path, "}")
        elif not self.string():
            scalar = self.skip(_SCALAR)
            self.at = start + len(scalar.rstrip())
        self.note(path, start, self.at)

    def items(self, path: Path, closing: str) -> None:
        self.at += 1
        index = 0
        while True:
            self.skip(_BLANK)
            if self.peek(closing) or self.at >= len(self.text):
                self.at += 1
                return
            if self.peek(","):
                self.at += 1
            elif closing == "]":
                self.value((*path, index))
                index += 1
            else:
                self.pair(path)


def locate(text: str) -> dict[Path, Place]:
    """Return the place of every key, table header and array element of valid TOML, by its path."""
    scanner = _Scanner(text)
    path: Path = ()
    while True:
        scanner.skip(_BLANK)
        if scanner.at >= len(text):
            return scanner.places
        if scanner.peek("["):
            path = scanner.header()
        else:
            scanner.pair(path)


def line_of(places: dict[Path, Place], path: Path) -> int:
    """Return the line of `path`, or of the nearest table around it; 1 when there is none."""
    for length in range(len(path), 0, -1):
        if path[:length] in places:
            return places[path[:length]].line
    return 1


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
        raise KeyError(".".join(map(str, table)))
    end = header.end
    return f"{text[:end]}\n{key} = {value}{text[end:]}"
