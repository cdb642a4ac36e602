"""Puts as the software never sends them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anwen.client import rounds
from anwen.client.finding import Query, token_table
from anwen.client.opening import stack
from anwen.client.rows import Cell
from anwen.client.session import Session
from anwen.formats import wire


async def put_body(session: Session, purpose: str, cells: Sequence[Cell], queries: Sequence[Query] = ()) -> bytes:
    """Return a put of rows as they are given, stored ones or others, and of indexed values."""
    epoch, generation = await rounds.current(session, purpose)
    place = {record: i for i, record in enumerate(dict.fromkeys(c.record for c in cells))}
    firsts = list({c.record: c for c in cells}.values())  # in the order of `place`
    records: wire.Table = {
        "collection": np.array([c.collection.id for c in firsts]), "subject": stack([c.subject for c in firsts], 16),
        "record": stack(list(place), 16), "version": np.array([c.version for c in firsts]),
        "tag": stack([bytes(16)] * len(place), 16),
        "collected_s": np.array([c.collected_s for c in firsts], np.uint64),
        "expires_s": np.array([c.expires_s for c in firsts], np.uint64),
    }  # fmt: skip
    table: wire.Table = {
        "record_row": np.array([place[c.record] for c in cells]), "class": np.array([c.class_id for c in cells]),
        "commitment": stack([c.envelope[13:45] for c in cells], 32),
    }  # fmt: skip
    scalars: dict[str, int | bytes] = {"epoch": epoch, "generation": generation}
    tables = {"records": records, "cells": table, "tokens": token_table(queries)}
    return wire.encode("put", session.random(wire.SALT_BYTES), scalars, tables)
