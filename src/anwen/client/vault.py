"""The use cases: put, get, find, open, list, update, delete. The face that applications, and the CLI, work with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Self

import numpy as np

from anwen.client import deleting, finding, frames, opening
from anwen.client.batching import Batcher
from anwen.client.deadline import bounded
from anwen.client.finding import Query
from anwen.client.opening import stack
from anwen.client.records import Record, records_of
from anwen.client.rows import Cell, Plain, Values, bodies_of, canonical_values, seconds, tokens_of
from anwen.client.session import Session
from anwen.client.writing import PutResult, Writer
from anwen.crypto.blind_index import token
from anwen.errors import AnwenError, MalformedError, NotFoundError, OpenError, ProofError
from anwen.formats import normalise, wire
from anwen.model import INDEX_CLASS, Collection, DataClass

DAY_S = 86_400
RESERVED = ("subject", "collected_on", "expires_on")
"""Row keys that are not fields: whose record it is (a handle, in hex), when it was collected, when it ends."""

MASKED = ".masked"


class AsyncVault:
    """A vault as one principal, asking for one purpose, sees it. Safe for many tasks of one event loop at once."""

    def __init__(self, session: Session, purpose: str, *, writer: Writer | None = None) -> None:
        self.session, self.policy, self.purpose = session, session.policy, purpose
        self._writer = writer or Writer(session)
        self._opens = Batcher[Cell, Values | AnwenError](self._run_open, most=opening.MOST_CELLS)
        self._finds: dict[tuple[int, ...], Batcher[Query, dict[bytes, Record]]] = {}
        self._gets: dict[tuple[int, ...], Batcher[bytes, Record | None]] = {}
        self._puts = Batcher[Plain, PutResult](lambda rows: self._writer.put(self.purpose, rows), most=4096)

    def for_purpose(self, purpose: str) -> AsyncVault:
        """Return the same vault for another purpose; connections and token keys are shared."""
        return AsyncVault(self.session, purpose, writer=self._writer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of all connections."""
        await self.session.close()

    # --- writing -----------------------------------------------------------------------------------------------

    async def put(self, collection: str, row: Mapping[str, object]) -> PutResult:
        """Store one row; return its ids. Raises the row's error."""
        (result,) = await self.put_many(collection, [row])
        if result.error:
            raise result.error
        return result

    @bounded
    async def put_many(self, collection: str, rows: object) -> list[PutResult]:
        """Store rows; one result for each, in order. A bad row has an error and takes no other row with it.

        `rows`: a sequence of mappings, an Arrow table, a pandas or a polars data frame.

        A row of a collection that refers to another's subject names him by "subject" (a handle in hex) or by
        "COLLECTION.FIELD" (a unique field, for instance "person.id_number").

        Raises: DeniedError, QuorumError, DisputeError: nothing was stored.
        """
        schema, mappings = self._collection(collection), frames.rows_of(rows)
        await self._prehash(schema, [f.id for f in schema.fields if f.index])
        subjects = await self._subjects(schema, mappings)
        prepared: list[Plain | AnwenError] = []
        prefix = self.session.random(6)
        for row, subject in zip(mappings, subjects, strict=True):
            try:
                prepared.append(self._plain(schema, row, subject, prefix))
            except AnwenError as error:
                prepared.append(error)
        stored = iter(await self._puts.submit([p for p in prepared if isinstance(p, Plain)]))
        return [next(stored) if isinstance(p, Plain) else PutResult("", "", 0, p) for p in prepared]

    def _plain(
        self, schema: Collection, row: Mapping[str, object], subject: bytes | AnwenError, prefix: bytes
    ) -> Plain:
        if isinstance(subject, AnwenError):
            raise subject
        names = [c.name for c in schema.classes]
        fields = {k: v for k, v in row.items() if k not in RESERVED and "." not in k}
        values = canonical_values(schema, fields, names)
        tokens = tokens_of(schema, values, names, self.session.prehash)
        collected_s, expires_s = self._dates(schema, row)
        record = prefix + self.session.random(10)
        bodies = bodies_of(schema, values, names, tokens)
        return Plain(schema, subject, record, 1, collected_s, expires_s, bodies, tokens)

    def _dates(self, schema: Collection, row: Mapping[str, object]) -> tuple[int, int]:
        step = DAY_S if schema.dates == "day" else 1
        now = int(self.session.clock())
        collected_s = seconds("collected_on", row.get("collected_on"), now)
        expires_s = seconds("expires_on", row.get("expires_on"), 0)
        return collected_s // step * step, -(-expires_s // step) * step

    async def _subjects(self, schema: Collection, rows: Sequence[Mapping[str, object]]) -> list[bytes | AnwenError]:
        """Return whose each row is: a new handle, the handle given (if it is known), or the one found by a field."""
        if schema.subject == "own":
            return [self.session.random(16) for _ in rows]
        parent = self._collection(schema.subject)
        subjects: list[bytes | AnwenError] = []
        wanted: dict[str, list[tuple[int, object]]] = {}
        handles: list[tuple[int, bytes]] = []
        unknown = f"{schema.name}: a record needs its subject: 'subject' or '{parent.name}.FIELD'"
        for i, row in enumerate(rows):
            subjects.append(NotFoundError(unknown))
            reference = next((k for k in row if "." in k), None)
            if reference is not None:
                wanted.setdefault(reference, []).append((i, row[reference]))
            elif row.get("subject"):
                try:
                    handles.append((i, _handle(row["subject"])))
                except MalformedError as error:
                    subjects[i] = error
        for reference, values in wanted.items():
            found = await self._by_reference(parent, reference, [v for _, v in values])
            for (i, _), subject in zip(values, found, strict=True):
                subjects[i] = subject
        known = await self._known_handles(parent, [h for _, h in handles])
        for i, handle in handles:
            subjects[i] = handle if handle in known else NotFoundError(f"{parent.name}: no such subject")
        return subjects

    async def _by_reference(
        self, parent: Collection, reference: str, values: Sequence[object]
    ) -> list[bytes | AnwenError]:
        name, _, field = reference.partition(".")
        f = parent.field_named.get(field)
        if name != parent.name or f is None or f.index != "unique":
            raise MalformedError(f"{reference}: expected {parent.name}.FIELD of a unique field")
        queries: list[Query | AnwenError] = []
        for value in values:
            try:
                queries.append(await self._query(parent, field, value))
            except MalformedError as error:
                queries.append(error)
        # a class that no purpose opens keeps the answer small: only whose the record is matters here
        found = iter(await self._finder((INDEX_CLASS,)).submit([q for q in queries if isinstance(q, Query)]))
        missing = f"{parent.name}: no record with this {field}"
        out: list[bytes | AnwenError] = []
        for q in queries:
            if isinstance(q, Query):
                records = list(next(found).values())
                out.append(bytes.fromhex(records[0].subject) if records else NotFoundError(missing))
            else:
                out.append(q)
        return out

    async def _known_handles(self, parent: Collection, handles: Sequence[bytes]) -> set[bytes]:
        if not handles:
            return set()
        pages = self._pages(parent, sorted(set(handles)), (INDEX_CLASS,), page=8192)
        return {bytes.fromhex(record.subject) async for record in pages}

    @bounded
    async def update(self, record: Record, class_name: str, values: Mapping[str, object]) -> PutResult:
        """Replace a whole class of a record by new values, as version + 1.

        Raises: ConflictError: somebody else changed the record since `record` was read; read it again.
        """
        schema = self._collection(record.collection)
        data_class = self._class(schema, class_name)
        if not record.cells:
            raise MalformedError(f"record {record.id}: was read without its cells")
        await self._prehash(schema, [f.id for f in schema.fields_of(class_name) if f.index])
        canonical = canonical_values(schema, values, [class_name])
        tokens = tokens_of(schema, canonical, [class_name], self.session.prehash)
        bodies = bodies_of(schema, canonical, [class_name], tokens)
        # collected_on is copied, so that a correction does not restart retention
        old = record.cells.get(data_class.id) or max(record.cells.values(), key=lambda c: c.version)
        ids = bytes.fromhex(record.subject), bytes.fromhex(record.id)
        row = Plain(schema, *ids, record.version + 1, old.collected_s, old.expires_s, bodies, tokens)
        (result,) = await self._puts.submit([row])
        if result.error:
            raise result.error
        return result

    @bounded
    async def delete(self, records: Sequence[Record]) -> None:
        """Delete records: keepers charge, log and refuse them from now on, then the node removes them.

        Raises: DeniedError, QuorumError: nothing was deleted.
        """
        await deleting.delete(self.session, self.purpose, records)

    # --- reading sealed records ----------------------------------------------------------------------------------

    @bounded
    async def get(
        self, ids: Sequence[str], classes: Sequence[str] = (), *, collection: str = ""
    ) -> list[Record | None]:
        """Return records by id, still sealed, None where there is none; `classes` of `collection` narrows the cells."""
        class_ids = self._class_ids(self._collection(collection), classes) if classes else ()
        if class_ids not in self._gets:
            self._gets[class_ids] = Batcher[bytes, Record | None](lambda r: self._run_get(r, class_ids))
        return await self._gets[class_ids].submit([_handle(i) for i in ids])

    async def _run_get(self, records: list[bytes], classes: Sequence[int]) -> list[Record | None]:
        tables: dict[str, wire.Table] = {
            "records": {"record": stack(records, 16)},
            "classes": {"class": np.array(classes, int)},
        }
        body = wire.encode("node_get", self.session.random(wire.SALT_BYTES), tables=tables)
        found = records_of(self.policy, await self.session.node("node_get", self.purpose, body, "rows"))
        return [found.get(r) for r in records]

    @bounded
    async def find(self, collection: str, classes: Sequence[str] = (), **values: object) -> list[Record]:
        """Return the records that hold all of `values` in indexed fields, still sealed, with the cells of `classes`."""
        if not values:
            raise MalformedError(f"{collection}: find needs at least one field=value")
        schema = self._collection(collection)
        queries = [await self._query(schema, name, value) for name, value in values.items()]
        found = await self._finder(self._class_ids(schema, classes)).submit(queries)
        common = set(found[0]).intersection(*found[1:])
        searched = tuple((n, normalise.index_bytes(f := schema.field_named[n], normalise.normalise(f, v)))
                         for n, v in values.items())  # fmt: skip
        return [_searched(found[0][r], searched) for r in sorted(common)]

    @bounded
    async def find_many(
        self, collection: str, field: str, values: Sequence[object], classes: Sequence[str] = ()
    ) -> list[list[Record]]:
        """Return for each value the records that hold it in one indexed field."""
        schema = self._collection(collection)
        queries = [await self._query(schema, field, value) for value in values]
        found = await self._finder(self._class_ids(schema, classes)).submit(queries)
        return [[records[r] for r in sorted(records)] for records in found]

    async def list_subject(self, subject: str, collection: str, classes: Sequence[str] = ()) -> list[Record]:
        """Return a subject's records in a collection, still sealed."""
        schema = self._collection(collection)
        ids = self._class_ids(schema, classes)
        return [r async for r in self._pages(schema, [_handle(subject)], ids)]

    async def scan(self, collection: str, classes: Sequence[str] = (), *, page: int = 512) -> AsyncIterator[Record]:
        """Yield every record of a collection, still sealed, by record id."""
        schema = self._collection(collection)
        async for record in self._pages(schema, [], self._class_ids(schema, classes), page):
            yield record

    async def _pages(
        self, schema: Collection, subjects: Sequence[bytes], classes: Sequence[int], page: int = 512
    ) -> AsyncIterator[Record]:
        after = bytes(16)
        while records := await self._list(schema, subjects, after, page, classes):
            for record in records:
                yield record
            if len(records) < page:
                return
            after = bytes.fromhex(records[-1].id)

    @bounded
    async def _list(
        self, schema: Collection, subjects: Sequence[bytes], after: bytes, limit: int, classes: Sequence[int]
    ) -> list[Record]:
        scalars: dict[str, int | bytes] = {"collection": schema.id, "after": after.ljust(16, b"\0"), "limit": limit}
        tables: dict[str, wire.Table] = {
            "subjects": {"subject": stack(subjects, 16)},
            "classes": {"class": np.array(classes, int)},
        }
        body = wire.encode("node_list", self.session.random(wire.SALT_BYTES), scalars, tables)
        found = records_of(self.policy, await self.session.node("node_list", self.purpose, body, "rows"))
        for record in found.values():
            if record.collection != schema.name or (subjects and bytes.fromhex(record.subject) not in subjects):
                raise ProofError(f"node: record {record.id} is not what was asked for")
        ids = sorted(found)
        if len(ids) > limit or (ids and ids[0] <= after):  # else a liar's pages might never end
            raise ProofError(f"node: {len(ids)} records, of at most {limit} that follow {after.hex()}")
        return [found[r] for r in ids]

    # --- opening -------------------------------------------------------------------------------------------------

    async def open(self, records: Sequence[Record], classes: Sequence[str]) -> list[Values]:
        """Return the values of `classes` ("contact", or "contact.masked" for its rendition) of each record.

        Raises: RefusedError, OpenError: of the first record that does not open. BudgetError: nothing was opened.
        """
        opened = await self.open_each(records, classes)
        for values in opened:
            if isinstance(values, AnwenError):
                raise values
        return [v for v in opened if not isinstance(v, AnwenError)]

    @bounded
    async def open_each(self, records: Sequence[Record], classes: Sequence[str]) -> list[Values | AnwenError]:
        """Return for each record its values, or why it does not open. Raises BudgetError, GrantError, QuorumError."""
        cells: list[Cell] = []
        counts: list[int] = []
        for record in records:
            ids = self._class_ids(self._collection(record.collection), classes)
            missing = [i for i in ids if i not in record.cells]
            if missing:
                raise NotFoundError(f"record {record.id}: was read without class {', '.join(map(str, missing))}")
            cells += [record.cells[i] for i in ids]
            counts.append(len(ids))
        opened = iter(await self._opens.submit(cells))
        return [self._merge(r, [next(opened) for _ in range(n)]) for r, n in zip(records, counts, strict=True)]

    def _merge(self, record: Record, parts: Sequence[Values | AnwenError]) -> Values | AnwenError:
        values: Values = {}
        for part in parts:
            if isinstance(part, AnwenError):
                return part
            values |= part
        schema = self._collection(record.collection)
        for name, expected in record.searched:
            f = schema.field_named[name]
            full = any(c.class_id == schema.class_named[f.class_name].id for c in record.cells.values())
            if full and name in values and f.class_name in self._opened_full(values, schema):
                try:
                    held = normalise.index_bytes(f, normalise.normalise(f, values[name]))
                except MalformedError:
                    continue  # a rendition's mask: the posting's check value stands for it
                if held != expected:
                    return OpenError(f"record {record.id}: does not hold the {name} it was found by")
        return values

    @staticmethod
    def _opened_full(values: Values, schema: Collection) -> set[str]:
        return {schema.field_named[n].class_name for n in values if n in schema.field_named}

    async def _run_open(self, cells: list[Cell]) -> list[Values | AnwenError]:
        return await opening.open_cells(self.session, self.purpose, cells)

    # --- words of the policy -------------------------------------------------------------------------------------

    def _collection(self, name: str) -> Collection:
        if name not in self.policy.collections:
            raise NotFoundError(f"no collection {name!r}; there are {', '.join(self.policy.collections)}")
        return self.policy.collections[name]

    @staticmethod
    def _class(schema: Collection, name: str) -> DataClass:
        if name not in schema.class_named:
            raise NotFoundError(f"{schema.name}: no class {name!r}; there are {', '.join(schema.class_named)}")
        return schema.class_named[name]

    def _class_ids(self, schema: Collection, classes: Sequence[str]) -> tuple[int, ...]:
        ids = []
        for name in classes:
            if name == "_index":
                ids.append(INDEX_CLASS)
            elif name.endswith(MASKED):
                ids.append(self._class(schema, name.removesuffix(MASKED)).rendition_id)
            else:
                ids.append(self._class(schema, name).id)
        return tuple(ids)

    async def _prehash(self, schema: Collection, fields: Sequence[int]) -> None:
        await self.session.prehash_keys(self.purpose, [(schema.id, f) for f in fields])

    async def _query(self, schema: Collection, name: str, value: object) -> Query:
        f = schema.field_named.get(name)
        if f is None or f.index is None:
            indexed = ", ".join(x.name for x in schema.fields if x.index) or "none"
            raise MalformedError(f"{schema.name}.{name}: not an indexed field; those are {indexed}")
        canonical = normalise.normalise(f, value)
        await self._prehash(schema, [f.id])
        key = self.session.prehash[schema.id, f.id]
        return Query(schema.id, f.id, f.index == "unique", token(key, normalise.index_bytes(f, canonical)))

    def _finder(self, classes: tuple[int, ...]) -> Batcher[Query, dict[bytes, Record]]:
        if classes not in self._finds:
            self._finds[classes] = Batcher[Query, dict[bytes, Record]](
                lambda queries: finding.find(self.session, self.purpose, queries, classes), most=8192
            )
        return self._finds[classes]


def _searched(record: Record, searched: tuple[tuple[str, bytes], ...]) -> Record:
    return Record(record.collection, record.id, record.subject, record.version, record.cells, searched)


def _handle(value: object) -> bytes:
    try:
        handle = bytes.fromhex(str(value))
    except ValueError:
        handle = b""
    if len(handle) != 16:
        raise MalformedError("an id or handle is 32 hexadecimal digits")
    return handle
