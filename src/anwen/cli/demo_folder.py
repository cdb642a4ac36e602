"""The demo's folder: made anew each time, whatever an earlier run left, and nobody else's folder ever removed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from anwen.errors import ConflictError

MARK = ".anwen-demo"
PATIENCE_S = 10.0


@contextlib.contextmanager
def demo_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that is the demo's own, for as long as the context lasts.

    An earlier demo's leftovers are stopped and removed first: processes of a run that was killed, then its files, the
    mark last, so that an interruption here leaves what the next run takes up again.

    Raises: ConflictError: the folder is somebody else's, or another demo uses it now.
    """
    path = path.resolve()
    if path.exists() and any(path.iterdir()) and not (path / MARK).exists():
        raise ConflictError(f"{path.name}: exists and is no demo's; remove it or name another folder")
    path.mkdir(parents=True, mode=0o700, exist_ok=True)
    with (path / MARK).open("ab") as mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConflictError(f"{path.name}: another demo is running here") from error
        stop_leftovers(path)
        for item in path.iterdir():
            if item.name != MARK:
                shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()
        yield path


def leftovers(path: Path) -> list[int]:
    """Return the ids of keepers and nodes whose folder is below `path`: what a killed run could not stop."""
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


def stop_leftovers(path: Path) -> None:
    """End what a killed run left running: kindly, then surely."""
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
            return
