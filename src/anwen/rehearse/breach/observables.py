"""All that a stolen SQLite store shows of each record, as one integer code a record: what attacks take for a tag.

An observable is an int64 array, shape (records,); its codes are ordered as the bytes are (so a code is also a rank).
Every column is one, whole and by its first bytes, then lengths, counts, dates, neighbours, who was written
together, and, with the raw file, places in it. If labels or envelopes had anything of a value in them, one of these
would show it.

Reads files; opens nothing.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anwen.crypto.padding import HEADER_BYTES, IV_BYTES, OVERHEAD_BYTES
from anwen.errors import MalformedError
from anwen.formats.envelope import split_cells, split_wraps
from anwen.rehearse.breach.pages import Pages
from anwen.rehearse.breach.population import number_within

PREFIX_BYTES = (1, 4, 8)
BATCH_BYTES = 6
"""First bytes of a record id: the same for all rows of one put."""

RAW = "file: "
"""Begins the names of observables that only the raw file shows."""

LENGTHS = "lengths of all classes"
_LABEL_BYTES, _CLASS_BYTES = 16, 2
_CELL_HEAD_BYTES = 6  # class and length
_NEIGHBOURS = 2**-10  # of the mean distance of two labels; random ones lie as near once in a thousand
_LENGTH_BITS = 12

Int64 = npt.NDArray[np.int64]
Observables = dict[str, Int64]


def of_store(path: Path, records: Sequence[bytes], *, raw: bool = True) -> Observables:
    """Return what a store file shows of some of its records; observables that equal another are left out.

    Args:
        path: of a store that no process has open.
        records: ids, all of them in the store; the order of all arrays.
        raw: places in the file too.

    Raises:
        MalformedError: not a store, or a record is not in it.
    """
    at = {record: i for i, record in enumerate(records)}
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        found = _rows(db, at) | _wraps(db, at) | _postings(db, at)
        if raw:
            found |= _places(db, path, at)
    return different(found)


def lengths(by_class: Mapping[int, Int64]) -> Observables:
    """Return the lengths of each record's envelopes by class id, and of all together, named as `of_store` does."""
    found = {f"length of class {class_id}": sizes for class_id, sizes in by_class.items()}
    found["length of sealed"] = np.sum([sizes + _CELL_HEAD_BYTES for sizes in by_class.values()], axis=0)
    joined = np.zeros(len(next(iter(by_class.values()))), np.int64)
    for _, sizes in sorted(by_class.items()):
        joined = (joined << _LENGTH_BITS) + sizes
    return found | {LENGTHS: joined}


def different(observables: Mapping[str, Int64]) -> Observables:
    """Return observables without those that tell records apart, and order them, exactly as an earlier one does."""
    kept: dict[bytes, str] = {}
    for name, codes in observables.items():
        kept.setdefault(np.unique(codes, return_inverse=True)[1].tobytes(), name)
    return {name: observables[name] for name in kept.values()}


def batches(records: Sequence[bytes]) -> Int64:
    """Return for each record the number of the put that it came with, as its id shows."""
    return _codes([record[:BATCH_BYTES] for record in records])


# --- tables ----------------------------------------------------------------------------------------------------------


def _rows(db: sqlite3.Connection, at: Mapping[bytes, int]) -> Observables:
    versions = np.zeros(len(at), np.int64)
    newest: list[tuple[object, ...] | None] = [None] * len(at)
    columns = "record, version, tag, collection, subject, collected_s, expires_s, verified, labels, sealed"
    for row in db.execute(f"SELECT {columns} FROM row ORDER BY record, version"):  # noqa: S608 - our own names
        if row[0] in at:
            newest[at[row[0]]], versions[at[row[0]]] = row, versions[at[row[0]]] + 1
    handles: dict[bytes, int] = dict(db.execute("SELECT subject, count(*) FROM subject GROUP BY subject").fetchall())
    if None in newest:
        raise MalformedError(f"{newest.count(None)} records are not in the store")
    record, version, tag, collection, subject, collected, expires, verified, labels, sealed = zip(
        *(row for row in newest if row), strict=True
    )
    numbers: dict[str, Sequence[int]] = {
        "version": version,
        "collection": collection,
        "verified": verified,
        "date collected": collected,
    }
    numbers |= {"date expires": expires, "versions": versions.tolist(), "length of labels": [len(b) for b in labels]}
    numbers["records of the handle"] = [handles[s] for s in subject]
    found = {name: np.array(values, np.int64) for name, values in numbers.items()}
    found["rows of the batch"] = _group_sizes(_codes([r[:BATCH_BYTES] for r in record]))
    for name, values in (("record", record), ("subject", subject), ("tag", tag)):
        found |= _bytes(name, values)
    found["batch"] = _codes([r[:BATCH_BYTES] for r in record])
    return found | _labels(labels) | _envelopes(sealed)


def _labels(blobs: Sequence[bytes]) -> Observables:
    """Return labels in the order in which the row names them."""
    step = _CLASS_BYTES + _LABEL_BYTES
    most = max(len(blob) for blob in blobs) // step
    found: Observables = {}
    for k in range(most):
        found |= _bytes(f"label {k}", [blob[k * step + _CLASS_BYTES : (k + 1) * step] for blob in blobs])
    return found


