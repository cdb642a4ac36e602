"""Find records by the values of indexed fields: one keeper round and, mostly, one node call."""

from __future__ import annotations

import dataclasses
import hmac
import logging
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from anwen.client.opening import stack
from anwen.client.quorum import Round
from anwen.client.records import Record, records_of
from anwen.client.session import Session
from anwen.crypto import blind_index
from anwen.errors import ProofError
from anwen.formats import wire
from anwen.formats.normalise import NORMALISER_VERSION

log = logging.getLogger("anwen.client")

FIRST_LABELS = 16
MOST_LABELS = 1024
MOST_A_CALL = 8192  # labels of one node call; nodes take twice as many
MISSES = 8
"""A search ends after so many free slots in a row: shared or abandoned slots leave shorter gaps."""


class Query(NamedTuple):
    """One value that is looked for in one field; sorts as keepers want tokens sorted."""

    collection: int
    field: int
    unique: bool
    token: bytes

    def __repr__(self) -> str:
        return f"Query({self.collection}, {self.field})"


@dataclass(slots=True)
class _Search:
    query: Query
    key: bytes = dataclasses.field(repr=False)  # K_w; lives as long as this search
    next_slot: int = 0
    batch: int = FIRST_LABELS
    misses: int = 0
    done: bool = False
    found: dict[bytes, Record] = dataclasses.field(default_factory=dict)


async def index_round(session: Session, purpose: str, queries: Sequence[Query]) -> tuple[Round, dict[Query, int]]:
    """Ask all live keepers for the K_w of each distinct query; return the round and each query's row in it."""
    _, generation = await session.current(purpose)
    distinct = sorted(set(queries))
    salt = session.random(wire.SALT_BYTES)
    body = wire.encode("index", salt, {"generation": generation}, {"tokens": token_table(distinct)})
    *_, found = session.combine(await session.ask_all("index", purpose, body), len(distinct))
    return found, {q: i for i, q in enumerate(distinct)}


def token_table(queries: Sequence[Query]) -> wire.Table:
    """Return distinct queries as the keepers see them, in the order given (which must be sorted)."""
    return {
        "collection": np.array([q.collection for q in queries], np.int64),
        "field": np.array([q.field for q in queries], np.int64),
        "normaliser": np.full(len(queries), NORMALISER_VERSION),
        "token": stack([q.token for q in queries], 32),
    }


async def find(
    session: Session, purpose: str, queries: Sequence[Query], classes: Sequence[int]
) -> list[dict[bytes, Record]]:
    """Return for each query the records that hold its value, by id, with their sealed cells of `classes` (none: all).

    Where keepers contradict each other every combination of their answers is tried: a posting's check value, which
    only the right K_w meets, decides.
    """
    if not queries:
        return []
    found, row_of = await index_round(session, purpose, queries)
    values, contradicted, _ = found.values()
    searches: dict[Query, list[_Search]] = {}
    for query, row in row_of.items():
        keys = [values[row].tobytes()] if not contradicted[row] else [value for value, _ in found.candidates(row)]
        searches[query] = [_Search(query, key) for key in keys]
    under_way = [s for several in searches.values() for s in several]
    while pending := [s for s in under_way if not s.done]:
        await _step(session, purpose, pending, classes)
    merged = {q: {r: record for s in several for r, record in s.found.items()} for q, several in searches.items()}
    return [merged[q] for q in queries]


async def _step(session: Session, purpose: str, searches: Sequence[_Search], classes: Sequence[int]) -> None:
    """Look the next labels of each search up, in one node call."""
    labels: list[bytes] = []
    spans: list[tuple[_Search, int]] = []
    for search in searches:
        if len(labels) + search.batch > MOST_A_CALL:
            break  # the others wait for the next call
        count = 1 if search.query.unique else search.batch
        spans.append((search, len(labels)))
        labels += blind_index.labels(search.key, search.next_slot, count)
    answer = await node_find(session, purpose, labels, classes)
    records = records_of(session.policy, answer)
    hits = {row: (record, mac) for row, record, mac in _hits(answer, len(labels))}
    for (search, start), end in zip(spans, [*(s for _, s in spans[1:]), len(labels)], strict=True):
        _take(search, [hits.get(i) for i in range(start, end)], records)


