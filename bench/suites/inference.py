"""Inference from a stolen store (section 10): what public statistics make of what each store shows.

Five seeds, each with people of its own, are the rounds. A run counts only if the attacker is a working one: he has to
win on deterministic tags, order-preserving codes and short padding what he is known to win there. People and attacks:
`anwen.rehearse.breach`.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import anwen as library
from anwen import vault_folder
from anwen.cli.import_state import Plan
from anwen.crypto.padding import padded_length
from anwen.files import FileFormat, read_rows
from anwen.model import Collection
from anwen.rehearse.breach import observables, population, statistics, weaker
from anwen.rehearse.breach.columns import Best, Knowledge, attack_everything, knowledge_of
from rules import Goal, Rounds
from systems import anwen

SIZES, SEEDS = (10_000, 100_000), 5
QUICK_SIZES, QUICK_SEEDS = (2_000,), 1
BATCHES = 100
"""Puts of an import, at every size: a sorted one is worth so many guesses to whoever names one value for each put."""

DETERMINISTIC, ORDER, PADME, PADDED = "deterministic tags", "order-preserving codes", "Padmé alone", "Anwen's padding"
DUMP, FILES = f"{anwen.NAME}, dump", f"{anwen.NAME}, raw files"
IMPORTED = "by birth, by anwen import"
ORDERS = {IMPORTED: "birth_year", "by surname": "surname", "by birth": "birth_year"}
"""By which column people are sorted that `put_many` gets, or the file that `anwen import` gets."""

WORKS = {  # what a working attacker wins, in percent, at any size or at 100,000 rows
    (DETERMINISTIC, "sex"): (0, 100),
    (ORDER, "sex"): (0, 100),
    (ORDER, "birth_year"): (10_000, 100),  # not with the years of a quick run, of which the attacker knows others
    (PADME, "sex alone"): (0, 100),
    (PADME, "sex in identity"): (0, 60),  # the specification's people give 70, these 64.6; a guess has 52
    (DETERMINISTIC, "state"): (100_000, 60),
    (DETERMINISTIC, "birth_year"): (100_000, 6),
    (DETERMINISTIC, "given_name"): (100_000, 20),
    (DETERMINISTIC, "surname"): (100_000, 3),
    (ORDER, "given_name"): (100_000, 70),
    (ORDER, "surname"): (100_000, 22),
}
KNOWN = {  # the figures of the specification, in percent
    (DETERMINISTIC, "sex"): "100",
    (DETERMINISTIC, "state"): "60-67",
    (DETERMINISTIC, "birth_year"): "8-19",
    (DETERMINISTIC, "given_name"): "12-15, with sex 21-28",
    (DETERMINISTIC, "surname"): "5-7",
    (ORDER, "birth_year"): "100",
    (ORDER, "given_name"): "49, with sex and cohort 78-79",
    (ORDER, "surname"): "28",
    (PADME, "sex alone"): "100",
    (PADME, "sex in identity"): "70",
}


def run(setting: Any) -> tuple[Rounds, dict[str, Any]]:
    """Attack every store of every seed and size. Without the npm package, and small, when quick."""
    rounds = Rounds()
    sizes, seeds = (QUICK_SIZES, QUICK_SEEDS) if setting.quick else (SIZES, SEEDS)
    world = population.published(statistics.fetch(states=not setting.quick), states=not setting.quick)
    folder = vault_folder.create(setting.folder / "inference-policy", "police")
    collection = folder.policy().collections[population.COLLECTION]
    shutil.rmtree(folder.path)
    limits: dict[tuple[str, str], list[float]] = {}
    for seed in range(1, seeds + 1):
        rounds.floors.append({})
        knowledge = knowledge_of(world, collection, seed=seed)
        for count in sizes:
            people = world.draw(count, seed)
            _weaker(rounds, seed, world, people, knowledge, collection)
            for name, column in ORDERS.items():
                print(f"inference: seed {seed} of {seeds}, {count} rows, {name}", file=sys.stderr, flush=True)
                order = np.argsort(people.values[column], kind="stable")
                if name == IMPORTED:
                    order = order[_as_imported(setting.folder / "sorted.ndjson", count)]
                found = _stolen(setting.folder / "inference", world, people, order, knowledge)
                for store, best in found.items():
                    _add(rounds, seed, store, f"{count} rows {name}", best)
                    for b in best.values():
                        metric = f"{b.column}, {count} rows {name}: above guess"
                        limits.setdefault((metric, store), []).append(100 * (b.limit - b.score.guess))
    for (metric, store), above in limits.items():
        rounds.goal(metric, store, Goal("<=", float(np.median(above)), "G"))
    _check_attacker(rounds, sizes)
    return rounds, {"sizes": sizes, "seeds": seeds, "batches": BATCHES, "states": not setting.quick}


def _weaker(
    rounds: Rounds, seed: int, world: population.World, people: population.People, knowledge: Knowledge,
    collection: Collection,
) -> None:  # fmt: skip
    """Attack stores that protect less."""
    size, key = f"{len(people)} rows", secrets.token_bytes(32)
    for store, shown in (
        (DETERMINISTIC, weaker.deterministic(people.values, world.values, key)),
        (ORDER, weaker.order_preserving(people.values)),
    ):
        _add(rounds, seed, store, size, attack_everything(shown, people.values, knowledge))
    rows, names = world.rows(people), world.western_names(people)
    imagined = population.People(knowledge.imagined, knowledge.imagined_seed)
    known_rows, known_names = world.rows(imagined), world.western_names(imagined)
    sizes, known_sizes = (weaker.body_sizes(r, collection) for r in (rows, known_rows))
    for store, padding in ((PADME, weaker.padme), (PADDED, padded_length)):
        shown = weaker.sex_lengths(rows, names, padding)
        known = weaker.sex_lengths(known_rows, known_names, padding)
        for body, column in ((weaker.SEX_ALONE, "sex alone"), (weaker.IDENTITY, "sex in identity")):
            about = Knowledge({"sex": knowledge.weights["sex"]}, {}, knowledge.imagined, {body: known[body]})
            best = attack_everything({body: shown[body]}, people.values, about)
            _add(rounds, seed, store, size, {column: best["sex"]})
        about = Knowledge(knowledge.weights, {}, knowledge.imagined, weaker.envelope_lengths(known_sizes, padding))
        best = attack_everything(weaker.envelope_lengths(sizes, padding), people.values, about)
        _add(rounds, seed, store, size, best)


def _stolen(
    path: Path, world: population.World, people: population.People, order: np.ndarray, knowledge: Knowledge
) -> dict[str, dict[str, Best]]:
    """Import people into a running vault, stop it, and attack its file."""
    try:
        system = anwen.System(vault_folder.create(path, "police"))
        try:
            system.start()
            records = asyncio.run(_import(path, world.rows(people, order)))
        finally:
            system.stop()
        shown = observables.of_store(path / "store" / "anwen.sqlite", records)
    finally:
        shutil.rmtree(path, ignore_errors=True)
    truth = {name: values[order] for name, values in people.values.items()}
    together = observables.batches(records)
    places = {name: codes for name, codes in shown.items() if name.startswith(observables.RAW)}
    dump = {name: codes for name, codes in shown.items() if name not in places}
    from_dump, from_places = (attack_everything(o, truth, knowledge, together) for o in (dump, places))
    return {DUMP: from_dump, FILES: {c: best.or_better(from_places[c]) for c, best in from_dump.items()}}


def _as_imported(file: Path, count: int) -> np.ndarray:
    """Return in which order `anwen import` puts the rows of a file."""
    file.write_text("".join(f'{{"row": {i}}}\n' for i in range(count)))
    plan = Plan(str(file), 0, "", "", "", "", "", FileFormat.NDJSON, {}, 1).cut(processes=2)
    rows = [row.number - 1 for part in plan.parts for row in plan.in_order(read_rows(file, part))]
    assert sorted(rows) == list(range(count))
    return np.array(rows)


async def _import(path: Path, rows: Sequence[Mapping[str, str]]) -> list[bytes]:
    """Put all rows in two sessions, as on two days; return their record ids."""
    records: list[bytes] = []
    batch = -(-len(rows) // BATCHES)
    starts = range(0, len(rows), batch)
    for session in (starts[: BATCHES // 2], starts[BATCHES // 2 :]):
        async with library.connect_async(path, key="importer", purpose="intake") as vault:
            for start in session:
                results = await vault.put_many(population.COLLECTION, rows[start : start + batch])
                for result in results:
                    if result.error:
                        raise result.error
                    records.append(bytes.fromhex(result.record))
    return records


def _add(rounds: Rounds, seed: int, store: str, size: str, best: Mapping[str, Best]) -> None:
    """Take what was won on each column, in percent."""
    metrics: dict[str, tuple[float, str]] = {}
    for column, b in best.items():
        name, score = f"{column}, {size}", b.score
        metrics[f"{name}: rows recovered"] = 100 * score.recovered, "%"
        metrics[f"{name}: values recovered"] = 100 * score.distinct, "%"
        metrics[f"{name}: above guess"] = 100 * (score.recovered - score.guess), "points"
        metrics[f"{name}: advantage"] = score.advantage, ""
    rounds.add(seed, 0, store, metrics)
    rounds.checks(**{f"{c}, {size}": f"{b.attack} on {b.observable}; {b.trials} trials" for c, b in best.items()})
    for column, b in best.items():
        row = rounds.row(f"{column}, {size}: rows recovered", store)
        known = KNOWN.get((store, column))
        row.context = f"guess {100 * b.score.guess:.1f} %; {b.attack} on {b.observable}" + (
            f"; known {known} %" if known else ""
        )


def _check_attacker(rounds: Rounds, sizes: Sequence[int]) -> None:
    """Void the run unless the attacker wins what he must."""
    for (store, column), (least, percent) in WORKS.items():
        for count in sizes:
            won = rounds.values(f"{column}, {count} rows: rows recovered", store)
            if count >= least and won:
                median = float(np.median(list(won.values())))
                rounds.gate.check(
                    median >= percent, f"{store}, {column}, {count} rows: {median:.1f} %, expected {percent}"
                )
