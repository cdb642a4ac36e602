"""Connections to PostgreSQL: how to reach it, a bounded pool, one deadline over all that a call does.

The client keeps time itself: a server that hangs answers neither a statement nor the request to cancel it, and the
kernel takes many seconds to give a peer up. At the deadline the socket is shut, so that whoever waits fails at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

from anwen.errors import OverloadedError, PolicyError, StorageError, UnavailableError
from anwen.store import postgresql_schema as schema

T = TypeVar("T")
Connection = psycopg.AsyncConnection[tuple[Any, ...]]
CONNECTIONS = 8
CONNECT_S = 2.0
TIMEOUT_S = 5.0
ATTEMPTS = 32
"""Of a call that others' commits overtake, or whose connection is lost: the next attempt mostly gets through."""

logging.getLogger("psycopg").setLevel(logging.ERROR)  # its warnings of what went wrong in a pipeline may quote keys
_KNOWN = {"conninfo", "password_file", "statement_timeout_s"}
_CONFLICTS = (
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.UniqueViolation,
    psycopg.errors.DivisionByZero,  # `postgresql_write.CLAIM`
)
_WRITERS = {"read-write", "primary"}
_SERVER_FAULTS = ("53", "58", "XX", "22")  # no room, a failing disk, damage, a number out of range
_ENDED = ("08", "57P")  # the server ends the connection, or says so


@dataclass(frozen=True, slots=True)
class Target:
    """How to reach the servers: a connection string for each host, and how long a call may take."""

    hosts: tuple[str, ...]
    timeout_s: float


def target(settings: Mapping[str, object], folder: Path) -> Target:
    """Return how to reach the servers that "store" of `node.json` names. Raises PolicyError."""
    if "conninfo" not in settings or set(settings) - _KNOWN:
        raise PolicyError(f"store settings of postgresql: expected {', '.join(sorted(_KNOWN))}, got {sorted(settings)}")
    timeout_s = settings.get("statement_timeout_s", TIMEOUT_S)
    if not isinstance(timeout_s, int | float) or not 0.1 <= timeout_s <= 600:
        raise PolicyError(f"store statement_timeout_s: expected 0.1 to 600, got {timeout_s}")
    try:
        given = {k: str(v) for k, v in conninfo_to_dict(str(settings["conninfo"])).items()}
    except psycopg.ProgrammingError as error:
        raise PolicyError("store conninfo: not a connection string of libpq") from error
    hosts = given.pop("host", "").split(",")
    ports = given.pop("port", "5432").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    if not all(hosts) or len(ports) != len(hosts) or "hostaddr" in given:
        raise PolicyError("store conninfo: expected host, or several with one port or one for each, and no hostaddr")
    if given.get("sslmode") != "verify-full" and not all(map(_is_local, hosts)):
        raise PolicyError("store conninfo: expected sslmode=verify-full for a host that is not this machine")
    if given.setdefault("target_session_attrs", "read-write") not in _WRITERS:
        raise PolicyError(f"store conninfo: expected target_session_attrs {' or '.join(sorted(_WRITERS))}")
    if "password_file" in settings:
        given["password"] = _password(folder / str(settings["password_file"]))
    limits_ms = {"statement_timeout": timeout_s, "idle_in_transaction_session_timeout": timeout_s}
    options = [f"-c {name}={round(1000 * value)}" for name, value in limits_ms.items()]
    given["options"] = " ".join([given.get("options", ""), *options, *schema.OPTIONS]).strip()
    # a peer that is gone without a word, for connections that lie idle; gssencmode, as it would take TLS's place
    given |= {"keepalives_idle": "5", "keepalives_interval": "2", "keepalives_count": "3", "gssencmode": "disable"}
    given |= {"application_name": "anwen", "tcp_user_timeout": str(round(1000 * timeout_s))}
    each = zip(hosts, ports, strict=True)
    return Target(tuple(make_conninfo("", **{**given, "host": h, "port": p}) for h, p in each), float(timeout_s))


def _is_local(host: str) -> bool:
    try:
        return host.startswith(("/", "@")) or host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _password(path: Path) -> str:
    try:
        mode, text = path.stat().st_mode & 0o777, path.read_text().strip()
    except (OSError, ValueError) as error:
        raise PolicyError(f"store password_file {path.name}: {type(error).__name__}") from error
    if mode & 0o077:
        raise PolicyError(f"store password_file {path.name}: mode {mode:04o}, expected 0600")
    return text


