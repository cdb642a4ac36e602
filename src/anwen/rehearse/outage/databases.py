"""The store behind the nodes of a rehearsal: one member in each zone, one server, or a file that all nodes share."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from anwen.errors import StorageError
from anwen.formats.wire import MEMBER_WHOLE
from anwen.rehearse import patroni, postgresql

if TYPE_CHECKING:
    from anwen.store.cassandra_session import Session

STOP_S = 20.0
STORES = {"sqlite": "sqlite", "cassandra": "cassandra", "postgresql": "postgresql", "patroni": "postgresql"}
"""What can be rehearsed: one server, or several behind Patroni, are one engine."""

SERVER_ZONE = "a"
"""Where the one PostgreSQL server is."""


class Database(Protocol):
    """An engine's servers in the zones. What a zone does not have is left alone."""

    needed: str
    """The zone without which nothing can be read; "": none."""

    async def start(self) -> None:
        """Start all members and return when they serve. Raises UnavailableError."""

    async def start_member(self, zone: str) -> None:
        """Start a zone's member on the files that it left, and return when it serves."""

    async def stop_member(self, zone: str) -> None:
        """Stop a zone's member in good order."""

    def kill(self, zone: str) -> None:
        """Kill a zone's member; returns when it is gone."""

    async def stop(self) -> None:
        """Stop all members."""

    async def whole(self) -> bool:
        """Return whether all members serve, and each takes all others to be there."""

    def settings(self, zone: str) -> Mapping[str, object]:
        """Return what a zone's node needs to reach the store."""

    def pids(self, zone: str) -> list[int]:
        """Return the ids of a zone's processes that have not ended."""


class Sqlite:
    """One file, opened by the nodes of all zones: no process, and nothing of it is in a zone."""

    needed = ""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def start(self) -> None:
        pass

    async def start_member(self, zone: str) -> None:
        pass

    async def stop_member(self, zone: str) -> None:
        pass

    def kill(self, zone: str) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def whole(self) -> bool:
        return True

    def settings(self, zone: str) -> Mapping[str, object]:  # noqa: ARG002 - the same for all
        return {"path": str(self._path)}

    def pids(self, zone: str) -> list[int]:  # noqa: ARG002
        return []


class Cassandra:
    """A member in each zone."""

    needed = ""

    def __init__(self, folder: Path, hosts: Mapping[str, str], prefix: Callable[[str], list[str]]) -> None:
        from anwen.rehearse.cassandra import Cluster  # noqa: PLC0415

        self._log = logging.getLogger("cassandra")
        self._level = self._log.level
        self._cluster = Cluster(folder, tuple(hosts), hosts, prefix=prefix)
        self._session: Session | None = None

    async def start(self) -> None:
        self._log.setLevel(logging.CRITICAL)  # members go down here: that is no news
        await self._cluster.start()

    async def start_member(self, zone: str) -> None:
        await self._cluster.start_member(zone)

    async def stop_member(self, zone: str) -> None:
        self._cluster.signal(zone, signal.SIGTERM)
        await asyncio.to_thread(postgresql.wait_gone, self.pids(zone), STOP_S)
        self.kill(zone)

    def kill(self, zone: str) -> None:
        self._cluster.kill(zone)

    async def stop(self) -> None:
        if self._session:
            await self._session.close()
        self._log.setLevel(self._level)
        await self._cluster.stop()

    async def whole(self) -> bool:
        from anwen.store import cassandra_schema, cassandra_session  # noqa: PLC0415

        try:
            if self._session is None:
                settings = cassandra_session.Settings.parse(self.settings(SERVER_ZONE), Path())
                self._session = cassandra_session.Session(settings)
                await self._session.open()
            said = await cassandra_schema.members(self._session)
        except StorageError:
            self._session = None
            return False
        return set(said.values()) == {MEMBER_WHOLE} and len(said) == len(self._cluster.zones)

    def settings(self, zone: str) -> Mapping[str, object]:
        return self._cluster.settings(zone)

    def pids(self, zone: str) -> list[int]:
        return living([self._cluster.pid(zone)])


class Postgresql:
    """One server in one zone: what it does when its zone is lost is measured, and promised by nobody."""

    needed = SERVER_ZONE

    def __init__(self, folder: Path, hosts: Mapping[str, str], prefix: Callable[[str], list[str]]) -> None:
        self._server = postgresql.Server(folder, hosts[SERVER_ZONE], 5432, prefix(SERVER_ZONE))
        self._started = False

    async def start(self) -> None:
        self._started = True
        await self._server.start()

    async def start_member(self, zone: str) -> None:
        if zone == SERVER_ZONE:
            await self._server.start()

    async def stop_member(self, zone: str) -> None:
        if zone == SERVER_ZONE:
            await self._server.stop()

    def kill(self, zone: str) -> None:
        if zone == SERVER_ZONE:
            self._server.kill()

    async def stop(self) -> None:
        await self._server.stop()

    async def whole(self) -> bool:
        return bool(self.pids(SERVER_ZONE))

    def settings(self, zone: str) -> Mapping[str, object]:  # noqa: ARG002 - the same for all
        return self._server.settings()

    def pids(self, zone: str) -> list[int]:
        if zone != SERVER_ZONE or not self._started:
            return []
        server = self._server.pid
        children = Path(f"/proc/{server}/task/{server}/children")
        return living([server, *(map(int, children.read_text().split()) if children.exists() else ())])


class Patroni:
    """A server in each zone, of which Patroni makes one the leader: measured, and promised by nobody."""

    needed = ""

    def __init__(self, folder: Path, hosts: Mapping[str, str], prefix: Callable[[str], list[str]]) -> None:
        self._cluster = patroni.Cluster(folder, hosts, prefix)

    async def start(self) -> None:
        await self._cluster.start()

    async def start_member(self, zone: str) -> None:
        await self._cluster.start_member(zone)

    async def stop_member(self, zone: str) -> None:
        await self._cluster.stop_member(zone)

    def kill(self, zone: str) -> None:
        self._cluster.kill(zone)

    async def stop(self) -> None:
        await self._cluster.stop()

    async def whole(self) -> bool:
        return await asyncio.to_thread(self._cluster.whole)

    def settings(self, zone: str) -> Mapping[str, object]:  # noqa: ARG002 - the same for all
        return self._cluster.settings()

    def pids(self, zone: str) -> list[int]:
        return living(self._cluster.pids(zone))


def database(store: str, folder: Path, hosts: Mapping[str, str], prefix: Callable[[str], list[str]]) -> Database:
    """Return the servers of one of `STORES`, not started.

    Args:
        folder: holds, or will hold, what they keep; a folder for each zone's member.
        hosts: where they listen, by zone.
        prefix: the command that a zone's processes are started with.
    """
    if store == "cassandra":
        return Cassandra(folder, hosts, prefix)
    if store == "patroni":
        return Patroni(folder, hosts, prefix)
    if store == "postgresql":
        return Postgresql(folder / "server", hosts, prefix)
    return Sqlite(folder / "anwen.sqlite")


def living(pids: Iterable[int]) -> list[int]:
    """Return the processes that have not ended."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                found.append(pid)
    return found
