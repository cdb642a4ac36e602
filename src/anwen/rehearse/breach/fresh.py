"""The people of a fresh vault: drawn by public statistics, which the attacker has as well, of other years."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np

from anwen.rehearse.breach import statistics
from anwen.rehearse.breach.population import People, World, published

SPARE = 200
"""People who are put in only while the attacker watches."""


class Fresh:
    """So many people, and some to spare. Fetches the statistics at first use. Raises UnavailableError there."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    @cached_property
    def world(self) -> World:
        """What people are drawn from, and what the attacker knows."""
        return published(statistics.fetch(), states=False)

    @cached_property
    def people(self) -> People:
        """All of them, those to spare last."""
        return self.world.draw(self.count + SPARE, self.seed)

    def rows(self) -> list[dict[str, str]]:
        """Return the people who are in the vault."""
        return self.world.rows(self.people, np.arange(self.count))

    def spare(self) -> Iterator[Mapping[str, object]]:
        """Yield the others."""
        yield from self.world.rows(self.people, np.arange(self.count, self.count + SPARE))
