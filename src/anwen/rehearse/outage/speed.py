"""How fast this machine's processors are, second by second: what a run's errors may have to be put down to.

A rented processor is often one thread of a core. What the other thread's tenant does can halve its speed for seconds,
and no account of the kernel shows it, not even stolen time: the same work needs more processor time. So that is what is
measured, with a fixed piece of work on each processor in turn. Its own time counts, not that spent waiting.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Iterable
from typing import NamedTuple, Self

EVERY_S = 0.1
STEPS = 5_000
"""Of the work: a millisecond or two, a hundredth of a processor."""


class Sample(NamedTuple):
    """Steps that a processor did in a second of its time."""

    at: float
    rate: float


class Speed:
    """Samples from when it is entered until it is left."""

    def __init__(self) -> None:
        self._samples: list[Sample] = []
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()

    def _measure(self) -> None:
        processors = itertools.cycle(sorted(os.sched_getaffinity(0)))
        while not self._left.wait(EVERY_S):
            with contextlib.suppress(OSError):  # taken from us meanwhile
                os.sched_setaffinity(0, {next(processors)})  # this thread alone
            begun = time.thread_time()
            for _ in range(STEPS):
                pass
            self._samples.append(Sample(time.monotonic(), STEPS / (time.thread_time() - begun)))

    def slowest(self, start: float, end: float) -> float:
        """Return the speed in the slowest second of a span, as a share of this machine's best so far; 0: none seen."""
        return slowest(self._samples, start, end)


def slowest(samples: Iterable[Sample], start: float, end: float) -> float:
    """Return the mean rate in the slowest second of a span, as a share of that in the best second of all."""
    seconds: dict[int, list[float]] = {}
    for at, rate in list(samples):
        seconds.setdefault(int(at), []).append(rate)
    means = {second: sum(rates) / len(rates) for second, rates in seconds.items()}
    found = [mean for second, mean in means.items() if start <= second < end]
    return min(found) / max(means.values()) if found else 0.0
