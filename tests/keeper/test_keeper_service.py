"""What a keeper answers, and refuses, with its own clear error."""

import pytest
from keeper_rig import NAME_CLASS, NAME_MASK, People, Rig, plain

import numpy as np


async def test_a_stored_rows_value_is_the_one_given_when_it_was_written(rig):
    people = People(5)
    written = await rig.ask("put", people.put())
    base = written["a"].nonce_base
    assert {a.nonce_base for a in written.values()} == {base}
    opened = await rig.ask("open", people.open(base))
    assert np.array_equal(rig.value(opened), rig.value(written)[:10])
    found = await rig.ask("index", people.index())
    assert np.array_equal(rig.value(found), rig.value(written)[10:])


@pytest.mark.parametrize(("count", "threshold"), [(3, 2), (5, 3), (2, 2), (4, 3), (7, 4)])
async def test_any_t_keepers_agree(tmp_path, count, threshold):
    import itertools

    rig = await Rig(tmp_path, count, threshold).start(ceremonies=("record", "index"))
    people = People(2)
    written = rig.value(await rig.ask("put", people.put()))
    base = (await rig.ask("put", people.put(tokens=False)))["a"].nonce_base
    opened = await rig.ask("open", people.open(base))
    values = {rig.value({k: opened[k] for k in chosen}).tobytes() for chosen in itertools.combinations(rig.ids, threshold)}
    assert len(values) == 1
    assert len(written) == 6
    await rig.close()
