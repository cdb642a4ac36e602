"""A key that writes, as an oracle: whether the values of a number range are in the vault, through puts and searches.

A put gives K_w of its rows' indexed values, and so does a search; with K_w one computes the label under which a value
stands in a dump. Each is charged as a search. The thief has a keeper's shares as well, so that it never counts.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter as Counts
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from anwen.client import rounds
from anwen.client.finding import Query, token_table
from anwen.client.rows import Cell
from anwen.client.session import Session
from anwen.crypto import blind_index, prf_input
from anwen.errors import AnwenError
from anwen.formats import normalise, wire
from anwen.model import Counter
from anwen.rehearse.breach.cast import Cast, budget_of
from anwen.rehearse.breach.liar import searched
from anwen.rehearse.breach.live import labels_of
from anwen.rehearse.breach.scene import STOLEN, Scene
from anwen.rehearse.breach.shares import Bytes2D, Shares
from anwen.rehearse.breach.theft import Theft
from anwen.rehearse.breach.writing import put_body

FIRST_BATCH, MOST = 64, 2_000
"""Values of one request, and in all: a budget that is no smaller is not reached here, and the theft says so."""


@dataclass
class _Prober:
    session: Session
    purpose: str
    row: Cell  # of which rows to put are made up
    queries: Sequence[Query]  # sorted, as keepers want them
    shares: Shares
    had: dict[tuple[int, tuple[str, ...]], bytes] = field(default_factory=dict, repr=False)  # by query and key set
    answered: Counts[str] = field(default_factory=Counts)  # queries, by operation

    async def ask(self, keeper: str, op: str, places: Sequence[int]) -> None:
        """Ask one keeper for K_w of queries, as long as it answers: half as many each time it refuses."""
        size, at = FIRST_BATCH, 0
        while size and at < len(places):
            part = sorted(places[at : at + size])
            body = await self._body(op, [self.queries[i] for i in part])
            try:
                answer = await self.session.siblings(op, self.purpose, body)(keeper)
            except AnwenError:
                size //= 2
                continue
            at += len(part)
            self.answered[op] += len(part)
            found = self.shares.without_pads(answer, self.session.principal, self.inputs(part))
            for key_set, values in found.items():
                self.had |= {(i, key_set): value.tobytes() for i, value in zip(part, values, strict=True)}

    async def _body(self, op: str, queries: Sequence[Query]) -> bytes:
        if op == "put":
            prefix, ids = self.session.random(6), range(len(queries))
            rows = [dataclasses.replace(self.row, record=prefix + i.to_bytes(10), version=1) for i in ids]
            return await put_body(self.session, self.purpose, rows, queries)
        _, generation = await rounds.current(self.session, self.purpose)
        salt = self.session.random(wire.SALT_BYTES)
        return wire.encode("index", salt, {"generation": generation}, {"tokens": token_table(queries)})

    def inputs(self, places: Sequence[int]) -> Bytes2D:
        """Return the PRF inputs of some queries."""
        table = token_table([self.queries[i] for i in places])
        collection, of, normaliser = (table[name].astype(np.uint64) for name in ("collection", "field", "normaliser"))
        return prf_input.index_inputs(collection, of, normaliser, 1, np.asarray(table["token"], np.uint8))

    def keys(self) -> dict[int, bytes]:
        """Return K_w of each query of which all components are known, by its place."""
        inputs = self.inputs(range(len(self.queries)))
        missing = [key_set for key_set in self.shares.sets if key_set not in self.shares.held]
        found = {}
        for i in range(len(self.queries)):
            if all((i, key_set) in self.had for key_set in missing):
                others: dict[tuple[str, ...], Bytes2D] = {
                    s: np.frombuffer(self.had[i, s], np.uint8).reshape(1, -1) for s in missing
                }
                found[i] = self.shares.values(inputs[i : i + 1], others).tobytes()
        return found


async def probe(scene: Scene, cast: Cast, dump: Sequence[Cell], theft: Theft) -> None:
    """Add to `theft` how many values of a number range a key that writes is told about, and how many are there."""
    assert cast.prober is not None
    (principal, purpose), name = cast.prober, searched(scene, cast)
    budget = budget_of(scene.policy, principal, Counter.SEARCH).per_hour
    schema = scene.policy.collections[cast.reader.collection]
    of, row = schema.field_named[name], next(c for c in dump if c.collection.id == schema.id)
    first = normalise.normalise(of, scene.known[0].values[name])
    values = [normalise.index_bytes(of, value) for value in _range(str(first), min(2 * budget, MOST))]
    async with scene.connect(principal, purpose) as vault:
        key = (await rounds.prehash_keys(vault.session, purpose, [(schema.id, of.id)]))[schema.id, of.id]
        tokens = [blind_index.token(key, value) for value in values]
        queries = sorted(Query(schema.id, of.id, of.index == "unique", token) for token in tokens)
        order = sorted(range(len(queries)), key=lambda i: queries[i].token != tokens[0])  # one who is there comes first
        shares = Shares(scene.policy, [scene.path("keeper", STOLEN)], "index")
        prober = _Prober(vault.session, purpose, row, queries, shares)
        # beside the stolen shares one keeper's answer is enough: each is asked for values of its own first
        honest = [k for k in scene.policy.keepers if k != STOLEN]
        for i, keeper in enumerate(honest):
            at, few = i * len(order) // len(honest), min(budget, len(order)) // 4
            places = order[at:] + order[:at]
            await prober.ask(keeper, "put", places[:few])
            await prober.ask(keeper, "index", places[few:])
    keys = prober.keys()
    labels = labels_of(scene)
    there = sum(blind_index.labels(k_w, 0, 1)[0] in labels for k_w in keys.values())
    theft.must(len(keys) <= budget, f"{len(keys)} values of {name} were answered for, at most {budget} in an hour")
    theft.must(there > 0 < prober.answered["put"], "nobody was found, or no put answered: this attack does not work")
    theft.note(
        f"{principal}'s key and the shares of keeper {STOLEN}: K_w of {len(queries):,} values of {name} in a row asked "
        f"for by puts and searches, their labels looked for in a dump{'; its budget is more' * (budget > MOST)}",
        values_answered=len(keys), search_budget=budget, values_there=there,
        by_puts=prober.answered["put"], by_searches=prober.answered["index"],
    )  # fmt: skip


def _range(text: str, count: int) -> Iterator[str]:
    """Yield so many texts, the given one first: its last digits, three or more, count on."""
    digits = re.search(r"\d{3,}(?=\D*$)", text)
    start, end = digits.span() if digits else (len(text), len(text))
    number = text[start:end] or "0"
    for i in range(count):
        yield text[:start] + str((int(number) + i) % 10 ** len(number)).zfill(len(number)) + text[end:]
