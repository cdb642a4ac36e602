"""An attacker without any credential: every route and method, guessed paths, plain HTTP, old TLS, forgotten listeners.

The dashboard of 2021 stood open for 14 months because nobody looked. This looks.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from anwen.formats.wire import SCHEMAS
from anwen.net.http1 import split_address
from anwen.rehearse.breach.scene import Scene
from anwen.rehearse.breach.search import Needles
from anwen.rehearse.breach.theft import Theft

ANSWER_S = 5.0
AT_ONCE = 32
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "")
GUESSED = (
    "/", "*", "/index.html", "/admin", "/login", "/console", "/dashboard", "/app/kibana", "/_cat/indices", "/_search",
    "/status", "/server-status", "/metrics", "/debug/pprof/", "/actuator/env", "/.env", "/.git/config",
    "/config.json", "/vault.toml", "/keys", "/backup", "/dump", "/docs", "/redoc", "/graphql", "/openapi.json",
    "/swagger.json", "/api", "/api/v1", "/v1", "/v1/", "/v1/open/", "/v1//open", "/v2/open", "/v1/OPEN", "/v1/%6fpen",
    "/v1/open?x=1", "/v1/../healthz", "/healthz/", "/healthz?x", "//healthz", "/HEALTHZ", "/readyz", "/v1/debug",
    "/v1/shutdown", "/v1/export", "/v1/sql", "http://localhost/healthz",
)  # fmt: skip
CEREMONY = ("state", "abandon", "announce", "reveal", "confirm", "open")
PEER_OPS = (
    "cosign",
    "last_seen",
    *(f"ceremony_{s}" for s in ("state", "abandon", "announce", "reveal", "confirm", "open")),
)
ROUTES = tuple(f"/v1/{op}" for op in (*SCHEMAS, *PEER_OPS, "policy"))
CREDENTIALS = (
    "", "Basic YWRtaW46YWRtaW4=", "Bearer null", "Anwen x", "Anwen eyJhbGciOiJub25lIn0.e30.", "Anwen e30",
)  # fmt: skip
HEALTHZ = ("GET", "/healthz")


async def steal(scene: Scene, needles: Needles) -> Theft:
    """Return what a stranger gets from the network. `needles`: values that must be in no answer."""
    theft = Theft(
        "nobody", "no credential: the network alone", 0,
        "one constant refusal to everything but /healthz", "rehearse/breach/nobody.py",
    )  # fmt: skip
    answers: dict[bytes, Counter[str]] = {}
    found: set[int] = set()
    for listener, (host, port) in _listeners(scene):
        for (method, path), answer in await _ask_all(host, port):
            if (method, path) == HEALTHZ:
                theft.must(answer.endswith(b"\r\n\r\nok\n"), f"{listener}: /healthz says something else")
                continue
            answers.setdefault(answer, Counter())[f"{listener} {method} {path}"] += 1
            found |= needles.within(answer)
        theft.must(not await _speaks_plain_http(host, port), f"{listener}: answers plain HTTP")
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2):
            theft.must(not await _speaks_tls(host, port, version), f"{listener}: speaks {version.name}")
    _compare(theft, answers)
    others = sorted(_ports(scene) - {port for _, (_, port) in _listeners(scene)})
    theft.must(not others, f"listens on ports that no policy names: {others}")
    theft.got(values=len(found))
    theft.must(not found, f"{len(found)} values in answers")
    asked = sum(sum(counts.values()) for counts in answers.values())
    theft.note(
        f"{asked:,} requests to {len(list(_listeners(scene)))} listeners: {len(METHODS)} methods on {len(ROUTES)} "
        f"routes, {len(GUESSED)} guessed paths, {len(CREDENTIALS)} made-up credentials",
        requests=asked, answers=len(answers),
    )  # fmt: skip
    theft.note("plain HTTP and TLS before 1.3 on each listener; other listening ports of the processes")
    theft.close()
    return theft


def _compare(theft: Theft, answers: dict[bytes, Counter[str]]) -> None:
    """Everything without a grant has to meet one answer, byte for byte."""
    refusal = max(answers, key=lambda a: sum(answers[a].values()), default=b"")
    theft.must(refusal.startswith(b"HTTP/1.1 403 "), "the commonest answer is no refusal")
    for answer, where in answers.items():
        if answer != refusal:
            first = next(iter(where))
            theft.must(False, f"{sum(where.values())} other answers, first to {first}: {answer[:40]!r}")


def _listeners(scene: Scene) -> Iterator[tuple[str, tuple[str, int]]]:
    for keeper in scene.policy.keepers.values():
        yield f"keeper {keeper.id}", split_address(keeper.address)
        yield f"keeper {keeper.id} for peers", split_address(keeper.peer_address)
    for node in scene.policy.nodes.values():
        yield f"node {node.id}", split_address(node.address)


def _requests() -> Iterator[tuple[str, str, bytes]]:
    """Yield method, path and the bytes of each request."""
    plain = itertools.chain(
        itertools.product(METHODS, ROUTES, [""]),
        itertools.product(("GET", "POST"), GUESSED, [""]),
        itertools.product(["POST"], ROUTES, CREDENTIALS),
        [(*HEALTHZ, "")],
    )
    for method, path, credential in plain:
        authorization = f"Authorization: {credential}\r\n" if credential else ""
        body = b"{}" if method in ("POST", "PUT", "PATCH") else b""
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n{authorization}Content-Length: {len(body)}\r\n\r\n"
        yield (
            method,
            path,
            head.encode() + body if method != "GET" else head.replace("Content-Length: 0\r\n", "").encode(),
        )


async def _ask_all(host: str, port: int) -> list[tuple[tuple[str, str], bytes]]:
    """Return each request and the answer that came before the connection closed."""
    context, room = _careless(), asyncio.Semaphore(AT_ONCE)

    async def one(request: bytes) -> bytes:
        async with room:
            return await _answer(host, port, context, request)

    asked = list(_requests())
    answers = await asyncio.gather(*(one(request) for *_, request in asked))
    return [((method, path), answer) for (method, path, _), answer in zip(asked, answers, strict=True)]


async def _answer(host: str, port: int, context: ssl.SSLContext | None, request: bytes) -> bytes:
    """Return what comes back; HEAD's and others' bodies count as well."""
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            try:
                writer.write(request)
                if request.startswith(b"GET /healthz "):
                    return await reader.readuntil(b"ok\n")
                return await reader.read(2**16)
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return b""


def _careless(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Return a context that takes any certificate, with old versions and weak ciphers if a server wants them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if version is not None:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version, context.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, version
    return context


async def _speaks_plain_http(host: str, port: int) -> bool:
    answer = await _answer(host, port, None, b"GET /status HTTP/1.0\r\n\r\n")
    return b"HTTP/" in answer


async def _speaks_tls(host: str, port: int, version: ssl.TLSVersion) -> bool:
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(ANSWER_S):
            _, writer = await asyncio.open_connection(host, port, ssl=_careless(version))
            writer.transport.abort()
            return True
    return False


def _ports(scene: Scene) -> set[int]:
    """Return the TCP ports on which the vault's processes listen, as the kernel knows them."""
    inodes = {
        link.readlink().name
        for pid in scene.pids()
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if link.is_symlink() and link.readlink().name.startswith("socket:")
    }
    return set(_listening(("/proc/net/tcp", "/proc/net/tcp6"), inodes))


def _listening(tables: Iterable[str], inodes: set[str]) -> Iterator[int]:
    for table in tables:
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                yield int(fields[1].rpartition(":")[2], 16)
