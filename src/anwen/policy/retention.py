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
from anwen.model import Policy

DAY_S = 86_400
AHEAD_S = 120
"""How far a client's clock may be ahead (THREATS.md Q25)."""
END_OF_TIME_S = 2**40
"""Dates fill five bytes of a PRF input."""

Integers = npt.NDArray[np.integer]
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
    """Return which row is the first that may not be sealed or opened, and why; of two reasons the first here."""
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
    faults = {
        "unknown collection": ~known,
        f"dates must be below {END_OF_TIME_S} s": (collected >= far) | (expires >= far),
        f"dates of this collection are whole days, multiples of {DAY_S} s": by_day
        & ((collected % DAY_S != 0) | (expires % DAY_S != 0)),
        f"collected more than {AHEAD_S} s in the future": collected > np.uint64(max(now_s + AHEAD_S, 0)),
        "past its end: expires_s or the policy's retention": end <= np.uint64(max(now_s, 0)),
    }
    found = [(int(np.argmax(rows)), why) for why, rows in faults.items() if rows.any()]
    return "row {}: {}".format(*min(found, key=lambda f: f[0])) if found else None
