"""One connection of a service: a request in, its answer out, one at a time.

Bytes that come before an answer has gone close the connection. A body that does not come at once is read for those
alone whose grant is good. What a handler raises becomes a problem body; what it was not meant to raise becomes a
constant, and one line in the log with the name of the exception's class alone: messages and locals of unexpected errors
may hold anything.
"""

from __future__ import annotations

import asyncio
import enum
import ipaddress
import logging
import re
import socket
import ssl
from typing import TYPE_CHECKING

from anwen.errors import AnwenError, GrantError, MalformedError, OverloadedError, TooLargeError
from anwen.formats import problem
from anwen.net import http1, tls

if TYPE_CHECKING:
    from anwen.net.server import Server

RETRY_AFTER_S = 0.1
_OP_PATH = re.compile(r"/v1/[a-z][a-z_]{0,31}")
_OCTETS = "application/octet-stream"
_SMALL_BYTES = 8192  # a refusal has less; the kernel takes it, whether it is read or not
_log = logging.getLogger("anwen.net")


def _place(host: str) -> str:
    """Return what counts as one address: of IPv6 the first 64 bits, since whoever has one has all that follow."""
    address = ipaddress.ip_address(host) if ":" in host else None
    if not isinstance(address, ipaddress.IPv6Address):
        return host
    return str(address.ipv4_mapped or ipaddress.IPv6Address(int(address) >> 64 << 64))


def _answer(status: int, content_type: str, body: bytes, *, close: bool, retry_after_s: float | None = None) -> bytes:
    return http1.encode_response(status, content_type, len(body), close=close, retry_after_s=retry_after_s) + body


def _answer_within(most: int, body: bytes, *, close: bool) -> bytes:
    if len(body) > most:
        raise TooLargeError(f"answer of {len(body)} bytes, at most {most}: ask for less")
    return _answer(200, _OCTETS, body, close=close)


def _refusal(error: AnwenError, *, close: bool) -> bytes:
    status, after_s = error.http_status, error.retry_after_s
    return _answer(status, problem.CONTENT_TYPE, problem.encode(error), close=close, retry_after_s=after_s)


REFUSAL = _refusal(GrantError("the grant does not cover this request"), close=True)
"""The one answer to everything that has no valid grant, whatever the cause."""
HEALTHY = _answer(200, "text/plain", b"ok\n", close=False)
_HEALTHY_CLOSE = _answer(200, "text/plain", b"ok\n", close=True)
_BROKEN = _refusal(AnwenError("internal error"), close=True)


class State(enum.Enum):
    """How far a connection is."""

    HEAD = 1  # reading a head, or waiting for one
    BODY = 2
    RUNNING = 3  # the handler works
    WRITING = 4  # its answer is on its way
    REFUSED = 5  # a last answer is on its way, all that comes is dropped
    CLOSED = 6


