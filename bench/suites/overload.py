"""More clients than the machine can serve: throughput at saturation, at twice and at four times as many clients.

Every client has a session and connections of its own, so that their requests do not travel together; closed loop, each
call within a deadline of 2 s. Opens by id and puts, on each engine whose servers are installed. Run as a script it is
one generator process of the suite.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import anwen as library
import load
import machine
from anwen.client.session import Timing
from anwen.vault_folder import Shape
from rules import Goal, Rounds, percentile, rotated
from suites.engines import MISSING, servers, settings_of
from suites.single import STARTUP_S, Bench, loaded
from systems import anwen

ROWS = {"sqlite": 20_000, "postgresql": 20_000, "cassandra": 2_000}
"""Who is opened; three members that share two cores with everything else store some 160 rows a second."""

SATURATED = 8
"""Clients that keep two cores busy: more of them do not open more."""

FACTORS = (1, 2, 4)
OPERATIONS = ("open", "put")
DEADLINE_S = 2.0
BEST = "4 x saturation, rate against the best"


def run(setting: Any) -> tuple[Rounds, dict[str, Any]]:
    """Open and put at 1, 2 and 4 times saturation, in rotated order, one engine after another."""
    rounds = Rounds()
    left_out = {e: why for e, missing in MISSING.items() if (why := missing())}
    settings: dict[str, Any] = {"clients": SATURATED, "deadline_s": DEADLINE_S, "left out": left_out}
    for engine in (e for e in ROWS if e not in left_out):
        settings[engine] = asyncio.run(_engine(setting, rounds, engine))
        for operation in OPERATIONS:
            rounds.goal(f"{operation}, {BEST}", f"anwen_{engine}", Goal(">=", 0.9, "G"))
    return rounds, settings


async def _engine(setting: Any, rounds: Rounds, engine: str) -> dict[str, Any]:
    """Measure a fresh vault on an engine; return its settings."""
    if engine == "sqlite":
        return await asyncio.to_thread(_measure, setting, rounds, Shape())
    async with servers(engine, setting.folder / engine) as found:
        shape = Shape(engine=engine, store=settings_of(found))
        return await asyncio.to_thread(_measure, setting, rounds, shape)


def _measure(setting: Any, rounds: Rounds, shape: Shape) -> dict[str, Any]:
    rows, times = setting.size(ROWS[shape.engine]), {"quick": (0.5, 1.0), "bench": (1.0, 8.0), "full": (1.0, 20.0)}
    points = list(itertools.product(OPERATIONS, FACTORS))
    with anwen.running(setting.folder / "overload", shape) as system:
        bench, new = loaded(setting, system, rows), itertools.count(rows + 10**6, 10**6)
        for r in range(setting.rounds(4)):
            rounds.floors.append(setting.floors.measure())
            rates: dict[tuple[str, int], float] = {}
            for order, point in enumerate(rotated(points, r)):
                rates[point] = _point(rounds, (r, order), bench, point, times[setting.profile], new)
            ratios = {o: rates[o, FACTORS[-1]] / max(rates[o, f] for f in FACTORS) for o in OPERATIONS}
            metrics = {f"{operation}, {BEST}": (ratio, "") for operation, ratio in ratios.items()}
            rounds.add(r, len(points), bench.system.name, metrics)
        return {"rows": rows, "times_s": times[setting.profile], **anwen.settings(system)}


def _point(
    rounds: Rounds, at: tuple[int, int], bench: Bench, point: tuple[str, int], times: tuple[float, float],
    new: Iterator[int],
) -> float:  # fmt: skip
    """Return the calls a second of one point. `new`: where each generator's new people begin."""
    operation, factor = point
    said, cpu_s = drive(bench, factor * SATURATED, times, operation, new)
    samples = [1e3 * t for s in said for _, t in s["samples"]]
    errors = {code: n for s in said for code, n in s["errors"].items()}
    name, rate = f"{operation}, {factor} x saturation", len(samples) / times[1]
    metrics = {
        f"{name}, rate": (rate, "ops/s"),
        f"{name}, p50": (percentile(samples, 0.5), "ms"),
        f"{name}, p99": (percentile(samples, 0.99), "ms"),
        f"{name}, keepers, node and clients": (1e6 * cpu_s / max(1, len(samples)), "CPU-us/op"),
    }
    rounds.add(*at, bench.system.name, metrics)
    rounds.checks(errors=errors, wrong=sum(s["wrong"] for s in said), operations=len(samples))
    rounds.gate.check(not errors, f"{bench.system.name}, {name}: errors {errors}")
    rounds.gate.check(not any(s["wrong"] for s in said), f"{bench.system.name}, {name}: wrong answers")
    return rate


def drive(
    bench: Bench,
    clients: int,
    times: tuple[float, float],
    operation: str = "open",
    new: Iterator[int] | None = None,
) -> tuple[list[dict[str, Any]], float]:
    """Run one point in as many generator processes as there are cores; return what each said, and CPU seconds of all.

    Where CPU time for an operation stays the same, requests are neither doubled nor sent in vain.
    """
    count = min(clients, len(os.sched_getaffinity(0)))
    warm_until = time.monotonic() + STARTUP_S + times[0]
    plans = [
        {
            "vault": str(bench.system.path), "operation": operation, "rows": bench.rows, "ids": bench.ids,
            "clients": clients // count + (i < clients % count), "seed": clients + i,
            "warm_until": warm_until, "end": warm_until + times[1], "first_new": next(new) if new else 0,
        }
        for i in range(count)
    ]  # fmt: skip
    processes = [subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                 for _ in plans]  # fmt: skip
    for process, plan in zip(processes, plans, strict=True):
        assert process.stdin is not None
        process.stdin.write(json.dumps(plan) + "\n")
        process.stdin.flush()
    pids = bench.system.pids() | {str(process.pid): process.pid for process in processes}
    time.sleep(max(0.0, warm_until - time.monotonic()))
    before = machine.cpu_of(pids)
    time.sleep(max(0.0, warm_until + times[1] - time.monotonic()))
    cpu_s = sum(machine.grown(before, machine.cpu_of(pids)).values())
    said = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError("a load generator failed")
    return said, cpu_s


async def generate(plan: load.Plan) -> dict[str, Any]:
    """Run all clients of this process, each with a session of its own."""

    async def client(number: int) -> None:
        timing = Timing(deadline_s=DEADLINE_S)
        async with library.connect_async(plan.vault, key="worker", purpose="work", timing=timing) as vault:
            await load.Client(plan, vault, number).loop()

    await asyncio.gather(*(client(i) for i in range(plan.clients)))
    return {"samples": plan.samples, "errors": dict(plan.errors), "wrong": plan.wrong}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(generate(load.Plan(**json.loads(sys.stdin.readline()))))))
