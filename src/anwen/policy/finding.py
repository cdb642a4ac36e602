"""One sentence of `anwen policy check`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, doubtful or good to know, and where: a path such as `roles.clerk.budgets.open`."""

    level: Literal["error", "warning", "note"]
    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.level}: {self.path}: {self.text}"


error = partial(Finding, "error")
"""Makes the policy unfit to be signed."""
warning = partial(Finding, "warning")
"""Officers should mean it when they leave it."""
note = partial(Finding, "note")
"""A consequence in words."""
