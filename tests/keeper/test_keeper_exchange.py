"""Rows as a thief or a broken store may rearrange them, through real keepers and the client's own code."""

import itertools
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from keeper_rig import DAY_S, NAME_CLASS, START_S, VAULT

from anwen.client.opening import Request
from anwen.client.rows import Cell, Plain, bodies_of, open_cell
from anwen.client.writing import _Batch
from anwen.crypto import prf_input
from anwen.errors import OpenError, RefusedError
from anwen.formats import wire
from anwen.keeper import requests

CONTACT = 2
TODAY_S = START_S - START_S % DAY_S
FIELDS = [f for f in Cell.__dataclass_fields__ if f != "collection"]


async def sealed(rig, plains):
    """Return cells of rows that the keepers have given values for, and what each of them holds."""
    batch = _Batch(SimpleNamespace(policy=rig.policy, random=os.urandom), plains)
    scalars = {"epoch": 1, "generation": 1}
    answers = await rig.ask("put", wire.encode("put", os.urandom(16), scalars, batch.keeper_tables()))
    values, base = rig.value(answers), answers["a"].nonce_base
    cells, at = [], 0
    for row in batch.rows:
        p = row.plain
        for class_id, envelope in zip(row.class_ids, row.envelopes, strict=True):
            wrap = (batch.deks[at] ^ values[at]).tobytes()
            place = p.collection, p.subject, p.record, class_id, p.version, p.collected_s, p.expires_s
            cells.append((Cell(*place, envelope, base + at.to_bytes(4), wrap), p))
            at += 1
    return cells


def person(rig, name, subject=None, record=None, *, version=1, day=0, expires=1):
    schema = rig.policy.collections["person"]
    values = {"name": name, "phone": f"+8613800000{len(name):03}"}
    bodies = bodies_of(schema, values, ["name", "contact"], ())
    ids = subject or os.urandom(16), record or os.urandom(16)
    return Plain(schema, *ids, version, TODAY_S - day * DAY_S, TODAY_S + expires * DAY_S, bodies, ())


async def opened(rig, cell):
    """What the client opens of a cell with the answers of two keepers; None: it does not open, or is refused."""
    session = SimpleNamespace(random=os.urandom)
    request = Request(session, 1, [cell])
    try:
        answers = await rig.ask("open", request.body(np.array([0])), ["a", "b"])
        return open_cell(VAULT, cell, rig.value(answers)[0].tobytes())
    except (OpenError, RefusedError):
        return None


async def exchanges(rig):
    """Exchange each field of each two cells; yield the field, whether that changed anything, and what opened."""
    subject, record = os.urandom(16), os.urandom(16)
    plains = [
        person(rig, "Li Na", subject, record, day=3),
        person(rig, "Li Na Wang", subject, record, version=2, day=3),
        person(rig, "Wang Wei", day=5, expires=9),
    ]
    cells = [cell for cell, _ in await sealed(rig, plains) if cell.class_id in {NAME_CLASS, CONTACT}]
    assert all([await opened(rig, cell) is not None for cell in cells])
    for one, other in itertools.permutations(cells, 2):
        for name in FIELDS:
            moved = replace(one, **{name: getattr(other, name)})
            yield name, moved != one, await opened(rig, moved)


async def test_of_two_rows_with_any_field_exchanged_nothing_opens(rig):
    seen = set()
    async for name, changed, values in exchanges(rig):
        if changed:
            seen.add(name)
            assert values is None, name
    assert seen == set(FIELDS)


@pytest.mark.parametrize("name", ["collected_s", "expires_s", "nonce"])
async def test_keepers_that_leave_a_field_out_of_the_input_would_open_exchanged_rows(rig, monkeypatch, name):
    """The test above sees the difference: what only keepers bind opens once they do not."""
    inputs = prf_input.record_inputs

    def without(collection, class_, version, epoch, collected_s, expires_s, subject, record, nonce):
        columns = {"collected_s": collected_s, "expires_s": expires_s, "nonce": nonce}
        columns[name] = np.zeros_like(columns[name])
        return inputs(
            collection, class_, version, epoch, columns["collected_s"], columns["expires_s"], subject, record,
            columns["nonce"],
        )  # fmt: skip

    monkeypatch.setattr(requests.prf_input, "record_inputs", without)
    opens = {field async for field, changed, values in exchanges(rig) if changed and values is not None}
    assert opens == {name}


# --- retention -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edited_days", [1, 30, 365])
async def test_an_expired_row_from_a_backup_does_not_open_whatever_day_is_written_on_it(rig, edited_days):
    ((cell, _), *_) = await sealed(rig, [person(rig, "Li Na", day=364, expires=10)])
    assert await opened(rig, cell) is not None
    rig.clock.now_s += 2 * DAY_S
    assert await opened(rig, cell) is None  # past 365 days
    younger = replace(cell, collected_s=cell.collected_s + edited_days * DAY_S)
    assert await opened(rig, younger) is None
    assert await opened(rig, replace(younger, expires_s=0)) is None


async def test_a_shorter_retention_binds_rows_that_opened_yesterday(rig):
    ((cell, _), *_) = await sealed(rig, [person(rig, "Li Na", day=100, expires=100)])
    ((young, _), *_) = await sealed(rig, [person(rig, "Li Na", day=1, expires=100)])
    assert await opened(rig, cell) is not None
    shorter = replace(rig.policy.collections["person"], retention_days=90)
    signed = rig.sign(rig.next_policy(collections={"person": shorter}))
    for keeper in rig.ids:
        await rig.keepers[keeper].handle("policy", "", signed)
    assert await opened(rig, cell) is None
    assert await opened(rig, young) is not None
