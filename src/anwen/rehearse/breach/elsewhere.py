"""The same people kept elsewhere, and the same thefts there: PostgreSQL, pgcrypto, SQLCipher.

Each system is run, not assumed, where its programs are here. What a theft gives is counted as the attacker counts:
people whose identity number stands in the files, or comes out with a key that was found in a process.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anwen.errors import AnwenError, UnavailableError
from anwen.rehearse import postgresql
from anwen.rehearse.breach.search import Needles, files_below, memory_of, runs

Row = Mapping[str, object]
RUN, ARGUED = "run here", "argued, not run"
Taken = tuple[int, int | None, int]
"""People that a system's files, its live process and its login give; None: not tried."""

Thefts = Callable[[postgresql.Server, Sequence[Row]], Taken]
"""Stores people in a server; returns what it gives."""

HEX, KEY_DIGITS = b"0123456789abcdef", 64
"""How an application's key lies in memory: 32 bytes in hexadecimal, as these applications are given it."""

PGCRYPTO = "cipher-algo=aes256, compress-algo=0, s2k-mode=1"
MOST_KEYS = 2_000
_HOLDER = """
import sys
from sqlcipher3 import dbapi2
path, key = sys.stdin.readline().split()
db = dbapi2.connect(path)
db.execute(f"PRAGMA key = \\"x'{key}'\\"")
print(db.execute("SELECT count(*) FROM people").fetchone()[0], flush=True)
sys.stdin.read()
"""
"""An application of SQLCipher at work."""


@dataclass(frozen=True, slots=True)
class Exposed:
    """People, of `people`, that each theft gives in one system; None: not tried."""

    system: str
    how: str  # RUN, ARGUED, or why it was not run or failed
    people: int
    dump: int | None = None  # files of a server that is off
    live: int | None = None  # the machine that serves, at work
    login: int | None = None  # what the application signs in with, in an hour


async def compare(people: Sequence[Row], scratch: Path) -> list[dict[str, object]]:
    """Return what thefts give elsewhere, system by system. About 20 s for 10,000 people.

    Args:
        people: those of the sample or of `fresh`. They are written in clear: nobody who lives may be among them.
        scratch: a folder that PostgreSQL's user can reach.
    """
    count = len(people)
    found = [await _tried(title, count, _in_server(scratch / name, people, run)) for name, title, run in _SERVERS]
    found.append(await _tried("SQLCipher", count, _sqlcipher(scratch / "sqlcipher.db", people)))
    for title in ("encryption of the disk below a database", "a vault whose service key decrypts everything"):
        found.append(Exposed(title, ARGUED, count, 0, count, count))
    return [asdict(exposed) for exposed in found]


async def _tried(title: str, count: int, robbed: Awaitable[Taken]) -> Exposed:
    try:
        return Exposed(title, RUN, count, *await robbed)
    except AnwenError as error:
        return Exposed(title, f"not run: {error}", count)
    except Exception as error:  # noqa: BLE001 - another system's edge: what its driver raises may not cost the report
        return Exposed(title, f"failed: {type(error).__name__}", count)


async def _in_server(folder: Path, people: Sequence[Row], run: Thefts) -> Taken:
    server = postgresql.Server(folder)
    try:
        await server.start()
        return run(server, people)
    finally:
        await server.stop()


def _plain(server: postgresql.Server, people: Sequence[Row]) -> Taken:
    """Store columns in clear: files, server and login give the same."""
    names = [*people[0]]
    with _connected(server) as db:
        db.execute(f"CREATE TABLE people ({', '.join(f'{name} text' for name in names)})")
        with db.cursor().copy(f"COPY people ({', '.join(names)}) FROM STDIN") as copy:
            for row in people:
                copy.write_row([row.get(name) for name in names])
        db.execute("CHECKPOINT")
        taken = len(db.execute("SELECT DISTINCT id_number FROM people").fetchall())
    return _in_files(files_below(server.folder), people), taken, taken


