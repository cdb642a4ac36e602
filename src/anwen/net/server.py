"""A service's door: TLS 1.3, `POST /v1/<op>` with a grant, and one constant refusal for everything else.

Limits apply before a handshake begins and before any signature is checked. Bytes count as they come, not as they are
announced, until what they asked for has been read. Who has shown no valid grant yet is a stranger, and makes room where
there is none.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any

from anwen.net import http1
from anwen.net.exchange import Connection, State
from anwen.net.room import Room

Handler = Callable[[str, str | None, bytes], Awaitable[bytes]]
"""Takes path, "Anwen GRANT" (None only on paths served without a grant) and body; returns the answer or raises
`AnwenError`."""

Whose = Callable[[str], str]
"""Takes "Anwen GRANT"; returns whose request it says it is, unchecked and cheap; "" where it says nothing."""

Admit = Callable[[str], object]
"""Takes "Anwen GRANT"; raises `AnwenError` unless it is good in all but what the body says, which is still to come."""

SHED = ("connections", "body", "requests", "late", "answer")
"""Why the door turns somebody away: no room for a further connection, for a body, a request or its answer; or a request
whose turn came too late."""

_SWEEPS = 4  # of the shortest time limit


@dataclass(frozen=True, slots=True)
class Limits:
    """What one service takes on. Times in seconds, sizes in bytes."""

    body_bytes: int = 64 * 2**20
    body_bytes_without_grant: int = 2 * 2**20
    answer_bytes: int = 64 * 2**20
    held_bytes: int = 256 * 2**20  # of all connections: bodies until they are answered, answers until they have gone
    held_bytes_without_grant: int = 8 * 2**20
    head_timeout_s: float = 10  # handshake included, to the end of a head; also how long a stranger may idle
    body_timeout_s: float = 60  # for a body to come, and for an answer to go
    idle_timeout_s: float = 300
    linger_s: float = 1  # after a refusal, so that its reader gets it
    connections: int = 1024
    connections_per_address: int = 512
    requests: int = 256  # being handled at the same time
    wait_s: float = 0.5  # in which a request's turn has to come: work that is done too late is done for nobody


class Server:
    """A listening service; `aclose` lets running requests finish first."""

    def __init__(
        self,
        handler: Handler,
        context: ssl.SSLContext,
        limits: Limits,
        open_paths: frozenset[str],
        *,
        whose: Whose,
        admit: Admit | None = None,
    ) -> None:
        self.handler, self.context, self.limits, self.open_paths = handler, context, limits, open_paths
        self.whose, self.admit = whose, admit
        self.connections: set[Connection] = set()
        self.strangers: dict[Connection, None] = {}  # no valid grant came on them yet; the oldest first
        self.per_address: Counter[str] = Counter()
        self.requests, self.held = Room(limits.requests), Room(limits.held_bytes)
        self.held_without_grant = Room(limits.held_bytes_without_grant)
        self.running: dict[asyncio.Task[None], Callable[[], None]] = {}  # and what to do when they are done
        self.shed = dict.fromkeys(SHED, 0)  # how often for each reason
        self.address = ""
        self._listener: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen, also in `self.address`; port 0 takes a free one."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: Connection(self), host, port, backlog=512)
        name = self._listener.sockets[0].getsockname()
        self.address = f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
        self._sweeper = asyncio.create_task(self._sweep())

    def run(self, work: Coroutine[Any, Any, None], done: Callable[[], None]) -> None:
        """Run the handling of one request, and call `done` when it is over, however it ended."""
        task = asyncio.get_running_loop().create_task(work)
        self.running[task] = done
        task.add_done_callback(lambda ended: self.running.pop(ended)())

    def take_in(self, connection: Connection) -> bool:
        """Return whether one more connection may stay; where it is crowded, the oldest stranger's is closed for it."""
        limits, address = self.limits, connection.peer
        has_its_share = self.per_address[address] >= limits.connections_per_address
        if has_its_share or len(self.connections) >= limits.connections:
            # who is being handled stays, and for an address that has its share nobody else makes room
            waiting = (c for c in self.strangers if c.state is not State.RUNNING)
            oldest = next((c for c in waiting if c.peer == address or not has_its_share), None)
            self.shed["connections"] += 1
            if oldest is None:
                return False
            self.let_go(oldest)
            oldest.abort()
        self.connections.add(connection)
        self.strangers[connection] = None
        self.per_address[address] += 1
        return True

    def let_go(self, connection: Connection) -> None:
        """Forget a connection, if it was not forgotten yet."""
        if connection in self.connections:
            self.connections.remove(connection)
            self.strangers.pop(connection, None)
            self.per_address[connection.peer] -= 1
            if not self.per_address[connection.peer]:
                del self.per_address[connection.peer]

    async def _sweep(self) -> None:
        """Close what is past its deadline: one look at all connections costs less than a timer for each request."""
        limits = self.limits
        shortest = min(limits.head_timeout_s, limits.body_timeout_s, limits.idle_timeout_s, limits.linger_s)
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(shortest / _SWEEPS)
            now = loop.time()
            for connection in [c for c in self.connections if c.deadline < now]:
                connection.abort()

    async def aclose(self, grace_s: float = 5.0) -> None:
        """Stop listening, wait for running requests, close all connections."""
        if self._listener is None or self._sweeper is None:
            return
        self._listener.close()
        self._sweeper.cancel()
        if self.running:
            await asyncio.wait(set(self.running), timeout=grace_s)
        for connection in list(self.connections):
            connection.close()
        await asyncio.sleep(0)
        for connection in list(self.connections):
            connection.abort()
        with contextlib.suppress(asyncio.CancelledError):
            await self._sweeper
        await self._listener.wait_closed()


async def serve(
    handler: Handler,
    address: str,
    context: ssl.SSLContext,
    limits: Limits | None = None,
    *,
    without_grant: Collection[str] = (),
    whose: Whose = lambda _authorization: "",
    admit: Admit | None = None,
) -> Server:
    """Return a listening server; there is no way to have one without TLS.

    Args:
        address: "host:port"; with port 0, `Server.address` says which one it is.
        without_grant: paths that the handler also serves without a grant, such as those with signatures of their own.
        whose: tells callers of one address apart, among whom room is divided when there is little.
        admit: looks at the grant of a request whose body has not all come, before more of it is read; None where that
            cannot be told without the body.
    """
    server = Server(handler, context, limits or Limits(), frozenset(without_grant), whose=whose, admit=admit)
    await server.start(*http1.split_address(address))
    return server
