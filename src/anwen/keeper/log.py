"""A keeper's log: append-only day files, one group-committed fsync before anything is answered.

``log/<first index>-<YYYY-MM-DD>.log`` holds a seed of 8 random bytes and its own CRC, then frames
``"ANWE" | entry u4 | side u4 | write u8 | crc u4 | entry | side``. Their checksums begin with the seed: callers choose
bytes of side data, and who does not know it makes no frame of them. `write` is where the write began that the frame was
part of: each write is synced before the next one begins, so a bad frame is the torn end of the last write, never
answered and cut off, or else damage, and the keeper does not start. `log/lasting` lists the entries that hold for good
(denials, ceremonies, policies), 8 bytes each; every entry says how many of them there are (docs/spec/keeper_log.md).
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import datetime as dt
import errno
import itertools
import json
import logging
import os
import struct
import time
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from anwen.crypto import merkle
from anwen.errors import StorageError
from anwen.keeper.folder import PRIVATE, Disk
from anwen.keeper.leaves import Leaves

_log = logging.getLogger("anwen.keeper")
_MAGIC = b"ANWE"
_HEAD = struct.Struct(">4sIIQI")
_SEED = struct.Struct(">8sI")
_MAX_PART_BYTES = 2**26
_SETTLE_LEAVES = 1024
_SHORT_S = 0.001
"""While the last write took less, the next is made on the event loop: handing it to a thread and back costs as much,
and what comes meanwhile would wait for it all the same. On a slower disk a thread writes."""

LASTING = frozenset({"delete", "restrict", "erase", "lift", "ceremony", "policy"})


@dataclass(frozen=True, slots=True, repr=False)
class Frame:
    """One entry as it lies in its file."""

    index: int
    day: str  # YYYY-MM-DD, UTC
    offset: int
    write: int
    entry: bytes
    side: bytes


@dataclass(frozen=True, slots=True, repr=False)
class _Waiting:
    day: str
    entry: bytes
    side: bytes
    lasting: bool


class _BadFrameError(Exception):
    def __init__(self, index: int, offset: int) -> None:
        super().__init__(index, offset)
        self.index, self.offset = index, offset


def _seed(random: bytes) -> bytes:
    return _SEED.pack(random, zlib.crc32(random))


def _frame(seed: bytes, write: int, entry: bytes, side: bytes) -> bytes:
    crc = zlib.crc32(seed + _HEAD.pack(_MAGIC, len(entry), len(side), write, 0))
    crc = zlib.crc32(side, zlib.crc32(entry, crc))
    return _HEAD.pack(_MAGIC, len(entry), len(side), write, crc) + entry + side


def _frames(path: Path, offset: int = 0, index: int | None = None) -> Iterator[Frame]:
    """Yield the frames of a day file from `offset` on. Raises _BadFrameError at the first bad one."""
    number, day = _first(path) if index is None else index, path.stem[13:]
    with _reading(path) as file:
        size, seed = os.fstat(file.fileno()).st_size, file.read(_SEED.size)
        if offset and offset >= size:  # as a damaged file of leaves may say
            raise _BadFrameError(number, offset)
        offset = file.seek(max(offset, _SEED.size))
        if size > offset and seed != _seed(seed[:8]):
            raise StorageError(f"log: {path.name} is damaged at byte 0")  # it was synced before the first frame came
        while head := file.read(_HEAD.size):
            try:
                magic, entry_bytes, side_bytes, write, _ = _HEAD.unpack(head)
            except struct.error:
                raise _BadFrameError(number, offset) from None
            if magic != _MAGIC or max(entry_bytes, side_bytes) > _MAX_PART_BYTES:
                raise _BadFrameError(number, offset)
            entry, side = file.read(entry_bytes), file.read(side_bytes)
            if head + entry + side != _frame(seed, write, entry, side):
                raise _BadFrameError(number, offset)
            yield Frame(number, day, offset, write, entry, side)
            offset += len(head) + entry_bytes + side_bytes
            number += 1


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise StorageError(f"log: {path.name} cannot be read ({type(error).__name__})") from error


def _first(path: Path) -> int:
    return int(path.stem[:12])


def entry_members(entry: bytes) -> dict[str, Any]:
    """Return an entry's members. Raises StorageError when it is not an entry."""
    try:
        members = json.loads(entry)
    except (ValueError, RecursionError):
        members = None
    if not isinstance(members, dict) or not isinstance(members.get("op"), str):
        raise StorageError("log: an entry does not follow the format")
    return members


