import copy
import pickle
import threading

import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFCMAC, CounterLocation, Mode
from hypothesis import given
from hypothesis import strategies as st

from anwen.crypto import dprf, prf
from anwen.errors import MalformedError
from vectors import golden, nist, wycheproof

BATCH = prf._FEW + 3  # enough rows for the batch path


def cmac(key, message):
    mac = CMAC(AES256(key))
    mac.update(message)
    return mac.finalize()


def subkeys(key):
    """K1 and K2 of SP 800-38B, written anew."""
    zero = Cipher(AES256(key), ECB()).encryptor().update(bytes(16))

    def double(block):
        number = int.from_bytes(block) * 2
        return (number % 2**128 ^ (0x87 if number >> 128 else 0)).to_bytes(16)

    return double(zero), double(double(zero))


def as_whole_blocks(key, message):
    """The message of whole blocks that has the same CMAC under `key`: padded, K2 in its last block replaced by K1."""
    if message and len(message) % 16 == 0:
        return message
    padded = message + b"\x80" + bytes(-(len(message) + 1) % 16)
    change = bytes(a ^ b for a, b in zip(*subkeys(key), strict=True))
    return padded[:-16] + bytes(a ^ b for a, b in zip(padded[-16:], change, strict=True))


def batch_cmac(key, message):
    """CMAC of any message by the batch code, once as each counter's line."""
    whole = as_whole_blocks(key, message)
    inputs = np.tile(np.frombuffer(whole[1:], np.uint8), (BATCH, 1))
    output = np.empty((BATCH, 32), np.uint8)
    prf._evaluate_chunk(prf.PrfKey(key), inputs, output, (whole[0], whole[0]))
    macs = {row.tobytes() for half in (output[:, :16], output[:, 16:]) for row in half}
    assert len(macs) == 1
    return macs.pop()


def rows(data, count, length):
    return np.frombuffer(data.draw(st.binary(min_size=count * length, max_size=count * length)), np.uint8).reshape(
        count, length
    )


def test_cmac_of_sp_800_38b():
    """NIST SP 800-38B, AES-256 examples."""
    cases = list(nist("CMAC/nist-800-38b-aes256.txt"))
    assert len(cases) >= 4
    for case in cases:
        assert batch_cmac(bytes.fromhex(case["KEY"]), bytes.fromhex(case["MESSAGE"])).hex() == case["OUTPUT"]


