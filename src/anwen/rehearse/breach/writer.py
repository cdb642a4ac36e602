"""The key of somebody who only writes: values of stored rows asked for as if they were new, and who is in the vault.

A put gives the writer F(x) of his rows. If he could name the x of a stored row, he would read it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from anwen.client.opening import stack
from anwen.client.rows import Cell
from anwen.client.session import Session
from anwen.crypto.dprf import held_by
from anwen.errors import AnwenError
from anwen.formats import wire
from anwen.formats.answer import Answer
from anwen.rehearse.breach import probing
from anwen.rehearse.breach.cast import Cast
from anwen.rehearse.breach.live import Loot, open_with
from anwen.rehearse.breach.scene import Scene
from anwen.rehearse.breach.theft import Theft
from anwen.rehearse.breach.writing import put_body

BATCHES = 3


async def steal(scene: Scene, cast: Cast, loot: Loot, dump: Sequence[Cell]) -> Theft:
    """Return what a writer's key reads of stored rows; `loot`: recorded requests, which he asks again."""
    principal, purpose = cast.writer
    theft = Theft(
        "writer", f"the key of {principal}, who only writes; recorded requests; a dump", 0,
        "no value of a stored row comes out of a put, and no more guesses than its search budget",
        "rehearse/breach/writer.py",
    )  # fmt: skip
    cells = [cell for cell in dump if cell.collection.name == cast.reader.collection]
    async with scene.connect(principal, purpose) as vault:
        opened, tried = await _as_new(vault.session, purpose, cells)
        theft.got(opened)
        theft.note("stored rows put again under their own ids: their values asked for as new ones", tried=tried)
        puts = [request for request in loot.passed["keeper"] if request.op == "put"]
        again = sum([await _asked_again(vault.session, purpose, request.body, cells) for request in puts])
        theft.note(f"{len(puts)} recorded puts asked again, as they were", gave_stored_values=again)
        theft.must(not again, f"{again} recorded puts gave values of stored rows")
        answered = [
            op for op, body in _other_ways(vault.session, cells) if await _answers(vault.session, op, purpose, body)
        ]
        theft.note("the same rows to open, verify and delete", answered=", ".join(answered) or "none")
        theft.must("open" not in answered, "a writer's key opens")
    if cast.prober:
        await probing.probe(scene, cast, dump, theft)
    theft.close()
    return theft


async def _as_new(session: Session, purpose: str, cells: Sequence[Cell]) -> tuple[set[str], int]:
    """Return the people whom the answers to puts of stored rows open, and how many values were tried.

    Rows that were put together share the first bytes of their ids; each cell is put where it was put then.
    """
    batches: dict[bytes, list[Cell]] = {}
    for cell in cells:
        batches.setdefault(cell.record[:6], []).append(cell)
    opened: set[str] = set()
    tried = 0
    for batch in sorted(batches.values(), key=len, reverse=True)[:BATCHES]:
        mine = sorted(batch, key=lambda c: c.nonce[20:])
        try:
            answers = await session.ask_all("put", purpose, await put_body(session, purpose, mine))
        except AnwenError:
            continue
        for cell, value in zip(mine, _values(session, answers, len(mine)), strict=True):
            tried += 1
            key = bytes(a ^ b for a, b in zip(cell.wrap, value, strict=True))
            opened |= open_with(session.policy.vault, [cell], [key])
    return opened, tried


def _values(session: Session, answers: dict[str, Answer], rows: int) -> Iterator[bytes]:
    """Yield the value of each row that a round's answers give."""
    policy = session.policy
    known = {
        key_set: answer.components[column]
        for keeper, answer in answers.items()
        for column, key_set in enumerate(held_by(keeper, list(policy.keepers), policy.threshold))
    }
    total = np.bitwise_xor.reduce(np.stack(list(known.values())))
    return (total[row].tobytes() for row in range(rows))


async def _asked_again(session: Session, purpose: str, body: bytes, cells: Sequence[Cell]) -> int:
    """Return whether a recorded put, asked again under a fresh grant, gives a nonce that a stored row has."""
    stored = {cell.nonce[:20] for cell in cells}
    try:
        answers = await session.ask_all("put", purpose, body)
    except AnwenError:
        return 0
    return int(any(answer.nonce_base in stored for answer in answers.values()))


def _other_ways(session: Session, cells: Sequence[Cell]) -> Iterator[tuple[str, bytes]]:
    """Yield requests for a stored row under operations that a writer has no right to."""
    cell, salt = cells[0], session.random(wire.SALT_BYTES)
    record: wire.Table = {
        "collection": np.array([cell.collection.id]),
        "subject": stack([cell.subject], 16),
        "record": stack([cell.record], 16),
    }
    named: wire.Table = {
        "record_row": np.array([0]), "class": np.array([cell.class_id]), "version": np.array([cell.version]),
        "collected_s": np.array([cell.collected_s], np.uint64), "expires_s": np.array([cell.expires_s], np.uint64),
        "nonce": stack([cell.nonce], 24),
    }  # fmt: skip
    for op in ("open", "verify"):
        yield op, wire.encode(op, salt, {"epoch": 1}, {"records": record, "cells": named})
    yield "delete", wire.encode("delete", salt, tables={"records": {**record, "version": np.array([cell.version])}})


async def _answers(session: Session, op: str, purpose: str, body: bytes) -> bool:
    try:
        await dataclasses.replace(session).ask_all(op, purpose, body)
    except AnwenError:
        return False
    return True
