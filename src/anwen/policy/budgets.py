"""Budgets as one keeper counts them: sliding windows, per principal and per collection.

A keeper enforces `floor(B / (n - t + 1))` (`Policy.keeper_budget`). Each opening needs answers of t keepers, and
t - 1 corrupt ones never count, so at least one of the n - t + 1 honest ones charges each subject: together
they let at most B through, in any position of the window (docs/spec/policy.md, tests/policy/test_bound.py).

Pure: no clock. The caller passes the time in seconds; a time before the latest one counts as the latest, so a
clock that is set back makes windows longer, never shorter. A clock far ahead keeps charges for as long.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from anwen.errors import BudgetError
from anwen.model import Budget, Counter, Policy

HOUR_S, DAY_S = 3_600, 86_400
BY_SUBJECT = frozenset({Counter.OPEN, Counter.LIST, Counter.WRITE, Counter.DELETE})
"""Counters of distinct subjects; the others are plain sums."""

Charge = Mapping[int, Sequence[bytes]] | Mapping[int, int]
"""By collection id: 16-byte handles for a counter in BY_SUBJECT, a number for the others."""

_COMPACT_ABOVE = 4_096


class SubjectWindow:
    """Exact count of the distinct subjects whose latest access lies in (now - window, now].

    Memory: about 130 bytes a subject in the window. A batch of 1,024 new subjects costs about 0.1 ms.
    """

    def __init__(self, limit: int, window_s: int) -> None:
        self.limit, self.window_s = limit, window_s
        self._now = -math.inf
        self._latest: dict[bytes, float] = {}
        self._order: deque[tuple[float, Sequence[bytes]]] = deque()  # every access, in order; superseded ones too
        self._accesses = 0

    def __len__(self) -> int:
        return len(self._latest)

    def expire(self, now: float) -> float:
        """Drop what has left the window; return the time that counts as now."""
        self._now = now = max(now, self._now)
        order, latest = self._order, self._latest
        while order and order[0][0] <= now - self.window_s:
            time, subjects = order.popleft()
            self._accesses -= len(subjects)
            for subject in subjects:
                if latest.get(subject) == time:
                    del latest[subject]
        return now

    def would_exceed(self, subjects: Iterable[bytes], now: float) -> float | None:
        """Return None when `subjects` fit; else the seconds after which they would, `inf` when they never do."""
        now = self.expire(now)
        asked = subjects if isinstance(subjects, set) else set(subjects)
        if len(self._latest) + len(asked) <= self.limit:
            return None  # fits even if all are new: the common case costs no look-up
        over = len(self._latest) + len(asked.difference(self._latest)) - self.limit
        if over <= 0:
            return None
        if len(asked) > self.limit:
            return math.inf
        return self._leaves(over, asked) + self.window_s - now

    def _leaves(self, over: int, staying: AbstractSet[bytes]) -> float:
        """Return the time of the `over`-th oldest access among subjects that are not asked for again."""
        for time, subjects in self._order:
            for subject in subjects:
                if subject not in staying and self._latest.get(subject) == time:
                    over -= 1
                    if not over:
                        return time
        return math.inf

    def charge(self, subjects: Iterable[bytes], now: float) -> None:
        """Count `subjects` as seen now, over the limit or not."""
        now = self.expire(now)
        fresh: Sequence[bytes] = tuple(subjects if isinstance(subjects, set) else set(subjects))
        if self._order and self._order[-1][0] == now:
            fresh = [s for s in fresh if self._latest.get(s) != now]
        if not fresh:
            return
        self._latest.update(dict.fromkeys(fresh, now))
        self._order.append((now, fresh))
        self._accesses += len(fresh)
        if self._accesses > 2 * len(self._latest) + _COMPACT_ABOVE:
            self._compact()

    def tail(self, window_s: int) -> SubjectWindow:
        """Return a shorter window, without a limit yet, that holds what this one has seen."""
        shorter = SubjectWindow(0, window_s)
        for time, subjects in self._order:
            if time > self._now - window_s:
                shorter.charge([s for s in subjects if self._latest.get(s) == time], time)
        return shorter

    def _compact(self) -> None:
        """Forget superseded accesses; amortised constant time per access."""
        kept = ((time, [s for s in subjects if self._latest.get(s) == time]) for time, subjects in self._order)
        self._order = deque((time, subjects) for time, subjects in kept if subjects)
        self._accesses = len(self._latest)


class SumWindow:
    """Sum of the amounts charged in (now - window, now], never too low.

    Amounts of up to 1/3600 of a window are kept as one that counts from its last moment, so they leave at most
    that much later than they should and memory stays below 4,000 entries.
    """

    def __init__(self, limit: int, window_s: int) -> None:
        self.limit, self.window_s = limit, window_s
        self._now = -math.inf
        self._granule_s = window_s / 3_600
        self._parts: deque[list[float]] = deque()  # [first time, last time, amount]
        self._total = 0

    def __len__(self) -> int:
        return len(self._parts)

    def expire(self, now: float) -> float:
        """Drop what has left the window; return the time that counts as now."""
        self._now = now = max(now, self._now)
        while self._parts and self._parts[0][1] <= now - self.window_s:
            self._total -= int(self._parts.popleft()[2])
        return now

    def would_exceed(self, amount: int, now: float) -> float | None:
        """Return None when `amount` fits; else the seconds after which it would, `inf` when it never does."""
        now = self.expire(now)
        over = self._total + amount - self.limit
        if over <= 0:
            return None
        if amount > self.limit:
            return math.inf
        for _, last, part in self._parts:
            over -= int(part)
            if over <= 0:
                return last + self.window_s - now
        return math.inf

    def charge(self, amount: int, now: float) -> None:
        """Count `amount` now, over the limit or not."""
        now = self.expire(now)
        if amount <= 0:
            return
        self._total += amount
        if self._parts and now - self._parts[-1][0] < self._granule_s:
            self._parts[-1][1], self._parts[-1][2] = now, self._parts[-1][2] + amount
        else:
            self._parts.append([now, now, amount])

    def tail(self, window_s: int) -> SumWindow:
        """Return a shorter window, without a limit yet, that holds what this one has seen."""
        shorter = SumWindow(0, window_s)
        for _, last, part in self._parts:
            if last > self._now - window_s:
                shorter.charge(int(part), last)
        return shorter


Owner = str | int
"""Whose window: a principal's id, or a collection's id for a ceiling over all principals."""

_Amount = tuple[Owner, Counter, "set[bytes] | int"]


class _Windows:
    """The hour and the day of one owner and counter; no hour where the day alone decides."""

    def __init__(self, counter: Counter, limits: Budget) -> None:
        kind = SubjectWindow if counter in BY_SUBJECT else SumWindow
        self.day: Any = kind(limits.per_day, DAY_S)
        self.hour: Any = None
        self.set_limits(limits)

    def set_limits(self, limits: Budget) -> None:
        self.day.limit = limits.per_day
        if limits.per_hour >= limits.per_day:
            self.hour = None  # what fits the day fits the hour: half the memory and time of an import
        else:
            self.hour = self.day.tail(HOUR_S) if self.hour is None else self.hour
            self.hour.limit = limits.per_hour

    def check(self, owner: Owner, counter: Counter, amount: set[bytes] | int, now: float) -> None:
        whose = f"principal {owner}" if isinstance(owner, str) else f"collection {owner}, all principals together"
        for name, window in (("hour", self.hour), ("day", self.day)):
            wait = None if window is None else window.would_exceed(amount, now)
            if wait is not None:
                raise BudgetError(
                    f"budget {counter} of {whose} at this keeper: at most {window.limit} in any {name}",
                    retry_after_s=None if math.isinf(wait) else wait,
                )

    def charge(self, amount: set[bytes] | int, now: float) -> None:
        self.day.charge(amount, now)
        if self.hour is not None:
            self.hour.charge(amount, now)

    def expire(self, now: float) -> int:
        """Drop what has left; return how much is left."""
        if self.hour is not None:
            self.hour.expire(now)
        self.day.expire(now)
        return len(self.day)


class Ledger:
    """All windows of one keeper: for each principal, and each collection with ceilings, an hour and a day."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._windows: dict[tuple[Owner, Counter], _Windows] = {}

    def update_policy(self, policy: Policy) -> None:
        """Go on under new limits. Charges stay, also those of a principal who is gone: back again, he has them."""
        self._policy = policy
        for (owner, counter), windows in self._windows.items():
            windows.set_limits(self._limits(owner, counter) or Budget(0, 0))

    def reserve(self, principal: str, charges: Mapping[Counter, Charge], now: float) -> None:
        """Charge everything, or nothing.

        Raises:
            BudgetError: names the counter, the window and this keeper's limit; `retry_after_s` is None where
                waiting does not help.
        """
        amounts = self._amounts(principal, charges)
        for owner, counter, amount in amounts:
            self._of(owner, counter).check(owner, counter, amount, now)
        for owner, counter, amount in amounts:
            self._of(owner, counter).charge(amount, now)

    def replay(self, principal: str, charges: Mapping[Counter, Charge], now: float) -> None:
        """Charge without checking what the keeper's log says was charged at `now`."""
        for owner, counter, amount in self._amounts(principal, charges):
            self._of(owner, counter).charge(amount, now)

    def forget(self, now: float) -> None:
        """Free the memory of all that has left its window; else that waits for the owner's next charge."""
        for key, windows in list(self._windows.items()):
            if not windows.expire(now):
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

    def _of(self, owner: Owner, counter: Counter) -> _Windows:
        windows = self._windows.get((owner, counter))
        if windows is None:
            limits = self._limits(owner, counter) or Budget(0, 0)
            windows = self._windows[owner, counter] = _Windows(counter, limits)
        return windows

    def _amounts(self, principal: str, charges: Mapping[Counter, Charge]) -> list[_Amount]:
        """Return what to charge to whom; nothing for amounts of nothing."""
        amounts: list[_Amount] = []
        for counter, parts in charges.items():
            by_collection: dict[int, Any] = {
                collection: set(part) if counter in BY_SUBJECT else part  # type: ignore[arg-type]
                for collection, part in parts.items()
                if part
            }
            if not by_collection:
                continue
            whole = set().union(*by_collection.values()) if counter in BY_SUBJECT else sum(by_collection.values())
            amounts.append((principal, counter, whole))
            for collection, part in by_collection.items():
                if self._limits(collection, counter) is not None:
                    amounts.append((collection, counter, part))
        return amounts
