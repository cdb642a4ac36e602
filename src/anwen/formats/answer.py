"""A keeper's answer: a signed header, then components. The header alone is evidence and receipt (docs/spec/answer.md).

``header 224 B | Ed25519 signature 64 B | nonce base 20 B | component columns``. The header holds hashes of the
component columns and never the components, so that showing it to others gives no part of any key away.

Pure.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from anwen.errors import MalformedError, ProofError

MAGIC = b"ANWA"
COMPONENT_BYTES = 32
NONCE_BASE_BYTES = 20
SIGNATURE_BYTES = 64
_HEADER = struct.Struct(">4s16s16s16s32s32s32s32sIIIQQQII")
HEADER_BYTES = _HEADER.size
RECEIPT_BYTES = HEADER_BYTES + SIGNATURE_BYTES
NAME_BYTES = 16
MAX_COLUMNS = 64
"""Component columns of one answer. A (4, 7) keeper holds 20; without a limit, a header of 0 rows and 2^32 - 1 columns
costs the reader an hour."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a keeper signs about one answer."""

    vault: bytes  # 16
    keeper: str  # at most 16 ASCII characters
    op: str  # at most 16 ASCII characters
    issuer: bytes  # SHA-256 of the principal's id
    request: bytes  # SHA-256 of the request body
    root: bytes  # of a put or delete (`wire.put_root`, `wire.delete_root`); else 32 zero bytes
    components: bytes  # SHA-256 over the hashes of the component columns
    policy_version: int
    epoch: int
    generation: int
    expires_s: int  # of the grant that was answered: components of one second have the same pads (`dprf.pads`)
    time_ms: int
    entry: int  # index of this request's entry in the keeper's log
    rows: int  # rows of each component column
    columns: int  # component columns: one for each key set that the keeper holds

    def encode(self) -> bytes:
        """Return the bytes that are signed. Raises MalformedError: a value does not fit its place."""
        hashes = (self.issuer, self.request, self.root, self.components)
        if len(self.vault) != 16 or any(len(value) != 32 for value in hashes) or self.columns > MAX_COLUMNS:
            raise MalformedError("answer header: expected a vault of 16, hashes of 32 bytes and few columns")
        try:
            return _HEADER.pack(
                MAGIC, self.vault, _name(self.keeper), _name(self.op), *hashes, self.policy_version, self.epoch,
                self.generation, self.expires_s, self.time_ms, self.entry, self.rows, self.columns,
            )  # fmt: skip
        except struct.error as error:
            raise MalformedError("answer header: an integer does not fit") from error


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """A verified or freshly made answer. `components` is uint8, shape (columns, rows, 32)."""

    header: Header
    receipt: bytes  # header and signature
    nonce_base: bytes
    components: npt.NDArray[np.uint8] = field(repr=False)


def _name(name: str) -> bytes:
    if not 0 < len(name) <= NAME_BYTES or not name.isascii() or "\0" in name:
        raise MalformedError(f"answer header: expected a name of at most {NAME_BYTES} ASCII characters, got {name!a}")
    return name.encode()


def issuer_hash(principal: str) -> bytes:
    """Return how a header names a principal."""
    return hashlib.sha256(principal.encode()).digest()


def column_hashes(components: npt.NDArray[np.uint8]) -> bytes:
    """Return SHA-256 over the SHA-256 of each component column."""
    return hashlib.sha256(b"".join(hashlib.sha256(c.tobytes()).digest() for c in components)).digest()


def encode_answer(
    header: Header, key: Ed25519PrivateKey, nonce_base: bytes, components: npt.NDArray[np.uint8]
) -> bytes:
    """Return a signed answer; `components` uint8, shape (header.columns, header.rows, 32).

    Args:
        nonce_base: 20 bytes, or none where the operation has no nonces.

    Raises:
        MalformedError: header, nonce base and components do not fit each other.
    """
    shape = (header.columns, header.rows, COMPONENT_BYTES)
    if len(nonce_base) not in {0, NONCE_BASE_BYTES} or components.shape != shape or components.dtype != np.uint8:
        raise MalformedError(f"answer: expected components {shape}, got {components.dtype} {components.shape}")
    signed = header.encode()
    return signed + key.sign(signed) + nonce_base.ljust(NONCE_BASE_BYTES, b"\0") + components.tobytes()


def decode_header(receipt: bytes) -> Header:
    """Return the header of a receipt, its signature unchecked. Raises MalformedError."""
    if len(receipt) != RECEIPT_BYTES or receipt[:4] != MAGIC:
        raise MalformedError(f"receipt: expected {RECEIPT_BYTES} bytes, got {len(receipt)}")
    _, vault, keeper, op, *rest = _HEADER.unpack(receipt[:HEADER_BYTES])
    try:
        header = Header(vault, keeper.rstrip(b"\0").decode("ascii"), op.rstrip(b"\0").decode("ascii"), *rest)
    except UnicodeDecodeError as error:
        raise MalformedError("receipt: names must be ASCII") from error
    if header.encode() != receipt[:HEADER_BYTES]:
        raise MalformedError("receipt: not in its one form")
    return header


def verify_receipt(receipt: bytes, identity: bytes) -> Header:
    """Return the header of a receipt that the keeper with this Ed25519 key signed.

    Raises:
        ProofError: the signature is not this keeper's. MalformedError: not a receipt.
    """
    header = decode_header(receipt)
    try:
        Ed25519PublicKey.from_public_bytes(identity).verify(receipt[HEADER_BYTES:], receipt[:HEADER_BYTES])
    except InvalidSignature as error:
        raise ProofError(f"keeper {header.keeper}: answer is not signed by its pinned key") from error
    return header


def decode_answer(body: bytes) -> Answer:
    """Return an answer whose sizes and component hashes agree with its header; the signature is unchecked.

    Raises:
        MalformedError: sizes. ProofError: the components are not those that the header names.
    """
    header = decode_header(body[:RECEIPT_BYTES])
    start = RECEIPT_BYTES + NONCE_BASE_BYTES
    if len(body) - start != header.columns * header.rows * COMPONENT_BYTES:
        raise MalformedError(f"keeper {header.keeper}: answer of {len(body)} bytes does not fit its header")
    components = np.frombuffer(body, np.uint8, offset=start).reshape(header.columns, header.rows, COMPONENT_BYTES)
    if column_hashes(components) != header.components:
        raise ProofError(f"keeper {header.keeper}: components differ from the signed header")
    return Answer(header, body[:RECEIPT_BYTES], body[RECEIPT_BYTES:start], components)
