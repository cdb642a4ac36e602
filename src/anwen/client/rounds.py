"""What is believed of keepers and nodes of which some may lie: the current epoch, token keys, that nothing is there.

A component that two keepers told is checked. A merely late keeper must not leave a liar unchecked, so what nobody
checked and nothing else proves is asked of the others as well; one that is down leaves no choice.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import numpy as np

from anwen.client.quorum import Report, Round, Rows
from anwen.client.session import FIRST_PAUSE_S, LAST_PAUSE_S, Session
from anwen.errors import AnwenError, ConflictError, IntegrityError, QuorumError
from anwen.formats import wire

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")
Pair = tuple[int, int]
MOST_KEYS = 64
"""Of contradicting answers about one key, so many combinations are tried: with 2 of 3 there are two."""


async def current(session: Session, purpose: str) -> Pair:
    """Return epoch and generation, as t keepers state them."""
    if session.numbers is None:
        session.numbers = (await _stated(session, purpose))[session.policy.threshold - 1]
    return session.numbers


async def _stated(session: Session, purpose: str) -> list[Pair]:
    """Return the epochs and generations that keepers state, highest first.

    The t-th of them is believed, which t keepers state at least: fewer than t liars cannot raise it, nor lower it where
    t honest keepers answer. Contradictions are kept, and nobody is accused: an honest keeper may be ahead.
    """
    body = wire.encode("state", session.random(wire.SALT_BYTES))
    answers = await session.ask_all("state", purpose, body)
    signed = {k: a for k, a in answers.items() if session.is_signed(k, a.receipt)}
    if len(signed) < session.policy.threshold:
        raise session.why({})
    stated = {k: (a.header.epoch, a.header.generation) for k, a in signed.items()}
    if len(set(stated.values())) > 1:
        said = ", ".join(f"{k} {epoch} and {generation}" for k, (epoch, generation) in sorted(stated.items()))
        evidence = tuple(a.receipt for a in signed.values())
        session.report(Report((), f"keepers state different epochs and generations: {said}", evidence))
    return sorted(stated.values(), reverse=True)


async def under_current(session: Session, purpose: str, attempt: Callable[[int, int], Awaitable[T]]) -> T:
    """Return what `attempt` returns under the current epoch and generation.

    When keepers say that these are others, they are asked anew, and of what they state another pair is tried, until
    the deadline: after a rotation, or where a liar and one that is down leave too few to tell.
    """
    until_s, pause_s, tried = time.monotonic() + session.timing.deadline_s, 0.0, 0
    while True:
        pair = session.numbers
        if pair is None:
            stated = await _stated(session, purpose)
            pair, tried = stated[(session.policy.threshold - 1 - tried) % len(stated)], tried + 1
        try:
            result = await attempt(*pair)
        except ConflictError as error:
            session.numbers = None
            if time.monotonic() + pause_s >= until_s:
                raise QuorumError("keepers do not agree about epoch and generation") from error
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s or FIRST_PAUSE_S, LAST_PAUSE_S)
        else:
            session.numbers = pair
            return result


async def token_keys(session: Session, purpose: str, fields: Sequence[Pair]) -> dict[Pair, list[bytes]]:
    """Return the token keys of (collection, field) pairs: several of one only where keepers contradict each other.

    A key is kept for the session, in this process alone, once two keepers told each component: nothing else checks it,
    and a liar's would hide people.
    """
    keys = {pair: [session.prehash[pair]] for pair in fields if pair in session.prehash}
    missing = sorted(set(fields) - keys.keys())
    if not missing:
        return keys
    pairs = np.array(missing)

    def body_for(rows: Rows) -> bytes:
        table = {"collection": pairs[rows, 0], "field": pairs[rows, 1]}
        return wire.encode("prehash", session.random(wire.SALT_BYTES), tables={"fields": table})

    answers = await session.ask_all("prehash", purpose, body_for(np.arange(len(missing))))
    *_, doubled, found = session.combine(answers, len(missing))
    await session.ask_rest("prehash", purpose, found, np.flatnonzero(~doubled), body_for)
    session.report_disputes(found)
    values, contradicted, doubled = found.values()
    for i, pair in enumerate(missing):
        keys[pair] = candidates(found, i) if contradicted[i] else [values[i].tobytes()]
        if doubled[i] and not contradicted[i]:
            session.prehash[pair] = values[i].tobytes()
    return keys


async def prehash_keys(session: Session, purpose: str, fields: Sequence[Pair]) -> dict[Pair, bytes]:
    """Return the one token key of each (collection, field) pair.

    Raises: IntegrityError: keepers contradict each other about one, and what is written under a wrong one is not found.
    """
    keys = await token_keys(session, purpose, fields)
    if any(len(several) != 1 for several in keys.values()):
        raise IntegrityError("keepers contradict each other about a token key; see the session's reports")
    return {pair: key for pair, (key,) in keys.items()}


def candidates(found: Round, row: int) -> list[bytes]:
    """Return the values that one row may have where keepers contradict each other, likelier ones first."""
    return list(dict.fromkeys(value for value, _ in itertools.islice(found.candidates(row), MOST_KEYS)))


async def second_look(
    session: Session, first: str, look: Callable[[Sequence[str]], Awaitable[dict[K, V]]], *, proven: bool
) -> dict[K, V]:
    """Return what other nodes show of that which node `first` did not.

    Nothing where there is no other node, or none that answers in time. What was written in between is no lie, so the
    first is asked again before it is reported.

    Args:
        look: asks the nodes given, in their order.
        proven: whether what they show proves itself; if not, the other may have made it up, and nobody is accused.
    """
    others = [n for n in session.others(first) if not session.health.silent(n, time.monotonic())]
    if not others:
        return {}
    shown: dict[K, V] = {}
    try:
        async with asyncio.timeout(session.settling_s):
            shown = await look(others)
            hidden = shown.keys() - (await look([first])).keys() if shown else ()
    except (AnwenError, TimeoutError):
        return shown
    if hidden:
        reason = f"{first} does not show what another node shows"
        session.report(Report((first,) if proven else (), reason, ()))
        session.health.failed(first, time.monotonic())
    return shown
