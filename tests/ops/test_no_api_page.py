"""No page describes the vault's operations: messages are binary (docs/spec/wire.md), and guessed pages are nothing."""

import asyncio
import re
import ssl
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "anwen"
PAGES = [
    "/openapi.json", "/openapi.yaml", "/docs", "/redoc", "/swagger.json", "/swagger-ui/", "/api-docs", "/v3/api-docs",
    "/v1/openapi.json", "/v1/docs", "/schema", "/graphql", "/.well-known/openapi.json", "/docs/../metrics",
]  # fmt: skip
GUESSED = "/qzv-that-nobody-has"


def listeners(vault):
    """Every address that a service of the vault listens on, by name, and whether TLS is spoken there."""
    policy = vault.policy()
    for keeper in policy.keepers.values():
        yield f"keeper {keeper.id}", keeper.address, True
        yield f"keeper {keeper.id}, peers", keeper.peer_address, True
    for node in policy.nodes.values():
        yield f"node {node.id}", node.address, True
    for (service, name), address in vault.metrics.items():
        yield f"{service} {name}, metrics", address, False


async def said(address, tls, method, path):
    """Everything that is answered until the service closes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context if tls else None)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_pages_that_describe_an_api_are_refused_like_any_guessed_path_by_every_listener(vault, method):
    found = list(listeners(vault))
    assert len(found) == 3 * 2 + 1 + 4
    for name, address, tls in found:
        expected = await said(address, tls, method, GUESSED)
        assert re.match(rb"HTTP/1.1 403 " if tls else rb"HTTP/1.1 404 ", expected), name
        answers = {path: await said(address, tls, method, path) for path in PAGES}
        assert {path for path, answer in answers.items() if answer != expected} == set(), name


def test_the_package_ships_no_description_of_an_api_and_nothing_that_makes_one():
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert not [path for path in files if re.search(r"openapi|swagger|redoc|graphi?ql", path.name, re.IGNORECASE)]
    makers = re.compile(
        r"(?m)[\"']?(openapi|swagger)[\"']?\s*[:=]|^\s*(from|import) (fastapi|flask|starlette|aiohttp)\b"
    )
    assert not [path for path in files if makers.search(path.read_text(errors="replace"))]
