"""Laws of a round: any t keepers give the same value, and a liar is outvoted or at least seen."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anwen.client.quorum import Round, choose
from anwen.crypto.dprf import held_by, key_sets
from anwen.errors import ProofError
from anwen.formats.answer import Answer, Header

SHAPES = [(3, 2), (5, 2), (5, 3), (7, 4)]


def ids(n):
    return [chr(ord("a") + i) for i in range(n)]


def answer(keeper, components):
    header = Header(bytes(16), keeper, "open", bytes(32), bytes(32), bytes(32), bytes(32), 1, 1, 1, 9, 0, 0,
                    components.shape[1], components.shape[0])  # fmt: skip
    return Answer(header, b"receipt of " + keeper.encode(), bytes(20), components)


class Truth:
    """What honest keepers would answer about `rows` rows."""

    def __init__(self, n, t, rows, seed=0):
        rng = np.random.default_rng(seed)
        self.keepers, self.t, self.rows = ids(n), t, rows
        self.of = {s: rng.integers(0, 256, (rows, 32), dtype=np.uint8) for s in key_sets(self.keepers, t)}
        self.total = np.bitwise_xor.reduce(list(self.of.values()))

    def says(self, keeper, index=None, lie=()):
        index = np.arange(self.rows) if index is None else index
        columns = held_by(keeper, self.keepers, self.t)
        out = np.stack([self.of[s][index] for s in columns])
        for column, row in lie:
            out[column, row] ^= 1
        return answer(keeper, out)

    def round(self):
        return Round(self.keepers, self.t, self.rows)


@pytest.mark.parametrize(("n", "t"), SHAPES)
def test_any_t_keepers_give_the_value_and_fewer_leave_rows_uncovered(n, t):
    truth = Truth(n, t, 5)
    for several in itertools.combinations(truth.keepers, t):
        found = truth.round()
        for keeper in several[:-1]:
            found.add(keeper, truth.says(keeper))
        assert len(found.uncovered()) == 5
        found.add(several[-1], truth.says(several[-1]))
        assert not len(found.uncovered())
        values, contradicted, _ = found.values()
        assert (values == truth.total).all()
        assert not contradicted.any()
        assert found.disputes() is None


@pytest.mark.parametrize(("n", "t"), SHAPES)
def test_a_lie_on_a_component_that_two_were_asked_for_is_seen(n, t):
    truth = Truth(n, t, 3)
    for liar in truth.keepers:
        for column in range(len(held_by(liar, truth.keepers, t))):
            found = truth.round()
            for keeper in truth.keepers:
                found.add(keeper, truth.says(keeper, lie=[(column, 1)] if keeper == liar else ()))
            _, contradicted, _ = found.values()
            assert contradicted.tolist() == [False, True, False]
            assert liar in found.disputes().suspects


def test_in_two_of_three_a_lie_on_both_components_names_the_liar_and_on_one_leaves_two_suspects():
    truth = Truth(3, 2, 1)
    for lie, suspects in [([(0, 0), (1, 0)], ("a",)), ([(0, 0)], ("a", "c")), ([(1, 0)], ("a", "b"))]:
        found = truth.round()
        for keeper in "abc":
            found.add(keeper, truth.says(keeper, lie=lie if keeper == "a" else ()))
        assert found.disputes().suspects == suspects


def opening(truth, found):
    """Accused sets under which the value is right, fewest accused first, as the commitment would tell."""
    return [accused for value, accused in found.candidates(0) if value == truth.total[0].tobytes()]


@given(liar=st.sampled_from("abc"), columns=st.sets(st.integers(0, 1), min_size=1), asked=st.permutations("abc"))
def test_the_fewest_liars_that_explain_all_are_the_liar_alone_even_when_his_lies_cancel_out(liar, columns, asked):
    truth = Truth(3, 2, 1)
    found = truth.round()
    for keeper in asked:
        found.add(keeper, truth.says(keeper, lie=[(c, 0) for c in columns] if keeper == liar else ()))
    assert found.settles(0)
    assert opening(truth, found) == [frozenset(liar)]


def test_with_one_keeper_down_a_liar_whose_lies_cancel_out_could_frame_the_honest_so_nothing_is_settled():
    truth = Truth(3, 2, 1)
    found = truth.round()
    found.add("a", truth.says("a", lie=[(0, 0), (1, 0)]))
    found.add("b", truth.says("b"))
    assert opening(truth, found) == [frozenset("b")]  # the frame-up: it opens, and blames the honest one
    assert not found.settles(0)
    assert found.disputes().suspects == ("a", "b")


@pytest.mark.parametrize(("n", "t"), [(5, 3), (7, 4)])
def test_t_minus_one_liars_neither_stop_a_reading_nor_frame_anybody(n, t):
    truth = Truth(n, t, 1)
    liars = truth.keepers[: t - 1]
    found = truth.round()
    for i, keeper in enumerate(truth.keepers):
        held = len(held_by(keeper, truth.keepers, t))
        found.add(keeper, truth.says(keeper, lie=[(c, 0) for c in range(i % 2, held)] if keeper in liars else ()))
    first = opening(truth, found)[0]
    assert first <= set(liars)


@pytest.mark.parametrize(("n", "t"), SHAPES)
def test_every_row_is_asked_of_t_keepers_and_a_handle_always_of_the_same(n, t):
    subjects = np.random.default_rng(1).integers(0, 256, (2000, 16), dtype=np.uint8)
    plan = choose(ids(n), t, subjects)
    assert sum(np.bincount(rows, minlength=2000) for rows in plan.values()).tolist() == [t] * 2000
    again = choose(ids(n), t, subjects[::-1].copy())
    assert all(set(1999 - again[k]) == set(plan[k]) for k in plan)
    share = 2000 * t / n
    assert all(0.8 * share < len(rows) < 1.2 * share for rows in plan.values())


def test_parts_of_a_round_from_different_keepers_fit_together():
    truth = Truth(3, 2, 6)
    found = truth.round()
    for keeper, rows in {"a": [0, 1, 2, 3], "b": [0, 1, 4, 5], "c": [2, 3, 4, 5]}.items():
        found.add(keeper, truth.says(keeper, np.array(rows)), np.array(rows))
    values, _, doubled = found.values()
    assert (values == truth.total).all()
    assert not doubled.any()


def test_an_answer_to_a_grant_of_another_second_is_refused():
    """It has other pads: taken for one of this round, it would accuse an honest keeper."""
    truth = Truth(3, 2, 4)
    found, late = truth.round(), truth.says("b", np.arange(4))
    found.add("a", truth.says("a", np.arange(4)))
    late = dataclasses.replace(late, header=dataclasses.replace(late.header, expires_s=late.header.expires_s + 1))
    with pytest.raises(ProofError, match="keeper b: answered under another second"):
        found.add("b", late)
    assert len(found.uncovered()) == 4
    assert found.disputes() is None


def test_an_answer_of_another_shape_is_refused():
    truth = Truth(3, 2, 4)
    with pytest.raises(ProofError, match="keeper a"):
        truth.round().add("a", truth.says("a", np.array([0, 1])))
