import dataclasses
import hashlib

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from anwen.errors import MalformedError, ProofError
from anwen.formats import answer
from anwen.formats.answer import Header
from vectors import golden

KEY = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
IDENTITY = KEY.public_key().public_bytes_raw()
BASE = bytes(range(20))


def hashes():
    return st.binary(min_size=32, max_size=32)


def names():
    return st.text(st.characters(min_codepoint=1, max_codepoint=127), min_size=1, max_size=16)


def numbers(size):
    return st.integers(0, 2 ** (8 * size) - 1)


def make(rows, columns, fill=0, **changes):
    """A consistent header and its components."""
    components = np.arange(columns * rows * 32, dtype=np.uint32).astype(np.uint8).reshape(columns, rows, 32) ^ fill
    fields = {
        "vault": bytes(range(16)), "keeper": "a", "op": "open", "issuer": answer.issuer_hash("officer-7"),
        "request": bytes([1]) * 32, "root": bytes(32), "components": answer.column_hashes(components),
        "policy_version": 3, "epoch": 4, "generation": 2, "expires_s": 1_700_000_060, "time_ms": 1_700_000_000_123, "entry": 99,
        "rows": rows, "columns": columns,
    }  # fmt: skip
    return Header(**fields | changes), components


HEADERS = st.builds(
    Header, st.binary(min_size=16, max_size=16), names(), names(), hashes(), hashes(), hashes(), hashes(),
    numbers(4), numbers(4), numbers(4), numbers(8), numbers(8), numbers(8), numbers(4), st.integers(0, answer.MAX_COLUMNS),
)  # fmt: skip


@given(HEADERS)
def test_any_header_comes_back(header):
    receipt = header.encode() + KEY.sign(header.encode())
    assert len(receipt) == answer.RECEIPT_BYTES
    assert answer.decode_header(receipt) == header
    assert answer.verify_receipt(receipt, IDENTITY) == header


@given(st.integers(0, 5), st.integers(0, 4), st.sampled_from([b"", BASE]))
def test_answers_come_back(rows, columns, base):
    header, components = make(rows, columns)
    body = answer.encode_answer(header, KEY, base, components)
    decoded = answer.decode_answer(body)
    assert decoded.header == header
    assert decoded.nonce_base == base.ljust(20, b"\0")
    assert np.array_equal(decoded.components, components)
    assert answer.verify_receipt(decoded.receipt, IDENTITY) == header
    assert len(body) == answer.RECEIPT_BYTES + 20 + rows * columns * 32


@given(st.integers(0, 600), st.binary(max_size=4), st.integers(0, 4))
def test_a_mutated_answer_is_refused(at, insert, cut):
    body = answer.encode_answer(*make(2, 2)[:1], KEY, BASE, make(2, 2)[1])
    changed = body[:at] + insert + body[at + cut :]
    try:
        decoded = answer.decode_answer(changed)
        answer.verify_receipt(decoded.receipt, IDENTITY)
    except (MalformedError, ProofError):
        return
    nonce_base = slice(answer.RECEIPT_BYTES, answer.RECEIPT_BYTES + 20)  # the one part that is not signed: see the page
    assert (
        changed[: nonce_base.start] + changed[nonce_base.stop :] == body[: nonce_base.start] + body[nonce_base.stop :]
    )


@given(st.binary(max_size=500))
def test_junk_raises_only_ours(junk):
    signed = make(1, 1)[0].encode()
    for body in (junk, answer.MAGIC + junk, signed[: answer.HEADER_BYTES - 20] + junk):
        for read in (answer.decode_answer, answer.decode_header, lambda b: answer.verify_receipt(b, IDENTITY)):
            with pytest.raises((MalformedError, ProofError)):
                read(body)


def test_every_cut_and_every_longer_body_is_refused():
    header, components = make(2, 2)
    body = answer.encode_answer(header, KEY, BASE, components)
    for end in range(len(body)):
        with pytest.raises(MalformedError):
            answer.decode_answer(body[:end])
    with pytest.raises(MalformedError):
        answer.decode_answer(body + b"\0")
    for receipt in (body[: answer.RECEIPT_BYTES - 1], body[: answer.RECEIPT_BYTES + 1], b""):
        with pytest.raises(MalformedError):
            answer.decode_header(receipt)


