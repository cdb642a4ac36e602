"""A second reader of messages, written from docs/spec/wire.md alone: no numpy, no views, nothing shared with `wire`.

Only the schemas, which the page states as a table, are taken from there.
"""

import struct

from anwen.formats.wire import SCHEMAS


class RefusedError(Exception):
    """Not a message."""


class _Bytes:
    def __init__(self, data):
        self.left = data

    def take(self, size):
        if size > len(self.left):
            raise RefusedError
        taken, self.left = self.left[:size], self.left[size:]
        return taken

    def u4(self):
        return struct.unpack(">I", self.take(4))[0]

    def count(self):
        rows = self.u4()
        if rows > 2**18:
            raise RefusedError
        return rows


def _values(kind, rows, data):
    if isinstance(kind, int):
        return [data[i * kind : (i + 1) * kind] for i in range(rows)]
    size = int(kind[1:])
    return [int.from_bytes(data[i * size : (i + 1) * size]) for i in range(rows)]


def _width(kind):
    return kind if isinstance(kind, int) else int(kind[1:])


def decode(body, *expected):
    """Op, salt, scalars, tables (lists by column) and blobs. Raises RefusedError."""
    if len(body) > 64 * 2**20:
        raise RefusedError
    data = _Bytes(body)
    if data.take(4) != b"ANW1":
        raise RefusedError
    code = data.take(1)[0]
    op = next((name for name, schema in SCHEMAS.items() if schema.code == code), None)
    if op not in expected:
        raise RefusedError
    schema, salt = SCHEMAS[op], data.take(16)
    scalars = {c.name: _values(c.kind, 1, data.take(_width(c.kind)))[0] for c in schema.scalars}
    tables = {}
    for name, columns in schema.tables.items():
        rows = data.count()
        data_of = data.take(rows * sum(_width(c.kind) for c in columns))
        tables[name], at = {}, 0
        for c in columns:
            tables[name][c.name] = _values(c.kind, rows, data_of[at : at + rows * _width(c.kind)])
            at += rows * _width(c.kind)
    blobs = {}
    for name in schema.blobs:
        lengths = [struct.unpack(">I", data.take(4))[0] for _ in range(data.count())]
        blobs[name] = [data.take(length) for length in lengths]
    if data.left:
        raise RefusedError
    return op, salt, scalars, tables, blobs
