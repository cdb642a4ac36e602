"""Statements to a Cassandra cluster: any quorum answers, a dead or hung member costs milliseconds.

The driver answers in a thread of its own; a call wakes the event loop once, when all of its statements are done.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import math
import re
import ssl
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cassandra import (
    ConsistencyLevel,
    CoordinationFailure,
    DriverException,
    InvalidRequest,
    OperationTimedOut,
    Unauthorized,
    WriteTimeout,
)
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
from cassandra.policies import (
    ConstantReconnectionPolicy,
    HostDistance,
    NoSpeculativeExecutionPolicy,
    RetryPolicy,
    RoundRobinPolicy,
    SpeculativeExecutionPolicy,
    TokenAwarePolicy,
)
from cassandra.pool import Host
from cassandra.protocol import ErrorMessage, ServerError
from cassandra.query import PreparedStatement, Statement, tuple_factory

from anwen.errors import PolicyError, UnavailableError

_T = TypeVar("_T")
Row = tuple[Any, ...]
Keys = Sequence[Sequence[object]]
Steps = Sequence[tuple[str, Sequence[object]]]

PROTOCOL = 4
"""Spoken by Cassandra 3 to 5 and by ScyllaDB; finding a later one out would cost a connection for each step down."""
IN_FLIGHT, BULKS = 64, 2
"""Statements of one call under way at a time, and calls of more than that: others would but wait in the members."""
CONNECT_S, REQUEST_S, HEARTBEAT_S, RECONNECT_S = 4.0, 4.0, 1.0, 1.0
HEDGE_S, HEDGE_IF_S = 0.05, 0.25
"""A statement without an answer after so long, or four times the usual, goes to the next member, too. Conditional ones
wait longer: two attempts get in each other's way."""
ATTEMPTS, HEDGES, HEDGES_AT_ONCE = 3, 0.1, 10.0
"""Attempts at a statement; further ones for each answer, and in reserve. Without a limit, members that are
all late are asked everything three times, which on full processors keeps them late."""
WARM_S, WARM_ROUNDS, WARM_AGE_S = 15.0, 200, 120.0
"""A member that was started less than two minutes ago is warmed, once for that start: 200 rounds, 15 s at a time."""
RETRIES = 3
_STARTED = "SELECT gossip_generation FROM system.local"
PAGE, _PAGED = 2000, "paged"
_UNAVAILABLE = (DriverException, NoHostAvailable, ErrorMessage)
AGAIN_S = (0.1, 0.2, 0.4, 0.8)
"""Pauses after which a call is made again that a member refused; together less than clients wait."""
_KEYS = {"contact_points", "keyspace", "zone", "username", "password_file", "ca_file"}


@dataclass(frozen=True, slots=True)
class Settings:
    """How a node reaches the members: "store" of its `node.json`."""

    contact_points: tuple[tuple[str, int], ...]
    keyspace: str = "anwen"
    zone: str = ""
    login: tuple[str, str] | None = None
    ca_file: Path | None = None

    @classmethod
    def parse(cls, settings: Mapping[str, object], folder: Path) -> Settings:
        """Return settings, paths relative to `folder`. Raises PolicyError."""
        if unknown := settings.keys() - _KEYS:
            raise PolicyError(f"store settings of cassandra: unknown {', '.join(sorted(unknown))}")
        points, keyspace = settings.get("contact_points"), str(settings.get("keyspace", "anwen"))
        if not isinstance(points, list) or not points:
            raise PolicyError('store setting contact_points: expected a list of "address:port"')
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", keyspace):
            raise PolicyError("store setting keyspace: expected [a-z][a-z0-9_]*, at most 40 characters")
        if ("username" in settings) != ("password_file" in settings):
            raise PolicyError("store settings username and password_file: expected both or none")
        if "username" in settings and "ca_file" not in settings:
            raise PolicyError("store setting ca_file: expected with a password, which would be sent in the clear")
        login = None
        if "username" in settings:
            login = (str(settings["username"]), _password(folder / str(settings["password_file"])))
        ca_file = folder / str(settings["ca_file"]) if "ca_file" in settings else None
        return cls(tuple(map(_address, points)), keyspace, str(settings.get("zone", "")), login, ca_file)


