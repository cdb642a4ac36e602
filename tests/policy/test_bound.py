"""Nobody opens more than B people in any window, alone or with t - 1 keepers on his side (docs/adr/0010 and 0011).

Who holds fewer keepers, but one, knows the pads, so answers keep for him: in m windows from when he began he opens no
more than m * B, and in one of them no more than B * (n - f) / (n - t + 1), after windows of preparation in which he opens
nobody. The attacks are code: they must win against fixed windows, against the rule B * t / n, against answers that
keep, and against windows that are not longer by the time in which answers combine; and lose against ours.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anwen.policy.budgets import SubjectWindow

WINDOW_S = 100
JOIN = 5  # as `budgets.JOIN_S`: answers further apart do not combine
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
    join_s: float | None = None  # None: as it is
    window_s: float = WINDOW_S + JOIN
    openings: list[tuple[float, int]] = field(default_factory=list)
    answered: dict[int, dict[int, float]] = field(default_factory=dict)  # when honest keepers answered for a subject

    def __post_init__(self) -> None:
        self.keepers = {k: self.kind(self.limit, self.window_s) for k in range(self.n) if k not in self.corrupt}
        if self.join_s is None:
            self.join_s = math.inf if self.corrupt else JOIN

    @property
    def needed(self) -> int:
        return self.t - len(self.corrupt)

    def open(self, subject: int, asked: list[int], now: float) -> bool:
        """Ask honest keepers for one subject. Who has room charges, whether enough others answer or not.

        A subject is open once enough answered within the time in which answers combine.
        """
        handle, answers = [subject.to_bytes(16)], self.answered.setdefault(subject, {})
        was_open = any(s == subject for _, s in self.openings)
        for keeper in asked:
            if self.keepers[keeper].would_exceed(handle, now) is None:
                self.keepers[keeper].charge(handle, now)
                answers[keeper] = now
        joined = sum(now - at <= self.join_s for at in answers.values()) >= self.needed
        if joined and (not was_open or self.join_s < math.inf):
            self.openings.append((now, subject))
        return joined

    def has_room(self, keeper: int, now: float) -> bool:
        return self.keepers[keeper].would_exceed([b"a person never asked"], now) is None


def most_in_any_window(openings: list[tuple[float, int]]) -> int:
    """The thief's own count: distinct subjects in the best position of a window (start, start + WINDOW_S]."""
    ends = sorted({at for at, _ in openings})
    return max((len({s for at, s in openings if end - WINDOW_S < at <= end}) for end in ends), default=0)


def most_in_one(vault: Vault, budget: int) -> int:
    """What one window bears at most: where answers keep, each opening in it needs one honest answer in it."""
    keep = vault.join_s == math.inf and vault.needed > 1
    return len(vault.keepers) * vault.limit if keep else min(budget, len(vault.keepers) * vault.limit // vault.needed)


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


def prepared_attack(n: int, t: int, limit: int, corrupt: int, join_s: float | None = None) -> Vault:
    """Ask each keeper for other people in each window, until one more answer is missing of all of them; then for those.

    People come in groups, one for each honest keeper; in window w, group i is asked of the w-th keeper after the i-th.
    """
    vault = Vault(n, t, limit, SubjectWindow, frozenset(range(corrupt)), join_s)
    honest = list(vault.keepers)
    for window in range(vault.needed):
        for i, _ in enumerate(honest):
            for subject in range(i * limit, (i + 1) * limit):
                vault.open(subject, [honest[(i + window) % len(honest)]], window * vault.window_s)
    return vault


def attack_on_the_edge(window_s: float) -> int:
    """Half of what keepers have goes just before an hour begins, the rest completes it; that half is back at its end."""
    vault, fresh = Vault(3, 2, 60, SubjectWindow, frozenset(), window_s=window_s), itertools.count(1000)
    for now, shift in ((0, 0), (JOIN, 1)):
        for subject in range(90):
            vault.open(subject, [(subject // 30 + shift) % 3], now)
    burst(vault, WINDOW_S + JOIN - 1, fresh)
    return most_in_any_window(vault.openings)


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
def test_who_prepares_gains_nothing_by_a_login_alone(n, t):
    limit = our_limit(60, n, t)
    assert prepared_attack(n, t, limit, 0).openings == []
    kept = prepared_attack(n, t, limit, 0, join_s=math.inf)  # as before answers were masked
    assert most_in_any_window(kept.openings) == n * limit > 60


@pytest.mark.parametrize(("n", "t"), SHAPES)
def test_who_holds_a_keeper_and_prepares_opens_no_more_a_window_since_he_began(n, t):
    """With t - 1 there is nothing to prepare: B."""
    budget, limit = 60, our_limit(60, n, t)
    for corrupt in range(1, t):
        vault = prepared_attack(n, t, limit, corrupt)
        assert most_in_any_window(vault.openings) == len(vault.openings) == (n - corrupt) * limit
        assert len(vault.openings) <= budget * (n - corrupt) // (n - t + 1)
        assert len(vault.openings) <= vault.needed * budget  # windows that it took
        assert {at for at, _ in vault.openings} == {(vault.needed - 1) * vault.window_s}


def test_the_attack_on_the_edge_wins_where_windows_are_not_longer():
    assert attack_on_the_edge(WINDOW_S) > 120 >= attack_on_the_edge(WINDOW_S + JOIN)


@pytest.mark.parametrize(("n", "t"), [shape for shape in SHAPES if shape != (3, 3)])
def test_the_attack_wins_against_the_rule_b_t_over_n(n, t):
    assert best_attack(n, t, shared_limit(60, n, t)) > 60


@pytest.mark.parametrize(("n", "t"), SHAPES)
def test_the_attack_wins_against_fixed_windows(n, t):
    assert best_attack(n, t, our_limit(60, n, t), FixedWindow) > 60


@pytest.mark.parametrize(("n", "t", "old"), [(3, 2, 1332), (5, 3, 1800), (7, 4, 2284)])
def test_the_old_rule_gives_what_the_threat_model_says(n, t, old):
    vault = Vault(n, t, shared_limit(1000, n, t), SubjectWindow, frozenset(range(t - 1)), window_s=WINDOW_S)
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
