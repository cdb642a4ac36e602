"""Merkle trees of RFC 6962 section 2.1: roots, inclusion and consistency proofs.

Proofs are made from any `SubtreeHash`, a function that returns the hash of the leaves in [start, end), so that a keeper
answers from files of leaf hashes without reading all of them. `subtree_of` makes one from a sequence.

Pure. Verification follows RFC 9162 sections 2.1.3.2 and 2.1.4.2 (the same tree, the algorithms written out).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence

from anwen.errors import MalformedError, ProofError

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()

SubtreeHash = Callable[[int, int], bytes]
"""Returns the hash of the tree over leaves [start, end), end > start."""


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of a leaf that holds `entry`."""
    return hashlib.sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def split(size: int) -> int:
    """Return the size of the left subtree of `size` > 1 leaves: the largest power of two below it."""
    return 1 << ((size - 1).bit_length() - 1)


class Frontier:
    """The right edge of a growing tree: hashes of its complete subtrees, largest first. Cheap to keep and to store."""

    __slots__ = ("hashes", "size")

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        if size < 0 or len(hashes) != size.bit_count() or any(len(h) != HASH_BYTES for h in hashes):
            raise MalformedError(f"frontier of {size} leaves: expected {size.bit_count()} hashes, got {len(hashes)}")
        self.size = size
        self.hashes = list(hashes)

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash; constant time on average."""
        size = self.size
        while size & 1:
            leaf = node_hash(self.hashes.pop(), leaf)
            size >>= 1
        self.hashes.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """Return the root over all leaves so far."""
        if not self.hashes:
            return EMPTY_ROOT
        total = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            total = node_hash(left, total)
        return total


def root(leaf_hashes: Sequence[bytes]) -> bytes:
    """Return the root over these leaf hashes."""
    frontier = Frontier()
    for leaf in leaf_hashes:
        frontier.append(leaf)
    return frontier.root()


def subtree_of(leaf_hashes: Sequence[bytes]) -> SubtreeHash:
    """Return a `SubtreeHash` over a sequence of leaf hashes."""
    return lambda start, end: root(leaf_hashes[start:end])


def inclusion_proof(subtree: SubtreeHash, index: int, size: int) -> list[bytes]:
    """Return the audit path of leaf `index` in the tree of the first `size` leaves, lowest first.

    Raises:
        MalformedError: no such leaf.
    """
    if not 0 <= index < size:
        raise MalformedError(f"inclusion proof: no leaf {index} among {size}")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + split(end - start)
        if index < middle:
            path.append(subtree(middle, end))
            end = middle
        else:
            path.append(subtree(start, middle))
            start = middle
    return path[::-1]


def consistency_proof(subtree: SubtreeHash, old: int, new: int) -> list[bytes]:
    """Return the proof that the tree of `new` leaves begins with that of `old`; empty if old is 0 or new.

    Raises:
        MalformedError: not 0 <= old <= new.
    """
    if not 0 <= old <= new:
        raise MalformedError(f"consistency proof: expected 0 <= old <= new, got {old} and {new}")
    if old in {0, new}:
        return []
    path: list[bytes] = []
    start, end, whole = 0, new, True  # whole: the old tree is a subtree that the verifier knows by its root
    while old != end:
        middle = start + split(end - start)
        if old <= middle:
            path.append(subtree(middle, end))
            end = middle
        else:
            path.append(subtree(start, middle))
            start, whole = middle, False
    if not whole:
        path.append(subtree(start, end))
    return path[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected_root: bytes) -> None:
    """Check that the leaf hash `leaf` is number `index` of the tree of `size` leaves with this root.

    Raises:
        ProofError: it does not follow from the proof.
    """
    if not 0 <= index < size or any(len(node) != HASH_BYTES for node in (leaf, *proof)):
        raise ProofError(f"inclusion proof of leaf {index} among {size}: wrong form")
    fn, sn, total = index, size - 1, leaf
    for node in proof:
        if sn == 0:
            raise ProofError(f"inclusion proof of leaf {index} among {size}: too long")
        if fn & 1 or fn == sn:
            total = node_hash(node, total)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            total = node_hash(total, node)
        fn, sn = fn >> 1, sn >> 1
    if sn or not hmac.compare_digest(total, expected_root):
        raise ProofError(f"inclusion proof of leaf {index} among {size} does not lead to the root")


def verify_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree of `new` leaves begins with that of `old` leaves.

    Raises:
        ProofError: it does not follow from the proof.
    """
    problem = f"consistency proof from {old} to {new} leaves"
    if not 0 <= old <= new or any(len(node) != HASH_BYTES for node in (old_root, new_root, *proof)):
        raise ProofError(f"{problem}: wrong form")
    if old in {0, new}:
        known = EMPTY_ROOT if old == 0 else new_root
        if proof or old_root != known or (new == 0 and new_root != EMPTY_ROOT):
            raise ProofError(f"{problem}: roots differ, or a proof where none is due")
        return
    path = [old_root, *proof] if old.bit_count() == 1 else list(proof)
    if not path:
        raise ProofError(f"{problem}: too short")
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    first = second = path[0]
    for node in path[1:]:
        if sn == 0:
            raise ProofError(f"{problem}: too long")
        if fn & 1 or fn == sn:
            first, second = node_hash(node, first), node_hash(node, second)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            second = node_hash(second, node)
        fn, sn = fn >> 1, sn >> 1
    if sn or not (hmac.compare_digest(first, old_root) and hmac.compare_digest(second, new_root)):
        raise ProofError(f"{problem} does not lead to both roots")
