"""What a stolen writer's or deleter's key comes to at one keeper: everything it asks for is charged by rows, too."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
from keeper_rig import DAY_S, NAME_CLASS, NAME_MASK, PERSON, People, Rig, rand

from anwen.errors import BudgetError, MalformedError, RefusedError
from anwen.model import Budget, Counter

BODIES = {"put": lambda people: people.put(with_tokens=False), "delete": lambda people: people.delete()}


def of_one_subject(rows):
    """Rows of as many records, under one handle: one subject is charged for all of them."""
    people = People(rows)
    people.subject = np.tile(rand(1, 16), (rows, 1))
    return people


async def with_records(tmp_path, rows):
    """Keepers of three that each let so many rows through, and subjects without end."""
    full = {c: Budget(10**9, 10**9) for c in Counter} | {Counter.RECORDS: Budget(2 * rows, 2 * rows)}
    return await Rig(tmp_path, limits=full).start(ceremonies=("record", "index", "mask"))


@pytest.mark.parametrize("op", BODIES)
async def test_rows_under_one_handle_end_with_the_budget_of_records(tmp_path, op):
    rig = await with_records(tmp_path, 100)
    keeper = rig.keepers["a"]
    before = keeper.log.next
    with pytest.raises(BudgetError):
        await rig.ask(op, BODIES[op](of_one_subject(101)), ["a"])
    for rows in (60, 40):
        await rig.ask(op, BODIES[op](of_one_subject(rows)), ["a"])
    for _ in range(3):
        with pytest.raises(BudgetError, match="budget records of principal alice"):
            await rig.ask(op, BODIES[op](of_one_subject(1)), ["a"])
        await rig.restart("a")
    assert len(rig.keepers["a"]._state.denied) == (100 if op == "delete" else 0)
    assert rig.keepers["a"].log.next - before == 1 + 2 + 3  # refusals are entries, too, and hold no rows
    rig.clock.now_s += DAY_S + 3600
    await rig.ask(op, BODIES[op](of_one_subject(1)), ["a"])
    await rig.close()


@pytest.mark.parametrize("op", BODIES)
async def test_rows_cost_the_ledger_no_memory(tmp_path, op):
    rig = await with_records(tmp_path, 10**6)
    sizes = set()
    for _ in range(3):
        await rig.ask(op, BODIES[op](of_one_subject(2_000)), ["a"])
        windows = rig.keepers["a"]._state.ledger._windows
        sizes.add(max(len(w) for w in windows["alice", Counter.RECORDS].values()))
    assert sizes == {1}
    await rig.close()


async def test_rows_count_beside_cells_and_against_a_collections_ceiling(tmp_path):
    rig = await with_records(tmp_path, 10)
    await rig.ask("open", People(2, classes=(NAME_CLASS, NAME_MASK)).open(bytes(20)), ["a"])
    await rig.ask("put", of_one_subject(3).put(), ["a"])
    await rig.ask("delete", of_one_subject(3).delete(), ["a"])
    with pytest.raises(BudgetError):
        await rig.ask("delete", of_one_subject(1).delete(), ["a"])
    await rig.close()


# --- deletions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarts", [0, 1])
async def test_one_row_of_a_deletion_denies_every_version_up_to_its_own(tmp_path, restarts):
    """Else a writer who makes a hundred thousand versions makes a record that no budget of deletion can remove."""
    rig = await with_records(tmp_path, 1_000)
    gone = People(1)
    gone.version = 100_000
    await rig.ask("delete", gone.delete())
    for _ in range(restarts):
        for keeper in rig.ids:
            await rig.restart(keeper)
    for version in (1, 2, 99_999, 100_000):
        gone.version = version
        for op in ("open", "verify"):
            with pytest.raises(RefusedError):
                await rig.ask(op, gone.open(bytes(20), op=op))
        with pytest.raises(RefusedError):
            await rig.ask("put", gone.put(with_tokens=False))
    gone.version = 100_001
    await rig.ask("open", gone.open(bytes(20)))
    assert [len(d) for d in rig.keepers["a"]._state.denied.values()] == [1]
    await rig.close()


async def test_an_older_deletion_never_lifts_a_newer_one(rig):
    gone = People(1)
    for version in (5, 2):
        gone.version = version
        await rig.ask("delete", gone.delete())
    gone.version = 4
    with pytest.raises(RefusedError):
        await rig.ask("open", gone.open(bytes(20)))


# --- tokens --------------------------------------------------------------------------------------------------------


def with_tokens(people, count):
    tokens = np.array(sorted(rand(count, 32).tolist()), np.uint8)
    table = {"collection": np.full(count, PERSON), "field": np.full(count, 2), "normaliser": np.full(count, 1)}
    return people.put(tokens=table | {"token": tokens})


async def test_a_put_asks_for_no_more_values_of_a_field_than_it_has_rows(rig):
    """A writer's key must not look whole ranges of values up, thousands with every row."""
    for rows, count in ((1, 2), (3, 4), (1, 4096)):
        with pytest.raises(MalformedError, match=f"{count} tokens of field 1.2 in {rows} rows"):
            await rig.ask("put", with_tokens(People(rows), count), ["a"])
    assert not rig.keepers["a"]._state.ledger._windows
    for rows, count in ((1, 1), (3, 3), (3, 2)):
        await rig.ask("put", with_tokens(People(rows), count), ["a"])


async def test_rows_of_one_collection_allow_no_tokens_of_another(tmp_path):
    rig = Rig(tmp_path)
    person = rig.policy.collections["person"]
    work = replace(rig.policy.purposes["work"], write=frozenset({PERSON, 2}))
    rig.begin_with(
        replace(
            rig.policy,
            collections={"person": person, "other": replace(person, id=2, name="other")},
            purposes=rig.policy.purposes | {"work": work},
        )
    )
    await rig.start(ceremonies=("record", "index", "mask"))
    people = People(3)
    tokens = people.tokens_table() | {"collection": np.array([PERSON, PERSON, 2])}
    with pytest.raises(MalformedError, match=r"1 tokens of field 2\.2 in 0 rows"):
        await rig.ask("put", people.put(tokens=tokens), ["a"])
    await rig.ask("put", people.put(tokens=tokens, records={"collection": np.array([PERSON, PERSON, 2])}), ["a"])
    await rig.close()


@pytest.mark.parametrize(("count", "threshold"), [(3, 2), (5, 2), (5, 3), (4, 3), (2, 2)])
async def test_no_t_keepers_are_left_that_would_open_what_a_deletion_was_acknowledged_for(tmp_path, count, threshold):
    """Receipts of t would do for a node to delete; with 2 of 5, three keepers that never heard of it open a copy."""
    rig = await Rig(tmp_path, count, threshold).start(ceremonies=("record", "index", "mask"))

    async def opens_after(receipts):
        """Whether t keepers open a copy of the row, once this many have acknowledged its deletion."""
        gone = People(1)
        await rig.ask("delete", gone.delete(), rig.ids[:receipts])
        answered = 0
        for keeper in rig.ids:
            with contextlib.suppress(RefusedError):
                answered += len(await rig.ask("open", gone.open(bytes(20)), [keeper]))
        return answered >= threshold

    needed = rig.policy.answers_needed("delete")
    assert not await opens_after(needed)
    assert await opens_after(needed - 1) == (needed == rig.policy.answers_to_defeat)  # no more than it takes
    assert await opens_after(threshold) == (count >= 2 * threshold)  # the attack, were a put's receipts enough
    assert rig.policy.answers_needed("put") == threshold
    await rig.close()
