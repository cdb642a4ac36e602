"""Copies of the Cassandra engine's tables: each record whole, as it was at some moment of the copy.

There is no snapshot of a cluster. A copy is put together in a SQLite file of its own: rows are read page by page, and
what belongs to them (labels, wraps) right after, again where an update came between. Whatever was acknowledged before
the copy began is in it. A load writes under a mark, with which no node starts: so it counts as all or nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from anwen.errors import ConflictError
from anwen.store import cassandra_read as read
from anwen.store import cassandra_schema as schema
from anwen.store import cassandra_write as write
from anwen.store import history, sqlite_copy, sqlite_schema
from anwen.store.cassandra_read import Label, Rows, Version
from anwen.store.cassandra_session import Session, Settings
from anwen.store.copying import Batch, Row, epoch_of
from anwen.store.placing import entries

log = logging.getLogger("anwen.store")

_ROW = "INSERT INTO {ks}.row (record, version, body, verified) VALUES (?, ?, ?, ?) USING TIMESTAMP ?"
_ADD_WRAP = "INSERT INTO wrap_{} VALUES (?, ?, ?)"
_RUN = b"copy"
_AT = 2
"""Timestamp of what a load writes: as if by version 1, so that every later version may bury it."""
_TRIES = 8
_FILE = "copy.sqlite"


async def connect(settings: Mapping[str, object], folder: Path) -> CassandraCopy:
    """Return what copies the store that `cassandra.connect` opens with the same settings. Raises what that raises.

    A copy is put together in `folder`, and takes up to twice as much room there as the backup will.
    """
    session = Session(Settings.parse(settings, folder))
    await session.open()
    try:
        await schema.make(session)
        await schema.check(session)
    except BaseException:
        await session.close()
        raise
    return CassandraCopy(session, folder)


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Give the block a folder of its own, which goes at its end; those of copies that were killed go first.

    Whoever lives holds a lock on what is his, and none that starts looks before that is so.
    """
    with contextlib.ExitStack() as held:
        with _locked(folder, fcntl.LOCK_EX):
            for left in sorted(folder.glob(f"copy-*/{_FILE}")):  # not whatever else an operator calls so
                at_once = fcntl.LOCK_EX | fcntl.LOCK_NB
                with contextlib.suppress(BlockingIOError, FileNotFoundError), _locked(left.parent, at_once):
                    shutil.rmtree(left.parent)
            scratch = Path(tempfile.mkdtemp(prefix="copy-", dir=folder))  # a crash leaves it to the next copy
            held.enter_context(_locked(scratch, fcntl.LOCK_EX))
        held.callback(shutil.rmtree, scratch)
        yield scratch


