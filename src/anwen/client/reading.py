"""Read sealed records by id, or a collection's by subject; what a node does not show, a second one is asked for."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from anwen.client.deadline import bounded
from anwen.client.opening import stack
from anwen.client.records import Record, records_of
from anwen.client.rounds import second_look
from anwen.client.session import Session
from anwen.errors import ProofError
from anwen.formats import wire
from anwen.model import Collection

_FIRST = bytes(16)


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads for one purpose."""

    session: Session
    purpose: str

    async def get(self, records: Sequence[bytes], classes: Sequence[int]) -> dict[bytes, Record]:
        """Return those of `records` that there are, by id, with their cells of `classes` (none: all)."""
        node, found = await self._get(records, classes)
        if missing := [r for r in records if r not in found]:

            async def look(nodes: Sequence[str]) -> dict[bytes, Record]:
                return (await self._get(missing, classes, nodes))[1]

            found |= await second_look(self.session, node, look, proven=False)
        return found

    async def _get(
        self, records: Sequence[bytes], classes: Sequence[int], nodes: Sequence[str] = ()
    ) -> tuple[str, dict[bytes, Record]]:
        def read(answer: bytes) -> dict[bytes, Record]:
            found = records_of(self.session.policy, wire.decode(answer, "rows"))
            if not found.keys() <= set(records):
                raise ProofError("records that were not asked for")
            return found

        tables: dict[str, wire.Table] = {"records": {"record": stack(records, 16)}, "classes": _classes(classes)}
        body = wire.encode("node_get", self.session.random(wire.SALT_BYTES), tables=tables)
        return await self.session.node("node_get", self.purpose, body, read, nodes)

    async def subjects(
        self, schema: Collection, subjects: Sequence[bytes], classes: Sequence[int], page: int, *, after: bytes = _FIRST
    ) -> AsyncIterator[Record]:
        """Yield a collection's records beyond an id, of these subjects or (none) of all, ascending."""
        first, seen = "", set[str]()
        async for node, records in self._pages(schema, subjects, classes, page, after=after):
            first = node
            seen |= {r.subject for r in records}
            for record in records:
                yield record
        if missing := [s for s in subjects if s.hex() not in seen]:

            async def look(nodes: Sequence[str]) -> dict[str, Record]:
                pages = self._pages(schema, missing, classes, page, after=after, nodes=nodes)
                return {r.id: r async for _, records in pages for r in records}

            for record in (await second_look(self.session, first, look, proven=False)).values():
                yield record

    async def _pages(
        self,
        schema: Collection,
        subjects: Sequence[bytes],
        classes: Sequence[int],
        page: int,
        *,
        after: bytes,
        nodes: Sequence[str] = (),
    ) -> AsyncIterator[tuple[str, list[Record]]]:
        more = True
        while more:
            scalars: dict[str, int | bytes] = {"collection": schema.id, "after": after, "limit": page}
            tables: dict[str, wire.Table] = {
                "subjects": {"subject": stack(subjects, 16)},
                "classes": _classes(classes),
            }
            body = wire.encode("node_list", self.session.random(wire.SALT_BYTES), scalars, tables)
            read = functools.partial(self._read_page, schema.name, {s.hex() for s in subjects}, after, page)
            node, records = await self._page(body, read, nodes)
            yield node, records
            more = len(records) == page
            after = bytes.fromhex(records[-1].id) if more else after

    @bounded
    async def _page(
        self, body: bytes, read: Callable[[bytes], list[Record]], nodes: Sequence[str]
    ) -> tuple[str, list[Record]]:
        return await self.session.node("node_list", self.purpose, body, read, nodes)

    def _read_page(self, collection: str, subjects: set[str], after: bytes, limit: int, answer: bytes) -> list[Record]:
        found = records_of(self.session.policy, wire.decode(answer, "rows"))
        if len(found) > limit or any(r <= after for r in found):
            raise ProofError(f"{len(found)} records of at most {limit}, or some that came before")
        if any(r.collection != collection or (subjects and r.subject not in subjects) for r in found.values()):
            raise ProofError("records that were not asked for")
        return [found[r] for r in sorted(found)]


def _classes(classes: Sequence[int]) -> wire.Table:
    return {"class": np.array(classes, int)}