class Pool:
    """At most CONNECTIONS connections, made when needed, kept when they are sound."""

    def __init__(self, reach: Target) -> None:
        self.hosts, self.timeout_s = reach.hosts, reach.timeout_s
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._idle: list[Connection] = []
        self._closed = False

    async def run(self, work: Callable[[Connection], Awaitable[T]], timeout_s: float | None = None) -> T:
        """Return what `work` returns; it is done again if others' commits overtook it or its connection was lost.

        Args:
            work: begins and commits by itself, and may be repeated though it was committed before.

        Raises:
            UnavailableError: the outcome is unknown, repeat it. StorageError: the server refused; nothing was stored.
        """
        deadline = asyncio.get_running_loop().time() + (timeout_s or self.timeout_s)
        try:
            async with asyncio.timeout_at(deadline):
                await self._slots.acquire()
        except TimeoutError:
            raise OverloadedError("store postgresql: all connections are busy", retry_after_s=1.0) from None
        try:
            return await self._attempts(work, deadline)
        finally:
            self._slots.release()

    async def _attempts(self, work: Callable[[Connection], Awaitable[T]], deadline: float) -> T:
        clock = asyncio.get_running_loop()
        for _ in range(ATTEMPTS):
            if self._closed:
                raise StorageError("store postgresql: closed")
            fresh = not self._idle
            db = await connect(self.hosts, deadline) if fresh else self._idle.pop()
            timer = clock.call_at(deadline, cut, db)
            try:
                if fresh:
                    await schema.check(db, len(self.hosts))
                return await work(db)
            except PolicyError:
                await db.close()  # not kept: it would not be looked at again
                raise
            except _CONFLICTS:
                with contextlib.suppress(psycopg.Error):
                    await db.execute("ROLLBACK")
            except psycopg.Error as error:
                if not (db.closed or (error.sqlstate or "").startswith(_ENDED)):
                    kind = StorageError if (error.sqlstate or "").startswith(_SERVER_FAULTS) else UnavailableError
                    raise kind(f"store postgresql: {_name(error)}") from error
                await self._drop()  # what hit this connection has mostly hit those that lie idle
                if clock.time() >= deadline:
                    raise UnavailableError(f"store postgresql: {_name(error)}; the outcome is not known") from error
            finally:
                timer.cancel()
                await self._give_back(db)
        raise UnavailableError(f"store postgresql: overtaken or cut off {ATTEMPTS} times")

    async def _give_back(self, db: Connection) -> None:
        if self._closed or db.closed or db.pgconn.transaction_status != TransactionStatus.IDLE:
            await db.close()
        else:
            self._idle.append(db)

    async def _drop(self) -> None:
        while self._idle:
            await self._idle.pop().close()

    async def close(self) -> None:
        """Close what lies idle; what is in use is closed when given back."""
        self._closed = True
        await self._drop()


async def connect(hosts: Sequence[str], deadline: float) -> Connection:
    """Return a connection to the first host that takes writes; all are asked at once: a dead one says nothing.

    Args:
        hosts: a connection string for each.
        deadline: by the event loop's clock; at most CONNECT_S from now are used.

    Raises: UnavailableError.
    """
    tries = [
        asyncio.create_task(psycopg.AsyncConnection.connect(h, autocommit=True, prepare_threshold=None)) for h in hosts
    ]
    chosen: Connection | None = None
    last = "no answer"
    with contextlib.suppress(TimeoutError):
        try:
            async with asyncio.timeout_at(min(deadline, asyncio.get_running_loop().time() + CONNECT_S)):
                for answer in asyncio.as_completed(tries):
                    try:
                        chosen = await answer
                    except psycopg.Error as error:
                        last = _name(error)
                    else:
                        return chosen
        finally:
            for one in tries:
                one.cancel()
            for late in await asyncio.gather(*tries, return_exceptions=True):
                if isinstance(late, psycopg.AsyncConnection) and late is not chosen:
                    await late.close()
    raise UnavailableError(f"store postgresql: no server takes writes ({last})")


def cut(db: Connection) -> None:
    """Shut a connection's socket: the task that waits on it fails at once, and the connection is closed."""
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(db.fileno())) as shut:
        shut.shutdown(socket.SHUT_RDWR)


def _name(error: psycopg.Error) -> str:
    """Return the error's kind alone: a server's text may quote rows."""
    return f"{type(error).__name__} {error.sqlstate or ''}".strip()
