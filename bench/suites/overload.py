"""More clients than the machine can serve: throughput at saturation, at twice and at four times as many clients.

Every client has a session and connections of its own, so that their requests do not travel together; closed loop, each
call within a deadline of 2 s. Run as a script it is one generator process of the suite.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import anwen as library
import load
import machine
from anwen.client.session import Timing
from rules import Goal, Rounds, percentile, rotated
from suites.single import STARTUP_S, Bench, loaded
from systems import anwen

ROWS = 20_000
SATURATED = 8
"""Clients that keep two cores busy: more of them do not open more."""

FACTORS = (1, 2, 4)
DEADLINE_S = 2.0


def run(setting: Any) -> tuple[Rounds, dict[str, Any]]:
    """Open by id at 1, 2 and 4 times saturation, in rotated order."""
    rounds, rows, count = Rounds(), setting.size(ROWS), setting.rounds(4)
    warm_s, timed_s = {"quick": (0.5, 1.0), "bench": (1.0, 8.0), "full": (1.0, 20.0)}[setting.profile]
    with anwen.running(setting.folder / "overload") as system:
        bench = loaded(setting, system, rows)
        for r in range(count):
            rounds.floors.append(setting.floors.measure())
            rates: dict[int, float] = {}
            for order, factor in enumerate(rotated(FACTORS, r)):
                rates[factor] = _point(rounds, (r, order), bench, factor, (warm_s, timed_s))
            ratio = {"4 x saturation, rate against the best": (rates[4] / max(rates.values()), "")}
            rounds.add(r, len(FACTORS), anwen.NAME, ratio)
        settings: dict[str, Any] = {anwen.NAME: anwen.settings(system), "rows": rows, "clients": SATURATED}
    rounds.goal("4 x saturation, rate against the best", anwen.NAME, Goal(">=", 0.9, "G"))
    return rounds, settings | {"timed_s": timed_s, "deadline_s": DEADLINE_S}


def _point(rounds: Rounds, at: tuple[int, int], bench: Bench, factor: int, times: tuple[float, float]) -> float:
    """Return the calls a second of one point."""
    said, cpu_s = drive(bench, factor * SATURATED, times)
    samples = [1e3 * t for s in said for _, t in s["samples"]]
    errors = {code: n for s in said for code, n in s["errors"].items()}
    name, rate = f"{factor} x saturation", len(samples) / times[1]
    metrics = {
        f"{name}, rate": (rate, "ops/s"),
        f"{name}, p50": (percentile(samples, 0.5), "ms"),
        f"{name}, p99": (percentile(samples, 0.99), "ms"),
        f"{name}, servers and clients": (1e6 * cpu_s / max(1, len(samples)), "CPU-us/op"),
    }
    rounds.add(*at, anwen.NAME, metrics)
    rounds.checks(errors=errors, wrong=sum(s["wrong"] for s in said), operations=len(samples))
    rounds.gate.check(not errors, f"{name}: errors {errors}")
    rounds.gate.check(not any(s["wrong"] for s in said), f"{name}: wrong answers")
    return rate


def drive(bench: Bench, clients: int, times: tuple[float, float]) -> tuple[list[dict[str, Any]], float]:
    """Run one point in as many generator processes as there are cores; return what each said, and CPU seconds of all.

    Where CPU time for an operation stays the same, requests are neither doubled nor sent in vain.
    """
    count = min(clients, len(os.sched_getaffinity(0)))
    warm_until = time.monotonic() + STARTUP_S + times[0]
    plans = [
        {
            "vault": str(bench.system.path), "operation": "open", "clients": clients // count + (i < clients % count),
            "warm_until": warm_until, "end": warm_until + times[1], "rows": bench.rows, "ids": bench.ids,
            "first_new": 0, "seed": clients + i,
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
