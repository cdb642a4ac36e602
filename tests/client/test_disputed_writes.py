"""Why a disputed write is refused: storing a wrap for each candidate, which would save the write, loses twice."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
from test_quorum import Truth, answer

from anwen.client.rows import Cell, Plain, open_cell
from anwen.client.session import Timing
from anwen.client.writing import Writer, _Batch
from anwen.crypto.dprf import held_by
from anwen.errors import DisputeError, OpenError
from anwen.model import Collection, DataClass

VAULT = bytes(16)
SCHEMA = Collection(1, "person", "own", (DataClass(1, "note"),), (), 365)
LIAR, HONEST = "a", "bc"


def plain():
    return Plain(SCHEMA, os.urandom(16), os.urandom(16), 1, 0, 0, {1: b"{}"}, ())


def lying(truth, column):
    """The liar's answer: zeros for one of its components, whoever asks."""
    said = truth.says(LIAR).components.copy()
    said[column] = 0
    return answer(LIAR, said)


def disputed(truth, column):
    found = truth.round()
    found.add(LIAR, lying(truth, column))
    for keeper in HONEST:
        found.add(keeper, truth.says(keeper))
    return found


def stored(truth, column):
    """A cell of the weaker writer, with every wrap that its candidates give."""
    batch = _Batch(SimpleNamespace(policy=SimpleNamespace(vault=VAULT), random=os.urandom), [plain()])
    p, dek = batch.rows[0].plain, batch.deks[0]
    candidates = [np.frombuffer(value, np.uint8) for value, _ in disputed(truth, column).candidates(0)]
    place = p.collection, p.subject, p.record, 1, p.version, p.collected_s, p.expires_s
    return [Cell(*place, batch.envelopes[0], bytes(24), (dek ^ value).tobytes()) for value in candidates]


def opens(cell, value):
    try:
        return open_cell(VAULT, cell, value.tobytes()) == {}
    except OpenError:
        return False


def of_one_keeper(truth, keeper):
    """What its own keys give: zeros for every component that it does not hold."""
    known = [truth.of[s][0] for s in held_by(keeper, truth.keepers, truth.t)]
    return np.bitwise_xor.reduce(known)


@pytest.mark.parametrize("column", [0, 1])
def test_a_wrap_for_each_candidate_is_opened_by_one_keepers_keys_and_a_dump(column):
    """The liar's zeros leave a wrap that lacks a component: who has the third keeper's keys needs nobody else."""
    truth = Truth(3, 2, 1)
    third = next(k for k in HONEST if held_by(LIAR, truth.keepers, 2)[column] == (k,))
    assert any(opens(cell, of_one_keeper(truth, third)) for cell in stored(truth, column))
    whole = [cell for cell in stored(truth, column) if opens(cell, truth.total[0])]
    assert len(whole) == 1  # the wrap that an honest write would have stored
    assert not any(opens(whole[0], of_one_keeper(truth, keeper)) for keeper in truth.keepers)


@pytest.mark.parametrize("column", [0, 1])
def test_a_read_back_with_the_liar_keeps_his_wrap_and_drops_the_good_one(column):
    truth = Truth(3, 2, 1)
    cells = stored(truth, column)
    other = next(k for k in HONEST if held_by(LIAR, truth.keepers, 2)[column] == (k,))  # holds none of what he lies on
    found = truth.round()
    found.add(LIAR, lying(truth, column))
    found.add(other, truth.says(other))
    read, contradicted, _ = found.values()
    assert not contradicted.any()
    kept = [cell for cell in cells if opens(cell, read[0])]
    assert len(kept) == 1
    assert not any(opens(cell, truth.total[0]) for cell in kept)  # what honest keepers give opens nothing any more


@pytest.mark.parametrize("column", [0, 1])
async def test_our_writer_stores_nothing_of_it(column):
    truth = Truth(3, 2, 1)
    sent = []

    async def ask_all(*_):
        return {k: lying(truth, column) if k == LIAR else truth.says(k) for k in truth.keepers}

    async def node(op, *_):
        sent.append(op)

    def combine(answers, _rows):
        found = truth.round()
        for keeper, said in answers.items():
            found.add(keeper, said)
        return *found.values(), found

    session = SimpleNamespace(
        policy=SimpleNamespace(vault=VAULT),
        random=os.urandom,
        timing=Timing(),
        numbers=(1, 1),
        ask_all=ask_all,
        combine=combine,
        node=node,
    )
    with pytest.raises(DisputeError):
        await Writer(session).put("work", [plain()])
    assert sent == []
