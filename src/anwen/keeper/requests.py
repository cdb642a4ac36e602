"""What each request asks for: typed checks, rights, retention and denials, then what it costs and the PRF inputs.

Nothing here changes state or touches a key. Tables stay columns; the only objects made for single rows are the handles
that the ledger counts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from anwen.crypto import prf_input
from anwen.crypto.grants import Grant
from anwen.errors import ConflictError, MalformedError, NotFoundError, RefusedError, TooLargeError
from anwen.formats import wire
from anwen.keeper.side import DENIED, Block, Kind, denial_digest
from anwen.keeper.state import Charges, State
from anwen.model import RENDITION, Counter, Policy
from anwen.policy import purposes, retention

MAX_RECORDS, MAX_CELLS, MAX_TOKENS = 16_384, 65_536, 65_536
NORMALISER = 1
"""The one version of `formats.normalise` there is: tokens of another would find nothing."""
NO_ROOT = bytes(32)
_FEW = 32

Integers = npt.NDArray[np.unsignedinteger]
Bytes2D = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Ask:
    """One authenticated request: what its grant says, the grant itself, and the body that it covers."""

    op: str
    grant: Grant
    token: str
    message: wire.Message
    policy: Policy
    state: State
    now_s: float

    def table(self, name: str) -> dict[str, Any]:
        """Return a table's columns, of the types that the wire's schema gives them."""
        return self.message.tables[name]


@dataclass(frozen=True, slots=True, repr=False)
class Work:
    """What is left to do once a request may go on: charge, log, evaluate."""

    charges: Charges = field(default_factory=dict)
    inputs: tuple[tuple[str, Bytes2D], ...] = ()  # series and PRF inputs, in the order of the answer's rows
    about: Mapping[str, object] = field(default_factory=dict)  # members of the entry
    seen: Mapping[int, list[bytes]] = field(default_factory=dict)  # subjects touched without a charge for them
    blocks: tuple[Block, ...] = ()
    root: bytes = NO_ROOT
    nonce_base: bytes = b""
    only_hashes: bool = False


def _values(column: Any) -> list[bytes]:
    """Return an opaque column's rows."""
    if len(column) <= _FEW:
        data, width = column.tobytes(), column.shape[1]
        return [data[i : i + width] for i in range(0, len(data), width)]
    rows: list[bytes] = np.ascontiguousarray(column).view(f"V{column.shape[1]}").ravel().tolist()
    return rows


