"""Open sealed cells: one keeper round for all of them, a second only where somebody lies, fails or refuses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anwen.client.quorum import Bytes, Report, Round, Rows
from anwen.client.rounds import under_current
from anwen.client.rows import Cell, Values, open_cell
from anwen.client.session import Session
from anwen.errors import AnwenError, OpenError, RefusedError
from anwen.formats import wire

MOST_CELLS = 8192
"""Cells of one request; more go out in several."""


async def open_cells(session: Session, purpose: str, cells: Sequence[Cell]) -> list[Values | AnwenError]:
    """Return what each cell holds, or why it does not open.

    Raises: BudgetError, GrantError, QuorumError: nothing was opened.
    """
    if len(cells) > MOST_CELLS:
        opened: list[Values | AnwenError] = []
        for start in range(0, len(cells), MOST_CELLS):
            opened += await open_cells(session, purpose, cells[start : start + MOST_CELLS])
        return opened
    try:
        return await _open_round(session, purpose, cells)
    except RefusedError as error:
        # keepers refuse a request as a whole and do not say for which row: halve until the row is alone
        if len(cells) == 1:
            return [error]
        half = len(cells) // 2
        return [*await open_cells(session, purpose, cells[:half]), *await open_cells(session, purpose, cells[half:])]


async def _open_round(session: Session, purpose: str, cells: Sequence[Cell]) -> list[Values | AnwenError]:
    async def ask(epoch: int, _: int) -> tuple[Request, Round]:
        request = Request(session, epoch, cells)
        return request, await session.ask_some("open", purpose, request.subjects, request.body)

    request, found = await under_current(session, purpose, ask)
    values, contradicted, _ = found.values()
    results: list[Values | AnwenError] = []
    suspect = []
    for i, cell in enumerate(cells):
        try:
            results.append(open_cell(session.policy.vault, cell, values[i].tobytes()))
            if contradicted[i]:
                suspect.append(i)
        except OpenError as error:
            results.append(error)
            suspect.append(i)
    if suspect:
        rows = np.array(suspect, np.intp)
        await session.ask_rest("open", purpose, found, rows, request.body)
        session.disown(found)
        for i in suspect:
            results[i] = _settle(session, found, i, cells[i])
    return results


def _settle(session: Session, found: Round, row: int, cell: Cell) -> Values | AnwenError:
    """Open a disputed cell under the fewest liars whose exclusion meets its commitment, and report them.

    A liar who shifts two components alike leaves F(x) right and could so frame whoever contradicts him; only where each
    component was told by t keepers does one explanation remain.
    """
    opened: Values | None = None
    blamed: list[frozenset[str]] = []
    for value, accused in found.candidates(row):
        if blamed and len(accused) > len(blamed[0]):
            break
        try:
            opened = open_cell(session.policy.vault, cell, value)
        except OpenError:
            continue
        blamed.append(accused)
    if opened is None:
        return OpenError(f"record {cell.record.hex()}: sealed bytes do not open")
    if found.settles(row) and len(set(blamed)) == 1 and blamed[0]:
        reason = "a component does not meet the commitment of a row that the others opened"
        session.report(Report(tuple(sorted(blamed[0])), reason, tuple(found.receipts.values())))
    elif dispute := found.disputes():
        session.report(dispute)
    return opened


class Request:
    """The columns of an `open` request over some cells, from which any part can be asked."""

    def __init__(self, session: Session, epoch: int, cells: Sequence[Cell]) -> None:
        self._session, self._epoch = session, epoch
        self._place: dict[bytes, int] = {}
        self._record_row = np.array([self._place.setdefault(c.record, len(self._place)) for c in cells], np.intp)
        first = {c.record: c for c in reversed(cells)}
        order = [first[r] for r in self._place]
        self._collection = np.array([c.collection.id for c in order])
        self._subject = stack([c.subject for c in order], 16)
        self._record = stack([c.record for c in order], 16)
        self.subjects: Bytes = self._subject[self._record_row]
        self._cells: wire.Table = {
            "class": np.array([c.class_id for c in cells]),
            "version": np.array([c.version for c in cells]),
            "collected_s": np.array([c.collected_s for c in cells], np.uint64),
            "expires_s": np.array([c.expires_s for c in cells], np.uint64),
            "nonce": stack([c.nonce for c in cells], 24),
        }

    def body(self, rows: Rows) -> bytes:
        """Return the request for some of the cells."""
        used, record_row = np.unique(self._record_row[rows], return_inverse=True)
        records: wire.Table = {
            "collection": self._collection[used],
            "subject": self._subject[used],
            "record": self._record[used],
        }
        cells = {name: column[rows] for name, column in self._cells.items()} | {"record_row": record_row}
        salt = self._session.random(wire.SALT_BYTES)
        return wire.encode("open", salt, {"epoch": self._epoch}, {"records": records, "cells": cells})


def stack(values: Sequence[bytes], width: int) -> Bytes:
    """Return equally long values as uint8, shape (n, width)."""
    return np.frombuffer(b"".join(values), np.uint8).reshape(len(values), width)
