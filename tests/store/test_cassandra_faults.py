"""The Cassandra engine under faults: a member killed, hung or back from the dead, puts cut between any two steps."""

import asyncio
import itertools
import os
import signal
import time

import pytest
from cassandra.connection import ConnectionException
from cassandra_members import connected
from contract import (
    CONTACT_CLASSES,
    EPOCH,
    TOMBSTONE,
    exact,
    labels,
    outcomes,
    owners,
    put,
    row,
    unique,
)  # fmt: skip
from faults import FaultContract, Load, patiently

from anwen.errors import UnavailableError
from anwen.store import cassandra_write, placing
from anwen.store.base import Outcome
from anwen.store.cassandra_session import REQUEST_S, Session

pytestmark = pytest.mark.deep  # four minutes of members killed, hung and cut off


class Member:
    """One zone's member at a time: what the others answer for."""

    def __init__(self, members):
        self._members, self._zones = members, itertools.cycle(members.zones)
        self._zone = next(self._zones)  # that which the stores ask first

    async def start(self):
        await self._members.start_member(self._zone)
        self._zone = next(self._zones)

    def kill(self):
        self._members.kill(self._zone)

    def signal(self, number):
        self._members.signal(self._zone, number)


@pytest.fixture
def server(members):
    return Member(members)


@pytest.fixture
def stores():
    return []


@pytest.fixture
async def connect(members, stores):
    async def one(zone="a"):
        stores.append(await connected(members, zone))
        return stores[-1]

    yield one
    for store in stores:
        await store.close()


@pytest.fixture
def cut(stores):
    def all_connections():
        for store in stores:
            for pool in list(store._session._session._pools.values()):
                for connection in pool.get_connections():
                    connection.defunct(ConnectionException("cut"))

    return all_connections


class TestCassandraFaults(FaultContract):
    ROUNDS = 2
    CALL_S = 6.0  # this machine runs all members and the load
    STEPWISE = True
    FELT = False


@pytest.fixture
async def store(connect):
    return await connect()


# --- cut between any two steps ---------------------------------------------------------------------------------------


class CutError(UnavailableError):
    pass


@pytest.fixture
def cut_after(monkeypatch):
    """Let n statements through, then none: as if the node died there; returns how many were let through."""
    real = Session.run
    left = [0]

    async def run(self, statement, keys, *until):
        if not keys:
            return []
        if left[0] <= 0:
            raise CutError("cut")
        left[0] -= 1
        return await real(self, statement, keys, *until)

    def begin(count):
        left[0] = count
        monkeypatch.setattr(Session, "run", run)

    def end():
        monkeypatch.setattr(Session, "run", real)
        return left[0]

    return begin, end


async def every_cut(cut_after, prepare, act):
    """Run `act` cut after 0, 1, 2, … groups of statements, on what `prepare` made, until it is not cut."""
    begin, end = cut_after
    for count in itertools.count():
        made = await prepare()
        begin(count)
        try:
            await act(made)
        except CutError:
            end()
            yield made, True
        else:
            assert end() == 0 or count
            yield made, False
            return


async def test_a_put_cut_between_any_two_steps_is_invisible_or_whole_and_complete_when_repeated(store, cut_after):
    async def prepare():
        slots = labels(4)
        await put(store, row(postings=[exact(*slots)]))
        return row(postings=[unique(os.urandom(16)), exact(*slots)]), slots

    seen = set()
    async for (one, slots), was_cut in every_cut(cut_after, prepare, lambda made: put(store, made[0])):
        got = await store.get(EPOCH, [one.record], ())
        assert [g.wraps for g in got] in ([], [one.wraps])
        seen.add((was_cut, len(got)))
        (result,) = await put(store, one)
        assert (result.outcome, result.slots) == (Outcome.STORED, (0, 1))
        assert [g.sealed for g in await store.get(EPOCH, [one.record], ())] == [one.sealed]
        assert (await owners(store, [one.postings[0].labels[0], *slots]))[::2] == [one.record, one.record, None]
        assert await store.list_subjects(1, [one.subject], bytes(16), 9) == [one.record]
        assert await outcomes(store, row(postings=one.postings)) == [Outcome.UNIQUE_TAKEN]
    assert (True, 0) in seen


