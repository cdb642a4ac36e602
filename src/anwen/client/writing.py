"""Put rows: seal them, have the keepers charge, log and answer, give the node sealed bytes and labels."""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anwen.client.deadline import bare, failed
from anwen.client.finding import Gap, Query, first_free, token_table, without_gaps
from anwen.client.opening import stack
from anwen.client.quorum import Bytes, Flags
from anwen.client.rounds import under_current
from anwen.client.rows import Plain, SealedRow, Token, seal_row
from anwen.client.session import Session
from anwen.crypto import blind_index
from anwen.errors import (
    AnwenError,
    ConflictError,
    DisputeError,
    IntegrityError,
    NotFoundError,
    ProofError,
    RefusedError,
    UnavailableError,
)
from anwen.formats import wire
from anwen.formats.answer import Answer
from anwen.formats.envelope import commitment, row_tag

CANDIDATES = 8
"""Slots that the one posting of a value in a put may choose from; more postings may choose from more."""

Numbers = npt.NDArray[np.int64]
MOST_CANDIDATES = 64
ATTEMPTS = 8  # in a row without storing anything
MOST_HINTS = 2**18
LAST_PASS = 0.8
"""Of the deadline: what is left then is given up, so that the call still tells of the rows that are stored."""


@dataclass(frozen=True, slots=True)
class PutResult:
    """What became of a row. With an error, nothing of the row is stored.

    But with an UnavailableError it may be: an answer that did not come leaves open what was done. `repeated`: a row was
    stored under this idempotency key before, and this put changed nothing.
    """

    record: str
    subject: str
    version: int
    error: AnwenError | None = None
    repeated: bool = False


