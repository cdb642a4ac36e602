"""The thief of a principal's key: opens as many people as he can, alone or with a stolen keeper's shares.

He works as the software never would: he asks keepers one by one, with grants that expire in the same second as long as
they are good, keeps every component he ever got, halves what was refused until a single person is, waits for the edges
of windows, and comes back after restarts. With a stolen keeper's shares he computes that keeper's components himself,
so that nobody counts them, and takes the pads off the others', so that they keep.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from anwen.client import audit, rounds
from anwen.client.opening import Request
from anwen.client.records import Record
from anwen.client.rows import Cell, open_cell
from anwen.crypto import grants
from anwen.errors import AnwenError, BudgetError, OpenError
from anwen.model import Counter
from anwen.policy.budgets import DAY_S, HOUR_S, JOIN_S
from anwen.rehearse.breach.cast import Cast, Reader, budget_of
from anwen.rehearse.breach.scene import STOLEN, Scene
from anwen.rehearse.breach.shares import Bytes2D, Shares, inputs_of
from anwen.rehearse.breach.theft import Theft

FIRST_BATCH = 64
LEFT_S = 5
"""A grant's second is changed for another so long before it has passed."""
EDGES_S = (0.5 * HOUR_S, 0.5 * HOUR_S - 2, 1.0, 1.5)
"""Times that pass between his attempts, again and again: half an hour, then just before and after the full hour."""
HOURS, QUICK_HOURS = 26, 3
KeySet = tuple[str, ...]

HONEST = 0.7
"""Share of his budget that an honest caller has to get: keepers are asked in turn and not evenly."""


@dataclass
class Thief:
    """What one thief has: a key, perhaps shares, and whatever keepers have told him so far."""

    scene: Scene
    reader: Reader
    shares: Shares  # of stolen keepers; of none without
    opened: dict[str, float] = field(default_factory=dict)  # when each person was opened, by handle
    answered: set[tuple[str, str]] = field(default_factory=set)  # keeper and hash of every request that it answered
    requests: int = 0
    refused: int = 0
    _had: dict[tuple[str, int], dict[KeySet, bytes]] = field(default_factory=dict)  # by second; 0: of any
    _asked: dict[tuple[str, int], set[str]] = field(default_factory=dict)  # keepers that answered
    _until_s: int = 0

    def __post_init__(self) -> None:
        reader, policy = self.reader, self.scene.policy
        self.vault = self.scene.connect(reader.principal, reader.purpose)
        self.session, self.purpose = self.vault.session, reader.purpose
        self._class = policy.collections[reader.collection].class_named[reader.class_name].id
        self._keepers = [k for k in policy.keepers if not self.shares.held or k != STOLEN]

    async def rob(self, records: Sequence[Record]) -> None:
        """Open as many of these as keepers let him at this moment: in batches, then one by one."""
        left = [r for r in records if r.subject not in self.opened]
        needed = 1 if self.shares.held else self.scene.policy.threshold
        groups = list(itertools.combinations(sorted(self._keepers), needed))
        plan = {k: [r for i, r in enumerate(left) if k in groups[i % len(groups)]] for k in self._keepers}
        await asyncio.gather(*(self._ask(k, plan[k]) for k in plan))
        # what one keeper of the pair refused another may give
        started = [r for r in left if (r.id, self._second()) in self._asked and r.subject not in self.opened]
        for keeper in self._keepers:
            await self._ask(keeper, started)

    def _second(self) -> int:
        """Return when the grants of these moments expire: as late as keepers take it, and the same for all of them."""
        now_s = self.session.clock()
        if self._until_s < now_s + LEFT_S:
            self._until_s = int(now_s) + grants.MAX_AGE_S - 1
        return self._until_s

    async def _ask(self, keeper: str, records: Sequence[Record]) -> None:
        """Ask one keeper for records, as long as it answers: half as many each time it refuses."""
        size, at = FIRST_BATCH, 0
        todo = [r for r in records if keeper not in self._asked.get((r.id, self._second()), ())]
        while size and at < len(todo):
            if await self._get(keeper, todo[at : at + size]):
                at += size
            else:
                size //= 2

    async def _get(self, keeper: str, records: Sequence[Record]) -> bool:
        cells = [r.cells[self._class] for r in records]
        request = Request(self.session, (await rounds.current(self.session, self.purpose))[0], cells)
        body, second = request.body(np.arange(len(cells))), self._second()
        self.requests += 1
        try:
            answer = await self.session.send(keeper, "open", self.purpose, body, expires_s=second)
        except AnwenError:
            self.refused += 1
            return False
        self.answered.add((keeper, hashlib.sha256(body).hexdigest()))
        found = self.shares.without_pads(answer, self.session.principal, inputs_of(cells))
        for row, record in enumerate(records):
            for at in (second, 0):
                self._asked.setdefault((record.id, at), set()).add(keeper)
                had = self._had.setdefault((record.id, at), {})
                had |= {key_set: column[row].tobytes() for key_set, column in found.items()}
                self._combine(record, had)
        return True

    def _combine(self, record: Record, had: dict[KeySet, bytes]) -> None:
        """Open a record, if all its components are known: of one second, or as they come."""
        cell = record.cells[self._class]
        if set(self.shares.sets) <= {*self.shares.held, *had} and record.subject not in self.opened:
            with contextlib.suppress(OpenError):  # a component was wrong, or of another second
                open_cell(self.scene.policy.vault, cell, self._value(cell, had))
                self.opened[record.subject] = self.scene.now()

    def _value(self, cell: Cell, had: dict[KeySet, bytes]) -> bytes:
        known: dict[KeySet, Bytes2D] = {s: np.frombuffer(v, np.uint8).reshape(1, -1) for s, v in had.items()}
        return self.shares.values(inputs_of([cell]), known).tobytes()

    async def prepare(self, records: Sequence[Record], each: int) -> None:
        """Keep answers that open nobody, hour by hour; in the last of them one more for each would open all.

        `each`: how many people one keeper answers for in an hour (docs/adr/0011).
        """
        keepers, threshold = sorted(self._keepers), self.scene.policy.threshold
        for hour in range(threshold):
            self.scene.pass_time(HOUR_S + JOIN_S + 1 if hour else 0)
            for i in range(len(keepers)):
                await self._ask(keepers[(i + hour) % len(keepers)], records[i * each : (i + 1) * each])
        self.scene.pass_time(HOUR_S + JOIN_S + 1)
        await self.rob(records)

    async def close(self) -> None:
        """Let go of all connections."""
        await self.vault.close()


