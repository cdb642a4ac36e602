"""Find records by the values of indexed fields: one keeper round and, mostly, one node call."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import hmac
import itertools
import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from anwen.client.opening import stack
from anwen.client.quorum import Report, Round, Rows
from anwen.client.records import Record, records_of
from anwen.client.rounds import candidates, second_look, under_current
from anwen.client.session import Session
from anwen.crypto import blind_index
from anwen.errors import AnwenError, ProofError
from anwen.formats import wire
from anwen.formats.answer import Answer
from anwen.formats.normalise import NORMALISER_VERSION

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
    row: int  # of the query in its round
    key: bytes = dataclasses.field(repr=False)  # K_w; lives as long as this search
    next_slot: int = 0
    batch: int = FIRST_LABELS
    misses: int = 0
    done: bool = False
    node: str = ""  # which answered last
    found: dict[bytes, Record] = dataclasses.field(default_factory=dict)


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
    only the right K_w meets, decides. Nothing checks a miss: it is believed once two keepers told each component of
    K_w, as far as they are not down, and a second node shows nothing either.
    """
    if not queries:
        return []
    distinct = sorted(set(queries))
    columns = token_table(distinct)

    def body_for(generation: int, rows: Rows) -> bytes:
        tokens = {name: column[rows] for name, column in columns.items()}
        salt = session.random(wire.SALT_BYTES)
        return wire.encode("index", salt, {"generation": generation}, {"tokens": tokens})

    async def ask(_: int, generation: int) -> tuple[int, Mapping[str, Answer]]:
        return generation, await session.ask_all("index", purpose, body_for(generation, np.arange(len(distinct))))

    generation, answers = await under_current(session, purpose, ask)
    *_, doubled, found = session.combine(answers, len(distinct))
    nothing: dict[Query, dict[bytes, Record]] = {q: {} for q in distinct}  # of one without candidates, too
    results = nothing | await _look_up(session, purpose, classes, _searches(distinct, found))
    unsure = np.array([i for i, q in enumerate(distinct) if not (doubled[i] or results[q])], np.intp)
    await session.ask_rest("index", purpose, found, unsure, functools.partial(body_for, generation))
    session.report_disputes(found)
    _, contradicted, _ = found.values()
    again = [s for s in _searches(distinct, found) if contradicted[s.row] and s.row in unsure]
    for query, records in (await _look_up(session, purpose, classes, again)).items():
        results[query] |= records
    return [results[q] for q in queries]


def _searches(queries: Sequence[Query], found: Round) -> list[_Search]:
    """Return a search for each K_w that a query may have."""
    values, contradicted, _ = found.values()
    keys = [candidates(found, i) if contradicted[i] else [values[i].tobytes()] for i in range(len(queries))]
    return [_Search(query, i, key) for i, query in enumerate(queries) for key in keys[i]]


async def _look_up(
    session: Session, purpose: str, classes: Sequence[int], searches: Sequence[_Search]
) -> dict[Query, dict[bytes, Record]]:
    """Carry searches out; those of queries without a hit are repeated at a second node."""
    await _run(session, purpose, classes, searches)
    found: dict[Query, dict[bytes, Record]] = {s.query: {} for s in searches}
    for search in searches:
        found[search.query] |= search.found
    missed: dict[str, list[_Search]] = {}
    for search in searches:
        if not found[search.query]:
            missed.setdefault(search.node, []).append(search)

    async def look(several: Sequence[_Search], nodes: Sequence[str]) -> dict[tuple[Query, bytes], Record]:
        again = [_Search(s.query, s.row, s.key) for s in several]
        await _run(session, purpose, classes, again, nodes)
        return {(s.query, record): sealed for s in again for record, sealed in s.found.items()}

    for first, several in missed.items():
        shown = await second_look(session, first, functools.partial(look, several), proven=True)
        for (query, record), sealed in shown.items():
            found[query][record] = sealed
    return found


async def _run(
    session: Session, purpose: str, classes: Sequence[int], searches: Sequence[_Search], nodes: Sequence[str] = ()
) -> None:
    while pending := [s for s in searches if not s.done]:
        await _step(session, purpose, pending, classes, nodes)


async def _step(
    session: Session, purpose: str, searches: Sequence[_Search], classes: Sequence[int], nodes: Sequence[str]
) -> None:
    """Look the next labels of each search up, in one node call."""
    labels: list[bytes] = []
    spans: list[tuple[_Search, int]] = []
    for search in searches:
        if len(labels) + search.batch > MOST_A_CALL:
            break  # the others wait for the next call
        count = 1 if search.query.unique else search.batch
        spans.append((search, len(labels)))
        labels += blind_index.labels(search.key, search.next_slot, count)
    node, (hits, records) = await node_find(session, purpose, labels, classes, nodes)
    for (search, start), end in zip(spans, [*(s for _, s in spans[1:]), len(labels)], strict=True):
        search.node = node
        collection = session.policy.collection_by_id[search.query.collection].name
        span = [hits.get(i) for i in range(start, end)]
        proven = [hit and _proven(search, collection, hit, records) for hit in span]
        if any(span) and not any(proven):
            # nothing here is the value's: tombstones, or a node that calls every label taken, without end
            taken = await _taken(session, purpose, node, labels[start:end])
            span = [hit if i in taken else None for i, hit in enumerate(span)]
        _take(search, span, proven)
        if any(hit and hit[0] in records and not record for hit, record in zip(span, proven, strict=True)):
            # a node made it up, or a writer did: the posting alone does not tell
            session.report(Report((), f"{node} shows a record under a value that its writer did not give it", ()))


