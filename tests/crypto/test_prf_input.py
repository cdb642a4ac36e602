import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anwen.crypto import prf_input
from anwen.errors import MalformedError
from vectors import golden

u2, u4, u5 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**40 - 1)


def opaque(size):
    return st.binary(min_size=size, max_size=size)


FIELDS = {
    "record": (u2, u2, u4, u4, u5, u5, opaque(16), opaque(16), opaque(24)),
    "index": (u2, u2, u2, u4, opaque(32)),
    "prehash": (u2, u2),
}
RECORD_FIELDS, INDEX_FIELDS, PREHASH_FIELDS = (st.tuples(*fields) for fields in FIELDS.values())
TYPED = st.sampled_from(list(FIELDS)).flatmap(lambda series: st.tuples(st.just(series), st.tuples(*FIELDS[series])))


def column(values, dtype):
    return np.array(values, dtype)


def opaque_column(values, width):
    return np.frombuffer(b"".join(values), np.uint8).reshape(len(values), width)


def record_inputs(cases, epoch, dtypes=("u2", "u2", "u4", "u8", "u8")):
    collection, class_, version, _, collected_s, expires_s, subject, record, nonce = zip(*cases, strict=True)
    return prf_input.record_inputs(
        *(column(v, d) for v, d in zip((collection, class_, version), dtypes, strict=False)),
        epoch,
        column(collected_s, dtypes[3]),
        column(expires_s, dtypes[4]),
        opaque_column(subject, 16),
        opaque_column(record, 16),
        opaque_column(nonce, 24),
    )


def index_inputs(case):
    collection, field, normaliser, generation, token = case
    columns = (column([v], "u2") for v in (collection, field, normaliser))
    return prf_input.index_inputs(*columns, generation, opaque_column([token], 32))


def prehash_inputs(case):
    return prf_input.prehash_inputs(*(column([v], "u2") for v in case))


@given(st.lists(RECORD_FIELDS, min_size=1, max_size=5))
def test_record_layout(cases):
    epoch = cases[0][3]
    inputs = record_inputs(cases, epoch)
    assert inputs.shape == (len(cases), prf_input.RECORD_BYTES)
    assert inputs.dtype == np.uint8
    for row, case in zip(inputs, cases, strict=True):
        collection, class_, version, _, collected_s, expires_s, subject, record, nonce = case
        expected = b"\x01" + collection.to_bytes(2) + class_.to_bytes(2) + version.to_bytes(4) + epoch.to_bytes(4)
        expected += collected_s.to_bytes(5) + expires_s.to_bytes(5) + subject + record + nonce
        assert row.tobytes() == expected


@given(st.lists(RECORD_FIELDS, min_size=17, max_size=40), st.integers(0, 16), st.sampled_from(["u", ">u"]))
def test_few_rows_are_packed_as_many_are(cases, few, order):
    dtypes = tuple(order + size for size in "22488")
    many = record_inputs(cases, 5, dtypes)
    if few:
        packed = record_inputs(cases[:few], 5, dtypes)
        assert (packed.dtype, packed.shape, packed.flags.writeable) == (np.uint8, (few, 79), True)
        assert np.array_equal(many[:few], packed)
    base = cases[0][6] + bytes(4)
    assert np.array_equal(prf_input.nonces(base, 40)[:few], prf_input.nonces(base, few))


@given(INDEX_FIELDS)
def test_index_layout(case):
    collection, field, normaliser, generation, token = case
    expected = b"\x02" + b"".join(v.to_bytes(2) for v in (collection, field, normaliser)) + generation.to_bytes(4)
    assert index_inputs(case).tobytes() == expected + token + bytes(4)


@given(PREHASH_FIELDS)
def test_prehash_layout(case):
    assert prehash_inputs(case).tobytes() == b"\x03" + case[0].to_bytes(2) + case[1].to_bytes(2) + bytes(10)


def test_lengths_complete_whole_blocks_with_the_counter():
    assert [size % 16 for size in (prf_input.RECORD_BYTES, prf_input.INDEX_BYTES, prf_input.PREHASH_BYTES)] == [15] * 3


def typed_input(typed):
    series, case = typed
    if series == "record":
        return record_inputs([case], case[3]).tobytes()
    return (index_inputs if series == "index" else prehash_inputs)(case).tobytes()


@given(TYPED, TYPED)
def test_different_fields_give_different_inputs(one, other):
    assert (typed_input(one) == typed_input(other)) == (one == other)


@given(TYPED, st.data())
def test_each_field_alone_changes_the_input(one, data):
    series, case = one
    at = data.draw(st.integers(0, len(case) - 1))
    changed = (*case[:at], data.draw(FIELDS[series][at]), *case[at + 1 :])
    assert (typed_input((series, changed)) == typed_input(one)) == (changed == case)


def test_big_endian_and_wide_columns_are_the_same():
    case = (1, 2, 3, 4, 5, 6, b"s" * 16, b"r" * 16, b"n" * 24)
    plain = record_inputs([case], 4)
    for dtypes in ((">u2", ">u2", ">u4", ">u8", ">u8"), ("u8",) * 5, ("u1",) * 5):
        assert np.array_equal(record_inputs([case], 4, dtypes), plain)


