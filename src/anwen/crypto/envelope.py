"""Envelopes: one sealed class of one record version (docs/spec/envelope.md).

``suite u1 | iv 12 | commitment 32 | AES-256-GCM ciphertext``. ``SHA-512(00000001 || DEK || context)`` gives the AEAD
key and a commitment to DEK and context, which is compared before anything is decrypted: GCM alone lets a writer make
one ciphertext with two meanings. The context is also the AAD. Bodies are padded, because length alone tells.

Pure: the caller brings DEK and IV, both fresh for every call of `seal`.

Sources: NIST SP 800-56C r2 section 4.1 (one-step KDF), SP 800-38D; Nikitin et al., "Reducing metadata leakage from
encrypted files and communication with PURBs", PETS 2019 (Padmé).
"""

from __future__ import annotations

import hashlib
import hmac
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from anwen.crypto.padding import HEADER_BYTES, OVERHEAD_BYTES, SUITE, pad, unpad
from anwen.errors import MalformedError, OpenError

DEK_BYTES = 32
IV_BYTES = 12

_CONTEXT = struct.Struct(">16sB16sHHI16s16s")
_LABEL = b"anwen-envelope-1"
_SUITE = bytes([SUITE])


def context(  # noqa: PLR0917 - in the order of the format
    vault: bytes, collection: int, class_id: int, version: int, subject: bytes, record: bytes
) -> bytes:
    """Return what an envelope is bound to: FixedInfo of its key and AAD of its ciphertext, 73 bytes.

    Raises:
        MalformedError: `vault`, `subject` or `record` is not 16 bytes, or an integer does not fit.
    """
    if len(vault) != 16 or len(subject) != 16 or len(record) != 16:
        raise MalformedError("envelope context: vault, subject and record take 16 bytes each")
    try:
        return _CONTEXT.pack(_LABEL, SUITE, vault, collection, class_id, version, subject, record)
    except struct.error as error:
        raise MalformedError("envelope context: collection and class take 2 bytes, version 4") from error


def derive(dek: bytes, context: bytes) -> tuple[bytes, bytes]:
    """Return AEAD key and commitment, 32 bytes each. The DEK's fixed length keeps it apart from the context."""
    both = hashlib.sha512(b"\0\0\0\x01" + dek + context).digest()
    return both[:32], both[32:]


def seal(dek: bytes, iv: bytes, context: bytes, body: bytes) -> bytes:
    """Return the envelope of `body`; its commitment is bytes 13 to 44. About 4 us for a short body.

    Args:
        dek: 32 random bytes, never used for another call, also not for a retry.
        iv: 12 random bytes. context: see `context`.
        body: not padded.

    Raises:
        MalformedError: DEK or IV of another size.
    """
    if len(dek) != DEK_BYTES or len(iv) != IV_BYTES:
        raise MalformedError(f"seal: expected a DEK of {DEK_BYTES} and an IV of {IV_BYTES} bytes")
    key, commitment = derive(dek, context)
    return _SUITE + iv + commitment + AESGCM(key).encrypt(iv, pad(body), context)


def open_envelope(dek: bytes, context: bytes, envelope: bytes) -> bytes:
    """Return the body of an envelope. About 4 us for a short one.

    Raises:
        OpenError: for whatever reason; the message never tells which.
    """
    if len(dek) != DEK_BYTES or len(envelope) < OVERHEAD_BYTES or envelope[:1] != _SUITE:
        raise OpenError
    key, commitment = derive(dek, context)
    if not hmac.compare_digest(commitment, envelope[13:HEADER_BYTES]):
        raise OpenError
    try:
        padded = AESGCM(key).decrypt(envelope[1:13], envelope[HEADER_BYTES:], context)
    except InvalidTag:
        raise OpenError from None
    return unpad(padded)
