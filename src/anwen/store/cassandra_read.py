"""What the Cassandra engine reads: each row by its record, each posting by its label."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
from collections import Counter, defaultdict
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from anwen.errors import MalformedError
from anwen.formats.envelope import split_cells
from anwen.store import base, history
from anwen.store.base import Hit, PutRow, Statistics, StoredRow
from anwen.store.cassandra_session import Keys, Session
from anwen.store.placing import Known, entries
from anwen.store.trim import NO_WRAPS, current

GROUP = 16
"""Keys that one statement names: fewer requests, while a member answers for few partitions at a time."""

_HEAD = struct.Struct(">16s16sQQQHHH")
"""Tag, subject, collection, collected, expires, bytes of labels, of unique ones, of the numbers of versions before."""
BUCKETS = 1024
_BURSTS = 32
"""Buckets that are read at a time when a whole collection is listed."""

ALL_ROWS = "SELECT record, version, body, verified, deleted FROM {ks}.row"
_WRAPS = "SELECT record, version, tag, wraps FROM {{ks}}.wrap_{}"
_ALL, _NEWEST = " WHERE record IN ?", " WHERE record IN ? PER PARTITION LIMIT 2"
_SOME = " WHERE record = ? AND version IN ?"
NEWEST_ROWS = ALL_ROWS + _NEWEST
POSTING = "SELECT label, record, run, mac, owner, owner_mac, owner_version FROM {ks}.posting WHERE label IN ?"
_VERSIONS = "SELECT record, version, deleted FROM {ks}.row WHERE record IN ? PER PARTITION LIMIT 1"
_ROW_KEYS = "SELECT record, version, verified, deleted FROM {ks}.row"
ALL_LABELS = "SELECT DISTINCT label FROM {ks}.posting"
_SUBJECT = "SELECT record FROM {ks}.subject WHERE subject = ? AND collection = ? AND record > ? LIMIT ?"
_LISTING = "SELECT record FROM {ks}.listing WHERE collection = ? AND bucket = ? AND record > ? LIMIT ?"


@dataclass(frozen=True, slots=True)
class Version:
    """A visible version of a record: one cell of the database, so that two writers' halves never mix."""

    row: StoredRow
    unique: frozenset[bytes]  # those of its labels that unique values took
    before: frozenset[int]  # versions that were current, for some class, when it was written

    def known(self) -> Known:
        return Known(self.row, self.before)

    def held(self) -> set[bytes]:
        return {label for _, label in entries(self.row.labels)}

    def named(self) -> dict[int, set[bytes]]:
        """Return the classes that it holds, each with its labels."""
        named: dict[int, set[bytes]] = {}
        with contextlib.suppress(MalformedError):  # junk holds no class
            named = {class_id: set() for class_id in split_cells(self.row.sealed)}
        for class_id, label in entries(self.row.labels):
            named.setdefault(class_id, set()).add(label)
        return named


@dataclass(slots=True)
class Rows:
    """What is there of one record; `hidden` are versions that a deletion hides, until it has removed them."""

    versions: list[Version] = field(default_factory=list)
    hidden: list[Version] = field(default_factory=list)
    deleted: int | None = None

    def held(self) -> set[bytes]:
        return {label for version in self.versions for label in version.held()}

    def named(self) -> set[bytes]:
        """Return the labels of current classes: those of a class that an update replaced count for nobody any more."""
        current: dict[int, set[bytes]] = {}
        for version in self.versions:
            current |= version.named()
        return set().union(*current.values())

    def numbers(self) -> set[int]:
        return {v.row.version for v in (*self.versions, *self.hidden)}

    def needed(self, besides: Iterable[int] = ()) -> set[int]:
        """Return the numbers of the newest version and of `besides`, and of those that were current before them."""
        if not self.versions:
            return set()
        newest = self.versions[-1].row.version
        roots = {newest, *(number for number in besides if number < newest)}
        return roots.union(*(v.before for v in self.versions if v.row.version in roots))

    def has(self, version: int, tag: bytes) -> bool:
        """Return whether a version is there, and visible, as one writer sealed it."""
        return any((v.row.version, v.row.tag) == (version, tag) for v in self.versions)


@dataclass(slots=True)
class Label:
    """What is there under one label: entries of an exact value, the owner of a unique one, or a tombstone."""

    entries: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)  # record, run, mac
    owner: bytes | None = None  # empty: a tombstone
    owner_mac: bytes = b""
    owner_version: int | None = None
    buried: bool = False

    def records(self) -> set[bytes]:
        return {record for record, _, _ in self.entries}

    def mac_of(self, record: bytes) -> bytes | None:
        """Return the check value of a record's entry; None: it has none here."""
        macs = [mac for entered, _, mac in self.entries if entered == record]
        return self.owner_mac if self.owner == record else next(iter(macs), None)