def _pgcrypto(server: postgresql.Server, people: Sequence[Row]) -> Taken:
    """Store a person in one `bytea`; the key is a setting of the connection, and so in the server's memory."""
    key = secrets.token_hex(32)
    with _connected(server) as db:
        db.execute("CREATE EXTENSION pgcrypto")
        db.execute("CREATE TABLE people (data bytea)")
        db.execute("SELECT set_config('app.key', %s, false)", (key,))
        seal = f"INSERT INTO people VALUES (pgp_sym_encrypt(%s, current_setting('app.key'), '{PGCRYPTO}'))"  # noqa: S608
        with db.transaction():
            db.cursor().executemany(seal, [(json.dumps(dict(row)),) for row in people])
        db.execute("CHECKPOINT")
        stolen = _keys_in(postgresql.children(server.pid))
        with _connected(server) as thief:
            live = _most(stolen, lambda each: _decrypted(thief, each))
            login = _decrypted(thief, key)
        return _in_files(files_below(server.folder), people), live, login


_SERVERS = (("plain", "PostgreSQL", _plain), ("pgcrypto", "PostgreSQL with pgcrypto", _pgcrypto))


def _connected(server: postgresql.Server) -> Any:
    import psycopg  # noqa: PLC0415 - an extra

    settings = server.settings()
    password = Path(str(settings["password_file"])).read_text()
    return psycopg.connect(str(settings["conninfo"]), password=password, autocommit=True)


def _decrypted(db: Any, key: str) -> int:
    """Return how many people a key opens, over a connection of the thief's own."""
    import psycopg  # noqa: PLC0415 - an extra

    numbers = "SELECT pgp_sym_decrypt(data, %s)::json ->> 'id_number' FROM people"
    with contextlib.suppress(psycopg.Error):  # a wrong key
        db.execute(f"{numbers} LIMIT 1", (key,))
        return len(set(db.execute(numbers, (key,)).fetchall()))
    return 0


async def _sqlcipher(path: Path, people: Sequence[Row]) -> Taken:
    """Store people in a file that its application opens with a raw key."""
    try:
        from sqlcipher3 import dbapi2  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UnavailableError("sqlcipher3 is not installed") from error
    key, names = secrets.token_hex(32), [*people[0]]

    def numbers(with_key: str) -> int:
        with contextlib.closing(dbapi2.connect(str(path))) as db, contextlib.suppress(dbapi2.DatabaseError):
            db.execute("PRAGMA cipher_log_level = NONE")  # it says of each wrong key that it is wrong
            db.execute(f"PRAGMA key = \"x'{with_key}'\"")
            return len(db.execute("SELECT DISTINCT id_number FROM people").fetchall())
        return 0

    with contextlib.closing(dbapi2.connect(str(path))) as db, db:
        db.execute(f"PRAGMA key = \"x'{key}'\"")
        db.execute(f"CREATE TABLE people ({', '.join(f'{name} TEXT' for name in names)})")
        into = f"INSERT INTO people VALUES ({', '.join('?' * len(names))})"  # noqa: S608 - our own names
        db.executemany(into, [[row.get(name) for name in names] for row in people])
    with subprocess.Popen([sys.executable, "-c", _HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:  # noqa: ASYNC220, S603
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write(f"{path} {key}\n".encode())
        holder.stdin.flush()
        holder.stdout.readline()
        live = _most(_keys_in([holder.pid]), numbers)
        holder.stdin.close()
    return _in_files([path], people), live, numbers(key)


def _in_files(files: Sequence[Path], people: Sequence[Row]) -> int:
    """Return how many people's identity numbers stand in files."""
    needles, found = Needles([str(row["id_number"]) for row in people]), set[int]()
    for file in files:
        with contextlib.suppress(OSError):  # one that the server took away meanwhile
            found |= needles.in_file(file)
    return len(found)


def _most(keys: Sequence[str] | None, opens: Callable[[str], int]) -> int | None:
    return None if keys is None else max(map(opens, keys), default=0)


def _keys_in(pids: Sequence[int]) -> Sequence[str] | None:
    """Return what looks like a key in the memory of some processes; None where none may be read."""
    found: dict[str, None] = {}
    unread = 0
    for pid in pids:
        try:
            for region in memory_of(pid):
                exact = (run.decode() for run in runs(region, HEX, KEY_DIGITS) if len(run) == KEY_DIGITS)
                found |= dict.fromkeys(exact)
        except OSError:  # one that has ended, or another user's, and we are not root
            unread += 1
    return None if unread == len(pids) else list(found)[:MOST_KEYS]
