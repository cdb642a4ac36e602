"""A file system that can lose power: what was not synced is gone, what was is there when it is back.

ext4 on a loop device, and its own call for this (EXT4_IOC_SHUTDOWN without flushing its log), which the kernel's file
system tests use: from then on nothing reaches the device, also not by a later close or unmount.
"""

import contextlib
import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest

_SHUTDOWN, _WITHOUT_FLUSHING = 0x8004587D, struct.pack("I", 2)
_DETACH = 2


class Disk:
    """A disk in a folder; `path` is where its files are."""

    def __init__(self, folder, megabytes):
        self._image, self.path = folder / "disk.img", folder / "disk"
        self.path.mkdir()
        with self._image.open("wb") as image:
            image.truncate(megabytes << 20)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", str(self._image))
        self.back()

    def back(self):
        """Power is there again: the file system's own log is replayed."""
        _run("mount", "-o", "loop", str(self._image), str(self.path))
        self.path.chmod(0o711)

    def sync(self):
        """What was installed long ago is on the disk."""
        with self._open() as fd:
            if ctypes.CDLL(None, use_errno=True).syncfs(fd):
                raise OSError(ctypes.get_errno(), "syncfs")

    def cut(self):
        """No power, at once. Processes that use the disk see errors; they have to be ended before `gone`."""
        with self._open() as fd:
            fcntl.ioctl(fd, _SHUTDOWN, _WITHOUT_FLUSHING)

    def gone(self):
        """Nobody uses it any more, and nothing of it is cached."""
        _run("umount", str(self.path))

    def remove(self):
        """Take it away, whatever state it is in."""
        ctypes.CDLL(None).umount2(str(self.path).encode(), _DETACH)
        self._image.unlink()

    @contextlib.contextmanager
    def _open(self):
        fd = os.open(self.path, os.O_RDONLY)
        try:
            yield fd
        finally:
            os.close(fd)


def _run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise OSError(f"{command[0]}: {done.stderr.strip()}")


@pytest.fixture
def disk():
    """One of 1.5 GB, sparse. Skips where none can be made: it takes root and loop devices."""
    if os.geteuid() or not shutil.which("mkfs.ext4") or not Path("/dev/loop-control").exists():
        pytest.skip("a disk that loses power takes root, mkfs.ext4 and loop devices")
    with tempfile.TemporaryDirectory(prefix="anwen-power-") as name:
        Path(name).chmod(0o711)
        try:
            made = Disk(Path(name), 1536)
        except OSError as error:
            pytest.skip(f"a disk of its own cannot be made here: {error}")
        try:
            try:
                made.cut()
            except OSError as error:
                pytest.skip(f"this kernel's disks cannot lose power: {error}")
            made.gone()
            made.back()
            yield made
        finally:
            made.remove()
