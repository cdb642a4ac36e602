import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from hypothesis import given
from hypothesis import strategies as st

from anwen.crypto import blind_index
from anwen.errors import MalformedError
from vectors import golden, nist

K_W = bytes(range(32))
ids = st.binary(min_size=16, max_size=16)


def test_token_is_hmac_of_rfc_4231():
    """RFC 4231, HMAC-SHA-256."""
    cases = [case for case in nist("HMAC/rfc-4231-sha256.txt") if "MD" in case]
    assert len(cases) == 6
    for case in cases:
        assert blind_index.token(bytes.fromhex(case["Key"]), bytes.fromhex(case["Msg"])).hex() == case["MD"]


def one_step_kdf(secret, info):
    return ConcatKDFHash(hashes.SHA512(), 64, info).derive(secret)


def test_labels_are_quarters_of_the_one_step_kdf():
    for i, label in enumerate(blind_index.labels(K_W, 0, 40)):
        assert label == one_step_kdf(K_W, b"anwen-label-1" + (i // 4).to_bytes(8))[16 * (i % 4) :][:16]


@given(st.binary(min_size=32, max_size=32), st.integers(0, 2**40), st.integers(0, 30), st.integers(0, 30))
def test_labels_come_out_the_same_however_they_are_asked_for(k_w, start, count, cut):
    together = blind_index.labels(k_w, start, count)
    cut = min(cut, count)
    assert together == blind_index.labels(k_w, start, cut) + blind_index.labels(k_w, start + cut, count - cut)
    assert len(together) == count
    assert len(set(together)) == count
    assert {len(label) for label in together} <= {16}


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_values_share_no_label(one, other):
    shared = set(blind_index.labels(one, 0, 50)) & set(blind_index.labels(other, 0, 50))
    assert bool(shared) == (one == other)


@given(ids, ids, ids, ids)
def test_posting_mac_names_record_and_subject(record, subject, other_record, other_subject):
    mac = blind_index.posting_mac(K_W, record, subject)
    assert mac == one_step_kdf(K_W, b"anwen-posting-1" + record + subject)[:16]
    for changed in ((other_record, subject), (record, other_subject), (subject, record)):
        assert (blind_index.posting_mac(K_W, *changed) == mac) == (changed == (record, subject))
    assert blind_index.posting_mac(K_W[::-1], record, subject) != mac


def test_what_does_not_fit_is_refused():
    for start, count in ((-1, 1), (0, -1)):
        with pytest.raises(MalformedError):
            blind_index.labels(K_W, start, count)
    for record, subject in ((b"r" * 15, b"s" * 17), (b"r" * 16, b"")):
        with pytest.raises(MalformedError):
            blind_index.posting_mac(K_W, record, subject)


def test_the_page_has_our_values():
    page = golden("blind_index.md")
    assert blind_index.token(bytes.fromhex(page["prehash key"]), page["value"].encode()).hex() == page["token"]
    k_w = bytes.fromhex(page["K_w"])
    for slot in (0, 3, 4, 1000):
        assert blind_index.labels(k_w, slot, 1)[0].hex() == page[f"label {slot}"]
    record, subject = bytes.fromhex(page["record"]), bytes.fromhex(page["subject"])
    assert blind_index.posting_mac(k_w, record, subject).hex() == page["mac"]
