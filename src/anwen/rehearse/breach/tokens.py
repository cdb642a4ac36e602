"""What one keeper sees of an import: tokens, equal where values are, sorted in each put; and what comes of them.

Nothing bounds this: equality of what is searched and written is what a keeper sees. It is printed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from anwen.crypto import blind_index
from anwen.formats import normalise, wire
from anwen.rehearse.breach import population, shares
from anwen.rehearse.breach.fresh import Fresh
from anwen.rehearse.breach.inference import assign_frequencies, rank_match, score
from anwen.rehearse.breach.scene import STOLEN, Scene
from anwen.rehearse.breach.tap import Passed
from anwen.rehearse.breach.theft import Theft

COLUMNS = {"name": "given_name"}
"""Indexed fields whose values public statistics know, and the column of the statistics."""

Seen = dict[tuple[int, int], Counter[bytes]]
"""By collection and field: in how many puts each token came."""


def seen(passed: Iterable[Passed]) -> Seen:
    """Return what a keeper keeps of the puts that passed."""
    found: Seen = {}
    for body in {p.body for p in passed if p.op == "put"}:  # a retry is the same put
        table = wire.decode(body, "put").tables["tokens"]
        fields = zip(table["collection"].tolist(), table["field"].tolist(), table["token"], strict=True)
        for collection, field_id, token in fields:
            found.setdefault((collection, field_id), Counter())[token.tobytes()] += 1
    return found


def steal(scene: Scene, people: Fresh, tokens: Seen) -> Theft:
    """Return what statistics guess of tokens, and what a dictionary gives to whoever has a client's key as well."""
    theft = Theft(
        "tokens", f"what keeper {STOLEN} saw of the import: tokens, in how many puts each came", 0,
        "none: equality of tokens is what a keeper sees; printed", "rehearse/breach/tokens.py",
    )  # fmt: skip
    schema = scene.policy.collections[population.COLLECTION]
    folders = [scene.path("keeper", k) for k in scene.policy.keepers]
    for name, column in COLUMNS.items():
        field = schema.field_named[name]
        (key,) = shares.token_keys(scene.policy, folders, [(schema.id, field.id)])
        truth, weights = people.people.values[column][: people.count], people.world.weights[column]
        token_of = {}  # the dictionary: of every value that occurs, as a client with the key makes it
        for known, value in zip(scene.known, truth.tolist(), strict=False):
            if value not in token_of:
                text = normalise.normalise(field, known.values[name])
                token_of[value] = blind_index.token(key, normalise.index_bytes(field, text))
        counts = tokens.get((schema.id, field.id), Counter())
        place = {token: i for i, token in enumerate(counts)}
        observed = np.repeat(np.arange(len(counts)), [*counts.values()])
        rows = np.array([place.get(token_of[value], len(counts)) for value in truth.tolist()])  # the last: not seen
        won = 0.0
        for attack in (rank_match, assign_frequencies):
            guessed = np.full(len(counts) + 1, -1)
            guessed[observed] = attack(observed, weights)
            won = max(won, score(guessed[rows], truth, weights).recovered)
        guess = score(np.full(len(truth), -1), truth, weights).guess
        named = len(counts.keys() & set(token_of.values()))
        theft.must(0 < named == len(counts), f"{name}: a client's token key names {named} of {len(counts)} tokens")
        theft.note(
            f"{name}: {len(counts):,} tokens in {max(counts.values(), default=0)} puts or fewer; by statistics "
            f"{won:.2%} of rows, if one knew whose each token is ({guess:.2%} by guessing); a dictionary made with a "
            f"client's token key names {named:,} of them",
            **{f"{name}: tokens": len(counts), f"{name}: rows by statistics": round(won, 4),
               f"{name}: rows by guessing": round(guess, 4), f"{name}: tokens by dictionary": named},
        )  # fmt: skip
    return theft
