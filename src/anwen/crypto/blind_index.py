"""Blind index: tokens of values, labels of postings, and the check that a node cannot forge (docs/spec/blind_index.md).

``token = HMAC(prehash key of the field, value)``; keepers turn it into ``K_w``; posting i of a value lies under
``label(K_w, i)``. Every label is used once and looks random, so a stolen store shows no frequencies.

Pure.

Source: Cash et al., "Dynamic searchable encryption in very-large databases", NDSS 2014 (counters under a keyword key);
against deterministic tags: Naveed, Kamara, Wright, CCS 2015. KDF: NIST SP 800-56C r2 section 4.1.
"""

from __future__ import annotations

import hashlib
import hmac

from anwen.errors import MalformedError

LABEL_BYTES = 16
MAC_BYTES = 16
_PER_CALL = 4  # labels in one SHA-512


def token(prehash_key: bytes, value: bytes) -> bytes:
    """Return the 32-byte token of a normalised value under its field's key: HMAC-SHA-256."""
    return hmac.digest(prehash_key, value, "sha256")


def _derive(k_w: bytes, info: bytes) -> bytes:
    """Return 64 bytes of the one-step KDF of SP 800-56C: a third of the cost of HMAC, for inputs of fixed length."""
    return hashlib.sha512(b"\0\0\0\x01" + k_w + info).digest()


def labels(k_w: bytes, start: int, count: int) -> list[bytes]:
    """Return the labels of slots `start` to `start + count - 1`, 16 bytes each; four cost one SHA-512, 0.6 us.

    Raises:
        MalformedError: a negative start or count.
    """
    if start < 0 or count < 0:
        raise MalformedError(f"labels: expected a start and a count of at least 0, got {start} and {count}")
    first, last = start // _PER_CALL, (start + count + _PER_CALL - 1) // _PER_CALL
    run = b"".join(_derive(k_w, b"anwen-label-1" + i.to_bytes(8)) for i in range(first, last))
    offset = (start - first * _PER_CALL) * LABEL_BYTES
    return [run[at : at + LABEL_BYTES] for at in range(offset, offset + count * LABEL_BYTES, LABEL_BYTES)]


def posting_mac(k_w: bytes, record: bytes, subject: bytes) -> bytes:
    """Return the 16-byte check value of a posting: who it names, in whichever slot of its value it lies.

    Why without the slot: docs/adr/0002-posting-check-without-slot.md.

    Raises:
        MalformedError: `record` or `subject` is not 16 bytes.
    """
    if len(record) != 16 or len(subject) != 16:
        raise MalformedError("posting: record and subject take 16 bytes each")
    return _derive(k_w, b"anwen-posting-1" + record + subject)[:MAC_BYTES]