def test_other_components_than_the_signed_ones_are_refused():
    header, components = make(2, 2)
    body = bytearray(answer.encode_answer(header, KEY, BASE, components))
    for at in range(answer.RECEIPT_BYTES + 20, len(body)):
        body[at] ^= 1
        with pytest.raises(ProofError):
            answer.decode_answer(bytes(body))
        body[at] ^= 1
    swapped = answer.encode_answer(header, KEY, BASE, components[::-1])
    with pytest.raises(ProofError):
        answer.decode_answer(swapped)


def test_only_the_pinned_key_signs():
    header, components = make(1, 1)
    body = answer.encode_answer(header, Ed25519PrivateKey.from_private_bytes(bytes(32)), BASE, components)
    receipt = answer.decode_answer(body).receipt
    with pytest.raises(ProofError):
        answer.verify_receipt(receipt, IDENTITY)
    good = answer.encode_answer(header, KEY, BASE, components)[: answer.RECEIPT_BYTES]
    for at in range(len(good)):
        broken = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        with pytest.raises((ProofError, MalformedError)):
            answer.verify_receipt(broken, IDENTITY)


def test_a_header_of_no_rows_and_many_columns_costs_nothing():
    header, components = make(0, 1)
    raw = bytearray(answer.encode_answer(header, KEY, BASE, components))
    raw[answer.HEADER_BYTES - 4 : answer.HEADER_BYTES] = b"\xff" * 4
    with pytest.raises(MalformedError):
        answer.decode_answer(bytes(raw))


@pytest.mark.parametrize(
    "change",
    [
        {"vault": b"v"},
        {"keeper": ""},
        {"keeper": "k" * 17},
        {"keeper": "é"},
        {"op": "a\0b"},
        {"issuer": b""},
        {"request": bytes(33)},
        {"root": bytes(31)},
        {"components": bytes(31)},
        {"policy_version": -1},
        {"epoch": 2**32},
        {"time_ms": 2**64},
        {"rows": 2**32},
        {"columns": answer.MAX_COLUMNS + 1},
    ],
)
def test_a_header_takes_nothing_that_would_be_cut_or_padded(change):
    with pytest.raises(MalformedError):
        dataclasses.replace(make(1, 1)[0], **change).encode()


def test_names_have_one_form():
    raw = bytearray(make(1, 1)[0].encode())
    for name in (b"\0" * 16, b"a\0b".ljust(16, b"\0"), "é".encode().ljust(16, b"\0")):
        raw[20:36] = name
        with pytest.raises(MalformedError):
            answer.decode_header(bytes(raw) + bytes(64))


def test_encode_answer_refuses_what_does_not_fit():
    header, components = make(2, 2)
    for base, given_components in (
        (BASE[1:], components),
        (BASE, components[:1]),
        (BASE, components.astype(np.uint16)),
        (BASE, components.reshape(4, 32)),
    ):
        with pytest.raises(MalformedError):
            answer.encode_answer(header, KEY, base, given_components)


def test_receipts_hold_hashes_not_components():
    header, components = make(3, 2)
    receipt = answer.encode_answer(header, KEY, BASE, components)[: answer.RECEIPT_BYTES]
    for column in components:
        for value in column:
            assert value.tobytes() not in receipt
    expected = b"".join(hashlib.sha256(column.tobytes()).digest() for column in components)
    assert header.components == hashlib.sha256(expected).digest()
    assert (
        "components" not in repr(answer.decode_answer(answer.encode_answer(header, KEY, BASE, components))).lower()[:20]
    )


def test_the_page_has_our_receipt():
    page = golden("answer.md")
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(page["identity key"]))
    header, components = make(2, 2)
    assert components.tobytes().hex() == page["components"]
    body = answer.encode_answer(header, key, BASE, components)
    assert body[: answer.HEADER_BYTES].hex() == page["header"]
    assert body[answer.HEADER_BYTES : answer.RECEIPT_BYTES].hex() == page["signature"]
