"""Clocks: set, frozen, asleep, wrong at the start or all at once; no window ends early and no keeper stays away for it."""

import json
import time

import pytest
from keeper_rig import DAY_S, NAME_CLASS, PLENTY, START_S, Clock, People, Rig, budgets, plain

from anwen.errors import BudgetError, ClockError, GrantError
from anwen.keeper.clocks import since_boot
from anwen.policy.budgets import JOIN_S

FAR_S = 10 * 365 * DAY_S
TWO = PLENTY | budgets(open=4)  # at each of three keepers, two of whom answer: two people


class Apart(Rig):
    """Each keeper has a wall clock of its own; `self.clock` is the true time, and what each machine counts since boot."""

    def __init__(self, folder, *shape, **kw):
        super().__init__(folder, *shape, **kw)
        self.clocks = {i: Clock() for i in self.ids}

    def passes(self, seconds, *, frozen=""):
        self.clock.now_s += seconds
        for i in set(self.ids) - set(frozen):
            self.clocks[i].now_s += seconds

    def set(self, seconds, keepers="abc"):
        for i in keepers:
            self.clocks[i].now_s += seconds

    async def rounds(self, keepers="abc"):
        for i in keepers:
            await self.keepers[i].cosign_now()

    async def spend(self, keeper="a", count=1, *, ahead_s=0, jti=None):
        """Open new people at one keeper, with a grant of the time that its clock shows."""
        people = People(count, classes=(NAME_CLASS,))
        await self.ask("open", people.open(bytes(20)), [keeper], life_s=60 + ahead_s, jti=jti)

    def entries(self, keeper="a"):
        return [json.loads(f.entry) for f in self.keepers[keeper].log.frames(0)]


async def started(folder, **kw):
    rig = Apart(folder, **kw)
    await rig.start()
    await rig.rounds()
    return rig


@pytest.fixture
async def rig(tmp_path):
    made = await started(tmp_path, limits=TWO)
    yield made
    await made.close()


async def served_until_the_budget_is_spent(rig, ahead_s=0):
    await rig.spend(ahead_s=ahead_s)
    await rig.spend(ahead_s=ahead_s)
    with pytest.raises(BudgetError):
        await rig.spend(ahead_s=ahead_s)


# --- one clock is wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [31, -31, 121, -121, 2 * DAY_S, -2 * DAY_S, FAR_S])
async def test_a_clock_that_is_set_is_noticed_before_peers_are_asked_again(rig, jump):
    """Who sets one and holds a login has until the next round otherwise: to empty windows, and to date entries."""
    await rig.spend()
    size = rig.keepers["a"].log.size
    rig.set(jump, "a")
    for ahead_s in (0, jump):
        with pytest.raises(ClockError):
            await rig.spend(ahead_s=ahead_s)
    assert rig.keepers["a"].log.size == size
    rig.set(-jump, "a")
    await rig.spend()  # at once: nobody has to be asked
    with pytest.raises(BudgetError):
        await rig.spend()


@pytest.mark.parametrize("jump", [29, -29, -1])
async def test_a_little_is_borne_and_a_leap_second_too(rig, jump):
    rig.set(jump, "a")
    await served_until_the_budget_is_spent(rig)
    await rig.rounds("a")
    times = [e["t"] for e in rig.entries()]
    assert times == sorted(times)


async def test_peers_that_answered_long_ago_do_not_vouch_for_a_clock_that_was_set_since(rig):
    rig.down = {"b"}
    rig.set(DAY_S, "a")
    await rig.rounds("a")  # c says that it is wrong; the last word of b was that it is right
    with pytest.raises(ClockError):
        await rig.spend(ahead_s=DAY_S)


async def test_a_frozen_clock_is_noticed(rig):
    rig.passes(29, frozen="a")
    await rig.spend()
    rig.passes(2, frozen="a")
    with pytest.raises(ClockError):
        await rig.spend()
    await rig.rounds()
    with pytest.raises(ClockError):
        await rig.spend()
    rig.set(31, "a")
    await rig.spend()


async def test_what_is_logged_under_a_wrong_clock_is_not_dated_far_ahead(rig):
    """Officers' and peers' requests need no clock; behind their entries' time nothing would be served, for ten years."""
    rig.set(FAR_S, "a")
    await rig.keepers["a"].handle("policy", "", rig.sign(rig.next_policy()))
    assert rig.entries()[-1]["op"] == "policy"
    assert rig.entries()[-1]["t"] <= (START_S + 30) * 1000
    rig.set(-FAR_S, "a")
    await rig.spend()
    await rig.restart("a")
    await rig.spend()