def _address(point: object) -> tuple[str, int]:
    host, _, port = str(point).rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port):
        raise PolicyError(f'store setting contact_points: expected "address:port", got {point}')
    return host.strip("[]"), int(port)


def _password(path: Path) -> str:
    try:
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise PolicyError(f"store setting password_file: mode {mode:04o}, expected 0600")
        return path.read_text().strip()
    except (OSError, ValueError) as error:
        raise PolicyError(f"store setting password_file: {type(error).__name__}") from error


class _ZoneFirst(RoundRobinPolicy):  # type: ignore[misc]  # the driver has no types
    """Members of one's own zone (rack or data centre) first, then all others; a cold one last, whose ever it is."""

    def __init__(self, zone: str) -> None:
        super().__init__()
        self._zone = zone
        self.cold: dict[Host, asyncio.Task[None]] = {}  # with what warms each, and is there as long
        self.came_up: Callable[[Host], object] = lambda _: None  # called from the driver's thread

    def is_own(self, host: Host) -> bool:
        return not self._zone or self._zone in (host.rack, host.datacenter)

    def distance(self, host: Host) -> int:
        return int(HostDistance.LOCAL if self.is_own(host) and host not in self.cold else HostDistance.REMOTE)

    def on_up(self, host: Host) -> None:
        super().on_up(host)
        self.came_up(host)

    def make_query_plan(self, keyspace: str | None = None, query: object = None) -> Iterator[Host]:
        hosts = sorted(super().make_query_plan(keyspace, query), key=lambda h: (self.distance(h), h in self.cold))
        return iter([*hosts, *hosts])  # whoever was asked in vain may be asked again


def _conditional(statement: Any) -> bool:
    return " IF " in getattr(getattr(statement, "prepared_statement", None), "query_string", "")


class _Retry(RetryPolicy):  # type: ignore[misc]  # the driver has no types
    """Everything is asked again; conditional statements that collided are looked at anew by whoever sent them."""

    def _same(self, query: Any, *_: Any, retry_num: int, **__: Any) -> tuple[int, Any]:
        again = retry_num < RETRIES and not _conditional(query)
        return (self.RETRY if again else self.RETHROW), None

    def _next(self, *_: Any, retry_num: int, **__: Any) -> tuple[int, Any]:
        return (self.RETRY_NEXT_HOST if retry_num < RETRIES else self.RETHROW), None

    on_read_timeout = on_write_timeout = _same
    on_unavailable = on_request_error = _next


class _Hedge(SpeculativeExecutionPolicy):  # type: ignore[misc]  # the driver has no types
    """Asks the next member after a delay that follows what is usual, within a budget.

    Called from several threads without a lock: a count that is lost in a race matters to nobody.
    """

    def __init__(self) -> None:
        self.usual_s: dict[bytes, float] = {}  # of each prepared statement
        self.left = HEDGES_AT_ONCE

    def new_plan(self, _keyspace: object, statement: Any) -> _HedgePlan:
        prepared = getattr(statement, "prepared_statement", None)
        usual_s = self.usual_s.get(prepared.query_id, 0.0) if prepared else REQUEST_S
        return _HedgePlan(self, max(HEDGE_IF_S if _conditional(statement) else HEDGE_S, 4 * usual_s))

    def answered(self, prepared: PreparedStatement, seconds: float) -> None:
        usual_s = self.usual_s.setdefault(prepared.query_id, 0.0)
        self.usual_s[prepared.query_id] += (seconds - usual_s) / 64
        self.left = min(HEDGES_AT_ONCE, self.left + HEDGES)


