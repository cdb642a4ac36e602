"""The Merkle tree over a keeper's log: `log/leaves`, one record of 40 bytes (leaf hash 32, offset u8) for each entry.

Derived from the entries, and made anew from them where it is short or differs. Full subtrees of 256 leaves and more are
remembered, so that a proof costs hashes in the logarithm of the log's length.
"""

from __future__ import annotations

import os
from pathlib import Path

from anwen.crypto import merkle
from anwen.keeper.folder import PRIVATE, Disk

_HASH_BYTES, _RECORD_BYTES = 32, 40
_BLOCK_LEAVES = 256


class Leaves:
    """Leaf hashes and places of all durable entries."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._disk = disk
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, PRIVATE)
        self._full: dict[tuple[int, int], bytes] = {}
        self.size = os.fstat(self._fd).st_size // _RECORD_BYTES
        os.ftruncate(self._fd, self.size * _RECORD_BYTES)
        self._frontier = merkle.Frontier()

    def cut(self, size: int) -> None:
        """Forget all leaves from `size` on, and prepare for appending."""
        os.ftruncate(self._fd, size * _RECORD_BYTES)
        self.size = size
        self._full.clear()
        starts, start = [], 0
        for bit in reversed(range(size.bit_length())):
            if size >> bit & 1:
                starts.append(self.subtree(start, start + (1 << bit)))
                start += 1 << bit
        self._frontier = merkle.Frontier(size, starts)

    def write(self, leaves: list[tuple[bytes, int]]) -> None:
        """Append to the file; not synced, since a crash costs only a rebuild of the end."""
        self._disk.write(self._fd, b"".join(leaf + offset.to_bytes(8) for leaf, offset in leaves))

    def add(self, leaves: list[tuple[bytes, int]]) -> None:
        """Take written leaves into the tree."""
        for leaf, _ in leaves:
            self._frontier.append(leaf)
        self.size += len(leaves)

    def records(self, start: int, end: int) -> list[tuple[bytes, int]]:
        """Return hash and offset of the leaves in [start, end)."""
        data = os.pread(self._fd, (end - start) * _RECORD_BYTES, start * _RECORD_BYTES)
        return [
            (data[i : i + _HASH_BYTES], int.from_bytes(data[i + _HASH_BYTES : i + _RECORD_BYTES]))
            for i in range(0, len(data), _RECORD_BYTES)
        ]

    def root(self) -> bytes:
        """Return the root over all leaves."""
        return self._frontier.root()

    def root_at(self, size: int) -> bytes:
        """Return the root over the first `size` leaves."""
        return self.subtree(0, size) if size else merkle.EMPTY_ROOT

    def subtree(self, start: int, end: int) -> bytes:
        """Return the hash of the tree over leaves [start, end); a `merkle.SubtreeHash`."""
        count = end - start
        known = self._full.get((start, end))
        if known is not None:
            return known
        if count <= _BLOCK_LEAVES:
            result = merkle.root([leaf for leaf, _ in self.records(start, end)])
        else:
            middle = start + merkle.split(count)
            result = merkle.node_hash(self.subtree(start, middle), self.subtree(middle, end))
        if count >= _BLOCK_LEAVES and count.bit_count() == 1:
            self._full[start, end] = result
        return result

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
