"""Who lives with whom: households of one to six, with the ages and sexes of their members.

Sources: shares of households by size: seventh census of 2020 (one person 25.4 %, two 29.7 %, three 21.0 %, four 13.2 %,
five 6.2 %, six and more 4.6 %). The ages of heads are our choice, fitted so that all residents together come near the
age groups of that census (0-14 17.95 %, 15-59 63.35 %, 60 and over 18.70 %) and its sex ratio (105.07). Sex ratio of
children: 111 boys to 100 girls, as the registrations of 2020 have it (529.0 to 474.5 thousand).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anwen.sample.draw import Draws, Int64, Weighted, WeightedIn

BLOCK = 50
"""Residents that are divided into households together; a row's household is known from its block alone."""

LAST_YEAR = 2024
"""Ages are those of the last day of this year."""

SIZE_PERCENT = (25.4, 29.7, 21.0, 13.2, 6.2, 4.6)
_PATTERNS = 256
_SINGLE, _HEAD, _SPOUSE, _CHILD, _GRANDPARENT, _SECOND_GRANDPARENT = range(6)
_ROLES = (
    (_SINGLE,),
    (_HEAD, _SPOUSE),
    (_HEAD, _SPOUSE, _CHILD),
    (_HEAD, _SPOUSE, _CHILD, _CHILD),
    (_HEAD, _SPOUSE, _CHILD, _CHILD, _GRANDPARENT),
    (_HEAD, _SPOUSE, _CHILD, _CHILD, _GRANDPARENT, _SECOND_GRANDPARENT),
)

# (from age, to age, weight) of the head, by size of household
_HEAD_AGES = (
    ((20, 34, 32), (35, 59, 30), (60, 74, 24), (75, 92, 14)),
    ((22, 34, 22), (35, 59, 36), (60, 74, 30), (75, 90, 12)),
    ((25, 44, 58), (45, 62, 42)),
    ((27, 45, 80), (46, 56, 20)),
    ((27, 45, 85), (46, 56, 15)),
    ((27, 45, 85), (46, 56, 15)),
)
_BANDS = [band for bands in _HEAD_AGES for band in bands]
_choose_band = WeightedIn([[weight for _, _, weight in bands] for bands in _HEAD_AGES])


def _patterns() -> tuple[Int64, Int64, Int64]:
    """Return first member's position, role and household size for each of BLOCK positions of each pattern."""
    sizes = Weighted(SIZE_PERCENT)(Draws(0, 0), np.arange(_PATTERNS * BLOCK, dtype=np.int64), 0).reshape(-1, BLOCK) + 1
    first = np.zeros((_PATTERNS, BLOCK), np.int64)
    role, size = first.copy(), first.copy()
    for pattern in range(_PATTERNS):
        position = 0
        for drawn in sizes[pattern].tolist():
            members = min(drawn, BLOCK - position)
            if members == 0:
                break
            where = slice(position, position + members)
            first[pattern, where], size[pattern, where] = position, members
            role[pattern, where] = _ROLES[members - 1]
            position += members
    return first, role, size


_FIRST, _ROLE, _SIZE = _patterns()
_LANE_PATTERN, _LANE_BAND, _LANE_AGE, _LANE_SPOUSE, _LANE_BIRTH, _LANE_BIRTH_2, _LANE_SEX = range(7)


@dataclass(frozen=True, slots=True)
class Members:
    """What households say about some rows; all arrays have their length."""

    head: Int64  # row of the household's first member
    mother: Int64  # row of the head's spouse, the mother of the household's children
    birth_year: Int64
    is_male: Int64  # 0 or 1
    is_child: np.ndarray[tuple[int], np.dtype[np.bool_]]
    bears_household_name: np.ndarray[tuple[int], np.dtype[np.bool_]]  # head, children, the head's father


def members(draws: Draws, rows: Int64) -> Members:
    """Return the household part of each row."""
    block, position = rows // BLOCK, rows % BLOCK
    pattern = draws.below(block * BLOCK, _LANE_PATTERN, _PATTERNS)
    head = block * BLOCK + _FIRST[pattern, position]
    role, size = _ROLE[pattern, position], _SIZE[pattern, position]
    band = np.array(_BANDS, np.int64)[_choose_band(draws, head, _LANE_BAND, size - 1)]
    head_age = band[:, 0] + draws.below(head, _LANE_AGE, band[:, 1] - band[:, 0] + 1)
    mother_age = np.maximum(20, head_age + 1 - draws.below(head, _LANE_SPOUSE, 7))
    # a mother's age at birth: 20 to 38, most often in the middle, and no higher than her own
    at_birth = (
        (draws.below(rows, _LANE_BIRTH, 10_000) + draws.below(rows, _LANE_BIRTH_2, 10_000))
        * np.minimum(19, mother_age - 19)
        // 20_000
    )
    age = np.select(
        [role <= _HEAD, role == _SPOUSE, role == _CHILD],
        [head_age, mother_age, mother_age - 20 - at_birth],
        head_age + 20 + draws.below(rows, _LANE_BIRTH, 15),
    )
    drawn_male = draws.happens(rows, _LANE_SEX, np.select([role == _CHILD, age >= 60], [527, 440], 560))
    father_first = draws.happens(head, _LANE_SEX + 1, 450)  # which of the head's parents lives in, if only one does
    is_male = np.select(
        [role == _HEAD, role == _SPOUSE, role == _GRANDPARENT, role == _SECOND_GRANDPARENT],
        [True, False, father_first, ~father_first],
        drawn_male,
    )
    is_child = role == _CHILD
    bears_name = (role <= _HEAD) | is_child | ((role >= _GRANDPARENT) & is_male)
    return Members(head, head + 1, LAST_YEAR - np.minimum(age, 99), is_male.astype(np.int64), is_child, bears_name)
