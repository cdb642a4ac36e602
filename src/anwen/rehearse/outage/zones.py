"""Three zones of one vault: in each a keeper, a node and a database member, as processes that can be harmed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple, Self

import anwen
from anwen import supervisor, vault_folder
from anwen.client.opening import stack
from anwen.client.session import Session, Timing
from anwen.client.vault import AsyncVault
from anwen.errors import AnwenError, UnavailableError
from anwen.formats import wire
from anwen.formats.answer import decode_answer, verify_receipt
from anwen.model import Policy
from anwen.rehearse import preload
from anwen.rehearse.outage.databases import Database
from anwen.rehearse.outage.network import Network
from anwen.rehearse.outage.processors import Processors, taken_s
from anwen.vault_folder import Shape, VaultFolder

ZONES = ("a", "b", "c")
PARTS = ("keeper", "node", "database")
MODULES = {"keeper": "anwen.keeper.app", "node": "anwen.node.app"}
PROBE_S, POLL_S = 1.0, 0.1


class Machine(NamedTuple):
    """How the zones share this machine."""

    network: Network
    processors: Processors


class Zones:
    """The running zones. `work`: a client of the harness, for purpose "work"."""

    def __init__(
        self, folder: VaultFolder, machine: Machine, database: Database, prefix: Callable[[str], list[str]]
    ) -> None:
        self.folder, self.database, self._prefix = folder, database, prefix
        self.network, self._processors = machine
        self.policy: Policy = folder.policy()
        self.work: AsyncVault = self.connect()

    running: supervisor.Running

    @classmethod
    async def start(
        cls, folder: VaultFolder, machine: Machine, database: Database, prefix: Callable[[str], list[str]]
    ) -> Self:
        """Start what all zones hold, and return when all of it serves. Raises UnavailableError.

        `prefix`: the command that a zone's keeper and node are started with.
        """
        zones = cls(folder, machine, database, prefix)
        zones.running = supervisor.Running(await supervisor.lock(folder))
        try:
            await database.start()
            async with asyncio.TaskGroup() as starting:
                for zone in ZONES:
                    starting.create_task(zones._start(zone, "keeper"))
            await supervisor.hold_ceremonies(folder.path / "keepers" / ZONES[0])
            for zone in ZONES:
                await zones._start(zone, "node")
        except BaseException as error:
            await zones.stop()
            if isinstance(error, ExceptionGroup):
                raise error.exceptions[0] from None
            raise
        return zones

    def connect(self, request_s: float = PROBE_S) -> AsyncVault:
        """Return a client of the harness."""
        timing = Timing(request_s=request_s, deadline_s=request_s)
        return anwen.connect_async(self.folder.path, key="checker", purpose="work", timing=timing)

    async def _start(self, zone: str, part: str) -> None:
        if part == "database":
            await self.database.start_member(zone)
            return
        folder = self.folder.path / f"{part}s" / zone
        await self.running.start(f"{part} {zone}", MODULES[part], folder, lambda _: None, self._prefix(zone))

    async def stop(self) -> None:
        """Stop all processes, whatever state they are in."""
        await self.work.close()
        for zone in ZONES:
            self.signal(zone, signal.SIGCONT)
        await self.running.stop()
        await self.database.stop()

    # --- harm ----------------------------------------------------------------------------------------------------

    def pids(self, zone: str, parts: Collection[str] = PARTS) -> list[int]:
        """Return the ids of a zone's processes that have not ended."""
        ours = (self.running.processes.get(f"{part} {zone}") for part in parts)
        found = [p.pid for p in ours if p is not None and p.returncode is None]
        return found + (self.database.pids(zone) if "database" in parts else [])

    def signal(self, zone: str, number: signal.Signals, parts: Collection[str] = PARTS) -> None:
        """Send a signal to a zone's processes."""
        for pid in self.pids(zone, parts):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    async def kill(self, zone: str, parts: Collection[str] = PARTS) -> None:
        """Freeze a zone's processes at one moment, then kill them."""
        self.signal(zone, signal.SIGSTOP, parts)
        if "database" in parts:
            self.database.kill(zone)
        self.signal(zone, signal.SIGKILL, parts)
        await self._ended(zone, parts)

    async def terminate(self, zone: str, parts: Collection[str] = PARTS) -> None:
        """Ask a zone's processes to end, and wait until they have."""
        self._processors.started()  # what ends does not yield any more, or it would not end in time
        self.signal(zone, signal.SIGTERM, [part for part in parts if part != "database"])
        await self._ended(zone, parts)
        if "database" in parts:
            await self.database.stop_member(zone)

    async def _ended(self, zone: str, parts: Collection[str]) -> None:
        for part in parts:
            if process := self.running.processes.get(f"{part} {zone}"):
                try:
                    await asyncio.wait_for(process.wait(), supervisor.STOP_S)
                except TimeoutError:
                    raise UnavailableError(f"{part} {zone} did not end within {supervisor.STOP_S:g} s") from None

    async def restart(self, zone: str) -> None:
        """Start whatever of a zone does not run, on the files that it left; it yields to the others until `whole`."""
        self._processors.starts(zone)
        missing = [part for part in ("database", "keeper", "node") if not self.pids(zone, [part])]
        if "database" in missing:
            await self._start(zone, "database")
        await asyncio.gather(*(self._start(zone, part) for part in missing if part != "database"))

    async def move_node(self, zone: str, folder: Path) -> None:
        """Run a zone's node in another folder from now on. Raises UnavailableError."""
        await self.terminate(zone, ["node"])
        link = self.folder.path / "nodes" / zone
        link.unlink()
        link.symlink_to(folder)
        await self._start(zone, "node")

    async def follow(self) -> None:
        """Take the newest policy for what the harness asks and knows."""
        await self.work.close()
        self.policy, self.work = self.folder.policy(), self.connect()

    # --- what can be seen from outside -----------------------------------------------------------------------------

    def addresses(self, zone: str, parts: Collection[str] = ("keeper", "node")) -> Iterator[tuple[str, int]]:
        """Yield where a zone's keeper and node listen."""
        for part, info in (("keeper", self.policy.keepers[zone]), ("node", self.policy.nodes[zone])):
            if part in parts:
                host, _, port = info.address.rpartition(":")
                yield host, int(port)

    def processor_s(self) -> dict[str, float]:
        """Return the processor time that the running processes of each part have taken."""
        return {part: sum(taken_s(pid) for zone in ZONES for pid in self.pids(zone, [part])) for part in PARTS}

    async def clock_offset(self, zone: str, expected_s: float = 0.0) -> float:
        """Return how many seconds the time that a keeper signs is ahead. Raises UnavailableError, GrantError.

        `expected_s`: by how much; a grant of the true time is of no use to a keeper with a clock far from it.
        """
        session, before = self.work.session, time.time()
        session.clock = lambda: time.time() + expected_s
        try:
            body = wire.encode("state", session.random(wire.SALT_BYTES))
            answer = decode_answer(await session.keeper(zone, "state", self.work.purpose, body))
        finally:
            session.clock = time.time
        header = verify_receipt(answer.receipt, self.policy.keepers[zone].identity)
        return header.time_ms / 1000 - (before + time.time()) / 2

    async def serves(self, zone: str) -> bool:
        """Return whether a zone's own keeper and node answer."""
        try:
            await self.clock_offset(zone)
            await ask_node(self.work.session, zone, self.work.purpose)
        except AnwenError:
            return False
        return True

    async def whole(self, within_s: float) -> None:
        """Return when every zone serves, and all of the store. Raises UnavailableError: not within that time."""
        missing = [*ZONES, "store"]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while missing:
                    served = await asyncio.gather(*map(self._is_whole, missing))
                    missing = [what for what, good in zip(missing, served, strict=True) if not good]
                    if missing:
                        await asyncio.sleep(POLL_S)
        self._processors.started()
        if missing:
            raise UnavailableError(f"not whole {within_s:g} s after the return: {', '.join(missing)}")

    async def _is_whole(self, what: str) -> bool:
        return await (self.database.whole() if what == "store" else self.serves(what))


