"""Delete records: the keepers' receipts first, then the node."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anwen.client.opening import stack
from anwen.client.records import Record
from anwen.client.session import Session
from anwen.formats import wire


async def delete(session: Session, purpose: str, records: Sequence[Record]) -> None:
    """Have keepers charge, log and deny the records up to their version, so many that no t are left that would open
    them; then have a node remove them.

    A crash in between leaves records that no keeper opens; deleting them again removes them.
    """
    if not records:
        return
    table: wire.Table = {
        "collection": np.array([session.policy.collections[r.collection].id for r in records]),
        "subject": stack([bytes.fromhex(r.subject) for r in records], 16),
        "record": stack([bytes.fromhex(r.id) for r in records], 16),
        "version": np.array([r.version for r in records]),  # denied with all before it: a class may be current in one
    }
    body = wire.encode("delete", session.random(wire.SALT_BYTES), tables={"records": table})
    answers = await session.ask_all("delete", purpose, body)
    receipts = [a.receipt for a in answers.values()]
    salt = session.random(wire.SALT_BYTES)
    body = wire.encode("node_delete", salt, tables={"records": table}, blobs={"receipts": receipts})
    await session.node("node_delete", purpose, body, lambda answer: wire.decode(answer, "outcomes"))
