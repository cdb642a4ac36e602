"""Messages between client, keepers and nodes: columnar, fixed width, one strict decoder for all ends.

A message is ``ANW1 | op u8 | salt 16 | scalars | tables | blob lists``, in the order of its schema. Integers
are big-endian. A table is ``n u32`` and then each column as one contiguous array; a blob list is
``n u32 | length u32 * n | bytes``. The operation lies inside the signed bytes, and every message begins with
128 random bits, so that a hash of it tests nothing (docs/spec/wire.md).

Pure: no I/O, no clock; the caller brings the salt.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from anwen.errors import MalformedError, TooLargeError

MAGIC = b"ANW1"
SALT_BYTES = 16
MAX_BODY_BYTES = 64 * 2**20
MAX_ROWS = 2**18
"""Rows of any one table in any one message. Keepers and nodes set lower limits of their own."""

Array = npt.NDArray[np.generic]
_UINT: Mapping[str, np.dtype[Any]] = {
    "u1": np.dtype("u1"),
    "u2": np.dtype(">u2"),
    "u4": np.dtype(">u4"),
    "u8": np.dtype(">u8"),
}


def _fits(array: Array, dtype: np.dtype[Any]) -> bool:
    if array.size == 0 or np.can_cast(array.dtype, dtype):
        return True
    return array.dtype.kind in "ui" and bool(array.min() >= 0) and int(array.max()) <= np.iinfo(dtype).max


@dataclass(frozen=True, slots=True)
class Column:
    """One column: `kind` is "u1", "u2", "u4", "u8", or the width in bytes of an opaque value."""

    name: str
    kind: str | int

    @property
    def row_bytes(self) -> int:
        """Bytes a row takes."""
        return self.kind if isinstance(self.kind, int) else _UINT[self.kind].itemsize

    def encode(self, values: Array, rows: int) -> bytes:
        """Return the column's bytes; integers shape (n,), opaque values uint8 shape (n, width).

        Raises:
            MalformedError: another shape, or a value that does not fit: numpy would wrap it around.
        """
        array = np.asarray(values)
        dtype: np.dtype[Any] = np.dtype("u1") if isinstance(self.kind, int) else _UINT[self.kind]
        expected = (rows, self.kind) if isinstance(self.kind, int) else (rows,)
        if array.shape != expected or not _fits(array, dtype):
            raise MalformedError(f"column {self.name}: expected {dtype} {expected}, got {array.dtype} {array.shape}")
        return np.ascontiguousarray(array, dtype).tobytes()


RECORDS = (  # rows of a put, as keepers and nodes both see them: the receipt's root covers these bytes
    Column("collection", "u2"),
    Column("subject", 16),
    Column("record", 16),
    Column("version", "u4"),
    Column("tag", 16),  # first 16 bytes of SHA-256 over the row's (class, commitment) pairs
    Column("collected_s", "u8"),
    Column("expires_s", "u8"),  # 0: no end of its own
)
CELLS = (Column("record_row", "u4"), Column("class", "u2"), Column("commitment", 32))
TOKENS = (Column("collection", "u2"), Column("field", "u2"), Column("normaliser", "u2"), Column("token", 32))
OPEN_RECORDS = (Column("collection", "u2"), Column("subject", 16), Column("record", 16))
OPEN_CELLS = (
    Column("record_row", "u4"),
    Column("class", "u2"),
    Column("version", "u4"),
    Column("collected_s", "u8"),
    Column("expires_s", "u8"),
    Column("nonce", 24),
)
DELETED = (Column("collection", "u2"), Column("subject", 16), Column("record", 16), Column("version", "u4"))
ROWS = (*RECORDS, Column("verified", "u1"))  # sealed rows as a node answers them, beside their blobs
CLASSES = (Column("class", "u2"),)
POSTINGS = (
    Column("record_row", "u4"),
    Column("class", "u2"),  # the class whose field it indexes: superseded with it
    Column("unique", "u1"),
    Column("labels", "u1"),  # how many rows of the `labels` table are this posting's candidates, in slot order
    Column("mac", 16),
)
LABELS = (Column("label", 16),)


MOST_SECONDS = 2**40
"""Dates of rows are below it: keepers refuse a request, and with it all its other rows, that names a later one."""

NOWHERE = 0xFFFFFFFF
"""Slot of a posting that took none."""


class Outcome(enum.IntEnum):
    """What became of one row of a put."""

    STORED = 0  # durable and visible; also when it was there already, byte for byte
    UNIQUE_TAKEN = 1  # another live record holds the value of a unique field; nothing of the row was stored
    VERSION_TAKEN = 2  # the version is not the successor of the current one; nothing of the row was stored
    NO_SLOT = 3  # all candidate labels of a posting are taken: come again with later ones; nothing was stored
    DELETED = 4  # the record was deleted; nothing was stored


@dataclass(frozen=True, slots=True)
class Schema:
    """Shape of one message."""

    code: int
    scalars: tuple[Column, ...] = ()
    tables: Mapping[str, tuple[Column, ...]] = field(default_factory=dict)
    blobs: tuple[str, ...] = ()


_U4 = "u4"
_KEYS = (Column("epoch", _U4), Column("generation", _U4))
STORE_COUNTS = ("records", "rows", "postings", "unverified", "size_bytes", "free_bytes")
"""What a node counts of its store; `free_bytes` are 0 where it lies on servers of its own."""
MEMBER_WHOLE = "whole"
"""Among a node's settings, "member PLACE": this, if that member of the store reaches every copy of a row."""