def body(row: PutRow | StoredRow, labels: bytes, unique: Iterable[bytes], before: Iterable[int]) -> bytes:
    """Return a version's cell. `before`: the versions that were current until then."""
    parts = labels, b"".join(unique), history.pack(before)
    sizes = map(len, parts)
    head = _HEAD.pack(row.tag, row.subject, row.collection, row.collected_s, row.expires_s, *sizes)
    return head + b"".join(parts) + row.sealed


def _version(record: bytes, version: int, cell: bytes, verified: bool) -> Version:
    if len(cell) < _HEAD.size or max(_HEAD.unpack_from(cell)[2:5]) >= 2**63:  # junk, of which nothing is current
        cell = bytes(_HEAD.size) + b"?"
    tag, subject, collection, collected_s, expires_s, *sizes = _HEAD.unpack_from(cell)
    ends = list(itertools.accumulate(sizes, initial=_HEAD.size))
    labels_, marked, numbers = (cell[at:end] for at, end in itertools.pairwise(ends))
    unique = frozenset(marked[i : i + 16] for i in range(0, len(marked), 16))
    sealed = cell[ends[-1] :]
    about = collection, subject, record, version, tag, collected_s, expires_s
    row = StoredRow(*about, sealed, NO_WRAPS, verified, labels_)
    return Version(row, unique, frozenset(history.unpack(numbers)))


def groups(keys: Iterable[bytes]) -> list[tuple[list[bytes]]]:
    """Return the parameters of statements that name GROUP keys each."""
    distinct = list(dict.fromkeys(keys))
    return [(distinct[at : at + GROUP],) for at in range(0, len(distinct), GROUP)]


async def rows(session: Session, records: Iterable[bytes], statement: str = ALL_ROWS + _ALL) -> dict[bytes, Rows]:
    """Return all that is there of records, or what `statement` selects; versions ascending, nothing of unknown ones."""
    found: dict[bytes, Rows] = {}
    for part in await session.run(statement, groups(records)):
        gather(part, found)
    return found


async def current_rows(
    session: Session, records: Iterable[bytes], besides: Iterable[tuple[bytes, int]] = ()
) -> dict[bytes, Rows]:
    """Return of records, however often they were updated, what is current, and what was before the newest version.

    Args:
        besides: records and versions to be read, too, each with what was current before it.
    """
    found, wanted = await rows(session, records, NEWEST_ROWS), defaultdict[bytes, set[int]](set)
    for record, number in besides:
        wanted[record].add(number)
    asked = {record: here.numbers() for record, here in found.items()}
    while keys := [(r, list(rest)) for r, here in found.items() if (rest := here.needed(wanted[r]) - asked[r])]:
        for part in await session.run(ALL_ROWS + _SOME, keys):
            gather(part, found)
        for record, numbers in keys:
            asked[record].update(numbers)
    return found


def gather(rows_: Iterable[tuple[bytes, int, bytes | None, bool, int | None]], found: dict[bytes, Rows]) -> None:
    """Add rows of the table to what is known of their records."""
    added: dict[bytes, Rows] = {}
    for record, version, cell, verified, deleted in rows_:
        here = added[record] = found.setdefault(record, Rows(deleted=deleted))
        if cell is not None:  # none: the mark of a deletion alone
            visible = deleted is None or version > deleted
            (here.versions if visible else here.hidden).append(_version(record, version, cell, bool(verified)))
    for here in added.values():
        for versions in (here.versions, here.hidden):
            versions.sort(key=lambda v: v.row.version)


async def labels(session: Session, wanted: Iterable[bytes]) -> dict[bytes, Label]:
    """Return what is there under labels; an empty one where nothing is."""
    keys = groups(wanted)
    found = {label: Label() for (part,) in keys for label in part}
    for rows_ in await session.run(POSTING, keys):
        for label, record, run, mac, owner, owner_mac, owner_version in rows_:
            here = found[label]
            here.owner, here.owner_mac, here.owner_version = owner, owner_mac or b"", owner_version
            if record:
                here.entries.append((record, run, mac))
            here.buried |= record == b"" or owner == b""
    return found


async def get(session: Session, epoch: int | None, records: Sequence[bytes], classes: Sequence[int]) -> list[StoredRow]:
    """Return what is current of records. `epoch`: None where it has no wraps."""
    wanted = list(dict.fromkeys(records))
    found, wrapped = await asyncio.gather(
        rows(session, wanted, NEWEST_ROWS), _wraps(session, epoch, _NEWEST, groups(wanted))
    )
    needed = {record: here.needed() for record, here in found.items()}
    lacking = [(r, list(rest)) for r, numbers in needed.items() if (rest := numbers - found[r].numbers())]
    # by tag, too: those of runs that were cut off may be there before those of the row
    there = {(r, v.row.version, v.row.tag) for r, here in found.items() for v in here.versions}
    have = {(r, number) for r, number, _ in there & wrapped.keys()}
    wrapless = [(r, some) for r, numbers in needed.items() if (some := [n for n in numbers if (r, n) not in have])]
    more, others = await asyncio.gather(session.run(ALL_ROWS + _SOME, lacking), _wraps(session, epoch, _SOME, wrapless))
    for part in more:
        gather(part, found)
    wrapped |= others
    asked, given = frozenset(classes), []
    for record in wanted:
        if record in found:
            with_wraps = [_with_wraps(v.row, wrapped) for v in found[record].versions]
            given += current(with_wraps, asked)
    return given


