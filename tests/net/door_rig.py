"""A service with a handler of its own, and a client that sends whatever it likes."""

import asyncio
import contextlib
import ssl
import time

from anwen.errors import BudgetError, GrantError

ECHO = b"POST /v1/echo HTTP/1.1\r\nAuthorization: Anwen g\r\nContent-Length: 5\r\n\r\nhello"
WITHIN_S = 20.0  # for what takes milliseconds
HEALTHZ = b"GET /healthz HTTP/1.1\r\n\r\n"


async def handler(path, authorization, body):
    match path:
        case "/v1/echo":
            return body
        case "/v1/who":
            return (authorization or "nobody").encode()
        case "/v1/slow":
            await asyncio.sleep(0.4)
            return b"slow"
        case "/v1/busy":
            time.sleep(0.2)  # noqa: ASYNC251 - the event loop is kept from others' requests
            return b"busy"
        case "/v1/broke":
            raise BudgetError("spent", retry_after_s=7)
        case "/v1/bug":
            raise ZeroDivisionError("marked plaintext 13800138000")
        case "/v1/large":
            return bytes(int(body))
    raise GrantError("unknown path, said to the log alone")


def permissive():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def raw(service, sent, *, wait_s=10.0):
    """Everything that comes back until the service closes."""
    host, port = service.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=permissive())
    with contextlib.suppress(ConnectionError):
        writer.write(sent)
        await writer.drain()
    got = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(wait_s):
            while part := await reader.read(65536):
                got += part
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()
    return got


async def dial(service, address="127.0.0.1", sent=b""):
    """Reader and writer of a connection from one of this machine's addresses."""
    host, port = service.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=permissive(), local_addr=(address, 0))
    writer.write(sent)
    return reader, writer


def post(path, grant, length, body=b""):
    """The head of a request that announces `length` bytes, and those that are sent at once."""
    return f"POST {path} HTTP/1.1\r\nAuthorization: {grant}\r\nContent-Length: {length}\r\n\r\n".encode() + body


async def until(true, within_s=WITHIN_S):
    """Wait for something that the service does by itself."""
    async with asyncio.timeout(within_s):
        while not true():  # noqa: ASYNC110 - the service sets no event for tests
            await asyncio.sleep(0.005)
