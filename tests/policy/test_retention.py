"""Rows end at the earlier of their own end and retention, to the second, for any integers that come."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vault_texts
from anwen.errors import MalformedError, RefusedError
from anwen.policy.retention import DAY_S, END_OF_TIME_S, check_open, check_seal

_POLICY = vault_texts.policy()
PERSON, BY_SECOND = 1, 2
POLICY = replace(
    _POLICY,
    collections={
        "person": replace(_POLICY.collections["person"], retention_days=30),
        "incident": replace(_POLICY.collections["incident"], retention_days=10, dates="second"),
    },
)
TODAY = 20_000 * DAY_S
NOON = TODAY + DAY_S // 2


def columns(*rows: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns as the wire brings them: big-endian, read-only."""
    collections, collected, expires = zip(*rows, strict=True)
    made = np.array(collections, ">u2"), np.array(collected, ">u8"), np.array(expires, ">u8")
    for column in made:
        column.flags.writeable = False
    return made


def accepted(row: tuple[int, int, int], now: float) -> bool:
    try:
        check_open(POLICY, *columns(row), now)
    except RefusedError:
        with pytest.raises(MalformedError):
            check_seal(POLICY, *columns(row), now)
        return False
    check_seal(POLICY, *columns(row), now)
    return True


@pytest.mark.parametrize(
    ("row", "now", "opens"),
    [
        ((PERSON, TODAY, 0), NOON, True),
        ((PERSON, TODAY, 0), TODAY + 30 * DAY_S - 1, True),
        ((PERSON, TODAY, 0), TODAY + 30 * DAY_S, False),  # retention is over
        ((PERSON, TODAY, TODAY + 2 * DAY_S), TODAY + 2 * DAY_S - 1, True),
        ((PERSON, TODAY, TODAY + 2 * DAY_S), TODAY + 2 * DAY_S, False),  # its own end
        ((PERSON, TODAY, TODAY + 90 * DAY_S), TODAY + 30 * DAY_S, False),  # an own end does not outlast retention
        ((PERSON, TODAY + DAY_S, 0), NOON, False),  # tomorrow
        ((PERSON, TODAY + DAY_S, 0), TODAY + DAY_S - 121, False),
        ((PERSON, TODAY + DAY_S, 0), TODAY + DAY_S - 120, True),  # midnight is within the clocks' leave
        ((PERSON, TODAY + 1, 0), NOON, False),  # not a day
        ((PERSON, TODAY, TODAY + DAY_S + 1), NOON, False),
        ((BY_SECOND, NOON, 0), NOON, True),
        ((BY_SECOND, NOON + 120, 0), NOON, True),
        ((BY_SECOND, NOON + 121, 0), NOON, False),
        ((BY_SECOND, NOON, NOON + 5), NOON + 4.9, True),
        ((BY_SECOND, NOON, NOON + 5), NOON + 5, False),
        ((9, NOON, 0), NOON, False),  # no such collection
        ((BY_SECOND, 2**64 - 1, 0), NOON, False),
        ((BY_SECOND, NOON, 2**64 - 1), NOON, False),
        ((BY_SECOND, NOON, END_OF_TIME_S), NOON, False),
        ((BY_SECOND, NOON, END_OF_TIME_S - 1), NOON, True),
        ((PERSON, 0, 0), 0, True),
    ],
)
def test_each_side_of_each_moment(row, now, opens):
    assert accepted(row, now) == opens


def test_seal_names_the_first_row_and_why_open_does_not():
    rows = columns((PERSON, TODAY, 0), (PERSON, TODAY + 7, 0), (BY_SECOND, NOON + 500, 0))
    with pytest.raises(MalformedError, match=r"row 1: dates of this collection are whole days"):
        check_seal(POLICY, *rows, NOON)
    with pytest.raises(RefusedError) as caught:
        check_open(POLICY, *rows, NOON)
    assert "row" not in str(caught.value)
    assert caught.value.__notes__ == ["row 1: dates of this collection are whole days, multiples of 86400 s"]


def test_no_rows_are_fine():
    empty = (np.array([], ">u2"), np.array([], ">u8"), np.array([], ">u8"))
    check_open(POLICY, *empty, NOON)
    check_seal(POLICY, *empty, NOON)


GOOD = [(PERSON, TODAY, 0)] * 17


def why(rows, now):
    try:
        check_seal(POLICY, *columns(*rows), now)
    except MalformedError as error:
        return str(error)
    return None


DATES = st.one_of(st.integers(0, 2**64 - 1), st.integers(TODAY - 40 * DAY_S, TODAY + 40 * DAY_S))
DAYS = st.integers(20_000 - 40, 20_000 + 40).map(lambda d: d * DAY_S)


@given(
    st.lists(st.tuples(st.sampled_from([PERSON, BY_SECOND, 9]), DATES | DAYS, DATES | DAYS | st.just(0)), min_size=1)
)
def test_arrays_agree_with_one_row_at_a_time(rows):
    def one(collection_id: int, collected: int, expires: int) -> bool:
        collection = POLICY.collection_by_id.get(collection_id)
        if collection is None or max(collected, expires) >= END_OF_TIME_S or collected > NOON + 120:
            return False
        if collection.dates == "day" and (collected % DAY_S or expires % DAY_S):
            return False
        end = collected + collection.retention_days * DAY_S
        return min(end, expires or end) > NOON

    expected = [one(*row) for row in rows]
    assert [accepted(row, NOON) for row in rows] == expected
    if all(expected):
        check_open(POLICY, *columns(*rows), NOON)
    else:
        with pytest.raises(RefusedError) as caught:
            check_open(POLICY, *columns(*rows), NOON)
        assert caught.value.__notes__[0].startswith(f"row {expected.index(False)}: ")


ROWS = st.tuples(st.sampled_from([PERSON, BY_SECOND, 9]), DATES | DAYS, DATES | DAYS | st.just(0))


@given(st.lists(ROWS, min_size=1, max_size=16), st.floats(-200, 2**41) | st.just(NOON + 0.5))
def test_few_rows_are_refused_as_many_are(rows, now):
    many = why([*rows, *GOOD], now)
    few = why(rows, now)
    if few is None and many is not None:  # of the rows added: at another time they are not good
        assert int(many.split()[1].rstrip(":")) >= len(rows)
    else:
        assert few == many
