"""The use cases: put, get, find, open, list, update, delete. The face that applications, and the CLI, work with."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Self

from anwen.client import deleting, finding, frames, opening, rounds
from anwen.client.batching import Batcher
from anwen.client.deadline import bare, bounded
from anwen.client.finding import Query
from anwen.client.reading import Reader
from anwen.client.records import NEAR, Record, handle_of, ids_of
from anwen.client.rows import Cell, Plain, PrehashKeys, Values, bodies_of, canonical_values, holds, seconds, tokens_of
from anwen.client.session import Session
from anwen.client.writing import PutResult, Writer
from anwen.crypto.blind_index import token
from anwen.errors import AnwenError, MalformedError, NotFoundError, OpenError
from anwen.formats import normalise
from anwen.model import INDEX_CLASS, Collection, DataClass, Field

DAY_S = 86_400
_DATES = ("collected_on", "expires_on")
RESERVED = ("subject", *_DATES)
"""Row keys that are not fields: whose record it is (a handle, in hex), when it was collected, when it ends."""

MASKED = ".masked"
Found = dict[bytes, Record]
"""Records by id."""


class AsyncVault:
    """A vault as one principal, asking for one purpose, sees it. Safe for many tasks of one event loop at once."""

    def __init__(self, session: Session, purpose: str, *, writer: Writer | None = None) -> None:
        self.session, self.policy, self.purpose = session, session.policy, purpose
        self._reader, self._writer = Reader(session, purpose), writer or Writer(session)
        within_s = session.timing.deadline_s
        self._opens = Batcher[Cell, Values | AnwenError](self._run_open, within_s=within_s, most=opening.MOST_CELLS)
        self._finds: dict[tuple[int, ...], Batcher[Query, Found]] = {}
        self._gets: dict[tuple[int, ...], Batcher[bytes, Record | None]] = {}
        self._puts = Batcher[Plain, PutResult](lambda rows: self._writer.put(self.purpose, rows), within_s=within_s)

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

    async def put(self, collection: str, row: Mapping[str, object], *, idempotency_key: str = "") -> PutResult:
        """Store one row; return its ids. Raises the row's error. See `put_many`."""
        keys = [idempotency_key] if idempotency_key else ()
        (result,) = await self.put_many(collection, [row], idempotency_keys=keys)
        if result.error:
            raise result.error
        return result

    @bounded
    async def put_many(self, collection: str, rows: object, *, idempotency_keys: Sequence[str] = ()) -> list[PutResult]:
        """Store rows; one result for each, in order. A bad row has an error and takes no other row with it.

        Args:
            rows: a sequence of mappings, an Arrow table, a pandas or a polars data frame.
            idempotency_keys: for each row 32 random hexadecimal digits. A row that is put again under its key, with
                the same values, is stored once; the result has the same ids, and says `repeated`.

        A row of a collection that refers to another's subject names him by "subject" (a handle in hex) or by
        "COLLECTION.FIELD" (a unique field, for instance "person.id_number").

        Rows of common values may take several passes, each charged; what ends a later one (BudgetError, for instance)
        is the error of those rows alone.

        Raises: DeniedError, QuorumError, DisputeError: nothing was stored. UnavailableError, also as a row's error: no
        answer came, and rows may be stored. Put again without keys they are new records: a second time, without a
        unique field. MalformedError: not one key for each row. As a row's error also RefusedError: it is about somebody
        who was erased, or was deleted since it was put under its key.
        """
        schema, mappings = self._collection(collection), frames.rows_of(rows)
        near = self.session.random(NEAR)
        made = list(map(handle_of, idempotency_keys)) or [near + self.session.random(16 - NEAR) for _ in mappings]
        if len(made) != len(mappings) or len(set(made)) < len(made):
            raise MalformedError(f"{len(mappings)} rows, {len(set(made))} different idempotency keys")
        ids = [ids_of(key) for key in made]
        keys = await self._prehash_keys(schema, schema.fields)
        subjects = [own for _, own in ids] if schema.subject == "own" else await self._subjects(schema, mappings)
        prepared: list[Plain | AnwenError] = []
        for (record, _), row, subject in zip(ids, mappings, subjects, strict=True):
            try:
                prepared.append(self._plain(schema, record, row, subject, keys))
            except AnwenError as error:
                prepared.append(bare(error))
        stored = iter(await self._puts.submit([p for p in prepared if isinstance(p, Plain)]))
        return [next(stored) if isinstance(p, Plain) else PutResult("", "", 0, p) for p in prepared]

    async def _prehash_keys(self, schema: Collection, fields: Sequence[Field]) -> PrehashKeys:
        """Return the token keys of those fields that are indexed."""
        return await rounds.prehash_keys(self.session, self.purpose, [(schema.id, f.id) for f in fields if f.index])

    def _plain(
        self,
        schema: Collection,
        record: bytes,
        row: Mapping[str, object],
        subject: bytes | AnwenError,
        keys: PrehashKeys,
    ) -> Plain:
        if isinstance(subject, AnwenError):
            raise subject
        names = [c.name for c in schema.classes]
        about = {*_DATES, _whose(schema, row)}
        # a column "subject" may stand empty beside a reference
        fields = {k: v for k, v in row.items() if k not in about and (v or k != "subject")}
        values = canonical_values(schema, fields, names)
        tokens = tokens_of(schema, values, names, keys)
        collected_s, expires_s = self._dates(schema, row)
        bodies = bodies_of(schema, values, names, tokens)
        checked = keys.keys() <= self.session.prehash.keys()
        return Plain(schema, subject, record, 1, collected_s, expires_s, bodies, tokens, checked)

    def _dates(self, schema: Collection, row: Mapping[str, object]) -> tuple[int, int]:
        step = DAY_S if schema.dates == "day" else 1
        now = int(self.session.clock())
        collected_s = seconds("collected_on", row.get("collected_on"), now)
        expires_s = seconds("expires_on", row.get("expires_on"), 0)
        return collected_s // step * step, -(-expires_s // step) * step

    async def _subjects(self, schema: Collection, rows: Sequence[Mapping[str, object]]) -> list[bytes | AnwenError]:
        """Return whose each row of another's collection is: the handle given (if it is known), or found by a field."""
        parent = self._collection(schema.subject)
        subjects: list[bytes | AnwenError] = []
        wanted: dict[str, list[tuple[int, object]]] = {}
        handles: list[tuple[int, bytes]] = []
        unknown = f"{schema.name}: a record needs its subject: 'subject' or '{parent.name}.FIELD'"
        for i, row in enumerate(rows):
            subjects.append(NotFoundError(unknown))
            reference = _whose(schema, row)
            if reference != "subject":
                wanted.setdefault(reference, []).append((i, row[reference]))
            elif row.get("subject"):
                try:
                    handles.append((i, handle_of(row["subject"])))
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
        # a class that no purpose opens keeps the answer small: only whose the record is matters here
        found = await self._found(parent, [(field, v) for v in values], (INDEX_CLASS,))
        missing = NotFoundError(f"{parent.name}: no record with this {field}")
        return [
            records
            if isinstance(records, MalformedError)
            else next((bytes.fromhex(r.subject) for r in records.values()), missing)
            for records in found
        ]

    async def _known_handles(self, parent: Collection, handles: Sequence[bytes]) -> set[bytes]:
        if not handles:
            return set()
        records = self._reader.subjects(parent, sorted(set(handles)), (INDEX_CLASS,), page=8192)
        return {bytes.fromhex(record.subject) async for record in records}

    @bounded
    async def update(self, record: Record, class_name: str, values: Mapping[str, object]) -> PutResult:
        """Replace a whole class of a record by new values, as version + 1.

        Raises: ConflictError: somebody else changed the record since `record` was read; read it again.
        """
        schema = self._collection(record.collection)
        data_class = self._class(schema, class_name)
        if not record.cells:
            raise MalformedError(f"record {record.id}: was read without its cells")
        keys = await self._prehash_keys(schema, schema.fields_of(class_name))
        canonical = canonical_values(schema, values, [class_name])
        tokens = tokens_of(schema, canonical, [class_name], keys)
        bodies = bodies_of(schema, canonical, [class_name], tokens)
        # collected_on is copied, so that a correction does not restart retention
        old = record.cells.get(data_class.id) or max(record.cells.values(), key=lambda c: c.version)
        ids = bytes.fromhex(record.subject), bytes.fromhex(record.id)
        dates, checked = (old.collected_s, old.expires_s), keys.keys() <= self.session.prehash.keys()
        row = Plain(schema, *ids, record.version + 1, *dates, bodies, tokens, checked)
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
            self._gets[class_ids] = Batcher[bytes, Record | None](
                lambda r: self._run_get(r, class_ids), within_s=self.session.timing.deadline_s
            )
        return await self._gets[class_ids].submit([handle_of(i) for i in ids])

    async def _run_get(self, records: list[bytes], classes: Sequence[int]) -> list[Record | None]:
        found = await self._reader.get(records, classes)
        return [found.get(r) for r in records]

    @bounded
    async def find(self, collection: str, classes: Sequence[str] = (), **values: object) -> list[Record]:
        """Return the records that hold all of `values` in indexed fields, still sealed, with the cells of `classes`."""
        if not values:
            raise MalformedError(f"{collection}: find needs at least one field=value")
        schema = self._collection(collection)
        found = _good(await self._found(schema, list(values.items()), self._class_ids(schema, classes)))
        common = set(found[0]).intersection(*found[1:])
        return [
            dataclasses.replace(found[0][r], searched=tuple(s for records in found for s in records[r].searched))
            for r in sorted(common)
        ]

    @bounded
    async def find_many(
        self, collection: str, field: str, values: Sequence[object], classes: Sequence[str] = ()
    ) -> list[list[Record]]:
        """Return for each value the records that hold it in one indexed field."""
        schema = self._collection(collection)
        wanted = [(field, value) for value in values]
        found = _good(await self._found(schema, wanted, self._class_ids(schema, classes)))
        return [[records[r] for r in sorted(records)] for records in found]

    async def _found(
        self, schema: Collection, wanted: Sequence[tuple[str, object]], classes: tuple[int, ...]
    ) -> list[Found | MalformedError]:
        """Return for each (field, value) the records that hold it, by id, or what is wrong with the value.

        Where keepers contradict each other about a token key, every key it may be is searched with.
        """
        fields = {name: self._indexed(schema, name) for name, _ in wanted}
        keys = await rounds.token_keys(self.session, self.purpose, [(schema.id, f.id) for f in fields.values()])
        searched: list[bytes | MalformedError] = []
        queries: list[list[Query]] = []
        for f, value in ((fields[name], value) for name, value in wanted):
            try:
                searched.append(bytes_of := normalise.index_bytes(f, normalise.normalise(f, value)))
                queries.append(_queries(schema, f, keys[schema.id, f.id], bytes_of))
            except MalformedError as error:
                searched.append(bare(error))
                queries.append([])
        found = iter(await self._finder(classes).submit([q for several in queries for q in several]))
        results: list[Found | MalformedError] = []
        for (name, _), value, several in zip(wanted, searched, queries, strict=True):
            records = {i: r for _ in several for i, r in next(found).items()}
            if isinstance(value, MalformedError):
                results.append(value)
            else:
                results.append({i: dataclasses.replace(r, searched=((name, value),)) for i, r in records.items()})
        return results

    @bounded
    async def list_subject(self, subject: str, collection: str, classes: Sequence[str] = ()) -> list[Record]:
        """Return a subject's records in a collection, still sealed."""
        schema = self._collection(collection)
        ids = self._class_ids(schema, classes)
        return [r async for r in self._reader.subjects(schema, [handle_of(subject)], ids, page=512)]

    async def scan(
        self, collection: str, classes: Sequence[str] = (), *, page: int = 512, after: str = ""
    ) -> AsyncIterator[Record]:
        """Yield every record of a collection, still sealed, by record id; those beyond `after`, if that is given."""
        schema, beyond = self._collection(collection), handle_of(after) if after else bytes(16)
        async for record in self._reader.subjects(schema, [], self._class_ids(schema, classes), page, after=beyond):
            yield record

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
        wanted = [self._cells(r, classes) for r in records]
        opened = iter(await self._opens.submit([c for cells in wanted if isinstance(cells, list) for c in cells]))
        return [
            self._merge(r, [(c.class_id, next(opened)) for c in cells]) if isinstance(cells, list) else cells
            for r, cells in zip(records, wanted, strict=True)
        ]

    def _cells(self, record: Record, classes: Sequence[str]) -> list[Cell] | NotFoundError:
        ids = self._class_ids(self._collection(record.collection), classes)
        if missing := [i for i in ids if i not in record.cells]:
            return NotFoundError(
                f"record {record.id}: read without class {', '.join(map(str, missing))}, or it is broken"
            )
        return [record.cells[i] for i in ids]

    def _merge(self, record: Record, parts: Sequence[tuple[int, Values | AnwenError]]) -> Values | AnwenError:
        """Return the values of opened classes, after a look at whether they hold what the record was found by."""
        values: Values = {}
        schema = self._collection(record.collection)
        for class_id, part in parts:
            if isinstance(part, AnwenError):
                return part
            for name, searched in record.searched:
                if not holds(schema, class_id, part, name, searched):
                    return OpenError(f"record {record.id}: does not hold the {name} it was found by")
            values |= part
        return values

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

    @staticmethod
    def _indexed(schema: Collection, name: str) -> Field:
        f = schema.field_named.get(name)
        if f is None or f.index is None:
            indexed = ", ".join(x.name for x in schema.fields if x.index) or "none"
            raise MalformedError(f"{schema.name}.{name}: not an indexed field; those are {indexed}")
        return f

    def _finder(self, classes: tuple[int, ...]) -> Batcher[Query, Found]:
        if classes not in self._finds:
            self._finds[classes] = Batcher[Query, Found](
                lambda queries: finding.find(self.session, self.purpose, queries, classes),
                within_s=self.session.timing.deadline_s,
                most=8192,
            )
        return self._finds[classes]


def _queries(schema: Collection, f: Field, keys: Sequence[bytes], searched: bytes) -> list[Query]:
    return [Query(schema.id, f.id, f.index == "unique", token(key, searched)) for key in keys]


def _good(found: Sequence[Found | MalformedError]) -> list[Found]:
    """Return what was found for each value. Raises MalformedError: a value is none."""
    for records in found:
        if isinstance(records, MalformedError):
            raise records
    return [records for records in found if not isinstance(records, MalformedError)]


def _whose(schema: Collection, row: Mapping[str, object]) -> str:
    """Return under which name a row says whose it is; "" in a collection whose records are people of their own."""
    return "" if schema.subject == "own" else next((k for k in row if "." in k), "subject")
