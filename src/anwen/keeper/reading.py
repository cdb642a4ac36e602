"""Reading the log: who has seen a person, and entries as they are; granted, and logged like every request."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import json
import os
from collections.abc import Callable, Mapping

from anwen.errors import TooLargeError
from anwen.formats import wire
from anwen.keeper.log import Log, entry_members
from anwen.keeper.requests import Ask, Work
from anwen.keeper.side import MonthKeys
from anwen.net.metrics import usage
from anwen.policy import purposes

MAX_ENTRIES = 4096
_FAR_S = 2**37
_SEEING = frozenset({"put", "open", "verify", "delete"})


def audit(ask: Ask) -> Work:
    """Entries about one subject."""
    purposes.check_audit(ask.policy, ask.grant.issuer, ask.grant.purpose)
    return Work(about={"subjects": 1}, seen={0: [ask.message.opaque("subject")]})


def log(ask: Ask) -> Work:
    """Entries by number."""
    purposes.check_audit(ask.policy, ask.grant.issuer, ask.grant.purpose)
    if ask.message.number("count") > MAX_ENTRIES:
        raise TooLargeError(f"log: {ask.message.number('count')} entries, at most {MAX_ENTRIES}")
    return Work(about={"rows": ask.message.number("count")})


CHECKS: Mapping[str, Callable[[Ask], Work]] = {"audit": audit, "log": log}


async def read(ask: Ask, entries: Log, months: MonthKeys, checkpoint: str) -> bytes:
    """Return the entries asked for and the checkpoint, as an `entries` message; other requests go on meanwhile.

    For `log` each blob is an entry's exact bytes, from `start` on; for `audit` a member `index` is added to each, and
    `start` says where the search ended: before `size` if there were more than fit. `free_bytes`: room for the log.
    """
    start, size = ask.message.number("start"), entries.size
    if ask.op == "log":
        found = await asyncio.to_thread(entries.read, start, ask.message.number("count"))
    else:
        found, start = await asyncio.to_thread(_find, ask, entries, months)
    scalars = {"start": start, "size": size, "free_bytes": usage(entries.folder)[2]}
    blobs = {"entries": found, "checkpoint": [checkpoint.encode()]}
    return wire.encode("entries", os.urandom(wire.SALT_BYTES), scalars, {}, blobs)


def _find(ask: Ask, entries: Log, months: MonthKeys) -> tuple[list[bytes], int]:
    """Return what fits of the entries about a subject, and the index from which the search is to go on."""
    subject, since_s = ask.message.opaque("subject"), ask.message.number("since_s")
    found: list[bytes] = []
    in_month = functools.cache(lambda month: months.pseudonyms(month, subject))
    first_day = dt.datetime.fromtimestamp(min(since_s, _FAR_S), dt.UTC).date().isoformat()
    end = entries.size
    for frame in entries.frames(ask.message.number("start"), first_day):
        if len(found) == MAX_ENTRIES:
            return found, frame.index
        pseudonym = in_month(frame.day[:7])
        if pseudonym is not None and pseudonym in frame.side:
            entry = entry_members(frame.entry)
            if entry["op"] in _SEEING and entry["t"] >= since_s * 1000:
                found.append(json.dumps({"index": frame.index, **entry}, separators=(",", ":")).encode())
    return found, end
