"""Import into engines on servers: a whole vault on PostgreSQL, and on three Cassandra members, beside plaintext.

All of it on this machine: keepers, a node, importers and the servers share its cores. Durability as the engines
document it: each batch is on disk before it is acknowledged, at two of three members.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import people
from anwen.rehearse import cassandra, postgresql
from anwen.vault_folder import Shape
from rules import Rounds, rotated
from suites.bulk import WAYS, run_import, wrong_rows
from systems import anwen, cassandra_plain, postgresql_plain

ROWS = {"postgresql": 20_000, "cassandra": 2_000}
"""Three members that share two cores with everything else store so few a second."""

PORTS = (19_042, 17_000)
MISSING = {"postgresql": postgresql.missing, "cassandra": cassandra.missing}


def _fresh(folder: Path) -> None:
    """Make a folder that PostgreSQL's own user can reach."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for part in (folder.parent, folder):
        part.chmod(0o711)


@asynccontextmanager
async def servers(engine: str, folder: Path) -> AsyncIterator[Any]:
    """Run an engine's servers with fresh data."""
    _fresh(folder)
    found = (
        postgresql.Server(folder / "server")
        if engine == "postgresql"
        else cassandra.Cluster(folder / "members", ports=PORTS)
    )
    await found.start()
    try:
        yield found
    finally:
        await found.stop()
        shutil.rmtree(folder, ignore_errors=True)


def settings_of(found: Any) -> dict[str, object]:
    """Return "store" of `node.json`."""
    return dict(found.settings("a") if isinstance(found, cassandra.Cluster) else found.settings())


def plain(found: Any, file: Path, batch: int) -> float:
    """Load the file in plaintext; return rows a second."""
    if isinstance(found, cassandra.Cluster):
        return cassandra_plain.load(list(found.addresses.values()), found.ports[0], file, batch)
    settings = found.settings()
    password = Path(str(settings["password_file"])).read_text(encoding="utf-8").strip()
    return postgresql_plain.load(str(settings["conninfo"]), password, file, batch)


async def measure(setting: Any, rounds: Rounds, engine: str, file: Path, rows: int) -> dict[str, float]:
    """Import into a fresh vault and a fresh database, check it; return rows a second, sealed and plain."""
    async with servers(engine, setting.folder / engine) as found:
        limit = await asyncio.to_thread(plain, found, file, WAYS[0].batch)
        shape = Shape(engine=engine, store=settings_of(found))
        sealed = await asyncio.to_thread(_sealed, setting, rounds, shape, file, rows)
    return {"sealed": sealed, "plain": limit}


def _sealed(setting: Any, rounds: Rounds, shape: Shape, file: Path, rows: int) -> float:
    """Import into a fresh vault and check it; return rows a second."""
    with anwen.running(setting.folder / "vault", shape) as system:
        said = run_import(system, file, WAYS[0])
        if said.get("stored") != rows:
            raise RuntimeError(f"{shape.engine}: expected {rows} rows stored, got {said}")
        rounds.gate.check(wrong_rows(system, rows) == 0, f"{shape.engine}: rows not found, or not opened equal")
    return float(said["stored"] / said["seconds"])


def run(setting: Any) -> tuple[Rounds, dict[str, Any]]:
    """Run all rounds; an engine whose servers are not installed is left out, and said to be."""
    rounds, count = Rounds(), setting.rounds(3)
    engines = [e for e, missing in MISSING.items() if missing() is None]
    rows = {e: setting.size(ROWS[e]) for e in engines}
    files = {e: setting.folder / f"{e}.ndjson" for e in engines}
    for engine in engines:
        people.write_ndjson(files[engine], rows[engine])
    settings: dict[str, Any] = {"rows": rows, "rounds": count, "way": WAYS[0].name}
    settings["left out"] = {e: missing() for e, missing in MISSING.items() if e not in engines}
    for r in range(count):
        rounds.floors.append(setting.floors.measure())
        for order, engine in enumerate(rotated(engines, r)):
            begun = time.perf_counter()
            taken = asyncio.run(measure(setting, rounds, engine, files[engine], rows[engine]))
            rounds.add(r, order, f"anwen_{engine}", {"import": (taken["sealed"], "rows/s")})
            rounds.add(r, order, f"{engine}_plain", {"import": (taken["plain"], "rows/s")})
            settings[f"{engine}, round {r}, s"] = round(time.perf_counter() - begun, 1)
    for engine in engines:
        rounds.limit("import", f"anwen_{engine}", rounds.values("import", f"{engine}_plain"))
    return rounds, settings
