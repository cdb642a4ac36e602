"""Nobody opens more than B people a window, with any t - 1 keepers on his side (docs/adr/0010).

That is: in m windows from when he began no more than m * B, in whatever order, and in one of them no more than
B * n / (n - t + 1), which takes t - 1 windows of preparation in which he opens nobody. The attacks are code: they must win
against fixed windows and against the rule B * t / n, and lose against ours.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anwen.policy.budgets import SubjectWindow

WINDOW_S = 100
SHAPES = [(3, 2), (5, 3), (7, 4), (5, 2), (3, 3)]


def our_limit(budget: int, n: int, t: int) -> int:
    return budget // (n - t + 1)


def shared_limit(budget: int, n: int, t: int) -> int:
    """The rule that looks right: n keepers, t answers an opening."""
    return budget * t // n


class FixedWindow:
    """A counter that starts anew at multiples of the window."""

    def __init__(self, limit: int, window_s: int) -> None:
        self.limit, self.window_s, self.number, self.seen = limit, window_s, 0, set()

    def _turn(self, now: float) -> None:
        if now // self.window_s != self.number:
            self.number, self.seen = now // self.window_s, set()

    def would_exceed(self, subjects, now):
        self._turn(now)
        return None if len(self.seen | set(subjects)) <= self.limit else 1.0

    def charge(self, subjects, now):
        self._turn(now)
        self.seen |= set(subjects)


@dataclass
class Vault:
    """n keepers of which the thief holds `corrupt`: they answer everything and count nothing."""

    n: int
    t: int
    limit: int
    kind: type
    corrupt: frozenset[int]
    openings: list[tuple[float, int]] = field(default_factory=list)
    answered: dict[int, set[int]] = field(default_factory=dict)  # which honest keepers ever answered for a subject

    def __post_init__(self) -> None:
        self.keepers = {k: self.kind(self.limit, WINDOW_S) for k in range(self.n) if k not in self.corrupt}

    @property
    def needed(self) -> int:
        return self.t - len(self.corrupt)

    def open(self, subject: int, asked: list[int], now: float) -> bool:
        """Ask honest keepers for one subject. Who has room charges, whether enough others answer or not.

        What keepers answer is the same for ever, so a thief keeps it: a subject is open once enough ever answered.
        """
        handle, answers = [subject.to_bytes(16)], self.answered.setdefault(subject, set())
        before = len(answers)
        for keeper in asked:
            if self.keepers[keeper].would_exceed(handle, now) is None:
                self.keepers[keeper].charge(handle, now)
                answers.add(keeper)
        if before < self.needed <= len(answers):
            self.openings.append((now, subject))
        return len(answers) >= self.needed

    def has_room(self, keeper: int, now: float) -> bool:
        return self.keepers[keeper].would_exceed([b"a person never asked"], now) is None


def most_in_any_window(openings: list[tuple[float, int]]) -> int:
    """The thief's own count: distinct subjects in the best position of a window (start, start + WINDOW_S]."""
    ends = sorted({at for at, _ in openings})
    return max((len({s for at, s in openings if end - WINDOW_S < at <= end}) for end in ends), default=0)


def most_in_one(vault: Vault, budget: int) -> int:
    """What one window bears at most: each opening in it needs an honest answer in it."""
    return len(vault.keepers) * vault.limit if vault.needed > 1 else budget


def burst(vault: Vault, now: float, fresh: itertools.count) -> None:
    """Open new people until no set of keepers has room, each time by those that were used least."""
    used = dict.fromkeys(vault.keepers, 0)
    while True:
        free = sorted((k for k in vault.keepers if vault.has_room(k, now)), key=used.__getitem__)
        if len(free) < vault.needed:
            return
        for keeper in free[: vault.needed]:
            used[keeper] += 1
        assert vault.open(next(fresh), free[: vault.needed], now)


def prepared_attack(n: int, t: int, limit: int, corrupt: int) -> Vault:
    """Ask each keeper for other people in each window, until one more answer is missing of all of them; then for those.

    People come in groups, one for each honest keeper; in window w, group i is asked of the w-th keeper after the i-th.
    """
    vault = Vault(n, t, limit, SubjectWindow, frozenset(range(corrupt)))
    honest = list(vault.keepers)
    for window in range(vault.needed):
        for i, _ in enumerate(honest):
            for subject in range(i * limit, (i + 1) * limit):
                vault.open(subject, [honest[(i + window) % len(honest)]], window * WINDOW_S)
    return vault


