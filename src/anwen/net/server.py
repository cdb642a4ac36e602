"""A service's door: TLS 1.3, `POST /v1/<op>` with a grant, and one constant refusal for everything else.

Limits apply before a handshake begins and before any signature is checked. One request at a time on a connection;
bytes that come before its answer has gone close it. What a handler raises becomes a problem body; what it was not
meant to raise becomes a constant, and one line in the log with the name of the exception's class alone: messages and
locals of unexpected errors may hold anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import re
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any

from anwen.errors import AnwenError, GrantError, MalformedError, OverloadedError, TooLargeError
from anwen.formats import problem
from anwen.net import http1, tls

Handler = Callable[[str, str | None, bytes], Awaitable[bytes]]
"""Takes path, "Anwen GRANT" (None only on paths served without a grant) and body; returns the answer or raises
`AnwenError`."""

Whose = Callable[[str], str]
"""Takes "Anwen GRANT"; returns whose request it says it is, unchecked and cheap; "" where it says nothing."""

_log = logging.getLogger("anwen.net")
_OP_PATH = re.compile(r"/v1/[a-z][a-z_]{0,31}")
_SWEEPS = 4  # of the shortest time limit
RETRY_AFTER_S = 0.1
_OCTETS = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one service takes on. Times in seconds, sizes in bytes."""

    body_bytes: int = 64 * 2**20
    body_bytes_without_grant: int = 4 * 2**20
    buffered_bytes: int = 256 * 2**20  # bodies of all connections together
    head_timeout_s: float = 10  # from the first byte, handshake included, to the end of a head
    body_timeout_s: float = 60
    idle_timeout_s: float = 300
    linger_s: float = 1  # after a refusal, so that its reader gets it
    connections: int = 1024
    connections_per_address: int = 512
    requests: int = 256  # being handled at the same time
    wait_s: float = 0.5  # in which a request's turn has to come: work that is done too late is done for nobody


def _answer(status: int, content_type: str, body: bytes, *, close: bool) -> bytes:
    return http1.encode_response(status, content_type, len(body), close=close) + body


def _refusal(error: AnwenError, *, close: bool) -> bytes:
    return _answer(error.http_status, problem.CONTENT_TYPE, problem.encode(error), close=close)


def _crowded() -> OverloadedError:
    """Return what is said before anything of a request is looked at: no signature was checked for it."""
    return OverloadedError("too many requests waiting", retry_after_s=RETRY_AFTER_S)


REFUSAL = _refusal(GrantError("the grant does not cover this request"), close=True)
"""The one answer to everything that has no valid grant, whatever the cause."""
HEALTHY = _answer(200, "text/plain", b"ok\n", close=False)
_HEALTHY_CLOSE = _answer(200, "text/plain", b"ok\n", close=True)
_BROKEN = _refusal(AnwenError("internal error"), close=True)


class Server:
    """A listening service; `aclose` lets running requests finish first."""

    def __init__(
        self, handler: Handler, context: ssl.SSLContext, limits: Limits, open_paths: frozenset[str], whose: Whose
    ) -> None:
        self.handler, self.context, self.limits, self.open_paths = handler, context, limits, open_paths
        self.whose = whose
        self.connections: set[_Connection] = set()
        self.per_address: Counter[str] = Counter()
        self.buffered_bytes = 0
        self.running: dict[asyncio.Task[None], str] = {}
        self.per_caller: Counter[str] = Counter()
        self.address = ""
        self._listener: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen, also in `self.address`; port 0 takes a free one."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Connection(self), host, port, backlog=512)
        name = self._listener.sockets[0].getsockname()
        self.address = f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
        self._sweeper = asyncio.create_task(self._sweep())

    def run(self, work: Coroutine[Any, Any, None], caller: str) -> None:
        """Run the handling of one request."""
        task = asyncio.get_running_loop().create_task(work)
        self.running[task] = caller
        self.per_caller[caller] += 1
        task.add_done_callback(self._ran)

    def _ran(self, task: asyncio.Task[None]) -> None:
        caller = self.running.pop(task)
        self.per_caller[caller] -= 1
        if not self.per_caller[caller]:
            del self.per_caller[caller]

    def has_room(self, caller: str) -> bool:
        """Return whether one more request may be handled.

        A caller has at most as many as there is room left: half of all if alone, a third beside another, so that there
        is always room for one who comes with his first.
        """
        room = self.limits.requests - len(self.running)
        return room > 0 and self.per_caller[caller] <= room

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
) -> Server:
    """Return a listening server; there is no way to have one without TLS.

    Args:
        address: "host:port"; with port 0, `Server.address` says which one it is.
        without_grant: paths that the handler also serves without a grant, such as those with signatures of their own.
        whose: tells callers apart, among whom room is divided when there is little.
    """
    server = Server(handler, context, limits or Limits(), frozenset(without_grant), whose)
    await server.start(*http1.split_address(address))
    return server


class _State(enum.Enum):
    HEAD = 1  # reading a head, or waiting for one
    BODY = 2
    RUNNING = 3  # the handler works, or its answer is on its way
    REFUSED = 4  # an answer is on its way, all that comes is dropped
    CLOSED = 5


