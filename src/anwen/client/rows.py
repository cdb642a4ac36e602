"""From a person's values to sealed cells and back: the only code in Anwen that turns one into the other.

Pure: randomness comes in as a function of a size. Shapes follow the signed policy: unknown fields are refused, every
class, rendition and `_index` of a new record is written, whether or not it holds anything (docs/architecture.md).
"""

from __future__ import annotations

import datetime as dt
import json
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from anwen.crypto import blind_index, envelope
from anwen.errors import MalformedError, OpenError
from anwen.formats import normalise
from anwen.model import INDEX_CLASS, RENDITION, Collection, Field

Random = Callable[[int], bytes]
PrehashKeys = Mapping[tuple[int, int], bytes]
"""Token keys by (collection id, field id)."""

Values = dict[str, object]

_INDEXED = struct.Struct(">HH32s")  # an entry of `_index`: field, normaliser version, token; of no value: field, zeros


class Token(NamedTuple):
    """One indexed field of a row. An empty `value`: the row holds nothing there, and looks as if it did."""

    field: Field
    class_id: int
    value: bytes

    def __repr__(self) -> str:
        return f"Token({self.field.name})"


@dataclass(slots=True, repr=False)
class Plain:
    """A row on its way in: validated, addressed, not yet sealed. Holds plaintext; its repr shows none."""

    collection: Collection
    subject: bytes
    record: bytes
    version: int
    collected_s: int
    expires_s: int
    bodies: dict[int, bytes]
    tokens: tuple[Token, ...]
    checked: bool = True  # whether two keepers told each component of the token keys


@dataclass(frozen=True, slots=True, repr=False)
class Cell:
    """One sealed class of a record, with all that a keeper needs to know to help open it."""

    collection: Collection
    subject: bytes
    record: bytes
    class_id: int
    version: int
    collected_s: int
    expires_s: int
    envelope: bytes
    nonce: bytes
    wrap: bytes


def canonical_values(collection: Collection, values: Mapping[str, object], classes: Sequence[str]) -> Values:
    """Return the normalised values of the fields of `classes`.

    Raises:
        MalformedError: an unknown field, one of another class, a missing required one, or one that does not
            follow its type; names the field, never the value.
    """
    out: Values = {}
    known = 0
    for class_name in classes:
        for f in collection.fields_of(class_name):
            known += f.name in values
            value = normalise.normalise(f, values.get(f.name))
            if value is not None:
                out[f.name] = value
    if known != len(values):
        names = {f.name for name in classes for f in collection.fields_of(name)}
        raise MalformedError(f"{collection.name}: unknown field {', '.join(sorted(set(values) - names))}")
    return out


def tokens_of(collection: Collection, values: Values, classes: Sequence[str], keys: PrehashKeys) -> tuple[Token, ...]:
    """Return the tokens of all indexed fields of `classes`, those without a value included."""
    tokens = []
    for name in classes:
        class_id = collection.class_named[name].id
        for f in collection.fields_of(name):
            if f.index is not None:
                key, value = keys[collection.id, f.id], b""
                if f.name in values:
                    value = blind_index.token(key, normalise.index_bytes(f, values[f.name]))
                tokens.append(Token(f, class_id, value))
    return tuple(tokens)


def bodies_of(
    collection: Collection, values: Values, classes: Sequence[str], tokens: Sequence[Token]
) -> dict[int, bytes]:
    """Return what each cell of a row will hold, by class id: classes, renditions and `_index`."""
    bodies: dict[int, bytes] = {}
    for name in classes:
        held = [f for f in collection.fields_of(name) if f.name in values]
        class_id = collection.class_named[name].id
        bodies[class_id] = _object((f.id, values[f.name]) for f in held)
        bodies[class_id | RENDITION] = _object((f.id, normalise.mask(f, values[f.name])) for f in held if f.mask)
    version = normalise.NORMALISER_VERSION
    bodies[INDEX_CLASS] = b"".join([_INDEXED.pack(t.field.id, version if t.value else 0, t.value) for t in tokens])
    return dict(sorted(bodies.items()))


_quote = json.encoder.encode_basestring
_dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _object(members: Iterable[tuple[int, object]]) -> bytes:
    """Return a JSON object; nearly all values are text, which needs no encoder of its own (a third of the time)."""
    inner = ",".join([f'"{i}":{_quote(v) if isinstance(v, str) else _dump(v)}' for i, v in members])
    return f"{{{inner}}}".encode()