def best_attack(n: int, t: int, limit: int, kind: type = SubjectWindow) -> int:
    """Return how many people the best of many schedules opens within one window."""
    best = 0
    for f in range(t):
        for moments in itertools.product(
            (0, 1, WINDOW_S - 1), (WINDOW_S - 1, WINDOW_S, WINDOW_S + 1, 3 * WINDOW_S // 2)
        ):
            vault, fresh = Vault(n, t, limit, kind, frozenset(range(f))), itertools.count()
            for now in sorted(moments):
                burst(vault, now, fresh)
            best = max(best, most_in_any_window(vault.openings))
    return best


@pytest.mark.parametrize(("n", "t"), SHAPES)
@pytest.mark.parametrize("budget", [7, 20, 60])
def test_the_attack_loses_against_our_rule_and_takes_all_that_was_promised(n, t, budget):
    most = best_attack(n, t, our_limit(budget, n, t))
    assert most <= budget
    assert most == (n - t + 1) * our_limit(budget, n, t)  # it is a good attack: nothing is left


@pytest.mark.parametrize(("n", "t"), SHAPES)
def test_who_prepares_opens_more_in_one_window_and_no_more_a_window_since_he_began(n, t):
    """With every number of corrupt keepers. With t - 1 there is nothing to prepare: B; with none he gets the most."""
    budget, limit = 60, our_limit(60, n, t)
    for corrupt in range(t):
        vault = prepared_attack(n, t, limit, corrupt)
        assert most_in_any_window(vault.openings) == len(vault.openings) == (n - corrupt) * limit
        assert len(vault.openings) <= budget * n // (n - t + 1)
        assert len(vault.openings) <= vault.needed * budget  # windows that it took
        assert {at for at, _ in vault.openings} == {(vault.needed - 1) * WINDOW_S}


@pytest.mark.parametrize(("n", "t"), [shape for shape in SHAPES if shape != (3, 3)])
def test_the_attack_wins_against_the_rule_b_t_over_n(n, t):
    assert best_attack(n, t, shared_limit(60, n, t)) > 60


@pytest.mark.parametrize(("n", "t"), SHAPES)
def test_the_attack_wins_against_fixed_windows(n, t):
    assert best_attack(n, t, our_limit(60, n, t), FixedWindow) > 60


@pytest.mark.parametrize(("n", "t", "old"), [(3, 2, 1332), (5, 3, 1800), (7, 4, 2284)])
def test_the_old_rule_gives_what_the_threat_model_says(n, t, old):
    vault = Vault(n, t, shared_limit(1000, n, t), SubjectWindow, frozenset(range(t - 1)))
    burst(vault, 0, itertools.count())
    assert len(vault.openings) == old


@st.composite
def schedules(draw):
    """A vault with up to t - 1 corrupt keepers, and requests to any keepers at any times, people repeated."""
    n, t = draw(st.sampled_from(SHAPES))
    budget = draw(st.integers(n - t + 1, 14))
    corrupt = draw(st.frozensets(st.integers(0, n - 1), max_size=t - 1))
    requests = draw(
        st.lists(
            st.tuples(
                st.one_of(st.integers(0, 8), st.integers(0, WINDOW_S)),
                st.integers(0, 30),
                st.frozensets(st.integers(0, n - 1), min_size=1),
            ),
            max_size=60,
        )
    )
    return n, t, budget, corrupt, requests


@given(schedules())
def test_no_schedule_opens_more_than_the_budget_a_window_with_any_corrupt_keepers(schedule):
    n, t, budget, corrupt, requests = schedule
    vault, now = Vault(n, t, our_limit(budget, n, t), SubjectWindow, corrupt), 0.0
    for wait, subject, asked in requests:
        now += wait
        vault.open(subject, [k for k in asked if k not in corrupt], now)
        assert len(vault.openings) <= (now // WINDOW_S + 1) * budget
    assert most_in_any_window(vault.openings) <= most_in_one(vault, budget)


@given(schedules(), st.lists(st.integers(-3, 3), min_size=60, max_size=60))
def test_clocks_that_jump_shorten_the_window_by_no_more_than_they_jump(schedule, jumps):
    n, t, budget, corrupt, requests = schedule
    vault, now = Vault(n, t, our_limit(budget, n, t), SubjectWindow, corrupt), 10.0
    openings = []
    for (wait, subject, asked), jump in zip(requests, jumps, strict=False):
        now += wait
        vault.open(subject, [k for k in asked if k not in corrupt], now + jump)
        openings += [(now, subject)] * (len(vault.openings) - len(openings))
    shorter = WINDOW_S - 6
    for end in {at for at, _ in openings}:
        assert len({s for at, s in openings if end - shorter < at <= end}) <= most_in_one(vault, budget)
