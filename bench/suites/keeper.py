"""Keeper: the PRF alone (K0), a whole request without fsync (K1), with durable log (K2), over TLS (K3).

Grants are signed outside the clock: the figure is the keeper's. K1 and K2 run in this
process; their CPU time includes the event loop that calls them.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

import machine
from anwen import supervisor
from anwen.crypto import prf
from anwen.errors import UnavailableError
from anwen.keeper.folder import Disk, read_keys
from anwen.keeper.service import Keeper
from anwen.net.connection import Pool
from anwen.vault_folder import VaultFolder
from rules import Goal, Rounds, percentile, rotated
from suites.keeper_requests import Request, is_right, mix, open_, oracle, seal, sign
from systems import anwen

SIZES = (1, 16, 256, 1024, 16_384)
COUNTS = {1: 300, 16: 100, 256: 60, 1024: 40, 16_384: 4}
CLIENTS = 32
SYSTEM = "keeper"
KEEPER = "a"


class NoSync(Disk):
    """A disk that promises nothing: K1, what a request costs without waiting for the disk."""

    def sync(self, fd: int) -> None:
        """Leave the bytes where they are."""


@dataclass(frozen=True, slots=True)
class Point:
    """One figure: which requests, how many rows each, how many at a time."""

    kind: str  # "seal", "open new", "open repeated", "put mix"
    rows: int
    clients: int = 1

    @property
    def name(self) -> str:
        """How the report calls it."""
        return f"{self.kind}, {self.rows} rows" + (f", {self.clients} clients" if self.clients > 1 else "")


POINTS = [
    *(Point(kind, n) for kind in ("seal", "open new", "open repeated") for n in SIZES),
    *(Point("put mix", n) for n in SIZES[1:]),
    Point("seal", 1, CLIENTS),
    Point("open new", 1, CLIENTS),
]

Ask = Callable[[Request], Awaitable[bytes]]


class Keepers:
    """Three keepers in this process, or as processes; one of them is measured."""

    def __init__(self, folder: VaultFolder) -> None:
        self.folder, self.policy = folder, folder.policy()
        self.ask: Ask
        self.cpu_s: Callable[[], float] = time.process_time
        self._inside: dict[str, Keeper] = {}
        self._stack = AsyncExitStack()

    @classmethod
    async def start(cls, level: str, path: Path) -> Self:
        """Return fresh keepers with keys."""
        keepers = cls(anwen.create(path))
        if level == "K3":
            await keepers._as_processes()
        else:
            await keepers._in_process(NoSync() if level == "K1" else Disk())
        return keepers

    async def _in_process(self, disk: Disk) -> None:
        for k in self.policy.keepers:
            peers = {other: self._peer(other) for other in self.policy.keepers if other != k}
            self._inside[k] = Keeper.open(self.folder.path / "keepers" / k, peers=peers, disk=disk)
            self._stack.push_async_callback(self._inside[k].close)
        await asyncio.gather(*(k.start() for k in self._inside.values()))
        await supervisor.ceremonies({k: self._peer(k) for k in self._inside})
        measured = self._inside[KEEPER]
        self.ask = lambda r: measured.handle(r.op, r.grant, r.body)

    def _peer(self, keeper: str) -> Callable[[str, bytes], Awaitable[bytes]]:
        async def call(op: str, body: bytes) -> bytes:
            if keeper not in self._inside:
                raise UnavailableError(keeper)
            return await self._inside[keeper].handle_peer(op, body)

        return call

    async def _as_processes(self) -> None:
        running = supervisor.Running(self.folder.lock())
        self._stack.push_async_callback(running.stop)
        await asyncio.gather(
            *(
                running.start(f"keeper {k}", "anwen.keeper.app", self.folder.path / "keepers" / k, lambda _: None)
                for k in self.policy.keepers
            )
        )
        await supervisor.hold_ceremonies(self.folder.path / "keepers" / "a")
        about = self.policy.keepers[KEEPER]
        pool = Pool(about.address, about.tls_pin, limit=CLIENTS)
        self._stack.push_async_callback(pool.aclose)
        self.ask = lambda r: pool.post(f"/v1/{r.op}", f"Anwen {r.grant}", r.body, 30.0)
        pid = running.processes[f"keeper {KEEPER}"].pid
        self.cpu_s = lambda: machine.cpu_s(pid)

    def secrets(self) -> dict[str, list[bytes]]:
        """Return the measured keeper's secrets by series, for the oracle."""
        found = {}
        for series in ("record", "index", "mask"):
            keys = read_keys(self.folder.path / "keepers" / KEEPER, series, 1)
            assert keys is not None
            found[series] = list(keys.secrets.values())
        return found

    def requests(self, point: Point, count: int) -> list[Request]:
        """Return signed requests of one kind."""
        key = self.folder.principal_key("worker")
        same = np.frombuffer(np.random.default_rng(1).bytes(16 * point.rows), np.uint8).reshape(-1, 16)
        make: dict[str, Callable[[], tuple[str, bytes]]] = {
            "seal": lambda: seal(point.rows),
            "open new": lambda: open_(point.rows),
            "open repeated": lambda: open_(point.rows, same),
            "put mix": lambda: mix(point.rows),
        }
        rows = point.rows // 8 * 8 if point.kind == "put mix" else point.rows
        return [sign(key, self.policy.vault, KEEPER, make[point.kind](), rows) for _ in range(count)]

    async def stop(self) -> None:
        """Stop all."""
        await self._stack.aclose()
        shutil.rmtree(self.folder.path, ignore_errors=True)


