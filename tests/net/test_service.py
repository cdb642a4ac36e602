"""Server and connections over real sockets: one refusal for all, limits, pins, deadlines, retries, forks."""

import asyncio
import contextlib
import multiprocessing
import os
import ssl
import time

import pytest
from door_rig import ECHO, WITHIN_S, handler, permissive, raw, until
from test_http1 import SMUGGLING

from anwen.errors import (
    BudgetError,
    GrantError,
    MalformedError,
    OverloadedError,
    PolicyError,
    ProofError,
    TooLargeError,
    UnavailableError,
)
from anwen.net import exchange, tls
from anwen.net.connection import Pool
from anwen.net.exchange import REFUSAL
from anwen.net.server import serve

# --- one refusal -------------------------------------------------------------------------------------------------------

METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"]
PATHS = [
    "/", "/healthz", "/healthz/", "/HEALTHZ", "/v1", "/v1/", "/v1/echo", "/v1/put", "/v1/open", "/v1/node_put",
    "/v1/unknown", "/v1/../v1/echo", "//v1/echo", "/v2/echo", "/admin", "/metrics", "/debug/vars", "/.env",
    "/api/docs", "/v1/echo?x=1", "/v1/%65cho", "/_cat/indices", "/server-status", "/actuator/env",
]  # fmt: skip


async def test_every_route_and_method_without_a_grant_gets_one_identical_answer(start):
    service = await start()
    requests = {
        (method, path): f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode()
        for method in METHODS
        for path in PATHS
        if (method, path) != ("GET", "/healthz")
    }
    answers = await asyncio.gather(*(raw(service, sent) for sent in requests.values()))
    assert set(answers) == {REFUSAL}


@pytest.mark.parametrize("authorization", ["Bearer x", "Basic YTpi", "Anwen", "Anwen ", "Anwen not-a-grant"])
async def test_another_or_no_valid_grant_gets_the_same_answer(start, authorization):
    service = await start()
    sent = f"POST /v1/unknown HTTP/1.1\r\nAuthorization: {authorization}\r\nContent-Length: 3\r\n\r\nabc".encode()
    assert await raw(service, sent) == REFUSAL


async def test_smuggling_shapes_get_the_same_answer_or_none(start):
    service = await start(head_timeout_s=0.3)
    answers = await asyncio.gather(*(raw(service, sent + b"hello") for sent in SMUGGLING.values()))
    assert set(answers) <= {REFUSAL, b""}
    assert [name for name, a in zip(SMUGGLING, answers, strict=True) if a == b""] == ["no end", "empty"]


async def test_healthz_is_constant_and_says_nothing(start):
    service = await start()
    answers = {await raw(service, b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n") for _ in range(3)}
    expected = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\nConnection: close\r\n"
        b"Content-Length: 3\r\n\r\nok\n"
    )
    assert answers == {expected}
    kept = await raw(service, b"GET /healthz HTTP/1.1\r\n\r\n", wait_s=0.2)
    assert kept.endswith(b"\r\n\r\nok\n")


async def test_a_path_served_without_a_grant_is_bounded(start, pools):
    service = await start(body_bytes_without_grant=10)
    pool = pools(service)
    assert await pool.post("/v1/who", None, b"x" * 10, 3) == b"nobody"
    assert await pool.post("/v1/who", "Anwen g", b"", 3) == b"Anwen g"
    with pytest.raises(TooLargeError):
        await pool.post("/v1/who", None, b"x" * 11, 3)


# --- framing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", [b"x", ECHO, b"GET /healthz HTTP/1.1\r\n\r\n", b"\r\n"])
async def test_a_pipelined_second_request_closes_the_connection(start, second):
    service = await start()
    assert await raw(service, ECHO + second) == REFUSAL
    after_health = await raw(service, b"GET /healthz HTTP/1.1\r\n\r\n" + second)
    assert after_health == REFUSAL


async def test_a_second_request_before_the_answer_closes_the_connection(start):
    service = await start()
    host, port = service.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=permissive())
    writer.write(ECHO.replace(b"echo", b"slow"))
    await asyncio.sleep(0.1)
    writer.write(ECHO)
    assert await reader.read() == REFUSAL
    writer.close()


async def test_who_does_not_read_an_answer_gets_no_second_one(start):
    """Otherwise answers would pile up in the service's memory."""
    service = await start()
    host, port = service.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=permissive(), limit=1024)
    writer.write(b"POST /v1/large HTTP/1.1\r\nAuthorization: Anwen g\r\nContent-Length: 8\r\n\r\n40000000")
    await asyncio.sleep(0.3)
    writer.write(ECHO)
    got = b""
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):
            while part := await reader.read(2**20):
                got = (got + part)[-2000:]
    assert b"hello" not in got
    writer.close()


