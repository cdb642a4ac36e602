"""Code that runs in a vault's process before anything else of it: how a rehearsal harms a keeper or node from outside.

No keeper or node has a switch for it. Python runs `sitecustomize` from a folder on its path; whoever controls a machine
can do the same to any process on it.
"""

from __future__ import annotations

import os
from pathlib import Path

CLOCK = """
import time
true, seen = time.time, [0.0, 0.0]

def ahead():
    now = time.monotonic()
    if now - seen[0] >= {reread_s}:
        with open({file!r}) as file:
            seen[:] = now, float(file.read() or 0)
    return seen[1]

time.time = lambda: true() + ahead()
"""
"""Another wall clock, so many seconds ahead as a file says; monotonic time and time since boot stay true."""

PASSES = """
true_gettime = time.clock_gettime
time.clock_gettime = lambda clock: true_gettime(clock) + ahead() * (clock == time.CLOCK_BOOTTIME)
"""
"""Added to it, time has passed for the whole machine, as if it had slept; without, somebody has set its clock."""


def clock(file: Path, reread_s: float = 0.1, *, passes: bool = False) -> str:
    """Return code that puts a process on the clock that `file` sets, made here if it is not there.

    Args:
        passes: the time since boot goes with it.
    """
    if not file.exists():
        file.write_text("+0")
    return CLOCK.format(file=str(file), reread_s=reread_s) + PASSES * passes


def set_clock(file: Path, ahead_s: float) -> None:
    """Set the clock that `file` is: whoever reads it meanwhile reads the old time or the new one."""
    fresh = file.with_suffix(".new")
    fresh.write_text(f"{ahead_s!r}")
    fresh.replace(file)


def prefix(folder: Path, code: str) -> list[str]:
    """Return the command that starts a process of Python with `code` in it; `folder` is made for it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(code)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return ["env", f"PYTHONPATH={path}"]
