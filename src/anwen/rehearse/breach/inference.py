"""Attacks that guess the values behind codes which a stolen store shows, from public statistics alone.

Each takes one code a row, as observed, and what the attacker knows of the column; each returns the value guessed for
every row, -1 where there is no guess. Codes and values are integers; the order of codes is that of what was
observed, the order of values that of the plaintext, so attacks on order need nothing else.

Pure: no I/O, no clock, no randomness. SciPy is needed by `cross_column` alone.

Source: Naveed, Kamara, Wright, "Inference attacks on property-preserving encrypted databases", CCS 2015 (frequency,
sorting, cumulative); Bindschaedler, Grubbs, Cash, Ristenpart, Shmatikov, "The tao of inference in privacy-protected
databases", VLDB 2018 (columns together, by likelihood).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MOST = 3_000
"""Tags and values, the commonest, that assignments work on: what 9,000,000 costs hold."""

NO_GUESS = -1
_VALUES_A_TAG = 4
_PRIOR_ROWS = 10.0  # made-up people whose cells are those of all, added to each value's
_WINDOW, _CHUNK = 256, 512  # values that are near, and codes at a time
_UNSEEN = 1e-6  # probability of what the statistics do not know; 0 would rule it out for good

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Score:
    """What an attack won. All are shares, 0 to 1.

    recovered: of rows guessed right. distinct: of the values that occur, those of which most rows are guessed right.
    guess: of rows that whoever names the auxiliary's commonest value for all of them gets right.
    """

    recovered: float
    distinct: float
    guess: float

    @property
    def advantage(self) -> float:
        """(recovered - guess) / (1 - guess): 0 is no better than guessing, 1 is everything."""
        return (self.recovered - self.guess) / (1 - self.guess) if self.guess < 1 else 0.0


def score(guessed: Int64, truth: Int64, auxiliary: Float64) -> Score:
    """Return what an attack won.

    Args:
        guessed, truth: a value for each row, shape (n,), n at least 1.
        auxiliary: the attacker's weight of each value, shape (values,).
    """
    right = guessed == truth
    total = np.bincount(truth, minlength=len(auxiliary))
    won = np.bincount(truth[right], minlength=len(auxiliary))
    present = total > 0
    commonest = float(np.mean(truth == np.argmax(auxiliary)))
    return Score(float(np.mean(right)), float(np.mean(2 * won[present] > total[present])), commonest)


def rank_match(observed: Int64, auxiliary: Float64) -> Int64:
    """Frequency analysis: the i-th commonest code is the i-th commonest value."""
    _, place, counts = _tags(observed)
    tags, values = _descending(counts), _commonest(auxiliary, len(counts))[1]
    fit = min(len(tags), len(values))
    return _guesses(place, len(counts), tags[:fit], values[:fit])


def assign_frequencies(observed: Int64, auxiliary: Float64) -> Int64:
    """Frequency analysis by assignment: codes to values with the least sum of squared differences of frequencies.

    Of the commonest 3,000 codes and values. On a line the best assignment keeps the order, so it is found by dynamic
    programming, as cheap as it is exact; `scipy.optimize.linear_sum_assignment` finds no smaller sum (tests).
    """
    _, place, counts = _tags(observed)
    expected, values = _commonest(auxiliary, MOST)
    tags = _descending(counts)[:MOST]
    seen = counts[tags] / len(observed)
    if len(tags) <= len(values):
        values = values[_monotone(seen, expected)]
    else:
        tags = tags[_monotone(expected, seen)]
    return _guesses(place, len(counts), tags, values)


def sorting(observed: Int64, auxiliary: Float64) -> Int64:
    """Sorting attack on dense columns: the i-th code in order is the i-th value in order.

    Where there are more codes than values, or fewer, both orders are stretched to one length.
    """
    _, place, counts = _tags(observed)
    values = np.flatnonzero(auxiliary > 0)
    return values[(2 * np.arange(len(counts)) + 1) * len(values) // (2 * len(counts))][place]


def cumulative(observed: Int64, auxiliary: Float64) -> Int64:
    """Cumulative attack: the value with the nearest distribution function and frequency.

    With fewer than two rows a code, or as many for each: the value at the same quantile.

    Both in standard errors: a difference of frequencies tells two neighbours apart, one of distribution functions,
    which has the chance of all values before it, hardly does. Without that a third fewer surnames were recovered.
    """
    _, place, counts = _tags(observed)
    values = np.flatnonzero(auxiliary > 0)
    weight = auxiliary[values] / auxiliary.sum()
    share, one = counts / len(observed), 1 / len(observed)
    at, lies = np.cumsum(share) - share / 2, np.cumsum(weight) - weight / 2
    if len(observed) < 2 * len(counts) or counts.min() == counts.max():  # frequencies say nothing, ranks do
        return values[np.minimum(np.searchsorted(np.cumsum(weight), at), len(values) - 1)][place]
    spread_at, spread = np.sqrt(np.maximum(at * (1 - at), one) * one), np.sqrt(np.maximum(share, one) * one)
    best = np.empty(len(counts), np.int64)
    width = min(_WINDOW, len(values))
    for start in range(0, len(counts), _CHUNK):
        part = slice(start, start + _CHUNK)
        first = np.clip(np.searchsorted(lies, at[part]) - width // 2, 0, len(values) - width)
        near = first[:, None] + np.arange(width)
        apart = ((lies[near] - at[part, None]) / spread_at[part, None]) ** 2
        apart += ((weight[near] - share[part, None]) / spread[part, None]) ** 2
        best[part] = near[np.arange(len(near)), np.argmin(apart, axis=1)]
    return values[best][place]


def fitted(observed: Int64, known_observed: Int64, known_values: Int64) -> Int64:
    """Return the commonest value of each code among people whom the attacker made up and put through the same code.

    So are lengths read: he knows how long the body of each made-up person gets. A code that none of them has is
    answered with the commonest value of all.

    Args:
        observed: shape (n,). known_observed, known_values: codes and values of his people, shape (m,), m at least 1.
    """
    codes, seen = np.unique(known_observed, return_inverse=True)
    values, named = np.unique(known_values, return_inverse=True)
    pairs, counts = np.unique(seen * len(values) + named, return_counts=True)
    order = np.lexsort((counts, pairs // len(values)))  # by code, and for each code the commonest value last
    last = np.append(np.diff(pairs[order] // len(values)) > 0, True)
    commonest = values[pairs[order][last] % len(values)]
    at = np.minimum(np.searchsorted(codes, observed), len(codes) - 1)
    overall = values[np.argmax(np.bincount(named))]
    guessed: Int64 = np.where(codes[at] == observed, commonest[at], overall)
    return guessed


def together(observed: Int64, cells: Int64, known_cells: Int64, known_values: Int64) -> Int64:
    """Return the likeliest value of each code if all rows of a code had one value, by what else those rows show.

    So rows that were written together are read, if they were sorted: a batch of one surname has its lengths.

    Args:
        observed, cells: of each row a code, and what else it shows (a length, say), shape (n,).
        known_cells, known_values: the same, and values, of people whom the attacker made up, shape (m,).
    """
    _, place, counts = _tags(observed)
    shown, cell = np.unique(np.concatenate((cells, known_cells)), return_inverse=True)
    seen = _table(place, cell[: len(cells)], len(counts), len(shown))
    values, named = np.unique(known_values, return_inverse=True)
    known = _table(named, cell[len(cells) :], len(values), len(shown))
    top = _descending(known.sum(axis=1))[:MOST]
    overall = (known.sum(axis=0) + 1) / (known.sum() + len(shown))
    likely = (known[top] + _PRIOR_ROWS * overall) / (known[top].sum(axis=1, keepdims=True) + _PRIOR_ROWS)
    best = np.argmax(seen @ np.log(likely).T + np.log(known[top].sum(axis=1)), axis=1)
    guessed: Int64 = values[top[best]][place]
    return guessed


def cross_column(observed: Int64, cells: Int64, joint: Float64) -> Int64:
    """Assign codes to values by how both spread over columns that are recovered already: multinomial log-likelihood.

    The sum over codes t and cells c of count(t, c) * log(joint(value of t, c)) is made as large as it can be. Of the
    commonest 3,000 codes, and of at most four values for each; up to 15 s.

    Args:
        observed: shape (n,). cells: for each row, which combination of recovered values it has, 0 to cells - 1.
        joint: the attacker's weight of each value in each cell, shape (values, cells).
    """
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - an extra

    _, place, counts = _tags(observed)
    tags = _descending(counts)[:MOST]
    values = _commonest(joint.sum(axis=1), min(MOST, _VALUES_A_TAG * len(tags)))[1]
    table = _table(place, cells, len(counts), joint.shape[1])[tags]
    likely = np.log(joint[values] / joint.sum() + _UNSEEN)
    chosen, named = linear_sum_assignment(table @ likely.T, maximize=True)
    return _guesses(place, len(counts), tags[chosen], values[named])


# --- parts -----------------------------------------------------------------------------------------------------------


def _tags(observed: Int64) -> tuple[Int64, Int64, Int64]:
    """Return the different codes in order, each row's place among them, and how many rows each has."""
    codes, place, counts = np.unique(observed, return_inverse=True, return_counts=True)
    return codes, place.astype(np.int64), counts.astype(np.int64)


