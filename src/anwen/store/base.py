"""What a store engine must do: look sealed rows up by random keys, and take idempotent writes.

Everything in it is an envelope, a wrap, a label or a random id. The protocol is key-value: an engine may run the
steps of a put one by one (rows, wraps, postings, then the claim of the version, which alone makes a row visible), so
that a leaderless database will do. Equal keys mean equal bytes: a repeated step changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from anwen.formats.wire import NOWHERE, Outcome

__all__ = ["NOWHERE", "Hit", "Outcome", "Posting", "PutResult", "PutRow", "Statistics", "Store", "StoredRow"]


class Posting(NamedTuple):  # a tuple, because a put makes thousands: a frozen dataclass takes five times as long
    """One index entry to place: into the first of `labels` that is free, a tombstone, or this record's already."""

    class_id: int
    unique: bool
    labels: tuple[bytes, ...]
    mac: bytes


class PutRow(NamedTuple):
    """One version of a record: the classes that were sealed together. Integers below 2**63."""

    collection: int
    subject: bytes
    record: bytes
    version: int
    tag: bytes  # names the commitments: two writers' halves of one version never mix
    collected_s: int
    expires_s: int
    classes: tuple[int, ...]
    sealed: bytes  # `formats.envelope.join_cells`
    wraps: bytes  # `formats.envelope.join_wraps`
    verified: bool
    postings: tuple[Posting, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A visible row, with those of its cells that are current and were asked for.

    A class is current in the highest version that holds it. `_index` holds the tokens of its own row's fields, so it is
    current in every row that is current for another class.
    """

    collection: int
    subject: bytes
    record: bytes
    version: int
    tag: bytes
    collected_s: int
    expires_s: int
    sealed: bytes
    wraps: bytes
    verified: bool
    labels: bytes = field(default=b"", compare=False, repr=False)  # what its postings took, as `placing.entries` reads


@dataclass(frozen=True, slots=True)
class PutResult:
    """Outcome of a row, and for each posting of a stored one which of its labels it has.

    NOWHERE for a posting of a repeated row whose label is not among those given.
    """

    outcome: Outcome
    slots: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Hit:
    """A label that is taken. A tombstone has record and mac of zero bytes."""

    label_row: int
    record: bytes
    mac: bytes


COUNT_MOST, COUNT_S = 1_000_000, 4.0
"""How many rows of a table are counted, and for how long: SQLite keeps to the first alone, Cassandra to the other."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts for `doctor`; none of them names anybody."""

    records: int
    rows: int
    postings: int
    unverified: int
    size_bytes: int
    settings: dict[str, str] = field(default_factory=dict)
    free_bytes: int = 0  # on the disk that it writes to; 0: not known
    complete: bool = True  # else the engine stopped, and there is at least so much


class Store(Protocol):
    """An engine. All methods may be called concurrently; concurrent writes share a commit."""

    engine: str
    """As a policy names it."""

    async def put(self, epoch: int, rows: Sequence[PutRow]) -> list[PutResult]:
        """Store rows, each wholly or not at all; outcomes in the order of `rows`.

        Durable on disk before it returns. Idempotent: the same rows again give the same outcomes. A row of version v
        needs v - 1 to be the record's current version (1: no record yet), of the same collection, subject and
        `collected_s`. Labels of the row's classes that earlier versions took, and this one did not, become tombstones
        in the same step. A posting whose record holds one of its labels already keeps it.

        Raises: StorageError: nothing of this call was stored. UnavailableError: some or all of it may be stored by now,
            or yet; the same rows again settle it.
        """

    async def get(self, epoch: int, records: Sequence[bytes], classes: Sequence[int]) -> list[StoredRow]:
        """Return, record by record, versions ascending, the rows that are current for any of `classes` (none: all).

        Unknown and deleted ids give none. A row without wraps in `epoch` has `trim.NO_WRAPS`.
        """

    async def find(self, labels: Sequence[bytes]) -> list[Hit]:
        """Return the taken labels, tombstones included, in the order of `labels`."""

    async def list_subjects(self, collection: int, subjects: Sequence[bytes], after: bytes, limit: int) -> list[bytes]:
        """Return record ids of these subjects in a collection (no subjects: of all), ascending, above `after`."""

    async def delete(self, records: Sequence[tuple[bytes, int]]) -> None:
        """Remove records up to a version: postings become tombstones, rows and wraps go, the ids stay spent.

        Durable before it returns, idempotent; unknown records are marked deleted all the same. Versions above the given
        one stay: their writer did not know of the deletion, nor it of them; deleting again removes them too.
        """

    async def epochs(self) -> list[int]:
        """Return the epochs that have wraps, ascending."""

    async def statistics(self) -> Statistics:
        """Return counts and the settings that durability depends on, read back from the engine.

        Within some seconds, however large the store: counting stops at COUNT_MOST or COUNT_S.
        """

    def members(self) -> tuple[int, int]:
        """Return how many members of the database are up, as far as is known without waiting, and how many there are.

        An engine that is one file, or that hides its members, counts as one.
        """

    async def warm(self) -> None:
        """Become as fast as the engine gets before somebody waits: a node does this before it serves."""

    async def close(self) -> None:
        """Finish what was begun and let go of the files."""