@dataclass(frozen=True, slots=True, repr=False)
class SealedRow:
    """The cells of one row and their DEKs, in ascending class order, before the keepers have answered."""

    plain: Plain
    class_ids: tuple[int, ...]
    envelopes: tuple[bytes, ...]
    deks: bytes  # 32 bytes a cell


def seal_row(vault: bytes, row: Plain, random: Random) -> SealedRow:
    """Seal every cell of a row under a DEK and IV of its own. About 20 us for five cells."""
    class_ids = tuple(row.bodies)
    size = envelope.DEK_BYTES + envelope.IV_BYTES
    fresh = random(size * len(class_ids))
    deks, envelopes = [], []
    for i, class_id in enumerate(class_ids):
        dek = fresh[i * size : i * size + envelope.DEK_BYTES]
        iv = fresh[i * size + envelope.DEK_BYTES : (i + 1) * size]
        context = envelope.context(vault, row.collection.id, class_id, row.version, row.subject, row.record)
        envelopes.append(envelope.seal(dek, iv, context, row.bodies[class_id]))
        deks.append(dek)
    return SealedRow(row, class_ids, tuple(envelopes), b"".join(deks))


def open_cell(vault: bytes, cell: Cell, value: bytes) -> Values:
    """Return the fields of a cell, given F(x); a rendition gives its masked fields, `_index` its tokens.

    Raises:
        OpenError: the envelope does not open, or holds what its class cannot hold.
    """
    dek = (int.from_bytes(cell.wrap) ^ int.from_bytes(value)).to_bytes(envelope.DEK_BYTES)
    context = envelope.context(vault, cell.collection.id, cell.class_id, cell.version, cell.subject, cell.record)
    body = envelope.open_envelope(dek, context, cell.envelope)
    try:
        if cell.class_id == INDEX_CLASS:
            return {"_index": [entry for entry in _INDEXED.iter_unpack(body) if entry[1]]}
        content = _load(body.decode())
    except (ValueError, RecursionError, struct.error) as error:
        raise OpenError from error
    return _named(cell, content)


_load = json.JSONDecoder().decode


def _named(cell: Cell, content: object) -> Values:
    """Name the fields of an opened class; refuse what a broken or malicious writer may have put there.

    One such value would else end an export of everybody, or stand where its like is compared with.
    """
    if not isinstance(content, dict):
        raise OpenError
    by_id = {str(f.id): f for f in cell.collection.fields}
    class_of = {c.name: c.id for c in cell.collection.classes}
    rendition = bool(cell.class_id & RENDITION)
    values: Values = {}
    for key, value in content.items():
        f = by_id.get(key)
        if f is None or class_of[f.class_name] != cell.class_id & ~RENDITION:
            raise OpenError
        good = f.mask is not None and normalise.is_mask(value) if rendition else normalise.is_canonical(f, value)
        if not good:
            raise OpenError
        values[f.name] = value
    return values


def holds(collection: Collection, class_id: int, values: Values, name: str, searched: bytes) -> bool:
    """Return whether an opened class agrees with what its record was found by.

    Its full class must hold that value, its rendition the value's mask; other classes say nothing about it.

    Args:
        searched: `normalise.index_bytes` of the value that was looked for in field `name`.
    """
    f = collection.field_named[name]
    data_class = collection.class_named[f.class_name]
    if class_id == data_class.id:
        return name in values and normalise.index_bytes(f, values[name]) == searched
    expected = normalise.expected_mask(f, searched)
    return class_id != data_class.rendition_id or expected is None or values.get(name) == expected


def seconds(name: str, value: object, default: int) -> int:
    """Return a date or time as seconds; ISO 8601 text, date or datetime (naive: UTC)."""
    if value is None or value == "":
        return default
    try:
        moment = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError as error:
        raise MalformedError(f"{name}: expected a date or time in ISO 8601") from error
    if isinstance(moment, dt.date) and not isinstance(moment, dt.datetime):
        moment = dt.datetime(moment.year, moment.month, moment.day, tzinfo=dt.UTC)
    if not isinstance(moment, dt.datetime):
        raise MalformedError(f"{name}: expected a date or time in ISO 8601")
    return int((moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp())
