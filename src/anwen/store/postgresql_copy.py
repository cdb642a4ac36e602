"""Copies of the PostgreSQL engine's tables, over a connection of its own: out of one snapshot, into one transaction."""

# ruff: noqa: S608 - what is put into statements are names of tables and marks for parameters, never values

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import psycopg
from psycopg import sql

from anwen.errors import ConflictError, StorageError
from anwen.store import history, postgresql_link
from anwen.store import postgresql_schema as schema
from anwen.store.copying import BULK, Batch, Row, columns, epoch_of

ROWS = 1024
STALLED_S = 60.0
"""A server that gives or takes no row, and answers nothing, for so long is given up. However long all of them take."""
_TYPES = {"b": "bytea", "i": "bigint"}
_VERIFIED = 7
"""Column of `row` that is a boolean here."""


async def connect(settings: Mapping[str, object], folder: Path) -> PostgresqlCopy:
    """Return what copies the store that `postgresql.connect` opens with the same settings.

    Raises: PolicyError: as there. UnavailableError: no server answers.
    """
    hosts = postgresql_link.target(settings, folder).hosts
    db = await postgresql_link.connect(hosts, asyncio.get_running_loop().time() + postgresql_link.CONNECT_S)
    try:
        with _timed(db, STALLED_S):
            await schema.check(db, len(hosts))
        with _timed(db, STALLED_S):
            await schema.make(db)
    except BaseException:
        await db.close()
        raise
    return PostgresqlCopy(db)


@contextlib.contextmanager
def _timed(db: schema.Connection, limit_s: float) -> Iterator[None]:
    """Cut the connection if the block, one request to the server, takes longer. Raises StorageError."""
    clock = asyncio.get_running_loop()
    timer = clock.call_later(limit_s, postgresql_link.cut, db)
    try:
        yield
    except psycopg.Error as error:  # its text may quote rows
        late = clock.time() >= timer.when()
        what = f"no answer for {limit_s:g} s" if late else f"{type(error).__name__} {error.sqlstate or ''}"
        raise StorageError(f"store postgresql: {what}") from error
    finally:
        timer.cancel()


class PostgresqlCopy:
    """A `store.copying.Copying` on PostgreSQL."""

    def __init__(self, db: schema.Connection) -> None:
        self._db = db

    async def dump(self) -> AsyncIterator[Batch]:
        async with self._transaction("READ ONLY", STALLED_S):
            for table in await self._tables():
                width = len(columns(table))  # not `beside`, which other engines keep elsewhere
                # by key: the order in which rows lie would tell which were written together
                keys = "1, 2" if table != "subject" else "1, 2, 3"
                select = sql.SQL("SELECT * FROM {} ORDER BY " + keys).format(sql.Identifier(table))
                await self._ask(sql.SQL("DECLARE copy NO SCROLL CURSOR FOR {}").format(select))
                while rows := await self._ask(sql.SQL(f"FETCH {ROWS} FROM copy")):
                    yield table, [tuple(int(v) if isinstance(v, bool) else v for v in row[:width]) for row in rows]
                await self._ask(sql.SQL("CLOSE copy"))

    async def load(self, batches: Iterator[Batch]) -> None:
        try:
            # a standby may have to take all of it before the commit is answered, and to give up leaves the outcome open
            async with self._transaction("READ WRITE", math.inf):
                await self._fill(batches)
        except StorageError as error:
            raise StorageError(f"{error}; look whether it is empty") from error

    async def _fill(self, batches: Iterator[Batch]) -> None:
        await self._ask(sql.SQL("LOCK TABLE row, posting, subject, deleted IN EXCLUSIVE MODE"))
        for table in await self._tables():
            if await self._ask(sql.SQL("SELECT 1 FROM {} LIMIT 1").format(sql.Identifier(table))):
                raise ConflictError("the store is not empty: a copy is loaded into an empty one alone")
        loading = history.Loading()
        for table, rows in batches:
            with _timed(self._db, STALLED_S):
                await self._take(table, rows, loading)

    async def close(self) -> None:
        """Let go of the connection."""
        await self._db.close()

    async def _ask(self, statement: sql.SQL | sql.Composed, limit_s: float | None = None) -> list[Row]:
        with _timed(self._db, limit_s or STALLED_S):
            answer = await self._db.execute(statement)
            return await answer.fetchall() if answer.description else []

    async def _tables(self) -> list[str]:
        with _timed(self._db, STALLED_S):
            return [*BULK, *map(schema.wrap_table, await schema.epochs(self._db))]

    async def _take(self, table: str, rows: list[Row], loading: history.Loading) -> None:
        if epoch := epoch_of(table):
            await schema.make_wrap_table(self._db, epoch)
        types = [_TYPES[kind] for kind in columns(table)]
        if table == "row":
            types[_VERIFIED:] = "boolean", *types[_VERIFIED + 1 :], "bytea"
            beside = (history.pack(loading.take(r).beside) for r in rows)
            rows = [
                (*r[:_VERIFIED], bool(r[_VERIFIED]), *r[_VERIFIED + 1 :], b) for r, b in zip(rows, beside, strict=True)
            ]
        copying = sql.SQL("COPY {} FROM STDIN (FORMAT BINARY)").format(sql.Identifier(table))
        async with self._db.cursor() as cursor, cursor.copy(copying) as copy:
            copy.set_types(types)
            for row in rows:
                await copy.write_row(row)

    @contextlib.asynccontextmanager
    async def _transaction(self, access: str, commit_s: float) -> AsyncIterator[None]:
        """One snapshot for the whole block, however long it takes; what fails in it leaves nothing."""
        await self._ask(sql.SQL("BEGIN ISOLATION LEVEL REPEATABLE READ " + access))
        try:
            await self._ask(sql.SQL("SET LOCAL statement_timeout = 0"))
            await self._ask(sql.SQL("SET LOCAL idle_in_transaction_session_timeout = 0"))
            yield
        except BaseException:
            with contextlib.suppress(StorageError):  # of a lost connection the server ends it
                await self._ask(sql.SQL("ROLLBACK"))
            raise
        # commit point: a crash before it leaves the store as it was, after it the whole copy
        await self._ask(sql.SQL("COMMIT"), commit_s)