def _take(search: _Search, hits: Sequence[tuple[bytes, bytes] | None], records: Mapping[bytes, Record]) -> None:
    for hit in hits:
        search.misses = search.misses + 1 if hit is None else 0
        record = records.get(hit[0]) if hit else None
        if hit is None or record is None:
            continue
        expected = blind_index.posting_mac(search.key, hit[0], bytes.fromhex(record.subject))
        if not hmac.compare_digest(expected, hit[1]):
            log.warning("record %s: a node put it under a value that its writer did not give it", record.id)
            continue
        search.found[hit[0]] = record
    search.next_slot += len(hits)
    search.batch = min(search.batch * 2, MOST_LABELS)
    search.done = search.query.unique or search.misses >= MISSES


async def node_find(session: Session, purpose: str, labels: Sequence[bytes], classes: Sequence[int]) -> wire.Message:
    """Return a node's answer to labels."""
    tables: dict[str, wire.Table] = {
        "labels": {"label": stack(labels, 16)},
        "classes": {"class": np.array(classes, int)},
    }
    body = wire.encode("node_find", session.random(wire.SALT_BYTES), tables=tables)
    return await session.node("node_find", purpose, body, "rows")


def _hits(message: wire.Message, labels: int) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield hits: which of the labels asked for, record and check value. Raises ProofError: of another label."""
    hits = message.tables["hits"]
    if any(row >= labels for row in hits["label_row"].tolist()):
        raise ProofError("node: a hit of a label that was not asked for")
    for i in range(wire.rows_in(hits)):
        yield int(hits["label_row"][i]), hits["record"][i].tobytes(), hits["mac"][i].tobytes()


@dataclass(slots=True)
class Gap:
    """Where the free slots of one K_w begin: at or after `low`, before or at `high` once that is known.

    Slots fill from the front, so a free slot means that (but for short gaps) all later ones are free.
    """

    key: bytes = dataclasses.field(repr=False)
    low: int
    high: int | None = None
    free: int | None = None  # the first free slot, once it is known

    def probes(self) -> list[int]:
        """Return the slots to look at next: doubling steps, then sixteenths, then every slot that is left."""
        if self.high is None:
            return [self.low + (8 << i) for i in range(16)]
        if self.high - self.low > 16:
            return [self.low + (self.high - self.low) * i // 16 for i in range(1, 16)]
        return list(range(self.low, self.high))

    def learn(self, taken: AbstractSet[int]) -> None:
        """Take in which of the probes are taken."""
        probes = self.probes()
        first = next((p for p in probes if p not in taken), None)
        if self.high is not None and self.high - self.low <= 16:
            self.free = self.high if first is None else first
            return
        self.low = max([self.low, *(p for p in probes if p in taken and (first is None or p < first))])
        self.high = self.high if first is None else first


async def first_free(session: Session, purpose: str, gaps: Sequence[Gap]) -> None:
    """Find the first free slot of each gap; each step of all of them is one node call."""
    while pending := [g for g in gaps if g.free is None][: MOST_A_CALL // 16]:
        asked = [(gap, slot) for gap in pending for slot in gap.probes()]
        labels = [blind_index.labels(gap.key, slot, 1)[0] for gap, slot in asked]
        answer = await node_find(session, purpose, labels, [])
        taken: dict[int, set[int]] = {id(gap): set() for gap in pending}
        for row, _, _ in _hits(answer, len(labels)):
            taken[id(asked[row][0])].add(asked[row][1])
        for gap in pending:
            gap.learn(taken[id(gap)])
