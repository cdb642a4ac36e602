"""A node: checks grants, receipts and forms, moves sealed bytes. It holds no key and never learns a value.

Its checks keep junk and unlogged changes out of the store; they are not what keeps data secret.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from anwen.crypto import grants
from anwen.errors import GrantError, NotFoundError, PolicyError, TooLargeError
from anwen.formats import policy_chain, wire
from anwen.model import Policy, Purpose
from anwen.node import puts
from anwen.node.answers import encode_outcomes, encode_rows, encode_state, split
from anwen.node.receipts import Expected, check_receipts
from anwen.policy import purposes
from anwen.store import placing
from anwen.store.base import Hit, Outcome, PutResult, Store, StoredRow
from anwen.store.trim import trim_cells, trim_wraps

MAX_RECORDS = 16_384
"""Records or labels that one get, find, list or delete names."""

_EPOCHS_LAST_S = 10.0
_AT_ONCE = 128  # rows of a put that are checked, or given out, without giving others a turn
_load_public_key = lru_cache(maxsize=1024)(grants.load_public_key)


@dataclass(frozen=True, slots=True)
class _Caller:
    """Who asks, and why, after the grant was checked."""

    principal: str
    purpose: Purpose

    def opens(self, collection: int) -> frozenset[int]:
        """Return the classes of a collection whose cells this purpose may have."""
        return frozenset(c for owner, c in self.purpose.open if owner == collection)

    def meets(self) -> frozenset[int]:
        """Return the collections of whose records this purpose may learn at all."""
        return frozenset(owner for owner, _ in self.purpose.open | self.purpose.search)


class Node:
    """Serves one store under the newest policy it was given."""

    def __init__(
        self,
        policy: Policy,
        store: Store,
        *,
        clock: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = secrets.token_bytes,
        save: Callable[[int, bytes], None] = lambda _version, _document: None,
    ) -> None:
        """Args: save: keeps a signed policy version for the next start, durably, before it is followed."""
        self.policy, self._screen, self._store = policy, policy_chain.Screen.after(policy), store
        self._clock, self._random, self._save = clock, random, save
        self._epoch, self._epoch_until_s = 0, 0.0
        self._audience = grants.node_audience(policy.vault)
        self._operations: dict[str, Callable[[_Caller, bytes], Awaitable[bytes]]] = {
            "node_put": self._put,
            "node_get": self._get,
            "node_find": self._find,
            "node_list": self._list,
            "node_delete": self._delete,
            "state": self._alive,
            "node_state": self._state,
        }

    @property
    def operations(self) -> frozenset[str]:
        """Names of what may be asked."""
        return frozenset(self._operations) | {"policy"}

    async def handle(self, op: str, grant: str, body: bytes) -> bytes:
        """Return the answer to one request.

        Args:
            op: "node_put", "node_get", "node_find", "node_list", "node_delete", "node_state" or "policy".
            grant: as it follows `Authorization: Anwen`; may be empty for "policy", which officers' signatures carry.
        """
        if op == "policy":
            return self._take_policy(grant, body)
        operation = self._operations.get(op)
        if operation is None:
            raise _refused("unknown operation")
        return await operation(self._authenticate(grant, body), body)

    def admit(self, token: str) -> grants.Grant:
        """Return a grant that is good in all but what the body says. Cheap checks come first. Raises GrantError."""
        parts = grants.parse(token)
        grants.check(parts[0], self._audience, self._clock())
        principal = self.policy.principals.get(parts[0].issuer)
        grants.verify(parts, _load_public_key(principal.public_key) if principal else None)
        return parts[0]

    def _authenticate(self, token: str, body: bytes) -> _Caller:
        """Return who asks; nothing of the body is parsed before."""
        grant = self.admit(token)
        grants.check_request(grant, hashlib.sha256(body).digest())
        return _Caller(grant.issuer, purposes.purpose_of(self.policy, grant.issuer, grant.purpose))

    # --- writing -------------------------------------------------------------------------------------------------

    async def _put(self, caller: _Caller, body: bytes) -> bytes:
        message = wire.decode(body, "node_put")
        records, cells = message.tables["records"], message.tables["cells"]
        collections = np.unique(records["collection"]).tolist()
        purposes.check_write(self.policy, caller.principal, caller.purpose.name, collections)
        epoch, generation = message.number("epoch"), message.number("generation")
        root = wire.put_root(records, cells)
        expected = Expected("put", root, caller.principal, self._clock(), epoch, generation)
        check_receipts(self.policy, message.blobs["receipts"], expected)
        if wire.rows_in(records) > _AT_ONCE:  # some 30 us a row: other requests take turns meanwhile
            rows = await asyncio.to_thread(puts.rows_of, self.policy, message)
        else:
            rows = puts.rows_of(self.policy, message)
        results = await self._store.put(epoch, rows)
        self._epoch = max(self._epoch, epoch)
        return encode_outcomes(self._random(wire.SALT_BYTES), results, [len(r.postings) for r in rows])

    async def _delete(self, caller: _Caller, body: bytes) -> bytes:
        message = wire.decode(body, "node_delete")
        records = message.tables["records"]
        ids = _ids(records["record"])
        purposes.check_delete(
            self.policy, caller.principal, caller.purpose.name, np.unique(records["collection"]).tolist()
        )
        expected = Expected("delete", wire.delete_root(records), caller.principal, self._clock())
        check_receipts(self.policy, message.blobs["receipts"], expected)
        named = zip(ids, _ids(records["subject"]), records["collection"].tolist(), strict=True)
        whose = {record: (subject, collection) for record, subject, collection in named}
        for row in await self._store.get(await self._current_epoch(), ids, ()):
            # keepers charged the subjects that the request names: they must be those of the records
            if whose[row.record] != (row.subject, row.collection):
                raise NotFoundError(f"record {row.record.hex()}: not of this subject and collection")
        await self._store.delete(list(zip(ids, records["version"].tolist(), strict=True)))
        return encode_outcomes(self._random(wire.SALT_BYTES), [PutResult(Outcome.STORED)] * len(ids), [0] * len(ids))

    # --- reading -------------------------------------------------------------------------------------------------

    async def _get(self, caller: _Caller, body: bytes) -> bytes:
        message = wire.decode(body, "node_get")
        if not caller.meets():
            raise _refused("the purpose neither opens nor searches")
        rows = await self._store.get(await self._current_epoch(), _ids(message.tables["records"]["record"]), ())
        return await self._answer(caller, message, [], rows)

    async def _find(self, caller: _Caller, body: bytes) -> bytes:
        message = wire.decode(body, "node_find")
        if not caller.purpose.search and not caller.purpose.write:  # writers look for free slots
            raise _refused("the purpose neither searches nor writes")
        labels = _ids(message.tables["labels"]["label"])
        hits, rows = await self._under(caller, labels)
        if await self._replaced(labels, hits, rows):
            # in between a value may as well have moved to another slot
            hits, rows = await self._under(caller, labels)
            gone = await self._replaced(labels, hits, rows)
            hits = [Hit(h.label_row, bytes(16), bytes(16)) if h.label_row in gone else h for h in hits]
            there = {h.record for h in hits}
            rows = [r for r in rows if r.record in there]
        return await self._answer(caller, message, hits, rows)

    async def _under(self, caller: _Caller, labels: Sequence[bytes]) -> tuple[list[Hit], list[StoredRow]]:
        """Return what lies under labels, with the records if the purpose searches."""
        found = await self._store.find(labels)
        hits = [h for h in found if len(h.record) == len(h.mac) == 16]  # others are junk
        records = list(dict.fromkeys(h.record for h in hits if any(h.record)))
        rows: list[StoredRow] = []
        if records and caller.purpose.search:
            rows = await self._store.get(await self._current_epoch(), records, ())
        return hits, rows

    async def _replaced(self, labels: Sequence[bytes], hits: Sequence[Hit], rows: Sequence[StoredRow]) -> set[int]:
        """Return which labels, by place, their records do not name any more.

        A record was updated between the two reads, or by a put that was cut off before it buried what it replaced.
        Whoever opened it would take it for a lie. Where part of a record is junk, nobody can tell, and it stays.
        """

        def look() -> set[int]:
            held = placing.held_by(rows)
            whole = {r.record for r in rows if held[r.record].classes >= self._classes_of(r.collection)}
            return {h.label_row for h in hits if h.record in whole and labels[h.label_row] not in held[h.record].labels}

        return look() if len(rows) <= _AT_ONCE else await asyncio.to_thread(look)

    def _classes_of(self, collection: int) -> set[int]:
        schema = self.policy.collection_by_id.get(collection)
        return {c.id for c in schema.classes} if schema else set()

    async def _list(self, caller: _Caller, body: bytes) -> bytes:
        message = wire.decode(body, "node_list")
        collection, limit = message.number("collection"), message.number("limit")
        if collection not in caller.meets():
            raise _refused("the purpose neither opens nor searches the collection")
        if not 1 <= limit <= MAX_RECORDS:
            raise TooLargeError(f"limit of {limit} records, expected 1 to {MAX_RECORDS}")
        subjects, after = _ids(message.tables["subjects"]["subject"]), message.opaque("after")
        wanted = frozenset(subjects)
        rows: list[StoredRow] = []
        while limit > 0:
            ids = await self._store.list_subjects(collection, subjects, after, limit)
            got = await self._store.get(await self._current_epoch(), ids, ())
            found = [r for r in got if r.collection == collection and (not wanted or r.subject in wanted)]
            rows += found
            if len(ids) < limit:
                break
            after, limit = ids[-1], limit - len({r.record for r in found})  # some were deleted since they were listed
        return await self._answer(caller, message, [], rows)

    async def _state(self, caller: _Caller, body: bytes) -> bytes:
        wire.decode(body, "node_state")
        purposes.check_audit(self.policy, caller.principal, caller.purpose.name)
        found = await self._store.statistics()  # takes seconds, and the time is that of the answer
        return encode_state(
            self._random(wire.SALT_BYTES), self.policy, int(self._clock() * 1000), self._store.engine, found
        )

    async def _alive(self, _caller: _Caller, body: bytes) -> bytes:
        """Answer any principal's sign of life: the store is there, too. What it holds is the auditors' business."""
        wire.decode(body, "state")
        await self._store.find([self._random(16)])  # as callers read: a member that reaches no other is no store
        return encode_outcomes(self._random(wire.SALT_BYTES), [], [])

    async def _answer(
        self, caller: _Caller, message: wire.Message, hits: Sequence[Hit], rows: Sequence[StoredRow]
    ) -> bytes:
        if len(rows) <= _AT_ONCE:
            return self._rows(caller, message, hits, rows)
        return await asyncio.to_thread(self._rows, caller, message, hits, rows)

    def _rows(self, caller: _Caller, message: wire.Message, hits: Sequence[Hit], rows: Sequence[StoredRow]) -> bytes:
        """Return rows with those cells alone that were asked for and that the purpose opens."""
        asked = frozenset(message.tables["classes"]["class"].tolist())
        allowed = {c: caller.opens(c) & asked if asked else caller.opens(c) for c in caller.meets()}
        given: list[tuple[StoredRow, bytes, bytes]] = []
        for row in rows:
            # also a row without cells: whose the record is, and its version, are what a search or an update needs
            if (classes := allowed.get(row.collection)) is not None:
                given.append((row, trim_cells(row.sealed, classes), trim_wraps(row.wraps, classes)))
        return encode_rows(self._random(wire.SALT_BYTES), hits, given)

    async def _current_epoch(self) -> int:
        """Return the newest epoch of the store, as far as known some seconds ago: wraps stay until an epoch ends."""
        now_s = time.monotonic()  # the wall clock may be set back, and the epoch would not be looked up for as long
        if not self._epoch or now_s >= self._epoch_until_s:
            self._epoch = max([self._epoch, *await self._store.epochs()])
            self._epoch_until_s = now_s + _EPOCHS_LAST_S
        return self._epoch

    # --- policy --------------------------------------------------------------------------------------------------

    def _take_policy(self, grant: str, document: bytes) -> bytes:
        """Follow the next policy version; without a grant nothing is said of any other, nor of the present one."""
        try:
            self._screen.check(document)
            policy = policy_chain.verify_next(self.policy, policy_chain.decode_signed(document))
        except PolicyError:
            self._authenticate(grant, document)
            if self._screen.is_present(document):
                return b""
            raise
        # commit point: a crash before it leaves the old version, after it the next start follows the new one
        self._save(policy.version, document)
        self.policy, self._screen = policy, policy_chain.Screen.after(policy)
        return b""


def _refused(cause: str) -> GrantError:
    error = GrantError(grants.WORDING)
    error.add_note(cause)
    return error


def _ids(column: wire.Array) -> list[bytes]:
    """Return an opaque column as a list. Raises TooLargeError."""
    if len(column) > MAX_RECORDS:
        raise TooLargeError(f"{len(column)} rows, at most {MAX_RECORDS}")
    return split(column)
