"""The rehearsal: a fresh vault, three zones, steady load, one fault after another, and what became of the data."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path

from anwen.client.vault import AsyncVault
from anwen.errors import ConflictError, StorageError, UnavailableError
from anwen.formats.policy_schema import ENGINES
from anwen.rehearse.outage import check, figures, load
from anwen.rehearse.outage.databases import STORES, database
from anwen.rehearse.outage.faults import FAULTS, WHOLE_S, Fault, NotProvedError
from anwen.rehearse.outage.figures import NEVER, Figures, Moments, Operation
from anwen.rehearse.outage.network import Network, network
from anwen.rehearse.outage.processors import Processors
from anwen.rehearse.outage.speed import Speed
from anwen.rehearse.outage.zones import (
    PARTS,
    ZONES,
    Machine,
    Zones,
    clock_prefix,
    make_folder,
    member_folders,
    use_database,
)
from anwen.store import engines

BREAKS = (*load.BREAKS, "forget")
"""Ways to break the vault or its client on purpose: a rehearsal that does not see them sees nothing."""

CLIENTS = "clients"
"""The control group of those who make the load."""
READY_S = 60.0
BATCH, PUT_TRIES = 128, 10
DISK_BYTES = {"sqlite": 2**25}
SERVERS_DISK_BYTES = 2**29
PROMISED: Mapping[str, Collection[str]] = {
    "cassandra": {"gap", "p99", "errors"},
    "sqlite": {"errors"},
    "postgresql": (),
    "patroni": (),
}
"""What a store promises besides that nothing is lost, doubled or stale."""
GAP_S = {"kill": 0.3, "partition": 0.3, "hang": 1.0}
GAP_EVERY_S = 0.05
"""The load's step for which gaps are promised: a slower load's own step is in every gap of it."""
P99_TIMES = 5.0
PACE = 0.95
CLEAR = frozenset({"quorum", "unavailable", "overloaded"})
"""What tells a caller that too little of the vault is left; from a server that misses its others also "storage"."""


@dataclass(frozen=True)
class Settings:
    """What to rehearse. `seconds`: how long each fault lasts, 0: as the fault says."""

    store: str = "sqlite"
    faults: tuple[str, ...] = tuple(FAULTS)
    zones: tuple[str, ...] = ZONES
    runs: int = 3
    seconds: float = 0.0
    before_s: float = 20.0
    after_s: float = 30.0
    every_s: float = 0.05
    kinds: tuple[str, ...] = figures.KINDS
    people: int = 2_000
    seed: int = 1
    broken: str = ""


@dataclass
class Run:
    """One fault on one zone, and what came of it. `broken`: the bounds that do not hold."""

    fault: str
    zone: str
    turn: int
    proof: str = ""
    void: str = ""  # why the fault did not take hold
    at: Moments = NEVER
    figures: Figures = field(default_factory=Figures)
    lost: dict[str, list[str]] = field(default_factory=dict)  # by pass
    logs: list[str] = field(default_factory=list)
    speed: float = 0.0  # of the processors in the slowest second, as a share of their best
    processor_ms: dict[str, float] = field(default_factory=dict)  # by part, of an operation before the fault
    broken: list[str] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list, repr=False)

    @property
    def lost_count(self) -> int:
        """How many writes are lost in any pass."""
        return len(set().union(*self.lost.values()))

    def as_dict(self) -> dict[str, object]:
        """Return the run as JSON takes it, times from its beginning."""
        about = {k: v for k, v in vars(self).items() if k not in ("operations", "at", "figures")}
        at = {name: round(moment - self.at.begin, 3) for name, moment in self.at._asdict().items()}
        return {**about, "at": at, **self.figures.as_dict()}


@dataclass
class Outcome:
    """A whole rehearsal."""

    settings: Settings
    machine: str  # how the zones share it
    runs: list[Run] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # fault: why it is impossible here
    void: list[str] = field(default_factory=list)  # runs whose fault did not take hold, repeated once
    untested: list[str] = field(default_factory=list)  # those that did not the second time, either
    duplicates: list[str] = field(default_factory=list)
    people: int = 0  # acknowledged in all runs, and looked for once more at the end
    lost: list[str] = field(default_factory=list)  # of those

    @property
    def broken(self) -> list[str]:
        """Every bound that does not hold."""
        found = [f"{r.fault} {r.zone}: {b}" for r in self.runs for b in r.broken]
        if self.lost:
            found.append(f"{len(self.lost)} acknowledged writes lost (at the end)")
        if self.duplicates:
            found.append(f"{len(self.duplicates)} identity numbers are in more than one record")
        found += [f"{what}: did not take hold twice" for what in self.untested]
        if all(r.void for r in self.runs):
            found.append("no run whose fault took hold")
        return found

    @property
    def promise(self) -> str:
        """What the store promises, whatever was found."""
        return ENGINES[STORES[self.settings.store]]

    def as_dict(self) -> dict[str, object]:
        """Return the outcome as JSON takes it."""
        about = {k: v for k, v in vars(self).items() if k not in ("runs", "settings")}
        return {
            **asdict(self.settings),
            "promise": self.promise,
            **about,
            "broken": self.broken,
            "runs": [r.as_dict() for r in self.runs],
        }


async def rehearse(settings: Settings, say: Callable[[str], None]) -> Outcome:
    """Return what came of all faults. What was started and made is stopped and removed, however this ends.

    Raises: UnavailableError: the zones did not start.
    """
    with _folder() as folder, Speed() as speed:
        links, processors = machine = Machine(network(ZONES), Processors((*ZONES, CLIENTS)))
        try:
            outcome = Outcome(settings, f"{links.title}; {processors.title}")
            say(outcome.machine)
            wanted = _possible(outcome, links)
            async with _running(folder / "vault", settings, machine, wanted) as zones:
                with contextlib.suppress(_RunError):  # a run says why
                    await _Rehearsal(outcome, zones, processors.prefix(CLIENTS), speed, say).run(wanted)
        finally:
            links.close()
            processors.close()
    return outcome


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="anwen-outage-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)  # PostgreSQL runs as another user, and has to reach its own
        yield Path(folder)


def _possible(outcome: Outcome, links: Network) -> list[str]:
    """Return the faults that can be made here; notes why the others cannot."""
    missing = {
        "cut": "no network namespaces",
        "slow": "no network namespaces",
        "mount": "no file system of its own for each zone",
        "member": f"{outcome.settings.store} has no member in a zone",
    }
    can = links.can | (set() if outcome.settings.store == "sqlite" else {"member"})
    for name in outcome.settings.faults:
        if (needs := FAULTS[name].needs) and needs not in can:
            outcome.skipped[name] = missing[needs]
    return [name for name in outcome.settings.faults if name not in outcome.skipped]


@contextlib.asynccontextmanager
async def _running(path: Path, settings: Settings, machine: Machine, wanted: Sequence[str]) -> AsyncIterator[Zones]:
    links, processors = machine
    text = resources.files("anwen").joinpath("rehearse", "outage", "vault.toml").read_text(encoding="utf-8")
    disk_bytes = DISK_BYTES.get(settings.store, SERVERS_DISK_BYTES) if "disk" in wanted else 0
    folder = make_folder(path, text, links, STORES[settings.store], disk_bytes)

    def place(zone: str) -> list[str]:
        return processors.prefix(zone) + links.prefix(zone)

    def prefix(zone: str) -> list[str]:
        return place(zone) + (clock_prefix(folder, zone) if "skew" in wanted else [])

    servers = database(settings.store, member_folders(folder, path.with_name("store")), links.hosts, place)
    use_database(folder, servers)
    zones = await Zones.start(folder, machine, servers, prefix)
    try:
        yield zones
    finally:
        await zones.stop()


class _RunError(Exception):
    """Nothing more can be rehearsed with this vault."""


class _Rehearsal:
    def __init__(
        self, outcome: Outcome, zones: Zones, prefix: list[str], speed: Speed, say: Callable[[str], None]
    ) -> None:
        self.outcome, self.zones, self.say, self.settings = outcome, zones, say, outcome.settings
        self.speed = speed
        self.prefix = prefix  # what clients are started with
        self.random = random.Random(self.settings.seed)  # noqa: S311 - moments that can be had again
        self.loaded: tuple[int, ...] = ()  # rows of people who were there before the first run
        self.hot: tuple[str, ...] = ()  # record ids of the first of them
        self.known: dict[str, int] = {}  # the highest number acknowledged for each key, over all runs
        self.people: dict[str, Mapping[str, object]] = {}  # acknowledged, by id_number
        self.next_row = self.settings.people

    async def run(self, wanted: Sequence[str]) -> None:
        await self._load()
        for name in wanted:
            zones = self.settings.zones if FAULTS[name].zones_lost else ZONES[:1]
            for turn in range(self.settings.runs if FAULTS[name].repeated else 1):
                for zone in zones:
                    await self._run_proved(name, zone, turn)
        self.outcome.lost = await check.lost(
            self.zones, list(self.people.values()), {k: self.known[k] for k in self.hot}
        )
        self.outcome.people = len(self.people)
        self.outcome.duplicates = figures.duplicates(await check.id_numbers(self.zones))

    async def _load(self) -> None:
        rows = [r | load.contact(r, 0) for r in load.person(range(self.settings.people))]
        async with self.zones.connect(READY_S) as vault:
            for start in range(0, len(rows), BATCH):
                await _put(vault, rows[start : start + BATCH])
            found = await vault.find_many("person", "id_number", [r["id_number"] for r in rows])
        self.loaded = tuple(i for i, records in enumerate(found) if records)  # without those that are in doubt
        hot = load.CLIENTS * load.HOT_EACH
        if len(self.loaded) <= hot:
            raise UnavailableError(f"{len(self.loaded)} of {len(rows)} people could be put: this machine is too slow")
        self.hot = tuple(found[i][0].id for i in self.loaded[:hot])
        self.known = dict.fromkeys(self.hot, 0) | {str(rows[i]["id_number"]): 1 for i in self.loaded}
        self.people = {str(rows[i]["id_number"]): rows[i] for i in self.loaded[hot:]}

    async def _run_proved(self, name: str, zone: str, turn: int) -> None:
        """Run one fault, and once more if it did not take hold. Raises _RunError when the zone stays away."""
        for _ in range(2):
            run = Run(name, zone, turn)
            try:
                await self._run(run)
            except UnavailableError as error:
                run.broken = [f"did not come back: {error}"]
                raise _RunError from error
            finally:
                if run.broken or (run.lost and not run.void):
                    self.outcome.runs.append(run)
            said = "; ".join(run.broken) or "within its bounds"
            if not run.void:
                self.say(f"{name} {zone}, run {turn + 1}: {run.proof}: {said} (processors at {run.speed:.0%} at times)")
                return
            self.outcome.void.append(f"{name} {zone}: {run.void}")
            self.say(f"{name} {zone}: did not take hold: {run.void}: {said}")
        self.outcome.untested.append(f"{name} {zone}")

    async def _run(self, run: Run) -> None:
        fault, s = FAULTS[run.fault], self.settings
        with tempfile.TemporaryDirectory(prefix="load-", dir=self.zones.folder.path) as folder:
            async with self._clients(Path(folder)) as logs:
                taken = await self._harm(fault, run)
            run.operations = sorted((o for p in logs for o in load.read_log(p)), key=lambda o: o.planned)
            before = max(1, sum(o.ended < run.at.fault for o in run.operations))
            run.processor_ms = {part: round(1000 * s / before, 1) for part, s in taken.items()}
        run.figures = figures.summarise(run.operations, run.at, self.known, s.every_s, s.kinds)
        run.speed = self.speed.slowest(run.at.begin, run.at.end)
        mine = self._acknowledged(run.operations)
        if s.broken == "forget" and mine:
            await self._forget(mine[0])
        run.lost = await check.missing(self.zones, mine, {k: self.known[k] for k in self.hot})
        run.logs = await check.logs(self.zones)
        run.broken = broken(run, s.store, s.every_s)

    async def _harm(self, fault: Fault, run: Run) -> dict[str, float]:
        """Let the load run before, during and after a fault; return the processor time of each part before it.

        One that does not take hold is undone at once: the load ends as ever, so that what it wrote is known.
        """
        begin, first = time.monotonic(), self.zones.processor_s()
        await asyncio.sleep(self.settings.before_s + self.random.random())
        at, last = time.monotonic(), self.zones.processor_s()
        try:
            run.proof = await fault.begin(self.zones, run.zone, run.turn)
        except NotProvedError as error:
            run.void = str(error)
        if fault.lasts and not run.void:
            lasts = max(fault.least_s, self.settings.seconds or fault.seconds[run.turn % len(fault.seconds)])
            await asyncio.sleep(max(0.0, at + lasts - time.monotonic()))
        restore = time.monotonic()
        await fault.restore(self.zones, run.zone)
        await self.zones.whole(WHOLE_S)
        whole = time.monotonic()
        await asyncio.sleep(self.settings.after_s)
        run.at = Moments(begin, at, restore, whole, time.monotonic())
        return {part: last[part] - first[part] for part in PARTS}

    @contextlib.asynccontextmanager
    async def _clients(self, folder: Path) -> AsyncIterator[list[Path]]:
        """Run the load; yields its logs, which are complete when the block has ended."""
        processes: list[asyncio.subprocess.Process] = []
        logs = [folder / f"{i}.log" for i in range(load.CLIENTS)]
        try:
            for i, log in enumerate(logs):
                plan = load.Plan(
                    str(self.zones.folder.path), str(log), i, ZONES[i], self.settings.every_s, self.settings.kinds,
                    self.loaded, self.next_row, self.hot, {k: self.known[k] for k in self.hot}, self.settings.broken,
                )  # fmt: skip
                file = folder / f"{i}.json"
                file.write_text(json.dumps(asdict(plan)))
                processes.append(
                    await asyncio.create_subprocess_exec(
                        *self.prefix, sys.executable, "-m", "anwen.rehearse.outage.load", str(file),
                        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                    )
                )  # fmt: skip
            async with asyncio.timeout(READY_S):
                for process in processes:
                    assert process.stdout is not None
                    if not await process.stdout.readline():
                        raise UnavailableError("a client did not start")
            yield logs
            for process in processes:
                assert process.stdin is not None
                process.stdin.close()
            async with asyncio.timeout(READY_S):
                for process in processes:
                    if await process.wait():
                        raise UnavailableError("a client ended by itself")
        finally:
            for process in processes:
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    def _acknowledged(self, log: Sequence[Operation]) -> list[Mapping[str, object]]:
        """Take in what a run's clients were told is written; return the people among it."""
        now = figures.acknowledged(log, self.known)
        puts = sum(o.kind == "write" for o in log)
        rows = load.person(range(self.next_row, self.next_row + load.CLIENTS * (puts + 1)))
        people = {str(r["id_number"]): r for r in rows}
        fresh: list[Mapping[str, object]] = [people[k] for k in now if k not in self.known]
        self.people |= {str(p["id_number"]): p for p in fresh}
        self.known, self.next_row = now, self.next_row + len(rows)
        return fresh

    async def _forget(self, person: Mapping[str, object]) -> None:
        """Delete a person's record in the store, behind the vault's back."""
        (found,) = await self.zones.work.find_many("person", "id_number", [person["id_number"]])
        folder = self.zones.folder.path / "nodes" / ZONES[0]
        store = await engines.connect(STORES[self.settings.store], self.zones.database.settings(ZONES[0]), folder)
        try:
            await store.delete([(bytes.fromhex(found[0].id), found[0].version)])
        finally:
            await store.close()


