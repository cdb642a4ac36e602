"""A seeded load on the attacked vault: searches, openings and new people, as its users make them."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anwen.client.records import Record
from anwen.crypto import blind_index
from anwen.errors import MalformedError
from anwen.formats import normalise
from anwen.model import Collection, Field, Policy
from anwen.rehearse.breach import shares
from anwen.rehearse.breach.cast import Cast
from anwen.rehearse.breach.scene import Scene
from anwen.rehearse.breach.search import Needle

NEW_EVERY = 3


@dataclass
class Load:
    """What was done so far. `people`: whose values passed; `touched`: the records that were opened."""

    scene: Scene
    cast: Cast
    spare: Iterator[Mapping[str, object]]  # people who are not in the vault yet
    people: list[Mapping[str, object]] = field(default_factory=list, repr=False)
    touched: list[Record] = field(default_factory=list, repr=False)

    async def run(self, steps: int, seed: int) -> None:
        """Do so many steps: each finds somebody by an indexed value and opens him, every third puts somebody new."""
        chooser = random.Random(seed)  # noqa: S311 - a load that can be had again
        reader, fields = self.cast.reader, self._searched()
        async with (
            self.scene.connect(reader.principal, reader.purpose) as vault,
            self.scene.connect(*self.cast.writer) as writing,
        ):
            for step in range(steps):
                if step % NEW_EVERY == 0 and (row := next(self.spare, None)) is not None:
                    await writing.put(reader.collection, row)
                    self.people.append(row)
                values = chooser.choice(self.scene.known).values
                name = chooser.choice([f for f in fields if values.get(f)])
                records = await vault.find(reader.collection, [reader.class_name], **{name: values[name]})
                await vault.open(records[:1], [reader.class_name])
                self.people.append(values)
                self.touched += records[:1]

    async def add(self, count: int) -> None:
        """Put so many new people together, as far as there are any."""
        if rows := list(itertools.islice(self.spare, count)):
            async with self.scene.connect(*self.cast.writer) as writing:
                await writing.put_many(self.cast.reader.collection, rows)

    def _searched(self) -> list[str]:
        schema, purpose = self._schema, self.scene.policy.purposes[self.cast.reader.purpose]
        return [f.name for f in schema.fields if (schema.id, f.id) in purpose.search]

    @property
    def _schema(self) -> Collection:
        return self.scene.policy.collections[self.cast.reader.collection]

    def secrets(self) -> dict[str, Sequence[Needle]]:
        """Return what only clients may hold of all this, by kind: made from the shares of all keepers."""
        folders = [self.scene.path("keeper", k) for k in self.scene.policy.keepers]
        return secrets_of(self.scene.policy, folders, self._schema, self.people, self.touched)


def secrets_of(
    policy: Policy, folders: Sequence[Path], schema: Collection, people: Sequence[Mapping[str, object]],
    records: Sequence[Record],
) -> dict[str, Sequence[Needle]]:  # fmt: skip
    """Return what only clients may hold of some people and records, by kind; `folders` are those of all keepers."""
    indexed = [f for f in schema.fields if f.index]
    keys = shares.token_keys(policy, folders, [(schema.id, f.id) for f in indexed])
    tokens = [
        (schema.id, f.id, blind_index.token(key, normalise.index_bytes(f, normalise.normalise(f, row[f.name]))))
        for row in people
        for f, key in zip(indexed, keys, strict=True)
        if row.get(f.name)
    ]
    cells = [cell for record in records for cell in record.cells.values()]
    values = shares.Shares(policy, folders, "record").values(shares.inputs_of(cells))
    return {
        # a library's own text has names of people: numpy.ma speaks of a Lawrence; more of them without case
        "values": [ways[0] for ways in texts(schema, people) if not ways[0].isalpha()],
        "tokens": [token for *_, token in tokens],
        "index keys": shares.index_keys(policy, folders, tokens),
        "token keys": keys,
        "values of F": [row.tobytes() for row in values],
        "DEKs": [_xor(cell.wrap, row.tobytes()) for cell, row in zip(cells, values, strict=True)],
    }


def texts(schema: Collection, people: Sequence[Mapping[str, object]]) -> list[tuple[str, ...]]:
    """Return every value that is long enough to be looked for, each once: in all ways in which it may be spelled."""
    found = {(name, str(value)): None for row in people for name, value in row.items() if value is not None}
    spelled = {_spelled(schema.field_named[name], text) for name, text in found}
    return sorted(all_ways for all_ways in spelled if len(all_ways[0].encode()) >= LONG)


def _spelled(field: Field, text: str) -> tuple[str, ...]:
    """Return a value as it was given, as its field has it, as it is indexed, and each without case."""
    found = [text]
    with contextlib.suppress(MalformedError):  # JSON, which is no text; kinds that are not indexed
        canonical = normalise.normalise(field, text)
        found += [str(canonical), normalise.index_bytes(field, canonical).decode()]
    return tuple(dict.fromkeys(way for each in found for way in (each, each.casefold())))


LONG = 8
"""Bytes: what is shorter turns up by chance."""


def _xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))
