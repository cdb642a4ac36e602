"""Strict reading of one table of a policy, from TOML or JSON: every mistake is collected, none is passed over.

Pure: no I/O.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Generic, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from anwen.formats.toml_lines import Path

T = TypeVar("T")
NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
MAX_NUMBER = 2**40 - 1
"""Largest number in a policy: times fill five bytes, and every JSON reader has such a number exactly."""
SERVER_ID_CHARACTERS = 16
"""The header of a keeper's answer has room for so many (docs/spec/answer.md)."""
BLANK_NUMBER = -1
_ADDRESS = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\]):([1-9][0-9]{0,4})")
_SCHEME = re.compile(r"[a-z][a-z_]{0,15}(?:\.[a-z][a-z0-9_]{0,31})?")
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong, and where."""

    path: Path
    text: str


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """What a key may hold. `convert` raises ValueError; `blank` stands in until all mistakes are known."""

    expected: str
    convert: Callable[[object], T]
    blank: T


def show(value: object) -> str:
    """Return a short form of a value for a message."""
    if isinstance(value, Mapping):
        return "a table"
    text = ascii(value) if not isinstance(value, date) else value.isoformat()
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def as_text(value: object) -> str:
    """Return `value` if it is text that looks as it is: no control, invisible, private or unassigned characters."""
    if not isinstance(value, str) or not 1 <= len(value) <= 400 or value != value.strip():
        raise ValueError
    if any(unicodedata.category(c).startswith("C") or c in "\u2028\u2029" for c in value):
        raise ValueError
    return value


def _name(value: object) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ValueError
    return value


def _server_id(value: object) -> str:
    name = _name(value)
    if len(name) > SERVER_ID_CHARACTERS:
        raise ValueError
    return name


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError  # noqa: TRY004 - one wording for every cause
    return value


def _scheme(value: object) -> str:
    if not isinstance(value, str) or not _SCHEME.fullmatch(value):
        raise ValueError
    return value


def _address(value: object) -> str:
    match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match.group(1)) > 65535:
        raise ValueError
    return match.group()


def _p256_key(value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError  # noqa: TRY004
    try:
        der = base64.b64decode(value, validate=True)
        key = load_der_public_key(der)
    except (binascii.Error, UnsupportedAlgorithm, TypeError) as error:
        raise ValueError from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError  # noqa: TRY004
    # one key, one spelling: otherwise one key could be two officers
    one_form = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if one_form != der or base64.b64encode(one_form).decode() != value:
        raise ValueError
    return der


def _midnight(value: object) -> int:
    if not isinstance(value, date) or isinstance(value, datetime):
        raise ValueError  # noqa: TRY004
    return int(datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp())


def whole(low: int, high: int = MAX_NUMBER) -> Kind[int]:
    """Return the kind of whole numbers from `low` to `high`."""

    def convert(value: object) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError
        return value

    return Kind(f"a whole number from {low} to {high}", convert, BLANK_NUMBER)


def choice(*words: str) -> Kind[str]:
    """Return the kind of one of a few words."""

    def convert(value: object) -> str:
        if value not in words or not isinstance(value, str):
            raise ValueError
        return value

    return Kind("one of " + ", ".join(f'"{w}"' for w in words), convert, "")


def hexadecimal(size: int) -> Kind[bytes]:
    """Return the kind of `size` bytes in lower-case hexadecimal."""

    def convert(value: object) -> bytes:
        if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]*", value) or len(value) != 2 * size:
            raise ValueError
        return bytes.fromhex(value)

    return Kind(f"{2 * size} lower-case hexadecimal digits", convert, b"")


def texts(of: Kind[str]) -> Kind[tuple[str, ...]]:
    """Return the kind of lists without duplicates."""

    def convert(value: object) -> tuple[str, ...]:
        if not isinstance(value, list) or not 1 <= len(value) <= 1000:
            raise ValueError
        found = tuple(of.convert(v) for v in value)
        if len(set(found)) != len(found):
            raise ValueError
        return found

    return Kind(f"a list without duplicates, each {of.expected}", convert, ())


TEXT = Kind("text of 1 to 400 visible characters", as_text, "")
NAMED = Kind("a name of a-z, 0-9 and _, a letter first, at most 63 characters", _name, "")
SERVER_ID = Kind(
    f"a name of a-z, 0-9 and _, a letter first, at most {SERVER_ID_CHARACTERS} characters (the zone's if left out)",
    _server_id,
    "",
)
FLAG = Kind("true or false", _flag, False)
SCHEME = Kind('a module of python-stdnum, such as "cn.ric"', _scheme, "")
ADDRESS = Kind('"host:port"', _address, "")
P256_KEY = Kind("a P-256 public key: base64 of its DER SubjectPublicKeyInfo", _p256_key, b"")
MIDNIGHT = Kind("a date such as 2030-01-31", _midnight, 0)


class Table:
    """One table while it is read. What nobody asked for is a mistake at `finish`."""

    def __init__(self, value: object, path: Path, mistakes: list[Mistake]) -> None:
        self.path, self.mistakes = path, mistakes
        self.given = value if isinstance(value, Mapping) else {}
        self.known: list[str] = []
        if not isinstance(value, Mapping):
            self.mistake((), f"expected a table, got {show(value)}")

    def mistake(self, path: Path, text: str) -> None:
        """Note a mistake at `path`, counted from this table."""
        self.mistakes.append(Mistake((*self.path, *path), text))

    def optional(self, key: str, kind: Kind[T]) -> T | None:
        """Return the value of `key`, None when it is absent."""
        self.known.append(key)
        if key not in self.given:
            return None
        value = self.given[key]
        try:
            return kind.convert(value)
        except ValueError:
            self.mistake((key,), f"expected {kind.expected}, got {show(value)}")
            return kind.blank

    def read_or(self, key: str, kind: Kind[T], default: T) -> T:
        """Return the value of `key`, `default` when it is absent."""
        value = self.optional(key, kind)
        return default if value is None else value

    def read(self, key: str, kind: Kind[T]) -> T:
        """Return the value of `key`, which must be there."""
        value = self.optional(key, kind)
        if value is None:
            self.mistake((key,), f"expected {kind.expected}, got nothing")
            return kind.blank
        return value

    def table(self, key: str) -> Table | None:
        """Return the table under `key`, None when it is absent."""
        self.known.append(key)
        return Table(self.given[key], (*self.path, key), self.mistakes) if key in self.given else None

    def tables(self, key: str, *, at_least: int = 1) -> Iterator[tuple[str, Table]]:
        """Yield the named tables under `key`, ascending by name."""
        around = self.table(key)
        if around is None or len(around.given) < at_least:
            if at_least:
                self.mistake((key,), f"expected a table [{'.'.join(map(str, (*self.path, key)))}.NAME], got none")
            return
        for name in sorted(around.given, key=str):
            if not isinstance(name, str) or not NAME.fullmatch(name):
                around.mistake((name,), f"expected {NAMED.expected}, got {show(name)}")
            yield name, Table(around.given[name], (*around.path, name), self.mistakes)

    def references(self, key: str) -> list[tuple[int, str]]:
        """Return the texts of a list and their places in it; an absent list is empty."""
        self.known.append(key)
        value = self.given.get(key, [])
        if not isinstance(value, list):
            self.mistake((key,), f"expected a list of names, got {show(value)}")
            return []
        found: list[tuple[int, str]] = []
        for index, item in enumerate(value):
            if not isinstance(item, str):
                self.mistake((key, index), f"expected a name, got {show(item)}")
            elif item in (text for _, text in found):
                self.mistake((key, index), f"expected each name once, got {show(item)} again")
            else:
                found.append((index, item))
        return found

    def finish(self) -> None:
        """Note every key that nobody asked for."""
        for key in self.given:
            if key not in self.known:
                self.mistake((key,), f"expected one of {', '.join(sorted(self.known))}, got an unknown key")
