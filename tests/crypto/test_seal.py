import hashlib
import hmac
import itertools

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from hypothesis import given
from hypothesis import strategies as st

from anwen.crypto import envelope, padding
from anwen.errors import MalformedError, OpenError
from vectors import golden, nist, wycheproof

DEK, IV = bytes(range(32)), bytes(range(100, 112))
CONTEXT = envelope.context(b"v" * 16, 1, 2, 3, b"s" * 16, b"r" * 16)
ids = st.binary(min_size=16, max_size=16)
CONTEXT_FIELDS = (ids, st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), ids, ids)


@given(
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=12, max_size=12),
    st.tuples(*CONTEXT_FIELDS),
    st.binary(max_size=600),
)
def test_what_was_sealed_opens(dek, iv, fields, body):
    context = envelope.context(*fields)
    sealed = envelope.seal(dek, iv, context, body)
    assert envelope.open_envelope(dek, context, sealed) == body
    assert sealed[0] == 1
    assert sealed[1:13] == iv
    assert sealed[13:45] == envelope.derive(dek, context)[1]


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=100))
def test_derive_is_the_one_step_kdf(dek, context):
    key, commitment = envelope.derive(dek, context)
    assert key + commitment == ConcatKDFHash(hashes.SHA512(), 64, context).derive(dek)


