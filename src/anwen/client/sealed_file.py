"""Files sealed to a recipient's key, as streams: how exports leave the vault (docs/spec/sealed_file.md).

``magic 16 | HPKE(file key) 80 | chunk ...``. The file key is fresh and sealed by HPKE (RFC 9180: X25519, HKDF-SHA-256,
AES-256-GCM). Chunks are 64 KiB under AES-256-GCM with a counter and a mark on the last one, so that cutting, moving or
repeating chunks is found (STREAM: Hoang, Reyhanitabar, Rogaway, Vizar, CRYPTO 2015; laid out as in age).
It hides contents, not who wrote them: whoever has the public key can make such a file.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO

from cryptography.exceptions import InternalError, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from anwen.errors import MalformedError, OpenError, PolicyError

MAGIC = b"ANWEN-SEALED-1\n\0"
INFO = b"anwen-sealed-file-1"
CHUNK_BYTES = 2**16
HEADER_BYTES = len(MAGIC) + 32 + 32 + 16
TAG_BYTES = 16
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def _nonce(counter: int, *, last: bool) -> bytes:
    return counter.to_bytes(11) + bytes([last])


class SealedWriter(io.BufferedIOBase):
    """A file to write to; what is written goes to `target` sealed. Only `finish` makes it complete."""

    def __init__(
        self, target: IO[bytes], recipient: X25519PublicKey, *, random: Callable[[int], bytes] = os.urandom
    ) -> None:
        super().__init__()
        key = random(32)
        self._target, self._aead, self._counter, self._at = target, AESGCM(key), 0, 0
        self._waiting = bytearray()
        target.write(MAGIC + _SUITE.encrypt(key, recipient, info=INFO))

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def write(self, data: bytes, /) -> int:  # type: ignore[override]  # any buffer
        """Take plaintext; all but the last chunk's worth is sealed and passed on."""
        size = memoryview(data).nbytes
        self._waiting += data
        self._at += size
        while len(self._waiting) > CHUNK_BYTES:  # the last chunk is known only at the end
            self._seal(bytes(self._waiting[:CHUNK_BYTES]), last=False)
            del self._waiting[:CHUNK_BYTES]
        return size

    def finish(self) -> None:
        """Seal the last chunk. A file without it is refused by `read`."""
        self._seal(bytes(self._waiting), last=True)
        self._waiting.clear()

    def _seal(self, chunk: bytes, *, last: bool) -> None:
        self._target.write(self._aead.encrypt(_nonce(self._counter, last=last), chunk, None))
        self._counter += 1


def read(source: BinaryIO, key: X25519PrivateKey) -> Iterator[bytes]:
    """Yield the plaintext of a sealed file, chunk by chunk. Use none of it before the iterator has ended.

    Raises:
        MalformedError: not a sealed file. OpenError: sealed to another key, changed, or cut off.
    """
    header = source.read(HEADER_BYTES)
    if len(header) != HEADER_BYTES or not header.startswith(MAGIC):
        raise MalformedError("not a file sealed by `anwen export`")
    try:
        aead = AESGCM(_SUITE.decrypt(header[len(MAGIC) :], key, info=INFO))
        chunk, counter, more = source.read(CHUNK_BYTES + TAG_BYTES), 0, True
        while more:
            following = source.read(CHUNK_BYTES + TAG_BYTES)
            more = bool(following)
            plain = aead.decrypt(_nonce(counter, last=not more), chunk, None)
            if counter and not plain:
                raise OpenError("an empty last chunk: not written by `anwen export`")
            yield plain
            chunk, counter = following, counter + 1
    except InvalidTag as error:
        raise OpenError("sealed to another key, changed, or cut off") from error


def make_recipient(path: Path) -> Path:
    """Make an X25519 key file (mode 0600) and `NAME.pub` beside it; return that. Raises FileExistsError."""
    key = X25519PrivateKey.generate()
    public = path.with_name(path.name + ".pub")
    _write(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    _write(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
    return public


def read_recipient(path: Path) -> X25519PublicKey:
    """Return the public key in a PEM file. Raises MalformedError."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedError(f"{path.name}: not a public key in PEM; `anwen recipient-key` makes one") from error
    if not isinstance(key, X25519PublicKey):
        raise MalformedError(f"{path.name}: expected an X25519 key, as `anwen recipient-key` makes it")
    return key


def read_recipient_key(path: Path) -> X25519PrivateKey:
    """Return the private key in a PEM file. Raises PolicyError when others may read it, MalformedError."""
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
        if mode & 0o077:
            raise PolicyError(f"{path.name}: mode {mode:04o}, expected 0600")
        secret = file.read()
    try:
        key = load_pem_private_key(secret, None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:  # the last: of a wrong length
        raise MalformedError(f"{path.name}: not a private key in PEM") from error
    if not isinstance(key, X25519PrivateKey):
        raise MalformedError(f"{path.name}: expected an X25519 key, as `anwen recipient-key` makes it")
    return key


def _write(path: Path, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