class Connection(asyncio.Protocol):
    """Serves one peer until either closes, or `deadline` (the event loop's time) is past."""

    def __init__(self, server: Server) -> None:
        self.server, self.deadline = server, float("inf")
        self.peer, self.state = "", State.CLOSED
        self.head, self.body = b"", bytearray()
        self.missing = 0  # bytes of the body still to come
        self.request: http1.Request | None = None
        self.room, self.held = server.held, 0  # where the bytes that this connection holds are counted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.loop = transport, asyncio.get_running_loop()
        self.peer = _place(str(transport.get_extra_info("peername", ("",))[0]))
        if not self.server.take_in(self):
            transport.abort()
            return
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.set_write_buffer_limits(high=0)  # `resume_writing` says that an answer has gone
        self._expect(State.HEAD, self.server.limits.head_timeout_s)
        self.channel = tls.Channel(self.server.context, server_side=True)

    def connection_lost(self, _exc: Exception | None) -> None:
        self.server.let_go(self)
        self._release()
        self.state, self.deadline = State.CLOSED, float("inf")

    def eof_received(self) -> bool:
        return False  # closes the transport, once what it holds is written

    def data_received(self, data: bytes) -> None:
        if self.state in (State.REFUSED, State.CLOSED):
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

    def resume_writing(self) -> None:
        if self.state is State.WRITING:
            self._rest()

    def _expect(self, state: State, within_s: float) -> None:
        self.state, self.deadline = state, self.loop.time() + within_s

    def _feed(self, plain: bytes) -> None:
        if self.state is State.WRITING:
            self.abort()  # pipelined, and the last answer is not read
            return
        if self.state is State.RUNNING:
            self._refuse(REFUSAL)  # pipelined
            return
        if self.state is State.HEAD:
            if not self.head:
                self.deadline = min(self.deadline, self.loop.time() + self.server.limits.head_timeout_s)
            self.head += plain
            end = self.head.find(http1.END)
            if end < 0:
                if len(self.head) > http1.MAX_HEAD_BYTES:
                    self._refuse(REFUSAL)
                return
            head, plain, self.head = self.head[: end + 4], self.head[end + 4 :], b""
            if not self._begin(head, len(plain)):
                return
        self.missing -= len(plain)
        if self.missing < 0:
            self._refuse(REFUSAL)  # more than one request
        elif not self._hold(len(plain)):
            self._refuse(self._shed("body", close=True))
        else:
            self.body += plain
            if not self.missing:
                self._run()

    def _begin(self, head: bytes, came: int) -> bool:
        """Return whether the body is to be read whose head this is, and of which `came` bytes are here."""
        limits = self.server.limits
        try:
            request = http1.parse_request(head)
            if (request.method, request.path) != ("GET", "/healthz"):
                self._check(request, came)
        except (MalformedError, GrantError):
            self._refuse(REFUSAL)
            return False
        except AnwenError as error:
            self._refuse(_refusal(error, close=True))
            return False
        self.request, self.missing = request, request.length
        self.room = self.server.held if request.authorization else self.server.held_without_grant
        self._expect(State.BODY, limits.body_timeout_s)
        return True

    def _check(self, request: http1.Request, came: int) -> None:
        """Raise unless a request may be read; GrantError for all that is to be answered by the constant."""
        limits, most = self.server.limits, self.server.limits.body_bytes
        if request.method != "POST" or _OP_PATH.fullmatch(request.path) is None:
            raise GrantError("no such route")
        if request.authorization is None:
            if request.path not in self.server.open_paths:
                raise GrantError("no grant")
            most = limits.body_bytes_without_grant
        if request.length > most:
            raise TooLargeError(f"body of {request.length} bytes, at most {most}")
        admit = self.server.admit
        if request.length > came and request.authorization is not None and admit is not None:
            admit(request.authorization)
            self._prove()

    def _run(self) -> None:
        request, self.state, self.deadline = self.request, State.RUNNING, float("inf")
        assert request is not None
        if request.method == "GET":
            self._reply(_HEALTHY_CLOSE if request.close else HEALTHY, close=request.close)
            return
        owner = (self.peer, self.server.whose(request.authorization) if request.authorization else "")
        if not self.server.requests.take(owner):
            self._reply(self._shed("requests", close=request.close), close=request.close)
            return
        body, room, held = bytes(self.body), self.room, self.held
        self.held, self.body = 0, bytearray()

        def done() -> None:  # the handler had the body until now, whatever became of the connection
            self.server.requests.give_back(owner)
            room.give_back(owner[:1], held)

        self.server.run(self._handle(request, body, self.loop.time()), done)

    async def _handle(self, request: http1.Request, body: bytes, came_s: float) -> None:
        """Answer one request; the process edge: nothing that a handler raises goes past here."""
        close, limits = request.close, self.server.limits
        if self.loop.time() - came_s > limits.wait_s:
            self._reply(self._shed("late", close=close), close=close)
            return
        try:
            answer = await self.server.handler(request.path, request.authorization, body)
            if request.authorization is not None:
                self._prove()
            message = _answer_within(limits.answer_bytes, answer, close=close)
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
        if self.state is not State.RUNNING:
            return  # the connection is gone, or was closed for what came on it meanwhile
        if len(message) > _SMALL_BYTES and not self._hold(len(message)):
            message = self._shed("answer", close=close)
        if close:
            self._last(message)
            return
        self._expect(State.WRITING, self.server.limits.body_timeout_s)
        self.channel.send(message)
        self._flush()
        if not self.transport.get_write_buffer_size():
            self._rest()

    def _rest(self) -> None:
        """Wait for the next request: the answer to the last one has gone."""
        self._release()
        limits = self.server.limits
        stranger = self in self.server.strangers
        self._expect(State.HEAD, limits.head_timeout_s if stranger else limits.idle_timeout_s)

    def _shed(self, reason: str, *, close: bool) -> bytes:
        """Count a request that there is no room for; return what is said without a look at anything of it."""
        self.server.shed[reason] += 1
        return _refusal(OverloadedError("too many requests waiting", retry_after_s=RETRY_AFTER_S), close=close)

    def _refuse(self, message: bytes) -> None:
        self._release()
        self._last(message)

    def _last(self, message: bytes) -> None:
        """Send a last answer and close: half, so that a peer that is still sending reads it."""
        limits = self.server.limits
        self._expect(State.REFUSED, limits.linger_s if len(message) <= _SMALL_BYTES else limits.body_timeout_s)
        self.channel.send(message)
        self.channel.finish()
        self._flush()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _prove(self) -> None:
        """Take note that a valid grant came: this is no stranger's connection."""
        self.server.strangers.pop(self, None)

    def _hold(self, size_bytes: int) -> bool:
        """Return whether there is room for more bytes; if so they are counted until `_release`."""
        if not self.room.take((self.peer,), size_bytes):
            return False
        self.held += size_bytes
        return True

    def _release(self) -> None:
        """Let go of the body, or of the answer that has gone, and give back the room that it took."""
        self.room.give_back((self.peer,), self.held)
        self.held, self.request, self.body = 0, None, bytearray()

    def _flush(self) -> None:
        data = self.channel.outgoing()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        """Close once everything written has gone."""
        if self.state not in (State.REFUSED, State.CLOSED):
            self.channel.finish()
            self._flush()
        self.transport.close()

    def abort(self) -> None:
        """Close now."""
        self.transport.abort()
