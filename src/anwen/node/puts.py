"""What a put must look like before a node stores it: sealed bytes in their form, and in their place.

Pure: a decoded message in, rows out.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from anwen.errors import MalformedError, TooLargeError
from anwen.formats import wire
from anwen.formats.envelope import check_form, commitment, join_cells, join_wraps, row_tag
from anwen.model import INDEX_CLASS, RENDITION, Collection, Policy
from anwen.node.answers import split
from anwen.store.base import Posting, PutRow

MAX_ROWS = 16_384
MAX_LABELS = 64
"""Candidate labels of one posting."""


def rows_of(policy: Policy, message: wire.Message) -> list[PutRow]:
    """Return the rows of a `node_put`.

    Raises:
        MalformedError: tables that do not fit each other, bytes that are no envelope, cells that their row's tag does
            not name, classes that are not written together, postings of what is not indexed.
        TooLargeError: more than MAX_ROWS rows, or more than MAX_LABELS labels of a posting.
    """
    records = message.tables["records"]
    rows = wire.rows_in(records)
    if rows > MAX_ROWS:
        raise TooLargeError(f"{rows} rows, at most {MAX_ROWS}")
    bounds = _check_cells(message, rows)
    postings = _postings(message, rows)
    ids = {name: split(records[name]) for name in ("subject", "record", "tag")}
    numbers = {name: records[name].tolist() for name in ("collection", "version", "collected_s", "expires_s")}
    cells, wraps = message.tables["cells"], split(message.tables["wraps"]["wrap"])
    classes, commitments = cells["class"].tolist(), split(cells["commitment"])
    base, verified = message.opaque("nonce_base"), message.number("verified") == 1
    envelopes = message.blobs["envelopes"]
    result, good = [], set[tuple[object, ...]]()
    for i in range(rows):
        at = slice(bounds[i], bounds[i + 1])
        class_ids, tag = tuple(classes[at]), ids["tag"][i]
        collection = policy.collection_by_id.get(numbers["collection"][i])
        if collection is None:
            raise MalformedError(f"row {i}: no collection {numbers['collection'][i]}")
        collected_s, expires_s, version = numbers["collected_s"][i], numbers["expires_s"][i], numbers["version"][i]
        form = (collection.id, min(version, 2), class_ids, tuple([(p.class_id, p.unique) for p in postings[i]]))
        if form not in good:  # nearly all rows of a put are of one form
            _check_row(i, collection, version, class_ids, form[3])
            good.add(form)
        if row_tag(class_ids, commitments[at]) != tag:
            raise MalformedError(f"row {i}: its tag names other cells")
        if max(collected_s, expires_s) >= wire.MOST_SECONDS:
            raise MalformedError(f"row {i}: dates are seconds below 2^40")
        sealed = join_cells(class_ids, envelopes[at])
        wrapped = join_wraps(base, class_ids, range(at.start, at.stop), wraps[at])
        row = PutRow(
            collection.id, ids["subject"][i], ids["record"][i], version, tag, collected_s, expires_s, class_ids, sealed,
            wrapped, verified, postings[i],
        )  # fmt: skip
        result.append(row)
    return result


def _check_cells(message: wire.Message, rows: int) -> list[int]:
    """Return where each row's cells begin, and the end; all envelopes are in form and are those that cells name."""
    cells, envelopes = message.tables["cells"], message.blobs["envelopes"]
    if message.number("verified") > 1:
        raise MalformedError("verified is 0 or 1")
    if not wire.rows_in(cells) == wire.rows_in(message.tables["wraps"]) == len(envelopes):
        raise MalformedError("expected one wrap and one envelope for each cell")
    for envelope in {(len(e), e[:1]): e for e in envelopes}.values():  # of each form one: a form is size and suite
        check_form(envelope)
    if b"".join(map(commitment, envelopes)) != cells["commitment"].tobytes():
        raise MalformedError("cells name other envelopes")
    return _bounds(cells["record_row"], rows)


def _bounds(record_row: wire.Array, rows: int) -> list[int]:
    numbers = record_row.astype(np.int64)
    if len(numbers) and (bool((np.diff(numbers) < 0).any()) or numbers[-1] >= rows):
        raise MalformedError("expected cells and postings in the order of their rows")
    bounds: list[int] = np.searchsorted(numbers, np.arange(rows + 1)).tolist()
    return bounds


def _check_row(
    i: int, collection: Collection, version: int, class_ids: tuple[int, ...], postings: tuple[tuple[int, bool], ...]
) -> None:
    """Check that what belongs together is written together, and that postings are of fields that are indexed."""
    if version == 1 and class_ids != collection.class_ids:
        raise MalformedError(f"row {i}: a new {collection.name} has classes {list(collection.class_ids)}")
    full = [c for c in class_ids if c < INDEX_CLASS]
    together = sorted([*full, INDEX_CLASS, *(c | RENDITION for c in full)])
    if version < 1 or not full or list(class_ids) != together or not set(class_ids) <= set(collection.class_ids):
        raise MalformedError(f"row {i}: expected classes of {collection.name} with their renditions and _index")
    left = indexed(collection)
    for class_id, unique in postings:
        left[class_id, unique] -= 1
        if left[class_id, unique] < 0 or class_id not in class_ids:
            raise MalformedError(f"row {i}: more postings of class {class_id} than its fields have indexes")


def indexed(collection: Collection) -> Counter[tuple[int, bool]]:
    """Return how many fields of each class have a unique, and how many another index."""
    return Counter(
        (collection.class_named[f.class_name].id, f.index == "unique") for f in collection.fields if f.index is not None
    )


def _postings(message: wire.Message, rows: int) -> list[tuple[Posting, ...]]:
    """Return each row's postings."""
    table = message.tables["postings"]
    labels = split(message.tables["labels"]["label"])
    counts = table["labels"].astype(np.int64)
    if len(counts) and (counts.min() < 1 or counts.sum() != len(labels)):
        raise MalformedError("expected at least one label for each posting, and no others")
    if len(counts) and counts.max() > MAX_LABELS:
        raise TooLargeError(f"{counts.max()} labels of a posting, at most {MAX_LABELS}")
    if not len(counts) and labels:
        raise MalformedError("labels of no posting")
    if bool((table["unique"].astype(np.int64) > 1).any()):
        raise MalformedError("unique is 0 or 1")
    ends = np.cumsum(counts).tolist()
    columns = zip(
        table["class"].tolist(), table["unique"].tolist(), [0, *ends], ends, split(table["mac"]), strict=False
    )
    made = [Posting(c, unique == 1, tuple(labels[start:end]), mac) for c, unique, start, end, mac in columns]
    bounds = _bounds(table["record_row"], rows)
    return [tuple(made[bounds[i] : bounds[i + 1]]) for i in range(rows)]
