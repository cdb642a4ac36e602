"""Every attack on every observable for every column, and whether the best of them is more than chance.

Pure: no I/O, no clock, no randomness.

Sources: Hoeffding, "Probability inequalities for sums of bounded random variables", JASA 58, 1963, theorem 1; Kish,
"Survey sampling", 1965, section 5.4 (design effect of clusters).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from anwen.model import Collection
from anwen.rehearse.breach.inference import (
    Float64,
    Int64,
    Score,
    assign_frequencies,
    cross_column,
    cumulative,
    fitted,
    rank_match,
    score,
    sorting,
    together,
)
from anwen.rehearse.breach.population import Joint, World
from anwen.rehearse.breach.weaker import body_sizes, envelope_lengths

MARGIN = 0.01
"""What a store may give away beyond the guess: one percentage point."""

ERROR = 1e-3
"""Chance that a store which shows nothing is accused, for one column of one store."""

SMALL = 128
"""Different codes up to which an observable that won nothing else is tried across columns, which costs more."""

_ROWS_TOGETHER = 8  # a code of fewer rows is no group
_IMAGINED_SEED = 1_000_000  # his people are not those of the store
_FREQUENCY = {"frequency": rank_match, "assignment": assign_frequencies}
_ORDER = {"sorting": sorting, "cumulative": cumulative}


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What an attacker knows. Values are those of the people attacked.

    weights: of each value of each column, shape (values,); the columns that are attacked.
    joints: of a column together with others. imagined: values, by column, of people whom he made up by his statistics.
    imagined_seed: what the rest of them was drawn with.
    shown: what his own copy of the software makes of these people, named as the observables that it should equal.
    """

    weights: Mapping[str, Float64]
    joints: Mapping[str, Sequence[Joint]] = field(default_factory=dict)
    imagined: Mapping[str, Int64] = field(default_factory=dict)
    shown: Mapping[str, Int64] = field(default_factory=dict)
    imagined_seed: int = 0


@dataclass(frozen=True, slots=True)
class Best:
    """The best of all trials on one column.

    most: share of the value that is commonest in truth. units: independent rows that these are worth.
    """

    column: str
    observable: str
    attack: str
    score: Score
    trials: int
    most: float
    units: float

    @property
    def limit(self) -> float:
        """Share of rows up to which it is no more than guess and margin, or than chance."""
        # whoever names one value for all rows wins up to `most`: the truth's commonest need not be the auxiliary's
        return max(self.score.guess + MARGIN, chance_limit(self.most, self.units, self.trials))

    def or_better(self, other: Best) -> Best:
        """Return the better of this and one of other trials on the same rows, with the trials of both."""
        better = max(self, other, key=lambda best: best.score.recovered)
        return dataclasses.replace(better, trials=self.trials + other.trials)

    @property
    def within(self) -> bool:
        """Whether the store gave nothing away."""
        return self.score.recovered <= self.limit


@dataclass(frozen=True, slots=True)
class _Trial:
    observable: str
    attack: str
    guessed: Int64
    score: Score


def attack_everything(
    observables: Mapping[str, Int64],
    truth: Mapping[str, Int64],
    knowledge: Knowledge,
    groups: Int64 | None = None,
) -> dict[str, Best]:
    """Return the best of all attacks on all observables, for each column that the attacker knows something of.

    An attacker cannot see which trial is the best; it counts all the same. What it recovered is also what later trials
    across columns take for recovered.

    Args:
        observables: codes of each record, shape (n,). truth: by column the value of each record.
        groups: who came together, for instance by `observables.batches`; without it nobody did.

    Cost: at 100,000 rows about half a second for an observable, and a minute in all for those across columns.
    """
    found: dict[str, tuple[_Trial, int]] = {}
    for column in knowledge.weights:
        trials = _single(observables, column, truth[column], knowledge)
        found[column] = _best(trials)
    guessed = {column: trial.guessed for column, (trial, _) in found.items()}
    for column, joints in knowledge.joints.items():
        first, count = found[column]
        across = _across(observables, first.observable, joints, guessed)
        scored = [_scored(*trial, truth[column], knowledge.weights[column]) for trial in across]
        found[column] = _best(iter([first, *scored]))[0], count + len(scored)
    return {c: _judged(c, trial, count, truth[c], groups) for c, (trial, count) in found.items()}


def knowledge_of(world: World, collection: Collection, *, imagined: int = 20_000, seed: int = 0) -> Knowledge:
    """Return what an attacker knows who has a world's auxiliary, and Anwen's code. About 5 s.

    Args:
        collection: the rows' shape, as its policy has it: it is no secret.
        imagined: how many people he makes up.
    """
    people = world.imagine(imagined, _IMAGINED_SEED + seed)
    shown = envelope_lengths(body_sizes(world.rows(people), collection))
    return Knowledge(world.weights, world.joints, people.values, shown, people.seed)


