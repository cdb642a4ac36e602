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
"""How far a client's clock may be ahead."""
END_OF_TIME_S = 2**40
"""Dates fill five bytes of a PRF input."""

Integers = npt.NDArray[np.integer]
_FEW = 16  # up to here numbers of Python cost less than numpy's calls: 1 us for a row instead of 43
_FAULTS = (
    "unknown collection",
    f"dates must be below {END_OF_TIME_S} s",
    f"dates of this collection are whole days, multiples of {DAY_S} s",
    f"collected more than {AHEAD_S} s in the future",
    "past its end: expires_s or the policy's retention",
)
REFUSAL = "not opened: unknown, expired, restricted, erased or deleted"
"""One wording for every cause; the cause is a note on the error (`__notes__`), for the log alone."""


def check_seal(
    policy: Policy, collection_ids: Integers, collected_s: Integers, expires_s: Integers, now_s: float
) -> None:
    """Raise MalformedError, naming the first row and why, unless every row may be sealed now."""
    fault = _first_fault(policy, collection_ids, collected_s, expires_s, now_s)
    if fault is not None:
        raise MalformedError(fault)


def check_open(
    policy: Policy, collection_ids: Integers, collected_s: Integers, expires_s: Integers, now_s: float
) -> None:
    """Raise RefusedError, in one wording for every cause, unless every row may be opened now."""
    fault = _first_fault(policy, collection_ids, collected_s, expires_s, now_s)
    if fault is not None:
        error = RefusedError(REFUSAL)
        error.add_note(fault)
        raise error


def _first_fault(policy: Policy, ids: Integers, collected_s: Integers, expires_s: Integers, now_s: float) -> str | None:
    """Return which row is the first that may not be sealed or opened, and why; of two, the first of `_FAULTS`."""
    latest_s, now_s = max(int(now_s + AHEAD_S), 0), max(int(now_s), 0)
    if len(ids) <= _FEW:
        rows = zip(ids.tolist(), collected_s.tolist(), expires_s.tolist(), strict=True)
        for row, (collection_id, collected, expires) in enumerate(rows):
            fault = _fault(policy.collection_by_id.get(collection_id), collected, expires, latest_s, now_s)
            if fault is not None:
                return f"row {row}: {_FAULTS[fault]}"
        return None
    found = [
        (int(np.argmax(m)), why)
        for m, why in zip(_masks(policy, ids, collected_s, expires_s, (latest_s, now_s)), _FAULTS, strict=True)
        if m.any()
    ]
    return "row {}: {}".format(*min(found, key=lambda f: f[0])) if found else None


def _fault(collection: Collection | None, collected: int, expires: int, latest_s: int, now_s: int) -> int | None:
    """Return the number in `_FAULTS` of what is wrong with one row."""
    if collection is None:
        return 0
    if not (0 <= collected < END_OF_TIME_S and 0 <= expires < END_OF_TIME_S):
        return 1
    if collection.dates == "day" and (collected % DAY_S or expires % DAY_S):
        return 2
    if collected > latest_s:
        return 3
    end = collected + collection.retention_days * DAY_S
    return 4 if min(end, expires or end) <= now_s else None


def _masks(
    policy: Policy, ids: Integers, collected_s: Integers, expires_s: Integers, at: tuple[int, int]
) -> list[npt.NDArray[np.bool_]]:
    """Return for each of `_FAULTS` which rows have it; `at` is how late data may be collected, and now."""
    collected, expires = collected_s.astype(np.uint64), expires_s.astype(np.uint64)
    retention_s = np.zeros(len(ids), np.uint64)
    by_day, known = np.zeros((2, len(ids)), np.bool_)
    for collection in policy.collections.values():
        rows = ids == collection.id
        known |= rows
        retention_s[rows] = collection.retention_days * DAY_S
        by_day |= rows & (collection.dates == "day")
    far = np.uint64(END_OF_TIME_S)
    end = np.minimum(collected, far) + retention_s  # stays in range
    end = np.where(expires == 0, end, np.minimum(expires, end))
    return [
        ~known,
        (collected >= far) | (expires >= far),
        by_day & ((collected % DAY_S != 0) | (expires % DAY_S != 0)),
        collected > np.uint64(at[0]),
        end <= np.uint64(at[1]),
    ]
