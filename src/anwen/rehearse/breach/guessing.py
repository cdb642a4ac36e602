"""A stolen store and public statistics: every attack on everything that it shows, beside stores that show more."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from anwen.rehearse.breach import observables, population, weaker
from anwen.rehearse.breach.columns import Best, attack_everything, knowledge_of
from anwen.rehearse.breach.fresh import Fresh
from anwen.rehearse.breach.scene import Scene, copied_store
from anwen.rehearse.breach.theft import Theft

DETERMINISTIC, ORDER, OURS = "deterministic", "order-preserving", "Anwen"
WORKS = {
    5_000: {"sex": (0.99, 0.99), "given_name": (0.08, 0.15), "surname": (0.02, 0.03)},
    100_000: {"given_name": (0.18, 0.3), "surname": (0.03, 0.22), "birth_year": (0.06, 0.06)},
}
"""By number of rows, from which on: the least share of rows that a working attacker recovers of each column, from
deterministic tags and from order-preserving codes; whoever does not is no measure of anything. Two thirds of what he
won, more or less. Of few rows a year of birth is guessed as well: from 1.7 to 2.8 % by chance."""


def steal(scene: Scene, people: Fresh) -> tuple[Theft, list[dict[str, object]]]:
    """Return what public statistics give of a stolen store, and a row for each column and store.

    Up to two minutes at 100,000 people. Raises UnavailableError: the statistics cannot be fetched.
    """
    world, known = people.world, scene.known[: people.count]
    records = [bytes.fromhex(one.record) for one in known]
    with copied_store(scene) as path:
        shown = observables.of_store(path, records)
    truth = {name: codes[: len(known)] for name, codes in people.people.values.items()}
    knowledge = knowledge_of(world, scene.policy.collections[population.COLLECTION], seed=people.seed)
    weaker_stores = {
        DETERMINISTIC: weaker.deterministic(truth, world.values, secrets.token_bytes(32)),
        ORDER: weaker.order_preserving(truth),
    }
    found = {store: attack_everything(shows, truth, knowledge) for store, shows in weaker_stores.items()}
    found[OURS] = attack_everything(shown, truth, knowledge, observables.batches(records))
    found = {
        store: {c: b for c, b in bests.items() if b.most < 1} for store, bests in found.items()
    }  # one value: no secret
    return _judged(found, len(shown), len(known)), _rows(found)


def _judged(found: Mapping[str, Mapping[str, Best]], observed: int, rows: int) -> Theft:
    theft = Theft(
        "inference", "a dump, and public statistics of names and births", 0, "no column better than by guessing",
        "rehearse/breach/guessing.py",
    )  # fmt: skip
    ours = found[OURS]
    above = max(100 * (b.score.recovered - b.score.guess) for b in ours.values())
    theft.note(
        f"{sum(b.trials for b in ours.values()):,} trials: frequency, sorting, cumulative, cross-column and length"
        f" attacks on {observed} observables, for {len(ours)} columns",
        observables=observed, columns=len(ours), most_points_above_a_guess=round(above, 2),
    )  # fmt: skip
    for best in (b for b in ours.values() if not b.within):
        theft.must(
            False,
            f"{best.column}: {best.score.recovered:.2%} of rows by {best.attack} on {best.observable}, at most"
            f" {best.limit:.2%} (guess {best.score.guess:.2%})",
        )
    for column, floors in ((c, f) for least, of in WORKS.items() if rows >= least for c, f in of.items()):
        for store, floor in zip((DETERMINISTIC, ORDER), floors, strict=True):
            won = found[store][column].score.recovered
            theft.must(won >= floor, f"the attacker is no measure: {won:.1%} of {column} from a {store} store")
    theft.close()
    return theft


def _rows(found: Mapping[str, Mapping[str, Best]]) -> list[dict[str, object]]:
    columns = dict.fromkeys(column for bests in found.values() for column in bests)
    return [
        {
            "column": column, "store": store, "recovered": round(best.score.recovered, 5),
            "guess": round(best.score.guess, 5), "limit": round(best.limit, 5),
            "values": round(best.score.distinct, 5), "by": f"{best.attack} on {best.observable}", "trials": best.trials,
        }
        for column in columns
        for store, bests in found.items()
        if (best := bests.get(column))
    ]  # fmt: skip
