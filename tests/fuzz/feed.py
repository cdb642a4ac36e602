"""A fuzzer's bytes as decisions: small numbers, pieces, and edits of real messages.

A target that needs more than junk reads what it does to a good message from its input, so that a mutator that knows
nothing of formats, libFuzzer's or the plain one, still gets behind lengths, checksums and signatures.
"""

import json

import numpy as np

from anwen.formats import wire

NUMBERS = (0, 1, 2, 3, 5, 15, 16, 17, 31, 32, 33, 63, 64, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**16, 2**18, 2**18 + 1,
           2**24, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 2**40 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip
"""Where readers of lengths and counts go wrong."""


class Feed:
    """Reads decisions; whatever is asked for beyond the end is zero."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def __bool__(self):
        return self.at < len(self.data)

    def take(self, size):
        """The next `size` bytes, fewer at the end."""
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size=1):
        """An integer of `size` bytes."""
        return int.from_bytes(self.take(size).ljust(size, b"\0"))

    def below(self, limit):
        """A number below `limit`, which is positive."""
        return self.number(1 if limit <= 256 else 2 if limit <= 2**16 else 4) % limit

    def choose(self, items):
        """One of `items`."""
        return items[self.below(len(items))]

    def rest(self):
        """All that is left."""
        return self.take(max(0, len(self.data) - self.at))

    def piece(self):
        """A length of one byte, and so many bytes."""
        return self.take(self.number())


def patched(data, feed, most=16):
    """`data` after the edits that a feed names, each where it says."""
    data = bytearray(data)
    for _ in range(most):
        if not feed:
            break
        kind, at = feed.below(8), feed.below(len(data) + 1)
        if kind == 0:
            data[at : at + 1] = feed.take(1)
        elif kind == 1:
            data[at:at] = feed.piece()
        elif kind == 2:
            del data[at : at + feed.number()]
        elif kind == 3:
            size = feed.choose((1, 2, 4, 8))
            data[at : at + size] = (feed.choose(NUMBERS) % 256**size).to_bytes(size)
        elif kind == 4:
            data[at:at] = data[at : at + feed.number()]
        elif kind == 5:
            if at < len(data):
                data[at] ^= 1 << feed.below(8)
        elif kind == 6:
            piece = feed.piece()
            data[at : at + len(piece)] = piece
        else:
            del data[at:]
    return bytes(data)


def _edit_table(table, feed):
    """A table with a row dropped, doubled, moved or changed in one column."""
    rows, kind = wire.rows_in(table), feed.below(5)
    if kind == 4:
        return {name: column[:0] for name, column in table.items()}
    if not rows:
        return {name: np.zeros((1, *column.shape[1:]), column.dtype) for name, column in table.items()}
    at = feed.below(rows)
    if kind == 0:
        return {name: np.delete(column, at, 0) for name, column in table.items()}
    if kind == 1:
        order = [*range(rows), *[at] * (1 + feed.below(40))]
        return {name: column[order] for name, column in table.items()}
    if kind == 2:
        other = feed.below(rows)
        order = list(range(rows))
        order[at], order[other] = order[other], order[at]
        return {name: column[order] for name, column in table.items()}
    name = feed.choose(sorted(table))
    column = np.array(table[name])
    if column.ndim == 2:
        column[at] = np.frombuffer(patched(column[at].tobytes(), feed, 2).ljust(column.shape[1], b"\0"), np.uint8)[
            : column.shape[1]
        ]
    else:
        value = feed.choose(NUMBERS) if feed.below(2) else feed.number(4)
        column[at] = value % (np.iinfo(column.dtype).max + 1)
    return table | {name: column}


def edited(message, feed, most=6):
    """The bytes of a decoded message after the edits that a feed names: whole rows, cells, scalars and blobs."""
    scalars, tables, blobs = dict(message.scalars), dict(message.tables), {n: list(b) for n, b in message.blobs.items()}
    parts = [*scalars, *tables, *blobs]
    for _ in range(most):
        if not feed or not parts:
            break
        name = feed.choose(parts)
        if name in scalars:
            value = scalars[name]
            if isinstance(value, bytes):
                scalars[name] = patched(value, feed, 2).ljust(len(value), b"\0")[: len(value)]
            else:
                kind = next(c for c in wire.SCHEMAS[message.op].scalars if c.name == name)
                scalars[name] = feed.choose(NUMBERS) % 256**kind.row_bytes
        elif name in tables:
            tables[name] = _edit_table(tables[name], feed)
        else:
            blobs[name] = _edit_blobs(blobs[name], feed)
    body = wire.encode(message.op, message.salt, scalars, tables, blobs)
    return patched(body, feed, 2) if feed else body


def _edit_blobs(blobs, feed):
    kind = feed.below(4)
    if not blobs or kind == 0:
        return [*blobs, feed.piece()]
    at = feed.below(len(blobs))
    if kind == 1:
        return blobs[:at] + blobs[at + 1 :]
    if kind == 2:
        return [*blobs, *[blobs[at]] * (1 + feed.below(40))]
    return [*blobs[:at], patched(blobs[at], feed, 4), *blobs[at + 1 :]]


ODD = (None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308, "", "a", "\ud800", "\0", "own", "1.1",
       "1.32767", "00", "ff" * 32, [], {}, [[]], {"a": 1}, ["a"], [None], {"1.1": 1}, float("nan"), float("inf"))  # fmt: skip
"""What a reader of JSON may meet in place of what it expects."""


def _places(value, path=()):
    """Every place in a JSON value."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from _places(value[key], (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _places(item, (*path, i))


def _put(value, path, change):
    if not path:
        return change(value)
    changed = dict(value) if isinstance(value, dict) else list(value)
    inner = _put(value[path[0]], path[1:], change)
    if inner is _GONE:
        del changed[path[0]]
    else:
        changed[path[0]] = inner
    return changed


_GONE = object()


def edited_json(value, feed, most=4):
    """A JSON value after the edits that a feed names: members dropped, doubled, replaced by odd ones, text patched."""
    for _ in range(most):
        if not feed:
            break
        path = feed.choose(list(_places(value)))
        kind = feed.below(6)
        if kind == 0 and path:
            value = _put(value, path, lambda _: _GONE)
        elif kind == 1:
            odd = feed.choose(ODD)
            value = _put(value, path, lambda _, odd=odd: odd)
        elif kind == 2:
            value = _put(value, path, lambda v: [v, v] if not isinstance(v, list) else [*v, *v])
        elif kind == 3:
            value = _put(value, path, lambda v: _patched_value(v, feed))
        elif kind == 4:
            name, odd = feed.choose(("a", "1.1", "99.1", "op", "jti", "classes", "b+c")), feed.choose(ODD)
            value = _put(value, path, lambda v, n=name, o=odd: {**v, n: o} if isinstance(v, dict) else o)
        else:
            value = _put(value, path, _nested)
    return value


def _patched_value(value, feed):
    if isinstance(value, str):
        return patched(value.encode("utf-8", "surrogatepass"), feed, 2).decode("utf-8", "replace")
    return feed.choose(NUMBERS) if type(value) in (int, float) else value


def _nested(value):
    for _ in range(200):
        value = [value]
    return value


def json_text(value, feed):
    """JSON of a value; at the feed's wish so deeply nested that readers run out of stack."""
    text = json.dumps(value)
    if feed.number() == 255:
        return "[" * 20_000 + text
    return text
