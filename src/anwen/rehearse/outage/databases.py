"""The store behind the nodes of a rehearsal: one member in each zone, or a file that all of one machine share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol


class Database(Protocol):
    """An engine's servers, one in each zone."""

    engine: str

    async def start(self) -> None:
        """Start all members and return when they serve."""

    async def start_member(self, zone: str) -> None:
        """Start a member that was killed, on the files that it left, and return when it serves."""

    async def reap(self, zone: str) -> None:
        """Take note that a member was killed."""

    async def stop(self) -> None:
        """Stop all members."""

    def settings(self, zone: str) -> Mapping[str, object]:
        """Return what a zone's node needs to reach the store."""

    def pids(self, zone: str) -> list[int]:
        """Return the ids of a zone's processes."""


class Sqlite:
    """One file, opened by the nodes of all zones: no process, and nothing of it is in a zone."""

    engine = "sqlite"

    def __init__(self, path: Path) -> None:
        self._path = path

    async def start(self) -> None:
        pass

    async def start_member(self, zone: str) -> None:
        pass

    async def reap(self, zone: str) -> None:
        pass

    async def stop(self) -> None:
        pass

    def settings(self, zone: str) -> Mapping[str, object]:  # noqa: ARG002 - the same for all
        return {"path": str(self._path)}

    def pids(self, zone: str) -> list[int]:  # noqa: ARG002
        return []


ENGINES = ("sqlite",)


def database(
    engine: str, shared: Path, folders: Mapping[str, Path], hosts: Mapping[str, str], prefix: Callable[[str], list[str]]
) -> Database:
    """Return an engine's servers, not started. `folder` holds a folder for each zone."""
    assert engine in ENGINES
    del folders, hosts, prefix
    return Sqlite(shared / "anwen.sqlite")
