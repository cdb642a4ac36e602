"""Look for known plaintext in bytes: each value in every plain encoding it might have been left in.

Many values at once: what is prepared is the first eight bytes of each form, in one sorted array. A place that begins
like a form is then compared with the whole form.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

SHORTEST = 8
"""Bytes of a form; shorter ones turn up in random bytes by chance."""

CHUNK_BYTES = 2**24


Needle = str | bytes | tuple[str, ...]
"""A value to look for: a text, bytes such as a key, or all the ways in which one text is spelled."""


def forms(value: Needle) -> Iterator[bytes]:
    """Yield how a value may stand in a file: as it is, UTF-16, JSON escapes, hexadecimal and base64 of its bytes."""
    if isinstance(value, tuple):
        for spelled in value:
            yield from forms(spelled)
        return
    raw = value.encode() if isinstance(value, str) else value
    yield raw
    if isinstance(value, str):
        yield value.encode("utf-16-le")
        yield value.encode("utf-16-be")
        yield json.dumps(value)[1:-1].encode()
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    for before in range(3):  # base64 has three forms, by where the value begins
        text = base64.b64encode(bytes(before) + raw)
        yield text[-(-before * 8 // 6) : len(text) // 4 * 4 - 4]


class Needles:
    """Values to look for; prepared so that bytes are read once."""

    def __init__(self, values: Sequence[Needle]) -> None:
        """Take values. About 10 us each."""
        self._values = values
        starts: list[int] = []
        of: list[int] = []
        self._longest = SHORTEST
        for i, value in enumerate(values):
            for form in {f for f in forms(value) if len(f) >= SHORTEST}:
                starts.append(int.from_bytes(form[:SHORTEST]))
                of.append(i)
                self._longest = max(self._longest, len(form))
        order = np.argsort(np.array(starts, np.uint64), kind="stable")
        self._starts = np.array(starts, np.uint64)[order]
        self._of = np.array(of, np.int64)[order]
        self._first = np.zeros(2**16, np.bool_)
        self._first[self._starts >> np.uint64(48)] = True
        self._whole: dict[int, dict[int, dict[bytes, int]]] = {}  # by start, once it was met, and length: whole forms

    def __len__(self) -> int:
        return len(self._values)

    @property
    def forms(self) -> int:
        """How many forms are looked for."""
        return len(self._starts)

    def within(self, data: bytes | bytearray | memoryview) -> set[int]:
        """Return which values stand in `data`, by number. About 0.3 GB a second."""
        view = np.frombuffer(data, np.uint8)
        if len(view) < SHORTEST or not len(self._starts):
            return set()
        pairs = view[:-1].astype(np.uint16) << 8
        pairs |= view[1:]
        at = np.flatnonzero(self._first[pairs[: len(view) - SHORTEST + 1]])
        words = np.zeros(len(at), np.uint64)
        for step in range(0, SHORTEST, 2):
            words = words << np.uint64(16) | pairs[at + step].astype(np.uint64)
        low = np.searchsorted(self._starts, words, "left")
        high = np.searchsorted(self._starts, words, "right")
        found: set[int] = set()
        for hit in np.flatnonzero(high > low).tolist():
            place, whole = int(at[hit]), self._beginning_with(int(words[hit]), int(low[hit]), int(high[hit]))
            for length, known in whole.items():
                if (i := known.get(bytes(data[place : place + length]))) is not None:
                    found.add(i)
        return found

    def _beginning_with(self, start: int, low: int, high: int) -> dict[int, dict[bytes, int]]:
        """Return the whole forms that begin so, by length: thousands of numbers may begin alike."""
        if start not in self._whole:
            whole: dict[int, dict[bytes, int]] = {}
            for i in self._of[low:high].tolist():
                for form in forms(self._values[i]):
                    if int.from_bytes(form[:SHORTEST]) == start and len(form) >= SHORTEST:
                        whole.setdefault(len(form), {})[form] = i
            self._whole[start] = whole
        return self._whole[start]

    def in_file(self, path: Path) -> set[int]:
        """Return which values stand in a file."""
        found: set[int] = set()
        rest = b""
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                found |= self.within(rest + chunk)
                rest = chunk[-self._longest :]
        return found


def files_below(folder: Path) -> list[Path]:
    """Return every file in a folder, however deep."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def search(paths: Iterable[Path], needles: Needles) -> tuple[set[int], int]:
    """Return which values stand in any of the files, and how many bytes were read."""
    found: set[int] = set()
    size = 0
    for path in paths:
        found |= needles.in_file(path)
        size += path.stat().st_size
    return found, size


def memory_of(pid: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield what a process has in its memory, region by region. Needs the right to trace it."""
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in maps:
            span, rights, *_ = line.split()
            if rights[0] != "r" or line.rstrip().endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            try:
                memory.seek(start)
                yield np.frombuffer(memory.read(end - start), np.uint8)
            except (OSError, ValueError, OverflowError):
                continue  # reserved, never touched


def runs(region: npt.NDArray[np.uint8], alphabet: bytes, length: int) -> Iterator[bytes]:
    """Yield every run of bytes of an alphabet that is at least so long, as a key in hexadecimal is."""
    of_alphabet = np.zeros(258, np.bool_)
    of_alphabet[list(alphabet)] = True
    edges = np.diff(np.concatenate(([False], of_alphabet[region], [False])).astype(np.int8))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    long = ends - starts >= length
    for start, end in zip(starts[long].tolist(), ends[long].tolist(), strict=True):
        yield region[start:end].tobytes()