def most_in_window(times_s: Sequence[float], width_s: float) -> int:
    """Return the most of these moments that lie in any half-open window of a width, wherever it begins."""
    ordered = sorted(times_s)
    return max((int(np.searchsorted(ordered, t + width_s, "left")) - i for i, t in enumerate(ordered)), default=0)


async def steal(scene: Scene, cast: Cast, *, with_keeper: bool, hours: int) -> Theft:
    """Return whom a stolen key gives within `hours`, keepers killed and started again on the way.

    Args:
        with_keeper: the thief holds the shares of keeper `STOLEN` as well.
    """
    whose = cast.reader
    budget = budget_of(scene.policy, whose.principal, Counter.OPEN)
    shares = Shares(scene.policy, [scene.path("keeper", STOLEN)] if with_keeper else [], "record")
    theft = Theft(
        "key and keeper" if with_keeper else "key",
        f"the key of {whose.principal}" + f" and the shares of keeper {STOLEN}, which never counts" * with_keeper,
        budget.per_hour, f"at most {budget.per_hour} people in any hour and {budget.per_day} in any day",
        "rehearse/breach/thief.py",
    )  # fmt: skip
    thief = Thief(scene, whose, shares)
    try:
        records = await whose.some(thief.vault, 2 * budget.per_day)
        await _work(scene, thief, records, hours)
    finally:
        await thief.close()
    in_hour, in_day = (most_in_window(list(thief.opened.values()), width) for width in (HOUR_S, DAY_S))
    theft.people = in_hour
    theft.must(in_day <= budget.per_day, f"{in_day} people in a day, at most {budget.per_day}")
    theft.must(in_hour > 0, "the thief opened nobody: this attack does not work")
    theft.note(
        f"{thief.requests:,} requests within {hours} hours, in batches and singly, before and after the edges of "
        f"windows, {thief.refused:,} refused; a keeper killed and started again every few hours",
        requests=thief.requests, refused=thief.refused, in_any_hour=in_hour, in_any_day=in_day,
        in_all=len(thief.opened), budget_hour=budget.per_hour, budget_day=budget.per_day,
    )  # fmt: skip
    await _check_logs(scene, cast, thief, theft)
    if not with_keeper:
        scene.pass_time(DAY_S + HOUR_S)
        await _check_honest(scene, cast, theft, budget.per_hour)
    theft.close()
    return theft


