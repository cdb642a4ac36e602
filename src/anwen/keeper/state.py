"""What a keeper knows beyond its keys and policy: a function of its log, and of nothing else.

Ledger, spent grants, denials, restricted and erased subjects, opened series. Entries that restrict, erase and lift are
read here and cannot be written over the wire yet.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from anwen.errors import MalformedError, RefusedError, StorageError
from anwen.keeper.log import LASTING, Frame, entry_members
from anwen.keeper.side import DENIED, Block, Kind, MonthKeys, decode, denial_digest, subject_digest
from anwen.model import Counter, Policy
from anwen.policy import budgets
from anwen.policy.retention import REFUSAL

COUNTERS = {Kind[counter.name]: counter for counter in Counter}
Charges = dict[Counter, dict[int, Any]]
"""By counter and collection: distinct handles, or a number (`policy.budgets.Charge`)."""


_FEW = 64
"""Rows of a request up to which all are looked at alike; in a longer one a row more or less does not show."""


def refused(cause: str) -> RefusedError:
    """Return the refusal, in its one wording; the cause is a note for the log."""
    error = RefusedError(REFUSAL)
    error.add_note(cause)
    return error


class State:
    """All that a keeper would have forgotten after a crash, were it not for its log."""

    def __init__(self, policy: Policy, months: MonthKeys) -> None:
        self._months = months
        self.ledger = budgets.Ledger(policy)
        self.last_ms = 0
        self.lasting = 0
        self.policy_version = 0
        self._numbers: dict[str, int] = {}
        self.opened: dict[tuple[str, int], bytes] = {}  # (series, number) -> transcript of its ceremony
        self.denied: dict[bytes, dict[bytes, int]] = {}  # record id -> `denial_digest` -> deleted up to this version
        self.erased: set[bytes] = set()  # `subject_digest`
        self.restricted: set[tuple[bytes, str]] = set()  # (`subject_digest`, purpose)
        self._spent: set[bytes] = set()
        self._ends: dict[int, list[bytes]] = {}

    # --- from the log ----------------------------------------------------------------------------------------------

    def replay(self, frame: Frame) -> None:
        """Take in one entry of the log on start. Raises StorageError when it does not fit what came before."""
        entry = entry_members(frame.entry)
        try:
            blocks = list(decode(frame.side))
            self.remember(entry, blocks)
            if entry.get("lasting") != self.lasting:
                raise StorageError(f"log: entry {frame.index} counts {entry.get('lasting')} lasting ones")
            charges = self._charges(blocks, frame.day[:7])
            if charges:
                self.ledger.replay(entry["iss"], charges, entry["t"] / 1000)
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, MalformedError, struct.error):
            raise StorageError(f"log: entry {frame.index} does not follow the format") from None

    def _charges(self, blocks: Iterable[Block], month: str) -> Charges:
        charges: Charges = {}
        for block in blocks:
            if block.kind not in COUNTERS:
                continue
            part: Any = block.rows
            if block.width:
                handles = self._months.handles(month, block.data)
                if handles is None:
                    continue  # that month's key is destroyed: longer ago than any window
                part = [handles[i : i + block.width] for i in range(0, len(handles), block.width)]
            charges.setdefault(COUNTERS[block.kind], {})[block.collection] = part
        return charges

    def remember(self, entry: dict[str, Any], blocks: Sequence[Block]) -> None:
        """Take in one entry, all but its charges."""
        op = entry["op"]
        self.last_ms = max(self.last_ms, entry["t"])
        self.lasting += op in LASTING
        if "exp" in entry:
            self._spend(_spent_key(entry["iss"], bytes.fromhex(entry["jti"])), entry["exp"])
        if op == "delete":
            for row in (row for b in blocks if b.kind is Kind.DENIED for row in b.values()):
                record, digest, version = DENIED.unpack(row)
                denied = self.denied.setdefault(record, {})
                denied[digest] = max(version, denied.get(digest, 0))
        elif op in {"restrict", "erase", "lift"}:
            self._deny_subjects(op, entry, [row for b in blocks if b.kind is Kind.SUBJECT for row in b.values()])
        elif op == "ceremony":
            self.opened[entry["series"], entry["number"]] = bytes.fromhex(entry["transcript"])
            self._numbers[entry["series"]] = max(entry["number"], self.number(entry["series"]))
        elif op == "policy":
            self.policy_version = max(self.policy_version, entry["policy"])

    def _spend(self, key: bytes, end_s: int) -> None:
        """Keep a used grant until it expires; the nonce holds `exp`, so that is long enough."""
        if end_s not in self._ends:
            for ended in [end for end in self._ends if end * 1000 <= self.last_ms]:
                self._spent.difference_update(self._ends.pop(ended))
        self._spent.add(key)
        self._ends.setdefault(end_s, []).append(key)

    def _deny_subjects(self, op: str, entry: dict[str, Any], digests: list[bytes]) -> None:
        if op == "erase":
            self.erased.update(digests)
            return
        change: Callable[..., None] = self.restricted.update if op == "restrict" else self.restricted.difference_update
        change((digest, entry["purpose"]) for digest in digests)

    # --- questions -------------------------------------------------------------------------------------------------

    def number(self, series: str) -> int:
        """Return the epoch or generation that is current; 0 before the first ceremony."""
        return self._numbers.get(series, 0)

    def is_spent(self, issuer: str, jti: bytes) -> bool:
        """Return whether a grant that is still valid was used."""
        return _spent_key(issuer, jti) in self._spent

    def check_rows(self, rows: Iterable[tuple[int, bytes, bytes, int]], records: Sequence[bytes]) -> None:
        """Raise RefusedError if a row (collection, subject, record, version) was deleted; `records` are their ids."""
        few = len(records) <= _FEW
        if not few and self.denied.keys().isdisjoint(records):
            return
        # to the end, and of each row alike: how long it takes says nothing of what was found
        found = [
            version <= self.denied.get(record, {}).get(denial_digest(collection, subject, record), -1)
            for collection, subject, record, version in rows
            if few or record in self.denied
        ]
        if any(found):
            raise refused("deleted")

    def check_subjects(self, subjects: Iterable[bytes], purpose: str) -> None:
        """Raise RefusedError if a subject is erased, or restricted for this purpose."""
        if not self.erased and not self.restricted:
            return
        digests = map(subject_digest, subjects)
        if any([(digest in self.erased) | ((digest, purpose) in self.restricted) for digest in digests]):  # noqa: C419
            raise refused("erased or restricted")


def _spent_key(issuer: str, jti: bytes) -> bytes:
    return jti + issuer.encode()
