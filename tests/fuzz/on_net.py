"""Targets: what comes from a connection, before and behind TLS."""

import asyncio
import re

from feed import Feed
from laws import REFUSED, law, tried

import vault_texts  # noqa: F401 - beside us on the path
from anwen.errors import AnwenError, GrantError, MalformedError, PolicyError
from anwen.net import connection as client_end
from anwen.net import exchange, http1, metrics, tls
from anwen.net.server import Limits, Server


def request_head(data):
    """Any bytes as a request's head; whatever is accepted has one length, said once, as a plain number."""
    request = tried(MalformedError, http1.parse_request, data)
    if request is not REFUSED:
        said = [
            line.partition(b":")[2].strip() for line in data.lower().split(b"\r\n") if line[:15] == b"content-length:"
        ]
        law(said in ([], [str(request.length).encode()]), "a length that others may read differently")
        law(b"\n" not in data.replace(b"\r\n", b"") and b"\0" not in data, "a bare line feed or NUL")
        law(request.method != "POST" or said, "a POST without length")
        if request.method == "POST" and request.authorization and re.fullmatch("/v1/[a-z]+", request.path):
            head = http1.encode_request(request.path, "h", request.authorization, request.length)
            again = http1.parse_request(head)
            law((again.path, again.authorization, again.length) == (request.path, request.authorization, request.length),
                "a request changes on its way")  # fmt: skip


def response_head(data):
    """Any bytes as an answer's head."""
    response = tried(MalformedError, http1.parse_response, data)
    if response is not REFUSED:
        law(200 <= response.status < 600 and 0 <= response.length < 10**10, "status or length")
        head = http1.encode_response(response.status, "a/b", response.length, close=response.close)
        law(http1.parse_response(head) == response, "an answer changes on its way")


def address(data):
    """Any text as host and port."""
    found = tried(PolicyError, http1.split_address, data.decode("utf-8", "surrogateescape"))
    if found is not REFUSED:
        host, port = found
        law(host and 0 <= port < 2**16, "an address")


def certificate(data):
    """Any bytes as the certificate that the other end shows, or that lies in a folder."""
    for read in (tls.spki_pin, tls.pin_of_pem):
        pin = tried(MalformedError, read, data)
        law(pin is REFUSED or len(pin) == tls.PIN_BYTES, "a pin")


class _Plain:
    """Stands for a TLS channel: what comes is what was said."""

    def __init__(self, *_args, **_kw):
        self.ready, self.ended, self.out = True, False, []

    def receive(self, data):
        return data

    def send(self, data):
        self.out.append(data)

    def outgoing(self):
        out, self.out = b"".join(self.out), []
        return out

    def start(self):
        pass

    def finish(self):
        pass


class _Transport(asyncio.Transport):
    def __init__(self):
        super().__init__()
        self.written, self.ended = b"", False

    def get_extra_info(self, name, default=None):
        return self if name == "socket" else ("127.0.0.1", 1) if name == "peername" else default

    def setsockopt(self, *_):
        pass

    def write(self, data):
        self.written += data

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def get_write_buffer_size(self):
        return 0

    def can_write_eof(self):
        return True

    def write_eof(self):
        self.ended = True

    def is_closing(self):
        return self.ended

    def close(self):
        self.ended = True

    abort = close


_LOOP = asyncio.new_event_loop()
_LIMITS = Limits(body_bytes=2**16, body_bytes_without_grant=64, held_bytes=2**17)


async def _echo(path, authorization, body):
    law(re.fullmatch(r"/v1/[a-z][a-z_]{0,31}", path) is not None, "a path that is no operation reached the handler")
    law(authorization is not None or path == "/v1/policy", "a request without grant reached the handler")
    law(len(body) <= _LIMITS.body_bytes, "a body beyond the limit reached the handler")
    if path == "/v1/refuse":
        raise MalformedError("no")
    return b"%d:" % len(body) + body


def _admit(authorization):
    if authorization == "Anwen bad":
        raise GrantError("no")


async def _fed(connection, feed):
    """Feed what is left in pieces of the feed's choice; the loop turns in between."""
    sizes, data = feed.piece(), feed.rest()
    at, i = 0, 0
    while at < len(data):
        size = 1 + (sizes[i % len(sizes)] if sizes else 255)
        connection.data_received(data[at : at + size])
        at, i = at + size, i + 1
        for _ in range(3):
            await asyncio.sleep(0)