async def test_a_request_may_come_in_any_pieces(start):
    service = await start()
    host, port = service.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=permissive())
    for byte in ECHO:
        writer.write(bytes([byte]))
        await writer.drain()
    answer = await reader.readuntil(b"hello")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    writer.close()


# --- errors ------------------------------------------------------------------------------------------------------------


async def test_errors_of_the_handler_arrive_as_themselves(start, pools):
    pool = pools(await start())
    with pytest.raises(BudgetError, match="spent") as caught:
        await pool.post("/v1/broke", "Anwen g", b"", 3)
    assert caught.value.retry_after_s == 7
    with pytest.raises(GrantError, match=r"^the grant does not cover this request$"):
        await pool.post("/v1/unknown", "Anwen g", b"", 3)


async def test_an_unexpected_error_says_nothing_to_anybody(start, pools, caplog):
    service = await start()
    pool = pools(service)
    with pytest.raises(Exception, match=r"^internal error$"):
        await pool.post("/v1/bug", "Anwen g", b"", 3)
    assert [r.getMessage() for r in caplog.records if r.name == "anwen.net"] == [
        "/v1/bug: unexpected ZeroDivisionError"
    ]
    assert "13800138000" not in caplog.text
    assert "Traceback" not in caplog.text


# --- limits ------------------------------------------------------------------------------------------------------------


async def test_bodies_are_bounded_before_they_are_read(start, pools):
    pool = pools(await start(body_bytes=1000))
    assert await pool.post("/v1/echo", "Anwen g", bytes(1000), 3) == bytes(1000)
    with pytest.raises(TooLargeError, match="at most 1000"):
        await pool.post("/v1/echo", "Anwen g", bytes(1001), 3)
    with pytest.raises((TooLargeError, UnavailableError)):
        await pool.post("/v1/echo", "Anwen g", bytes(20_000_000), 3)
    assert await pool.post("/v1/echo", "Anwen g", b"still there", 3) == b"still there"


async def test_bodies_of_all_connections_together_are_bounded(start, pools):
    service = await start(held_bytes=1000)
    pool = pools(service)
    slow = asyncio.create_task(pool.post("/v1/slow", "Anwen g", bytes(900), 3))
    await asyncio.sleep(0.1)
    with pytest.raises(OverloadedError):
        await pool.post("/v1/echo", "Anwen g", bytes(200), 3)
    await slow
    assert service.held.taken == 0
    assert await pool.post("/v1/echo", "Anwen g", bytes(1000), 3)


async def test_requests_at_the_same_time_are_bounded(start, pools):
    pool = pools(await start(requests=2))
    results = await asyncio.gather(
        *(pool.post("/v1/slow", "Anwen g", b"", 3) for _ in range(5)), return_exceptions=True
    )
    assert sorted(type(r).__name__ for r in results) == ["OverloadedError"] * 3 + ["bytes"] * 2


async def test_room_is_divided_among_callers_so_that_one_who_comes_with_his_first_finds_some(start, pools, gate):
    pool = pools(await start(requests=8))
    greedy = [asyncio.create_task(pool.post("/v1/held", "Anwen greedy", b"", WITHIN_S)) for _ in range(20)]
    await until(lambda: sum(task.done() for task in greedy) == 17)
    assert await pool.post("/v1/echo", "Anwen modest", b"x", WITHIN_S) == b"x"
    gate.set()
    ends = await asyncio.gather(*greedy, return_exceptions=True)
    refused = [e for e in ends if isinstance(e, OverloadedError)]
    assert len(refused) == 17  # after three, two of the four that his address may have are his
    assert all(e.retry_after_s for e in refused)
    assert await pool.post("/v1/echo", "Anwen greedy", b"x", WITHIN_S) == b"x"


async def test_a_request_whose_turn_comes_too_late_is_sent_away_unhandled(start, pools):
    pool = pools(await start(wait_s=0.3))
    await asyncio.gather(*(pool.post("/v1/slow", "Anwen g", b"", 3) for _ in range(6)))  # connections
    ends = await asyncio.gather(*(pool.post("/v1/busy", "Anwen g", b"", 5) for _ in range(6)), return_exceptions=True)
    assert 0 < sum(isinstance(e, OverloadedError) for e in ends) < 6
    assert {e if isinstance(e, bytes) else type(e) for e in ends} == {b"busy", OverloadedError}
    assert await pool.post("/v1/busy", "Anwen g", b"", 3) == b"busy"