class Writer:
    """Puts of one session. Keeps, in memory, how many postings common values have: nothing else outlives a put."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._next_slot: dict[int, int] = {}  # by the hash of the query, which tells nothing of its token
        self._first_dek = b""  # of the last put

    async def put(self, purpose: str, rows: Sequence[Plain]) -> list[PutResult]:
        """Seal and store rows; one result for each, in order.

        Keepers refuse rows together and do not say for which: then they are put in halves, until the row is alone.
        A row whose posting found every candidate slot taken (its value is commoner than this writer knew) is stored by
        a further put, sealed anew, once the free slots are known. What ends that one is the error of the rows left.

        Raises:
            DisputeError: keepers contradict each other; nothing was stored. DeniedError, QuorumError: likewise.
            UnavailableError: no node answered; rows may be stored all the same.
        """
        results: dict[int, PutResult] = {}
        groups, stuck = [list(range(len(rows)))] if rows else [], 0
        why: AnwenError = UnavailableError("no free slot for a posting: other writers were faster each time")
        until_s = asyncio.get_running_loop().time() + LAST_PASS * self.session.timing.deadline_s
        try:
            while groups and stuck < ATTEMPTS:
                left = groups.pop()
                try:
                    async with asyncio.timeout_at(until_s if results else None):
                        batch, node, outcomes, slots = await self._put(purpose, [rows[i] for i in left])
                except RefusedError as error:
                    if half := len(left) // 2:
                        groups += [left[half:], left[:half]]
                    else:
                        results[left[0]] = _failed(rows[left[0]], bare(error))
                    continue
                answers = zip(left, batch.results(outcomes), strict=True)
                results |= {place: result for place, result in answers if result is not None}
                stuck = stuck + 1 if not results.keys() & set(left) else 0
                if left := [i for i in left if i not in results]:
                    groups.append(left)
                async with asyncio.timeout_at(until_s if results else None):
                    await self._learn(purpose, node, batch, slots)
                    await self._find_slots(purpose, batch, outcomes == wire.Outcome.NO_SLOT)
        except (AnwenError, TimeoutError) as error:
            if not results:
                raise
            # what is stored is stored: its outcome must reach the caller, who would put it once more
            late = UnavailableError(f"not done in time{failed()}; the row may be stored all the same")
            why = bare(error) if isinstance(error, AnwenError) else late
        return [results.get(i) or _failed(row, why) for i, row in enumerate(rows)]

    async def _put(self, purpose: str, rows: Sequence[Plain]) -> tuple[_Batch, str, Numbers, Numbers]:
        """Return what was sent, the node that answered, outcomes of rows and slots of postings."""
        batch = _Batch(self.session, rows)
        self._check_fresh(batch.deks)

        async def ask(epoch: int, generation: int) -> tuple[dict[str, int | bytes], dict[str, Answer]]:
            scalars: dict[str, int | bytes] = {"epoch": epoch, "generation": generation}
            body = wire.encode("put", self.session.random(wire.SALT_BYTES), scalars, batch.keeper_tables())
            return scalars, await self.session.ask_all("put", purpose, body)

        scalars, answers = await under_current(self.session, purpose, ask)
        values, contradicted, doubled, found = self.session.combine(answers, batch.cells + len(batch.queries))
        if contradicted.any():
            evidence = tuple(a.receipt for a in answers.values())
            raise DisputeError("keepers contradict each other: nothing was stored; see the session's reports", evidence)
        batch.answered(values)
        verified = bool(doubled.all()) and all(r.checked for r in rows)
        scalars |= {"nonce_base": next(iter(answers.values())).nonce_base, "verified": int(verified)}
        starts = [0 if q.unique else self._next_slot.get(hash(q), 0) for q in batch.queries]
        tables = batch.node_tables(starts)
        blobs = {"envelopes": batch.envelopes, "receipts": list(found.receipts.values())}
        body = wire.encode("node_put", self.session.random(wire.SALT_BYTES), scalars, tables, blobs)
        read = functools.partial(_outcomes, len(rows), tables["postings"]["labels"].astype(np.int64))
        node, (outcomes, slots) = await self.session.node("node_put", purpose, body, read)
        return batch, node, outcomes, slots

    def _check_fresh(self, deks: Bytes) -> None:
        """Refuse to seal with random bytes that came before: two bodies under one key and IV would lay both open."""
        drawn = deks.view("V32").ravel().tolist()
        if len(set(drawn)) < len(drawn) or self._first_dek in drawn:
            raise IntegrityError("the source of random bytes repeats itself: nothing was sealed")
        self._first_dek = drawn[0]

    async def _learn(self, purpose: str, node: str, batch: _Batch, slots: Numbers) -> None:
        """Remember where the free slots of common values begin, as far as a second node says so, too."""
        ends: dict[int, int] = {}
        starts = batch.starts
        for (_, query_row, _), slot in zip(batch.postings, slots.tolist(), strict=True):
            if query_row is not None and slot != wire.NOWHERE and not batch.queries[query_row].unique:
                ends[query_row] = max(starts[query_row] + slot + 1, ends.get(query_row, 0))
        claims = {i: end for i, end in ends.items() if end > CANDIDATES // 2}
        runs = [(batch.keys[i], starts[i], end) for i, end in claims.items()]
        for (i, end), true in zip(claims.items(), await without_gaps(self.session, purpose, node, runs), strict=True):
            if true:
                self._remember(batch.queries[i], end)

    def _remember(self, query: Query, slot: int) -> None:
        if len(self._next_slot) >= MOST_HINTS:
            self._next_slot.clear()
        self._next_slot[hash(query)] = max(slot, self._next_slot.get(hash(query), 0))

    async def _find_slots(self, purpose: str, batch: _Batch, full: Flags) -> None:
        """Learn where the free slots begin of the values whose candidates were all taken."""
        crowded = {i for row, i, _ in batch.postings if full[row] and i is not None}
        wanted = sorted(i for i in crowded if not batch.queries[i].unique)
        begun = [max(batch.starts[i], self._next_slot.get(hash(batch.queries[i]), 0)) for i in wanted]
        gaps = [Gap(batch.keys[i], slot) for i, slot in zip(wanted, begun, strict=True)]
        await first_free(self.session, purpose, gaps)
        for i, gap in zip(wanted, gaps, strict=True):
            self._remember(batch.queries[i], gap.free or 0)


def _failed(row: Plain, error: AnwenError) -> PutResult:
    return PutResult("", row.subject.hex(), 0, error)


def _outcomes(rows: int, labels: Numbers, answer: bytes) -> tuple[Numbers, Numbers]:
    """Return outcomes and slots of a put of so many rows, whose postings had so many labels each."""
    message = wire.decode(answer, "outcomes")
    outcomes = message.tables["records"]["outcome"].astype(np.int64)
    slots = message.tables["postings"]["slot"].astype(np.int64)
    if (len(outcomes), len(slots)) != (rows, len(labels)):
        raise ProofError("an answer for another number of rows")
    if (outcomes > max(wire.Outcome)).any() or ((slots >= labels) & (slots != wire.NOWHERE)).any():
        raise ProofError("an outcome or a slot that there is not")
    return outcomes, slots


class _Batch:
    """Sealed rows in random order, as columns.

    `postings`: (row, row in `queries`, token) in row order, one for each indexed field; None where it has no value.
    """

    def __init__(self, session: Session, rows: Sequence[Plain]) -> None:
        self._order = list(range(len(rows)))
        secrets.SystemRandom().shuffle(self._order)  # a dump shows who was written together, not in which order
        self._random = session.random
        self.rows: list[SealedRow] = [seal_row(session.policy.vault, rows[i], session.random) for i in self._order]
        self.deks: Bytes = np.frombuffer(b"".join(r.deks for r in self.rows), np.uint8).reshape(-1, 32)
        self.envelopes = [e for r in self.rows for e in r.envelopes]
        self.cells = len(self.envelopes)
        wanted = [(i, t, _query(r.plain, t)) for i, r in enumerate(self.rows) for t in r.plain.tokens]
        self.queries = sorted({q for *_, q in wanted if q.token})
        place = {q: i for i, q in enumerate(self.queries)}
        self.postings: list[tuple[int, int | None, Token]] = [(i, place.get(q), t) for i, t, q in wanted]
        self._tables = self._sealed_tables()
        self.wraps, self.keys = np.empty((0, 32), np.uint8), list[bytes]()
        self.starts: Sequence[int] = ()  # the slot of each query from which on labels were offered

    def _sealed_tables(self) -> dict[str, wire.Table]:
        plain = [r.plain for r in self.rows]
        commitments = [commitment(e) for e in self.envelopes]
        ends = np.cumsum([len(r.class_ids) for r in self.rows])
        tags = [
            row_tag(r.class_ids, commitments[end - len(r.class_ids) : end])
            for r, end in zip(self.rows, ends.tolist(), strict=True)
        ]
        records: wire.Table = {
            "collection": np.array([p.collection.id for p in plain]),
            "subject": stack([p.subject for p in plain], 16),
            "record": stack([p.record for p in plain], 16),
            "version": np.array([p.version for p in plain]),
            "tag": stack(tags, 16),
            "collected_s": np.array([p.collected_s for p in plain], np.uint64),
            "expires_s": np.array([p.expires_s for p in plain], np.uint64),
        }
        cells: wire.Table = {
            "record_row": np.repeat(np.arange(len(plain)), [len(r.class_ids) for r in self.rows]),
            "class": np.array([c for r in self.rows for c in r.class_ids]),
            "commitment": stack(commitments, 32),
        }
        return {"records": records, "cells": cells}

    def keeper_tables(self) -> dict[str, wire.Table]:
        """Return what keepers see: tokens in an array of their own, sorted, so that no row shows which is its."""
        return {**self._tables, "tokens": token_table(self.queries)}

    def answered(self, values: Bytes) -> None:
        """Take the keepers' values: of the cells, then of the tokens."""
        self.wraps = self.deks ^ values[: self.cells]
        self.keys = [value.tobytes() for value in values[self.cells :]]

    def node_tables(self, starts: Sequence[int]) -> dict[str, wire.Table]:
        """Return what the node sees. A value with n postings in this put may choose among 6 + 2 n slots.

        A field without a value has a posting like any other, under labels that nobody will ever ask for: that it is
        empty is as much somebody's secret as what others hold.
        """
        self.starts = starts
        counts, labels, macs = [], [], []
        total = Counter(query_row for _, query_row, _ in self.postings)
        label_of = []
        for n, query in enumerate(self.queries):
            most = 1 if query.unique else min(CANDIDATES - 2 + 2 * total[n], MOST_CANDIDATES)
            label_of.append(blind_index.labels(self.keys[n], starts[n], most))
        for row, i, token in self.postings:
            plain = self.rows[row].plain
            if i is None:
                drawn = self._random(16 * (2 if token.field.index == "unique" else CANDIDATES + 1))
                mac, *some = [drawn[at : at + 16] for at in range(0, len(drawn), 16)]
            else:
                some, mac = label_of[i], blind_index.posting_mac(self.keys[i], plain.record, plain.subject)
            counts.append(len(some))
            labels += some
            macs.append(mac)
        postings: wire.Table = {
            "record_row": np.array([row for row, _, _ in self.postings], np.int64),
            "class": np.array([t.class_id for *_, t in self.postings], np.int64),
            "unique": np.array([t.field.index == "unique" for *_, t in self.postings], np.uint8),
            "labels": np.array(counts, np.int64),
            "mac": stack(macs, 16),
        }
        return {
            **self._tables,
            "wraps": {"wrap": self.wraps},
            "postings": postings,
            "labels": {"label": stack(labels, 16)},
        }

    def results(self, outcomes: Numbers) -> list[PutResult | None]:
        """Return results in the caller's order, None for rows that have to come again."""
        results: list[PutResult | None] = [None] * len(self.rows)
        for at, row, outcome in zip(self._order, self.rows, outcomes.tolist(), strict=True):
            plain = row.plain
            ids = plain.record.hex(), plain.subject.hex(), plain.version
            if outcome == wire.Outcome.VERSION_TAKEN and plain.version == 1:
                results[at] = PutResult(*ids, repeated=True)
            elif outcome != wire.Outcome.NO_SLOT:
                results[at] = PutResult(*ids, _error(plain, outcome))
        return results


def _query(plain: Plain, token: Token) -> Query:
    return Query(plain.collection.id, token.field.id, token.field.index == "unique", token.value)


def _error(plain: Plain, outcome: int) -> AnwenError | None:
    name = f"{plain.collection.name} record {plain.record.hex()}"
    match outcome:
        case wire.Outcome.STORED:
            return None
        case wire.Outcome.UNIQUE_TAKEN:
            unique = ", ".join(t.field.name for t in plain.tokens if t.value and t.field.index == "unique")
            return ConflictError(f"{plain.collection.name}: another record holds this value of unique {unique}")
        case wire.Outcome.VERSION_TAKEN:
            return ConflictError(f"{name}: version {plain.version} is not the next one; read it again")
        case wire.Outcome.DELETED:
            return NotFoundError(f"{name}: was deleted")
        case _:
            raise AssertionError(outcome)  # `_outcomes` and `results` let no other come here
