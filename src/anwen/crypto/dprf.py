"""Distributed pseudo-random function over replicated key shares, and how its keys come to be without a dealer.

One key ``k_T`` for every set T of t - 1 keepers, held by every keeper outside T; ``F(x) = XOR over T of
PRF(k_T, x)``. Any t keepers hold all keys between them; t - 1 keepers lack the one of their own set.

Pure: contributions come in.

Source: Naor, Pinkas, Reingold, "Distributed pseudo-random functions and KDCs", EUROCRYPT 1999; Agrawal et al.,
"DiSE", CCS 2018. Key extraction: NIST SP 800-56C r2 section 4.1, option 2 (HMAC-SHA-512).
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from anwen.crypto import prf
from anwen.crypto.prf import PrfKey
from anwen.errors import MalformedError

CONTRIBUTION_BYTES = 32
CHECK_VALUE_BYTES = 16
_PAD_INPUT_BYTES = 31  # a whole block with its counter

Bytes2D = npt.NDArray[np.uint8]


def key_sets(keepers: Sequence[str], threshold: int) -> tuple[tuple[str, ...], ...]:
    """Return every set T of threshold - 1 keepers, in the order that components are always in.

    Raises:
        MalformedError: a keeper named twice, or a threshold that is not 1 to n.
    """
    if len(set(keepers)) != len(keepers) or not 1 <= threshold <= len(keepers):
        raise MalformedError(f"expected different keepers and a threshold of 1 to {len(keepers)}, got {threshold}")
    return tuple(itertools.combinations(sorted(keepers), threshold - 1))


def threshold_of(series: str, threshold: int) -> int:
    """Return how many keepers hold all keys of a series between them: of masks, which all of them make, one does."""
    return 1 if series == "mask" else threshold


def held_by(keeper: str, keepers: Sequence[str], threshold: int) -> tuple[tuple[str, ...], ...]:
    """Return the key sets whose keys `keeper` holds: those it is not in, in the order of its component columns.

    Raises:
        MalformedError: as `key_sets`, or `keeper` is not one of them.
    """
    if keeper not in keepers:
        raise MalformedError(f"{keeper} is not one of the keepers {sorted(keepers)}")
    return tuple(key_set for key_set in key_sets(keepers, threshold) if keeper not in key_set)


def pads(
    key: PrfKey, issuer: str, expires_s: int, sets: tuple[tuple[str, ...], ...], inputs: Bytes2D
) -> dict[tuple[str, ...], Bytes2D]:
    """Return what is added to the components of each key set before a keeper answers, uint8 (n, 32); they cancel.

    So components of one principal's grants that expire in the same second combine, and those of different seconds do
    not: an answer does not keep (docs/adr/0011).

    Args:
        key: of series "mask", which every keeper holds.
        issuer, expires_s: of the grant. sets: all of them. inputs: uint8 (n, 16 m - 1), as of the components.
    """
    keys = _pad_keys(key, issuer, expires_s, sets[:-1])
    found = {s: prf.evaluate(pad_key, inputs) for s, pad_key in zip(sets, keys, strict=False)}
    total = np.zeros((len(inputs), prf.OUTPUT_BYTES), np.uint8)
    for pad in found.values():
        total ^= pad
    return found | {sets[-1]: total}


@functools.lru_cache(256)
def _pad_keys(key: PrfKey, issuer: str, expires_s: int, sets: tuple[tuple[str, ...], ...]) -> list[PrfKey]:
    """Return a key for each set. Kept, as who asks often asks within a second."""
    texts = [_typed(b"anwen-pad-1", issuer.encode(), expires_s.to_bytes(8), *map(str.encode, s)) for s in sets]
    hashed = b"".join(hashlib.sha256(text).digest()[:_PAD_INPUT_BYTES] for text in texts)
    secrets = prf.evaluate(key, np.frombuffer(hashed, np.uint8).reshape(len(sets), _PAD_INPUT_BYTES))
    return [PrfKey(secret.tobytes()) for secret in secrets]


def combine(components: Sequence[Bytes2D]) -> Bytes2D:
    """Return F(x) for every row: the XOR of one component for each key set, each uint8 (n, 32).

    Raises:
        MalformedError: no component, or shapes that differ.
    """
    if not components or any(c.shape != components[0].shape or c.dtype != np.uint8 for c in components):
        raise MalformedError(f"components: expected equal shapes, got {[c.shape for c in components]}")
    total = np.array(components[0], order="C")
    for component in components[1:]:
        total ^= component
    return total


def _typed(*parts: bytes) -> bytes:
    """Return the parts, each behind its length, so that no two lists of parts give the same bytes."""
    return len(parts).to_bytes(4) + b"".join(len(part).to_bytes(4) + part for part in parts)


def extract(  # noqa: PLR0917 - each of another type or format
    series: str,
    number: int,
    vault: bytes,
    key_set: tuple[str, ...],
    transcript: bytes,
    contributions: Mapping[str, bytes],
) -> bytes:
    """Return the 32-byte key `k_T` of a ceremony; random to all outside as long as one contribution is.

    Args:
        series: "record", "index", "prehash" or "mask". number: epoch or generation.
        vault: 16 bytes.
        key_set: T, ascending. transcript: hash of what all parties announced: it commits to their contributions.
        contributions: 32 bytes from every holder, by keeper id.

    Raises:
        MalformedError: no contribution, one of another size or from a member of T, or T out of order.
    """
    if not contributions or any(len(value) != CONTRIBUTION_BYTES for value in contributions.values()):
        raise MalformedError(f"contributions: expected at least one, each {CONTRIBUTION_BYTES} bytes")
    if set(key_set) & set(contributions) or list(key_set) != sorted(set(key_set)):
        raise MalformedError(f"contributions to the key of {key_set} come from {sorted(contributions)}")
    if len(vault) != 16 or not 0 <= number < 2**32:
        raise MalformedError("key extraction: expected a vault of 16 bytes and a number below 2^32")
    holders = sorted(contributions)
    secret = b"".join(contributions[keeper] for keeper in holders)
    fixed_info = _typed(
        series.encode(), number.to_bytes(4), vault, _typed(*map(str.encode, key_set)), transcript,
        _typed(*map(str.encode, holders)),
    )  # fmt: skip
    return hmac.digest(b"anwen-key-1", b"\0\0\0\x01" + secret + fixed_info, "sha512")[: prf.KEY_BYTES]


def check_value(secret: bytes) -> bytes:
    """Return 16 bytes by which holders compare a key without showing it."""
    return prf.derive(secret, b"anwen-check-1", b"")[:CHECK_VALUE_BYTES]


def commit(contribution: bytes, context: bytes) -> bytes:
    """Return the commitment to a 32-byte random contribution; `context` names ceremony, key set and contributor.

    Raises:
        MalformedError: the contribution is not 32 bytes.
    """
    if len(contribution) != CONTRIBUTION_BYTES:
        raise MalformedError(f"contribution: expected {CONTRIBUTION_BYTES} bytes, got {len(contribution)}")
    return hashlib.sha256(_typed(b"anwen-commit-1", context, contribution)).digest()