async def drive(ask: Ask, requests: Sequence[Request], clients: int) -> list[float]:
    """Send all requests, `clients` at a time; return each one's seconds."""
    waiting, taken = iter(requests), []

    async def client() -> None:
        for request in waiting:
            start = time.perf_counter()
            await ask(request)
            taken.append(time.perf_counter() - start)

    await asyncio.gather(*(client() for _ in range(clients)))
    return taken


async def measure(
    level: str, path: Path, rounds: Rounds, count: Callable[[Point], int]
) -> tuple[dict[str, tuple[float, str]], dict[str, list[float]]]:
    """Return the metrics of one level in one round, and raw latencies."""
    keepers = await Keepers.start(level, path)
    metrics: dict[str, tuple[float, str]] = {}
    raw: dict[str, list[float]] = {}
    try:
        secrets = keepers.secrets()
        for point in POINTS:
            requests = keepers.requests(point, count(point))
            checked = keepers.requests(point, 1)[0]
            if point.rows <= 256:
                right = is_right(checked, await keepers.ask(checked), secrets)
                rounds.gate.check(right, f"{level} {point.name}: components differ from the oracle")
            cpu, start = keepers.cpu_s(), time.perf_counter()
            raw[point.name] = await drive(keepers.ask, requests, point.clients)
            wall, used = time.perf_counter() - start, keepers.cpu_s() - cpu
            rows = sum(r.rows for r in requests)
            metrics[f"{level} {point.name}"] = rows / wall, "rows/s"
            if used > 0:
                metrics[f"{level} {point.name}, per core"] = rows / used, "rows/CPU-s"
            if point.rows == 1:
                metrics[f"{level} {point.name}, p50"] = 1e3 * percentile(raw[point.name], 0.5), "ms"
    finally:
        await keepers.stop()
    return metrics, raw


