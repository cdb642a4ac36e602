"""Rules of measuring: rounds in rotated order, medians, intervals, and the gate.

Pure: numbers in, numbers out; the bootstrap is seeded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

RESAMPLES = 10_000
P99_NEEDS = 1_000
"""A 99th percentile of fewer raw samples is an anecdote and is not given."""


def rotated(items: Sequence[Any], round_: int) -> list[Any]:
    """Return `items` in the order of a round: A B C, B C A, C A B and so on."""
    turn = round_ % len(items)
    return [*items[turn:], *items[:turn]]


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles over rounds."""

    median: float
    q1: float
    q3: float


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles (linear interpolation)."""
    q1, median, q3 = np.percentile(np.asarray(values, float), [25, 50, 75])
    return Spread(float(median), float(q1), float(q3))


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median over median, with a 95 % interval."""

    ratio: float
    low: float
    high: float


def ratio(values: Sequence[float], reference: Sequence[float], seed: int = 1) -> Ratio:
    """Return median(values) / median(reference), both by round, with the interval of 10,000 resampled sets of rounds.

    A resample draws whole rounds: what disturbed both systems in one round stays together.
    """
    a, b = np.asarray(values, float), np.asarray(reference, float)
    if a.shape != b.shape or not len(a):
        raise ValueError(f"expected as many rounds on both sides, got {len(a)} and {len(b)}")
    drawn = np.random.default_rng(seed).integers(0, len(a), (RESAMPLES, len(a)))
    ratios = np.median(a[drawn], axis=1) / np.median(b[drawn], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Ratio(float(np.median(a) / np.median(b)), float(low), float(high))


def percentile(samples: Sequence[float], share: float) -> float:
    """Return a percentile of raw samples; NaN where there are too few for it."""
    if len(samples) < (P99_NEEDS if share >= 0.99 else 1):
        return math.nan
    return float(np.percentile(np.asarray(samples, float), 100 * share))


class Gate:
    """Correctness comes first: one failure, and the run has no performance number."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.passed = 0

    def check(self, ok: bool, what: str) -> bool:
        """Note whether `what` holds."""
        if ok:
            self.passed += 1
        else:
            self.failures.append(what)
        return ok


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure is to reach. `origin`: D design, N published elsewhere, P prototype, G first goal."""

    op: str  # ">=" or "<="
    value: float
    origin: str

    def met(self, reached: float) -> bool:
        """Return whether a median reaches it."""
        return reached >= self.value if self.op == ">=" else reached <= self.value


@dataclass(slots=True)
class Row:
    """One line of the summary: a metric of a system, by round."""

    metric: str
    unit: str
    system: str
    values: dict[int, float] = field(default_factory=dict)
    limit: Mapping[int, float] = field(default_factory=dict)
    peer: Mapping[int, float] = field(default_factory=dict)
    context: str = ""
    goal: Goal | None = None

    def summary(self) -> dict[str, Any]:
        """Return the JSON form; the first round (0) counts only where it is the only one."""
        kept = [r for r in sorted(self.values) if r or len(self.values) == 1]
        found = spread([self.values[r] for r in kept])
        out: dict[str, Any] = {"metric": self.metric, "unit": self.unit, "system": self.system}
        out |= {"median": found.median, "q1": found.q1, "q3": found.q3}
        for name, other in (("peer", self.peer), ("limit", self.limit)):
            rounds = [r for r in kept if r in other]
            if rounds:
                against = ratio([self.values[r] for r in rounds], [other[r] for r in rounds])
                out[name] = {"ratio": against.ratio, "low": against.low, "high": against.high}
        if self.context:
            out["context"] = self.context
        if self.goal:
            goal = self.goal
            out["goal"] = {"op": goal.op, "value": goal.value, "origin": goal.origin, "met": goal.met(found.median)}
        return out


class Rounds:
    """What all rounds of a suite gave."""

    def __init__(self) -> None:
        self.rounds: list[dict[str, Any]] = []
        self.floors: list[dict[str, float]] = []
        self.rows: dict[tuple[str, str], Row] = {}
        self.gate = Gate()

    def add(self, round_: int, order: int, system: str, metrics: Mapping[str, tuple[float, str]]) -> None:
        """Take one system's metrics of one round, each (value, unit)."""
        plain = {name: value for name, (value, _) in metrics.items()}
        self.rounds.append({"round": round_, "order": order, "system": system, "metrics": plain, "checks": {}})
        for name, (value, unit) in metrics.items():
            if not math.isnan(value):
                self.row(name, system, unit).values[round_] = value

    def checks(self, **checks: object) -> None:
        """Attach what was checked to the last round added."""
        self.rounds[-1]["checks"] |= checks

    def row(self, metric: str, system: str, unit: str = "") -> Row:
        """Return the summary line of a metric."""
        return self.rows.setdefault((metric, system), Row(metric, unit, system))

    def goal(self, metric: str, system: str, goal: Goal) -> None:
        """Say what a metric is to reach."""
        if (metric, system) in self.rows:
            self.rows[metric, system].goal = goal

    def limit(self, metric: str, system: str, values: Mapping[int, float]) -> None:
        """Say what this machine allows, by round."""
        if (metric, system) in self.rows:
            self.rows[metric, system].limit = values

    def values(self, metric: str, system: str) -> dict[int, float]:
        """Return a metric by round."""
        row = self.rows.get((metric, system))
        return row.values if row else {}

    def summary(self) -> list[dict[str, Any]]:
        """Return all lines; none where the gate was not passed."""
        return [] if self.gate.failures else [row.summary() for row in self.rows.values() if row.values]
