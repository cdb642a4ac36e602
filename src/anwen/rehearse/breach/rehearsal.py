"""The rehearsal: a vault of its own or a copy of one, taken apart by every attacker of the design's table in turn."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from anwen import vault_folder
from anwen.client.rows import Cell
from anwen.errors import NotFoundError
from anwen.model import RENDITION, Policy
from anwen.rehearse.breach import (
    dump,
    elsewhere,
    guessing,
    keepers,
    liar,
    live,
    nobody,
    officer,
    rollback,
    rows,
    tap,
    thief,
    tokens,
    writer,
)
from anwen.rehearse.breach.breaks import BREAKS, Break
from anwen.rehearse.breach.cast import Reader, cast
from anwen.rehearse.breach.fresh import Fresh
from anwen.rehearse.breach.live import Loot
from anwen.rehearse.breach.load import Load, texts
from anwen.rehearse.breach.scene import Known, Scene, copied, running
from anwen.rehearse.breach.search import Needles
from anwen.rehearse.breach.theft import Theft
from anwen.sample.people import residents
from anwen.vault_folder import VaultFolder

DAY_S = 25 * 3600
KNOWN_OF_COPY = 40
DUMPED_ROWS = 2_000


THEFTS = (
    "nobody", "dump", "inference", "tokens", "node", "keeper", "zone", "liar", "writer", "key", "key, prepared",
    "key and keeper", "officer", "rollback", "rows", "keepers",
)  # fmt: skip
"""By name, in the order in which they are rehearsed."""

WATCHED = {"node", "keeper", "zone", "writer"}
"""Thefts by whoever watched a load."""

FRESH = {"inference", "tokens"}
"""Thefts for which people have to be put in, drawn by public statistics."""

COMPARED = 10_000
"""Most people that are put into other systems: what a theft gives there is all of them."""


@dataclass(frozen=True)
class Settings:
    """What to rehearse. `vault`: a folder to copy; without it `people` are put into a fresh vault of a template."""

    vault: str = ""
    template: str = "police"
    people: int = 100_000
    thefts: tuple[str, ...] = ()
    hours: int = thief.HOURS
    seed: int = 1
    broken: str = ""
    compare: bool = True  # with the same thefts in other systems


@dataclass
class Outcome:
    """A whole rehearsal. `compared`: what the same thefts give elsewhere; `columns`: inference, by store and column."""

    settings: Settings
    vault: str
    people: int = 0
    thefts: list[Theft] = field(default_factory=list)
    columns: list[dict[str, object]] = field(default_factory=list)
    compared: list[dict[str, object]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def broken(self) -> list[str]:
        """Every bound that does not hold."""
        found = [f"{theft.name}: {problem}" for theft in self.thefts for problem in theft.broken]
        return found or ([] if self.thefts else ["no theft was rehearsed"])

    def as_dict(self) -> dict[str, object]:
        """Return the outcome as JSON takes it."""
        about = {"settings": asdict(self.settings), "thefts": list(map(asdict, self.thefts)), "broken": self.broken}
        return {**vars(self), **about}


async def rehearse(settings: Settings, say: Callable[[str], None]) -> Outcome:
    """Return what every theft gave. What was started and made is stopped and removed, however this ends.

    Raises: ConflictError: the vault to copy is running. PolicyError: nobody in it could be robbed.
    """
    begun = time.monotonic()
    logging.getLogger("anwen.client").setLevel(logging.ERROR)  # what clients warn of is what is done to them here
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(_scratch()))
        folder = stack.enter_context(_folder(settings, scratch))
        scene = Scene(folder, _extra(folder, BREAKS.get(settings.broken)))
        outcome = Outcome(settings, folder.policy().name)
        rehearsal = _Rehearsal(scene, settings, outcome, say)
        async with running(scene):
            await rehearsal.run()
        if settings.compare and not settings.broken:
            outcome.compared = await elsewhere.compare(rehearsal.rows(), scratch)
    outcome.seconds = time.monotonic() - begun
    return outcome


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="anwen-breach-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)  # PostgreSQL runs as another user, and has to reach its own
        yield folder


def _extra(folder: VaultFolder, broken: Break | None) -> dict[str, str]:
    """Return the code that breaks a defence, for each process that it goes into; puts it into this one, too."""
    if broken is None:
        return {}
    if broken.where in ("client", "both"):
        exec(compile(broken.code, "break", "exec"), {})  # noqa: S102 - our own words, in `breaks`
    policy, parts = folder.policy(), {"both": ("keeper", "node")}.get(broken.where, (broken.where,))
    names = {"keeper": policy.keepers, "node": policy.nodes}
    return {f"{part} {name}": broken.code for part in parts if part in names for name in names[part]}


@contextlib.contextmanager
def _folder(settings: Settings, scratch: Path) -> Iterator[VaultFolder]:
    """Give the block the vault to attack: never the original."""
    if settings.vault:
        with copied(Path(settings.vault), scratch / "vault") as folder:
            yield folder
    else:
        yield vault_folder.create(scratch / "vault", settings.template)


class _Rehearsal:
    def __init__(self, scene: Scene, settings: Settings, outcome: Outcome, say: Callable[[str], None]) -> None:
        self.scene, self.settings, self.outcome, self.say = scene, settings, outcome, say
        self.cast = cast(scene.policy)
        self.dump: Sequence[Cell] = ()
        self.loot = Loot()
        self.people = Fresh(settings.people, settings.seed)
        usual = (BREAKS[settings.broken].seen_by,) if settings.broken else THEFTS
        self.wanted = settings.thefts or usual
        self.tokens: tokens.Seen = {}

    async def run(self) -> None:
        """Fill the vault, then rob it in every way that was asked for."""
        await self._fill()
        wanted = self.wanted
        self.load = Load(self.scene, self.cast, iter(()) if self.settings.vault else self.people.spare())
        if WATCHED & set(wanted):
            self.loot = await live.watch(self.scene, self.load)
        self.dump = dump.cells_of(self.scene, DUMPED_ROWS)
        thefts = self._thefts()
        for name in FRESH & set(wanted) if self.settings.vault else ():
            del thefts[name]
            self.outcome.skipped[name] = "nobody is put into a copy, and public statistics are not those of its people"
        for name in (n for n in THEFTS if n in wanted and n in thefts):
            self.scene.pass_time(DAY_S)  # nobody's budget was spent by somebody else
            theft = await thefts[name]()
            self.outcome.thefts.append(theft)
            said = "; ".join(theft.broken) or "holds"
            self.say(f"{theft.name}: {theft.people:,} people, {theft.values:,} values: {said}")

    def _thefts(self) -> dict[str, Callable[[], Awaitable[Theft]]]:
        """Return every theft by name, in order."""
        scene, who, hours = self.scene, self.cast, self.settings.hours
        schema = scene.policy.collections[who.reader.collection]
        needles = Needles(texts(schema, [known.values for known in scene.known[:DUMPED_ROWS]]))
        return {
            "nobody": lambda: nobody.steal(scene, needles),
            "dump": lambda: dump.steal(scene, who),
            "inference": _done(self._guess),
            "tokens": _done(lambda: tokens.steal(scene, self.people, self.tokens)),
            "node": _done(lambda: live.steal_node(scene, self.loot)),
            "keeper": _done(lambda: live.steal_keeper(scene, self.loot, self.dump)),
            "liar": lambda: liar.steal(scene, who, self.load),
            "zone": _done(lambda: live.steal_zone(scene, self.loot, self.dump)),
            "writer": lambda: writer.steal(scene, who, self.loot, self.dump),
            "key": lambda: thief.steal(scene, who, with_keeper=False, hours=hours),
            "key, prepared": lambda: thief.steal_prepared(scene, who),
            "key and keeper": lambda: thief.steal(scene, who, with_keeper=True, hours=hours),
            "officer": lambda: officer.steal_key(scene),
            "rollback": lambda: rollback.steal(scene, who),
            "rows": lambda: rows.steal(scene, who, self.settings.seed),
            "keepers": _done(lambda: keepers.steal(scene, who, self.dump)),
        }

    def _guess(self) -> Theft:
        theft, self.outcome.columns = guessing.steal(self.scene, self.people)
        return theft

    def rows(self) -> list[Mapping[str, object]]:
        """Return people for other systems; of a copy as many who are made up: there they are written in clear."""
        known = self.scene.known[:COMPARED]
        if not self.settings.vault:
            return [one.values for one in known]
        made_up = next(residents(len(known), self.settings.seed))
        return [dict(zip(made_up, row, strict=True)) for row in zip(*made_up.values(), strict=True)]

    async def _fill(self) -> None:
        if self.settings.vault:
            await self._open_some()
        else:
            self.say(f"{self.settings.people:,} made-up people put into a fresh vault")
            tap.switch(self.scene.outside, {"keeper"} if "tokens" in self.wanted else ())
            await self.scene.load(self.cast.reader.collection, self.people.rows(), *self.cast.writer)
            tap.switch(self.scene.outside, ())
            self.tokens = tokens.seen(tap.read("keeper", self.scene.outside))
        self.outcome.people = len(self.scene.known)

    async def _open_some(self) -> None:
        """Learn what is in a copied vault, through its front door: the truth to compare with."""
        reader = self.cast.reader
        async with self.scene.connect(reader.principal, reader.purpose) as vault:
            names = [
                n for c, i in vault.policy.purposes[reader.purpose].open if (n := _class(vault.policy, reader, c, i))
            ]
            found = await reader.some(vault, KNOWN_OF_COPY, names)
            for record, values in zip(found, await vault.open(found, names), strict=True):
                self.scene.known.append(Known(record.id, record.subject, values))
        if not self.scene.known:
            raise NotFoundError(f"{reader.collection}: nobody is in this vault")


def _done(steal: Callable[[], Theft]) -> Callable[[], Awaitable[Theft]]:
    """Return a theft that waits for nothing as one that may."""

    async def stolen() -> Theft:
        return steal()

    return stolen


def _class(policy: Policy, reader: Reader, collection: int, class_id: int) -> str | None:
    """Return the name of a full class of the reader's collection."""
    schema = policy.collections[reader.collection]
    return schema.class_name_of(class_id) if collection == schema.id and not class_id & RENDITION else None