NO_STANDBY = "none: a switch-over now loses what was acknowledged last"
"""Among a node's settings, "synchronous_standby_names": this, where one of several servers waits for no other."""

AT_LEAST = "counts=at least"
"""Among a node's settings: it stopped counting, and the store holds more."""


def _counts(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name, "u8") for name in names)


SCHEMAS: Mapping[str, Schema] = {
    # client -> keeper
    "put": Schema(1, _KEYS, {"records": RECORDS, "cells": CELLS, "tokens": TOKENS}),
    "open": Schema(2, (Column("epoch", _U4),), {"records": OPEN_RECORDS, "cells": OPEN_CELLS}),
    "index": Schema(3, (Column("generation", _U4),), {"tokens": TOKENS}),
    "prehash": Schema(4, (), {"fields": (Column("collection", "u2"), Column("field", "u2"))}),
    "verify": Schema(5, (Column("epoch", _U4),), {"records": OPEN_RECORDS, "cells": OPEN_CELLS}),
    "delete": Schema(6, (), {"records": DELETED}),
    "audit": Schema(7, (Column("subject", 16), Column("since_s", "u8"), Column("start", "u8"))),  # who saw this person
    "log": Schema(8, (Column("start", "u8"), Column("count", _U4))),  # entries and the cosigned checkpoint
    "state": Schema(9),  # epoch, generation, policy version, log size of who has all keys: for clients and doctor
    # keeper -> client: the rest of a log or audit answer (DPRF answers: formats.answer)
    "entries": Schema(16, _counts("start", "size", "free_bytes"), {}, ("entries", "checkpoint")),
    # client -> node
    "node_put": Schema(
        32,
        (*_KEYS, Column("nonce_base", 20), Column("verified", "u1")),
        {
            "records": RECORDS,
            "cells": CELLS,
            "wraps": (Column("wrap", 32),),  # one for each cell; the cell's row number completes its nonce
            "postings": POSTINGS,
            "labels": LABELS,
        },
        ("envelopes", "receipts"),  # one envelope for each cell
    ),
    "node_get": Schema(33, (), {"records": (Column("record", 16),), "classes": CLASSES}),
    "node_find": Schema(34, (), {"labels": LABELS, "classes": CLASSES}),
    "node_list": Schema(
        35,
        (Column("collection", "u2"), Column("after", 16), Column("limit", _U4)),
        {"subjects": (Column("subject", 16),), "classes": CLASSES},  # no subjects: the whole collection, by record id
    ),
    "node_delete": Schema(36, (), {"records": DELETED}, ("receipts",)),
    "node_state": Schema(37),  # what lies in the store, and what its durability depends on: for doctor
    # node -> client
    "outcomes": Schema(48, (), {"records": (Column("outcome", "u1"),), "postings": (Column("slot", _U4),)}),
    "rows": Schema(
        49,
        (),
        {"hits": (Column("label_row", _U4), Column("record", 16), Column("mac", 16)), "rows": ROWS},
        ("sealed", "wraps"),  # one blob of each for each row: formats.envelope.{split_cells, split_wraps}
    ),
    "store_state": Schema(  # blobs: one name; "NAME=VALUE" each
        50, (Column("policy_version", _U4), *_counts("time_ms", *STORE_COUNTS)), {}, ("engine", "settings")
    ),
}
_CODES = {schema.code: name for name, schema in SCHEMAS.items()}
_Place = tuple[str, np.dtype[Any], int, bool]
"""A column's name, dtype, width in bytes, and whether it is opaque."""


