"""Look-ups against size: p50 of a find at 10,000 and at 1,000,000 residents (section 7)."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from pathlib import Path
from typing import Any

import anwen as library
import people
from anwen.client.vault import AsyncVault
from load import id_number
from rules import Goal, Rounds, percentile, rotated
from suites.bulk import Import, run_import
from systems import anwen

SIZES = (10_000, 1_000_000)
POSTINGS = (1, 10, 100, 1_000)
QUERIES = {"hit": 1_000, "miss": 1_000, 1: 300, 10: 300, 100: 60, 1_000: 10}
FULL = ("identity", "contact")


def planted(rows: int) -> list[dict[str, str]]:
    """Return people whose names have so many postings, numbers behind all others."""
    out: list[dict[str, str]] = []
    for count in POSTINGS:
        for i in range(count):
            row = people.rows(rows + len(out), 1)[0]
            out.append(row | {"name": planted_name(count), "email": f"p{count}x{i}@example.org"})
    return out


def planted_name(count: int) -> str:
    """Return the name that `count` people have."""
    return f"Planted {'abcdefghij'[len(str(count))] * 3}"


async def ask(path: Path, rows: int, round_: int, rounds: Rounds) -> dict[str, tuple[float, str]]:
    """Return latencies of all kinds of look-ups, from one shuffled list."""
    asked: list[tuple[object, str, str, int]] = []
    random_ = random.Random(round_)
    for kind, count in QUERIES.items():
        for _ in range(count):
            r = random_.randrange(rows)
            if kind == "hit":
                asked.append((kind, "id_number", id_number(r), 1))
            elif kind == "miss":
                asked.append((kind, "id_number", id_number(r + 10**8), 0))
            else:
                asked.append((kind, "name", planted_name(int(kind)), int(kind)))
    random_.shuffle(asked)
    taken: dict[object, list[float]] = {}
    async with library.connect_async(path, key="worker", purpose="work") as vault:
        await vault.find("person", FULL, id_number=id_number(0))
        for kind, field, value, expected in asked:
            start = time.perf_counter()
            found = await vault.find("person", FULL, **{field: value})
            taken.setdefault(kind, []).append(time.perf_counter() - start)
            rounds.gate.check(len(found) == expected, f"{rows} rows, {kind}: {len(found)} found, expected {expected}")
    metrics = {}
    for kind, values in taken.items():
        name = f"find, {kind if isinstance(kind, str) else f'{kind} postings'}, {rows} rows"
        metrics[f"{name}, p50"] = 1e3 * percentile(values, 0.5), "ms"
        if not isinstance(kind, str) and kind >= 10:
            metrics[f"{name}, each posting"] = 1e6 * percentile(values, 0.5) / kind, "us"
    return metrics


async def plant(vault: AsyncVault, rows: int) -> int:
    """Put the planted people; return how many failed."""
    return sum(r.error is not None for r in await vault.put_many("person", planted(rows)))


async def _plant(path: Path, rows: int) -> int:
    async with library.connect_async(path, key="worker", purpose="work") as vault:
        return await plant(vault, rows)


def prepare(setting: Any, system: anwen.System, rows: int) -> dict[str, Any]:
    """Import residents and plant names; return what the import said."""
    file = setting.folder / f"lookup-{rows}.ndjson"
    people.write_ndjson(file, rows)
    said = run_import(system, file, Import(2, 1024))
    file.unlink()
    if said["stored"] != rows or asyncio.run(_plant(system.path, rows)):
        raise RuntimeError(f"stored {said['stored']} of {rows} rows, or not all planted ones")
    return said


def run(setting: Any) -> tuple[Rounds, dict[str, Any]]:
    """Load both sizes, then ask them in turn."""
    rounds, count = Rounds(), setting.rounds(5)
    sizes = [setting.size(s) for s in SIZES]
    systems: dict[int, anwen.System] = {}
    settings: dict[str, Any] = {"sizes": sizes, "rounds": count}
    try:
        for rows in sizes:
            systems[rows] = anwen.System(anwen.create(setting.folder / f"lookup-{rows}"))
            systems[rows].start()
            said = prepare(setting, systems[rows], rows)
            settings[f"import of {rows} rows"] = {k: said[k] for k in ("seconds", "rows_per_s", "client_cpu_s")}
            settings[f"memory at {rows} rows"] = systems[rows].memory()
        for r in range(count):
            rounds.floors.append(setting.floors.measure())
            for order, rows in enumerate(rotated(sizes, r)):
                metrics = asyncio.run(ask(systems[rows].path, rows, r, rounds))
                rounds.add(r, order, anwen.NAME, metrics)
        settings[anwen.NAME] = anwen.settings(systems[sizes[0]])
    finally:
        for system in systems.values():
            system.stop()
            shutil.rmtree(system.path, ignore_errors=True)
    small, large = sizes
    for kind in ("hit", "miss", *(f"{n} postings" for n in POSTINGS)):
        name = f"find, {kind}, {large} rows, p50"
        row = rounds.row(name, anwen.NAME)
        row.peer = rounds.values(f"find, {kind}, {small} rows, p50", anwen.NAME)
        row.context = f"ratio: to {small} rows"
        ratio = {r: v / row.peer[r] for r, v in row.values.items() if r in row.peer}
        rounds.row(f"find, {kind}, {large} against {small} rows", anwen.NAME, "x").values = ratio
        if kind in ("hit", "miss"):
            rounds.goal(f"find, {kind}, {large} against {small} rows", anwen.NAME, Goal("<=", 1.10, "N"))
    return rounds, settings