def _table(rows: Int64, columns: Int64, height: int, width: int) -> Float64:
    """Return how often each pair occurs, shape (height, width)."""
    return np.bincount(rows * width + columns, minlength=height * width).reshape(height, width).astype(np.float64)


def _descending(counts: Int64 | Float64) -> Int64:
    return np.argsort(-counts, kind="stable").astype(np.int64)


def _commonest(auxiliary: Float64, most: int) -> tuple[Float64, Int64]:
    """Return shares and values of the commonest that the attacker has heard of, the commonest first."""
    values = np.flatnonzero(auxiliary > 0)
    if len(values) > most:
        values = values[np.argpartition(-auxiliary[values], most)[:most]]
    values = values[np.lexsort((values, -auxiliary[values]))]
    return auxiliary[values] / auxiliary.sum(), values


def _guesses(place: Int64, codes: int, tags: Int64, values: Int64) -> Int64:
    value_of = np.full(codes, NO_GUESS, np.int64)
    value_of[tags] = values
    return value_of[place]


def _monotone(few: Float64, many: Float64) -> Int64:
    """Return for each of `few` its partner among `many`, both descending: the order-keeping assignment of least cost.

    least[j] is the cost of the first i elements with partners among the first j + 1. 3,000 by 3,000: 0.1 s.
    """
    least = np.zeros(len(many))
    partner = np.empty((len(few), len(many)), np.int32)
    places = np.arange(len(many), dtype=np.int32)
    for i, value in enumerate(few):
        taken = (many - value) ** 2
        taken[1:] += least[:-1]
        if i:
            taken[0] = np.inf  # one partner cannot serve two
        least = np.minimum.accumulate(taken)
        partner[i] = np.maximum.accumulate(np.where(taken == least, places, 0))
    found, j = np.empty(len(few), np.int64), len(many) - 1
    for i in range(len(few) - 1, -1, -1):
        found[i] = partner[i, j]
        j = int(found[i]) - 1
    return found
