"""Records that carry nothing: what TLS lets anybody send for free ends the connection before it keeps a process busy."""

import asyncio
import contextlib
import ctypes
import re
import ssl
from pathlib import Path

import pytest
from door_rig import dial, permissive
from hypothesis import given, settings
from hypothesis import strategies as st

from anwen.net import tls

KEY_UPDATE_BYTES = 27


@pytest.fixture(scope="module")
def context(files):
    return tls.server_context(files / "tls.crt", files / "tls.key")


def shaken(context):
    """A server's channel and a client's, after the handshake."""
    server, client = tls.Channel(context, server_side=True), tls.Channel(permissive(), server_side=False)
    client.start()
    while not (server.ready and client.ready):
        server.receive(client.outgoing())
        client.receive(server.outgoing())
    return server, client


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(30, 100_000), min_size=1, max_size=12), cuts=st.lists(st.integers(1, 50_000), min_size=1)
)
def test_whatever_a_client_says_comes_whole_however_it_is_cut(context, sizes, cuts):
    server, client = shaken(context)
    said = [bytes([i]) * size for i, size in enumerate(sizes)]
    got = b""
    for part in said:
        client.send(part)
        stream, at, turn = client.outgoing(), 0, 0
        while at < len(stream):
            got += server.receive(stream[at : at + cuts[turn % len(cuts)]])
            at, turn = at + cuts[turn % len(cuts)], turn + 1
    assert got == b"".join(said)


def test_ten_thousand_small_requests_are_no_flood(context):
    server, client = shaken(context)
    for _ in range(10_000):
        client.send(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert server.receive(client.outgoing())


def test_a_byte_for_each_record_is_one(context):
    server, client = shaken(context)
    for _ in range(10_000):
        client.send(b"x")
    stream = client.outgoing()
    with pytest.raises(ssl.SSLError, match="carry nothing"):
        server.receive(stream)


class Updater:
    """A client of the very library that Python's `ssl` is linked with, which has no call for key updates."""

    def __init__(self):
        maps = Path("/proc/self/maps").read_text()
        found = [re.search(rf"\S*/lib{name}\.so\S*", maps) for name in ("ssl", "crypto")]
        if not all(found):
            pytest.skip("Python's ssl has its library built in: key updates cannot be made")
        self.ssl, self.crypto = (ctypes.CDLL(f.group()) for f in found)
        self.tls = self._call(
            self.ssl.SSL_new, self._call(self.ssl.SSL_CTX_new, self._call(self.ssl.TLS_client_method))
        )
        method = self._call(self.crypto.BIO_s_mem)
        self.came, self.goes = (self._call(self.crypto.BIO_new, method) for _ in range(2))
        self.ssl.SSL_set_bio(*map(ctypes.c_void_p, (self.tls, self.came, self.goes)))
        self.ssl.SSL_set_connect_state(ctypes.c_void_p(self.tls))

    @staticmethod
    def _call(function, *arguments):
        function.restype = ctypes.c_void_p
        return function(*map(ctypes.c_void_p, arguments))

    def shake(self, data=b""):
        self.crypto.BIO_write(ctypes.c_void_p(self.came), data, len(data))
        return self.ssl.SSL_do_handshake(ctypes.c_void_p(self.tls)) == 1

    def updates(self, count):
        for _ in range(count):
            assert self.ssl.SSL_key_update(ctypes.c_void_p(self.tls), 1) == 1
            assert self.shake()
        return self.outgoing()

    def outgoing(self):
        space, out = ctypes.create_string_buffer(1 << 16), b""
        while (size := self.crypto.BIO_read(ctypes.c_void_p(self.goes), space, len(space))) > 0:
            out += space.raw[:size]
        return out


def test_key_updates_end_a_connection_after_few_of_them(context):
    server, client = tls.Channel(context, server_side=True), Updater()
    client.shake()
    while not server.ready:
        server.receive(client.outgoing())
        client.shake(server.outgoing())
    stream = client.updates(5_000)
    assert len(stream) == 5_000 * KEY_UPDATE_BYTES
    assert server.receive(stream[: 20 * KEY_UPDATE_BYTES]) == b""  # a few are part of the protocol
    with pytest.raises(ssl.SSLError, match="carry nothing"):
        server.receive(stream[20 * KEY_UPDATE_BYTES :])
    assert len(server.outgoing()) <= 400 * KEY_UPDATE_BYTES  # each that was looked at was answered


async def test_a_stranger_who_sends_such_records_is_cut_and_others_are_served(start, pools):
    service = await start()
    reader, writer = await dial(service)
    with contextlib.suppress(ConnectionError):
        for byte in b"POST /v1/echo HTTP/1.1\r\nX: " + b"x" * 1_000:
            writer.write(bytes([byte]))
            await writer.drain()
    async with asyncio.timeout(5):  # less than a head may take
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    assert not service.connections
    assert await pools(service).post("/v1/echo", "Anwen g", b"hello", 20) == b"hello"
