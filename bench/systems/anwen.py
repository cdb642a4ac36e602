"""`anwen_sqlite`: three keeper processes and a node over loopback TLS, SQLite behind the node (`anwen up`).

Keepers and node run as their own processes; this one only starts, counts and stops them.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import machine
from anwen import supervisor, vault_folder
from anwen.client.sync import Loop
from anwen.vault_folder import Shape, VaultFolder

TEMPLATE = Path(__file__).parents[1] / "bench.toml"
NAME = "anwen_sqlite"


def create(path: Path, shape: Shape | None = None) -> VaultFolder:
    """Make a fresh vault of the benchmark's policy in `path`."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True, mode=0o700)
    vault_folder._fill(path, TEMPLATE.read_text(encoding="utf-8"), path.name, shape or Shape())
    return VaultFolder(path)


class System:
    """A running vault."""

    def __init__(self, folder: VaultFolder) -> None:
        self.folder, self.path, self.name = folder, folder.path, f"anwen_{folder.policy().engine}"
        self._loop = Loop()
        self._running: supervisor.Running | None = None

    def start(self) -> None:
        """Start all processes."""
        self._running = self._loop.run(supervisor.up(self.folder))

    def pids(self) -> dict[str, int]:
        """Return process ids by name ("keeper a", "node a")."""
        assert self._running is not None
        return {name: p.pid for name, p in self._running.processes.items()}

    def cpu(self) -> dict[str, float]:
        """Return the CPU seconds of every process so far."""
        return machine.cpu_of(self.pids())

    def memory(self) -> dict[str, dict[str, float]]:
        """Return resident and proportional memory of every process, in MB."""
        return {name: machine.memory(pid) for name, pid in self.pids().items()}

    def stop_keeper(self, keeper: str) -> None:
        """Kill one keeper at once."""
        assert self._running is not None
        self._running.processes[f"keeper {keeper}"].kill()

    def stop(self) -> None:
        """Stop what runs."""
        if self._running is not None:
            self._loop.run(self._running.stop())
            self._running = None
        self._loop.close()


@contextlib.contextmanager
def running(path: Path, shape: Shape | None = None) -> Iterator[System]:
    """Run a fresh vault; its folder is removed in the end."""
    system = System(create(path, shape))
    try:
        system.start()
        yield system
    finally:
        system.stop()
        shutil.rmtree(path, ignore_errors=True)


def settings(system: System) -> dict[str, object]:
    """Return what durability depends on; SQLite's read back from the store's file. Nodes refuse servers without it."""
    about: dict[str, object] = {"engine": system.folder.policy().engine, "keepers": "2 of 3", "binding": "request"}
    if about["engine"] != "sqlite":
        return about
    store = system.path / "store" / "anwen.sqlite"
    connection = sqlite3.connect(f"file:{store}?mode=ro", uri=True)
    try:
        journal = connection.execute("PRAGMA journal_mode").fetchone()[0]
        page = connection.execute("PRAGMA page_size").fetchone()[0]
    finally:
        connection.close()
    return {"journal_mode": journal, "page_size": page, **about}
