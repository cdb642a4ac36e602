"""Sealed files: what goes in comes out, and every cut, change, move or other key is refused (docs/spec/sealed_file.md)."""

import io

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from anwen.client import sealed_file
from anwen.client.sealed_file import CHUNK_BYTES, HEADER_BYTES, TAG_BYTES
from anwen.errors import MalformedError, OpenError, PolicyError

KEY = X25519PrivateKey.from_private_bytes(bytes(range(32)))
FULL = CHUNK_BYTES + TAG_BYTES


def seal(data, step=10_000):
    target = io.BytesIO()
    writer = sealed_file.SealedWriter(target, KEY.public_key())
    for at in range(0, len(data), step):
        writer.write(data[at : at + step])
    writer.finish()
    return target.getvalue()


def opened(sealed, key=KEY):
    return b"".join(sealed_file.read(io.BytesIO(sealed), key))


@given(
    size=st.one_of(st.integers(0, 300), st.integers(-2, 2).map(lambda d: 2 * CHUNK_BYTES + d)),
    step=st.integers(1, 99_999),
)
def test_what_is_sealed_opens(size, step):
    data = bytes(i * 7 % 251 for i in range(min(size, 300))) * (size // 300 + 1)
    assert opened(seal(data[:size], step)) == data[:size]


@given(at=st.integers(0, HEADER_BYTES + 200), bit=st.integers(0, 7))
def test_every_changed_bit_is_refused(at, bit):
    sealed = bytearray(seal(b"x" * 200))
    at %= len(sealed)
    sealed[at] ^= 1 << bit
    with pytest.raises((OpenError, MalformedError)):
        opened(bytes(sealed))


@pytest.mark.parametrize("size", [0, 5, CHUNK_BYTES, CHUNK_BYTES + 5])
def test_every_cut_is_refused(size):
    sealed = seal(b"y" * size)
    cuts = {
        len(sealed) - 1,
        HEADER_BYTES,
        HEADER_BYTES + 1,
        HEADER_BYTES - 1,
        0,
        HEADER_BYTES + FULL,
        HEADER_BYTES + FULL + 3,
    }
    for cut in cuts - {c for c in cuts if c >= len(sealed)}:
        with pytest.raises((OpenError, MalformedError)):
            opened(sealed[:cut])


def test_chunks_cannot_be_moved_repeated_left_out_or_added():
    sealed = seal(b"a" * CHUNK_BYTES + b"b" * CHUNK_BYTES + b"c")
    head, one, two, last = sealed[:HEADER_BYTES], *(sealed[HEADER_BYTES + i * FULL :][:FULL] for i in range(3))
    for wrong in ([two, one, last], [one, one, two, last], [one, last], [one, two], [one, two, last, last]):
        with pytest.raises(OpenError):
            opened(head + b"".join(wrong))


def test_another_key_opens_nothing():
    with pytest.raises(OpenError):
        opened(seal(b"secret"), X25519PrivateKey.generate())


def test_something_else_is_not_a_sealed_file():
    with pytest.raises(MalformedError):
        opened(b"name,phone\n" * 20)


def test_an_unfinished_file_is_refused():
    target = io.BytesIO()
    writer = sealed_file.SealedWriter(target, KEY.public_key())
    writer.write(b"z" * (CHUNK_BYTES + 1))
    writer.close()  # as when an export fails: closing is not finishing
    with pytest.raises(OpenError):
        opened(target.getvalue())


def test_keys_on_disk(tmp_path):
    public = sealed_file.make_recipient(tmp_path / "me")
    assert (tmp_path / "me").stat().st_mode & 0o777 == 0o600
    key = sealed_file.read_recipient_key(tmp_path / "me")
    assert sealed_file.read_recipient(public).public_bytes_raw() == key.public_key().public_bytes_raw()
    with pytest.raises(FileExistsError):
        sealed_file.make_recipient(tmp_path / "me")
    (tmp_path / "me").chmod(0o640)
    with pytest.raises(PolicyError, match="0640"):
        sealed_file.read_recipient_key(tmp_path / "me")
    with pytest.raises(MalformedError):
        sealed_file.read_recipient(tmp_path / "me")  # the private file is no public key
