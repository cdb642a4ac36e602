"""The vault that is attacked: fresh or a copy, its processes, its clock, and what is really in it.

Zone `STOLEN` is the attacker's: code that he controls runs in its keeper and node. All else is the vault as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import anwen
from anwen import signing, supervisor
from anwen.client import inspecting
from anwen.client.session import Timing
from anwen.client.vault import AsyncVault
from anwen.errors import ConflictError, PolicyError, UnavailableError
from anwen.model import Policy
from anwen.node.app import load
from anwen.rehearse import officers, preload
from anwen.rehearse.breach import tap
from anwen.vault_folder import VaultFolder

STOLEN = "a"
"""The zone in the attacker's hands."""

MODULES = {"keeper": "anwen.keeper.app", "node": "anwen.node.app"}
BATCH = 1024


@dataclass(frozen=True, slots=True)
class Known:
    """A record that is really there, and what it holds: the truth that thefts are counted against."""

    record: str
    subject: str
    values: Mapping[str, object] = field(repr=False)


class Scene:
    """A running vault. `extra`: code that is put into processes besides ("keeper b", "node a"), to break a defence."""

    def __init__(self, folder: VaultFolder, extra: Mapping[str, str]) -> None:
        self.folder, self._extra = folder, extra
        self.policy: Policy = folder.policy()
        self.outside = folder.path.with_name(folder.path.name + ".outside")  # what is no part of the vault
        self.outside.mkdir(exist_ok=True)
        self.known: list[Known] = []
        self.offset_s = 0.0
        self._clock = self.outside / "clock"
        self._running: supervisor.Running | None = None

    # --- processes -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start all keepers and nodes. Raises UnavailableError."""
        self._running = supervisor.Running(await supervisor.lock(self.folder))
        try:
            await asyncio.gather(*(self.start_one("keeper", keeper) for keeper in self.policy.keepers))
            await supervisor.hold_ceremonies(self.path("keeper", STOLEN))
            for node in self.policy.nodes:
                await self.start_one("node", node)
        except BaseException:
            await self.stop()
            raise

    async def start_one(self, part: str, name: str) -> None:
        """Start one process, with the attacker's code in it if it is his. Raises UnavailableError."""
        assert self._running is not None
        code = [preload.clock(self._clock, 0, passes=True), self._extra.get(f"{part} {name}", "")]
        if name == STOLEN:
            code.append(tap.code(part, self.outside))
        prefix = preload.prefix(self.outside / f"{part}-{name}", "\n".join(code))
        await self._running.start(f"{part} {name}", MODULES[part], self.path(part, name), lambda _: None, prefix)

    async def kill(self, part: str, name: str) -> None:
        """End one process at once."""
        assert self._running is not None
        process = self._running.processes[f"{part} {name}"]
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    async def stop(self) -> None:
        """End all processes."""
        if self._running is not None:
            await self._running.stop()
            self._running = None

    def pid(self, part: str, name: str) -> int:
        """Return a process's id."""
        assert self._running is not None
        return self._running.processes[f"{part} {name}"].pid

    def pids(self) -> list[int]:
        """Return the ids of all processes."""
        assert self._running is not None
        return [p.pid for p in self._running.processes.values() if p.returncode is None]

    def path(self, part: str, name: str) -> Path:
        """Return where a keeper or node keeps its files."""
        return self.folder.path / f"{part}s" / name

    @property
    def store(self) -> Path:
        """The folder of the store's file."""
        return self.folder.path / "store"

    # --- time ----------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Return the time that all of the vault sees: Unix seconds."""
        return time.time() + self.offset_s

    def pass_time(self, seconds: float) -> None:
        """Let time pass, for keepers, nodes and clients alike."""
        # at one moment for all: a keeper that hears its peers across two times takes their clocks for wrong
        preload.set_clock(self._clock, self.offset_s + seconds)
        self.offset_s += seconds

    async def cosigned(self) -> None:
        """Return when every keeper's peers have signed all that its log holds now."""
        auditor = next(
            (p.id, name)
            for p in self.policy.principals.values()
            for name in sorted(self.policy.roles[p.role].purposes)
            if self.policy.purposes[name].audit
        )
        async with self.connect(*auditor) as vault:
            for keeper in self.policy.keepers:
                await inspecting.log_state(vault.session, vault.purpose, keeper)  # has a checkpoint made

    # --- officers ------------------------------------------------------------------------------------------------

    async def publish(self, new: Policy) -> None:
        """Have the officers sign the next version, and all keepers and nodes follow it.

        Raises: NotFoundError: too few officers' keys lie in the folder. UnavailableError: somebody does not follow.
        """
        self.folder.publish(officers.sign(self.folder, self.policy, new))
        self.policy = new
        for name, answer in (await signing.publish(new, self.folder.documents(), {})).items():
            if answer != new.version:
                raise UnavailableError(f"{name} does not follow version {new.version}: {answer}")

    # --- clients -------------------------------------------------------------------------------------------------

    def connect(self, principal: str, purpose: str, timing: Timing | None = None) -> AsyncVault:
        """Return the vault as a principal sees it; to be closed by whoever asked."""
        vault = anwen.connect_async(self.folder.path, key=principal, purpose=purpose, timing=timing)
        vault.session.clock = self.now
        return vault

    async def load(self, collection: str, rows: Sequence[Mapping[str, object]], principal: str, purpose: str) -> None:
        """Store rows; those that are stored are known from now on. Raises UnavailableError: some were not."""
        async with self.connect(principal, purpose) as vault:
            for start in range(0, len(rows), BATCH):
                batch = rows[start : start + BATCH]
                for row, result in zip(batch, await vault.put_many(collection, batch), strict=True):
                    if result.error:
                        raise UnavailableError(f"a person could not be stored: {result.error.code}") from result.error
                    self.known.append(Known(result.record, result.subject, row))