def _take(search: _Search, hits: Sequence[tuple[bytes, bytes] | None], proven: Sequence[Record | None]) -> None:
    """Take in what lies under a search's next labels, and which of it is the value's."""
    for hit, record in zip(hits, proven, strict=True):
        search.misses = search.misses + 1 if hit is None else 0
        if hit and record:
            search.found[hit[0]] = record
    search.next_slot += len(hits)
    search.batch = min(search.batch * 2, MOST_LABELS)
    search.done = search.query.unique or search.misses >= MISSES


def _proven(
    search: _Search, collection: str, hit: tuple[bytes, bytes], records: Mapping[bytes, Record]
) -> Record | None:
    """Return the record of a posting whose check value says that it is the searched value's."""
    record = records.get(hit[0])
    if record is None or record.collection != collection:
        return None
    expected = blind_index.posting_mac(search.key, hit[0], bytes.fromhex(record.subject))
    return record if hmac.compare_digest(expected, hit[1]) else None


async def node_find(
    session: Session, purpose: str, labels: Sequence[bytes], classes: Sequence[int], nodes: Sequence[str] = ()
) -> tuple[str, tuple[dict[int, tuple[bytes, bytes]], dict[bytes, Record]]]:
    """Return a node and what it says of labels: (record, mac) by the label's row, and the records."""
    tables: dict[str, wire.Table] = {
        "labels": {"label": stack(labels, 16)},
        "classes": {"class": np.array(classes, int)},
    }
    body = wire.encode("node_find", session.random(wire.SALT_BYTES), tables=tables)

    def read(answer: bytes) -> tuple[dict[int, tuple[bytes, bytes]], dict[bytes, Record]]:
        message = wire.decode(answer, "rows")
        table, records = message.tables["hits"], records_of(session.policy, message)
        rows = table["label_row"].tolist()
        pairs = zip(table["record"], table["mac"], strict=True)
        hits = {row: (record.tobytes(), mac.tobytes()) for row, (record, mac) in zip(rows, pairs, strict=True)}
        if len(hits) < len(rows) or max(rows, default=0) >= len(labels):
            raise ProofError("a label twice, or one that was not asked for")
        if not records.keys() <= {record for record, _ in hits.values()}:
            raise ProofError("records that lie under no label asked for")
        return hits, records

    return await session.node("node_find", purpose, body, read, nodes)


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
    """Find the first free slot of each gap; each step of all of them is one node call, and one of a second node."""
    while pending := [g for g in gaps if g.free is None][: MOST_A_CALL // 16]:
        asked = [(gap, slot) for gap in pending for slot in gap.probes()]
        labels = [blind_index.labels(gap.key, slot, 1)[0] for gap, slot in asked]
        node, (hits, _) = await node_find(session, purpose, labels, [])
        rows = hits.keys() & await _taken(session, purpose, node, labels) if hits else hits.keys()
        taken: dict[int, set[int]] = {id(gap): set() for gap in pending}
        for row in rows:
            taken[id(asked[row][0])].add(asked[row][1])
        for gap in pending:
            gap.learn(taken[id(gap)])


async def _taken(session: Session, purpose: str, first: str, labels: Sequence[bytes]) -> AbstractSet[int]:
    """Return which labels are taken by the word of a node besides `first`; all, where no other answers in time.

    One node's word for slots that are free in truth would have later postings lie where no search looks.
    """
    others = [n for n in session.others(first) if not session.health.silent(n, time.monotonic())]
    if others and labels:
        with contextlib.suppress(AnwenError, TimeoutError):  # what it answers amiss is no word, either
            async with asyncio.timeout(session.settling_s):
                _, (hits, _) = await node_find(session, purpose, labels, [], others)
                return hits.keys()
    return set(range(len(labels)))


async def without_gaps(
    session: Session, purpose: str, first: str, runs: Sequence[tuple[bytes, int, int]]
) -> list[bool]:
    """Return for each (K_w, start, end) whether its slots are taken, also by the word of a node besides `first`.

    Every seventh is looked at, from the last down: a search goes on over as many free ones.
    """
    slots = [range(end - 1, start - 1, 1 - MISSES) for _, start, end in runs]
    ends = np.cumsum([0, *map(len, slots)]).tolist()
    labels = [blind_index.labels(key, slot, 1)[0] for (key, _, _), of in zip(runs, slots, strict=True) for slot in of]
    taken = await _taken(session, purpose, first, labels[:MOST_A_CALL])
    return [taken >= set(range(start, end)) for start, end in itertools.pairwise(ends)]
