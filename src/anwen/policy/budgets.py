"""Budgets as one keeper counts them: sliding windows, per principal and per collection.

A keeper enforces `floor(B / (n - t + 1))` (`Policy.keeper_budget`). Each opening needs answers of t keepers within
`JOIN_S`, and t - 1 corrupt ones never count, so at least one of the n - t + 1 honest ones charges each subject:
together they let at most B through a window (docs/adr/0011, tests/policy/test_bound.py).

Pure: no clock. The caller passes the time in seconds; a time before the latest one counts as the latest, so a
clock that is set back makes windows longer, never shorter. A clock far ahead keeps charges for as long.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from anwen.errors import BudgetError
from anwen.model import Budget, Counter, Policy

HOUR_S, DAY_S = 3_600, 86_400
JOIN_S = 240
"""Answers combine under one `exp`, which is good for 120 s at each keeper's clock. Those of three keepers differ by
120 s at most, where two are cut off from each other. A keeper's windows are longer by that: all charges for what
opens within an hour lie in one window of each keeper."""
BY_SUBJECT = frozenset({Counter.OPEN, Counter.LIST, Counter.WRITE, Counter.DELETE})
"""Counters of distinct subjects; the others are plain sums."""

Charge = Mapping[int, Sequence[bytes]] | Mapping[int, int]
"""By collection id: 16-byte handles for a counter in BY_SUBJECT, a number for the others."""


class _Window:
    """What was charged in (now - window, now]: by key, oldest first, when it was charged last and how much it is."""

    def __init__(self, limit: int, window_s: int) -> None:
        self.limit, self.window_s = limit, window_s
        self._now, self._total, self._holes = -math.inf, 0, 0
        self._charged: dict[Any, tuple[float, int]] = {}

    def __len__(self) -> int:
        return len(self._charged)

    def expire(self, now: float) -> float:
        """Drop what has left the window; return the time that counts as now."""
        if now <= self._now:  # nothing has left since
            return self._now
        self._now = now
        left = list(itertools.takewhile(lambda item: item[1][0] <= now - self.window_s, self._charged.items()))
        for key, (_, amount) in left:
            del self._charged[key]
            self._total -= amount
        self._holes += len(left)
        if self._holes > len(self._charged) // 32:  # a dict passes the holes of what was deleted whenever it is read
            self._charged, self._holes = dict(self._charged), 0
        return now

    def _wait(self, amount: int, staying: AbstractSet[bytes], now: float) -> float | None:
        """Return after how many seconds `amount` fits, of which `staying` may be in the window already."""
        now = self.expire(now)
        over = self._total + amount - self.limit
        if over > 0:  # else it fits even if all is new: the common case costs no look-up
            over -= sum(map(self._charged.__contains__, staying))
        if over <= 0:
            return None
        if amount > self.limit:
            return math.inf
        for key, (time, part) in self._charged.items():
            if key not in staying:
                over -= part
                if over <= 0:
                    return time + self.window_s - now
        return math.inf

    def _put(self, keys: Iterable[Any], stamp: tuple[float, int]) -> None:
        for key in keys:
            self._total += stamp[1] - self._charged.pop(key, (0, 0))[1]
            self._charged[key] = stamp

    def tail(self, window_s: int) -> Any:
        """Return a shorter window, without a limit yet, that holds what this one has seen."""
        shorter = type(self)(0, window_s)
        shorter._charged, shorter._total = self._charged.copy(), self._total  # noqa: SLF001 - its own kind
        shorter.expire(self._now)
        return shorter


class SubjectWindow(_Window):
    """Exact count of the distinct subjects whose latest access lies in (now - window, now].

    Memory: about 120 bytes a subject in the window. A batch of 1,024 new subjects costs about 0.2 ms.
    """

    def would_exceed(self, subjects: Iterable[bytes], now: float) -> float | None:
        """Return None when `subjects` fit; else the seconds after which they would, `inf` when they never do."""
        asked = subjects if isinstance(subjects, set) else set(subjects)
        return self._wait(len(asked), asked, now)

    def charge(self, subjects: Iterable[bytes], now: float) -> None:
        """Count `subjects` as seen now, over the limit or not."""
        self._put(subjects, (self.expire(now), 1))


class SumWindow(_Window):
    """Sum of the amounts charged in (now - window, now], never too low.

    Amounts of one 3600th of a window are kept as one that counts from its last moment, so they leave at most that
    much later than they should and memory stays below 4,000 entries.
    """

    def would_exceed(self, amount: int, now: float) -> float | None:
        """Return None when `amount` fits; else the seconds after which it would, `inf` when it never does."""
        return self._wait(amount, frozenset(), now)

    def charge(self, amount: int, now: float) -> None:
        """Count `amount` now, over the limit or not."""
        now = self.expire(now)
        if amount > 0:
            start = now - now % (self.window_s / 3_600)
            self._put([start], (now, amount + self._charged.get(start, (0, 0))[1]))


Owner = str | int
"""Whose window: a principal's id, or a collection's id for a ceiling over all principals."""


def _limited(counter: Counter, limits: Budget, held: Mapping[str, Any]) -> dict[str, Any]:
    """Return the windows of one owner and counter under these limits, with what `held` ones have seen."""
    windows = dict(held) or {"day": (SubjectWindow if counter in BY_SUBJECT else SumWindow)(0, DAY_S + JOIN_S)}
    windows["day"].limit = limits.per_day
    hour = windows.pop("hour", None)
    if limits.per_hour < limits.per_day:  # else what fits the day fits the hour: half the memory and time of an import
        windows = {"hour": windows["day"].tail(HOUR_S + JOIN_S) if hour is None else hour, **windows}
        windows["hour"].limit = limits.per_hour
    return windows


class Ledger:
    """All windows of one keeper: for each principal, and each collection with ceilings, an hour and a day."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._windows: dict[tuple[Owner, Counter], dict[str, Any]] = {}

    def update_policy(self, policy: Policy) -> None:
        """Go on under new limits. Charges stay, also those of a principal who is gone: back again, he has them."""
        self._policy = policy
        for (owner, counter), windows in self._windows.items():
            self._windows[owner, counter] = _limited(counter, self._limits(owner, counter) or Budget(0, 0), windows)

    def reserve(self, principal: str, charges: Mapping[Counter, Charge], now: float) -> None:
        """Charge everything, or nothing.

        Raises:
            BudgetError: names the counter, the window and this keeper's limit; `retry_after_s` is None where
                waiting does not help.
        """
        amounts = self._amounts(principal, charges)
        for owner, counter, amount in amounts:
            for name, window in self._of(owner, counter).items():
                wait = window.would_exceed(amount, now)
                if wait is not None:
                    ceiling = f"collection {owner}, all principals together"
                    whose = ceiling if isinstance(owner, int) else f"principal {owner}"
                    raise BudgetError(
                        f"budget {counter} of {whose} at this keeper: at most {window.limit} in any {name}",
                        retry_after_s=None if math.isinf(wait) else wait,
                    )
        self._charge(amounts, now)

    def replay(self, principal: str, charges: Mapping[Counter, Charge], now: float) -> None:
        """Charge without checking what the keeper's log says was charged at `now`."""
        self._charge(self._amounts(principal, charges), now)

    def _charge(self, amounts: list[tuple[Owner, Counter, Any]], now: float) -> None:
        for owner, counter, amount in amounts:
            for window in self._of(owner, counter).values():
                window.charge(amount, now)

    def forget(self, now: float) -> None:
        """Free the memory of all that has left its window; else that waits for the owner's next charge."""
        for key, windows in list(self._windows.items()):
            for window in windows.values():
                window.expire(now)
            if not windows["day"]:
                del self._windows[key]

    def _limits(self, owner: Owner, counter: Counter) -> Budget | None:
        """Return what this keeper enforces, None where nothing is promised."""
        if isinstance(owner, int):
            collection = self._policy.collection_by_id.get(owner)
            budget = collection.limits.get(counter) if collection else None
        else:
            principal = self._policy.principals.get(owner)
            budget = self._policy.roles[principal.role].budgets.get(counter) if principal else None
        return self._policy.keeper_budget(budget) if budget else None

    def _of(self, owner: Owner, counter: Counter) -> dict[str, Any]:
        windows = self._windows.get((owner, counter))
        if windows is None:
            windows = _limited(counter, self._limits(owner, counter) or Budget(0, 0), {})
            self._windows[owner, counter] = windows
        return windows

    def _amounts(
        self, principal: str, charges: Mapping[Counter, Charge]
    ) -> list[tuple[Owner, Counter, set[bytes] | int]]:
        """Return what to charge to whom; nothing for amounts of nothing."""
        amounts: list[tuple[Owner, Counter, Any]] = []
        for counter, parts in charges.items():
            by_subject = counter in BY_SUBJECT
            some: dict[int, Any] = {c: set(part) if by_subject else part for c, part in parts.items() if part}  # type: ignore[arg-type]
            if some:
                parts_of_all = list(some.values())
                if len(parts_of_all) == 1:
                    whole = parts_of_all[0]
                else:
                    whole = set().union(*parts_of_all) if by_subject else sum(parts_of_all)
                amounts.append((principal, counter, whole))
                amounts += [(c, counter, part) for c, part in some.items() if self._limits(c, counter) is not None]
        return amounts
