"""A backup on disk: a folder `bulk` and a folder `wraps`, each with a manifest (docs/spec/backup.md).

Wraps die with their epoch and bulk does not, so whoever keeps one part for years keeps the other for weeks. Nothing of
it is plaintext, and no keeper's share is in it: without two keepers it opens nobody.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import os
import re
import secrets
import shutil
import struct
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

from anwen.errors import ConflictError, IntegrityError, MalformedError, NotFoundError, StorageError
from anwen.model import Policy
from anwen.store import copying
from anwen.store.copying import BULK, Batch, Copying, Row, columns

FORMAT = 1
PARTS = ("bulk", "wraps")
MANIFEST = "manifest.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_COMMON = ("format", "backup", "vault", "made", "policy", "engine")


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup whose manifests agree; `check` says whether its files are those that they name."""

    about: Mapping[str, Any]  # format, backup (a random id), vault, made, policy, engine
    folders: Mapping[str, Path]  # by part
    files: Mapping[str, Mapping[str, Mapping[str, Any]]]  # by part and name: sha256, bytes, rows (0: no table)
    digests: Mapping[str, str]  # SHA-256 of each part's manifest: kept elsewhere, they tell a changed backup

    def rows(self) -> dict[str, int]:
        """Return how many rows each table has, those of wraps last."""
        return {n: about["rows"] for part in PARTS for n, about in self.files[part].items() if about["rows"]}

    def table(self, name: str) -> Iterator[list[Row]]:
        """Yield a table's rows, many at a time; none of a table without any. Raises MalformedError, StorageError."""
        path = self.folders["bulk" if name in BULK else "wraps"] / name
        kinds, left = columns(name), self.rows().get(name, 0)
        if not left:
            return
        try:
            with path.open("rb") as file:
                while left:
                    rows = _decode(file, kinds)
                    left -= len(rows)
                    if not rows or left < 0:
                        raise MalformedError(f"backup: {name} has other rows than its manifest says")
                    yield rows
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror}") from error

    def batches(self) -> Iterator[Batch]:
        """Yield all tables' rows."""
        return ((name, rows) for name in self.rows() for rows in self.table(name))


def _encode(kinds: str, rows: Sequence[Row]) -> bytes:
    """Return rows as a batch: their number, and each column as one array."""
    count = len(rows)
    parts = [struct.pack(">I", count)]
    for kind, column in zip(kinds, zip(*rows, strict=True), strict=True):
        if kind == "i":
            parts.append(struct.pack(f">{count}q", *column))
        else:
            parts += [struct.pack(f">{count}I", *map(len, column)), *column]
    return b"".join(parts)


def _decode(file: IO[bytes], kinds: str) -> list[Row]:
    (count,) = struct.unpack(">I", _exactly(file, 4))
    found: list[Sequence[int | bytes]] = []
    for kind in kinds:
        if kind == "i":
            numbers = struct.unpack(f">{count}q", _exactly(file, 8 * count))
            if min(numbers, default=0) < 0:
                raise MalformedError("backup: a table holds a number below 0")
            found.append(numbers)
        else:
            sizes = struct.unpack(f">{count}I", _exactly(file, 4 * count))
            data, ends = _exactly(file, sum(sizes)), accumulate(sizes)
            found.append([data[end - size : end] for size, end in zip(sizes, ends, strict=True)])
    return list(zip(*found, strict=True))


def _exactly(file: IO[bytes], size: int) -> bytes:
    # what a table says of its size is not believed: reading makes room for all of it first
    data = file.read(size) if size <= os.fstat(file.fileno()).st_size else b""
    if len(data) != size:
        raise MalformedError("backup: a table is cut")
    return data


# --- making one ------------------------------------------------------------------------------------------------------


async def back_up(store: Copying, policy: Policy, files: Mapping[str, bytes], target: Path) -> Backup:
    """Write a backup to a folder that is not there yet; it appears whole or not at all.

    Args:
        files: what is kept beside the tables: the signed policies and `root.json`.

    Raises: ConflictError: `target` is there. StorageError: it cannot be written, or the store cannot be read.
    """
    made = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    about = {"format": FORMAT, "backup": secrets.token_hex(16), "vault": policy.vault.hex(), "made": made}
    with _appearing(target) as partial:
        await _write(store, files, about | {"policy": policy.version, "engine": policy.engine}, partial)
    return read(target)


