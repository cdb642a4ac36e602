"""Several recipients asked for one thing: who is asked first, who when one fails or is late, and when it is enough.

First answers win. Who was silent meanwhile is suspect from then on (`health`); what he was asked lingers for a second,
as connections that are cut and made anew are what an overload could least bear.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from anwen.client.health import Health
from anwen.client.quorum import Round, Rows
from anwen.errors import AnwenError, DeniedError, IntegrityError, OverloadedError, RequestError, UnavailableError
from anwen.formats.answer import Answer

if TYPE_CHECKING:
    from anwen.client.session import Session

T = TypeVar("T")
LINGER_S = 1.0


class Background:
    """Requests that nobody waits for: each ends by itself, or is cancelled after a second, or at `close`."""

    def __init__(self, linger_s: float = LINGER_S) -> None:
        self._linger_s = linger_s
        self._tasks: set[asyncio.Task[Any]] = set()

    def add(self, task: asyncio.Task[Any]) -> None:
        """Let a request linger."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        asyncio.get_running_loop().call_later(self._linger_s, task.cancel)

    async def close(self) -> None:
        """Cancel all, and wait until they have ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Calls(Generic[T]):
    """Requests of one operation under way."""

    def __init__(self, health: Health, background: Background, op: str) -> None:
        self._health, self._background, self._op = health, background, op
        self._under_way: dict[asyncio.Task[T], tuple[str, float, float]] = {}
        self._late_at_s = 0.0

    def __bool__(self) -> bool:
        return bool(self._under_way)

    def start(self, recipient: str, size: int, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Return a request of `size` bytes, started."""
        now_s = time.monotonic()
        late_at_s = now_s + self._health.delay_s(recipient, self._op, size)
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(lambda t: t.cancelled() or t.exception())  # nobody may wait for it any more
        self._under_way[task] = (recipient, now_s, late_at_s)
        self._late_at_s = max(self._late_at_s, late_at_s)
        return task

    def late_in_s(self, least_s: float = 0.0) -> float:
        """Return in how many seconds what is under way is late; at the least until `least_s`."""
        return max(0.0, max(self._late_at_s, least_s) - time.monotonic())

    def may_move_on(self, others: Iterable[str]) -> bool:
        """Return whether all that is under way is late and `others` may be asked besides.

        Free of charge from a suspect to somebody trusted; else it counts as a hedge.
        """
        now_s = time.monotonic()
        if now_s < self._late_at_s:
            return False
        trusted = all(self._health.trusted(r, now_s) for r, *_ in self._under_way.values())
        free = not trusted and any(self._health.trusted(r, now_s) for r in others)
        if not free and not self._health.may_hedge(self._op):
            self._late_at_s = now_s + self._health.least_s  # what is free may have changed by then
            return False
        return True

    async def ended(self, within_s: float | None) -> list[tuple[str, asyncio.Task[T]]]:
        """Return what ends first; nothing, if nothing does within the time."""
        done, _ = await asyncio.wait(self._under_way, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        return [(self._under_way.pop(task)[0], task) for task in done]

    def give_up(self) -> None:
        """Wait no longer for what is still under way."""
        now_s = time.monotonic()
        for task, (recipient, sent_s, late_at_s) in self._under_way.items():
            self._background.add(task)
            if now_s >= late_at_s:
                self._health.given_up(recipient, sent_s=sent_s, now_s=now_s)


async def first_of(
    calls: Calls[T], health: Health, size: int, recipients: Sequence[str], ask: Callable[[str], Coroutine[Any, Any, T]]
) -> T:
    """Return the first answer; the next recipient is asked when one fails, refuses or is late.

    A refusal counts once a second recipient refuses alike, or no other is left: the first one's clock or policy may be
    wrong, or it lies.

    Raises: the refusal; else UnavailableError: none answered.
    """
    errors: dict[str, AnwenError] = {}
    left = deque(health.trusted_first(recipients, time.monotonic()))
    try:
        move_on = True
        while calls or left:
            if left and (move_on or not calls):
                recipient = left.popleft()
                calls.start(recipient, size, ask(recipient))
            done = await calls.ended(calls.late_in_s() if left else None)
            move_on = not done and calls.may_move_on(left)
            for recipient, task in done:
                try:
                    answer = task.result()
                except AnwenError as error:
                    errors[recipient], move_on = error, True
                    continue
                for refusing in (r for r, e in errors.items() if not isinstance(e, UnavailableError)):
                    health.failed(refusing, time.monotonic())
                return answer
            if max(Counter(map(type, _refusals(errors.values()))).values(), default=0) > 1:
                break
    finally:
        calls.give_up()
    raise _worst(list(errors.values()))


def _refusals(errors: Iterable[AnwenError]) -> list[AnwenError]:
    return [e for e in errors if not isinstance(e, UnavailableError)]


def told_by_most(errors: Sequence[AnwenError]) -> AnwenError | None:
    """Return what most refuse with; of equally many a denial, then a bad request, then a broken promise."""
    refusals = _refusals(errors)
    counts, ranks = Counter(map(type, refusals)), (DeniedError, RequestError, IntegrityError, AnwenError)
    return min(
        refusals, key=lambda e: (-counts[type(e)], [isinstance(e, kind) for kind in ranks].index(True)), default=None
    )


def _worst(errors: Sequence[AnwenError]) -> AnwenError:
    """Return what says most: a refusal, then one that says when to come again, then the last."""
    waits: list[AnwenError] = [e for e in errors if isinstance(e, OverloadedError)]
    return told_by_most(errors) or (waits or errors)[-1]


async def all_of(session: Session, op: str, purpose: str, body: bytes) -> dict[str, Answer]:
    """Return the answers of all trusted keepers to one body, at least as many as it needs; else of others, too.

    Once enough have answered, the rest have until they are late. All requests carry one `jti`, each once.
    """
    keepers, needed = session.policy.keepers, session.policy.answers_needed(op)
    trusted = [k for k in keepers if session.health.trusted(f"keeper/{k}", time.monotonic())]
    first = trusted if len(trusted) >= needed else list(keepers)
    left = [k for k in keepers if k not in first]
    send = session.siblings(op, purpose, body)
    calls: Calls[Answer] = session.calls(op)
    answers, failed = dict[str, Answer](), dict[str, BaseException]()
    grace_at_s = time.monotonic() + session.timing.grace_s
    try:
        for keeper in first:
            calls.start(f"keeper/{keeper}", len(body), send(keeper))
        while calls:
            enough = len(answers) >= needed
            within_s = calls.late_in_s(grace_at_s if enough else 0.0) if enough or left else None
            done = await calls.ended(within_s)
            if enough and not done:
                break
            for recipient, task in done:
                _, _, keeper = recipient.partition("/")
                if error := task.exception():
                    failed[keeper] = error
                else:
                    answers[keeper] = task.result()
            if len(answers) < needed and left and (failed or calls.may_move_on(f"keeper/{k}" for k in left)):
                for keeper in left:
                    calls.start(f"keeper/{keeper}", len(body), send(keeper))
                left = []
    finally:
        calls.give_up()
    if len(answers) < needed:
        raise session.why(failed, needed)
    return answers


class Asking:
    """Requests to keepers for parts of one round."""

    def __init__(
        self, session: Session, op: str, purpose: str, body_for: Callable[[Rows], bytes], found: Round
    ) -> None:
        self.session, self.op, self.purpose, self.body_for, self.found = session, op, purpose, body_for, found
        self.calls: Calls[Answer] = session.calls(op)
        self.rows: dict[asyncio.Task[Answer], Rows] = {}
        self.asked: dict[str, Rows] = {k: np.empty(0, np.intp) for k in session.policy.keepers}
        self.failed: dict[str, BaseException] = {}
        self.jti, self.expires_s = session.random(16), found.expires_s or session.expiry_s()

    def start(self, keeper: str, rows: Rows) -> bool:
        """Ask a keeper for those of `rows` that it has not been asked for yet; True if there were any."""
        rows = np.setdiff1d(rows, self.asked[keeper])
        if keeper in self.failed or not len(rows):
            return False
        if self.session.clock() >= self.expires_s - 1:  # answers to later grants would not combine with those there are
            self.failed[keeper] = UnavailableError("the time of this round is over")
            return False
        jti = None if len(self.asked[keeper]) else self.jti  # a keeper takes a jti once
        self.asked[keeper] = np.union1d(self.asked[keeper], rows)
        body = self.body_for(rows)
        sending = self.session.send(keeper, self.op, self.purpose, body, jti=jti, expires_s=self.expires_s)
        self.rows[self.calls.start(f"keeper/{keeper}", len(body), sending)] = rows
        return True

    async def until_covered(self) -> None:
        """Wait until every row has t answers; ask others for what fails or is late."""
        all_asked = False
        while len(missing := self.found.uncovered()):
            all_asked = all_asked or bool(self.failed) or not self.calls or self._may_move_on()
            if all_asked:
                helping = [self.start(k, missing) for k in self.session.policy.keepers]
                if not any(helping) and not self.calls:
                    raise self.session.why(self.failed)
            await self._take(None if all_asked else self.calls.late_in_s())

    def _may_move_on(self) -> bool:
        return self.calls.may_move_on(f"keeper/{k}" for k, rows in self.asked.items() if not len(rows))

    async def all(self, within_s: float) -> None:
        """Wait for all that was asked; failures, and what takes longer, are left out."""
        until_s = time.monotonic() + within_s
        while self.calls and (left_s := until_s - time.monotonic()) > 0:
            await self._take(left_s)

    async def _take(self, within_s: float | None) -> None:
        for recipient, task in await self.calls.ended(within_s):
            _, _, keeper = recipient.partition("/")
            try:
                self.found.add(keeper, task.result(), self.rows[task])
            except AnwenError as error:
                self.failed[keeper] = error
