"""Copies of the SQLite engine's tables, out of one read transaction and into one write transaction."""

# ruff: noqa: S608 - what is put into statements are names of tables and marks for parameters, never values

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterator

from anwen.errors import ConflictError
from anwen.store import history
from anwen.store import sqlite_schema as schema
from anwen.store.copying import BULK, Batch, columns, epoch_of

ROWS = 1024
"""Rows of a batch: some 1.5 MB."""


def dump(db: sqlite3.Connection) -> Generator[Batch, None, None]:
    """Yield every row of every table, in the order of its key. The write-ahead log grows until it has ended."""
    db.execute("BEGIN")
    try:
        for table in (*BULK, *map(schema.wrap_table, schema.epochs(db))):
            rows, width = db.execute(f"SELECT * FROM {table}"), len(columns(table))
            while batch := rows.fetchmany(ROWS):
                yield table, [row[:width] for row in batch]  # not `beside`, which other engines keep elsewhere
    finally:
        if db.in_transaction:  # a failed read of the disk has ended it
            db.execute("COMMIT")


def load(db: sqlite3.Connection, batches: Iterator[Batch]) -> None:
    """Take in rows within the writer's transaction. Raises ConflictError: there are rows already."""
    for table in (*BULK, *map(schema.wrap_table, schema.epochs(db))):
        if db.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone():
            raise ConflictError("the store is not empty: a copy is loaded into an empty one alone")
    loading = history.Loading()
    for table, batch in batches:
        if epoch := epoch_of(table):
            schema.make_wrap_table(db, epoch)
        width, rows = len(columns(table)), batch
        if table == "row":
            width, rows = width + 1, [(*row, history.pack(loading.take(row).beside)) for row in batch]
        db.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * width)})", rows)