def _envelopes(blobs: Sequence[bytes]) -> Observables:
    cells = [split_cells(blob) for blob in blobs]
    classes = sorted({class_id for row in cells for class_id in row})
    found: Observables = {}
    for c in classes:
        of_class = [row.get(c, b"") for row in cells]
        found |= _bytes(f"class {c}: iv", [e[1 : 1 + IV_BYTES] for e in of_class])
        found |= _bytes(f"class {c}: commitment", [e[1 + IV_BYTES : HEADER_BYTES] for e in of_class])
        found |= _bytes(f"class {c}: ciphertext", [e[HEADER_BYTES:] for e in of_class])
        found |= _bytes(f"class {c}: tag", [e[HEADER_BYTES - OVERHEAD_BYTES :] for e in of_class])
    by_class = {c: np.array([len(row.get(c, b"")) for row in cells], np.int64) for c in classes}
    return found | lengths(by_class)


def _wraps(db: sqlite3.Connection, at: Mapping[bytes, int]) -> Observables:
    """Return what the newest epoch's table shows: nonces, who shared a base of them, and wraps."""
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE name GLOB 'wrap_[0-9]*'")]
    newest = max(tables, key=lambda name: int(name[5:]))
    blobs = [b""] * len(at)
    for record, wraps in db.execute(f"SELECT record, wraps FROM {newest} ORDER BY record, version"):  # noqa: S608
        if record in at:
            blobs[at[record]] = wraps
    split = [split_wraps(blob) for blob in blobs]
    base = _codes([next(iter(wraps.values()))[0][:20] for wraps in split])
    # a row that found all slots of its value taken comes again, in a smaller put: a sign of common values
    found = {"nonce base": base, "rows of the nonce base": _group_sizes(base)}
    found["length of wraps"] = np.array([len(blob) for blob in blobs], np.int64)
    for c in sorted({class_id for wraps in split for class_id in wraps}):
        nonce_wrap = [wraps.get(c, (b"", b"")) for wraps in split]
        found[f"class {c}: number in the put"] = np.array([int.from_bytes(n[20:]) for n, _ in nonce_wrap], np.int64)
        found |= _bytes(f"class {c}: wrap", [wrap for _, wrap in nonce_wrap])
    return found


def _postings(db: sqlite3.Connection, at: Mapping[bytes, int]) -> Observables:
    """Return postings by record, in the order of labels, and who lies beside whom in that order."""
    rows = [r for r in db.execute("SELECT label, record, mac FROM posting ORDER BY label") if r[1] in at]
    owner = np.array([at[record] for _, record, _ in rows], np.int64)
    found: Observables = {"postings": np.bincount(owner, minlength=len(at))}
    number = number_within(owner)
    place = np.array([int.from_bytes(label[:8]) / 2**64 for label, _, _ in rows])
    cluster = np.cumsum(np.append(True, np.diff(place) > _NEIGHBOURS / len(rows)))
    for k in range(int(found["postings"].max())):
        held = np.flatnonzero(number == k)
        for name, values in (("label", 0), ("mac", 2)):
            column = [b""] * len(at)
            for i in held.tolist():
                column[int(owner[i])] = rows[i][values]
            found |= _bytes(f"posting {k}: {name}", column)
        for name, shown in (
            ("next label's record", np.append(owner[1:], owner[:1])),
            ("labels close together", cluster),
            ("labels close together, how many", _group_sizes(cluster)),
        ):
            codes = np.full(len(at), -1, np.int64)
            codes[owner[held]] = shown[held]
            found[f"posting {k}: {name}"] = codes
    return found


def _places(db: sqlite3.Connection, path: Path, at: Mapping[bytes, int]) -> Observables:
    """Return each record's page, and its place in the file, in every table that has its id."""
    pages = Pages(path)
    found: Observables = {}
    for table, root in db.execute("SELECT name, rootpage FROM sqlite_schema WHERE type = 'table'").fetchall():
        column = {"posting": 1, "subject": 2}.get(table, 0)
        page, offset, size = (np.full(len(at), -1, np.int64) for _ in range(3))
        for cell in pages.cells(root):
            i = at.get(cell.columns[column])
            if i is not None:  # of several, the one that lies first
                if page[i] < 0 or cell.offset < offset[i]:
                    page[i], offset[i] = cell.page, cell.offset
                size[i] += cell.size_bytes
        found |= {f"{RAW}page of {table}": page, f"{RAW}place of {table}": offset, f"{RAW}bytes of {table}": size}
    return found


# --- codes -----------------------------------------------------------------------------------------------------------


def _codes(values: Iterable[bytes]) -> Int64:
    """Return each value's place among the different ones, in the order of bytes."""
    # numpy drops zeros at the end of a string, hence the last byte
    return np.unique(np.array([v + b"\x01" for v in values]), return_inverse=True)[1].astype(np.int64)


def _bytes(name: str, values: Sequence[bytes]) -> Observables:
    """Return the codes of whole values and of their first bytes."""
    width = max(map(len, values))
    found = {f"{name}, first {n}": _codes([v[:n] for v in values]) for n in PREFIX_BYTES if n < width}
    return found | {name: _codes(values)}


def _group_sizes(codes: Int64) -> Int64:
    _, place, counts = np.unique(codes, return_inverse=True, return_counts=True)
    return counts[place].astype(np.int64)
