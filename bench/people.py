"""The residents of the benchmarks: row r is a pure function of r, so every system is fed the same people.

Seven fields from outputs 8r to 8r + 7 of SplitMix64 seeded with 0. Rows 0 to 999, fields
joined by ";" and rows by newlines, have the SHA-256 that tests/bench/test_people.py holds. Names are skewed on
purpose: the commonest has 382 of the first 100,000 rows.

SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import starmap
from pathlib import Path

import numpy as np

FIELDS = ("id_number", "name", "birth_date", "sex", "phone", "email", "address")
CHUNK_ROWS = 16_384

_FIRST = "ba da fa ga ha ka la ma na pa ra sa ta va wa ya za cho shi tsu".split()  # noqa: SIM905, as the specification writes them
_SECOND = "ban den fin gor hul kam len mir nov pas rin sol tur ves wyn".split()  # noqa: SIM905
SYLLABLES = [a + b for a in _FIRST for b in _SECOND]
_CAPITALISED = [s.capitalize() for s in SYLLABLES]
_BIRTHS = np.datetime_as_string(np.datetime64("1940-01-01") + np.arange(24_106)).tolist()


def splitmix64(first: int, count: int) -> np.ndarray:
    """Return outputs `first` to `first + count - 1` of SplitMix64 seeded with 0; uint64, shape (count,)."""
    with np.errstate(over="ignore"):
        z = (np.arange(first, first + count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def columns(start: int, count: int) -> tuple[list[str], ...]:
    """Return the columns of rows `start` to `start + count - 1`, in the order of `FIELDS`. About 3 us a row."""
    u = splitmix64(8 * start, 8 * count).reshape(count, 8)
    f = u[:, :3] / 2.0**64
    given = (200 * f[:, 0] * f[:, 0]).astype(int).tolist()
    surname = (300 * f[:, 1] * f[:, 1]).astype(int).tolist()
    born = (24_106 * f[:, 2]).astype(int).tolist()
    numbers = range(start, start + count)
    streets = zip(
        (u[:, 5] % 999 + 1).tolist(),
        (u[:, 6] % 300).tolist(),
        (u[:, 7] % 300).tolist(),
        (u[:, 6] // 300 % 10**6).tolist(),
        strict=True,
    )
    return (
        [f"{(r * 7046029254386353 + 1234567) % 10**16:016d}" for r in numbers],
        [f"{_CAPITALISED[g]} {_CAPITALISED[s]}" for g, s in zip(given, surname, strict=True)],
        [_BIRTHS[b] for b in born],
        ["FM"[b] for b in (u[:, 3] & 1).tolist()],
        [f"+861{n:010d}" for n in (u[:, 4] % 10**10).tolist()],
        [f"{SYLLABLES[g]}.{SYLLABLES[s]}{r}@example.org" for g, s, r in zip(given, surname, numbers, strict=True)],
        [f"{house} {_CAPITALISED[a]} Road, {_CAPITALISED[b]}, {code:06d}" for house, a, b, code in streets],
    )


def rows(start: int, count: int) -> list[dict[str, str]]:
    """Return rows `start` to `start + count - 1` as the client library takes them."""
    return [dict(zip(FIELDS, row, strict=True)) for row in zip(*columns(start, count), strict=True)]


def ndjson(start: int, count: int) -> Iterator[str]:
    """Yield rows as lines of NDJSON, in chunks; all values are plain ASCII, so nothing needs escaping."""
    line = json.dumps(dict.fromkeys(FIELDS, "{}")).replace("{", "{{", 1)[:-1] + "}}\n"
    for first in range(start, start + count, CHUNK_ROWS):
        chunk = columns(first, min(CHUNK_ROWS, start + count - first))
        yield "".join(starmap(line.format, zip(*chunk, strict=True)))


def write_ndjson(path: Path | str, count: int, start: int = 0) -> None:
    """Write rows as NDJSON; an existing file is replaced."""
    with Path(path).open("w", encoding="ascii") as file:
        file.writelines(ndjson(start, count))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("count", type=int)
    arguments = parser.parse_args()
    write_ndjson(arguments.path, arguments.count)