async def test_a_put_cut_between_any_two_steps_is_stored_once_when_its_row_is_sealed_anew(store, cut_after):
    """As under an idempotency key: the same record, subject and values, another tag."""

    async def prepare():
        number, slots = labels(1), labels(3)
        one = row(postings=[unique(*number), exact(*slots)])
        return one, row(one.record, subject=one.subject, postings=one.postings), number + slots

    told = set()
    async for (one, anew, wanted), _ in every_cut(cut_after, prepare, lambda made: put(store, made[0])):
        (outcome,) = await outcomes(store, anew)
        told.add(outcome)
        (got,) = await store.get(EPOCH, [one.record], ())
        expected = anew if outcome is Outcome.STORED else one
        assert (got.tag, got.wraps, got.sealed) == (expected.tag, expected.wraps, expected.sealed)
        assert await owners(store, wanted) == [one.record, one.record, None, None]
    assert told == {Outcome.STORED, Outcome.VERSION_TAKEN}


async def test_a_repeat_leaves_a_slot_where_an_earlier_one_is_free_by_then_and_no_gap_before_others(store, cut_after):
    async def prepare():
        slots = labels(4)
        first = row(postings=[exact(*slots)])
        await put(store, first)
        return row(postings=[exact(*slots)]), first, slots

    seen = set()
    async for (one, first, slots), _ in every_cut(cut_after, prepare, lambda made: put(store, made[0])):
        stored = len(await store.get(EPOCH, [one.record], ()))
        entered = (await owners(store, slots))[1] == one.record
        behind = row(postings=[exact(*slots)])
        await put(store, behind)
        await store.delete([(first.record, 1)])
        (result,) = await put(store, one)
        assert result.outcome is Outcome.STORED
        held = {result.slots[0]: one.record, 2 if entered else 1: behind.record}
        assert await owners(store, slots) == [held.get(i, TOMBSTONE if i <= max(held) else None) for i in range(4)]
        seen.add((stored, entered, result.slots[0]))
    assert (0, True, 0) in seen  # the case in question
    assert (1, True, 1) in seen


async def test_an_update_cut_between_any_two_steps_buries_old_labels_when_repeated(store, cut_after):
    async def prepare():
        number, old = labels(1), labels(2)
        one = row(postings=[unique(*number), exact(*old)])
        await put(store, one)
        return one, number + old, row(one.record, 2, subject=one.subject, postings=[unique(*labels(1))])

    async for (one, before, two), _ in every_cut(cut_after, prepare, lambda made: put(store, made[2])):
        versions = [g.version for g in await store.get(EPOCH, [one.record], ())]
        assert versions in ([1], [2])
        if versions == [1]:
            assert await owners(store, before) == [one.record, one.record, None]
        assert await outcomes(store, two) == [Outcome.STORED]
        assert await owners(store, before) == [TOMBSTONE, TOMBSTONE, None]
        assert await outcomes(store, row(postings=[unique(before[0])])) == [Outcome.STORED]


async def test_a_unique_value_that_a_cut_update_replaced_is_free_after_a_while(store, cut_after, monkeypatch):
    """Nobody has to repeat that update, or update the record again."""

    async def prepare():
        one = row(postings=[unique(*labels(1))])
        await put(store, one)
        return one, row(one.record, 2, subject=one.subject, postings=[unique(*labels(1))])

    seen = 0
    async for (one, two), was_cut in every_cut(cut_after, prepare, lambda made: put(store, made[1])):
        (old,) = one.postings[0].labels
        (current,) = await store.get(EPOCH, [one.record], ())
        if was_cut and current.version == two.version and await owners(store, [old]) == [one.record]:
            seen += 1
            assert old not in placing.held_by([current])[one.record].labels, "by which nodes tell"
            heir = row(postings=[unique(old)])
            assert await outcomes(store, heir) == [Outcome.UNIQUE_TAKEN]  # the update may still be under way
            with monkeypatch.context() as later:
                later.setattr(cassandra_write, "ABANDONED_S", 0.0)
                assert await outcomes(store, heir) == [Outcome.STORED]
    assert seen, "the case in question"


