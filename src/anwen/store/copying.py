"""What an engine offers beside `base.Store`: all that it holds, as rows, out and back into nothing.

Rows are those of docs/spec/store.md, the same for every engine, so that a copy of one may be loaded into another.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from anwen.errors import MalformedError
from anwen.store import engines

BULK = {"row": "bibibiiibb", "posting": "bbb", "subject": "bib", "deleted": "bi"}
"""Columns of each table, in the order of docs/spec/store.md: b bytes, i an integer from 0 to 2^63 - 1."""

_WRAPS, _WRAP = "bib", re.compile(r"wrap_([1-9][0-9]{0,9})")
Row = tuple[Any, ...]  # of int and bytes
Batch = tuple[str, list[Row]]
"""A table's name ("wrap_7": the wraps of epoch 7), and some of its rows."""


def columns(table: str) -> str:
    """Return a table's columns, as in `BULK`. Raises MalformedError: there is no such table."""
    kinds = BULK.get(table) or (_WRAPS if _WRAP.fullmatch(table) else "")
    if not kinds:
        raise MalformedError(f"no table {table!r} in a store")
    return kinds


def epoch_of(table: str) -> int:
    """Return whose wraps a table holds, 0 for one of `BULK`."""
    match = _WRAP.fullmatch(table)
    return int(match[1]) if match else 0


class Copying(Protocol):
    """A store that can be copied."""

    def dump(self) -> AsyncIterator[Batch]:
        """Yield every row; each record is whole, as it was at a moment of the copy, and writes go on meanwhile.

        All records are of one moment on SQLite and PostgreSQL, and on Cassandra each of its own: what was acknowledged
        before is there.

        Raises: StorageError.
        """

    async def load(self, batches: Iterator[Batch]) -> None:
        """Take in rows, durably, all or none: a crash at any point leaves an empty store or the whole copy.

        What `batches` raises undoes it, too. Nothing else is written meanwhile.

        Raises: ConflictError: the store is not empty. StorageError: nothing was kept.
        """

    async def close(self) -> None:
        """Let go of it."""


async def connect(engine: str, settings: Mapping[str, object], folder: Path, *, make: bool = True) -> Copying:
    """Return what copies the store that `engines.connect` opens with the same arguments.

    Args:
        make: whether a SQLite file is made where none is.

    Raises: what `engines.connect` does. NotFoundError: no file, and none was to be made.
    """
    store: Copying
    if engine == "sqlite":
        store = await engines.module(engine, engine).connect(settings, folder, make=make)
    else:
        store = await engines.module(engine, f"{engine}_copy").connect(settings, folder)
    return store
