"""Bulk import: made-up residents (`people.py`), by `anwen import` into a whole vault, against plaintext SQLite.

Timed as `anwen import` times itself: from starting its processes to the last durable commit.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anwen as library
import machine
import people
from rules import Goal, Rounds, rotated
from systems import anwen, sqlite_plain

DEFAULT_BATCH = 1024
"""Of `anwen import`."""
BATCHES = (256, 1024, 4096)
ROWS = 100_000
BAD = (
    "not JSON",
    '{"id_number": "77000000000000%02d", "name": "No Such", "nickname": "x"}',
    '{"name": "Without Number"}',
    '{"id_number": "77000000000000%02d"}',
    '{"id_number": "77000000000000%02d", "name": "Ab Cd", "birth_date": "1941-13-29"}',
    '{"id_number": "77000000000000%02d", "name": "Ab Cd", "phone": "12"}',
    '{"id_number": "77000000000000%02d", "name": "Ab Cd", "sex": "Q"}',
    '{"id_number": "77000000000000%02d", "name": "Ab Cd", "email": "nobody"}',
    '{"id_number": "77000000000000%02d", "name": 7}',
    "",  # row 0 again: one of the two is stored
)


@dataclass(frozen=True, slots=True)
class Import:
    """One way to import."""

    processes: int
    batch: int

    @property
    def name(self) -> str:
        """How the report calls it."""
        plural = "es" if self.processes > 1 else ""
        return f"{self.processes} process{plural}, batch {self.batch}"


WAYS = [Import(2, DEFAULT_BATCH), Import(1, DEFAULT_BATCH), Import(2, 256), Import(2, 4096)]


def write_files(folder: Path, rows: int) -> tuple[Path, Path]:
    """Write the residents, and the residents with ten bad rows among them."""
    good, mixed = folder / "people.ndjson", folder / "mixed.ndjson"
    people.write_ndjson(good, rows)
    lines = good.read_text(encoding="ascii").splitlines()
    for i, bad in enumerate(BAD):
        lines.insert(places(rows)[i], bad % i if "%02d" in bad else bad or lines[0])
    mixed.write_text("\n".join(lines) + "\n", encoding="ascii")
    return good, mixed


def places(rows: int) -> list[int]:
    """Return where the bad rows stand: line numbers from 0, the last one far behind row 0."""
    return [(2 * i + 1) * rows // (2 * len(BAD)) + i for i in range(len(BAD))]


def command(system: anwen.System, file: Path, way: Import, *more: str) -> subprocess.Popen[str]:
    """Start `anwen import`."""
    arguments = ["--vault", str(system.path), "--as", "loader", "--purpose", "load", "--json"]
    arguments += ["import", "person", str(file), "--processes", str(way.processes), "--batch", str(way.batch), *more]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    program = [sys.executable, "-c", "from anwen.cli.main import main; main()", *arguments]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def run_import(system: anwen.System, file: Path, way: Import, *more: str) -> dict[str, Any]:
    """Import a file; return what `anwen import` says, and the CPU seconds of its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = command(system, file, way, *more)
    out, err = process.communicate(timeout=1800)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        said = json.loads(out.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise RuntimeError(f"anwen import ended with {process.returncode}: {err[-500:]}") from None
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return said | {"client_cpu_s": used, "peak_mb": after.ru_maxrss * 1024 / 1e6}


def measure(setting: Any, rounds: Rounds, way: Import, file: Path, rows: int) -> dict[str, tuple[float, str]]:
    """Import into a fresh vault, check it, return the metrics."""
    with anwen.running(setting.folder / "bulk") as system:
        before = system.cpu()
        said = run_import(system, file, way)
        used = machine.grown(before, system.cpu())
        memory = system.memory()
        check(rounds, way.name, system, said, file, rows)
        stored = sum(p.stat().st_size for p in (system.path / "store").iterdir())
        keepers = [v for k, v in used.items() if k.startswith("keeper")]
        node = sum(v for k, v in used.items() if k.startswith("node"))
        million = 1e6 / rows
        return {
            "import": (said["stored"] / said["seconds"], "rows/s"),
            "keepers, all three": (sum(keepers) * million, "CPU-s per 10^6 rows"),
            "node and store": (node * million, "CPU-s per 10^6 rows"),
            "client": (said["client_cpu_s"] * million, "CPU-s per 10^6 rows"),
            "servers and client": ((sum(used.values()) + said["client_cpu_s"]) * million, "CPU-s per 10^6 rows"),
            "store": (stored / rows, "bytes per row"),
            "keeper, peak memory": (memory["keeper a"]["vmhwm"], "MB"),
            "node, peak memory": (memory["node a"]["vmhwm"], "MB"),
        }


def check(rounds: Rounds, name: str, system: anwen.System, said: dict[str, Any], file: Path, rows: int) -> None:
    """Gate: nothing lost, bad rows named, 1,000 random rows found and opened equal."""
    counts = {k: said[k] for k in ("read", "stored", "already", "rejected")}
    complete = said["stored"] + said["already"] == rows
    rounds.gate.check(complete, f"{name}: {counts}, expected {rows} rows stored")
    if file.name == "mixed.ndjson":
        rejects = file.with_name(file.name + ".rejects")
        text = rejects.read_text(encoding="utf-8") if rejects.exists() else ""
        *bad, again = (place + 1 for place in places(rows))
        named = {json.loads(line)["row"] for line in text.splitlines()}
        missing = [{n} for n in bad if n not in named] + [{1, again}] * (not named & {1, again})
        rounds.gate.check(said["rejected"] == len(BAD), f"{name}: {said['rejected']} rejects, expected {len(BAD)}")
        rounds.gate.check(not missing, f"{name}: rejects do not name lines {missing}")
        rejects.unlink(missing_ok=True)
    rounds.gate.check(wrong_rows(system, rows) == 0, f"{name}: rows not found, or not opened equal")


def wrong_rows(system: anwen.System, rows: int, sample: int = 1000) -> int:
    """Return how many of some random rows are not found by number, or do not open equal."""
    chosen = random.Random(5).sample(range(rows), min(sample, rows))
    expected = [people.rows(r, 1)[0] for r in chosen]
    with library.connect(system.path, key="worker", purpose="work") as vault:
        found = vault.find_many("person", "id_number", [e["id_number"] for e in expected])
        if any(len(f) != 1 for f in found):
            return sum(len(f) != 1 for f in found)
        opened = vault.open([f[0] for f in found], ["identity", "contact"])
    return sum(dict(o) != e for o, e in zip(opened, expected, strict=True))


def interrupted(setting: Any, rounds: Rounds, file: Path, rows: int) -> None:
    """Gate: one importing process killed half-way and started again loses nothing."""
    with anwen.running(setting.folder / "bulk") as system:
        process = command(system, file, WAYS[0])
        until = time.monotonic() + 60
        children: list[int] = []
        while time.monotonic() < until and process.poll() is None and not _has_rows(system):
            time.sleep(0.05)
            children = _importers(process.pid)
        if children:
            os.kill(children[0], signal.SIGKILL)
        process.communicate(timeout=120)
        said = run_import(system, file, WAYS[0], "--resume")
        rounds.gate.check(bool(children), "no importing process was there to kill")
        check(rounds, "killed and resumed", system, said, file, rows)


def _has_rows(system: anwen.System) -> bool:
    wal = system.path / "store" / "anwen.sqlite-wal"
    return wal.exists() and wal.stat().st_size > 4_000_000


def _importers(pid: int) -> list[int]:
    """Return the importing processes among a process's children (multiprocessing's tracker is another)."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8") if Path(f"/proc/{pid}").exists() else ""
    lines = {int(p): Path(f"/proc/{p}/cmdline").read_bytes() for p in text.split()}
    return [p for p, line in lines.items() if b"spawn_main" in line]


def run(setting: Any) -> tuple[Rounds, dict[str, Any]]:
    """Run all rounds."""
    rounds, rows = Rounds(), 1_000_000 if setting.profile == "full" else setting.size(ROWS)
    _, mixed = write_files(setting.folder, rows)
    good = setting.folder / "people.ndjson"
    interrupted(setting, rounds, mixed, rows)
    ways = WAYS[:1] if setting.quick else WAYS
    count = setting.rounds(3)
    settings: dict[str, Any] = {"rows": rows, "rounds": count, "default_batch": DEFAULT_BATCH}
    for r in range(count):
        rounds.floors.append(setting.floors.measure())
        for order, way in enumerate(rotated([*ways, *BATCHES], r)):
            if isinstance(way, Import):
                metrics = measure(setting, rounds, way, mixed, rows)
                rounds.add(r, order, anwen.NAME, {f"{k}, {way.name}": v for k, v in metrics.items()})
            else:
                rounds.add(r, order, sqlite_plain.NAME, plain(setting, good, way, settings))
    for way in ways:
        limit = rounds.values(f"import, batch {way.batch}", sqlite_plain.NAME)
        rounds.limit(f"import, {way.name}", anwen.NAME, limit)
        cpu = rounds.values(f"CPU, batch {way.batch}", sqlite_plain.NAME)
        rounds.limit(f"servers and client, {way.name}", anwen.NAME, cpu)
    rounds.goal(f"import, {WAYS[0].name}", anwen.NAME, Goal(">=", 15_000, "G"))
    return rounds, settings


def plain(setting: Any, file: Path, batch: int, settings: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """Load the same rows in plaintext."""
    path = setting.folder / "plain.sqlite"
    try:
        taken = sqlite_plain.load(path, file, batch)
        settings[sqlite_plain.NAME] = sqlite_plain.settings(path)
    finally:
        for left in setting.folder.glob("plain.sqlite*"):
            left.unlink()
    return {
        f"import, batch {batch}": (taken["rows"] / taken["seconds"], "rows/s"),
        f"CPU, batch {batch}": (taken["cpu_s"] / taken["rows"] * 1e6, "CPU-s per 10^6 rows"),
        f"store, batch {batch}": (taken["bytes"] / taken["rows"], "bytes per row"),
    }