def _count(column: Any) -> dict[int, int]:
    """Return how often each number occurs in a column; loops beat `numpy.unique` (8 us a call) on few rows."""
    if len(column) <= _FEW:
        few: dict[int, int] = {}
        for value in column.tolist():
            few[value] = few.get(value, 0) + 1
        return few
    values, counts = np.unique(column, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _by_collection(column: Any, subjects: Any) -> dict[int, list[bytes]]:
    """Return the distinct subjects of each collection."""
    handles, ids = _values(subjects), list(_count(column))
    if len(ids) == 1:
        return {ids[0]: list(dict.fromkeys(handles))}
    pairs = list(dict.fromkeys(zip(column.tolist(), handles, strict=True)))
    return {i: [handle for collection, handle in pairs if collection == i] for i in ids}


def _count_pairs(first: Any, second: Any) -> dict[tuple[int, int], int]:
    """Return how often each pair of ids occurs."""
    if len(first) <= _FEW:
        few: dict[tuple[int, int], int] = {}
        for pair in zip(first.tolist(), second.tolist(), strict=True):
            few[pair] = few.get(pair, 0) + 1
        return few
    joined, counts = np.unique(first.astype(np.uint32) << 16 | second.astype(np.uint32), return_counts=True)
    return {(pair >> 16, pair & 0xFFFF): n for pair, n in zip(joined.tolist(), counts.tolist(), strict=True)}


def _sum_by_collection(pairs: Mapping[tuple[int, int], int]) -> dict[int, int]:
    sums: dict[int, int] = {}
    for (collection, _), count in pairs.items():
        sums[collection] = sums.get(collection, 0) + count
    return sums


def _rows(ask: Ask, name: str, limit: int, *, least: int = 1) -> int:
    rows = wire.rows_in(ask.table(name))
    if rows > limit:
        raise TooLargeError(f"{ask.op}: {rows} {name}, at most {limit}")
    if rows < least:
        raise MalformedError(f"{ask.op}: expected at least {least} of {name}")
    return rows


def _current(ask: Ask, scalar: str, series: str) -> int:
    """Return the number of a series, which the request must name."""
    current, named = ask.state.number(series), ask.message.number(scalar)
    if not current or named != current:
        raise ConflictError(f"{ask.op}: {scalar} is {current}, got {named}")
    return current


def _record_rows(ask: Ask) -> Any:
    """Return which record each cell belongs to, as an index: a whole slice where they lie side by side."""
    records, cells = _rows(ask, "records", MAX_RECORDS), _rows(ask, "cells", MAX_CELLS)
    rows = ask.table("cells")["record_row"]
    if cells <= _FEW and rows.tolist() == list(range(records)):
        return slice(None)
    last = int(rows.max())
    if last >= records:
        raise MalformedError(f"{ask.op}: a cell names record {last} of {records}")
    return rows.astype(np.intp)


def _known(policy: Policy, pairs: Mapping[tuple[int, int], int]) -> None:
    for collection_id, class_id in pairs:
        collection = policy.collection_by_id.get(collection_id)
        if collection is None or class_id not in collection.class_ids:
            raise NotFoundError(f"no class {class_id} in collection {collection_id}")


def _tokens(ask: Ask, *, least: int) -> dict[tuple[int, int], int]:
    """Return how many tokens of each (collection, field) there are; they come sorted and without duplicates."""
    rows, table = _rows(ask, "tokens", MAX_TOKENS, least=least), ask.table("tokens")
    if not rows:
        return {}
    if (table["normaliser"] != NORMALISER).any():
        raise MalformedError(f"{ask.op}: normaliser is version {NORMALISER}")
    numbers = [np.ascontiguousarray(table[n], ">u2").view(np.uint8).reshape(rows, 2) for n in ("collection", "field")]
    keys = _values(np.hstack([*numbers, table["token"]]))
    if any(a >= b for a, b in itertools.pairwise(keys)):
        raise MalformedError(f"{ask.op}: expected tokens in ascending order, each once")
    return _count_pairs(table["collection"], table["field"])


def _index_inputs(ask: Ask, generation: int) -> tuple[str, Bytes2D]:
    t = ask.table("tokens")
    args = (t["collection"], t["field"], t["normaliser"], generation, t["token"])
    return "index", prf_input.index_inputs(*args)


def _classes(pairs: Mapping[tuple[int, int], int]) -> dict[str, int]:
    return {f"{collection}.{class_id}": count for (collection, class_id), count in pairs.items()}


def put(ask: Ask) -> Work:
    """Give values for new rows: the nonce is the keeper's own, so no stored row's value comes out."""
    records, cells = ask.table("records"), ask.table("cells")
    rows = _record_rows(ask)
    epoch, generation = _current(ask, "epoch", "record"), _current(ask, "generation", "index")
    tokens = _tokens(ask, least=0)
    if not records["version"].all():
        raise MalformedError("put: versions begin at 1")
    collection = records["collection"][rows]
    pairs = _count_pairs(collection, cells["class"])
    _known(ask.policy, pairs)
    written = _count(records["collection"])
    purposes.check_write(ask.policy, ask.grant.issuer, ask.grant.purpose, written, tokens)
    _bound_tokens(tokens, written)
    dates = (records["collected_s"], records["expires_s"])
    retention.check_seal(ask.policy, records["collection"], *dates, ask.now_s)
    subjects = _by_collection(records["collection"], records["subject"])
    _check_denied(ask, records, subjects)
    grant = ask.grant
    base = prf_input.nonce_base(grant.issuer, grant.jti, grant.expires_s, grant.request)
    inputs = prf_input.record_inputs(
        collection, cells["class"], records["version"][rows], epoch, dates[0][rows], dates[1][rows],
        records["subject"][rows], records["record"][rows], prf_input.nonces(base, len(cells["class"])),
    )  # fmt: skip
    written_rows = np.concatenate((records["record"], records["tag"]), axis=1).tobytes()
    return Work(
        charges={Counter.WRITE: subjects, Counter.RECORDS: written, Counter.SEARCH: _sum_by_collection(tokens)},
        inputs=(("record", inputs), *([_index_inputs(ask, generation)] if tokens else [])),
        about={"classes": _classes(pairs), "subjects": sum(map(len, subjects.values())), "rows": len(dates[0])}
        | {"tokens": sum(tokens.values())},
        blocks=(Block.of(Kind.WRITTEN, 0, written_rows, 32),),
        root=ask.message.sent_root("records", "cells"),
        nonce_base=base,
    )


def _bound_tokens(tokens: Mapping[tuple[int, int], int], written: Mapping[int, int]) -> None:
    """Refuse more values of a field than there are rows: a writer could look whole ranges up, thousands with a row."""
    for (collection, field_id), count in tokens.items():
        if count > (rows := written.get(collection, 0)):
            raise MalformedError(f"put: {count} tokens of field {collection}.{field_id} in {rows} rows")


def _check_denied(
    ask: Ask, rows: Mapping[str, Any], subjects: Mapping[int, list[bytes]], *checks: Callable[[], None]
) -> None:
    """Refuse what is denied, or what `checks` refuse; all are made first, so the time of the answer tells no cause."""

    def check_rows() -> None:
        if ask.state.denied:
            columns = (rows["collection"].tolist(), _values(rows["subject"]), _values(rows["record"]))
            ask.state.check_rows(zip(*columns, rows["version"].tolist(), strict=True), columns[2])

    handles, refusals = (s for part in subjects.values() for s in part), []
    for check in (*checks, lambda: ask.state.check_subjects(handles, ask.grant.purpose), check_rows):
        try:
            check()
        except RefusedError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


def open_(ask: Ask) -> Work:
    """Give values of stored rows: the only request that gives them, charged by subject and by cell."""
    stored = _stored(ask)
    purposes.check_open(ask.policy, ask.grant.issuer, ask.grant.purpose, stored.pairs)
    _check_stored(ask, stored)
    charges: Charges = {Counter.RECORDS: _sum_by_collection(stored.pairs)}
    renditions = {class_id & RENDITION for _, class_id in stored.pairs}
    for counter, bit in ((Counter.OPEN, 0), (Counter.LIST, RENDITION)):
        if renditions == {bit}:
            charges[counter] = _by_collection(stored.collection, stored.subject)
        elif bit in renditions:
            chosen = (ask.table("cells")["class"] & np.uint16(RENDITION)) == bit
            charges[counter] = _by_collection(stored.collection[chosen], stored.subject[chosen])
    return Work(charges=charges, inputs=(("record", stored.inputs),), about=stored.about())


def verify(ask: Ask) -> Work:
    """Give hashes of the components of rows written while a keeper was down: they give no value away."""
    stored = _stored(ask)
    purposes.check_verify(ask.policy, ask.grant.issuer, ask.grant.purpose, _count(stored.collection))
    _check_stored(ask, stored)
    charges: Charges = {Counter.RECORDS: _sum_by_collection(stored.pairs)}
    seen = _by_collection(stored.collection, stored.subject)
    inputs = (("record", stored.inputs),)
    return Work(charges=charges, inputs=inputs, about=stored.about(), seen=seen, only_hashes=True)


@dataclass(frozen=True, slots=True, repr=False)
class _Stored:
    """Cells that are in the store: PRF inputs, and collection, subject and record of each."""

    inputs: Bytes2D
    collection: Any
    subject: Any
    record: Any
    pairs: Mapping[tuple[int, int], int]

    def about(self) -> dict[str, object]:
        distinct = len(set(_values(self.subject)))
        return {"classes": _classes(self.pairs), "subjects": distinct, "rows": len(self.subject), "tokens": 0}


def _stored(ask: Ask) -> _Stored:
    records, cells, rows = ask.table("records"), ask.table("cells"), _record_rows(ask)
    epoch = _current(ask, "epoch", "record")
    collection, subject, record = (records[name][rows] for name in ("collection", "subject", "record"))
    pairs = _count_pairs(collection, cells["class"])
    _known(ask.policy, pairs)
    inputs = prf_input.record_inputs(
        collection, cells["class"], cells["version"], epoch, cells["collected_s"], cells["expires_s"],
        subject, record, cells["nonce"],
    )  # fmt: skip
    return _Stored(inputs, collection, subject, record, pairs)


def _check_stored(ask: Ask, stored: _Stored) -> None:
    """Retention and denials of the cells asked for."""
    records, cells = ask.table("records"), ask.table("cells")
    rows = {name: getattr(stored, name) for name in ("collection", "subject", "record")} | {"version": cells["version"]}
    subjects = {0: _values(records["subject"])} if ask.state.erased or ask.state.restricted else {}
    dates = cells["collected_s"], cells["expires_s"]
    ends = partial(retention.check_open, ask.policy, stored.collection, *dates, ask.now_s)
    _check_denied(ask, rows, subjects, ends)


def index(ask: Ask) -> Work:
    """Give index keys of tokens, each charged as a search."""
    generation, tokens = _current(ask, "generation", "index"), _tokens(ask, least=1)
    purposes.check_search(ask.policy, ask.grant.issuer, ask.grant.purpose, tokens)
    about = {"fields": _classes(tokens), "tokens": sum(tokens.values())}
    charges: Charges = {Counter.SEARCH: _sum_by_collection(tokens)}
    return Work(charges=charges, inputs=(_index_inputs(ask, generation),), about=about)


def prehash(ask: Ask) -> Work:
    """Give token keys of fields, each charged as a search: they are the same for ever, but each request is logged."""
    _rows(ask, "fields", MAX_TOKENS)
    table = ask.table("fields")
    pairs = _count_pairs(table["collection"], table["field"])
    purposes.check_prehash(ask.policy, ask.grant.issuer, ask.grant.purpose, pairs)
    inputs = prf_input.prehash_inputs(table["collection"], table["field"])
    charges: Charges = {Counter.SEARCH: _sum_by_collection(pairs)}
    return Work(charges=charges, inputs=(("prehash", inputs),), about={"fields": _classes(pairs)})


def delete(ask: Ask) -> Work:
    """Deny records up to a version until their epoch is gone; nodes delete on receipts alone."""
    count, records = _rows(ask, "records", MAX_RECORDS), ask.table("records")
    deleted = _count(records["collection"])
    if unknown := deleted.keys() - ask.policy.collection_by_id.keys():
        raise NotFoundError(f"no collection {max(unknown)}")
    purposes.check_delete(ask.policy, ask.grant.issuer, ask.grant.purpose, deleted)
    subjects = _by_collection(records["collection"], records["subject"])
    columns = (records["collection"].tolist(), _values(records["subject"]), _values(records["record"]))
    rows = zip(*columns, records["version"].tolist(), strict=True)
    token = ask.token.encode()
    denied = b"".join(DENIED.pack(place[2], denial_digest(*place), version) for *place, version in rows)
    return Work(
        charges={Counter.DELETE: subjects, Counter.RECORDS: deleted},
        about={"classes": {}, "subjects": sum(map(len, subjects.values())), "rows": count},
        blocks=(Block.of(Kind.DENIED, 0, denied, DENIED.size), Block.of(Kind.GRANT, 0, token, len(token))),
        root=ask.message.sent_root("records"),
    )


CHECKS: Mapping[str, Callable[[Ask], Work]] = {
    "put": put,
    "open": open_,
    "verify": verify,
    "index": index,
    "prehash": prehash,
    "delete": delete,
}
