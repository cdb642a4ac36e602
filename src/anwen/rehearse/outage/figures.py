"""What the logs of a rehearsal's clients say: gaps, delays, errors, stale reads.

A write gives a key a number: a hot person's counter, or 1 to the identity number of a person that was put. Reads return
the number that they saw. Times are seconds of the monotonic clock that all processes of a machine share.

Pure: no I/O and no clock.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

KINDS = ("write", "read", "find")
OK = "ok"
LEAD_S = 1.0
"""How long before the fault the search for the longest gap begins."""


class Operation(NamedTuple):
    """One operation of one client, as it was logged when it ended. `outcome`: "ok", or the error's code."""

    client: int
    kind: str
    key: str
    number: int
    planned: float
    started: float
    ended: float
    outcome: str


class Moments(NamedTuple):
    """When a run began, its fault began, its return began, all zones served again, and the load stopped."""

    begin: float
    fault: float
    restore: float
    whole: float
    end: float


NEVER = Moments(0, 0, 0, 0, 0)


@dataclass
class Figures:
    """What callers saw in one run; the dicts are by kind, seconds."""

    operations: int = 0
    pace: float = 0.0  # operations started, of those planned
    errors: dict[str, int] = field(default_factory=dict)  # by code
    errors_before: int = 0  # of those, ended before the fault: the machine's fault, not ours
    in_doubt: int = 0  # failed writes: they may be there all the same
    stale: int = 0
    gap_s: dict[str, float] = field(default_factory=dict)  # to the end of the run, so the zone's return is in it
    gap_fault_s: dict[str, float] = field(default_factory=dict)  # until the return began
    gap_before_s: dict[str, float] = field(default_factory=dict)
    p99_s: dict[str, float] = field(default_factory=dict)
    p99_before_s: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """Return the figures as JSON takes them."""
        return asdict(self)

    @property
    def p99_ratio(self) -> float:
        """The worst kind's p99 during the fault against before it."""
        return max((self.p99_s[k] / self.p99_before_s[k] for k in KINDS if self.p99_before_s.get(k)), default=0.0)


def summarise(
    log: Sequence[Operation], at: Moments, known: Mapping[str, int], every_s: float, kinds: Sequence[str] = KINDS
) -> Figures:
    """Return the figures of one run.

    Args:
        known: numbers that were acknowledged before the run.
        every_s: how often each client starts one operation of each kind.
        kinds: those of the load.
    """
    found = Figures(operations=len(log), stale=len(stale_reads(log, known)))
    clients = {o.client for o in log}
    found.pace = len(log) / max(1.0, len(clients) * len(kinds) * (at.end - at.begin) / every_s)
    found.errors = dict(Counter(o.outcome for o in log if o.outcome != OK))
    found.errors_before = sum(o.outcome != OK and o.ended < at.fault for o in log)
    found.in_doubt = sum(o.kind == "write" and o.outcome != OK for o in log)
    for kind in kinds:
        mine = [o for o in log if o.kind == kind]
        each = [[o for o in mine if o.client == c] for c in clients]
        found.gap_s[kind] = max((longest_gap(e, at.fault - LEAD_S, at.end) for e in each), default=math.inf)
        found.gap_fault_s[kind] = max((longest_gap(e, at.fault - LEAD_S, at.restore) for e in each), default=math.inf)
        found.gap_before_s[kind] = max((longest_gap(e, at.begin, at.fault) for e in each), default=math.inf)
        found.p99_s[kind] = p99(mine, at.fault, at.restore)
        found.p99_before_s[kind] = p99(mine, at.begin, at.fault)
    return found


def longest_gap(log: Iterable[Operation], start: float, end: float) -> float:
    """Return the longest time between the ends of two successive successes, or from one to the window's edge."""
    ends = sorted(o.ended for o in log if o.outcome == OK and start <= o.ended <= end)
    return max(b - a for a, b in itertools.pairwise([start, *ends, end]))


def p99(log: Iterable[Operation], start: float, end: float) -> float:
    """Return the 99th percentile of the time from planned start to end, failures included; 0 without operations."""
    delays = sorted(o.ended - o.planned for o in log if start <= o.planned < end)
    return delays[math.ceil(0.99 * len(delays)) - 1] if delays else 0.0


def acknowledged(log: Iterable[Operation], known: Mapping[str, int]) -> dict[str, int]:
    """Return the highest number that was acknowledged for each key."""
    highest = dict(known)
    for o in log:
        if o.kind == "write" and o.outcome == OK:
            highest[o.key] = max(o.number, highest.get(o.key, o.number))
    return highest


def stale_reads(log: Sequence[Operation], known: Mapping[str, int]) -> list[Operation]:
    """Return the reads that saw less than what had been acknowledged, to any client, before they were started."""
    times: dict[str, list[float]] = {}
    numbers: dict[str, list[int]] = {}
    for o in sorted(log, key=lambda o: o.ended):
        if o.kind == "write" and o.outcome == OK:
            so_far = numbers.setdefault(o.key, [])
            so_far.append(max(o.number, so_far[-1] if so_far else o.number))
            times.setdefault(o.key, []).append(o.ended)
    stale = []
    for o in log:
        if o.kind != "write" and o.outcome == OK:
            before = bisect.bisect_left(times.get(o.key, []), o.started)
            expected = max(known.get(o.key, 0), numbers[o.key][before - 1] if before else 0)
            if o.number < expected:
                stale.append(o)
    return stale


def duplicates(id_numbers: Iterable[str]) -> list[str]:
    """Return the identity numbers that are in more than one live record."""
    return sorted(n for n, count in Counter(id_numbers).items() if count > 1)
