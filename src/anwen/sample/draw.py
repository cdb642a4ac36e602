"""Tables, and random draws from them that are pure functions of seed, row and lane, for whole columns at once.

Lane l of row r is output number LANES * r + l of SplitMix64 with a key made from the seed, so any row can be made
alone, in any chunk, in any order. Integers only decide: no result depends on the version of numpy.

Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from importlib.resources import files
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

LANES = 64
_GAMMA = np.uint64(0x9E3779B97F4A7C15)

Uint64 = npt.NDArray[np.uint64]
Name = TypeVar("Name")
Int64 = npt.NDArray[np.int64]


def _mix(z: Uint64) -> Uint64:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Draws:
    """The draws of one seed and one table; another `table` gives unrelated draws."""

    def __init__(self, seed: int, table: int) -> None:
        base = np.array([seed % 2**64, table], np.uint64)
        self._key = _mix(_mix(base[:1] * _GAMMA) + base[1:] * _GAMMA)

    def bits(self, rows: Int64, lane: int) -> Uint64:
        """Return 64 random bits for each row; rows may repeat, and then give the same bits."""
        return _mix(self._key + (rows.astype(np.uint64) * np.uint64(LANES) + np.uint64(lane + 1)) * _GAMMA)

    def below(self, rows: Int64, lane: int, limit: int | Int64) -> Int64:
        """Return an integer from 0 to limit - 1 for each row; `limit` below 2**31, one for all or one each."""
        return ((self.bits(rows, lane) >> np.uint64(33)).astype(np.int64) * limit) >> 31

    def happens(self, rows: Int64, lane: int, per_mille: int | Int64) -> npt.NDArray[np.bool_]:
        """Return for each row whether an event of this probability happens."""
        return self.below(rows, lane, 100_000) < np.asarray(per_mille) * 100


class Weighted:
    """Choices by weight within one list, or within one of several, which each row names.

    Weights are rounded to 2**-31 of their sum, so that a draw is one integer comparison.
    """

    def __init__(self, *lists: Iterable[float]) -> None:
        sums = [list(accumulate(weights)) for weights in lists]
        self._bounds = np.array([(n << 31) + round(s / run[-1] * 2**31) for n, run in enumerate(sums) for s in run])

    def __call__(self, draws: Draws, rows: Int64, lane: int, lists: int | Int64 = 0) -> Int64:
        """Return for each row an index into all lists joined together."""
        place = (lists << 31) + draws.below(rows, lane, 2**31 - 1)
        return np.searchsorted(self._bounds, place, side="right").astype(np.int64)


def zipf(names: Iterable[Name], offset: int) -> dict[Name, float]:
    """Return weights by Zipf's law for names in the order of how common they are."""
    return {name: 1 / (rank + offset) for rank, name in enumerate(names)}


def load(name: str) -> dict[str, Any]:
    """Return one of the tables of `data/`, each of which names the sources of its figures."""
    return tomllib.loads(files(__package__).joinpath("data", f"{name}.toml").read_text(encoding="utf-8"))


def shuffled(seed: int, table: int, size: int) -> Int64:
    """Return a permutation of 0 to size - 1. About 0.2 us an element."""
    return np.argsort(Draws(seed, table).bits(np.arange(size, dtype=np.int64), 0), kind="stable").astype(np.int64)
