"""Laws of what a client learns: delays within their bounds, suspects asked last, one probe at a time, bounded hedges."""

import asyncio
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anwen.client import health as h
from anwen.client.asking import Background, Calls, first_of
from anwen.client.health import Estimate, Health
from anwen.errors import (
    ConflictError,
    GrantError,
    MalformedError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)

A, B, C = "node/a", "node/b", "node/c"
times = st.floats(1e-4, 10)


def learned(took_s, count=50, recipient=A, size=100):
    health, now = Health(0.02, 0.15, 0.0), 0.0
    for took in [took_s] * count:
        health.answered(recipient, "node_get", size, sent_s=now, now_s=now + took)
        now += took
    return health


def test_an_estimate_settles_on_what_a_recipient_takes_and_is_late_beyond_its_noise():
    rng, estimate = random.Random(1), Estimate.of(0.1)
    samples = [rng.gauss(0.004, 0.001) for _ in range(5000)]
    for took in samples[:1000]:
        estimate.add(took)
    assert 0.003 < estimate.mean_s < 0.005
    late = 0
    for took in samples[1000:]:
        late += took > estimate.late_s
        estimate.add(took)
    assert late < 0.01 * 4000


@given(took=st.lists(times, min_size=1, max_size=30), size=st.integers(0, 2**26))
def test_a_delay_is_never_below_the_least_nor_above_what_size_and_distance_allow(took, size):
    health, now = Health(0.02, 0.15, 0.0), 0.0
    unknown = health.delay_s(A, "node_put", size)
    assert 0.15 <= unknown <= 0.15 + h.MOST_FOR_BYTES_S
    for t in took:
        health.answered(A, "node_put", size, sent_s=now, now_s=now + t)
    assert 0.02 <= health.delay_s(A, "node_put", size) <= max(unknown, 2 * max(took) * 1.001)


def test_what_is_learned_of_one_size_operation_or_recipient_says_nothing_of_another():
    health = learned(0.001)
    assert health.delay_s(A, "node_get", 100) == 0.02
    assert health.delay_s(A, "node_get", 100_000) > 0.5
    assert health.delay_s(A, "node_put", 100) > 0.15
    assert health.delay_s(B, "node_get", 100) > 0.15


def test_a_far_recipient_is_not_late_for_being_far():
    assert learned(0.3).delay_s(A, "node_get", 100) > 0.3


def test_a_silent_recipient_is_suspect_and_one_that_answers_others_is_not():
    health = Health(0.02, 0.15, 0.0)
    health.answered(B, "node_get", 1, sent_s=5.0, now_s=5.001)
    health.given_up(A, sent_s=5.0, now_s=5.1)
    health.given_up(B, sent_s=4.9, now_s=5.1)
    assert [health.trusted(r, 5.1) for r in (A, B)] == [False, True]
    assert health.trusted_first([A, B, C], 5.1) == [B, C, A]


def test_of_a_zone_that_says_nothing_one_silence_is_enough():
    zones = {"keeper/a": "east", A: "east", "keeper/b": "west", B: "west"}
    for heard_s, trusted in ((4.9, False), (5.05, True)):
        health = Health(0.02, 0.15, 0.0, zones)
        for recipient in (A, "keeper/b", B):
            health.answered(recipient, "node_get", 1, sent_s=heard_s - 0.01, now_s=heard_s)
        health.given_up("keeper/a", sent_s=5.0, now_s=5.1)
        assert [health.trusted(r, 5.1) for r in zones] == [False, trusted, True, True]
        answering = Health(0.02, 0.15, 0.0, zones)
        answering.answered("keeper/a", "open", 1, sent_s=5.0, now_s=5.05)
        answering.given_up("keeper/a", sent_s=5.0, now_s=5.1)  # it answers others: its zone is there
        assert answering.trusted(A, 5.1)
        assert health.to_probe([A], 5.2) == ([] if trusted else [A])  # the first answer to a probe clears it


def test_probes_go_out_one_at_a_time_ever_more_slowly_and_an_answer_ends_them():
    health, now, sent = Health(0.02, 0.15, 0.0), 0.0, []
    health.failed(A, now)
    while now < 10:
        now += 0.01
        if health.to_probe([A], now) == [A]:
            assert health.to_probe([A], now) == []
            sent.append(now)
            health.sent(A)
            assert health.to_probe([A], now + 9) == []  # one is under way
            health.failed(A, now)
            health.ended(A)
    gaps = [b - a for a, b in itertools.pairwise(sent)]
    assert max(gaps) <= h.LAST_PROBE_S + 0.02
    assert gaps[0] < 0.15 < 0.9 < gaps[-1]
    health.answered(A, "state", 10, sent_s=now, now_s=now + 0.01)
    assert health.trusted(A, now + 0.01)
    assert health.to_probe([A], now + 1) == []
    assert health.to_probe([A], now + h.WARM_S + 1) == [A]  # long unheard: its connection is kept warm


def test_a_suspect_that_answers_slowly_stays_one_unless_all_are_slow():
    near, far, lone = Health(0.02, 0.15, 0.0), Health(0.02, 0.15, 0.0), Health(0.02, 0.15, 0.0)
    near.answered(B, "node_get", 10, sent_s=0.0, now_s=0.004)
    far.answered(B, "node_get", 10, sent_s=0.0, now_s=0.3)
    for health in (near, far, lone):
        health.failed(A, 1.0)
        for _ in range(9):
            health.answered(A, "state", 10, sent_s=2.0, now_s=2.4)
    assert [health.trusted(A, 3.0) for health in (near, far, lone)] == [False, True, True]