@pytest.mark.parametrize("wrong", ["a", "b"])
@pytest.mark.parametrize("offset", [6 * 3600, -6 * 3600])
async def test_of_two_clocks_that_differ_the_earlier_one_dates_entries(rig, wrong, offset):
    """With one peer heard nobody knows which is wrong; halfway between them, a keeper would stay away for hours."""
    await rig.keepers["a"].close()
    rig.down = {"c"}
    rig.set(offset, wrong)
    keeper = rig.open("a")
    await keeper.start()
    await keeper.handle("policy", "", rig.sign(rig.next_policy()))
    with pytest.raises(ClockError):
        await rig.spend()
    assert rig.entries()[-1]["op"] == "policy"
    assert rig.entries()[-1]["t"] <= (START_S + 30) * 1000
    rig.set(-offset, wrong)
    await rig.rounds("a")
    await rig.spend()


async def test_of_four_clocks_that_differ_the_second_dates_entries(tmp_path):
    rig = await Apart(tmp_path, 4, 3).start()
    rig.set(6 * 3600, "ab")
    await rig.rounds("abcd")
    await rig.keepers["a"].handle("policy", "", rig.sign(rig.next_policy()))
    assert rig.entries()[-1]["t"] <= (START_S + 30) * 1000
    rig.set(-6 * 3600, "ab")
    await rig.rounds("abcd")
    await rig.spend()
    await rig.close()


@pytest.mark.parametrize("offset", [55, -55])
async def test_a_lone_peer_that_is_a_little_wrong_neither_stops_a_keeper_nor_dates_its_entries(rig, offset):
    await rig.keepers["a"].close()
    rig.down = {"c"}
    rig.set(offset, "b")
    await rig.open("a").start()
    await rig.spend()
    assert rig.entries()[-1]["t"] == START_S * 1000


@pytest.mark.parametrize("offset", [FAR_S, -2 * DAY_S])
async def test_a_first_entry_under_a_wrong_clock_is_not_dated_far_ahead(tmp_path, offset):
    rig = Apart(tmp_path)
    rig.set(offset, "a")
    await rig.start()
    assert all(e["t"] <= (START_S + 30) * 1000 for e in rig.entries())
    with pytest.raises(ClockError):
        await rig.spend()
    rig.set(-offset, "a")
    await rig.spend()
    await rig.close()


async def test_one_peer_with_a_wrong_clock_stops_nobody_else(rig):
    rig.set(500, "c")
    await rig.rounds()
    for i in "ab":
        await rig.ask("state", plain("state"), [i])
    with pytest.raises(ClockError):
        await rig.ask("state", plain("state"), ["c"])


async def test_a_clock_that_was_wrong_from_the_start_is_right_once_it_is_set(tmp_path):
    rig = Apart(tmp_path)
    rig.set(-3 * DAY_S, "a")
    await rig.start()
    with pytest.raises(ClockError):
        await rig.ask("state", plain("state"), ["a"])
    rig.set(3 * DAY_S, "a")
    await rig.ask("state", plain("state"), ["a"])
    await rig.close()


async def test_time_never_goes_back_behind_the_log(rig):
    rig.set(20, "a")
    await rig.spend()
    rig.set(-20, "a")
    await rig.spend()
    times = [e["t"] for e in rig.entries()]
    assert times == sorted(times)
    assert times[-1] == (START_S + 20) * 1000
    rig.set(-31, "a")
    with pytest.raises(ClockError):
        await rig.spend()


async def test_back_over_midnight_and_the_end_of_a_month(tmp_path):
    """1 December 2023, 00:00:05, then 23:59:55 again: the day's file and the month's key stay the new ones."""
    rig = await started(tmp_path, limits=TWO)
    rig.passes(1_701_388_800 + 5 - START_S)
    await rig.spend()
    rig.set(-10, "a")
    await rig.spend()
    names = sorted(p.name[13:] for p in (rig.path("a") / "log").glob("*-*.log"))
    assert names == ["2023-11-14.log", "2023-12-01.log"]
    for _ in range(2):
        with pytest.raises(BudgetError):
            await rig.spend()
        await rig.restart("a")
    await rig.close()


# --- all clocks are wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("defended", [True, False])
async def test_all_clocks_set_ahead_together_empty_no_window(tmp_path, defended):
    """One source of time for all zones, or one administrator. Where windows follow the clocks, the attack wins."""
    rig = Apart(tmp_path, limits=TWO)
    if not defended:
        rig.boots = rig.clocks
    await rig.start()
    await rig.rounds()
    await served_until_the_budget_is_spent(rig)
    rig.set(2 * DAY_S)
    await rig.rounds()
    if not defended:
        await rig.spend(ahead_s=2 * DAY_S)
    with pytest.raises(BudgetError):
        await rig.spend(count=2, ahead_s=2 * DAY_S)
    rig.passes(DAY_S + JOIN_S + 1)
    await served_until_the_budget_is_spent(rig, 2 * DAY_S)
    await rig.close()