def _places(columns: Sequence[Column]) -> list[_Place]:
    kinds = [(c, isinstance(c.kind, int)) for c in columns]
    return [(c.name, _UINT["u1" if opaque else str(c.kind)], c.row_bytes, opaque) for c, opaque in kinds]


_LAYOUTS = {  # by operation, for each table: name, columns, bytes a row takes
    op: [(n, _places(columns), sum(c.row_bytes for c in columns)) for n, columns in schema.tables.items()]
    for op, schema in SCHEMAS.items()
}

Table = dict[str, Array]


@dataclass(frozen=True, slots=True)
class Message:
    """A decoded message. Columns are read-only views on the received bytes."""

    op: str
    salt: bytes
    scalars: dict[str, int | bytes]
    tables: dict[str, Table]
    blobs: dict[str, list[bytes]]
    body: bytes = field(repr=False)
    spans: dict[str, slice]  # where each table lies in `body`

    def sent_root(self, *names: str) -> bytes:
        """Return the root that receipts cover (`put_root`, `delete_root`), from the bytes of these tables as sent."""
        return hashlib.sha256(b"".join(self.body[self.spans[name]] for name in names)).digest()

    def number(self, name: str) -> int:
        """Return an integer scalar."""
        value = self.scalars[name]
        assert isinstance(value, int)
        return value

    def opaque(self, name: str) -> bytes:
        """Return an opaque scalar."""
        value = self.scalars[name]
        assert isinstance(value, bytes)
        return value


def rows_in(table: Table) -> int:
    """Return how many rows a table has."""
    return len(next(iter(table.values())))


def encode_table(columns: Sequence[Column], table: Table) -> bytes:
    """Return one table's bytes.

    Raises:
        MalformedError: columns disagree in shape or name. TooLargeError: more than MAX_ROWS.
    """
    if set(table) != {c.name for c in columns}:
        raise MalformedError(f"expected columns {[c.name for c in columns]}, got {sorted(table)}")
    rows = rows_in(table)
    if rows > MAX_ROWS:
        raise TooLargeError(f"table of {rows} rows, at most {MAX_ROWS}")
    return struct.pack(">I", rows) + b"".join(c.encode(table[c.name], rows) for c in columns)


def put_root(records: Table, cells: Table) -> bytes:
    """Return the root that receipts of a put cover: SHA-256 over both tables, as sent."""
    return hashlib.sha256(encode_table(RECORDS, records) + encode_table(CELLS, cells)).digest()


def delete_root(records: Table) -> bytes:
    """Return the root that receipts of a deletion cover."""
    return hashlib.sha256(encode_table(DELETED, records)).digest()


def encode(
    op: str,
    salt: bytes,
    scalars: Mapping[str, int | bytes] | None = None,
    tables: Mapping[str, Table] | None = None,
    blobs: Mapping[str, Sequence[bytes]] | None = None,
) -> bytes:
    """Return the bytes of one message; missing tables and blob lists are empty.

    Raises:
        MalformedError: a part does not follow the schema of `op`.
        TooLargeError: more than MAX_ROWS or MAX_BODY_BYTES.
    """
    schema = SCHEMAS[op]
    scalars, tables, blobs = scalars or {}, tables or {}, blobs or {}
    if len(salt) != SALT_BYTES or set(scalars) != {c.name for c in schema.scalars}:
        raise MalformedError(f"{op}: expected a {SALT_BYTES}-byte salt and scalars {[c.name for c in schema.scalars]}")
    if not set(tables) <= set(schema.tables) or not set(blobs) <= set(schema.blobs):
        raise MalformedError(f"{op}: unknown part in {sorted(tables)} or {sorted(blobs)}")
    parts = [MAGIC, bytes([schema.code]), salt]
    for column in schema.scalars:
        parts.append(_encode_scalar(column, scalars[column.name]))
    for name, columns in schema.tables.items():
        parts.append(encode_table(columns, tables[name]) if name in tables else struct.pack(">I", 0))
    for name in schema.blobs:
        blob_list = blobs.get(name, ())
        if len(blob_list) > MAX_ROWS:
            raise TooLargeError(f"{name}: {len(blob_list)} blobs, at most {MAX_ROWS}")
        parts.append(struct.pack(f">I{len(blob_list)}I", len(blob_list), *map(len, blob_list)))
        parts.extend(blob_list)
    if sum(map(len, parts)) > MAX_BODY_BYTES:
        raise TooLargeError(f"{op}: more than {MAX_BODY_BYTES} bytes")
    return b"".join(parts)


