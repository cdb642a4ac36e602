import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anwen.errors import MalformedError, TooLargeError
from anwen.formats import wire
from vectors import golden

SALT = bytes(range(16))


def cells(kind, rows, random):
    if isinstance(kind, int):
        return np.frombuffer(random.randbytes(rows * kind), np.uint8).reshape(rows, kind)
    size = int(kind[1:])
    return np.array([random.getrandbits(8 * size) for _ in range(rows)], f"u{size}")


def make(op, random, most_rows=3):
    """Any message of one operation, as the parts that `encode` takes."""
    schema = wire.SCHEMAS[op]
    scalars = {
        c.name: random.randbytes(c.kind) if isinstance(c.kind, int) else random.getrandbits(8 * c.row_bytes)
        for c in schema.scalars
    }
    tables = {}
    for name, columns in schema.tables.items():
        rows = random.randint(0, most_rows)
        tables[name] = {c.name: cells(c.kind, rows, random) for c in columns}
    blobs = {n: [random.randbytes(random.randint(0, 9)) for _ in range(random.randint(0, 3))] for n in schema.blobs}
    return scalars, tables, blobs


OPS = st.sampled_from(sorted(wire.SCHEMAS))
RANDOM = st.randoms(use_true_random=False)


@given(OPS, RANDOM)
def test_every_message_comes_back(op, random):
    scalars, tables, blobs = make(op, random)
    message = wire.decode(wire.encode(op, SALT, scalars, tables, blobs), op)
    assert (message.op, message.salt, message.scalars, message.blobs) == (op, SALT, scalars, blobs)
    for name, table in tables.items():
        assert wire.rows_in(message.tables[name]) == wire.rows_in(table)
        for column, values in table.items():
            assert np.array_equal(message.tables[name][column], values)
            assert not message.tables[name][column].flags.writeable
    again = wire.encode(op, message.salt, message.scalars, message.tables, message.blobs)
    assert again == wire.encode(op, SALT, scalars, tables, blobs)


@given(OPS, RANDOM, st.integers(0, 2000), st.binary(max_size=4), st.integers(0, 4))
def test_a_mutated_message_is_refused_or_is_another_message(op, random, at, insert, cut):
    body = wire.encode(op, SALT, *make(op, random))
    at %= len(body) + 1
    changed = body[:at] + insert + body[at + cut :]
    try:
        message = wire.decode(changed, *wire.SCHEMAS)
    except (MalformedError, TooLargeError):
        return
    assert wire.encode(message.op, message.salt, message.scalars, message.tables, message.blobs) == changed


@given(st.binary(max_size=200), OPS)
def test_junk_raises_only_ours(junk, op):
    for body in (junk, wire.MAGIC + bytes([wire.SCHEMAS[op].code]) + SALT + junk):
        try:
            message = wire.decode(body, *wire.SCHEMAS)
        except (MalformedError, TooLargeError):
            continue
        assert wire.encode(message.op, message.salt, message.scalars, message.tables, message.blobs) == body


@pytest.mark.parametrize("op", sorted(wire.SCHEMAS))
def test_every_cut_and_every_longer_body_is_refused(op):
    from random import Random

    body = wire.encode(op, SALT, *make(op, Random(5)))
    for end in range(len(body)):
        with pytest.raises(MalformedError):
            wire.decode(body[:end], op)
    with pytest.raises(MalformedError, match="after the end"):
        wire.decode(body + b"\0", op)


def test_an_operation_is_taken_only_where_it_is_expected():
    body = wire.encode("state", SALT)
    assert wire.decode(body, "open", "state").op == "state"
    for expected in ((), ("open",), ("node_get", "put")):
        with pytest.raises(MalformedError):
            wire.decode(body, *expected)
    with pytest.raises(MalformedError):
        wire.decode(b"ANW2" + body[4:], "state")
    with pytest.raises(MalformedError):
        wire.decode(body[:4] + b"\xff" + body[5:], "state")


def test_codes_differ():
    assert len({schema.code for schema in wire.SCHEMAS.values()}) == len(wire.SCHEMAS)


def test_sizes_are_bounded_before_anything_is_read():
    head = wire.encode("index", SALT, {"generation": 1})[:-4]
    with pytest.raises(TooLargeError):
        wire.decode(head + struct.pack(">I", wire.MAX_ROWS + 1), "index")
    with pytest.raises(MalformedError):
        wire.decode(head + struct.pack(">I", wire.MAX_ROWS), "index")
    with pytest.raises(TooLargeError):
        wire.decode(bytes(wire.MAX_BODY_BYTES + 1), "index")
    rows = wire.encode("rows", SALT)
    blob_head = rows[:-8]
    with pytest.raises(TooLargeError):
        wire.decode(blob_head + struct.pack(">I", wire.MAX_ROWS + 1) + bytes(4), "rows")
    with pytest.raises(MalformedError):
        wire.decode(blob_head + struct.pack(">II", 1, 2**32 - 1) + bytes(4), "rows")


