"""What a session learns of keepers and nodes: how long each takes, and which to do without for now.

It decides who is asked first and how long a request waits before another is asked; nothing of it is needed for
correctness. A recipient that failed, or stayed silent while others answered, is *suspect*: asked only when the others
do not suffice, and probed by one small request at a time until it answers.

Pure: the time is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

BYTE_S, MOST_FOR_BYTES_S = 5e-6, 1.0
"""What a request may take the longer for each byte of it, as long as nothing is known: 0.5 ms for a row to open."""

FIRST_PROBE_S, LAST_PROBE_S = 0.05, 1.0
WARM_S = 15.0
"""A recipient that was not heard for so long is probed, too: its connection is there when it is needed."""

DOWN_S = 5.0
"""A suspect that was not heard for so long is down: no second opinion waits for it."""

HEDGES, HEDGES_AT_ONCE = 0.1, 10.0
"""At most so many second requests for each answer of the same operation, and in reserve: an overload must not be
doubled by impatience. A put, which costs a node as much as many small requests, gets none for their answers."""


@dataclass(slots=True)
class Estimate:
    """How long an answer takes: smoothed mean and deviation, as RFC 6298 section 2 has them for round-trip times."""

    mean_s: float
    deviation_s: float

    @classmethod
    def of(cls, took_s: float) -> Estimate:
        """Return the estimate after one answer."""
        return cls(took_s, took_s / 2)

    def add(self, took_s: float) -> None:
        """Take one more answer in."""
        self.deviation_s += (abs(took_s - self.mean_s) - self.deviation_s) / 4
        self.mean_s += (took_s - self.mean_s) / 8

    @property
    def late_s(self) -> float:
        """After what time an answer is late."""
        return self.mean_s + 4 * self.deviation_s


@dataclass(slots=True)
class _Known:
    heard_s: float
    suspect: bool = False
    rests_until_s: float = 0.0  # it said when to come again
    probe_at_s: float = 0.0
    pause_s: float = FIRST_PROBE_S
    under_way: int = 0


@dataclass
class Health:
    """What is known of each recipient ("keeper/a", "node/a").

    Delays of small requests lie between `least_s` and `most_s`: below it hiccups of a healthy recipient, such as a sync
    of its disk, would look like faults. `zones`: where each recipient is.
    """

    least_s: float
    most_s: float
    now_s: float
    zones: Mapping[str, str] = field(default_factory=dict)
    _known: dict[str, _Known] = field(default_factory=dict)
    _estimates: dict[tuple[str, str, int], Estimate] = field(default_factory=dict)
    _hedges: dict[str, float] = field(default_factory=dict)  # left, by operation

    def _of(self, recipient: str) -> _Known:
        if recipient not in self._known:
            self._known[recipient] = _Known(self.now_s)
        return self._known[recipient]

    # --- what is asked -----------------------------------------------------------------------------------------

    def trusted(self, recipient: str, now_s: float) -> bool:
        """Return whether a recipient is neither suspect nor resting."""
        known = self._of(recipient)
        return not known.suspect and known.rests_until_s <= now_s

    def silent(self, recipient: str, now_s: float) -> bool:
        """Return whether a suspect was not heard for so long that it counts as down, and no more as late."""
        known = self._of(recipient)
        return known.suspect and now_s - known.heard_s > DOWN_S

    def trusted_first(self, recipients: Iterable[str], now_s: float) -> list[str]:
        """Return recipients in their order, but those that are not trusted last."""
        return sorted(recipients, key=lambda r: not self.trusted(r, now_s))

    def delay_s(self, recipient: str, op: str, size: int) -> float:
        """Return after what time an answer to a request of `size` bytes is late, so that another may be asked.

        Where all are far or busy, none is late for it: twice what the fastest of its kind takes is always allowed.
        """
        most, about = self._most_s(size), (op, _size_class(size))
        estimate = self._estimates.get((recipient, *about))
        if estimate is None:
            return most
        late_s = max(self.least_s, estimate.late_s)
        return late_s if late_s <= most else min(late_s, max(most, 2 * self._fastest_s(recipient, about, 0.0)))

    def _most_s(self, size: int) -> float:
        return self.most_s + min(BYTE_S * size, MOST_FOR_BYTES_S)

    def _fastest_s(self, recipient: str, about: tuple[str, int] | None, default_s: float) -> float:
        """Return what the fastest recipient of the same kind that is no suspect takes, for one thing or for any."""
        kind, _, _ = recipient.partition("/")
        found = [
            estimate.mean_s
            for (other, op, size), estimate in self._estimates.items()
            if other.startswith(kind) and not self._of(other).suspect and about in (None, (op, size))
        ]
        return min(found, default=default_s)

    def may_hedge(self, op: str) -> bool:
        """Return whether a second request may be sent for a late first one, and count it."""
        if (left := self._hedges.get(op, HEDGES_AT_ONCE)) < 1:
            return False
        self._hedges[op] = left - 1
        return True

    def to_probe(self, recipients: Sequence[str], now_s: float) -> list[str]:
        """Return the recipients that are to be probed now: those of which nothing is under way that would show it."""
        due = [r for r in recipients if self._is_due(self._of(r), now_s)]
        for recipient in due:
            known = self._known[recipient]
            known.probe_at_s = now_s + known.pause_s
        return due

    @staticmethod
    def _is_due(known: _Known, now_s: float) -> bool:
        if known.under_way or now_s < max(known.probe_at_s, known.rests_until_s):
            return False
        return known.suspect or now_s - known.heard_s > WARM_S

    # --- what came of it ---------------------------------------------------------------------------------------

    def sent(self, recipient: str) -> None:
        """Note that a request is under way, until `ended`."""
        self._of(recipient).under_way += 1

    def ended(self, recipient: str) -> None:
        """Note that a request is under way no more."""
        self._of(recipient).under_way -= 1

    def answered(self, recipient: str, op: str, size: int, *, sent_s: float, now_s: float) -> None:
        """Note an answer. A suspect that is slow to answer stays one, unless all are."""
        known, key = self._of(recipient), (recipient, op, _size_class(size))
        usual_s = 2 * self._fastest_s(recipient, None, math.inf) if known.suspect else math.inf
        late = now_s - sent_s > max(self._most_s(size), usual_s)
        if key in self._estimates:
            self._estimates[key].add(now_s - sent_s)
        else:
            self._estimates[key] = Estimate.of(now_s - sent_s)
        known.heard_s = now_s
        self._hedges[op] = min(self._hedges.get(op, HEDGES_AT_ONCE) + HEDGES, HEDGES_AT_ONCE)
        if late:
            self.failed(recipient, now_s)
        else:
            known.suspect, known.pause_s = False, FIRST_PROBE_S

    def refused(self, recipient: str, retry_after_s: float, now_s: float) -> None:
        """Note that a recipient has too much to do and said when to come again."""
        known = self._of(recipient)
        known.heard_s, known.rests_until_s = now_s, now_s + retry_after_s

    def failed(self, recipient: str, now_s: float) -> None:
        """Note that a recipient cannot be reached or cannot serve."""
        known = self._of(recipient)
        known.suspect, known.probe_at_s = True, now_s + known.pause_s
        known.pause_s = min(2 * known.pause_s, LAST_PROBE_S)

    def given_up(self, recipient: str, *, sent_s: float, now_s: float) -> None:
        """Note that others answered in place of a late recipient: suspect, unless it answered anybody meanwhile.

        With it what else is in its zone and said nothing since: of a zone that is cut off one silence is enough.
        """
        if self._of(recipient).heard_s >= sent_s:
            return
        for other in [r for r, zone in self.zones.items() if zone == self.zones.get(recipient)] or [recipient]:
            known = self._of(other)
            if known.heard_s < sent_s and not known.suspect:
                self.failed(other, now_s)


def _size_class(size: int) -> int:
    """Return the same number for requests that take about as long: up to four times the size."""
    return size.bit_length() // 2
