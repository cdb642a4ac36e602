"""What a service counts of itself, as Prometheus reads it (text format 0.0.4), on a listener of its own.

Labels are operations, codes of errors, reasons of the door, the service's id and zone, its peers, a store's engine;
each from a list that is closed before the first request. No request adds one, so no principal, purpose, subject or
value can become a label.

Off unless `node.json` or `keeper.json` has "metrics". The door of `server` serves nothing of it.

Source: Prometheus, "Exposition formats", text-based format.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import json
import logging
import shutil
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from pathlib import Path

from anwen.errors import BY_CODE, AnwenError, GrantError, IntegrityError, PolicyError, StorageError
from anwen.net.http1 import split_address
from anwen.net.server import SHED, Handler

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
OTHER = "other"
"""Operation of every path that the service does not know: whoever asks chooses no label."""

CODES = ("ok", "cancelled", "unexpected", *BY_CODE)
GRAVE = ("unexpected", *(code for code, kind in BY_CODE.items() if issubclass(kind, IntegrityError | StorageError)))
"""Shown from the start, at zero: `increase` sees nothing of a series that begins at one, and one is to wake people."""
PLAIN = "plain-http:"
"""Before an address that is not loopback: whoever writes it knows that what is counted crosses a network readable."""
NOTED_PER_S = 16
"""Refusals in the log, at most."""

_Gauge = tuple[Callable[[], float], Mapping[str, str]]  # what reads it, and its labels
_CONNECTIONS, _HEAD_BYTES, _TIMEOUT_S = 8, 8192, 5.0
_log = logging.getLogger("anwen.net")


def usage(path: Path) -> tuple[int, int, int]:
    """Return the bytes of a path's disk: all, used, free for us. Raises StorageError."""
    try:
        return shutil.disk_usage(path)
    except OSError as error:
        raise StorageError(f"{path.name}: {error.strerror}") from error


