"""Callers share requests, and only requests: each gets its own rows or its own error."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anwen.client.batching import Batcher
from anwen.errors import BudgetError


async def test_callers_that_come_while_a_request_runs_travel_together():
    sizes, gate = [], asyncio.Event()

    async def run(items):
        sizes.append(len(items))
        await gate.wait()
        return [i * 2 for i in items]

    batcher = Batcher(run, within_s=60, in_flight=1)
    callers = [asyncio.create_task(batcher.submit([i, i + 100])) for i in range(10)]
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*callers) == [[2 * i, 2 * i + 200] for i in range(10)]
    assert sizes == [2, 18]


@given(
    parts=st.lists(st.lists(st.integers(0, 50), max_size=5), max_size=12),
    refused=st.sets(st.integers(0, 50), max_size=4),
    cancelled=st.sets(st.integers(0, 11), max_size=3),
    kind=st.sampled_from([BudgetError, ZeroDivisionError]),
)
def test_no_interleaving_gives_a_caller_anothers_rows_or_anothers_refusal_or_fault(parts, refused, cancelled, kind):
    async def run(items):
        await asyncio.sleep(0)
        if refused & set(items):
            raise kind("spent")
        return [("for", i) for i in items]

    async def play():
        batcher = Batcher(run, within_s=60, most=8)
        tasks = [asyncio.create_task(batcher.submit(p)) for p in parts]
        await asyncio.sleep(0)
        for i in cancelled:
            if i < len(tasks):
                tasks[i].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    for i, (part, result) in enumerate(zip(parts, asyncio.run(play()), strict=True)):
        if isinstance(result, asyncio.CancelledError):
            assert i in cancelled
        elif refused & set(part):
            assert isinstance(result, kind)
        else:
            assert result == [("for", i) for i in part]


async def test_a_fault_of_ours_reaches_every_caller_and_none_waits_for_ever():
    async def run(items):
        raise ZeroDivisionError

    batcher = Batcher(run, within_s=60)
    results = await asyncio.gather(*(batcher.submit([i]) for i in range(5)), return_exceptions=True)
    assert all(isinstance(r, ZeroDivisionError) for r in results)


async def test_an_empty_call_sends_nothing():
    async def run(items):
        pytest.fail("nothing to send")

    assert await Batcher(run, within_s=60).submit([]) == []