def test_no_rows():
    none, opaque_none = np.zeros(0, "u2"), np.zeros((0, 16), np.uint8)
    inputs = prf_input.record_inputs(
        none, none, none, 1, none, none, opaque_none, opaque_none, np.zeros((0, 24), np.uint8)
    )
    assert inputs.shape == (0, 79)
    assert prf_input.prehash_inputs(none, none).shape == (0, 15)


GOOD = {
    "collection": np.ones(2, "u2"),
    "class_": np.ones(2, "u2"),
    "version": np.ones(2, "u4"),
    "epoch": 1,
    "collected_s": np.ones(2, "u8"),
    "expires_s": np.ones(2, "u8"),
    "subject": np.zeros((2, 16), np.uint8),
    "record": np.zeros((2, 16), np.uint8),
    "nonce": np.zeros((2, 24), np.uint8),
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("collection", np.array([1, 2**16], "u4")),
        ("class_", np.array([2**16, 1], "u8")),
        ("version", np.array([1, 2**32], "u8")),
        ("epoch", -1),
        ("epoch", 2**32),
        ("collected_s", np.array([2**40, 0], "u8")),
        ("expires_s", np.array([0, 2**64 - 1], "u8")),
        ("collection", np.ones(3, "u2")),
        ("class_", np.ones(1, "u2")),
        ("class_", np.ones((2, 1), "u2")),
        ("version", np.ones(2, "i4")),
        ("version", np.ones(2, "f8")),
        ("expires_s", np.ones(2, bool)),
        ("subject", np.zeros((2, 15), np.uint8)),
        ("subject", np.zeros((1, 16), np.uint8)),
        ("record", np.zeros((2, 16), np.int8)),
        ("nonce", np.zeros((2, 20), np.uint8)),
        ("nonce", np.zeros(48, np.uint8)),
    ],
)
def test_what_does_not_fit_is_refused(name, value):
    prf_input.record_inputs(**GOOD)
    with pytest.raises(MalformedError):
        prf_input.record_inputs(**GOOD | {name: value})


def test_index_and_prehash_refuse_what_does_not_fit():
    one, wide = np.ones(1, "u2"), np.array([2**16], "u4")
    token = np.zeros((1, 32), np.uint8)
    for arguments in ((wide, one, one, 1, token), (one, one, one, 2**32, token), (one, one, one, 1, token[:, 1:])):
        with pytest.raises(MalformedError):
            prf_input.index_inputs(*arguments)
    with pytest.raises(MalformedError):
        prf_input.prehash_inputs(one, wide)


NONCE_FIELDS = st.tuples(st.text(max_size=20), opaque(16), st.integers(0, 2**64 - 1), opaque(32))


@given(NONCE_FIELDS, NONCE_FIELDS)
def test_nonce_base_depends_on_all_that_siblings_share(one, other):
    principal, jti, expires_s, request = one
    name = principal.encode()
    typed = b"anwen-nonce-1" + len(name).to_bytes(2) + name + jti + expires_s.to_bytes(8) + request
    base = prf_input.nonce_base(*one)
    assert base == hashlib.sha256(typed).digest()[:20]
    assert (prf_input.nonce_base(*other) == base) == (other == one)
    for at, value in enumerate(other):
        changed = (*one[:at], value, *one[at + 1 :])
        assert (prf_input.nonce_base(*changed) == base) == (changed == one)


@given(opaque(20), st.integers(0, 300))
def test_nonces_are_base_and_row(base, count):
    nonces = prf_input.nonces(base, count)
    assert nonces.shape == (count, 24)
    assert [n.tobytes() for n in nonces] == [base + row.to_bytes(4) for row in range(count)]


@pytest.mark.parametrize(
    "arguments", [("a", b"j" * 15, 1, b"r" * 32), ("a", b"j" * 16, -1, b"r" * 32), ("a", b"j" * 16, 1, b"r" * 31)]
)
def test_nonce_base_refuses_other_sizes(arguments):
    with pytest.raises(MalformedError):
        prf_input.nonce_base(*arguments)
    with pytest.raises(MalformedError):
        prf_input.nonces(b"short", 1)


def test_the_page_has_our_inputs():
    page = golden("prf.md")
    base = prf_input.nonce_base("officer-7", bytes(range(16)), 1_700_000_000, bytes(range(32)))
    assert base.hex() == page["nonce base"]
    case = (1, 0x8002, 3, 4, 1_700_000_000, 0, b"\x11" * 16, b"\x22" * 16, base + bytes([0, 0, 0, 9]))
    assert record_inputs([case], 4).tobytes().hex() == page["record x"]
    assert index_inputs((1, 5, 1, 2, b"\x33" * 32)).tobytes().hex() == page["index x"]
    assert prehash_inputs((1, 5)).tobytes().hex() == page["prehash x"]
