"""The demo's folder: made anew each time, whatever an earlier run left, and nobody else's folder ever removed."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

from anwen.cli.leftovers import stop_leftovers
from anwen.errors import ConflictError

MARK = ".anwen-demo"


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