@pytest.mark.parametrize("role", ["init", "resp"])
def test_one_step_kdf_of_cavp(role):
    """NIST CAVP KASValidityTest ECCStaticUnified KDFConcat, P-256 and P-521 with SHA-512: tags under keys derived so."""
    seen = 0
    path = f"asymmetric/ECDH/KASValidityTest_ECCStaticUnified_KDFConcat_NOKC_{role}.fax"
    for section, case in kas_cases(path):
        if section not in {"EC - SHA512", "EE - SHA512"} or not case["Result"].startswith("P"):
            continue
        key_bytes = 16 if section.startswith("EC") else 32
        derived = envelope.derive(int(case["Z"], 16).to_bytes(len(case["Z"]) // 2), bytes.fromhex(case["OI"]))[0]
        assert derived[:key_bytes].hex() == case["DKM"]
        seen += 1
    assert seen


def kas_cases(path):
    """Yield (section, case): the file has its own habits, so that `nist` does not fit."""
    section, case = "", {}
    from cryptography_vectors import open_vector_file

    with open_vector_file(path, "r") as file:
        for raw in file:
            line = raw.strip()
            if line.startswith("[") and " - SHA" in line:
                section = line.strip("[]")
            name, _, value = (part.strip() for part in line.partition("="))
            case[name] = value
            if name == "Result":
                yield section, case
                case = {}


@given(st.binary(max_size=3000))
def test_padding_is_undone(body):
    padded = padding.pad(body)
    assert padding.unpad(padded) == body
    assert len(padded) == padding.padded_length(len(body))
    assert padding.is_padded_length(len(padded))


def test_padded_lengths_are_few_and_cheap():
    lengths = [padding.padded_length(size) for size in range(20_000)]
    assert set(lengths[: 127 + 1]) == {128}
    assert lengths == sorted(lengths)
    for size, padded in enumerate(lengths):
        assert padded > size
        assert padded <= max(128, (size + 1) * 1.12)
    assert len(set(lengths)) < 120  # all that a length can tell, up to 20 kB
    assert [size for size in range(300) if padding.is_padded_length(size)] == sorted({x for x in lengths if x < 300})


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_one_bucket_one_length(one, other):
    same = padding.padded_length(one) == padding.padded_length(other)
    sealed = [len(envelope.seal(DEK, IV, CONTEXT, bytes(size))) for size in (one, other)]
    assert (sealed[0] == sealed[1]) == same
    assert sealed[0] == padding.OVERHEAD_BYTES + padding.padded_length(one)


@pytest.mark.parametrize(
    "padded",
    [
        b"",
        bytes(128),
        b"\x80" + bytes(126),
        b"\x80" + bytes(128),
        b"a" * 128,
        b"a\x80" + bytes(200 - 2),
        b"a" * 127 + b"\x81",
        b"a\x80" + bytes(144 - 2),
    ],
)
def test_other_padding_does_not_open(padded):
    with pytest.raises(OpenError):
        padding.unpad(padded)


def flips(data):
    for at, bit in itertools.product(range(len(data)), range(8)):
        yield data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def test_every_flipped_bit_of_envelope_dek_and_context_is_refused():
    sealed = envelope.seal(DEK, IV, CONTEXT, b"body")
    for broken in flips(sealed):
        with pytest.raises(OpenError, match=r"^sealed bytes do not open$"):
            envelope.open_envelope(DEK, CONTEXT, broken)
    for broken in flips(DEK):
        with pytest.raises(OpenError):
            envelope.open_envelope(broken, CONTEXT, sealed)
    for broken in flips(CONTEXT):
        with pytest.raises(OpenError):
            envelope.open_envelope(DEK, broken, sealed)


@given(st.tuples(*CONTEXT_FIELDS), st.integers(0, 5), st.data())
def test_an_envelope_moved_to_another_place_does_not_open(fields, at, data):
    sealed = envelope.seal(DEK, IV, envelope.context(*fields), b"body")
    moved = (*fields[:at], data.draw(CONTEXT_FIELDS[at].filter(lambda v: v != fields[at])), *fields[at + 1 :])
    with pytest.raises(OpenError):
        envelope.open_envelope(DEK, envelope.context(*moved), sealed)


@given(st.binary(max_size=300))
def test_junk_does_not_open(junk):
    for candidate in (junk, b"\x01" + junk):
        with pytest.raises(OpenError):
            envelope.open_envelope(DEK, CONTEXT, candidate)


@given(st.integers(0, 250), st.binary(min_size=1, max_size=3))
def test_cut_or_longer_envelopes_do_not_open(cut, more):
    sealed = envelope.seal(DEK, IV, CONTEXT, b"body")
    for candidate in (sealed[: min(cut, len(sealed) - 1)], sealed + more, more + sealed):
        with pytest.raises(OpenError):
            envelope.open_envelope(DEK, CONTEXT, candidate)
    with pytest.raises(OpenError):
        envelope.open_envelope(DEK[:31], CONTEXT, sealed)


def test_seal_and_context_refuse_other_sizes():
    for dek, iv in ((DEK[1:], IV), (DEK, IV[1:]), (DEK, IV + b"x")):
        with pytest.raises(MalformedError):
            envelope.seal(dek, iv, CONTEXT, b"")
    good = (b"v" * 16, 1, 2, 3, b"s" * 16, b"r" * 16)
    for at, value in ((0, b"v"), (4, b"s" * 17), (5, b""), (1, -1), (1, 2**16), (2, 2**16), (3, 2**32)):
        with pytest.raises(MalformedError):
            envelope.context(*good[:at], value, *good[at + 1 :])


def test_context_is_that_of_the_page():
    vault, subject, record = b"v" * 16, b"s" * 16, b"r" * 16
    expected = b"anwen-envelope-1" + b"\x01" + vault + b"\x00\x01" + b"\x80\x02" + b"\0\0\0\x03" + subject + record
    assert envelope.context(vault, 1, 0x8002, 3, subject, record) == expected


# AES-GCM through our path: the vector's key in place of the derived one, a commitment of zeros, no padding to remove


@pytest.fixture
def raw_gcm(monkeypatch):
    monkeypatch.setattr(envelope, "derive", lambda dek, _: (dek, bytes(32)))
    monkeypatch.setattr(envelope, "unpad", bytes)

    def open_raw(key, iv, aad, ciphertext, tag):
        return envelope.open_envelope(key, aad, b"\x01" + iv + bytes(32) + ciphertext + tag)

    return open_raw


def test_gcm_of_cavp(raw_gcm):
    """NIST CAVP gcmDecrypt256: 96-bit IVs and 128-bit tags, failing cases too."""
    opened = failed = 0
    for case in nist("ciphers/AES/GCM/gcmDecrypt256.rsp"):
        if case.get("IVlen") != "96" or case.get("Taglen") != "128":
            continue
        key, iv, aad, ciphertext, tag = (bytes.fromhex(case[n]) for n in ("Key", "IV", "AAD", "CT", "Tag"))
        if "FAIL" in case:
            failed += 1
            with pytest.raises(OpenError):
                raw_gcm(key, iv, aad, ciphertext, tag)
        else:
            opened += 1
            assert raw_gcm(key, iv, aad, ciphertext, tag).hex() == case["PT"]
    assert (opened > 100, failed > 100) == (True, True)


def test_gcm_of_wycheproof(raw_gcm):
    """Wycheproof aes_gcm_test: 256-bit keys, 96-bit IVs."""
    seen = 0
    for group, case in wycheproof("Cipher/wycheproof/aes_gcm_test.json"):
        if (group["keySize"], group["ivSize"], group["tagSize"]) != (256, 96, 128):
            continue
        seen += 1
        arguments = [bytes.fromhex(case[n]) for n in ("key", "iv", "aad", "ct", "tag")]
        if case["result"] == "valid":
            assert raw_gcm(*arguments).hex() == case["msg"], case["tcId"]
        else:
            with pytest.raises(OpenError):
                raw_gcm(*arguments)
    assert seen > 50


# One ciphertext with two meanings: Dodis, Grubbs, Ristenpart, Woodage, "Fast message franking", CRYPTO 2018


def gf_multiply(x, y):
    product = 0
    for bit in range(127, -1, -1):
        if y >> bit & 1:
            product ^= x
        x = x >> 1 ^ (0xE1 << 120 if x & 1 else 0)
    return product


def gf_inverse(x):
    result, power = 1 << 127, x
    for _ in range(127):  # x^(2^128 - 2)
        power = gf_multiply(power, power)
        result = gf_multiply(result, power)
    return result


def blocks(data):
    return [int.from_bytes(data[at : at + 16].ljust(16, b"\0")) for at in range(0, len(data), 16)]


def encrypt_block(key, block):
    return Cipher(AES256(key), ECB()).encryptor().update(block)


def ghash(key, aad, ciphertext):
    h, total = int.from_bytes(encrypt_block(key, bytes(16))), 0
    lengths = (len(aad) * 8).to_bytes(8) + (len(ciphertext) * 8).to_bytes(8)
    for block in [*blocks(aad), *blocks(ciphertext), int.from_bytes(lengths)]:
        total = gf_multiply(total ^ block, h)
    return total


def two_key_ciphertext(key_1, key_2, iv, aad):
    """Ciphertext and tag that both keys accept: 128 bytes, of which both last plaintext bytes are 0x80."""
    masks = [int.from_bytes(encrypt_block(key, iv + b"\0\0\0\x01")) for key in (key_1, key_2)]
    stream = AESGCM(key_1).encrypt(iv, bytes(128), None)
    ciphertext = bytes(112) + bytes(15) + bytes([stream[127] ^ 0x80])
    difference = ghash(key_1, aad, ciphertext) ^ ghash(key_2, aad, ciphertext) ^ masks[0] ^ masks[1]
    # the first ciphertext block stands before 8 multiplications by H: itself, 7 more blocks and the lengths
    factors = []
    for key in (key_1, key_2):
        h = int.from_bytes(encrypt_block(key, bytes(16)))
        power = h
        for _ in range(8):
            power = gf_multiply(power, h)
        factors.append(power)
    free = gf_multiply(difference, gf_inverse(factors[0] ^ factors[1]))
    ciphertext = free.to_bytes(16) + ciphertext[16:]
    return ciphertext + (ghash(key_1, aad, ciphertext) ^ masks[0]).to_bytes(16)


def two_meanings():
    first, key_1 = DEK, envelope.derive(DEK, CONTEXT)[0]
    last = AESGCM(key_1).encrypt(IV, bytes(128), None)[127]
    for number in itertools.count():  # some 256 tries: the second key's stream must agree in the padding byte
        second = hashlib.sha256(number.to_bytes(4)).digest()
        key_2 = envelope.derive(second, CONTEXT)[0]
        if AESGCM(key_2).encrypt(IV, bytes(128), None)[127] == last:
            break
    sealed = two_key_ciphertext(key_1, key_2, IV, CONTEXT)
    assert all(AESGCM(key).decrypt(IV, sealed, CONTEXT)[-1] == 0x80 for key in (key_1, key_2))
    return first, second, b"\x01" + IV + envelope.derive(first, CONTEXT)[1] + sealed


def test_a_ciphertext_of_two_keys_opens_under_the_committed_one_alone(monkeypatch):
    first, second, sealed = two_meanings()
    assert len(envelope.open_envelope(first, CONTEXT, sealed)) == 127
    with pytest.raises(OpenError):
        envelope.open_envelope(second, CONTEXT, sealed)
    monkeypatch.setattr(hmac, "compare_digest", lambda *_: True)  # the weaker variant: the attack must win
    assert envelope.open_envelope(second, CONTEXT, sealed) != envelope.open_envelope(first, CONTEXT, sealed)


def test_the_page_has_our_envelope():
    page = golden("envelope.md")
    names = ("vault", "subject", "record", "dek", "iv")
    vault, subject, record, dek, iv = (bytes.fromhex(page[n]) for n in names)
    context = envelope.context(
        vault, int(page["collection"]), int(page["class"]), int(page["version"]), subject, record
    )
    assert context.hex() == page["context"]
    body = page["body"].encode()
    assert envelope.seal(dek, iv, context, body).hex() == page["envelope"]
    assert envelope.open_envelope(dek, context, bytes.fromhex(page["envelope"])) == body