@contextlib.contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    """Hold a folder's lock, which ends with this process. Raises BlockingIOError, with LOCK_NB: another one does."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)


class CassandraCopy:
    """A `store.copying.Copying` on a cluster."""

    def __init__(self, session: Session, folder: Path) -> None:
        self._session, self._folder = session, folder

    async def close(self) -> None:
        """Let go of all connections."""
        await self._session.close()

    # --- out -----------------------------------------------------------------------------------------------------

    async def dump(self) -> AsyncIterator[Batch]:
        with (
            _scratch(self._folder) as scratch,
            contextlib.closing(sqlite_schema.open_writer(scratch / _FILE)) as db,
        ):
            db.execute("PRAGMA synchronous = OFF")  # nothing of it is to outlive this process
            db.execute("BEGIN")
            draft = _Draft(db, await schema.epochs(self._session))
            async for found in self._records():
                await self._add(draft, found)
            async for part in self._session.pages(read.ALL_LABELS):
                draft.add_tombstones(part)
            db.execute("COMMIT")
            for batch in sqlite_copy.dump(db):
                yield batch

    async def _records(self) -> AsyncIterator[dict[bytes, Rows]]:
        """Yield what is there of records, some at a time."""
        last: dict[bytes, Rows] = {}
        async for part in self._session.pages(read.ALL_ROWS):
            found, last = last, {}
            read.gather(part, found)
            if found:  # versions of the last one may go on in the next page
                last = dict([found.popitem()])
            yield found
        yield last

    async def _add(self, draft: _Draft, found: dict[bytes, Rows]) -> None:
        """Add records, and again those whose labels others have by now."""
        while found:
            labels = await self._settled(found)
            versioned = [record for record, here in found.items() if here.versions]
            wraps = {epoch: await read.wraps(self._session, epoch, versioned) for epoch in draft.epochs}
            outdated = [other for record, here in found.items() for other in draft.add(record, here, labels, wraps)]
            found = {record: Rows() for record in outdated} | await read.rows(self._session, outdated)

    async def _settled(self, found: dict[bytes, Rows]) -> dict[bytes, Label]:
        """Return what is there under the labels of records; brings `found` up to date until both are of a piece."""
        labels: dict[bytes, Label] = {}
        look = found
        for _ in range(_TRIES):
            labels |= await read.labels(self._session, (la for here in look.values() for la in here.held()))
            torn = [record for record, here in look.items() if _lacks_entry(record, here, labels)]
            if not torn:
                return labels
            look = {record: Rows() for record in torn} | await read.rows(self._session, torn)
            found |= look
        for record in look:
            log.warning("record %s has no entry under a label that it names: nobody finds it there", record.hex())
        return labels

    # --- in ------------------------------------------------------------------------------------------------------

    async def load(self, batches: Iterator[Batch]) -> None:
        names = sorted(await schema.tables(self._session) - {"loading"})
        if not await schema.is_loading(self._session) and await self._holds_anything(names):
            raise ConflictError("the store is not empty: a copy is loaded into an empty one alone")
        await schema.mark_loading(self._session)
        for name in names:  # also what a load that was cut off left
            await schema.empty(self._session, name)
        loading = history.Loading()
        for table, rows in batches:
            await self._take(table, rows, loading)
        # commit point: a crash before it leaves the mark, with which no node starts; after it the whole copy
        await schema.unmark_loading(self._session)

    async def _holds_anything(self, names: Sequence[str]) -> bool:
        for name in names:
            (rows,) = await self._session.run(f"SELECT * FROM {{ks}}.{name} LIMIT 1", [()])  # noqa: S608 - our own names
            if rows:
                return True
        return False

    async def _take(self, table: str, rows: Sequence[Row], loading: history.Loading) -> None:
        run = self._session.run
        if epoch := epoch_of(table):
            await schema.make_wrap_table(self._session, epoch)
            known = await read.rows(self._session, (record for record, *_ in rows))
            tags = {(record, v.row.version): v.row.tag for record, here in known.items() for v in here.versions}
            keys = [(r, v, tags[r, v], wraps, 2 * v) for r, v, wraps in rows if (r, v) in tags]
            await run(write.WRAP.format(epoch), keys)
        elif table == "row":
            await run(_ROW, [_cells(loading.take(row)) for row in rows])
        elif table == "posting":  # of unique values, too: whoever finds such an entry takes the value as taken
            await run(write.POSTING, [(la, r, _RUN if r else b"", mac, _AT if r else 1) for la, r, mac in rows])
        elif table == "subject":
            await asyncio.gather(
                run(write.SUBJECT, [(*row, _AT) for row in rows]),
                run(write.LISTING, [(collection, read.bucket(r), r, _AT) for _, collection, r in rows]),
            )
        else:
            await run(write.MARK, [(version, version, record) for record, version in rows])


class _Draft:
    """A copy that is being put together, in the tables of the SQLite engine."""

    def __init__(self, db: sqlite3.Connection, epochs: Sequence[int]) -> None:
        self.epochs = epochs
        self._db = db
        for epoch in epochs:
            sqlite_schema.make_wrap_table(db, epoch)

    def add(
        self,
        record: bytes,
        here: Rows,
        labels: Mapping[bytes, Label],
        wraps: Mapping[int, Mapping[tuple[bytes, int, bytes], bytes]],
    ) -> list[bytes]:
        """Put a record as it is now in the place of what the copy has of it.

        Returns the records that the copy has under labels that are this one's by now: they have changed since.
        """
        run = self._db.execute
        self._forget(record)
        if here.deleted is not None:
            run("REPLACE INTO deleted VALUES (?, ?)", (record, here.deleted))
        for v in here.versions:
            run("INSERT INTO row VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, x'')", _row(v))
            run("REPLACE INTO subject VALUES (?, ?, ?)", (v.row.subject, v.row.collection, record))
            for epoch, known in wraps.items():
                if wrap := known.get((record, v.row.version, v.row.tag)):
                    run(_ADD_WRAP.format(int(epoch)), (record, v.row.version, wrap))
        outdated = []
        for label in here.held():
            if (mac := labels[label].mac_of(record)) is not None:
                held = run("SELECT record FROM posting WHERE label = ?", (label,)).fetchone()
                outdated += [held[0]] if held and held[0] not in (b"", record) else []
                run("REPLACE INTO posting VALUES (?, ?, ?)", (label, record, mac))
        return outdated

    def _forget(self, record: bytes) -> None:
        run = self._db.execute
        for labels, subject, collection in run(
            "SELECT labels, subject, collection FROM row WHERE record = ?", (record,)
        ):
            held = [(label, record) for _, label in entries(labels)]
            self._db.executemany("DELETE FROM posting WHERE label = ? AND record = ?", held)
            run(
                "DELETE FROM subject WHERE subject = ? AND collection = ? AND record = ?", (subject, collection, record)
            )
        for table in ("row", *map(sqlite_schema.wrap_table, self.epochs)):
            run(f"DELETE FROM {table} WHERE record = ?", (record,))  # noqa: S608 - our own names

    def add_tombstones(self, labels: Iterable[tuple[bytes]]) -> None:
        """Add labels that hold nobody of the copy, without which a search for later ones would end too early."""
        self._db.executemany("INSERT OR IGNORE INTO posting VALUES (?, x'', x'')", labels)


def _cells(loaded: history.Loaded) -> Row:
    """Return the columns of the table."""
    row = loaded.row
    return row.record, row.version, read.body(row, row.labels, (), loaded.before), row.verified, 2 * row.version


def _row(version: Version) -> Row:
    r = version.row
    about = (r.record, r.version, r.tag, r.collection, r.subject, r.collected_s, r.expires_s, int(r.verified))
    return *about, r.labels, r.sealed


def _lacks_entry(record: bytes, here: Rows, labels: Mapping[bytes, Label]) -> bool:
    """Return whether a record has no entry under a label that one of its current classes names."""
    return any(labels[label].mac_of(record) is None for label in here.named())