@pytest.mark.parametrize("sent", [b"", b"POST /v1/echo HTTP/1.1\r\nA", ECHO[:-1]], ids=["nothing", "head", "body"])
async def test_slow_loris_is_cut(start, sent):
    service = await start(head_timeout_s=0.2, body_timeout_s=0.2)
    began = time.monotonic()
    assert await raw(service, sent) == b""
    assert time.monotonic() - began < 1
    assert not service.connections


async def test_drips_do_not_prolong_a_head(start):
    service = await start(head_timeout_s=0.3)
    host, port = service.address.split(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=permissive())
    began = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while service.connections and time.monotonic() - began < 3:
            writer.write(b"P")
            await writer.drain()
            await asyncio.sleep(0.02)
    assert time.monotonic() - began < 1
    writer.close()


async def test_a_handshake_that_never_ends_is_cut(start):
    service = await start(head_timeout_s=0.2)
    host, port = service.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    assert await asyncio.wait_for(reader.read(), 2) == b""
    writer.close()


async def test_idle_connections_are_closed(start, pools):
    service = await start(idle_timeout_s=0.2)
    pool = pools(service)
    assert await pool.post("/v1/echo", "Anwen g", b"1", 3) == b"1"
    await asyncio.sleep(0.4)
    assert not service.connections
    assert await pool.post("/v1/echo", "Anwen g", b"2", 3) == b"2"


# --- TLS ---------------------------------------------------------------------------------------------------------------


async def test_tls_1_2_is_refused(start):
    service = await start()
    context = permissive()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    host, port = service.address.split(":")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(host, int(port), ssl=context)


async def test_plain_http_gets_no_answer(start):
    service = await start()
    host, port = service.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
    got = b""
    with contextlib.suppress(ConnectionError):
        got = await asyncio.wait_for(reader.read(), 2)
    assert b"HTTP" not in got
    writer.close()


async def test_no_session_tickets_so_no_early_data(start, files):
    assert tls.server_context(files / "tls.crt", files / "tls.key").num_tickets == 0


async def test_another_key_is_refused_before_a_byte_is_sent(start, pools, monkeypatch):
    service = await start()
    seen = []
    monkeypatch.setattr(exchange.Connection, "_feed", lambda _self, plain: seen.append(plain))
    pool = pools(service, pin=bytes(32))
    with pytest.raises(ProofError, match="not the pinned key"):
        await pool.post("/v1/echo", "Anwen secret-grant", b"secret body", 3)
    await asyncio.sleep(0.05)
    assert seen == []


def test_a_pin_is_32_bytes():
    with pytest.raises(MalformedError):
        Pool("127.0.0.1:1", b"")


def test_a_pin_is_the_hash_of_the_key_and_outlives_the_certificate(files, pin):
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key((files / "tls.key").read_bytes(), None)
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert tls.hashlib.sha256(spki).digest() == pin
    for junk in (b"", b"junk"):
        with pytest.raises(MalformedError):
            tls.spki_pin(junk)
        with pytest.raises(MalformedError):
            tls.pin_of_pem(junk)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_readable_key_is_refused(files, tmp_path, mode):
    key = tmp_path / "tls.key"
    key.write_bytes((files / "tls.key").read_bytes())
    key.chmod(mode)
    with pytest.raises(PolicyError, match="0600"):
        tls.server_context(files / "tls.crt", key)


def test_a_missing_or_foreign_key_is_refused(files, tmp_path):
    with pytest.raises(PolicyError):
        tls.server_context(files / "tls.crt", tmp_path / "none")
    other = tmp_path / "tls.key"
    other.touch(mode=0o600)
    other.write_bytes(tls.make_certificate("other")[0])
    with pytest.raises(PolicyError):
        tls.server_context(files / "tls.crt", other)


# --- connections -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 16_384, 300_000, 5_000_000])
async def test_bodies_of_any_size_go_there_and_back(start, pools, size):
    pool = pools(await start())
    body = os.urandom(size)
    assert await pool.post("/v1/echo", "Anwen g", body, 10) == body


async def test_connections_are_kept_and_shared(start, pools):
    service = await start()
    pool = pools(service, limit=4)
    for _ in range(3):
        await asyncio.gather(*(pool.post("/v1/echo", "Anwen g", b"x", 3) for _ in range(20)))
    assert len(service.connections) == 4