@contextlib.contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """Give the block a folder to fill, which becomes `target` at its end, or goes if it fails."""
    if target.exists():
        raise ConflictError(f"{target}: exists; each backup is a folder of its own")
    partial = target.with_name(target.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of one that was killed
        for part in PARTS:
            (partial / part).mkdir(parents=True, mode=0o700)
        yield partial
        # commit point: a crash before it leaves `.partial`, which the next backup to this place removes
        partial.rename(target)
        _sync(target.absolute().parent)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise StorageError(f"{target}: {error.strerror}") from error
        raise


async def _write(store: Copying, files: Mapping[str, bytes], about: Mapping[str, Any], folder: Path) -> None:
    with contextlib.ExitStack() as still_open:
        written = {folder / "bulk" / name: _File(folder / "bulk" / name, still_open) for name in files}
        for path, file in written.items():
            file.add(files[path.name])
        async for name, rows in store.dump():
            path = folder / ("bulk" if name in BULK else "wraps") / name
            if path not in written:
                written[path] = _File(path, still_open)
            written[path].add(_encode(columns(name), rows), len(rows))
        known = {path: file.finish() for path, file in written.items()}
        for part in PARTS:
            of_part = {path.name: said for path, said in known.items() if path.parent.name == part}
            manifest = _File(folder / part / MANIFEST, still_open)
            manifest.add(json.dumps({**about, "part": part, "files": of_part}, indent=1).encode())
            manifest.finish()
            _sync(folder / part)
    _sync(folder)


class _File:
    """A file that is being written, and what a manifest says of it."""

    def __init__(self, path: Path, still_open: contextlib.ExitStack) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file = still_open.enter_context(os.fdopen(fd, "wb"))
        self._hash, self._bytes, self._rows = hashlib.sha256(), 0, 0

    def add(self, data: bytes, rows: int = 0) -> None:
        """Append."""
        self._file.write(data)
        self._hash.update(data)
        self._bytes += len(data)
        self._rows += rows

    def finish(self) -> dict[str, Any]:
        """Make it durable; return its hash, size and rows."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return {"sha256": self._hash.hexdigest(), "bytes": self._bytes, "rows": self._rows}


def _sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# --- reading one -----------------------------------------------------------------------------------------------------


def read(source: Path, wraps: Path | None = None) -> Backup:
    """Return a backup, its files unchecked.

    Args:
        wraps: where the wraps are, if they were moved away from beside `bulk`.

    Raises: NotFoundError, MalformedError. IntegrityError: bulk and wraps are not of one moment.
    """
    folders = {"bulk": source / "bulk", "wraps": wraps or source / "wraps"}
    raw = {part: _manifest(folder) for part, folder in folders.items()}
    found = {part: _parse(text, folders[part]) for part, text in raw.items()}
    for part, manifest in found.items():
        if manifest["part"] != part:
            raise MalformedError(f"{folders[part]}: holds {manifest['part']}, expected {part}")
    about = {name: found["bulk"][name] for name in _COMMON}
    if about != {name: found["wraps"][name] for name in _COMMON}:
        raise IntegrityError(f"{folders['wraps']}: wraps of another backup than {source}")
    digests = {part: hashlib.sha256(text).hexdigest() for part, text in raw.items()}
    return Backup(about, folders, {part: m["files"] for part, m in found.items()}, digests)


def _manifest(folder: Path) -> bytes:
    try:
        return (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise NotFoundError(f"{folder}: no {MANIFEST} ({error.strerror})") from error


def _parse(text: bytes, folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(text)
        fits = manifest["format"] == FORMAT and all(_is_entry(*item) for item in manifest["files"].items())
        found = {name: manifest[name] for name in (*_COMMON, "part", "files")}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        fits, found = False, {}
    if not fits:
        raise MalformedError(f"{folder / MANIFEST}: expected the manifest of a backup of format {FORMAT}")
    return found


def _is_entry(name: str, about: Mapping[str, Any]) -> bool:
    """Return whether a manifest's entry is in form: a name that leads nowhere else, and a table's if it has rows."""
    if about["rows"]:
        columns(name)
    counts = [about["bytes"], about["rows"]]
    return bool(_NAME.fullmatch(name)) and isinstance(about["sha256"], str) and all(type(c) is int for c in counts)


def check(backup: Backup) -> None:
    """Raise IntegrityError unless every file is byte for byte the one that its manifest names."""
    for part, files in backup.files.items():
        for name, about in files.items():
            path = backup.folders[part] / name
            try:
                with path.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise IntegrityError(f"{path}: {error.strerror}") from error
            if found != about["sha256"]:
                raise IntegrityError(f"{path}: SHA-256 {found[:16]}…, its manifest says {about['sha256'][:16]}…")


async def restore(backup: Backup, store: Copying, vault: bytes) -> None:
    """Load a backup into an empty store, all or nothing; run again after a crash.

    Raises: IntegrityError: a file is not what its manifest says. ConflictError: the store is not empty, or the backup
        is another vault's. StorageError.
    """
    if backup.about["vault"] != vault.hex():
        raise ConflictError(f"a backup of vault {backup.about['vault']}, and this is vault {vault.hex()}")
    check(backup)
    await store.load(backup.batches())


@contextlib.asynccontextmanager
async def opened(policy: Policy, node: Path, *, make: bool = False) -> AsyncIterator[Copying]:
    """Open the store of the node that lives in a folder. Raises PolicyError, NotFoundError, StorageError.

    `make`: whether a SQLite file is made where none is; a copy of what is not there would pass for one of a store.
    """
    store = await copying.connect(policy.engine, _settings(node), node, make=make)
    try:
        yield store
    finally:
        await store.close()


def _settings(node: Path) -> Mapping[str, object]:
    try:
        return dict(json.loads((node / "node.json").read_bytes())["store"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise NotFoundError(
            f"{node / 'node.json'}: expected how to reach the store ({type(error).__name__})"
        ) from error