def server_bytes(data):
    """Any bytes in any pieces into a service: answers in form, one refusal, and room given back."""
    feed = Feed(data)
    server = Server(_echo, None, _LIMITS, frozenset({"/v1/policy"}), whose=lambda grant: grant, admit=_admit)
    transport = _Transport()
    exchange.tls.Channel, kept = _Plain, exchange.tls.Channel
    try:

        async def connected():
            made = exchange.Connection(server)
            made.connection_made(transport)
            return made

        connection = _LOOP.run_until_complete(connected())
        _LOOP.run_until_complete(_fed(connection, feed))
    finally:
        exchange.tls.Channel = kept
    law(len(connection.head) <= http1.MAX_HEAD_BYTES + 256, "a head beyond its limit is kept")
    law(0 <= server.held.taken <= _LIMITS.held_bytes, "room that was never taken is given back")
    law(len(connection.body) <= connection.held, "bytes that nobody counts")
    left = transport.written
    while left:
        head, end, rest = left.partition(http1.END)
        response = http1.parse_response(head + end)
        law(response.status != 500, "a handler's law was broken")
        law(len(rest) >= response.length, "an answer that is cut")
        left = rest[response.length :]
    connection.connection_lost(None)
    law(not server.connections and not server.strangers and not server.running, "a connection leaves something")
    rooms = (server.held, server.held_without_grant, server.requests)
    law(not any(room.taken for room in rooms), "a connection leaves room taken")


def client_bytes(data):
    """Any bytes in any pieces as a service's answer: a status and body, or an error of the tree."""
    feed = Feed(data)
    transport = _Transport()
    client_end.tls.Channel, kept = _Plain, client_end.tls.Channel

    async def connected():
        made = client_end._Connection(None, 2**16)
        made.connection_made(transport)
        asking = asyncio.ensure_future(made.ask(b"request"))
        await asyncio.sleep(0)
        return made, asking

    try:
        connection, asking = _LOOP.run_until_complete(connected())
        _LOOP.run_until_complete(_fed(connection, feed))
    finally:
        client_end.tls.Channel = kept
    connection.connection_lost(None)

    async def outcome():
        try:
            return await asking
        except (AnwenError, client_end._StaleError) as error:
            return error

    found = _LOOP.run_until_complete(outcome())
    if isinstance(found, tuple):
        law(200 <= found[0] < 600 and len(found[1]) <= 2**16, "an answer")


class _Scraper:
    """The other end of the metrics' listener: keeps what it is told, or has gone when it is told."""

    def __init__(self, *, gone):
        self.gone, self.out, self.closed = gone, b"", False

    def write(self, data):
        law(not self.closed, "something is said after the end")
        self.out += data

    async def drain(self):
        if self.gone:
            raise ConnectionResetError

    def close(self):
        self.closed = True


_COUNTS = metrics.Metrics("keeper", "a", "a", {"open"})
_EXPOSED = _COUNTS.exposition()


def metrics_bytes(data):
    """Any bytes in any pieces into the metrics' listener: one answer in form or none, and its room given back."""
    feed = Feed(data)
    gone, sizes, sent = bool(feed.number() & 1), feed.piece(), feed.rest()
    door, scraper = metrics._Door(_COUNTS), _Scraper(gone=gone)

    async def serve():
        reader = asyncio.StreamReader(limit=metrics._HEAD_BYTES)
        serving = asyncio.ensure_future(door.serve(reader, scraper))
        at, i = 0, 0
        while at < len(sent):
            size = 1 + (sizes[i % len(sizes)] if sizes else 2**16)
            reader.feed_data(sent[at : at + size])
            at, i = at + size, i + 1
            await asyncio.sleep(0)
        reader.feed_eof()
        await serving

    _LOOP.run_until_complete(serve())
    law(scraper.closed and not door._open, "a connection leaves room taken")
    law(_COUNTS.exposition() == _EXPOSED, "a scraper changed what is counted")
    head, end, _ = sent.partition(http1.END)
    law(bool(scraper.out) or not end or len(head) > metrics._HEAD_BYTES, "a whole head without an answer")
    if scraper.out:
        law(end and len(head) <= metrics._HEAD_BYTES, "an answer to no head, or to one beyond the limit")
        top, _, body = scraper.out.partition(http1.END)
        shown = re.match(rb"GET /metrics(\?| HTTP/1\.)", head) is not None
        law(top.startswith(b"HTTP/1.1 200 OK\r\n" if shown else b"HTTP/1.1 404 Not Found\r\n"), "another status")
        law(body == (_EXPOSED.encode() if shown else b""), "metrics where none were asked for, or something else")
        law(b"\r\nContent-Length: %d\r\n" % len(body) in top, "another length than its own")


TARGETS = {
    f.__name__: f
    for f in (request_head, response_head, address, certificate, server_bytes, client_bytes, metrics_bytes)
}
