"""Keepers and nodes that outlived whoever started them: a killed `anwen up` cannot stop its processes.

Found by their command line in `/proc`; where there is none, nothing is found and the ports they hold say it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

PATIENCE_S = 10.0


def leftovers(path: Path) -> list[int]:
    """Return the ids of keepers and nodes whose folder is below `path`, an absolute one."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # gone, or not ours
        ours = {b"anwen.keeper.app", b"anwen.node.app"} & set(arguments)
        if ours and any(a.startswith(os.fsencode(path) + b"/") for a in arguments):
            found.append(int(entry.name))
    return found


def stop_leftovers(path: Path) -> int:
    """End keepers and nodes below `path`, kindly, then surely; return how many there were.

    The caller holds, or has just held, what keeps others from running them.
    """
    before = len(leftovers(path))
    for number in (signal.SIGTERM, signal.SIGKILL):
        left = leftovers(path)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        until = time.monotonic() + PATIENCE_S
        while left and time.monotonic() < until:
            time.sleep(0.05)
            left = leftovers(path)
        if not left:
            break
    return before
