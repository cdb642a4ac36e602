"""Connections to one service whose key is known: kept alive, one request at a time on each.

The pin is compared after the handshake and before a byte of a request is sent. A request that fails on a connection
that had been idle, before anything of an answer came, is sent once more, byte for byte, on a fresh one: the service may
have closed it just then. Node steps are idempotent; a keeper that had taken the first copy refuses the second, since
its `jti` is spent: the caller then signs a new grant.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import socket
import ssl

from anwen.errors import MalformedError, OverloadedError, ProofError, TooLargeError, UnavailableError
from anwen.formats import problem
from anwen.net import http1, tls

MAX_BODY_BYTES = 64 * 2**20
CONNECT_S = 1.0
"""For TCP alone: the other end's kernel answers, however busy its process is. TLS belongs to the time of the answer."""

_abandoned: list[object] = []
"""Connections of a parent process: closing them here would end its TLS sessions or upset its event loop."""


class _StaleError(Exception):
    """The connection ended before anything of an answer came."""


class Pool:
    """Connections to one address. Safe to share between tasks of one event loop; a forked child starts anew."""

    def __init__(self, address: str, pin: bytes, *, limit: int = 32, max_answer_bytes: int = MAX_BODY_BYTES) -> None:
        if len(pin) != tls.PIN_BYTES:
            raise MalformedError(f"pin: expected {tls.PIN_BYTES} bytes, got {len(pin)}")
        self.address, self._pin, self._max_answer_bytes = address, pin, max_answer_bytes
        self._host, self._port = http1.split_address(address)
        self._context = tls.client_context()
        self._limit = limit
        self._owner: tuple[int, int] | None = None
        self._closed = False
        self._reset()

    def _reset(self) -> None:
        self._idle: collections.deque[_Connection] = collections.deque()
        self._all: set[_Connection] = set()
        self._turns = asyncio.Semaphore(self._limit)

    async def post(self, path: str, authorization: str | None, body: bytes, timeout_s: float) -> bytes:
        """Return the body of the answer 200.

        Raises:
            AnwenError: what the service answered instead, decoded from its problem body.
            UnavailableError: no connection, no answer within `timeout_s` or one that is not HTTP.
            OverloadedError: all connections stayed busy for `timeout_s`; nothing was sent.
            ProofError: the other end does not hold the pinned key; nothing was sent.
        """
        self._claim()
        message = http1.encode_request(path, self.address, authorization, len(body)) + body
        waiting = True
        try:
            async with asyncio.timeout(timeout_s), self._turns:
                waiting = False
                status, answer = await self._exchange(message)
        except TimeoutError as error:
            if waiting:
                raise OverloadedError(f"{self.address}: {self._limit} requests under way") from error
            raise UnavailableError(f"{self.address}: no answer within {timeout_s:g} s") from error
        except OSError as error:  # ssl.SSLError is one, too
            raise UnavailableError(f"{self.address}: {type(error).__name__}") from error
        if status != 200:
            raise problem.decode(status, answer)
        return answer

    def _claim(self) -> None:
        """Leave another process's or event loop's connections alone."""
        if self._closed:
            raise UnavailableError(f"{self.address}: closed")
        owner = (os.getpid(), id(asyncio.get_running_loop()))
        if owner != self._owner:
            if self._all:
                _abandoned.append(self._all)
            self._reset()
            self._owner = owner

    async def _exchange(self, message: bytes) -> tuple[int, bytes]:
        while self._idle:
            connection = self._idle.pop()  # the one used last: the others may grow old and be closed by the service
            if not connection.usable:
                self._discard(connection)
                continue
            try:
                return await self._ask(connection, message)
            except _StaleError:
                break
        connection = await self._connect()
        try:
            return await self._ask(connection, message)
        except _StaleError as error:
            raise UnavailableError(f"{self.address}: closed without an answer") from error

    async def _ask(self, connection: _Connection, message: bytes) -> tuple[int, bytes]:
        try:
            result = await connection.ask(message)
        except BaseException:  # cancelled half-way, too: an answer still to come must not meet the next request
            self._discard(connection)
            raise
        if connection.usable:
            self._idle.append(connection)
        else:
            self._discard(connection)
        return result

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self._context, self._max_answer_bytes), self._host, self._port
                )
        except TimeoutError as error:
            raise UnavailableError(f"{self.address}: no connection within {CONNECT_S:g} s") from error
        self._all.add(connection)
        try:
            await connection.ready
            self._check_pin(connection)
        except BaseException:
            self._discard(connection)
            raise
        connection.usable = True
        return connection

    def _check_pin(self, connection: _Connection) -> None:
        with contextlib.suppress(MalformedError):  # a certificate that cannot be read holds no pinned key
            if connection.channel.peer_pin() == self._pin:
                return
        raise ProofError(f"{self.address}: not the pinned key")

    def _discard(self, connection: _Connection) -> None:
        self._all.discard(connection)
        connection.abort()

    async def aclose(self) -> None:
        """Close all connections; requests under way fail."""
        self._closed = True
        if self._owner == (os.getpid(), id(asyncio.get_running_loop())):
            for connection in list(self._all):
                connection.close()
            await asyncio.sleep(0)
        self._reset()


