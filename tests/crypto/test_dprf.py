import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anwen.crypto import dprf, prf
from anwen.errors import MalformedError

SETTINGS = [(t, n) for n in range(1, 8) for t in range(1, min(n, 4) + 1)]
KEEPERS = ("g", "a", "e", "c", "b", "f", "d")


@pytest.mark.parametrize(("threshold", "count"), SETTINGS)
def test_any_t_keepers_hold_every_key_and_t_minus_1_lack_one(threshold, count):
    keepers = KEEPERS[:count]
    sets = dprf.key_sets(keepers, threshold)
    assert len(sets) == math.comb(count, threshold - 1)
    held = {keeper: set(dprf.held_by(keeper, keepers, threshold)) for keeper in keepers}
    for group in itertools.combinations(keepers, threshold):
        assert set().union(*(held[k] for k in group)) == set(sets)
    for group in itertools.combinations(keepers, threshold - 1):
        missing = set(sets) - set().union(*(held[k] for k in group))
        assert missing == {tuple(sorted(group))}


@pytest.mark.parametrize(("threshold", "count"), [(1, 1), (2, 3), (3, 5), (4, 7)])
def test_any_t_keepers_compute_one_value_and_no_key_can_be_left_out(threshold, count):
    keepers = KEEPERS[:count]
    sets = dprf.key_sets(keepers, threshold)
    x = np.arange(3 * 79, dtype=np.uint8).reshape(3, 79)
    component = {s: prf.evaluate(prf.PrfKey(bytes([i]) * 32), x) for i, s in enumerate(sets)}
    value = dprf.combine([component[s] for s in sets])
    for group in itertools.combinations(keepers, threshold):
        known = {s: component[s] for keeper in group for s in dprf.held_by(keeper, keepers, threshold)}
        assert np.array_equal(dprf.combine([known[s] for s in sets]), value)
    for left_out in sets if len(sets) > 1 else ():
        assert not np.array_equal(dprf.combine([component[s] for s in sets if s != left_out]), value)


MASK = prf.PrfKey(b"m" * 32)


@pytest.mark.parametrize(("threshold", "count"), SETTINGS)
@pytest.mark.parametrize("rows", [0, 1, 3, 20])
def test_pads_cancel_and_differ_by_principal_second_set_and_input(threshold, count, rows):
    sets, x = dprf.key_sets(KEEPERS[:count], threshold), np.arange(rows * 79, dtype=np.uint8).reshape(rows, 79)
    several = [dprf.pads(MASK, who, second, sets, x) for who, second in (("a", 1), ("a", 2), ("b", 1), ("a1", 1))]
    assert all(list(pads) == list(sets) and not dprf.combine(list(pads.values())).any() for pads in several)
    assert several[0][sets[0]].shape == (rows, 32)
    values = [row.tobytes() for pads in several for pad in pads.values() for row in pad]
    assert len(set(values)) == len(values) or len(sets) < 3  # of two the pads are the same
    again = dprf.pads(prf.PrfKey(b"m" * 32), "a", 1, sets, x)
    assert all(np.array_equal(again[s], pad) for s, pad in several[0].items())


@pytest.mark.parametrize(("threshold", "count"), [(2, 3), (3, 4)])
def test_answers_of_different_seconds_combine_in_no_way(threshold, count):
    """Every XOR of what t - 1 keepers say in one second, and the others in another: none is F, or without pads."""
    keepers, x = KEEPERS[:count], np.arange(79, dtype=np.uint8).reshape(1, 79)
    sets = dprf.key_sets(keepers, threshold)
    component = {s: prf.evaluate(prf.PrfKey(bytes([i]) * 32), x) for i, s in enumerate(sets)}
    value = dprf.combine(list(component.values())).tobytes()
    told = {
        (second, s): component[s] ^ dprf.pads(MASK, "thief", second, sets, x)[s]
        for keeper, second in zip(keepers, (*[1] * (threshold - 1), *range(2, count)), strict=False)
        for s in dprf.held_by(keeper, keepers, threshold)
    }
    assert {s for _, s in told} == set(sets)  # before there were pads it was enough
    sums = np.zeros((1, 32), np.uint8)
    for part in told.values():
        sums = np.vstack([sums, sums ^ part])
    found = {row.tobytes() for row in sums}
    assert value not in found
    assert len(found) == 2 ** len(told)  # none is the sum of others
    one = [component[s] ^ dprf.pads(MASK, "thief", 1, sets, x)[s] for s in sets]
    assert dprf.combine(one).tobytes() == value