def _with_wraps(row: StoredRow, wrapped: dict[tuple[bytes, int, bytes], bytes]) -> StoredRow:
    return replace(row, wraps=wrapped.get((row.record, row.version, row.tag), NO_WRAPS))


async def wraps(session: Session, epoch: int, records: Iterable[bytes]) -> dict[tuple[bytes, int, bytes], bytes]:
    """Return all wraps of records in an epoch, by record, version and tag."""
    return await _wraps(session, epoch, _ALL, groups(records))


async def _wraps(session: Session, epoch: int | None, where: str, keys: Keys) -> dict[tuple[bytes, int, bytes], bytes]:
    if epoch is None:
        return {}
    parts = await session.run(_WRAPS.format(int(epoch)) + where, keys)
    return {(record, version, tag): blob for part in parts for record, version, tag, blob in part}


async def find(session: Session, wanted: Sequence[bytes]) -> list[Hit]:
    """Return the taken labels, in the order of `wanted`.

    A writer that was cut off may have left its entry beside another's: the one whose record names the label counts.
    """
    found = await labels(session, wanted)
    shared = {record for label in found.values() if len(label.records()) > 1 for record in label.records()}
    known = await current_rows(session, shared)
    hits = []
    for i, wanted_label in enumerate(wanted):
        label = found[wanted_label]
        live = {record: mac for record, _, mac in sorted(label.entries, reverse=True)}
        if label.owner:
            live = {label.owner: label.owner_mac}
        named = [r for r in live if r in known and wanted_label in known[r].named()]
        if live:
            record = named[0] if named else min(live)
            hits.append(Hit(i, record, live[record]))
        elif label.buried:
            hits.append(Hit(i, bytes(16), bytes(16)))
    return hits


def bucket(record: bytes) -> int:
    """Return which part of a collection's listing a record is in: ascending, as records are."""
    return int.from_bytes(record[:2]) * BUCKETS >> 16


async def list_subjects(
    session: Session, collection: int, subjects: Sequence[bytes], after: bytes, limit: int
) -> list[bytes]:
    """Return at most `limit` record ids greater than `after`, ascending; none whose row a cut-off put did not reach."""
    found: list[bytes] = []
    while len(found) < limit:
        page = await _listed(session, collection, subjects, after, limit)
        parts = await session.run(_VERSIONS, groups(page))
        there = {r for part in parts for r, version, gone in part if version is not None and version > (gone or 0)}
        found += [record for record in page if record in there]
        if len(page) < limit:
            break
        after = page[-1]
    return found[:limit]


async def _listed(
    session: Session, collection: int, subjects: Sequence[bytes], after: bytes, limit: int
) -> list[bytes]:
    if subjects:
        keys = [(subject, collection, after, limit) for subject in dict.fromkeys(subjects)]
        return sorted({r for part in await session.run(_SUBJECT, keys) for (r,) in part})[:limit]
    found: list[bytes] = []
    start = bucket(after)
    while start < BUCKETS and len(found) < limit:
        stop = min(start + _BURSTS, BUCKETS)
        parts = await session.run(_LISTING, [(collection, b, after, limit) for b in range(start, stop)])
        found += [r for part in parts for (r,) in part]
        start = stop
    return found[:limit]


async def statistics(session: Session, disk_bytes: int, settings: dict[str, str]) -> Statistics:
    """Return counts: reads the keys of rows and those of postings, COUNT_S long each at most."""
    counts = Counter[str]()
    complete = [await _within_time(count(session, counts)) for count in (_count_rows, _count_postings)]
    records, versions, postings = counts["records"], counts["versions"], counts["postings"]
    size_bytes = max(disk_bytes, 16 * (records + versions + postings))  # what is in memory alone is not on disk yet
    return Statistics(records, versions, postings, counts["unverified"], size_bytes, settings, complete=all(complete))


async def _within_time(counting: Awaitable[None]) -> bool:
    """Return whether all was counted before COUNT_S had passed."""
    try:
        async with asyncio.timeout(base.COUNT_S):
            await counting
    except TimeoutError:
        return False
    return True


async def _count_rows(session: Session, counts: Counter[str]) -> None:
    last = None
    async for rows_ in session.pages(_ROW_KEYS):
        for record, version, verified, deleted in rows_:  # a record's rows come together
            if version is not None and (deleted is None or version > deleted):
                counts["records"] += record != last
                counts["versions"] += 1
                counts["unverified"] += not verified
                last = record


async def _count_postings(session: Session, counts: Counter[str]) -> None:
    async for labels_ in session.pages(ALL_LABELS):
        counts["postings"] += len(labels_)
