"""Single operations through the client library over loopback TLS: 1, 8 and 32 clients, closed loop (section 6)."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anwen as library
import machine
import people
from rules import Goal, Rounds, percentile, rotated
from suites.bulk import WAYS, run_import, wrong_rows
from systems import anwen

ROWS = 100_000
POINTS = [
    *((operation, 8) for operation in ("open", "find + open", "put")),
    *((operation, 1) for operation in ("open masked", "open", "find", "find + open", "put")),
    *((operation, 32) for operation in ("open", "find + open", "put")),
]
"""Operations and how many clients at a time; the first three are what `--quick` does."""

STEPS = {"open masked": (2, 1), "open": (2, 1), "find": (2, 1), "find + open": (3, 2), "put": (2, 2)}
"""Rounds and calls of each operation, and how many of them end in a commit."""

IDS = 20_000
STARTUP_S = 2.0


@dataclass
class Load:
    """What all generator processes of one point did."""

    operation: str
    clients: int
    seconds: float
    samples: list[tuple[float, float]] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    wrong: int = 0
    reports: int = 0
    servers_cpu_s: float = 0.0
    client_cpu_s: float = 0.0

    @property
    def latencies_ms(self) -> list[float]:
        """Return raw latencies."""
        return [1e3 * t for _, t in self.samples]


@dataclass
class Bench:
    """A loaded vault and what is known of it."""

    system: anwen.System
    rows: int
    ids: list[str]
    next_new: int

    def drive(
        self, operation: str, clients: int, seconds: tuple[float, float], at: Callable[[], None] | None = None
    ) -> Load:
        """Run one point: `seconds` to warm up, and to measure. `at` is called half-way."""
        warm_s, timed_s = seconds
        count = min(clients, len(os.sched_getaffinity(0)))
        warm_until = time.monotonic() + STARTUP_S + warm_s
        end = warm_until + timed_s
        processes = []
        for i in range(count):
            share = clients // count + (i < clients % count)
            processes.append(self._start(operation, share, (warm_until, end)))
        load = Load(operation, clients, timed_s)
        pids = {str(p.pid): p.pid for p in processes}
        time.sleep(max(0.0, warm_until - time.monotonic()))
        servers, own = self.system.cpu(), machine.cpu_of(pids)
        if at is not None:
            time.sleep(timed_s / 2)
            at()
        time.sleep(max(0.0, end - time.monotonic()))
        load.servers_cpu_s = sum(machine.grown(servers, self.system.cpu()).values())
        load.client_cpu_s = sum(machine.grown(own, machine.cpu_of(pids)).values())
        for process in processes:
            _take(load, process)
        return load

    def _start(self, operation: str, share: int, times: tuple[float, float]) -> subprocess.Popen[str]:
        plan = {
            "vault": str(self.system.path), "operation": operation, "clients": share, "warm_until": times[0],
            "end": times[1], "rows": self.rows, "ids": self.ids, "first_new": self.next_new,
            "seed": self.next_new,
        }  # fmt: skip
        self.next_new += 10**6
        script = str(Path(__file__).parents[1] / "load.py")
        process = subprocess.Popen(
            [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(plan) + "\n")
        process.stdin.flush()
        return process


def _take(load: Load, process: subprocess.Popen[str]) -> None:
    out, err = process.communicate(timeout=120)
    if process.returncode:
        raise RuntimeError(f"load generator ended with {process.returncode}: {err[-500:]}")
    said = json.loads(out)
    load.samples += [(s, t) for s, t in said["samples"]]
    for code, n in said["errors"].items():
        load.errors[code] = load.errors.get(code, 0) + n
    load.wrong += said["wrong"]
    load.reports += said["reports"]


def loaded(setting: Any, system: anwen.System, rows: int) -> Bench:
    """Import residents and learn some record ids."""
    file = setting.folder / "single.ndjson"
    people.write_ndjson(file, rows)
    said = run_import(system, file, WAYS[0])
    if said["stored"] != rows:
        raise RuntimeError(f"stored {said['stored']} of {rows} rows")
    chosen = random.Random(3).sample(range(rows), min(IDS, rows))
    with library.connect(system.path, key="worker", purpose="work") as vault:
        numbers = [people.rows(r, 1)[0]["id_number"] for r in chosen]
        found = []
        for start in range(0, len(numbers), 1000):
            part = numbers[start : start + 1000]
            found += vault.find_many("person", "id_number", part, ["identity.masked"])
    return Bench(system, rows, [f[0].id for f in found], rows + 10**6)


def metrics_of(load: Load) -> dict[str, tuple[float, str]]:
    """Return the figures of one point."""
    name, times = f"{load.operation}, {load.clients} client{'s' if load.clients > 1 else ''}", load.latencies_ms
    done = max(1, len(times))
    return {
        f"{name}, p50": (percentile(times, 0.5) if times else float("nan"), "ms"),
        f"{name}, p99": (percentile(times, 0.99), "ms"),
        f"{name}, rate": (len(times) / load.seconds, "ops/s"),
        f"{name}, servers": (1e6 * load.servers_cpu_s / done, "CPU-us/op"),
        f"{name}, client": (1e6 * load.client_cpu_s / done, "CPU-us/op"),
    }


def memory_metrics(system: anwen.System, when: str) -> dict[str, tuple[float, str]]:
    """Return what each process has in memory."""
    return {
        f"{name}, {kind.upper()} {when}": (found[kind], "MB")
        for name, found in system.memory().items()
        for kind in ("rss", "pss")
    }


def run(setting: Any) -> tuple[Rounds, dict[str, Any]]:
    """Load once; in each round all operations at 1, 8 and 32 clients in rotated order. The first round warms up."""
    rounds, rows, count = Rounds(), setting.size(ROWS), setting.rounds(4)
    points = POINTS[:3] if setting.quick else POINTS
    timed_s = {"quick": 0.5, "bench": 20 / 3, "full": 20.0}[setting.profile]
    raw: dict[str, list[float]] = {}
    with anwen.running(setting.folder / "single") as system:
        start = memory_metrics(system, "after start")
        bench = loaded(setting, system, rows)
        for r in range(count):
            rounds.floors.append(setting.floors.measure())
            for order, (operation, clients) in enumerate(rotated(points, r)):
                seconds = (0.5, timed_s) if r or setting.quick else (1.0, 4.0)
                load = bench.drive(operation, clients, seconds)
                _note(rounds, r, order, load)
                if r:
                    raw.setdefault(f"{operation}, {clients}", []).extend(load.latencies_ms)
        rounds.gate.check(wrong_rows(system, rows) == 0, "rows not found, or not opened equal, after the load")
        time.sleep(1 if setting.quick else 5)
        rounds.add(1, len(points), anwen.NAME, start | memory_metrics(system, "at rest"))
        _outage(setting, rounds, bench)
        settings: dict[str, Any] = {anwen.NAME: anwen.settings(system), "rows": rows, "rounds": count}
    for name, values in raw.items():
        row = rounds.row(f"{name} clients, p99 of all rounds", anwen.NAME, "ms")
        if len(values) >= 1000:
            row.values[1] = percentile(values, 0.99)
    _limits(rounds)
    _goals(rounds)
    return rounds, settings | {"timed_s": timed_s, "binding": "request"}


def _note(rounds: Rounds, round_: int, order: int, load: Load) -> None:
    rounds.add(round_, order, anwen.NAME, metrics_of(load))
    rounds.checks(errors=load.errors, wrong=load.wrong, reports=load.reports, operations=len(load.samples))
    what = f"{load.operation}, {load.clients} clients"
    rounds.gate.check(not load.errors, f"{what}: errors {load.errors}")
    rounds.gate.check(not load.wrong, f"{what}: {load.wrong} wrong answers")
    rounds.gate.check(not load.reports, f"{what}: {load.reports} reports of lying keepers")


def _outage(setting: Any, rounds: Rounds, bench: Bench) -> None:
    """Kill one keeper half-way: no caller may see an error."""
    seconds = (0.5, 3.0) if setting.quick else (1.0, 10.0)
    half = seconds[1] / 2
    load = bench.drive("find + open", 8, seconds, at=lambda: bench.system.stop_keeper("c"))
    first = min((s for s, _ in load.samples), default=0.0)
    second = [1e3 * t for s, t in load.samples if half - 0.1 <= s - first < half + 0.9]
    worst = max(second, default=float("nan"))
    metrics = {
        "keeper killed: errors": (float(sum(load.errors.values())), "errors"),
        "keeper killed: p99 of that second": (percentile(second, 0.99), "ms"),
        "keeper killed: worst of that second": (worst, "ms"),
        "keeper killed: rate before and after": (len(load.samples) / seconds[1], "ops/s"),
    }
    rounds.add(1, 99, anwen.NAME, metrics)
    rounds.gate.check(not load.errors, f"keeper killed: errors {load.errors}")
    rounds.gate.check(not load.wrong, f"keeper killed: {load.wrong} wrong answers")


def _limits(rounds: Rounds) -> None:
    """The limit of a call: TLS echo that verifies one grant, and a commit where the step is durable."""
    for operation, (calls, commits) in STEPS.items():
        limit = {
            r: (calls * f["tls_granted_us"] + commits * f["append_fdatasync_us"]) / 1e3
            for r, f in enumerate(rounds.floors)
        }
        rounds.limit(f"{operation}, 1 client, p50", anwen.NAME, limit)


def _goals(rounds: Rounds) -> None:
    rounds.goal("open, 1 client, p50", anwen.NAME, Goal("<=", 4, "G"))
    rounds.goal("open masked, 1 client, p50", anwen.NAME, Goal("<=", 4, "G"))
    rounds.goal("find + open, 1 client, p50", anwen.NAME, Goal("<=", 8, "G"))
    rounds.goal("open, 32 clients, rate", anwen.NAME, Goal(">=", 1_500, "G"))
    for name in ("keeper a", "node a"):
        rounds.goal(f"{name}, RSS at rest", anwen.NAME, Goal("<=", 80, "G"))
    rounds.goal("keeper killed: errors", anwen.NAME, Goal("<=", 0, "D"))