def test_order_is_that_of_the_page_whatever_order_keepers_come_in():
    assert dprf.key_sets(("c", "a", "b"), 2) == (("a",), ("b",), ("c",))
    assert dprf.held_by("b", ("c", "a", "b"), 2) == (("a",), ("c",))
    assert dprf.key_sets(("c", "a", "b"), 1) == ((),)
    for keepers in itertools.permutations("abcd"):
        assert dprf.key_sets(keepers, 3) == tuple(itertools.combinations("abcd", 2))


@pytest.mark.parametrize(("keepers", "threshold"), [("aab", 2), ("abc", 0), ("abc", 4), ("", 1)])
def test_impossible_settings_are_refused(keepers, threshold):
    with pytest.raises(MalformedError):
        dprf.key_sets(tuple(keepers), threshold)


def test_a_stranger_holds_nothing():
    with pytest.raises(MalformedError):
        dprf.held_by("z", ("a", "b", "c"), 2)


@given(st.integers(0, 5), st.integers(1, 6), st.randoms(use_true_random=False))
def test_combine_is_xor_in_any_order_and_leaves_its_inputs(rows, count, random):
    components = [np.frombuffer(random.randbytes(32 * rows), np.uint8).reshape(rows, 32) for _ in range(count)]
    total = dprf.combine(components)
    expected = [0] * (32 * rows)
    for component in components:
        expected = [a ^ b for a, b in zip(expected, component.ravel().tolist(), strict=True)]
    assert total.ravel().tolist() == expected
    random.shuffle(components)
    assert np.array_equal(dprf.combine(components), total)


def test_combine_refuses_uneven_components():
    with pytest.raises(MalformedError):
        dprf.combine([])
    with pytest.raises(MalformedError):
        dprf.combine([np.zeros((2, 32), np.uint8), np.zeros((1, 32), np.uint8)])
    with pytest.raises(MalformedError):
        dprf.combine([np.zeros((2, 32), np.uint8), np.zeros((2, 32), np.uint16)])


CEREMONY = {
    "series": "record",
    "number": 7,
    "vault": b"v" * 16,
    "key_set": ("a",),
    "transcript": b"t" * 32,
    "contributions": {"b": b"B" * 32, "c": b"C" * 32},
}
CHANGES = [
    ("series", "index"),
    ("number", 8),
    ("vault", b"w" * 16),
    ("key_set", ("d",)),
    ("key_set", ("a", "d")),
    ("key_set", ()),
    ("transcript", b"u" * 32),
    ("transcript", b""),
    ("contributions", {"b": b"C" * 32, "c": b"B" * 32}),
    ("contributions", {"b": b"B" * 32, "d": b"C" * 32}),
    ("contributions", {"b": b"B" * 32}),
    ("contributions", {"b": b"B" * 32, "c": b"C" * 32, "d": b"D" * 32}),
    ("contributions", {"bc": b"B" * 32, "d": b"C" * 32}),
]


def test_a_key_depends_on_everything_in_its_ceremony():
    keys = [dprf.extract(**CEREMONY), *(dprf.extract(**CEREMONY | {name: value}) for name, value in CHANGES)]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 32 for key in keys)


def test_holders_agree_in_whatever_order_contributions_arrived():
    swapped = {"c": b"C" * 32, "b": b"B" * 32}
    assert dprf.extract(**CEREMONY | {"contributions": swapped}) == dprf.extract(**CEREMONY)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("contributions", {}),
        ("contributions", {"b": b"B" * 31}),
        ("contributions", {"a": b"A" * 32, "b": b"B" * 32}),  # a is a member of T: it must not know the key
        ("key_set", ("e", "d")),
        ("key_set", ("d", "d")),
        ("vault", b"v"),
        ("number", -1),
        ("number", 2**32),
    ],
)
def test_extraction_refuses(name, value):
    with pytest.raises(MalformedError):
        dprf.extract(**CEREMONY | {name: value})


def test_check_value_and_commitment():
    secret = bytes(range(32))
    assert len(dprf.check_value(secret)) == 16
    assert dprf.check_value(secret) == prf.derive(secret, b"anwen-check-1", b"")[:16]
    assert dprf.check_value(secret) != dprf.check_value(secret[::-1])
    commitments = {dprf.commit(secret, b"ab"), dprf.commit(secret, b"a"), dprf.commit(secret[::-1], b"ab")}
    assert {len(c) for c in commitments} == {32}
    assert len(commitments) == 3
    with pytest.raises(MalformedError):
        dprf.commit(b"short", b"")


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_commitment_contexts_do_not_run_into_contributions(one, other):
    contribution = bytes(32)
    assert (dprf.commit(contribution, one) == dprf.commit(contribution, other)) == (one == other)
