"""Made-up people with realistic joint distributions, and records about them: repeatable by seed, sources named."""

from __future__ import annotations

from anwen.sample.people import MAX_RESIDENTS, residents
from anwen.sample.writing import KINDS, make, write_sample

__all__ = ["KINDS", "MAX_RESIDENTS", "make", "residents", "write_sample"]