def test_writers_meet_the_same_bounds():
    labels = {"label": np.zeros((wire.MAX_ROWS + 1, 16), np.uint8)}
    with pytest.raises(TooLargeError):
        wire.encode("node_find", SALT, None, {"labels": labels})
    with pytest.raises(TooLargeError):
        wire.encode("rows", SALT, None, None, {"sealed": [b""] * (wire.MAX_ROWS + 1)})
    with pytest.raises(TooLargeError):
        wire.encode("rows", SALT, None, None, {"sealed": [bytes(wire.MAX_BODY_BYTES)]})


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("u1", np.array([1, 256])),
        ("u2", np.array([1, 2**16], "u4")),
        ("u4", np.array([-1, 1])),
        ("u8", np.array([-1, 1])),
        ("u4", np.array([1.0, 2.0])),
        ("u4", np.array([[1], [2]], "u4")),
        ("u4", np.array([1], "u4")),
        (4, np.array([[1, 2, 3, 256]] * 2)),
        (4, np.zeros((2, 3), np.uint8)),
        (4, np.zeros((2, 4), "i4") - 1),
        (4, np.zeros(8, np.uint8)),
    ],
)
def test_a_column_takes_no_value_that_numpy_would_wrap(kind, values):
    with pytest.raises(MalformedError):
        wire.Column("x", kind).encode(values, 2)


def test_a_column_takes_what_fits_in_any_dtype():
    for values in (np.array([1, 2]), np.array([1, 2], "u1"), np.array([1, 2], ">u8"), [1, 2]):
        assert wire.Column("x", "u4").encode(values, 2) == struct.pack(">II", 1, 2)
    assert wire.Column("x", "u1").encode(np.array([True, False]), 2) == b"\x01\x00"
    assert wire.Column("x", "u4").encode([], 0) == b""


@pytest.mark.parametrize(
    "arguments",
    [
        ("state", b"short"),
        ("index", SALT, {}),
        ("index", SALT, {"generation": -1}),
        ("index", SALT, {"generation": 2**32}),
        ("index", SALT, {"generation": b"\0\0\0\1"}),
        ("index", SALT, {"generation": 1, "epoch": 1}),
        ("audit", SALT, {"subject": b"s" * 15, "since_s": 0, "start": 0}),
        ("audit", SALT, {"subject": 5, "since_s": 0, "start": 0}),
        ("state", SALT, None, {"records": {}}),
        ("state", SALT, None, None, {"sealed": []}),
        ("index", SALT, {"generation": 1}, {"tokens": {"token": np.zeros((1, 32), np.uint8)}}),
    ],
)
def test_encode_refuses_parts_that_do_not_fit(arguments):
    with pytest.raises(MalformedError):
        wire.encode(*arguments)


def test_uneven_columns_are_refused():
    table = {"collection": np.ones(2, "u2"), "field": np.ones(1, "u2")}
    with pytest.raises(MalformedError):
        wire.encode("prehash", SALT, None, {"fields": table})


@given(RANDOM)
def test_roots_cover_the_tables_as_sent(random):
    _, tables, _ = make("put", random)
    body = wire.encode("put", SALT, {"epoch": 1, "generation": 1}, tables)
    covered = body[4 + 1 + 16 + 8 :]
    tokens = wire.encode_table(wire.TOKENS, tables["tokens"])
    assert wire.put_root(tables["records"], tables["cells"]) == hashlib.sha256(covered[: -len(tokens)]).digest()
    sent = wire.decode(body, "put").sent_root("records", "cells")
    assert sent == wire.put_root(tables["records"], tables["cells"])
    _, deleted, _ = make("delete", random)
    body = wire.encode("delete", SALT, None, deleted)
    assert wire.delete_root(deleted["records"]) == hashlib.sha256(body[21:]).digest()
    assert wire.decode(body, "delete").sent_root("records") == wire.delete_root(deleted["records"])


def test_scalars_by_kind():
    message = wire.decode(wire.encode("audit", SALT, {"subject": b"s" * 16, "since_s": 7, "start": 5}), "audit")
    assert message.opaque("subject") == b"s" * 16
    assert message.number("since_s") == 7
    with pytest.raises(AssertionError):
        message.number("subject")


def test_the_page_has_our_message():
    page = golden("wire.md")
    tokens = {
        "collection": np.array([1, 1], "u2"),
        "field": np.array([5, 6], "u2"),
        "normaliser": np.array([1, 1], "u2"),
        "token": np.array([[0x33] * 32, [0x44] * 32], np.uint8),
    }
    assert wire.encode("index", SALT, {"generation": 2}, {"tokens": tokens}).hex() == page["message"]
    for op, schema in wire.SCHEMAS.items():  # and the page names every operation with its code
        assert f"| {schema.code} | `{op}` |" in (golden.__globals__["SPEC"] / "wire.md").read_text(encoding="utf-8")
