"""The demo's folder: made anew each time, whatever an earlier run left, and nobody else's folder ever removed."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from anwen import supervisor
from anwen.errors import ConflictError
from anwen.vault_folder import VaultFolder

MARK = ".anwen-demo"
PATIENCE_S = 10.0


@contextlib.contextmanager
def demo_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that is the demo's own, for as long as the context lasts.

    What an earlier demo left is removed first, once the processes of a run that was killed have ended. The mark stays,
    so that an interruption here leaves what the next run takes up again.

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
        if (path / "vault" / "root.json").exists():
            asyncio.run(supervisor.lock(VaultFolder(path / "vault"))).close()
        for item in path.iterdir():
            if item.name != MARK:
                _remove(item)
        yield path


def _remove(item: Path) -> None:
    """Remove a file or folder; importing processes of a killed run may write into one a moment longer."""
    until = time.monotonic() + PATIENCE_S
    while item.exists():
        try:
            shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
