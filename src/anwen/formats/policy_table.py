"""What one table of a policy may hold, as data: read strictly from TOML or JSON, and written, by the same schema.

Every mistake is collected, none is passed over. Pure: no I/O.
"""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from anwen.formats.toml_lines import Path, dotted

MAX_NUMBER = 2**40 - 1
"""Largest number in a policy: times fill five bytes, and every JSON reader has such a number exactly."""
BLANKS = (-1, "", b"")
"""What stands for a value that is wrong until all mistakes are known."""
_ADDRESS = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\]):([1-9][0-9]{0,4})")
_SHOWN = 60
_REQUIRED: Any = object()


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong, and where."""

    path: Path
    text: str


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value may be: `decode` and `encode` hold between its form in a file, which `fits`, and in the model."""

    expected: str
    fits: Callable[[Any], bool]
    decode: Callable[[Any], Any] = lambda value: value
    encode: Callable[[Any], Any] = lambda value: value
    blank: Any = ""


def show(value: object) -> str:
    """Return a short form of a value for a message."""
    if isinstance(value, Mapping):
        return "a table"
    text = ascii(value) if not isinstance(value, date) else value.isoformat()
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _looks_as_it_is(value: object) -> bool:
    """Return whether `value` is text without control, invisible, private or unassigned characters."""
    if not isinstance(value, str) or not 1 <= len(value) <= 400 or value != value.strip():
        return False
    return not any(unicodedata.category(c).startswith("C") or c in "\u2028\u2029" for c in value)


def _is_address(value: object) -> bool:
    match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    return match is not None and int(match[1]) <= 65535