def k0(rounds: Rounds, *, gate: bool) -> dict[str, tuple[float, str]]:
    """Return rows/s of the PRF alone, both components of a row of 2 of 3."""
    random = np.random.default_rng(7)
    secrets = [random.bytes(32), random.bytes(32)]
    keys = [prf.PrfKey(s) for s in secrets]
    if gate:
        inputs = random.integers(0, 256, (10_000, 79), np.uint8)
        for key, secret in zip(keys, secrets, strict=True):
            same = np.array_equal(prf.evaluate(key, inputs), oracle(secret, inputs))
            rounds.gate.check(same, "K0: differs from cryptography's CMAC-based KDF")
    metrics: dict[str, tuple[float, str]] = {}
    for n in SIZES:
        inputs = random.integers(0, 256, (n, 79), np.uint8)
        calls = max(5, min(2000, 200_000 // n))
        taken = []
        for _ in range(9):
            start = time.perf_counter()
            for _ in range(calls):
                for key in keys:
                    prf.evaluate(key, inputs)
            taken.append((time.perf_counter() - start) / calls)
        each = sorted(taken)[4]
        metrics[f"K0 {n} rows"] = n / each, "rows/s"
        if n in (1, 1024):
            metrics[f"K0 {n} rows, one CMAC pass"] = each / n / 4 * 1e6, "us"
    return metrics


def run(setting: Any) -> tuple[Rounds, dict[str, Any]]:
    """Run all rounds."""
    rounds, raw = Rounds(), dict[str, list[float]]()
    count = setting.rounds(6)
    for r in range(count):
        rounds.floors.append(setting.floors.measure())
        rounds.add(r, 0, SYSTEM, k0(rounds, gate=r == 0))
        for order, level in enumerate(rotated(("K1", "K2", "K3"), r), 1):
            path = setting.folder / f"keeper-{r}-{level}"
            metrics, taken = asyncio.run(
                measure(level, path, rounds, lambda p: setting.size(COUNTS[p.rows] * _more(p)))
            )
            rounds.add(r, order, SYSTEM, metrics)
            for name, values in taken.items() if r else ():
                raw.setdefault(f"{level} {name}", []).extend(values)
    for name, values in raw.items():
        if len(values) >= 1000:
            rounds.row(f"{name}, p99", SYSTEM, "ms").values[count] = 1e3 * percentile(values, 0.99)
    _limits(rounds)
    _goals(rounds)
    return rounds, {"keepers": "2 of 3", "grants": "signed outside the clock", "clients": CLIENTS, "rounds": count}


def _more(point: Point) -> int:
    return 6 if point.clients > 1 else 1


def _limits(rounds: Rounds) -> None:
    floors = dict(enumerate(rounds.floors))
    for n in SIZES:
        # 80 bytes of input make 5 blocks a pass; 2 components of 2 passes each
        ecb = {r: 16_384 / (20 * 16) / f["ecb_16k_us"] * 1e6 for r, f in floors.items()}
        rounds.limit(f"K0 {n} rows", SYSTEM, ecb)
        for kind in ("seal", "open new", "open repeated", "put mix"):
            k1 = rounds.values(f"K1 {kind}, {n} rows", SYSTEM)
            commit = {r: n / f["append_fdatasync_us"] * 1e6 for r, f in floors.items()}
            rounds.limit(f"K2 {kind}, {n} rows", SYSTEM, {r: min(v, commit[r]) for r, v in k1.items()})


def _goals(rounds: Rounds) -> None:
    rounds.goal("K0 1024 rows", SYSTEM, Goal(">=", 3_000_000, "G"))
    rounds.goal("K0 1024 rows, one CMAC pass", SYSTEM, Goal("<=", 0.06, "D"))
    rounds.goal("K0 1 rows, one CMAC pass", SYSTEM, Goal("<=", 0.4, "D"))
    for kind in ("seal", "open new"):
        for n in (1024, 16_384):
            rounds.goal(f"K1 {kind}, {n} rows, per core", SYSTEM, Goal(">=", 1_000_000, "G"))
        for n, least in ((16, 52_000), (256, 132_000), (1024, 400_000), (16_384, 1_000_000)):
            rounds.goal(f"K2 {kind}, {n} rows", SYSTEM, Goal(">=", least, "G"))
        for level in ("K2", "K3"):
            rounds.goal(f"{level} {kind}, 1 rows, {CLIENTS} clients", SYSTEM, Goal(">=", 5_000, "G"))
