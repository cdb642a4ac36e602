"""Tables and settings of the SQLite engine (docs/spec/store.md)."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from anwen.errors import NotFoundError, PolicyError, StorageError

APPLICATION_ID = 0x414E5745  # "ANWE"
FORMAT = 2
PAGE_BYTES = 16_384
"""Rows of some 1.2 KB lie whole in a page; measured against 4 and 8 KiB in docs/adr/0001-one-row-a-version.md."""

WRITER_CACHE_KIB = 8_192
READER_CACHE_KIB = 2_048
CHECKPOINT_BYTES = 128 * 2**20
_CHUNK = 512
_SETTINGS = {"journal_mode": "wal", "synchronous": "2", "secure_delete": "1"}

_TABLES = """
CREATE TABLE row (
    record BLOB NOT NULL, version INTEGER NOT NULL, tag BLOB NOT NULL, collection INTEGER NOT NULL,
    subject BLOB NOT NULL, collected_s INTEGER NOT NULL, expires_s INTEGER NOT NULL, verified INTEGER NOT NULL,
    labels BLOB NOT NULL, sealed BLOB NOT NULL, beside BLOB NOT NULL,
    PRIMARY KEY (record, version)) WITHOUT ROWID, STRICT;
CREATE INDEX row_unverified ON row (record) WHERE verified = 0;
CREATE TABLE posting (label BLOB NOT NULL PRIMARY KEY, record BLOB NOT NULL, mac BLOB NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE subject (
    subject BLOB NOT NULL, collection INTEGER NOT NULL, record BLOB NOT NULL,
    PRIMARY KEY (subject, collection, record)) WITHOUT ROWID, STRICT;
CREATE TABLE deleted (record BLOB NOT NULL PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID, STRICT;
"""


def open_writer(path: Path, *, make: bool = True) -> sqlite3.Connection:
    """Return the connection that writes, its settings read back.

    Args:
        make: whether a store is made where none is.

    Raises:
        PolicyError: others than its owner may read the file. StorageError: not a store, or weaker settings.
        NotFoundError: there is none, and none was to be made.
    """
    if not make and not path.exists():
        raise NotFoundError(f"{path}: no store here")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _make_private(path)
        db = _connect(path, WRITER_CACHE_KIB)
        if make and db.execute("PRAGMA application_id").fetchone()[0] == 0 and not _tables(db):
            _make_tables(db)
    except (sqlite3.Error, OSError, ValueError) as error:  # the last: a NUL in the path
        raise StorageError(f"store {path.name}: {type(error).__name__}") from error
    try:
        _check(db, path)
    except BaseException:
        db.close()
        raise
    return db


def open_reader(path: Path) -> sqlite3.Connection:
    """Return a connection that cannot write."""
    db = _connect(path, READER_CACHE_KIB)
    db.execute("PRAGMA query_only = ON")
    return db


def _make_private(path: Path) -> None:
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)  # the file's name outlives a power cut
        os.close(folder)
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise PolicyError(f"store {path.name}: mode {mode:04o}, expected 0600")


def _connect(path: Path, cache_kib: int) -> sqlite3.Connection:
    # autocommit: transactions are begun and ended in words; the threads that use a connection take turns
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10, cached_statements=128)
    for pragma in (
        f"page_size = {PAGE_BYTES}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "secure_delete = ON",
        "temp_store = MEMORY",
        "mmap_size = 0",
        "trusted_schema = OFF",
        f"cache_size = -{cache_kib}",
        f"wal_autocheckpoint = {CHECKPOINT_BYTES // PAGE_BYTES}",
        f"journal_size_limit = {CHECKPOINT_BYTES}",
    ):
        db.execute(f"PRAGMA {pragma}")
    return db


def _tables(db: sqlite3.Connection) -> list[str]:
    return [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]


def _make_tables(db: sqlite3.Connection) -> None:
    # commit point: a crash before it leaves an empty file, which the next start takes for a new one
    db.executescript(
        f"BEGIN EXCLUSIVE; {_TABLES} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}; COMMIT;"
    )


def settings(db: sqlite3.Connection) -> dict[str, str]:
    """Return the settings that durability and deletion depend on, as the engine states them."""
    names = (*_SETTINGS, "application_id", "user_version", "page_size")
    return {name: str(db.execute(f"PRAGMA {name}").fetchone()[0]) for name in names}


def _check(db: sqlite3.Connection, path: Path) -> None:
    found = settings(db)
    expected = {**_SETTINGS, "application_id": str(APPLICATION_ID), "user_version": str(FORMAT)}
    if found["application_id"] == expected["application_id"] and int(found["user_version"]) < FORMAT:
        raise StorageError(f"store {path.name}: of an earlier build: restore a backup that it makes into a new store")
    for name, value in expected.items():
        if found[name] != value:
            raise StorageError(f"store {path.name}: expected {name} {value}, got {found[name]}")


def wrap_table(epoch: int) -> str:
    """Return the name of an epoch's table of wraps."""
    return f"wrap_{int(epoch)}"


def epochs(db: sqlite3.Connection) -> list[int]:
    """Return the epochs that have a table of wraps, ascending."""
    return sorted(int(name[5:]) for name in _tables(db) if name.startswith("wrap_"))


def make_wrap_table(db: sqlite3.Connection, epoch: int) -> None:
    """Make an epoch's table of wraps, within the caller's transaction, unless it is there."""
    db.execute(
        f"CREATE TABLE IF NOT EXISTS {wrap_table(epoch)} (record BLOB NOT NULL, version INTEGER NOT NULL, "
        "wraps BLOB NOT NULL, PRIMARY KEY (record, version)) WITHOUT ROWID, STRICT"
    )


def chunks(keys: Sequence[bytes]) -> Iterator[tuple[str, Sequence[bytes]]]:
    """Yield placeholders and keys for IN lists; a power of two long, so that few statements are ever prepared."""
    for start in range(0, len(keys), _CHUNK):
        part = list(keys[start : start + _CHUNK])
        size = 1 << (len(part) - 1).bit_length()
        yield ",".join("?" * size), part + part[-1:] * (size - len(part))
