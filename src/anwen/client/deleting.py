"""Delete records: the keepers' receipts first, then the node."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anwen.client.opening import stack
from anwen.client.records import Record
from anwen.client.session import Session
from anwen.errors import TooLargeError
from anwen.formats import wire


async def delete(session: Session, purpose: str, records: Sequence[Record]) -> None:
    """Have t keepers charge, log and deny the records up to their version, then have a node remove them.

    A crash in between leaves records that no keeper opens; deleting them again removes them.

    Raises: TooLargeError: more versions than one request may name.
    """
    if not records:
        return
    count = sum(r.version for r in records)
    if count > wire.MAX_ROWS:  # before a list is made of them: a node says how many there are
        raise TooLargeError(f"{count} versions, at most {wire.MAX_ROWS} at once")
    # every version is denied by itself: a class may be current in an older one than the newest
    versions = [(r, v) for r in records for v in range(1, r.version + 1)]
    table: wire.Table = {
        "collection": np.array([session.policy.collections[r.collection].id for r, _ in versions]),
        "subject": stack([bytes.fromhex(r.subject) for r, _ in versions], 16),
        "record": stack([bytes.fromhex(r.id) for r, _ in versions], 16),
        "version": np.array([v for _, v in versions]),
    }
    body = wire.encode("delete", session.random(wire.SALT_BYTES), tables={"records": table})
    answers = await session.ask_all("delete", purpose, body)
    receipts = [a.receipt for a in answers.values()]
    salt = session.random(wire.SALT_BYTES)
    body = wire.encode("node_delete", salt, tables={"records": table}, blobs={"receipts": receipts})
    await session.node("node_delete", purpose, body, "outcomes")