async def test_a_slot_that_a_deletion_freed_while_an_update_kept_it_is_not_shared(connect, monkeypatch):
    updating, other = await connect("a"), await connect("b")
    slots = labels(2)
    one, third = row(postings=[exact(*slots)]), row(postings=[exact(*slots)])
    await put(updating, one)
    planned, freed, real = asyncio.Event(), asyncio.Event(), cassandra_write.Put._place

    async def place(self, taking):
        if not planned.is_set():
            planned.set()
            await freed.wait()
        return await real(self, taking)

    monkeypatch.setattr(cassandra_write.Put, "_place", place)
    update = asyncio.create_task(put(updating, row(one.record, 2, subject=one.subject, postings=[exact(*slots)])))
    await planned.wait()
    await other.delete([(one.record, 1)])
    assert (await put(other, third))[0].slots == (0,)
    freed.set()
    (result,) = await update
    assert result.outcome is not Outcome.STORED or result.slots == (1,)
    assert (await owners(other, slots))[0] == third.record


async def test_a_deletion_cut_between_any_two_steps_is_complete_when_repeated(store, cut_after):
    async def prepare():
        held = labels(2)
        one = row(postings=[unique(held[0]), exact(held[1])])
        await put(store, one)
        return one, held

    async for (one, held), _ in every_cut(cut_after, prepare, lambda made: store.delete([(made[0].record, 1)])):
        await store.delete([(one.record, 1)])
        assert await owners(store, held) == [TOMBSTONE, TOMBSTONE]
        assert await store.get(EPOCH, [one.record], ()) == []
        assert await store.list_subjects(1, [one.subject], bytes(16), 9) == []
        assert await outcomes(store, one, row(postings=[unique(held[0])])) == [Outcome.DELETED, Outcome.STORED]


# --- several nodes ---------------------------------------------------------------------------------------------------


async def test_of_writers_at_three_nodes_one_gets_a_unique_value_and_none_loses_a_common_one(connect):
    nodes = [await connect(zone) for zone in "abc"]
    (number,), slots = labels(1), labels(24)
    rows = [row(postings=[unique(number)]) for _ in range(9)] + [row(postings=[exact(*slots)]) for _ in range(9)]
    results = await asyncio.gather(*(patiently(put, nodes[i % 3], r) for i, r in enumerate(rows)))
    told = [r.outcome for (r,) in results]
    assert sorted(told[:9]) == [Outcome.STORED] + [Outcome.UNIQUE_TAKEN] * 8
    assert told[9:] == [Outcome.STORED] * 9
    assert await owners(nodes[0], [number]) == [rows[told.index(Outcome.STORED)].record]
    found = [record for record in await owners(nodes[1], slots) if record not in (None, TOMBSTONE)]
    assert sorted(found) == sorted(r.record for r in rows[9:])


async def test_an_abandoned_unique_value_is_free_after_a_while_and_its_late_writer_stores_nothing(
    store, cut_after, monkeypatch
):
    begin, end = cut_after
    (number,) = labels(1)
    dead, heir = row(postings=[unique(number)]), row(postings=[unique(number)])
    begin(6)
    with pytest.raises(CutError):
        await put(store, dead)
    end()
    assert await outcomes(store, heir) == [Outcome.UNIQUE_TAKEN]  # its writer may still be under way
    monkeypatch.setattr(cassandra_write, "ABANDONED_S", 0.0)
    assert await outcomes(store, heir) == [Outcome.STORED]
    assert await outcomes(store, dead) == [Outcome.UNIQUE_TAKEN]
    monkeypatch.setattr(cassandra_write, "PUT_S", 0.0)
    with pytest.raises(UnavailableError, match="too long"):
        await put(store, row())


# --- clocks, zombies -------------------------------------------------------------------------------------------------