async def test_all_clocks_set_back_together_serve_nothing_until_they_have_caught_up(rig):
    """Grants and rows whose end had come are not revived."""
    rig.passes(100)
    await rig.spend()
    rig.set(-50)
    await rig.rounds()
    with pytest.raises(ClockError):
        await rig.spend()
    rig.passes(21)
    await rig.spend()


async def test_machines_that_slept_serve_at_once(rig):
    await served_until_the_budget_is_spent(rig)
    rig.passes(8 * 3600)
    await rig.ask("state", plain("state"))
    rig.passes(DAY_S)
    await served_until_the_budget_is_spent(rig)


async def test_a_machine_that_sleeps_while_its_peers_answer_takes_their_time_for_nothing(rig):
    honest = rig.keepers["a"].witnessed.peers

    def slept(peer):
        async def call(op, body):
            answer = await peer(op, body)
            rig.passes(3600)
            return answer

        return call

    rig.keepers["a"].witnessed.peers = {peer: slept(call) for peer, call in honest.items()}
    await rig.rounds("a")
    await rig.spend()


@pytest.mark.parametrize("asleep", ["a", "abc"])
async def test_machines_whose_time_since_boot_stood_still_serve_after_the_next_round(rig, asleep):
    """A virtual machine that was halted: its clock is put right afterwards, and time since boot went on without it."""
    await served_until_the_budget_is_spent(rig)
    rig.set(8 * 3600, asleep)  # as its machine sees it
    with pytest.raises(ClockError):
        await rig.ask("state", plain("state"), ["a"], life_s=60 + 8 * 3600)
    if asleep == "a":  # the others' time went on
        for i in "bc":
            rig.clocks[i].now_s += 8 * 3600
    await rig.rounds()
    await rig.ask("state", plain("state"), ["a"], life_s=60 + 8 * 3600)
    with pytest.raises(BudgetError):
        await rig.spend(ahead_s=8 * 3600)


# --- on start --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [2 * DAY_S, 40 * DAY_S, FAR_S])
async def test_a_start_under_a_clock_far_ahead_forgets_no_charge_and_no_spent_grant(rig, ahead):
    """What is replayed is not the clock's to choose: it is set right later, and the day is still today."""
    await rig.spend(jti=b"j" * 16)
    await rig.spend()
    rig.set(ahead, "a")
    await rig.restart("a")
    with pytest.raises(ClockError):
        await rig.spend()
    rig.set(-ahead, "a")
    with pytest.raises(GrantError):
        await rig.spend(jti=b"j" * 16)
    with pytest.raises(BudgetError):
        await rig.spend()


async def test_a_day_whose_files_are_older_than_the_last_entry_is_replayed_too(rig):
    """Charges of yesterday evening count this morning, whatever the clock said at the start."""
    rig.passes(DAY_S - START_S % DAY_S - 60)
    await served_until_the_budget_is_spent(rig)
    rig.passes(120)
    await rig.ask("index", People(1).index(), ["a"])  # the new day has a file
    for ahead in (0, DAY_S, -DAY_S, 2 * DAY_S):
        rig.set(ahead, "a")
        await rig.restart("a")
        rig.set(-ahead, "a")
        with pytest.raises(BudgetError):
            await rig.spend()


async def test_a_lying_peer_beside_a_silent_one_ends_no_window_at_the_start(rig):
    await served_until_the_budget_is_spent(rig)
    keeper = rig.keepers["a"]
    await keeper.close()
    rig.down = {"c"}
    rig.set(4 * DAY_S, "b")
    keeper = rig.open("a")
    await keeper.start()
    await keeper.cosign_now()
    with pytest.raises(ClockError):
        await rig.spend()
    rig.down = set()
    await keeper.cosign_now()
    with pytest.raises(BudgetError):
        await rig.spend()


async def test_what_has_left_every_window_leaves_memory_too(rig):
    keeper = rig.keepers["a"]
    await rig.spend()
    assert keeper._state.ledger._windows
    rig.passes(DAY_S + JOIN_S + 1)
    await keeper.cosign_now()
    assert not keeper._state.ledger._windows


def test_time_since_boot_is_not_the_time_of_day():
    assert 0 < since_boot() < time.time() / 2
    assert since_boot() <= since_boot()
