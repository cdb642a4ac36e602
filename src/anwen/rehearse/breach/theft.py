"""What came of one theft: what was taken, what was tried with it, whom it gave, and whether the bound held."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Theft:
    """One attacker's work. `people`, `values`: what he has read in the end; `bound`: the most people there may be."""

    name: str
    taken: str
    bound: int
    promise: str  # the bound in words
    code: str  # where the attack stands
    tried: list[str] = field(default_factory=list)
    people: int = 0
    values: int = 0
    figures: dict[str, object] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def note(self, what: str, **figures: object) -> None:
        """Add what was tried, and figures of it."""
        self.tried.append(what)
        self.figures |= figures

    def got(self, people: Iterable[str] = (), values: int = 0) -> None:
        """Add people (handles, counted once in each call) and values that the attacker holds."""
        self.people += len(set(people))
        self.values += values

    def must(self, holds: bool, problem: str) -> None:
        """Note a problem unless something holds."""
        if not holds:
            self.broken.append(problem)

    def close(self) -> None:
        """Compare with the bound."""
        self.must(self.people <= self.bound, f"{self.people} people, at most {self.bound}: {self.promise}")