@contextlib.contextmanager
def copied(original: Path, target: Path) -> Iterator[VaultFolder]:
    """Give the block a copy of a vault; the original is locked meanwhile, since both use the same addresses.

    Raises:
        ConflictError: the original is running. PolicyError: the copy would work on what lies outside it.
    """
    with _locked(VaultFolder(original)):
        if target.exists():
            raise ConflictError(f"{target}: exists")
        shutil.copytree(original, target, symlinks=True)
        folder = VaultFolder(target)
        check_apart(folder)
        yield folder


def check_apart(folder: VaultFolder) -> None:
    """Raise PolicyError unless all that a copy's processes use lies in the copy: else they attack the original's."""
    inside = folder.path.resolve()
    places = {str(p.relative_to(folder.path)): p for p in folder.path.rglob("*") if p.is_symlink()}
    for here in sorted((folder.path / "nodes").iterdir()):
        info, policy, store = load(here)
        if policy.engine != "sqlite":
            what = f"engine {policy.engine}, whose servers a copy of the folder would work on"
            raise PolicyError(f"node {info.id}: {what}; nothing was attacked")
        places[f"node {info.id}: store"] = here / str(store.get("path", ""))
    for name, place in places.items():
        if not place.resolve().is_relative_to(inside):
            raise PolicyError(f"{name}: {place.resolve()} lies outside the copy; nothing was attacked")


@contextlib.contextmanager
def _locked(folder: VaultFolder) -> Iterator[IO[bytes]]:
    with folder.lock() as lock:
        yield lock


@contextlib.contextmanager
def copied_store(scene: Scene) -> Iterator[Path]:
    """Give the block a copy of the store's file, as whoever has the disk takes it."""
    if scene.policy.engine != "sqlite":
        raise PolicyError(f"engine {scene.policy.engine}: the rehearsal reads SQLite's file alone")
    target = scene.outside / "stolen.sqlite"
    target.unlink(missing_ok=True)
    target.touch(mode=0o600)
    with (
        contextlib.closing(sqlite3.connect(f"file:{scene.store}/anwen.sqlite?mode=ro", uri=True)) as source,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        source.backup(copy)
    yield target
    target.unlink()


@contextlib.asynccontextmanager
async def running(scene: Scene) -> AsyncIterator[Scene]:
    """Run a scene for the length of the block."""
    await scene.start()
    try:
        yield scene
    finally:
        await scene.stop()