async def _put(vault: AsyncVault, rows: Sequence[Mapping[str, object]]) -> None:
    """Store people, patiently: servers that have just started are slow. Raises what a row's error is at last."""
    for tries in range(PUT_TRIES):
        try:
            results = await vault.put_many("person", rows)
        except (UnavailableError, StorageError):
            if tries == PUT_TRIES - 1:
                raise
            continue
        # taken: by an earlier try that was not acknowledged
        errors = [r.error for r in results if r.error and not isinstance(r.error, ConflictError)]
        if not errors:
            return
        if tries == PUT_TRIES - 1:
            raise errors[0]


def broken(run: Run, store: str, every_s: float) -> list[str]:
    """Return the bounds that a run breaks, in words. `every_s`: the load's step."""
    f, promised = run.figures, PROMISED[store]
    one_lost = FAULTS[run.fault].zones_lost == 1
    where = ", ".join(name for name, keys in run.lost.items() if keys)
    found = [f"{run.lost_count} acknowledged writes lost ({where})"] if where else []
    if f.stale:
        found.append(f"{f.stale} stale reads")
    found += run.logs
    if run.void:
        return found  # the rest is about the fault
    if run.fault == "two":
        found += _went_on(run)
    if run.fault == "none" and f.pace < PACE:
        found.append(f"the load kept {f.pace:.0%} of its pace: this machine is too slow for these figures")
    if "errors" in promised and FAULTS[run.fault].zones_lost <= 1 and f.errors:
        before = f", {f.errors_before} of them before the fault: this machine is too busy" if f.errors_before else ""
        found.append(f"{sum(f.errors.values())} errors ({', '.join(sorted(f.errors))}){before}")
    gap, limit = max(f.gap_s.values()), GAP_S.get(run.fault)
    if "gap" in promised and limit and gap - every_s > limit - GAP_EVERY_S:
        found.append(f"longest gap {gap:.2f} s, until the return began {max(f.gap_fault_s.values()):.2f} s")
    if "p99" in promised and one_lost and f.p99_ratio > P99_TIMES:
        found.append(f"p99 {f.p99_ratio:.1f} times that before")
    return found


def _went_on(run: Run) -> Iterator[str]:
    """Yield where a vault without its quorum did not stop, or did not say so.

    "deadline" alone says nothing. It may come along: each call of the library says why within 1.8 s, but an open, find
    or update is two calls, whose first may wait for what was under way when zones died, or for a processor. Writes may
    conflict after the return: with those of the same client that are in doubt, and were carried out after all.
    """
    at, telling = run.at, {figures.OK, "deadline", *CLEAR}
    if not any(o.outcome in CLEAR and at.fault <= o.ended <= at.restore for o in run.operations):
        yield "no clear error was seen"
    back = {o.outcome for o in run.operations if o.ended > at.restore} - {"conflict"}
    if odd := sorted(({o.outcome for o in run.operations if o.ended <= at.restore} | back) - telling):
        yield f"errors that do not tell of lost zones ({', '.join(odd)})"
    late = sum(o.outcome == figures.OK and at.fault + load.DEADLINE_S < o.ended < at.restore for o in run.operations)
    if late:
        yield f"{late} operations succeeded without a quorum"