class Metrics:
    """Counts of one service. Not for several threads: an event loop counts."""

    def __init__(self, service: str, name: str, zone: str, operations: Collection[str]) -> None:
        self._common = {"service": service, "id": name, "zone": zone}
        self._seconds = {op: [0] * (len(BUCKETS_S) + 1) for op in (*sorted(operations), OTHER)}
        self._sums = dict.fromkeys(self._seconds, 0.0)
        self._outcomes = dict.fromkeys(itertools.product(self._seconds, GRAVE), 0)
        self._under_way, self._noted = 0, (0, 0)
        self._gauges: dict[str, tuple[str, list[_Gauge]]] = {}
        self.shed: Mapping[str, int] = dict.fromkeys(SHED, 0)  # those of the `Server`, once it is there

    def gauge(self, name: str, about: str, read: Callable[[], float], **labels: str) -> None:
        """Have `read` called for each exposition; what it raises of ours leaves it out. Once for each set of labels."""
        self._gauges.setdefault(name, (about, []))[1].append((read, labels))

    def age(self, name: str, about: str, last_s: Callable[[], float], **labels: str) -> None:
        """Show how long ago something happened last; `last_s` says when it did (Unix seconds), 0 where it cannot."""
        latest_s = 0.0

        def read() -> float:
            nonlocal latest_s
            latest_s = max(latest_s, last_s())
            return time.time() - latest_s

        self.gauge(name, about, read, **labels)

    def follow_disk(self, path: Path) -> None:
        """Show how full the disk is that a service writes to."""
        self.gauge("anwen_disk_free_bytes", "Free for the service on its data's disk.", lambda: usage(path)[2])
        self.gauge("anwen_disk_size_bytes", "Size of the disk of the service's data.", lambda: usage(path)[0])

    def follow_policy(self, version: Callable[[], int], expires_s: Callable[[], int]) -> None:
        """Show which policy is in force, and for how long."""
        self.gauge("anwen_policy_version", "Version of the policy in force.", version)
        until = "Until the policy expires; negative: it has."
        self.gauge("anwen_policy_expires_seconds", until, lambda: expires_s() - time.time())

    def counting(self, handler: Handler) -> Handler:
        """Return the handler with each call counted and timed; refusals, and faults of disks and proofs, are logged."""

        async def counted(path: str, authorization: str | None, body: bytes) -> bytes:
            op = path.removeprefix("/v1/")
            op = op if op in self._seconds else OTHER
            begun, code = time.perf_counter(), "unexpected"
            self._under_way += 1
            try:
                answer = await handler(path, authorization, body)
                code = "ok"
            except AnwenError as error:
                code = error.code
                if isinstance(error, GrantError):
                    self._note_refusal(op, error)
                elif isinstance(error, StorageError | IntegrityError):
                    _log.warning("failed", extra={"op": op, "code": code})
                raise
            except asyncio.CancelledError:
                code = "cancelled"
                raise
            finally:
                self._under_way -= 1
                self._count(op, code, time.perf_counter() - begun)
            return answer

        return counted

    def _note_refusal(self, op: str, error: GrantError) -> None:
        """Log why somebody was refused; so many a second at most, since anybody can be."""
        second, count = int(time.monotonic()), 1
        if second == self._noted[0]:
            count += self._noted[1]
        self._noted = (second, count)
        if count <= NOTED_PER_S:
            cause = "; ".join(getattr(error, "__notes__", ()))
            _log.info("refused", extra={"op": op, "code": error.code, "cause": cause})

    def _count(self, op: str, code: str, seconds: float) -> None:
        key = (op, code if code in CODES else "error")
        self._outcomes[key] = self._outcomes.get(key, 0) + 1
        self._seconds[op][bisect_left(BUCKETS_S, seconds)] += 1
        self._sums[op] += seconds

    def exposition(self) -> str:
        """Return all of it as text."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        yield from _family("anwen_requests_total", "counter", "Requests answered, by operation and outcome.")
        for (op, code), count in sorted(self._outcomes.items()):
            yield self._sample("anwen_requests_total", count, op=op, code=code)
        yield from _family("anwen_request_seconds", "histogram", "From a request's last byte to its answer.")
        for op, counts in self._seconds.items():
            total = 0
            for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), counts, strict=True):
                total += count
                yield self._sample("anwen_request_seconds_bucket", total, op=op, le=bound)
            yield self._sample("anwen_request_seconds_sum", self._sums[op], op=op)
            yield self._sample("anwen_request_seconds_count", total, op=op)
        yield from _family("anwen_requests_under_way", "gauge", "Requests that have no answer yet.")
        yield self._sample("anwen_requests_under_way", self._under_way)
        yield from _family("anwen_shed_total", "counter", "Connections and requests that the door had no room for.")
        for reason, count in self.shed.items():
            yield self._sample("anwen_shed_total", count, reason=reason)
        for name, (about, gauges) in self._gauges.items():
            samples = []
            for read, labels in gauges:
                with contextlib.suppress(AnwenError):
                    samples.append(self._sample(name, read(), **labels))
            yield from (*_family(name, "gauge", about), *samples) if samples else ()

    def _sample(self, name: str, value: float, **labels: str) -> str:
        pairs = ",".join(f'{k}="{_escaped(v)}"' for k, v in (self._common | labels).items())
        return f"{name}{{{pairs}}} {value}"


def _family(name: str, kind: str, about: str) -> tuple[str, str]:
    return f"# HELP {name} {about}", f"# TYPE {name} {kind}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


@contextlib.asynccontextmanager
async def offer(metrics: Metrics, settings: Path) -> AsyncIterator[None]:
    """Listen for Prometheus during the block, if "metrics" of the service's JSON file says where.

    "127.0.0.1:9464", "unix:metrics.sock" (relative to the file), or "plain-http:10.0.0.5:9464".

    Raises: PolicyError: an address off loopback without `plain-http:`. StorageError: it cannot be listened on.
    """
    address, door = _address(settings), _Door(metrics)
    try:
        if address.startswith("unix:"):
            path = settings.parent / address.removeprefix("unix:")
            listener = await asyncio.start_unix_server(door.serve, path, limit=_HEAD_BYTES)
        elif address:
            host, port = split_address(address.removeprefix(PLAIN))
            listener = await asyncio.start_server(door.serve, host, port, limit=_HEAD_BYTES)
    except OSError as error:
        raise StorageError(f"metrics: cannot listen on {address}: {error.strerror}") from error
    try:
        yield
    finally:
        if address:
            listener.close()


def _address(settings: Path) -> str:
    try:
        address = str(json.loads(settings.read_bytes()).get("metrics", ""))
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise PolicyError(f"{settings.name}: expected a JSON object ({type(error).__name__})") from error
    if address and not address.startswith(("unix:", PLAIN)) and not _is_loopback(split_address(address)[0]):
        raise PolicyError(f"metrics: {address} is not loopback; {PLAIN}{address} says that this is meant")
    return address


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Door:
    """Answers `GET /metrics` and nothing else, few at a time: a scraper that hangs takes nothing from the service."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics, self._open = metrics, 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's one request."""
        self._open += 1
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                if self._open <= _CONNECTIONS:
                    async with asyncio.timeout(_TIMEOUT_S):
                        head = await reader.readuntil(b"\r\n\r\n")
                        writer.write(self._answer(head))
                        await writer.drain()
        finally:
            self._open -= 1
            writer.close()

    def _answer(self, head: bytes) -> bytes:
        status, text = "404 Not Found", ""
        if head.startswith((b"GET /metrics HTTP/1.", b"GET /metrics?")):
            status, text = "200 OK", self._metrics.exposition()
        body = text.encode()
        kind = "Content-Type: text/plain; version=0.0.4; charset=utf-8"
        head_lines = f"HTTP/1.1 {status}", kind, f"Content-Length: {len(body)}", "Connection: close", "", ""
        return "\r\n".join(head_lines).encode() + body