class _HedgePlan:
    def __init__(self, hedge: _Hedge, delay_s: float) -> None:
        self._hedge, self._delay_s, self._attempts = hedge, delay_s, 0

    def next_execution(self, _host: Host) -> float:
        """Return when to ask the next member, -1: never. The driver asks after each attempt, the first included."""
        self._hedge.left -= self._attempts > 0
        self._attempts += 1
        return self._delay_s if self._attempts < ATTEMPTS and self._hedge.left >= 1 else -1.0


class _RefusedError(UnavailableError):
    """A member would not do it: it has not heard yet of a table that another one has just made, or fails itself."""


class NotGrantedError(UnavailableError):
    """The role that a node signs in with may not do it."""


class Session:
    """A connection to all members. Statements are prepared once, and asked of other members when one is slow."""

    def __init__(self, settings: Settings) -> None:
        """Take settings; `open` connects."""
        self.keyspace, self.signs_in = settings.keyspace, settings.login is not None
        self._hedge = _Hedge()
        self._zone_first = _ZoneFirst(settings.zone)
        balance = TokenAwarePolicy(self._zone_first)
        profile = ExecutionProfile(
            load_balancing_policy=balance, retry_policy=_Retry(), consistency_level=ConsistencyLevel.QUORUM,
            serial_consistency_level=ConsistencyLevel.SERIAL, request_timeout=REQUEST_S, row_factory=tuple_factory,
            speculative_execution_policy=self._hedge,
        )  # fmt: skip
        paged = copy.copy(profile)
        paged.speculative_execution_policy = NoSpeculativeExecutionPolicy()
        tls = ssl.create_default_context(cafile=str(settings.ca_file)) if settings.ca_file else None
        login = PlainTextAuthProvider(*settings.login) if settings.login else None
        self.cluster = Cluster(
            settings.contact_points, execution_profiles={EXEC_PROFILE_DEFAULT: profile, _PAGED: paged},
            auth_provider=login, ssl_context=tls, protocol_version=PROTOCOL,
            connect_timeout=CONNECT_S, control_connection_timeout=CONNECT_S,
            idle_heartbeat_interval=HEARTBEAT_S, idle_heartbeat_timeout=HEARTBEAT_S,
            reconnection_policy=ConstantReconnectionPolicy(RECONNECT_S, max_attempts=None),
            max_schema_agreement_wait=CONNECT_S, prepare_on_all_hosts=False, monitor_reporting_enabled=False,
        )  # fmt: skip
        self._prepared: dict[str, PreparedStatement] = {}
        self._rounds: Counter[tuple[Host, int | None]] = Counter()  # of each start of a member
        self._bulks, self._closed = asyncio.Semaphore(BULKS), False

    async def open(self) -> None:
        """Connect. Raises UnavailableError."""
        try:
            self._session = await asyncio.to_thread(self.cluster.connect)
        except (*_UNAVAILABLE, OSError) as error:
            await self.close()
            raise UnavailableError(f"store cassandra: {error}") from error  # nothing was asked yet that could hold keys
        self._session.default_fetch_size = None

    async def warm(self, steps: Callable[[], Steps]) -> None:
        """Ask own members that were just started some statements, now and whenever one comes back, which is asked last
        meanwhile. Their code is slow until it has run some hundred times, and callers would wait for it. One that was
        cut off is asked last until it has answered, and so is whichever was cut off together with this node.

        Args:
            steps: for one member; conditional ones under a key of its own, or they get in each other's way.
        """
        loop, cold = asyncio.get_running_loop(), self._zone_first.cold

        def begin(host: Host) -> None:
            if not self._closed and self._zone_first.is_own(host) and host not in cold:
                cold[host] = loop.create_task(self._warm(host, steps()))
                cold[host].add_done_callback(lambda _: cold.pop(host))

        def came_up(host: Host) -> None:  # in the driver's thread, which marks the host as up after this
            hosts = self.cluster.metadata.all_hosts()
            up = {host, *(h for h in hosts if h.is_up)}
            regained = 2 * len(up) > len(hosts) >= 2 * (len(up) - 1)
            # an own one was cut off together with this node, and may reach the others later than we do
            for each in up if regained else {host}:
                loop.call_soon_threadsafe(begin, each)

        self._zone_first.came_up = came_up
        for host in (h for h in self.cluster.metadata.all_hosts() if h.is_up):
            begin(host)
        await asyncio.gather(*cold.values())

    async def _warm(self, host: Host, steps: Steps) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WARM_S):
                await self._ask_until_warm(host, steps)

    async def _ask_until_warm(self, host: Host, steps: Steps) -> None:
        ask = partial(self._session.execute, host=host, timeout=CONNECT_S, execution_profile=_PAGED)
        while True:
            try:
                ((started_s,),) = await self.member(host, _STARTED)
                for statement, key in steps:  # which need a quorum: it reaches another member again
                    await self._blocking(partial(ask, (await self._prepare(statement)).bind(key)))
                self._rounds[host, started_s] += 1
                if self._rounds[host, started_s] >= WARM_ROUNDS or time.time() - (started_s or 0) > WARM_AGE_S:
                    return  # the second: it hung or was cut off, or only this node is new
            except UnavailableError:
                await asyncio.sleep(AGAIN_S[0])  # the driver is still connecting, and tells nobody when it is done

    async def close(self) -> None:
        self._closed = True
        for task in self._zone_first.cold.values():
            task.cancel()
        await asyncio.to_thread(self.cluster.shutdown)

    async def refresh(self) -> None:
        """Ask the members again who there is. Raises UnavailableError."""
        await self._blocking(self.cluster.refresh_nodes)

    async def define(self, statement: str) -> None:
        """Change the schema, in a way that may be repeated; returns when the members that are up agree.

        Raises UnavailableError.
        """
        change = partial(self._session.execute, statement, timeout=10 * REQUEST_S)
        await self._patiently(lambda: self._blocking(change))

    async def agree(self) -> None:
        """Return when the members that are up know of the same tables, or 4 s have passed: a hung one may never."""
        with contextlib.suppress(UnavailableError):
            await self._blocking(self.cluster.refresh_schema_metadata)

    async def member(self, host: Host, statement: str | Statement) -> list[Row]:
        """Return what one member says of itself. Raises UnavailableError."""
        return list(await self._blocking(partial(self._session.execute, statement, host=host, timeout=CONNECT_S)))

    async def pages(self, statement: str) -> AsyncIterator[list[Row]]:
        """Yield all rows of a table, PAGE at a time. Raises UnavailableError.

        Each page is a request of its own, of one member at a time: the driver's own paging takes the late answer to an
        earlier page for that to the next one, and then gives a page twice, or leaves one out.
        """
        bound = (await self._prepare(statement)).bind(())
        bound.fetch_size = PAGE
        ask = partial(self._session.execute, bound, timeout=10 * REQUEST_S, execution_profile=_PAGED)
        state = None
        while True:
            result = await self._patiently(partial(self._blocking, partial(ask, paging_state=state)))
            yield result.current_rows
            state = result.paging_state
            if state is None:
                return

    async def run(self, statement: str, keys: Keys, until: float = math.inf) -> list[list[Row]]:
        """Run one statement for each of `keys`; return their rows in the order of the keys.

        Args:
            until: of `time.monotonic`, after which none is sent any more.

        Raises:
            UnavailableError: one was not answered by a quorum; others may have been. Reads and writes may be repeated.
        """
        if not keys:
            return []
        prepared = await self._prepare(statement)
        async with self._bulks if len(keys) > IN_FLIGHT else contextlib.nullcontext():
            return await self._patiently(lambda: _Flight(self._session, prepared, keys, self._hedge, until).run())

    async def applied(self, statement: str, keys: Keys, until: float = math.inf) -> list[bool]:
        """Run a conditional statement for each of `keys`; return which were applied, and answered so.

        False also where the answer was lost, or went to an attempt that was given up: whoever looks then finds the
        condition changed by himself, and whoever tries again settles a round that was cut off.
        """
        found = await self.run(statement, keys, until)
        return [bool(rows and rows[0][0]) for rows in found]

    async def _prepare(self, statement: str) -> PreparedStatement:
        if self._closed:
            raise UnavailableError("store cassandra: closed")
        if statement not in self._prepared:
            prepare = partial(self._session.prepare, statement.replace("{ks}", self.keyspace))
            prepared = await self._patiently(lambda: self._blocking(prepare))
            prepared.is_idempotent = True
            self._prepared[statement] = prepared
        return self._prepared[statement]

    async def _patiently(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Call, and again where a member refused: one that answered knows a table or keyspace, the next may not yet."""
        for pause in AGAIN_S:
            with contextlib.suppress(_RefusedError):
                return await call()
            await asyncio.sleep(pause)  # `agree` may hear from a member that has not heard of it, either
        return await call()

    async def _blocking(self, call: Any) -> Any:
        try:
            return await asyncio.to_thread(call)
        except _UNAVAILABLE as error:
            raise _error(error) from error


class _Flight:
    """One statement for many keys, IN_FLIGHT at a time; each answer sends the next from the driver's thread."""

    def __init__(self, session: Any, prepared: PreparedStatement, keys: Keys, hedge: _Hedge, until: float) -> None:
        self._session, self._prepared, self._hedge, self._until = session, prepared, hedge, until
        self._queue: Iterable[tuple[int, Sequence[object]]] = iter(enumerate(keys))
        self._rows: list[list[Row]] = [[]] * len(keys)
        self._open = set(range(len(keys)))
        self._lock = threading.Lock()  # answers come in one thread, the first statements are sent from another
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[Exception | None] = self._loop.create_future()

    async def run(self) -> list[list[Row]]:
        for _ in range(min(IN_FLIGHT, len(self._rows))):
            self._send()
        if error := await self._done:
            raise error
        return self._rows

    def _send(self) -> None:
        with self._lock:
            index, key = next(iter(self._queue), (-1, ()))
        if index < 0 or self._done.done():  # done: cancelled, or failed
            return
        if time.monotonic() > self._until:
            self._wake(UnavailableError("store cassandra: a put took too long"))
            return
        begun = time.perf_counter()
        try:
            future = self._session.execute_async(self._prepared.bind(key))
        except Exception as error:  # noqa: BLE001 - in the driver's thread there is nobody else to tell
            self._failed(error, index, begun)
            return
        future.add_callbacks(self._answered, self._failed, callback_args=(index, begun), errback_args=(index, begun))

    def _answered(self, rows: list[Row] | None, index: int, begun: float) -> None:
        with self._lock:
            if index not in self._open:
                return  # the driver tells each answer of a hedged statement; the first counts
            self._rows[index] = rows or []
            self._open.remove(index)
        self._hedge.answered(self._prepared, time.perf_counter() - begun)
        if self._open:
            self._send()
        else:
            self._wake(None)

    def _failed(self, error: BaseException, index: int, begun: float) -> None:
        if isinstance(error, (OperationTimedOut, WriteTimeout)) and " IF " in self._prepared.query_string:
            self._answered(None, index, begun)
        elif index in self._open:
            self._wake(_error(error))

    def _wake(self, error: Exception | None) -> None:
        def settle() -> None:
            if not self._done.done():
                self._done.set_result(error)

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(settle)


def _error(error: BaseException) -> Exception:
    if isinstance(error, Unauthorized) and " has no " in str(error):  # else a member could not read what is granted
        return NotGrantedError(f"store cassandra: {error}")  # names the role, the right and the table
    kind = _RefusedError if isinstance(error, (InvalidRequest, CoordinationFailure, ServerError)) else UnavailableError
    return kind(f"store cassandra: {type(error).__name__}")  # its text may hold keys