class _Connection(asyncio.Protocol):
    def __init__(self, server: Server) -> None:
        self.server, self.deadline = server, float("inf")
        self.peer, self.state = "", _State.CLOSED
        self.head, self.body = b"", list[bytes]()
        self.missing = 0  # bytes of the body still to come
        self.request: http1.Request | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.loop = transport, asyncio.get_running_loop()
        server, limits = self.server, self.server.limits
        self.peer = str(transport.get_extra_info("peername", ("",))[0])
        if (
            len(server.connections) >= limits.connections
            or server.per_address[self.peer] >= limits.connections_per_address
        ):
            transport.abort()
            return
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server.connections.add(self)
        server.per_address[self.peer] += 1
        self.state, self.deadline = _State.HEAD, self.loop.time() + limits.head_timeout_s
        self.channel = tls.Channel(server.context, server_side=True)

    def connection_lost(self, _exc: Exception | None) -> None:
        if self in self.server.connections:
            self.server.connections.remove(self)
            self.server.per_address[self.peer] -= 1
            if not self.server.per_address[self.peer]:
                del self.server.per_address[self.peer]
            self._release()
        self.state, self.deadline = _State.CLOSED, float("inf")

    def eof_received(self) -> bool:
        return False  # closes the transport, once what it holds is written

    def data_received(self, data: bytes) -> None:
        if self.state in (_State.REFUSED, _State.CLOSED):
            return
        try:
            plain = self.channel.receive(data)
        except ssl.SSLError:
            self._flush()  # the alert
            self.close()
            return
        self._flush()
        if plain:
            self._feed(plain)
        if self.channel.ended:
            self.close()

    def _feed(self, plain: bytes) -> None:
        if self.state is _State.RUNNING or self.transport.get_write_buffer_size():
            self._refuse(REFUSAL)  # pipelined: the last answer has not gone yet
            return
        if self.state is _State.HEAD:
            if not self.head:
                self.deadline = min(self.deadline, self.loop.time() + self.server.limits.head_timeout_s)
            self.head += plain
            end = self.head.find(http1.END)
            if end < 0:
                if len(self.head) > http1.MAX_HEAD_BYTES:
                    self._refuse(REFUSAL)
                return
            head, plain, self.head = self.head[: end + 4], self.head[end + 4 :], b""
            if not self._begin(head):
                return
        self.missing -= len(plain)
        if self.missing < 0:
            self._refuse(REFUSAL)  # more than one request
            return
        if plain:
            self.body.append(plain)
        if not self.missing:
            self._run()

    def _begin(self, head: bytes) -> bool:
        """Return whether a body is to be read for this head, and make room for it."""
        server, limits = self.server, self.server.limits
        try:
            request = http1.parse_request(head)
        except MalformedError:
            request = None
        if request is not None and (request.method, request.path) == ("GET", "/healthz"):
            self.request = request
            self.state, self.deadline = _State.RUNNING, self.loop.time() + limits.idle_timeout_s
            return True
        if request is None or request.method != "POST" or _OP_PATH.fullmatch(request.path) is None:
            self._refuse(REFUSAL)
            return False
        most = limits.body_bytes
        if request.authorization is None:
            most = limits.body_bytes_without_grant if request.path in server.open_paths else -1
        if most < 0:
            self._refuse(REFUSAL)
        elif request.length > most:
            self._refuse(_refusal(TooLargeError(f"body of {request.length} bytes, at most {most}"), close=True))
        elif server.buffered_bytes + request.length > limits.buffered_bytes:
            self._refuse(_refusal(_crowded(), close=True))
        else:
            self.request, self.missing = request, request.length
            server.buffered_bytes += request.length
            self.state, self.deadline = _State.BODY, self.loop.time() + limits.body_timeout_s
            return True
        return False

    def _run(self) -> None:
        request, self.state, self.deadline = self.request, _State.RUNNING, float("inf")
        assert request is not None
        if request.method == "GET":
            self._reply(_HEALTHY_CLOSE if request.close else HEALTHY, close=request.close)
            return
        caller = self.server.whose(request.authorization) if request.authorization else ""
        if not self.server.has_room(caller):
            self._reply(_refusal(_crowded(), close=request.close), close=request.close)
            return
        body, self.body = b"".join(self.body), []
        self.server.run(self._handle(request, body, self.loop.time()), caller)

    async def _handle(self, request: http1.Request, body: bytes, came_s: float) -> None:
        """Answer one request; the process edge: nothing that a handler raises goes past here."""
        close = request.close
        if self.loop.time() - came_s > self.server.limits.wait_s:
            self._reply(_refusal(_crowded(), close=close), close=close)
            return
        try:
            answer = await self.server.handler(request.path, request.authorization, body)
            message = _answer(200, _OCTETS, answer, close=close)
        except GrantError:
            message, close = REFUSAL, True
        except AnwenError as error:
            message = _refusal(error, close=close)
        except Exception as error:  # noqa: BLE001 - the last resort, so that neither message nor locals get out
            _log.error("%s: unexpected %s", request.path, type(error).__name__)  # no traceback either
            message, close = _BROKEN, True
        self._reply(message, close=close)

    def _reply(self, message: bytes, *, close: bool) -> None:
        self._release()
        if self.state is not _State.RUNNING:
            return  # the connection is gone, or was closed for what came on it meanwhile
        if close:
            self._refuse(message)
            return
        self.state, self.deadline = _State.HEAD, self.loop.time() + self.server.limits.idle_timeout_s
        self.request = None
        self.channel.send(message)
        self._flush()

    def _refuse(self, message: bytes) -> None:
        """Send a last answer and close: half, so that a peer that is still sending reads it."""
        self._release()
        self.state, self.deadline = _State.REFUSED, self.loop.time() + self.server.limits.linger_s
        self.channel.send(message)
        self.channel.finish()
        self._flush()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _release(self) -> None:
        """Give back the room that this connection's body took."""
        if self.request is not None:
            self.server.buffered_bytes -= self.request.length
            self.request, self.body = None, []

    def _flush(self) -> None:
        data = self.channel.outgoing()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        """Close once everything written has gone."""
        if self.state not in (_State.REFUSED, _State.CLOSED):
            self.channel.finish()
            self._flush()
        self.transport.close()

    def abort(self) -> None:
        """Close now."""
        self.transport.abort()