class _Connection(asyncio.Protocol):
    def __init__(self, context: ssl.SSLContext, max_answer_bytes: int) -> None:
        loop = asyncio.get_running_loop()
        self.channel = tls.Channel(context, server_side=False)
        self.usable = False  # ready, pinned, and no request under way
        self.ready: asyncio.Future[None] = loop.create_future()
        self._loop, self._max_answer_bytes = loop, max_answer_bytes
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._head, self._response = b"", None
        self._parts: list[bytes] = []
        self._missing = 0

    _response: http1.Response | None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.channel.start()
        transport.write(self.channel.outgoing())

    async def ask(self, message: bytes) -> tuple[int, bytes]:
        """Send one request, return status and body of its answer."""
        self.usable = False
        self._answer = self._loop.create_future()
        self._head, self._response, self._parts = b"", None, []
        self.channel.send(message)
        self.transport.write(self.channel.outgoing())
        return await self._answer

    def data_received(self, data: bytes) -> None:
        try:
            plain = self.channel.receive(data)
            if plain:
                self._feed(plain)
        except (ssl.SSLError, MalformedError, TooLargeError) as error:
            self._fail(UnavailableError(f"the answer is not acceptable: {type(error).__name__}"))
            return
        out = self.channel.outgoing()
        if out and not self.transport.is_closing():
            self.transport.write(out)
        if self.channel.ready and not self.ready.done():
            self.ready.set_result(None)
        if self.channel.ended:
            self._fail(None)

    def _feed(self, plain: bytes) -> None:
        if self._answer is None or self._answer.done():
            raise MalformedError("an answer that nobody asked for")
        if self._response is None:
            self._head += plain
            end = self._head.find(http1.END)
            if end < 0:
                if len(self._head) > http1.MAX_HEAD_BYTES:
                    raise MalformedError("head too long")
                return
            self._response = http1.parse_response(self._head[: end + 4])
            plain, self._missing = self._head[end + 4 :], self._response.length
            if self._missing > self._max_answer_bytes:
                raise TooLargeError("answer too long")
        self._missing -= len(plain)
        self._parts.append(plain)
        if self._missing < 0:
            raise MalformedError("bytes after an answer")
        if not self._missing:
            self.usable = not self._response.close
            self._answer.set_result((self._response.status, b"".join(self._parts)))
            self._parts = []

    def connection_lost(self, _exc: Exception | None) -> None:
        self._fail(None)

    def _fail(self, error: UnavailableError | None) -> None:
        """End what is under way: with `error`, or because the other end closed."""
        self.usable = False
        begun = bool(self._head)
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or (UnavailableError("the answer broke off") if begun else _StaleError()))
            self._answer.exception()  # whoever waited for it may have been cancelled, here and below
        if not self.ready.done():
            self.ready.set_exception(error or UnavailableError("closed during the handshake"))
            self.ready.exception()  # whoever waited for it may have given up
        self.transport.abort()

    def close(self) -> None:
        """Say goodbye and close."""
        self.usable = False
        self.channel.finish()
        if not self.transport.is_closing():
            self.transport.write(self.channel.outgoing())
        self.transport.close()

    def abort(self) -> None:
        """Close now."""
        self.usable = False
        self.transport.abort()