def test_cmac_of_wycheproof():
    """Wycheproof aes_cmac_test: valid and changed MACs."""
    seen = 0
    for group, case in wycheproof("Hash/wycheproof/aes_cmac_test.json"):
        if group["keySize"] != 256:
            continue
        computed = batch_cmac(bytes.fromhex(case["key"]), bytes.fromhex(case["msg"]))[: group["tagSize"] // 8].hex()
        assert (computed == case["tag"]) == (case["result"] == "valid"), case["tcId"]
        seen += 1
    assert seen > 100


def kdf_cases():
    for case in nist("KDF/nist-800-108-KBKDF-CTR.txt"):
        if case.get("PRF") == "CMAC_AES256" and case.get("CTRLOCATION") == "BEFORE_FIXED" and "KO" in case:
            yield case


def test_counter_before_the_input_under_cmac_is_sp_800_108():
    """NIST CAVP KBKDF, counter mode, CMAC-AES-256, counter before fixed input: all 160 cases, all counter widths."""
    cases = list(kdf_cases())
    assert len(cases) == 160
    for case in cases:
        key, fixed = bytes.fromhex(case["KI"]), bytes.fromhex(case["FixedInputData"])
        width, wanted = int(case["RLEN"].removesuffix("_BITS")) // 8, bytes.fromhex(case["KO"])
        blocks = (i.to_bytes(width) for i in range(1, len(wanted) // 16 + 2))
        assert b"".join(cmac(key, i + fixed) for i in blocks)[: len(wanted)] == wanted


@pytest.mark.parametrize("count", [1, BATCH])
def test_evaluate_gives_the_8_bit_cases_of_sp_800_108(count):
    """The same file, RLEN 8: their 60-byte inputs, made whole blocks by exchanging K2 for K1."""
    seen = 0
    for case in kdf_cases():
        if case["RLEN"] != "8_BITS":
            continue
        key, wanted = bytes.fromhex(case["KI"]), bytes.fromhex(case["KO"])
        whole = as_whole_blocks(key, b"\x01" + bytes.fromhex(case["FixedInputData"]))
        output = prf.evaluate(prf.PrfKey(key), np.tile(np.frombuffer(whole[1:], np.uint8), (count, 1)))
        for row in output:
            shared = min(len(wanted), 32)
            assert row.tobytes()[:shared] == wanted[:shared]
        seen += 1
    assert seen == 40


@given(st.data(), st.binary(min_size=32, max_size=32), st.integers(0, 40), st.sampled_from([15, 47, 79]))
def test_evaluate_equals_cmac_and_kbkdf(data, secret, count, length):
    inputs = rows(data, count, length)
    output = prf.evaluate(prf.PrfKey(secret), inputs)
    assert output.shape == (count, 32)
    assert output.dtype == np.uint8
    for x, value in zip(inputs, output, strict=True):
        assert value.tobytes() == cmac(secret, b"\x01" + x.tobytes()) + cmac(secret, b"\x02" + x.tobytes())
    if count:
        kdf = KBKDFCMAC(
            AES256, Mode.CounterMode, 32, 1, None, CounterLocation.BeforeFixed, None, None, inputs[0].tobytes()
        )
        assert kdf.derive(secret) == output[0].tobytes()


@pytest.mark.parametrize(
    "count", [prf._FEW, prf._FEW + 1, prf._CHUNK - 1, prf._CHUNK, prf._CHUNK + 1, 2 * prf._CHUNK + 5]
)
def test_every_row_of_any_batch_is_what_it_is_alone(count):
    random = np.random.default_rng(count)
    inputs = random.integers(0, 256, (count, 79), np.uint8)
    key = prf.PrfKey(bytes(range(32)))
    output = prf.evaluate(key, inputs)
    for at in {0, 1, count // 2, count - 1, min(count - 1, prf._CHUNK)}:
        assert output[at].tobytes() == prf.evaluate(key, inputs[at : at + 1])[0].tobytes()
    assert np.array_equal(prf.evaluate(key, np.asfortranarray(inputs)), output)  # any memory layout


@pytest.mark.parametrize(
    "inputs",
    [
        np.zeros((2, 16), np.uint8),
        np.zeros((2, 78), np.uint8),
        np.zeros(79, np.uint8),
        np.zeros((2, 79), np.int8),
        np.zeros((2, 79), np.uint16),
        np.zeros((1, 2, 15), np.uint8),
    ],
)
def test_other_shapes_are_refused(inputs):
    with pytest.raises(MalformedError):
        prf.evaluate(prf.PrfKey(bytes(32)), inputs)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_other_key_sizes_are_refused(size):
    with pytest.raises(MalformedError):
        prf.PrfKey(bytes(size))


def test_a_key_shows_nothing_and_is_not_copied():
    secret = bytes(range(0x41, 0x61))
    key = prf.PrfKey(secret)
    for text in (repr(key), str(key), f"{key}"):
        assert text == "<PrfKey>"
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            attempt(key)
    assert not hasattr(key, "__dict__")


def test_a_wiped_key_is_gone():
    key = prf.PrfKey(b"\xff" * 32)
    key.wipe()
    key.wipe()
    assert key._secret == bytes(32)
    for count in (1, BATCH):
        with pytest.raises(AttributeError):
            prf.evaluate(key, np.zeros((count, 79), np.uint8))


def test_threads_share_a_key():
    key = prf.PrfKey(bytes(32))
    inputs = [np.full((3000, 79), fill, np.uint8) for fill in range(4)]
    wanted = [prf.evaluate(key, x) for x in inputs]
    wrong = []

    def run(at):
        try:
            wrong.extend(at for _ in range(20) if not np.array_equal(prf.evaluate(key, inputs[at]), wanted[at]))
        except RuntimeError as error:  # what the library raises without the lock
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@given(st.binary(max_size=64), st.binary(min_size=1, max_size=20), st.binary(max_size=20))
def test_derive_is_kbkdf_with_hmac(secret, label, context):
    if 0 in label:
        with pytest.raises(MalformedError):
            prf.derive(secret, label, context)
        return
    mac = hmac_sha256(secret, b"\0\0\0\x01" + label + b"\0" + context + (256).to_bytes(4))
    assert prf.derive(secret, label, context) == mac


def hmac_sha256(key, message):
    mac = HMAC(key, hashes.SHA256())
    mac.update(message)
    return mac.finalize()


def test_the_page_has_our_values():
    page = golden("prf.md")
    key = prf.PrfKey(bytes.fromhex(page["key"]))
    for series in ("record", "index", "prehash"):
        x = np.frombuffer(bytes.fromhex(page[f"{series} x"]), np.uint8)
        assert prf.evaluate(key, x[None, :])[0].tobytes().hex() == page[f"{series} value"]
        assert prf.evaluate(key, np.tile(x, (BATCH, 1)))[-1].tobytes().hex() == page[f"{series} value"]
    sets = dprf.key_sets("abc", 2)
    for name, pad in zip("abc", dprf.pads(key, "officer-7", 1_700_000_060, sets, x[None, :]).values(), strict=True):
        assert pad.tobytes().hex() == page[f"pad {name}"]