class Log:
    """The log of one keeper. All methods but the writer's run on the event loop."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._disk = folder, disk
        self.leaves = Leaves(folder / "leaves", disk)
        self.failed = False
        self.next = 0  # index of the next entry
        self.lasting: list[int] = []
        self._files = sorted(folder.glob("[0-9]*-*.log"))
        self._fd, self._end, self._seed = -1, 0, b""
        self._write_s = _SHORT_S  # how long the last write took
        self._pending: list[_Waiting] = []
        self._waiters: collections.deque[tuple[int, asyncio.Future[None]]] = collections.deque()
        self._flusher: asyncio.Task[None] | None = None
        self._writer = ThreadPoolExecutor(1, "log")

    @property
    def size(self) -> int:
        """Entries that are durable."""
        return self.leaves.size

    @property
    def _last_day(self) -> str:
        return self._files[-1].stem[13:] if self._files else ""

    # --- on start --------------------------------------------------------------------------------------------------

    def recover(self, days: int, visit: Callable[[Frame], None]) -> None:
        """Check the end of the log, cut a torn tail, and visit the frames of its last days, and the lasting ones.

        Args:
            days: up to that of the last entry, whatever a clock says.

        Raises:
            StorageError: a frame, leaf or list does not fit the others, with the place.
        """
        self._read_lasting()
        first_missing = bisect_right(self._files, self.leaves.size, key=_first) - 1
        last = dt.date.fromisoformat(self._last_day or "1970-01-01")
        since_day = (last - dt.timedelta(days - 1)).isoformat()
        start = next((i for i, f in enumerate(self._files) if f.stem[13:] >= since_day), 0)
        start = max(0, min(start, first_missing))
        begin = _first(self._files[start]) if self._files else 0
        if begin > self.leaves.size or (self._files and _first(self._files[0]) != 0):
            raise StorageError(f"log: day files before entry {begin} are missing")
        for index in [i for i in self.lasting if i < begin]:
            visit(next(self.frames(index)))
        self._replay(start, begin, visit)

    def _read_lasting(self) -> None:
        path = self.folder / "lasting"
        data = path.read_bytes() if path.exists() else b""
        self.lasting = [int.from_bytes(data[i : i + 8]) for i in range(0, len(data) // 8 * 8, 8)]
        self._lasting_fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE)
        os.ftruncate(self._lasting_fd, len(self.lasting) * 8)

    def _replay(self, start: int, begin: int, visit: Callable[[Frame], None]) -> None:
        listed = set(self.lasting)
        fresh: list[tuple[bytes, int]] = []
        self.next = begin
        for path in self._files[start:]:
            if _first(path) != self.next:
                raise StorageError(f"log: {path.name} does not follow entry {self.next - 1}")
            try:
                for frame in _frames(path):
                    fresh.append((merkle.leaf_hash(frame.entry), frame.offset))
                    self.next = frame.index + 1
                    if entry_members(frame.entry)["op"] in LASTING and frame.index not in listed:
                        # a crash between the log's sync and the list's: the entry holds, the list follows
                        self.lasting.append(frame.index)
                        self._disk.write(self._lasting_fd, frame.index.to_bytes(8))
                    visit(frame)
                    if len(fresh) == _SETTLE_LEAVES:
                        fresh = self._settle(fresh)
            except _BadFrameError as bad:
                self._cut_tail(path, bad)
        self._settle(fresh)
        if any(index >= self.next for index in self.lasting):
            raise StorageError(f"log: {self.next} entries, but log/lasting lists entry {max(self.lasting)}")
        self.leaves.cut(self.next)
        self._disk.sync(self._lasting_fd)
        self._open_last()

    def _settle(self, fresh: list[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
        """Make the file's leaves those of the last replayed entries; return an empty list.

        They are not synced: a power cut leaves zeros, or nothing. Entries that were changed, and leaves with them, show
        in the root, which peers know.
        """
        begin = self.next - len(fresh)
        known = self.leaves.records(begin, min(self.leaves.size, self.next))
        if fresh[: len(known)] != known:
            _log.warning("log/leaves differs from the entries from %d on, and is made anew", begin)
            self.leaves.cut(begin)
            known = []
        self.leaves.write(fresh[len(known) :])
        self.leaves.size += len(fresh) - len(known)
        return []

    def _cut_tail(self, path: Path, bad: _BadFrameError) -> None:
        """Cut off the torn end of the last write: it was never synced, so nothing of it was answered."""
        data = path.read_bytes()[bad.offset + 1 :]
        at = data.find(_MAGIC)
        while at >= 0 and path == self._files[-1]:
            try:
                frame = next(_frames(path, bad.offset + 1 + at))
                if frame.write > bad.offset:
                    break  # a later write: this one had been synced
            except (_BadFrameError, StopIteration):
                pass
            at = data.find(_MAGIC, at + 1)
        if at >= 0 or path != self._files[-1]:
            raise StorageError(f"log: {path.name} is damaged at byte {bad.offset}, entry {bad.index}")
        os.truncate(path, bad.offset)

    def _open_last(self) -> None:
        if not self._files:
            return
        last = self._files[-1]
        if last.stat().st_size <= _SEED.size:  # its first write was torn off, or never came
            last.unlink()
            self._files.pop()
            return
        self._fd = os.open(last, os.O_WRONLY | os.O_APPEND)
        self._end = last.stat().st_size
        with _reading(last) as file:
            self._seed = file.read(_SEED.size)
        self._disk.sync(self._fd)  # frames that a crash left unsynced are part of the log now

    # --- appending -------------------------------------------------------------------------------------------------

    def append(self, day: str, entry: bytes, side: bytes, *, lasting: bool = False) -> int:
        """Return the index of a new entry. It is durable once `commit` of that index returns."""
        if self.failed:
            raise StorageError("the log cannot be written; nothing is answered any more")
        index, self.next = self.next, self.next + 1
        self._pending.append(_Waiting(day, entry, side, lasting))
        if self._flusher is None:
            self._flusher = asyncio.get_running_loop().create_task(self._flush())
        return index

    async def commit(self, index: int) -> None:
        """Wait until entry `index` is durable. Raises StorageError when it can no longer be."""
        if index < self.size:
            return
        if self.failed:
            raise StorageError("the log cannot be written; nothing is answered any more")
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((index, waiter))
        await waiter

    async def _flush(self) -> None:
        """Write and sync what has gathered, until nothing is left: what comes during one sync shares the next."""
        loop, written = asyncio.get_running_loop(), False
        try:
            while self._pending:
                batch, self._pending = self._pending, []
                if self._write_s < _SHORT_S:
                    leaves = self._write(batch, self.size)
                else:
                    leaves = await loop.run_in_executor(self._writer, self._write, batch, self.size)
                self.leaves.add(leaves)
                while self._waiters and self._waiters[0][0] < self.size:
                    _, waiter = self._waiters.popleft()
                    if not waiter.done():
                        waiter.set_result(None)
            written = True
        except OSError as error:
            _log.critical("the log cannot be written: %s", type(error).__name__)
        finally:
            self._flusher = None
            if not written:
                self._fail()

    def _fail(self) -> None:
        """Stop for good: what is on the disk is unknown, so only a restart can say."""
        self.failed = True
        while self._waiters:
            _, waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(StorageError("the log cannot be written; nothing is answered any more"))

    def _write(self, batch: list[_Waiting], index: int) -> list[tuple[bytes, int]]:
        """Make entries durable, in the writer's thread; return their leaves."""
        begun = time.perf_counter()
        leaves: list[tuple[bytes, int]] = []
        lasting = b""
        at = 0
        while at < len(batch):
            day = batch[at].day
            if self._last_day != day:
                self._begin_file(day, index + at)
            frames = []
            start = end = self._end
            while at < len(batch) and batch[at].day == day:
                waiting = batch[at]
                frames.append(_frame(self._seed, start, waiting.entry, waiting.side))
                leaves.append((merkle.leaf_hash(waiting.entry), end))
                lasting += (index + at).to_bytes(8) if waiting.lasting else b""
                end += len(frames[-1])
                at += 1
            if not os.fstat(self._fd).st_nlink:
                raise OSError(errno.ENOENT, "the day's file was removed")
            self._disk.write(self._fd, b"".join(frames))
            # A crash before the next line leaves a torn end, cut off on start; nothing of it was answered.
            self._disk.sync(self._fd)
            # A crash from here on leaves entries whose requests were charged and perhaps not answered.
            self._end = end
        if lasting:
            self._disk.write(self._lasting_fd, lasting)
            self._disk.sync(self._lasting_fd)  # a crash before: found again while replaying the last day
        self.leaves.write(leaves)
        self._write_s = time.perf_counter() - begun
        return leaves

    def _begin_file(self, day: str, index: int) -> None:
        path = self.folder / f"{index:012}-{day}.log"
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, PRIVATE)
        self._seed, self._end = _seed(os.urandom(8)), _SEED.size
        self._disk.write(self._fd, self._seed)
        self._disk.sync(self._fd)
        self._disk.sync_folder(self.folder)  # a crash until the first frame: a file without any, removed on start
        self._files = [*self._files, path]

    # --- reading ---------------------------------------------------------------------------------------------------

    def read(self, start: int, count: int) -> list[bytes]:
        """Return at most `count` durable entries from `start` on, without their side data. May run in any thread.

        Raises StorageError when one is damaged.
        """
        files, end = self._files, min(start + count, self.size)
        places = enumerate(self.leaves.records(start, end) if start < end else (), start)
        found = []
        for path, group in itertools.groupby(
            places, lambda place: files[bisect_right(files, place[0], key=_first) - 1]
        ):
            with _reading(path) as file:
                for index, (leaf, offset) in group:
                    file.seek(offset)
                    length = int.from_bytes(file.read(_HEAD.size)[4:8])
                    entry = file.read(min(length, _MAX_PART_BYTES))
                    if merkle.leaf_hash(entry) != leaf:
                        raise StorageError(f"log: {path.name} is damaged at byte {offset}, entry {index}")
                    found.append(entry)
        return found

    def frames(self, start: int, since_day: str = "") -> Iterator[Frame]:
        """Yield the durable frames from `start` on, skipping the files of days before `since_day`.

        May run in any thread. Raises StorageError when one is damaged.
        """
        size, files = self.size, self._files
        at = bisect_right(files, start, key=_first) - 1
        for path in files[max(at, 0) :]:
            index = max(start, _first(path))
            if index >= size:
                return
            if path.stem[13:] < since_day:
                continue
            try:
                for frame in _frames(path, self.leaves.records(index, index + 1)[0][1], index):
                    if frame.index >= size:
                        return
                    yield frame
            except _BadFrameError as bad:
                if bad.index < size:
                    raise StorageError(f"log: {path.name} is damaged at byte {bad.offset}") from None
                return

    async def close(self) -> None:
        """Write what has gathered and close the files."""
        while self._flusher is not None:
            await asyncio.wait([self._flusher])
        self._writer.shutdown()
        for fd in {self._fd, self._lasting_fd} - {-1}:
            os.close(fd)
        self.leaves.close()
