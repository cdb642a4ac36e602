"""What a budget comes to, in people: for a thief, for a thief with keepers on his side, for honest use.

With f corrupt keepers that never count, the n - f honest ones must give t - f of the answers of each opening,
and each gives at most b: floor((n - f) * b / (t - f)) people, most at f = t - 1.

Pure: no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass

from anwen.model import Counter, Policy

ALL_ASKED = frozenset({Counter.SEARCH, Counter.WRITE, Counter.DELETE})
"""Counters of requests that ask every live keeper: honest use spends all budgets at once."""


@dataclass(frozen=True, slots=True)
class Effect:
    """How far one promised number B reaches, in the unit of its counter."""

    promised: int
    keeper: int  # b, what one keeper lets through
    thief: int  # somebody with the login
    thief_with_keepers: int  # and with threshold - 1 keepers that never count
    honest: int  # all keepers up
    zone_down: int  # honest use with one zone down


def effect(policy: Policy, counter: Counter, promised: int) -> Effect:
    """Return what `promised` comes to under the policy's number of keepers and threshold."""
    keepers, threshold = len(policy.keepers), policy.threshold
    b = promised // policy.answers_to_defeat

    def reach(up: int) -> int:
        return up * b // threshold if up >= threshold else 0

    honest, zone_down = (b, b) if counter in ALL_ASKED else (reach(keepers), reach(keepers - 1))
    if keepers - 1 < threshold:
        zone_down = 0
    return Effect(promised, b, reach(keepers), policy.answers_to_defeat * b, honest, zone_down)