def _encode_scalar(column: Column, value: int | bytes) -> bytes:
    size = column.row_bytes
    if isinstance(column.kind, int):
        if isinstance(value, bytes) and len(value) == size:
            return value
    elif not isinstance(value, bytes) and 0 <= value < 1 << (8 * size):
        return int(value).to_bytes(size)
    raise MalformedError(f"scalar {column.name}: expected {column.kind}, {size} bytes")


class _Reader:
    def __init__(self, body: bytes) -> None:
        self.data, self.at = body, 0

    def skip(self, size: int, what: str) -> int:
        """Return where the next `size` bytes begin, which are there."""
        start = self.at
        if size > len(self.data) - start:
            raise MalformedError(f"{what}: {size} bytes expected, {len(self.data) - start} left")
        self.at += size
        return start

    def take(self, size: int, what: str) -> bytes:
        start = self.skip(size, what)
        return self.data[start : self.at]

    def table(self, name: str, columns: Sequence[_Place], row_bytes: int) -> Table:
        """Return a table, of read-only views; one check of the length for all its columns."""
        rows, table = self.count(name), {}
        at, data = self.skip(rows * row_bytes, name), self.data
        for column, dtype, width, opaque in columns:
            table[column] = np.ndarray((rows, width) if opaque else rows, dtype, data, at)
            at += rows * width
        return table

    def count(self, what: str) -> int:
        rows = int.from_bytes(self.take(4, what))
        if rows > MAX_ROWS:
            raise TooLargeError(f"{what}: {rows} rows, at most {MAX_ROWS}")
        return rows


def decode(body: bytes, *expected: str) -> Message:
    """Return the message in `body`, whose operation must be one of `expected`.

    Raises:
        MalformedError: another operation, a short or long body. TooLargeError: more than MAX_ROWS or MAX_BODY_BYTES.
    """
    if len(body) > MAX_BODY_BYTES:
        raise TooLargeError(f"message of {len(body)} bytes, at most {MAX_BODY_BYTES}")
    reader = _Reader(body)
    if reader.take(4, "magic") != MAGIC:
        raise MalformedError("not an Anwen message")
    op = _CODES.get(reader.take(1, "operation")[0], "unknown")
    if op not in expected:
        raise MalformedError(f"expected operation {' or '.join(expected)}, got {op}")
    schema = SCHEMAS[op]
    salt = reader.take(SALT_BYTES, "salt")
    scalars: dict[str, int | bytes] = {}
    for column in schema.scalars:
        raw = reader.take(column.row_bytes, column.name)
        scalars[column.name] = raw if isinstance(column.kind, int) else int.from_bytes(raw)
    tables: dict[str, Table] = {}
    spans: dict[str, slice] = {}
    for name, columns, row_bytes in _LAYOUTS[op]:
        start = reader.at
        tables[name] = reader.table(name, columns, row_bytes)
        spans[name] = slice(start, reader.at)
    blobs: dict[str, list[bytes]] = {}
    for name in schema.blobs:
        rows = reader.count(name)
        lengths = struct.unpack(f">{rows}I", reader.take(4 * rows, name))
        blobs[name] = [reader.take(length, name) for length in lengths]
    if reader.at != len(body):
        raise MalformedError(f"{op}: {len(body) - reader.at} bytes after the end")
    return Message(op, salt, scalars, tables, blobs, body, spans)
