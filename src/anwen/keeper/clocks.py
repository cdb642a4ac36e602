"""What time it is for a keeper: its wall clock, which can be set, its peers' clocks, and the time since boot.

A peer's clock is kept as its distance from our time since boot, so that a wall clock which is set is noticed with the
next request, before peers are asked again. While a keeper runs, budgets' windows move with the time since boot alone:
setting all clocks of a vault ahead at once frees no budget, unless keepers are then started again.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

TOLERANCE_S = 30


def since_boot() -> float:
    """Return the seconds since this machine started, those that it slept included."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # macOS' monotonic clock never sleeps
    return time.clock_gettime(clock)


class Clocks:
    """The clocks of one keeper and its peers. `last_ms`: the time of the keeper's last entry."""

    def __init__(self, wall: Callable[[], float], boot: Callable[[], float]) -> None:
        self.wall, self.boot = wall, boot
        self._peers: dict[str, float] = {}
        self._windows: float | None = None

    def hear(self, peer: str, time_s: float, asked_s: float) -> None:
        """Take a peer's answer to the question what time it is, which was asked `asked_s` after boot."""
        answered_s = self.boot()
        if answered_s - asked_s < TOLERANCE_S:  # else this machine slept meanwhile
            self._peers[peer] = time_s - (asked_s + answered_s) / 2

    def _all(self) -> list[float]:
        """Return all clocks, ours among them, as their distance from our time since boot."""
        return [self.wall() - self.boot(), *self._peers.values()]

    def _agreed(self) -> float:
        return statistics.median(self._all())

    @property
    def offset_s(self) -> float:
        """How far the median of all clocks is ahead of ours."""
        return self._agreed() + self.boot() - self.wall()

    def fault(self, last_ms: int) -> str | None:
        """Return what is wrong with our clock, None when it is right."""
        behind_s, offset_s = last_ms / 1000 - self.wall(), self.offset_s
        if behind_s > TOLERANCE_S:
            return f"{behind_s:.0f} s behind the last entry of its log"
        return f"{abs(offset_s):.0f} s from its peers'" if abs(offset_s) > TOLERANCE_S else None

    def now_ms(self, last_ms: int) -> int:
        """Return the time of an entry: never before the last one; where our clock is wrong, never far ahead of others.

        A wrong time would stay: nothing is served until the clock has passed the log's last entry. So of two clocks
        that differ the earlier one counts, and of four the second: a mean lies where no clock is.
        """
        now_s = self.wall()
        if abs(self.offset_s) > TOLERANCE_S:
            now_s = min(now_s, statistics.median_low(self._all()) + self.boot() + TOLERANCE_S)
        return max(int(now_s * 1000), last_ms)

    def window_s(self) -> float:
        """Return the time by which budgets' windows move; first asked for when there is no `fault`."""
        if self._windows is None:
            self._windows = self._agreed()
        return self.boot() + self._windows