def test_a_recipient_that_became_slow_is_late_by_the_measure_of_the_others():
    health = learned(0.004)
    for _ in range(20):
        health.answered(A, "node_get", 100, sent_s=0.0, now_s=0.4)
    assert health.delay_s(A, "node_get", 100) > 0.4  # alone
    health.answered(B, "node_get", 100, sent_s=0.0, now_s=0.004)
    assert health.delay_s(A, "node_get", 100) <= 0.151


def test_who_said_when_to_come_again_rests_until_then():
    health = Health(0.02, 0.15, 0.0)
    health.refused(A, 0.5, 10.0)
    assert not health.trusted(A, 10.4)
    assert health.to_probe([A], 10.4) == []
    assert health.trusted(A, 10.5)


@given(st.lists(st.booleans(), min_size=100, max_size=400))
def test_second_requests_are_at_most_a_tenth_of_the_operations_own_answers_and_a_reserve(steps):
    health, hedged, answers = Health(0.02, 0.15, 0.0), 0, 0
    for hedge in steps:
        if hedge:
            hedged += health.may_hedge("open")
        else:
            answers += 1
            health.answered(A, "index", 1, sent_s=0.0, now_s=0.001)  # cheaper, and of no account
            health.answered(A, "open", 1, sent_s=0.0, now_s=0.001)
        assert hedged <= h.HEDGES_AT_ONCE + h.HEDGES * answers + 1e-6


class Nodes:
    """Answers by name: seconds to wait, or an error; notes who was asked and whose call was cancelled."""

    def __init__(self, **says):
        self.says, self.asked, self.cancelled = says, [], []

    async def ask(self, recipient):
        name = recipient[-1]
        self.asked.append(name)
        says = self.says[name]
        if isinstance(says, Exception):
            raise says
        try:
            await asyncio.sleep(says)
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        return name


async def race(nodes, health=None):
    health, background = health or Health(0.01, 0.02, 0.0), Background(0.05)
    try:
        return await first_of(Calls(health, background, "node_get"), health, 1, [A, B, C], nodes.ask)
    finally:
        await asyncio.sleep(0.1)


async def test_one_answer_costs_one_request():
    nodes = Nodes(a=0.0)
    assert await race(nodes) == "a"
    assert nodes.asked == ["a"]


@pytest.mark.parametrize("first", [UnavailableError("x"), OverloadedError("x"), GrantError("x"), NotFoundError("x")])
async def test_what_one_node_refuses_another_is_asked(first):
    nodes, health = Nodes(a=first, b=0.0), Health(0.01, 0.02, 0.0)
    assert await race(nodes, health) == "b"
    assert nodes.asked == ["a", "b"]
    if not isinstance(first, UnavailableError):
        assert not health.trusted(A, 0.0)  # contradicted: its clock or policy is wrong


@pytest.mark.parametrize("error", [GrantError, MalformedError, NotFoundError])
async def test_a_refusal_is_believed_once_a_second_node_refuses_alike(error):
    nodes = Nodes(a=error("x"), b=error("x"), c=0.0)
    with pytest.raises(error):
        await race(nodes)
    assert nodes.asked == ["a", "b"]
    assert await race(Nodes(a=error("x"), b=ConflictError("x"), c=0.0)) == "c"
    with pytest.raises(error):
        await race(Nodes(a=error("x"), b=UnavailableError("x"), c=UnavailableError("x")))  # no other is there


async def test_when_none_answers_the_error_says_when_to_come_again_if_any_did():
    nodes = Nodes(a=UnavailableError("x"), b=OverloadedError("x", retry_after_s=3), c=UnavailableError("x"))
    with pytest.raises(OverloadedError) as refused:
        await race(nodes)
    assert refused.value.retry_after_s == 3


async def test_a_silent_node_is_passed_over_cancelled_and_asked_last_from_then_on():
    nodes, health = Nodes(a=30.0, b=0.0, c=0.0), Health(0.01, 0.02, 0.0)
    assert await race(nodes, health) == "b"
    assert nodes.cancelled == ["a"]
    assert await race(nodes, health) == "b"
    assert nodes.asked == ["a", "b", "b"]


async def test_without_hedges_left_a_late_node_is_waited_for_unless_it_becomes_suspect():
    nodes, health = Nodes(a=0.3, b=0.0, c=0.0), Health(0.01, 0.02, 0.0)
    while health.may_hedge("node_get"):
        pass
    assert await race(nodes, health) == "a"
    waiting = asyncio.create_task(race(nodes, health))
    await asyncio.sleep(0.05)
    health.failed(A, 0.0)
    assert await waiting == "b"


async def test_what_is_given_up_lingers_for_a_while_and_close_ends_it_at_once():
    nodes, background = Nodes(a=0.02, b=30.0, c=30.0), Background(0.1)
    calls = Calls(Health(0.01, 0.02, 0.0), background, "node_get")
    ended = [calls.start(r, 1, nodes.ask(r)) for r in (A, B)]
    await asyncio.sleep(0)
    calls.give_up()
    await asyncio.wait(ended)
    assert nodes.cancelled == ["b"]
    last = Calls(Health(0.01, 0.02, 0.0), background, "node_get")
    last.start(C, 1, nodes.ask(C))
    await asyncio.sleep(0)
    last.give_up()
    await background.close()
    assert nodes.cancelled == ["b", "c"]
    assert len(asyncio.all_tasks()) == 1
