"""What stores that protect less would show of the same people: attacks that win nothing here do not work.

Deterministic tags are what a blind index of one HMAC for each value shows, order-preserving codes what databases that
compare encrypted values show, and bodies padded by Padmé alone what Anwen's padding would show without its minimum.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from anwen.client.rows import bodies_of, canonical_values
from anwen.crypto.padding import OVERHEAD_BYTES, padded_length
from anwen.model import INDEX_CLASS, Collection
from anwen.rehearse.breach.observables import Int64, Observables, lengths

SEX_ALONE, IDENTITY = "length of a class with sex alone", "length of an identity with sex as a word"
_WORDS = {"F": "female", "M": "male"}
_TOKEN_BYTES = 36
_TAG_BYTES = 7  # of a tag, as a number; equal tags of different values would be a billion people's matter

Padding = Callable[[int], int]
"""From a body's size to its padded size, in bytes."""


def deterministic(values: Mapping[str, Int64], names: Mapping[str, Sequence[str]], key: bytes) -> Observables:
    """Return a tag for each value of each column: HMAC-SHA-256 under a key of the column."""
    found = {}
    for column, codes in values.items():
        column_key = hmac.digest(key, column.encode(), hashlib.sha256)
        different, place = np.unique(codes, return_inverse=True)
        tags = [hmac.digest(column_key, names[column][v].encode(), hashlib.sha256) for v in different.tolist()]
        found[f"tag of {column}"] = np.array([int.from_bytes(t[:_TAG_BYTES]) for t in tags], np.int64)[place]
    return found


def order_preserving(values: Mapping[str, Int64]) -> Observables:
    """Return the rank of each value among those of its column."""
    return {f"code of {column}": np.unique(v, return_inverse=True)[1].astype(np.int64) for column, v in values.items()}


def padme(size_bytes: int) -> int:
    """Return a body's size padded by Padmé alone, the 0x80 in it, with no least size."""
    size = size_bytes + 1
    exponent = size.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (size + mask) & ~mask


def body_sizes(rows: Iterable[Mapping[str, object]], collection: Collection) -> dict[int, Int64]:
    """Return the sizes in bytes of the bodies that the client makes of rows, by class id. About 0.2 ms a row."""
    names = [c.name for c in collection.classes]
    sizes: dict[int, list[int]] = {}
    for row in rows:
        values = canonical_values(collection, row, names)
        tokens = sum(f.index is not None for f in collection.fields)  # an empty field has an entry, too
        bodies = {c: len(body) for c, body in bodies_of(collection, values, names, ()).items()}
        for class_id, size in (bodies | {INDEX_CLASS: tokens * _TOKEN_BYTES}).items():
            sizes.setdefault(class_id, []).append(size)
    return {class_id: np.array(of_class, np.int64) for class_id, of_class in sorted(sizes.items())}


def envelope_lengths(sizes: Mapping[int, Int64], padding: Padding = padded_length) -> Observables:
    """Return the lengths that envelopes of such bodies have, by class and together, as a store shows them."""
    return lengths({class_id: OVERHEAD_BYTES + _padded(of_class, padding) for class_id, of_class in sizes.items()})


def sex_lengths(
    rows: Iterable[Mapping[str, str]], names: Iterable[str], padding: Padding = padded_length
) -> Observables:
    """Return the padded lengths of two bodies that tell sex: of a class with nothing else, and a JSON identity.

    `names`: of each row, as the identity has it.
    """
    sizes: dict[str, list[int]] = {SEX_ALONE: [], IDENTITY: []}
    for row, name in zip(rows, names, strict=True):
        word = _WORDS[row["sex"]]
        whole = {"id": row["id_number"], "name": name, "birth_date": row["birth_date"], "sex": word}
        for of_body, body in zip(sizes.values(), ({"sex": word}, whole), strict=True):
            of_body.append(len(json.dumps(body, ensure_ascii=False).encode()))
    return {name: _padded(np.array(of_body, np.int64), padding) for name, of_body in sizes.items()}


def _padded(sizes: Int64, padding: Padding) -> Int64:
    different, place = np.unique(sizes, return_inverse=True)
    return np.array([padding(size) for size in different.tolist()], np.int64)[place]