async def test_order_comes_from_versions_and_never_from_clocks(store):
    """What a member or node with a clock a day ahead wrote is no newer than anything else."""
    (label,), day_us = labels(1), int((time.time() + 86_400) * 1e6)
    one = row(postings=[exact(label)])
    await put(store, one)
    select = "SELECT writetime(mac) FROM {ks}.posting WHERE label = ?"
    assert await store._session.run(select, [(label,)]) == [[(2,)]]
    two = row(one.record, 2, subject=one.subject, classes=CONTACT_CLASSES)
    assert await outcomes(store, two) == [Outcome.STORED]
    assert await owners(store, [label]) == [TOMBSTONE]
    # rows above version 1 carry their condition's clock: a deletion outranks them all
    await store.delete([(one.record, 2)])
    insert = "INSERT INTO {ks}.row (record, version, body, verified) VALUES (?, 2, ?, true) USING TIMESTAMP ?"
    await store._session.run(insert, [(one.record, bytes(100), day_us)])
    (found,) = await store._session.run("SELECT version FROM {ks}.row WHERE record = ?", [(one.record,)])
    assert [version for (version,) in found if version is not None] == []


async def test_what_a_late_repair_brings_back_stays_dark(store):
    """A member that missed a deletion for longer than its tombstones live gives everything back."""
    (number, value) = labels(2)
    one = row(postings=[unique(number), exact(value)])
    await put(store, one)
    select = "SELECT record, version, body, verified FROM {ks}.row WHERE record = ?"
    ((kept,),) = await store._session.run(select, [(one.record,)])
    await store.delete([(one.record, 1)])
    above = cassandra_write.FOREVER + 1  # above the tombstones: as if they were gone
    insert = "INSERT INTO {ks}.row (record, version, body, verified) VALUES (?, ?, ?, ?) USING TIMESTAMP ?"
    await store._session.run(insert, [(*kept, above)])
    await store._session.run(cassandra_write.POSTING, [(value, one.record, b"zombie", b"m" * 16, above)])
    assert await store.get(EPOCH, [one.record], ()) == []
    assert await outcomes(store, one) == [Outcome.DELETED]
    assert (await store.statistics()).settings
    assert await outcomes(store, row(postings=[unique(number)])) == [Outcome.STORED]


# --- members lost ----------------------------------------------------------------------------------------------------


async def test_reads_writes_and_starts_go_on_while_a_member_is_down_and_the_next_may_fail_after_it(members, connect):
    store = await connect()
    await store.warm()
    kept = []
    for zone in "ab":
        members.kill(zone)
        await patiently(has_members_up, store, 2)
        kept.append(row(postings=[unique(os.urandom(16))]))
        assert (await patiently(put, store, kept[-1]))[0].outcome is Outcome.STORED
        assert len(await patiently(store.get, EPOCH, [r.record for r in kept], ())) == len(kept)
        fresh = await connected(members, "c")  # a node starts with the zone dead
        assert len(await fresh.get(EPOCH, [r.record for r in kept], ())) == len(kept)
        assert fresh.members() == (2, 3)
        await fresh.close()
        await members.start_member(zone)
        await patiently(has_members_up, store, 3)
    assert await patiently(outcomes, store, *kept) == [Outcome.STORED] * 2
    await patiently(asks_own_first, store)


async def has_members_up(store, count):
    """As `anwen_store_members_up` shows."""
    if store.members() != (count, 3):
        raise UnavailableError(f"members: {store.members()}")


async def asks_own_first(store):
    if next(store._session._zone_first.make_query_plan()).rack != "a":
        raise UnavailableError("not warm yet")


async def test_a_hung_member_makes_nobody_wait_for_a_time_out(members, store):
    kept = [row(postings=[unique(os.urandom(16)), exact(*labels(2))]) for _ in range(20)]
    await put(store, *kept)
    took_s = []
    members.signal("a", signal.SIGSTOP)
    try:
        for one in kept:
            begun = time.monotonic()
            assert len(await store.get(EPOCH, [one.record], ())) == 1
            took_s.append(time.monotonic() - begun)
        load = Load([store], 7)
        async with load.running():
            await load.wait(5)
    finally:
        members.signal("a", signal.SIGCONT)
    assert max(took_s) < REQUEST_S
    assert sorted(took_s)[10] < 1.0
    await load.check(store, stepwise=True)
