"""Copies of the PostgreSQL engine's tables, over a connection of its own: out of one snapshot, into one transaction."""

# ruff: noqa: S608 - what is put into statements are names of tables and marks for parameters, never values

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import psycopg
from psycopg import sql

from anwen.errors import ConflictError, StorageError, UnavailableError
from anwen.store import postgresql_link
from anwen.store import postgresql_schema as schema
from anwen.store.copying import BULK, Batch, Row, columns, epoch_of

ROWS = 1024
_TYPES = {"b": "bytea", "i": "bigint"}
_VERIFIED = 7
"""Column of `row` that is a boolean here."""


async def connect(settings: Mapping[str, object], folder: Path) -> PostgresqlCopy:
    """Return what copies the store that `postgresql.connect` opens with the same settings.

    Raises: PolicyError: as there. UnavailableError: no server answers.
    """
    hosts = postgresql_link.target(settings, folder).hosts
    for host in hosts:
        with contextlib.suppress(psycopg.Error):
            db = await psycopg.AsyncConnection.connect(host, autocommit=True)
            try:
                await schema.check(db, len(hosts))
                await schema.make(db)
            except BaseException:
                await db.close()
                raise
            return PostgresqlCopy(db)
    raise UnavailableError("store postgresql: no server takes writes")


class PostgresqlCopy:
    """A `store.copying.Copying` on PostgreSQL."""

    def __init__(self, db: schema.Connection) -> None:
        self._db = db

    async def dump(self) -> AsyncIterator[Batch]:
        async with self._transaction("READ ONLY"):
            for table in await self._tables():
                # by key: the order in which rows lie would tell which were written together
                keys = "1, 2" if table != "subject" else "1, 2, 3"
                async with self._db.cursor("copy") as cursor:
                    await cursor.execute(sql.SQL("SELECT * FROM {} ORDER BY " + keys).format(sql.Identifier(table)))
                    while rows := await cursor.fetchmany(ROWS):
                        yield table, [tuple(int(v) if isinstance(v, bool) else v for v in row) for row in rows]

    async def load(self, batches: Iterator[Batch]) -> None:
        async with self._transaction("READ WRITE"):
            await self._db.execute("LOCK TABLE row, posting, subject, deleted IN EXCLUSIVE MODE")
            for table in await self._tables():
                found = await self._db.execute(sql.SQL("SELECT 1 FROM {} LIMIT 1").format(sql.Identifier(table)))
                if await found.fetchone():
                    raise ConflictError("the store is not empty: a copy is loaded into an empty one alone")
            for table, rows in batches:
                await self._take(table, rows)

    async def close(self) -> None:
        """Let go of the connection."""
        await self._db.close()

    async def _tables(self) -> list[str]:
        return [*BULK, *map(schema.wrap_table, await schema.epochs(self._db))]

    async def _take(self, table: str, rows: list[Row]) -> None:
        if epoch := epoch_of(table):
            await schema.make_wrap_table(self._db, epoch)
        types = [_TYPES[kind] for kind in columns(table)]
        if table == "row":
            types[_VERIFIED] = "boolean"
            rows = [(*r[:_VERIFIED], bool(r[_VERIFIED]), *r[_VERIFIED + 1 :]) for r in rows]
        copying = sql.SQL("COPY {} FROM STDIN (FORMAT BINARY)").format(sql.Identifier(table))
        async with self._db.cursor() as cursor, cursor.copy(copying) as copy:
            copy.set_types(types)
            for row in rows:
                await copy.write_row(row)

    @contextlib.asynccontextmanager
    async def _transaction(self, access: str) -> AsyncIterator[None]:
        """One snapshot for the whole block, however long it takes; what fails in it leaves nothing."""
        begin = sql.SQL("BEGIN ISOLATION LEVEL REPEATABLE READ " + access)
        try:
            await self._db.execute(begin)
            try:
                await self._db.execute("SET LOCAL statement_timeout = 0")
                await self._db.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
                yield
                # commit point: a crash before it leaves the store as it was, after it the whole copy
                await self._db.execute("COMMIT")
            except BaseException:
                await self._db.execute("ROLLBACK")
                raise
        except psycopg.Error as error:
            name = type(error).__name__
            raise StorageError(f"store postgresql: {name} {error.sqlstate or ''}; look whether it is empty") from error