async def steal_prepared(scene: Scene, cast: Cast) -> Theft:
    """Return whom a stolen key gives in one hour, after hours in which it gathered answers of one keeper each."""
    whose, policy = cast.reader, scene.policy
    budget = budget_of(policy, whose.principal, Counter.OPEN)
    each, keepers = policy.keeper_budget(budget).per_hour, len(policy.keepers)
    theft = Theft(
        "key, prepared", f"the key of {whose.principal}, and {policy.threshold} hours", budget.per_hour,
        f"at most {budget.per_hour} people in any hour", "rehearse/breach/thief.py",
    )  # fmt: skip
    thief = Thief(scene, whose, Shares(scene.policy, [], "record"))
    try:
        await thief.prepare(await whose.some(thief.vault, keepers * each), each)
    finally:
        await thief.close()
    theft.people = most_in_window(list(thief.opened.values()), HOUR_S)
    theft.must(theft.people > 0, "the thief opened nobody: this attack does not work")
    theft.note(
        f"answers of one keeper each gathered for {policy.threshold} hours, to be completed in the last, where "
        f"{keepers * each} people would open if answers kept; then asked for anew",
        requests=thief.requests, refused=thief.refused, in_one_hour=theft.people, in_all=len(thief.opened),
    )  # fmt: skip
    await _check_logs(scene, cast, thief, theft)
    theft.close()
    return theft


async def _work(scene: Scene, thief: Thief, records: Sequence[Record], hours: int) -> None:
    begun, edges = scene.now(), itertools.cycle(EDGES_S)
    restarts = itertools.cycle([k for k in scene.policy.keepers if k != STOLEN])
    restart_at = begun + 2.2 * HOUR_S
    while scene.now() - begun < hours * HOUR_S:
        await thief.rob(records)
        scene.pass_time(next(edges))
        if scene.now() >= restart_at:
            keeper, restart_at = next(restarts), restart_at + 5 * HOUR_S
            await scene.kill("keeper", keeper)
            await scene.start_one("keeper", keeper)
    await thief.rob(records)


async def _check_logs(scene: Scene, cast: Cast, thief: Thief, theft: Theft) -> None:
    """Look for every answer in the log of the keeper that gave it; the stolen one's log is its thief's."""
    missing = 0
    async with scene.connect(*cast.auditor) as vault:
        for keeper in scene.policy.keepers:
            got = {request for k, request in thief.answered if k == keeper}
            logged = set()
            async for page in audit.pages(vault.session, vault.purpose, keeper):
                found = [audit.members(keeper, entry) for entry in page.entries]
                logged |= {about["req"] for about in found if about.get("op") == "open"}
            missing += len(got - logged)
    theft.note(
        "each answer looked for in the log of the keeper that gave it", answers=len(thief.answered), unlogged=missing
    )
    theft.must(not missing, f"{missing} answers are in no log")


async def _check_honest(scene: Scene, cast: Cast, theft: Theft, per_hour: int) -> None:
    """Look how many people an honest caller opens in an hour before he is refused, all keepers up."""
    opened, refused, whose = 0, False, cast.reader
    async with scene.connect(whose.principal, whose.purpose) as vault:
        async for record in vault.scan(whose.collection, [whose.class_name]):
            try:
                await vault.open([record], [whose.class_name])
            except BudgetError:
                refused = True
                break
            opened += 1
    theft.note(f"an honest caller with this key opens {opened} people in an hour", honest_in_hour=opened)
    theft.must(opened >= HONEST * per_hour or not refused, f"an honest caller opens {opened} of {per_hour} people")
