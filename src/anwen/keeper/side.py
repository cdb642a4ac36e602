"""Side data of log entries: what an entry must not say, kept beside it for the ledger, denials and audits.

Side data is ``salt 16 | blocks``; a block is ``kind u8 | collection u2 | rows u4 | width u2 | rows * width bytes``.
The entry holds only SHA-256 of it. Handles never appear: subjects are written under the month's pseudonym key, with
AES-256 as a permutation of 16-byte blocks, so that a keeper can turn its own pseudonyms back to rebuild its ledger,
and nobody can once the month's key is destroyed (docs/spec/keeper_log.md, docs/adr/0006).
"""

from __future__ import annotations

import enum
import hashlib
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from anwen.errors import MalformedError, StorageError
from anwen.keeper.folder import PRIVATE, Disk, read_private

SALT_BYTES = 16
HANDLE_BYTES = 16
_BLOCK = struct.Struct(">BHIH")
_KEY_BYTES = 32
DENIED = struct.Struct(">16s16sI")
"""A row of `Kind.DENIED`: record id, `denial_digest`, and the version up to which it is denied."""


class Kind(enum.IntEnum):
    """What a block holds, one row for each ..."""

    OPEN = 1  # pseudonym of a subject charged to Counter.OPEN
    LIST = 2  # the same for Counter.LIST
    RECORDS = 3  # no bytes: `rows` is the charge
    SEARCH = 4  # no bytes: `rows` is the charge
    WRITE = 5  # pseudonym of a subject charged to Counter.WRITE
    DELETE = 6  # pseudonym of a subject charged to Counter.DELETE
    SEEN = 7  # pseudonym of a subject that a request touched without a charge for it
    WRITTEN = 16  # record id 16, tag 16
    DENIED = 17  # `DENIED`
    GRANT = 18  # one row: the grant that carries the denial
    SUBJECT = 19  # `subject_digest` 16 of an erased or restricted subject


@dataclass(frozen=True, slots=True, repr=False)
class Block:
    """One block. With `width` 0 there are no bytes and `rows` is a count."""

    kind: Kind
    collection: int
    rows: int
    width: int
    data: bytes

    @classmethod
    def of(cls, kind: Kind, collection: int, data: bytes, width: int = HANDLE_BYTES) -> Block:
        """Return a block of rows of `width` bytes."""
        return cls(kind, collection, len(data) // width, width, data)

    @classmethod
    def count(cls, kind: Kind, collection: int, rows: int) -> Block:
        """Return a block that only counts."""
        return cls(kind, collection, rows, 0, b"")

    def values(self) -> list[bytes]:
        """Return the rows."""
        return [self.data[i : i + self.width] for i in range(0, len(self.data), self.width)]


def encode(salt: bytes, blocks: Iterable[Block]) -> bytes:
    """Return side data."""
    parts = [salt]
    for block in blocks:
        parts += (_BLOCK.pack(block.kind, block.collection, block.rows, block.width), block.data)
    return b"".join(parts)


def decode(side: bytes) -> Iterator[Block]:
    """Yield the blocks of side data. Raises MalformedError."""
    at = SALT_BYTES
    while at < len(side):
        try:
            kind, collection, rows, width = _BLOCK.unpack_from(side, at)
            block = Block(Kind(kind), collection, rows, width, side[at + _BLOCK.size : at + _BLOCK.size + rows * width])
        except (struct.error, ValueError):
            raise MalformedError(f"side data: no block at byte {at}") from None
        at += _BLOCK.size + rows * width
        if at > len(side):
            raise MalformedError("side data: ends within a block")
        yield block


def denial_digest(collection: int, subject: bytes, record: bytes) -> bytes:
    """Return how a deleted record is remembered: bound to all that an opening must state, so no other is denied."""
    return hashlib.sha256(b"anwen-denial-1" + struct.pack(">H16s16s", collection, subject, record)).digest()[:16]


def subject_digest(subject: bytes) -> bytes:
    """Return how an erased or restricted subject is remembered, past the life of the month's key."""
    return hashlib.sha256(b"anwen-subject-1" + subject).digest()[:16]


class MonthKeys:
    """The pseudonym keys, one file for each month, `YYYY-MM.key`. Destroying one makes that month's subjects dark."""

    def __init__(self, folder: Path, disk: Disk, random: Callable[[int], bytes]) -> None:
        self._folder, self._disk, self._random = folder, disk, random
        self._ciphers: dict[str, tuple[CipherContext, CipherContext]] = {}
        self._lock = threading.Lock()

    def ensure(self, month: str) -> None:
        """Make the month's key if there is none, durably: a crash before leaves no entry of that month either.

        Raises StorageError.
        """
        if self._cipher(month) is None:
            try:
                self._disk.replace(self._folder / f"{month}.key", self._random(_KEY_BYTES), PRIVATE)
            except OSError as error:
                raise StorageError(f"{month}.key cannot be kept") from error

    def _cipher(self, month: str) -> tuple[CipherContext, CipherContext] | None:
        if month not in self._ciphers:
            path = self._folder / f"{month}.key"
            if not path.exists():
                return None
            if len(key := read_private(path)) != _KEY_BYTES:
                raise StorageError(f"{month}.key: {len(key)} bytes, expected {_KEY_BYTES}")
            # ECB as a permutation of single random blocks, which is what a pseudonym is; no message is encrypted
            cipher = Cipher(algorithms.AES256(key), modes.ECB())  # noqa: S305
            self._ciphers[month] = cipher.encryptor(), cipher.decryptor()
        return self._ciphers[month]

    def pseudonyms(self, month: str, handles: bytes) -> bytes | None:
        """Return the pseudonyms of handles, 16 bytes each; None once the month's key is gone."""
        return self._turned(month, handles, 0)

    def handles(self, month: str, pseudonyms: bytes) -> bytes | None:
        """Return the handles behind pseudonyms; None once the month's key is gone."""
        return self._turned(month, pseudonyms, 1)

    def _turned(self, month: str, blocks: bytes, direction: int) -> bytes | None:
        with self._lock:  # audits run in threads of their own, and a cipher object serves one at a time
            cipher = self._cipher(month)
            return None if cipher is None else cipher[direction].update(blocks)
