"""The outside of an envelope: its sizes and the padding of its body. Opens nothing, so nodes may use it.

Pure.
"""

from __future__ import annotations

from anwen.errors import OpenError

SUITE = 1
IV_BYTES = 12
COMMITMENT_BYTES = 32
TAG_BYTES = 16
HEADER_BYTES = 1 + IV_BYTES + COMMITMENT_BYTES
OVERHEAD_BYTES = HEADER_BYTES + TAG_BYTES
MIN_PADDED_BYTES = 128


def padded_length(size_bytes: int) -> int:
    """Return the padded length of a body: at least 128, then Padmé, at most 12 % more; the 0x80 is in it."""
    size = max(size_bytes + 1, MIN_PADDED_BYTES)
    exponent = size.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (size + mask) & ~mask


def is_padded_length(size_bytes: int) -> bool:
    """Return whether some body has this padded length."""
    return size_bytes >= MIN_PADDED_BYTES and padded_length(size_bytes - 1) == size_bytes


def pad(body: bytes) -> bytes:
    """Return the body, 0x80, and zeros up to its padded length."""
    return (body + b"\x80").ljust(padded_length(len(body)), b"\0")


def unpad(padded: bytes) -> bytes:
    """Return the body. Raises OpenError unless `padded` is exactly what `pad` makes of it."""
    body = padded.rstrip(b"\0")
    if not body.endswith(b"\x80") or padded_length(len(body) - 1) != len(padded):
        raise OpenError
    return body[:-1]