async def ask_node(session: Session, zone: str, purpose: str) -> None:
    """Ask a zone's own node for a record that is not there. Raises AnwenError: it does not answer, or refuses."""
    nobody: dict[str, wire.Table] = {"records": {"record": stack([session.random(16)], 16)}}
    body = wire.encode("node_get", session.random(wire.SALT_BYTES), tables=nobody)
    grant = session.grant(f"{session.policy.vault.hex()}/node", purpose, body)
    await session.transport.call(f"node/{zone}", "node_get", grant, body, PROBE_S)


def zone_folder(folder: VaultFolder, zone: str) -> Path:
    """Return where all files of a zone lie."""
    return folder.path / "zones" / zone


def make_folder(path: Path, text: str, network: Network, engine: str, disk_bytes: int = 0) -> VaultFolder:
    """Make a vault whose zones each have one folder, `zones/ZONE`, for what their keeper, node and member keep.

    `disk_bytes`: make it a file system of its own, of this size.
    """
    folder = vault_folder.create(
        path, text, name="outage", shape=Shape(nodes=ZONES, hosts=network.hosts, engine=engine)
    )
    for zone in ZONES:
        own = zone_folder(folder, zone)
        own.mkdir(parents=True, mode=0o700)
        if disk_bytes:
            network.mount(own, disk_bytes)
        for part in ("keeper", "node"):
            link = folder.path / f"{part}s" / zone
            shutil.move(link, own / part)
            link.symlink_to(own / part)
    return folder


def member_folders(folder: VaultFolder, path: Path) -> Path:
    """Make a folder that holds one for each zone's database member, which really lies with the zone's other files."""
    path.mkdir(mode=0o711)
    for zone in ZONES:
        inside = zone_folder(folder, zone) / "database"
        inside.mkdir(mode=0o700)
        (path / zone).symlink_to(inside)
    return path


def use_database(folder: VaultFolder, database: Database) -> None:
    """Write into each node's `node.json` how it reaches the store."""
    for zone in ZONES:
        about = {"id": zone, "store": dict(database.settings(zone))}
        (folder.path / "nodes" / zone / "node.json").write_text(json.dumps(about))


def clock_prefix(folder: VaultFolder, zone: str) -> list[str]:
    """Return the command that starts a process of Python on the clock that `zones/ZONE/clock` sets.

    A preloaded library for any program, libfaketime, made keepers and nodes so slow that it was a fault by itself.
    """
    own = zone_folder(folder, zone)
    return preload.prefix(own / "preload", preload.clock(own / "clock"))
