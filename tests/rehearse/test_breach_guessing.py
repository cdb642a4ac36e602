"""The attacker of `inference` has to win on weaker stores, column by column: else that he wins nothing here says nothing."""

import pytest

from anwen.rehearse.breach.columns import Best
from anwen.rehearse.breach.guessing import DETERMINISTIC, ORDER, OURS, WORKS, _judged
from anwen.rehearse.breach.inference import Score

MEASURED = {  # the least of a run at this size or a larger one below the next floor: bench/out/rehearse/breach.json and 5,000
    5_000: {"sex": (1, 1), "given_name": (0.1158, 0.2024), "surname": (0.032, 0.0424), "birth_year": (0.0278, 0.0166)},
    100_000: {"sex": (1, 1), "given_name": (0.2118, 0.3631), "surname": (0.0461, 0.3448), "birth_year": (0.098, 0.098)},
}
FLOORS = [
    (rows, store, column) for rows, floors in WORKS.items() for column, pair in floors.items()
    for store, floor in zip((DETERMINISTIC, ORDER), pair, strict=True)
]  # fmt: skip


def found(rows, changed=(), won=0.0):
    def best(store, column, share):
        return Best(column, "", "", Score(won if (store, column) == changed else share, 0, 0.01), 1, 0.01, rows)

    stores = {
        s: {c: best(s, c, of[i]) for c, of in MEASURED[rows].items()} for i, s in enumerate((DETERMINISTIC, ORDER))
    }
    return stores | {OURS: {c: best(OURS, c, 0.01) for c in MEASURED[rows]}}


@pytest.mark.parametrize(("rows", "store", "column"), FLOORS)
def test_an_attacker_who_wins_too_little_on_a_weaker_store_is_no_measure(rows, store, column):
    assert not _judged(found(rows), 1, rows).broken
    floor = WORKS[rows][column][store == ORDER]
    (said,) = set(_judged(found(rows, (store, column), floor - 1e-9), 1, rows).broken)
    assert f"of {column} from a {store} store" in said
    assert not _judged(found(rows, (store, column), floor - 1e-9), 1, 4_999).broken  # of few, chance says as much