def chance_limit(probability: float, units: float, trials: int) -> float:
    """Return the share of rows that the luckiest of `trials` guesses exceeds with a chance of at most `ERROR`.

    Why it is needed: each trial on a store that shows nothing is still a guess, right with at most the share of the
    commonest value, and the best of many guesses lies above their mean. By Hoeffding's bound the mean of `units`
    independent guesses of this probability exceeds q with a chance of at most exp(-units * KL(q, probability)); with
    `trials` of them, that times `trials`. For even odds, 1,000 trials and 100,000 independent rows this is 0.8 points
    above the guess, so there the margin of 1 point is already more than chance, and nothing is added to it. With
    10,000 rows it is 2.6 points for even odds, 1.6 more than the margin, and nothing more for values rarer than 3 %.
    """
    if probability >= 1:
        return 1.0
    exponent = math.log(trials / ERROR) / units
    low, high = probability, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _divergence(middle, probability) < exponent else (low, middle)
    return high


def independent_units(truth: Int64, groups: Int64) -> float:
    """Return how many independent rows are worth as much as these, which came in groups: n, or fewer.

    A sorted import puts a thousand people of one surname into one batch. Whoever names one value for each batch, at
    random, then wins or loses whole batches, and his luck is that of as many guesses as there are batches. How much
    more the shares of values vary between groups than those of independent rows would is Kish's design effect.
    """
    different, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    values, named, totals = np.unique(truth, return_inverse=True, return_counts=True)
    if len(different) == 1 or len(values) == 1:
        return float(len(truth))
    share = totals / len(truth)
    pairs, counts = np.unique(place * len(values) + named, return_counts=True)
    inside, expected = counts / len(truth), (sizes[pairs // len(values)] / len(truth)) * share[pairs % len(values)]
    everywhere = float(np.sum((sizes / len(truth)) ** 2) * np.sum(share**2))
    # sum over groups and values of (seen - expected)^2; the pairs that do not occur have (0 - expected)^2
    between = everywhere + float(np.sum((inside - expected) ** 2 - expected**2))
    independent = float(1 - np.sum(share**2)) / len(truth)
    return len(truth) * min(1.0, independent / between) if between else float(len(truth))


# --- trials ----------------------------------------------------------------------------------------------------------


def _single(observables: Mapping[str, Int64], column: str, truth: Int64, knowledge: Knowledge) -> Iterator[_Trial]:
    """Yield all trials that need no other column."""
    weights = knowledge.weights[column]
    cells = max(knowledge.shown.keys() & observables.keys(), key=lambda n: len(np.unique(observables[n])), default="")
    for name, codes in observables.items():
        counts = np.unique(codes, return_counts=True)[1]
        attacks: dict[str, Callable[[Int64, Float64], Int64]] = dict(_ORDER)
        if len(counts) == 1 or counts.min() < counts.max():  # where all are as common, frequency says nothing
            attacks |= _FREQUENCY
        for attack, function in attacks.items():
            yield _scored(name, attack, function(codes, weights), truth, weights)
        if name in knowledge.shown:
            guessed = fitted(codes, knowledge.shown[name], knowledge.imagined[column])
            yield _scored(name, "fitted", guessed, truth, weights)
        if cells and 1 < len(counts) <= len(codes) // _ROWS_TOGETHER:
            known = knowledge.shown[cells], knowledge.imagined[column]
            guessed = together(codes, observables[cells], *known)
            yield _scored(name, f"together, by {cells}", guessed, truth, weights)


def _across(
    observables: Mapping[str, Int64], best: str, joints: Sequence[Joint], guessed: Mapping[str, Int64]
) -> Iterator[tuple[str, str, Int64]]:
    """Yield (observable, attack, guesses) of attacks that use columns recovered before."""
    tags = [name for name, codes in observables.items() if name == best or 1 < len(np.unique(codes)) <= SMALL]
    for joint in joints:
        attack = f"cross-column with {' and '.join(joint.groups)}"
        for name in tags:
            yield name, attack, cross_column(observables[name], joint.cells(guessed), joint.weights)


def _scored(observable: str, attack: str, guessed: Int64, truth: Int64, weights: Float64) -> _Trial:
    return _Trial(observable, attack, guessed, score(guessed, truth, weights))


def _best(trials: Iterator[_Trial]) -> tuple[_Trial, int]:
    """Return the best trial, and how many there were."""
    best, count = next(trials), 1
    for trial in trials:
        count += 1
        if trial.score.recovered > best.score.recovered:
            best = trial
    return best, count


def _judged(column: str, trial: _Trial, trials: int, truth: Int64, groups: Int64 | None) -> Best:
    units = float(len(truth)) if groups is None else independent_units(truth, groups)
    most = float(np.bincount(truth).max()) / len(truth)
    return Best(column, trial.observable, trial.attack, trial.score, trials, most, units)


def _divergence(q: float, p: float) -> float:
    """Return the Kullback-Leibler divergence of two coins, in nats."""
    heads = q * math.log(q / p) if q > 0 else 0.0
    return heads + ((1 - q) * math.log((1 - q) / (1 - p)) if q < 1 else 0.0)
