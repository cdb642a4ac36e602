import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from anwen.errors import MalformedError, ProofError
from anwen.formats import checkpoint
from anwen.formats.checkpoint import Checkpoint
from vectors import golden, wycheproof

LOG_KEY, WITNESS_KEY = (Ed25519PrivateKey.from_private_bytes(bytes([i]) * 32) for i in (1, 2))
LOG, WITNESS = (key.public_key().public_bytes_raw() for key in (LOG_KEY, WITNESS_KEY))
NAME, WITNESS_NAME = "anwen.example/keeper-a", "anwen.example/keeper-b"
HEAD = Checkpoint(NAME, 20852163, bytes(range(32)))
NOTE = checkpoint.sign_note(checkpoint.encode_checkpoint(HEAD), NAME, LOG_KEY)
COSIGNED = checkpoint.cosign(NOTE, WITNESS_NAME, WITNESS_KEY, 1679315147)

# c2sp.org/signed-note, section "Verifier keys", example
C2SP_NOTE = """This is an example message.

— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=
"""
C2SP_VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"

# c2sp.org/tlog-cosignature, first example; its keys are not published
C2SP_COSIGNED = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
"""

# golang.org/x/mod/sumdb/note, package example
GO_NAME, GO_ID = "PeterNeumann", "c74f20a3"
GO_PUBLIC = base64.b64decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")[1:]
GO_SECRET = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def test_go_example_is_signed_alike():
    key = Ed25519PrivateKey.from_private_bytes(GO_SECRET)
    assert key.public_key().public_bytes_raw() == GO_PUBLIC
    assert checkpoint._key_id(GO_NAME, 1, GO_PUBLIC).hex() == GO_ID
    assert checkpoint.sign_note(GO_TEXT, GO_NAME, key) == f"{GO_TEXT}\n{GO_LINE}"


def test_signed_note_example_verifies():
    name, key_id, typed = C2SP_VKEY.split("+", 2)
    public = base64.b64decode(typed)[1:]
    assert checkpoint._key_id(name, 1, public).hex() == key_id
    with pytest.raises(MalformedError):  # the signature holds; the text is no checkpoint
        checkpoint.verify_note(C2SP_NOTE, name, public)
    with pytest.raises(ProofError):
        checkpoint.verify_note(C2SP_NOTE.replace("example message", "Example message"), name, public)


def test_cosignature_example_has_our_form():
    text, lines = checkpoint._split(C2SP_COSIGNED)
    head = checkpoint.decode_checkpoint(text)
    assert (head.origin, head.size) == ("example.com/behind-the-sofa", 20852163)
    assert int.from_bytes(lines[1].signature[:8]) == 1679315147
    assert [len(line.signature) for line in lines] == [64, 72]
    signed = b"cosignature/v1\ntime 1679315147\n" + text.encode()
    assert checkpoint._cosigned(text, 1679315147) == signed


def test_ed25519_of_wycheproof():
    """Wycheproof ed25519_test."""
    seen = 0
    for group, case in wycheproof("Signature/wycheproof/ed25519_test.json"):
        public, message, signature = (bytes.fromhex(v) for v in (group["publicKey"]["pk"], case["msg"], case["sig"]))
        if case["result"] == "acceptable":  # keys of small order: officers pin keys, nobody sends one
            continue
        assert checkpoint._verifies(public, signature, message) == (case["result"] == "valid"), case["tcId"]
        seen += 1
    assert seen > 100


def test_signed_and_cosigned_notes_verify():
    assert checkpoint.verify_note(NOTE, NAME, LOG) == HEAD
    assert checkpoint.verify_note(COSIGNED, NAME, LOG) == HEAD
    assert COSIGNED.startswith(NOTE)
    assert checkpoint.cosignatures(COSIGNED, {WITNESS_NAME: WITNESS}) == {WITNESS_NAME: 1679315147}
    assert checkpoint.cosignatures(NOTE, {WITNESS_NAME: WITNESS}) == {}


def test_key_ids_and_signed_bytes_are_those_of_the_specifications():
    lines = COSIGNED.splitlines()[-2:]
    for line, name, kind, public in zip(lines, (NAME, WITNESS_NAME), (1, 4), (LOG, WITNESS), strict=True):
        dash, line_name, signature = line.split(" ")
        assert (dash, line_name) == ("—", name)
        key_id = hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:4]
        assert base64.b64decode(signature)[:4] == key_id
    text = checkpoint.encode_checkpoint(HEAD)
    log_signature, cosignature = (base64.b64decode(line.split(" ")[2])[4:] for line in lines)
    LOG_KEY.public_key().verify(log_signature, text.encode())
    message = f"cosignature/v1\ntime 1679315147\n{text}".encode()
    WITNESS_KEY.public_key().verify(cosignature[8:], message)
    assert cosignature[:8] == (1679315147).to_bytes(8)


def test_a_checkpoint_signature_is_not_a_cosignature():
    own = checkpoint.cosign(NOTE, NAME, LOG_KEY, 5)
    assert checkpoint.cosignatures(NOTE, {NAME: LOG}) == {}
    assert checkpoint.cosignatures(own, {NAME: LOG}) == {NAME: 5}
    text = checkpoint.encode_checkpoint(HEAD)
    only_cosigned = f"{text}\n{own.splitlines()[-1]}\n"
    with pytest.raises(ProofError):
        checkpoint.verify_note(only_cosigned, NAME, LOG)


def test_wrong_keys_names_and_texts_do_not_verify():
    for name, public in ((NAME, WITNESS), (WITNESS_NAME, LOG), ("", LOG), (NAME, b"")):
        with pytest.raises(ProofError):
            checkpoint.verify_note(NOTE, name, public)
    for other in (NOTE.replace("20852163", "20852164"), NOTE.replace("keeper-a\n2", "keeper-c\n2")):
        with pytest.raises(ProofError):
            checkpoint.verify_note(other, NAME, LOG)
    forged = COSIGNED.replace("20852163", "20852164")
    assert checkpoint.cosignatures(forged, {WITNESS_NAME: WITNESS}) == {}
    assert checkpoint.cosignatures(COSIGNED, {WITNESS_NAME: LOG, NAME: WITNESS}) == {}


def test_one_wrong_line_of_a_known_key_refuses_the_whole_note():
    line = base64.b64encode(checkpoint._key_id(NAME, 1, LOG) + bytes(64)).decode()
    with pytest.raises(ProofError):
        checkpoint.verify_note(f"{NOTE}— {NAME} {line}\n", NAME, LOG)


def test_unknown_keys_and_types_are_kept_and_ignored():
    ml_dsa = base64.b64encode(b"\x01\x02\x03\x04" + bytes(8 + 2420)).decode()
    short = base64.b64encode(checkpoint._key_id(WITNESS_NAME, 4, WITNESS) + b"x").decode()
    extended = f"{NOTE}— other.example/w {ml_dsa}\n— {WITNESS_NAME} {ml_dsa}\n— {WITNESS_NAME} {short}\n"
    both = checkpoint.cosign(extended, WITNESS_NAME, WITNESS_KEY, 9)
    assert both.startswith(extended)
    assert checkpoint.verify_note(both, NAME, LOG) == HEAD
    assert checkpoint.cosignatures(both, {WITNESS_NAME: WITNESS}) == {WITNESS_NAME: 9}


def test_a_cosignature_under_another_key_id_is_ignored():
    head, _, line = COSIGNED[:-1].rpartition(" ")
    renamed = base64.b64encode(b"\1\2\3\4" + base64.b64decode(line)[4:]).decode()
    assert checkpoint.cosignatures(f"{head} {renamed}\n", {WITNESS_NAME: WITNESS}) == {}


def test_the_latest_cosignature_counts():
    note = NOTE
    for time_s in (5, 9, 7):
        note = checkpoint.cosign(note, WITNESS_NAME, WITNESS_KEY, time_s)
    assert checkpoint.cosignatures(note, {WITNESS_NAME: WITNESS}) == {WITNESS_NAME: 9}


def test_a_changed_time_is_not_a_cosignature():
    head, _, line = COSIGNED[:-1].rpartition(" ")
    data = bytearray(base64.b64decode(line))
    for at in range(4, len(data)):
        data[at] ^= 1
        changed = f"{head} {base64.b64encode(data).decode()}\n"
        assert checkpoint.cosignatures(changed, {WITNESS_NAME: WITNESS}) == {}
        data[at] ^= 1


@given(st.integers(0, 600), st.text(max_size=3), st.integers(0, 3))
def test_mutated_notes_raise_only_ours(at, insert, cut):
    changed = COSIGNED[:at] + insert + COSIGNED[at + cut :]
    try:
        head = checkpoint.verify_note(changed, NAME, LOG)
    except (MalformedError, ProofError):
        pass
    else:
        assert head == HEAD
    try:
        times = checkpoint.cosignatures(changed, {WITNESS_NAME: WITNESS})
    except MalformedError:
        pass
    else:
        assert times in ({}, {WITNESS_NAME: 1679315147})


@given(st.text(max_size=100))
def test_junk_raises_only_ours(text):
    for note in (text, f"{text}\n\n{text}\n", f"{checkpoint.encode_checkpoint(HEAD)}\n— {text}\n"):
        with pytest.raises((MalformedError, ProofError)):
            checkpoint.verify_note(note, NAME, LOG)


@given(
    st.text(st.characters(min_codepoint=0x20, codec="utf-8"), min_size=1, max_size=20),
    st.integers(0, 2**63 - 1),
    st.binary(min_size=32, max_size=32),
)
def test_any_checkpoint_comes_back(origin, size, root):
    head = Checkpoint(origin, size, root)
    text = checkpoint.encode_checkpoint(head)
    assert checkpoint.decode_checkpoint(text) == head
    assert checkpoint.verify_note(checkpoint.sign_note(text, NAME, LOG_KEY), NAME, LOG) == head


ROOT = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n\n",
        f"o\n1\n{ROOT}",
        f"o\n1\n{ROOT}\nextension\n",
        f"o\n1\n{ROOT}\n\n",
        f"\n1\n{ROOT}\n",
        f"o\n01\n{ROOT}\n",
        f"o\n-1\n{ROOT}\n",
        f"o\n+1\n{ROOT}\n",
        f"o\n1 \n{ROOT}\n",
        f"o\n١\n{ROOT}\n",
        f"o\n{2**63}\n{ROOT}\n",
        f"o\n{10**30}\n{ROOT}\n",
        f"o\n1\n{ROOT[:-1]}\n",
        f"o\n1\n{ROOT[:-2]}B=\n",
        f"o\n1\n{base64.b64encode(bytes(31)).decode()}\n",
        "o\n1\né\n",
    ],
)
def test_checkpoints_have_one_form(text):
    with pytest.raises(MalformedError):
        checkpoint.decode_checkpoint(text)


def test_writing_refuses_what_does_not_fit():
    for head in (Checkpoint("", 1, bytes(32)), Checkpoint("a\nb", 1, bytes(32)), Checkpoint("o", -1, bytes(32))):
        with pytest.raises(MalformedError):
            checkpoint.encode_checkpoint(head)
    with pytest.raises(MalformedError):
        checkpoint.encode_checkpoint(Checkpoint("o", 1, bytes(31)))
    for name in ("", "a b", "a+b", "a\u00a0b", "a\u2003b", "a\n"):
        with pytest.raises(MalformedError):
            checkpoint.sign_note(checkpoint.encode_checkpoint(HEAD), name, LOG_KEY)
    for text in ("no newline", "tab\t\n"):
        with pytest.raises(MalformedError):
            checkpoint.sign_note(text, NAME, LOG_KEY)
    for time_s in (-1, 2**63):
        with pytest.raises(MalformedError):
            checkpoint.cosign(NOTE, WITNESS_NAME, WITNESS_KEY, time_s)


def test_notes_are_bounded():
    line = NOTE.splitlines()[-1]
    sixteen = NOTE + f"{line}\n" * 15
    assert checkpoint.verify_note(sixteen, NAME, LOG) == HEAD  # the specification asks for at least 16
    with pytest.raises(MalformedError):
        checkpoint.verify_note(NOTE + f"{line}\n" * checkpoint.MAX_SIGNATURES, NAME, LOG)
    with pytest.raises(MalformedError):
        checkpoint.verify_note("x" * checkpoint.MAX_NOTE_CHARS + NOTE, NAME, LOG)


def test_the_page_has_our_note():
    page = golden("log.md")
    key, witness = (Ed25519PrivateKey.from_private_bytes(bytes.fromhex(page[n])) for n in ("log key", "witness key"))
    text = checkpoint.encode_checkpoint(Checkpoint(page["origin"], int(page["size"]), bytes.fromhex(page["root"])))
    note = checkpoint.cosign(
        checkpoint.sign_note(text, page["origin"], key), page["witness"], witness, int(page["time"])
    )
    assert note.splitlines()[-2:] == [page["signature line"], page["cosignature line"]]