async def test_a_deadline_ends_a_request_and_its_connection(start, pools):
    service = await start()
    pool = pools(service, limit=1)
    with pytest.raises(UnavailableError, match="no answer within"):
        await pool.post("/v1/slow", "Anwen g", b"", 0.1)
    assert await pool.post("/v1/echo", "Anwen g", b"mine", 3) == b"mine"  # never the answer before
    await asyncio.sleep(0.05)
    assert len(service.connections) == 1


async def test_who_waits_too_long_for_a_connection_is_told(start, pools):
    pool = pools(await start(), limit=1)
    slow = asyncio.create_task(pool.post("/v1/slow", "Anwen g", b"", 3))
    await asyncio.sleep(0.05)
    with pytest.raises(OverloadedError):
        await pool.post("/v1/echo", "Anwen g", b"", 0.1)
    assert await slow == b"slow"


async def test_nobody_there_is_unavailable(pin):
    pool = Pool("127.0.0.1:1", pin)
    with pytest.raises(UnavailableError):
        await pool.post("/v1/echo", None, b"", 3)
    await pool.aclose()
    with pytest.raises(UnavailableError, match="closed"):
        await pool.post("/v1/echo", None, b"", 3)


async def test_a_too_long_answer_is_refused(start, pools):
    pool = pools(await start(), max_answer_bytes=1000)
    assert len(await pool.post("/v1/large", "Anwen g", b"1000", 3)) == 1000
    with pytest.raises(UnavailableError, match="TooLargeError"):
        await pool.post("/v1/large", "Anwen g", b"1001", 3)


async def test_a_request_on_a_connection_closed_meanwhile_is_sent_again(start, pools):
    service = await start()
    pool = pools(service)
    assert await pool.post("/v1/echo", "Anwen g", b"1", 3) == b"1"
    for connection in list(service.connections):
        connection.abort()  # the client has not seen it when it sends
    assert await pool.post("/v1/echo", "Anwen g", b"2", 3) == b"2"


@contextlib.asynccontextmanager
async def peer(files, answers):
    """A service that answers each connection with one of `answers`, then closes."""
    left, seen = list(answers), []

    async def serve_one(reader, writer):
        answer = left.pop(0)
        with contextlib.suppress(ConnectionError):
            seen.append(await reader.read(1000))
            writer.write(answer)
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    context = tls.server_context(files / "tls.crt", files / "tls.key")
    service = await asyncio.start_server(serve_one, "127.0.0.1", 0, ssl=context)
    service.address, service.seen = "{}:{}".format(*service.sockets[0].getsockname()), seen
    yield service
    service.close()
    await service.wait_closed()


BAD_ANSWERS = {
    "nothing": b"",
    "half a head": b"HTTP/1.1 200",
    "half a body": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
    "too much": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc",
    "two answers": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    "no length": b"HTTP/1.1 200 OK\r\n\r\nabc",
    "endless head": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 3000,
    "html": b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>",
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
async def test_bad_answers_are_unavailable_and_asked_for_once(files, pin, answer):
    async with peer(files, [answer]) as service:
        pool = Pool(service.address, pin)
        with pytest.raises(UnavailableError):
            await pool.post("/v1/echo", "Anwen g", b"", 3)
        await pool.aclose()
    assert len(service.seen) == 1  # a fresh connection that fails is not tried again


def _child(address, pin, results):
    pool = results[0]

    async def ask():
        assert await pool.post("/v1/echo", "Anwen g", b"child", 5) == b"child"
        await pool.aclose()

    asyncio.run(ask())
    os._exit(0)


async def test_a_forked_child_opens_connections_of_its_own(start, pools):
    service = await start()
    pool = pools(service)
    assert await pool.post("/v1/echo", "Anwen g", b"parent", 3) == b"parent"
    process = multiprocessing.get_context("fork").Process(target=_child, args=(service.address, None, [pool]))
    process.start()
    await asyncio.to_thread(process.join, 10)
    assert process.exitcode == 0
    assert await pool.post("/v1/echo", "Anwen g", b"parent", 3) == b"parent"
    assert len(service.connections) == 1


async def test_stopping_lets_running_requests_finish(files, pools):
    context = tls.server_context(files / "tls.crt", files / "tls.key")
    service = await serve(handler, "127.0.0.1:0", context)
    pool = pools(service)
    slow = asyncio.create_task(pool.post("/v1/slow", "Anwen g", b"", 3))
    await asyncio.sleep(0.1)
    await service.aclose()
    assert await slow == b"slow"
    with pytest.raises(UnavailableError):
        await pool.post("/v1/echo", "Anwen g", b"", 3)