def _is_p256_key(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        key = load_der_public_key(base64.b64decode(value, validate=True))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return False
    # one key, one spelling: otherwise one key could be two officers
    return base64.b64encode(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode() == value


def _midnight(value: date) -> int:
    return int(datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp())


def matching(expected: str, pattern: str) -> Kind:
    """Return the kind of text of one form."""
    return Kind(expected, lambda v: isinstance(v, str) and re.fullmatch(pattern, v) is not None)


def whole(low: int, high: int = MAX_NUMBER) -> Kind:
    """Return the kind of whole numbers from `low` to `high`."""
    return Kind(f"a whole number from {low} to {high}", lambda v: type(v) is int and low <= v <= high, blank=-1)


def choice(*words: str) -> Kind:
    """Return the kind of one of a few words."""
    return Kind("one of " + ", ".join(f'"{w}"' for w in words), lambda v: isinstance(v, str) and v in words)


def hexadecimal(size: int) -> Kind:
    """Return the kind of `size` bytes in lower-case hexadecimal."""
    digits = matching(f"{2 * size} lower-case hexadecimal digits", f"[0-9a-f]{{{2 * size}}}")
    return Kind(digits.expected, digits.fits, bytes.fromhex, bytes.hex, b"")


def _are_texts(value: object) -> bool:
    if not isinstance(value, list) or not 1 <= len(value) <= 1000:
        return False
    return all(map(_looks_as_it_is, value)) and len(set(value)) == len(value)


TEXT = Kind("text of 1 to 400 visible characters", _looks_as_it_is)
OPTIONAL_TEXT = Kind(TEXT.expected, TEXT.fits, encode=lambda text: text or None)
TEXTS = Kind(f"a list without duplicates, each {TEXT.expected}", _are_texts, tuple, list, ())
NAMED = matching("a name of a-z, 0-9 and _, a letter first, at most 63 characters", "[a-z][a-z0-9_]{0,62}")
FLAG = Kind("true or false", lambda v: isinstance(v, bool), blank=False)
ADDRESS = Kind('"host:port"', _is_address)
P256_KEY = Kind(
    "a P-256 public key: base64 of its DER SubjectPublicKeyInfo",
    _is_p256_key,
    base64.b64decode,
    lambda der: base64.b64encode(der).decode(),
    b"",
)
MIDNIGHT = Kind(
    "a date such as 2030-01-31",
    # JSON has seconds from 1 on
    lambda v: isinstance(v, date) and not isinstance(v, datetime) and v > date(1970, 1, 1),
    _midnight,
    blank=0,
)


class Table:
    """One table while it is read."""

    def __init__(self, value: object, path: Path, mistakes: list[Mistake]) -> None:
        self.path, self.mistakes = path, mistakes
        self.given: Mapping[Any, Any] = value if isinstance(value, Mapping) else {}
        if not isinstance(value, Mapping):
            self.mistake((), f"expected a table, got {show(value)}")

    def mistake(self, path: Path, text: str) -> None:
        """Note a mistake at `path`, counted from this table."""
        self.mistakes.append(Mistake((*self.path, *path), text))

    def inner(self, key: Any) -> Table:
        """Return the table under `key`, which is there."""
        return Table(self.given[key], (*self.path, key), self.mistakes)

    def read(self, schema: Schema) -> dict[str, Any]:
        """Return the values by their names in the model; what the schema does not know is a mistake."""
        for key in self.given:
            if key not in schema:
                self.mistake((key,), f"expected one of {', '.join(sorted(schema))}, got an unknown key")
        return {part.attribute or key: part.read(self, key) for key, part in schema.items()}


def write(schema: Schema, value: object) -> dict[str, object]:
    """Return the table that reads as `value`; every default is written out, what is None is left out."""
    parts = ((key, part.write(getattr(value, part.attribute or key))) for key, part in schema.items())
    return {key: part for key, part in parts if part is not None}


@dataclass(frozen=True, slots=True)
class Key:
    """One value; without a `default` it must be there. In the model it is called `attribute`."""

    kind: Kind
    attribute: str = ""
    default: Any = _REQUIRED

    def read(self, table: Table, key: str) -> Any:
        """Return the value of `key`."""
        if key in table.given and self.kind.fits(table.given[key]):
            return self.kind.decode(table.given[key])
        if key not in table.given and self.default is not _REQUIRED:
            return self.default
        got = show(table.given[key]) if key in table.given else "nothing"
        table.mistake((key,), f"expected {self.kind.expected}, got {got}")
        return self.kind.blank

    def write(self, value: Any) -> object:
        """Return the value as a file holds it, None for none."""
        return None if value is None else self.kind.encode(value)


@dataclass(frozen=True, slots=True)
class References:
    """A list of names, each once; absent it is empty. Read as the place of each in the list."""

    attribute: str = ""

    def read(self, table: Table, key: str) -> dict[str, int]:
        """Return the places of the names under `key`."""
        value, found = table.given.get(key, []), dict[str, int]()
        if not isinstance(value, list):
            table.mistake((key,), f"expected a list of names, got {show(value)}")
            return found
        for index, item in enumerate(value):
            if not isinstance(item, str):
                table.mistake((key, index), f"expected a name, got {show(item)}")
            elif found.setdefault(item, index) != index:
                table.mistake((key, index), f"expected each name once, got {show(item)} again")
        return found

    def write(self, value: Any) -> object:
        """Return the names, ascending."""
        return sorted(value)


@dataclass(frozen=True, slots=True)
class Single:
    """A table of its own; None where it may be absent and is."""

    schema: Schema
    required: bool = True
    attribute: str = ""

    def read(self, table: Table, key: str) -> dict[str, Any] | None:
        """Return the values of the table under `key`; blank ones where it is missing."""
        if key in table.given:
            return table.inner(key).read(self.schema)
        if not self.required:
            return None
        table.mistake((key,), f"expected a table [{dotted((*table.path, key))}], got nothing")
        return Table({}, (), []).read(self.schema)

    def write(self, value: Any) -> object:
        """Return the table."""
        return write(self.schema, value)


@dataclass(frozen=True, slots=True)
class Tables:
    """Tables by name: each becomes `make(**values)`, with its name as `named`; `gather` takes all of them."""

    schema: Schema
    make: Callable[..., Any]
    named: str | None = "name"
    names: Kind = NAMED
    required: bool = True
    gather: Callable[[dict[Any, Any]], Any] = dict
    attribute: str = ""

    def read(self, table: Table, key: str) -> Any:
        """Return the tables under `key`, ascending by name."""
        around = table.inner(key) if key in table.given else Table({}, (), [])
        if self.required and not around.given:
            table.mistake((key,), f"expected a table [{dotted((*table.path, key))}.NAME], got none")
        found = {}
        for name in sorted(around.given, key=str):
            if not self.names.fits(name):
                around.mistake((name,), f"expected {self.names.expected}, got {show(name)}")
            values = around.inner(name).read(self.schema)
            found[name] = self.make(**values, **({self.named: name} if self.named else {}))
        return self.gather(found)

    def write(self, value: Any) -> object:
        """Return the tables by name."""
        entries = value.items() if isinstance(value, Mapping) else ((entry.name, entry) for entry in value)
        return {str(name): write(self.schema, entry) for name, entry in entries}


Schema = Mapping[str, Key | References | Single | Tables]
