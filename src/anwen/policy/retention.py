"""When a row may be sealed and opened: dates in the row, retention in the policy.

`collected_s` is when the data was collected and is copied from version to version; `expires_s` is the row's own
end, 0 for none. A row is opened before the earlier of `expires_s` and `collected_s` + retention, never from that
second on. Days are days of UTC. Arrays are of one length; integers of any width and byte order.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anwen.errors import MalformedError, RefusedError
from anwen.model import Collection, Policy

DAY_S = 86_400
AHEAD_S = 120
"""How far a client's clock may be ahead (THREATS.md Q25)."""
END_OF_TIME_S = 2**40
"""Dates fill five bytes of a PRF input."""

Integers = npt.NDArray[np.integer]
Bools = npt.NDArray[np.bool_]
REFUSAL = "not opened: unknown, expired, restricted, erased or deleted"
"""One wording for every cause; the cause is a note on the error (`__notes__`), for the log alone."""


def latest_s(collection: Collection, collected_s: Integers, expires_s: Integers) -> npt.NDArray[np.uint64]:
    """Return the first second from which each row is no longer opened. Dates must be below END_OF_TIME_S."""
    return _latest(np.uint64(collection.retention_days * DAY_S), collected_s, expires_s)


def _latest(
    retention_s: np.uint64 | npt.NDArray[np.uint64], collected_s: Integers, expires_s: Integers
) -> npt.NDArray[np.uint64]:
    by_retention = collected_s.astype(np.uint64) + retention_s
    own = expires_s.astype(np.uint64)
    return np.where(own == 0, by_retention, np.minimum(own, by_retention)).astype(np.uint64)


def check_seal(
    policy: Policy, collection_ids: Integers, collected_s: Integers, expires_s: Integers, now_s: float
) -> None:
    """Raise MalformedError, naming the first row and why, unless every row may be sealed now."""
    found = _first_fault(policy, collection_ids, (collected_s, expires_s), now_s)
    if found is not None:
        raise MalformedError(f"row {found[0]}: {found[1]}")


def check_open(
    policy: Policy, collection_ids: Integers, collected_s: Integers, expires_s: Integers, now_s: float
) -> None:
    """Raise RefusedError, in one wording for every cause, unless every row may be opened now."""
    found = _first_fault(policy, collection_ids, (collected_s, expires_s), now_s)
    if found is not None:
        error = RefusedError(REFUSAL)
        error.add_note(f"row {found[0]}: {found[1]}")
        raise error


def may_open(
    policy: Policy, collection_ids: Integers, collected_s: Integers, expires_s: Integers, now_s: float
) -> Bools:
    """Return for each row whether its dates allow to open it now."""
    allowed = np.ones(len(collection_ids), np.bool_)
    for fault, _ in _faults(policy, collection_ids, (collected_s, expires_s), now_s):
        allowed &= ~fault
    return allowed


def _first_fault(
    policy: Policy, ids: Integers, dates: tuple[Integers, Integers], now_s: float
) -> tuple[int, str] | None:
    found = [(int(np.argmax(fault)), why) for fault, why in _faults(policy, ids, dates, now_s) if fault.any()]
    return min(found, key=lambda f: f[0]) if found else None


def _faults(policy: Policy, ids: Integers, dates: tuple[Integers, Integers], now_s: float) -> list[tuple[Bools, str]]:
    """Return for each thing that can be wrong in which rows it is; order decides between two in one row."""
    collected, expires = (d.astype(np.uint64) for d in dates)
    retention_s = np.zeros(len(ids), np.uint64)
    by_day, known = np.zeros((2, len(ids)), np.bool_)
    for collection_id in np.unique(ids).tolist():
        collection = policy.collection_by_id.get(collection_id)
        if collection is not None:
            rows = ids == collection_id
            known |= rows
            retention_s[rows] = collection.retention_days * DAY_S
            by_day |= rows & (collection.dates == "day")
    far = np.uint64(END_OF_TIME_S)
    too_large = (collected >= far) | (expires >= far)
    small = [np.where(d < far, d, np.uint64(0)) for d in (collected, expires)]  # sums below stay in range
    part_of_day = by_day & ((collected % DAY_S != 0) | (expires % DAY_S != 0))
    return [
        (~known, "unknown collection"),
        (too_large, f"dates must be below {END_OF_TIME_S} s"),
        (part_of_day, f"dates of this collection are whole days, multiples of {DAY_S} s"),
        (collected > np.uint64(max(now_s + AHEAD_S, 0)), f"collected more than {AHEAD_S} s in the future"),
        (_latest(retention_s, *small) <= np.uint64(max(now_s, 0)), "past its end: expires_s or the policy's retention"),
    ]
