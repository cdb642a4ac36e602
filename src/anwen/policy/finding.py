"""One sentence of `anwen policy check`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, doubtful or good to know, and where: a path such as `roles.clerk.budgets.open`."""

    level: Literal["error", "warning", "note"]
    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.level}: {self.path}: {self.text}"


def error(path: str, text: str) -> Finding:
    """Return a finding that makes the policy unfit to be signed."""
    return Finding("error", path, text)


def warning(path: str, text: str) -> Finding:
    """Return a finding that officers should mean when they leave it."""
    return Finding("warning", path, text)


def note(path: str, text: str) -> Finding:
    """Return a consequence in words."""
    return Finding("note", path, text)
