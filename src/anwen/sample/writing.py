"""Sample files: rows of one kind, in CSV, NDJSON or Parquet, the same bytes for the same seed and count."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from itertools import chain
from json.encoder import encode_basestring
from pathlib import Path

from anwen.errors import RequestError
from anwen.files import FileFormat, new_file, writing
from anwen.sample.people import Columns, chunks
from anwen.sample.records import TABLES

KINDS = tuple(TABLES)
"""What can be made: a ready vault file's name and one of its collections."""

_JSON = frozenset({"items", "values"})


def make(kind: str, count: int, seed: int, *, people: int | None = None, start: int = 0) -> Iterator[Columns]:
    """Yield `count` rows of `kind` from row `start` on, as columns in chunks; strings, JSON text, and None.

    Args:
        people: how many rows the table has that this one refers to, made with the same seed. By default as many as go
            with `count`: one person for two incidents or three orders; for readings the devices, one for twenty.

    Raises:
        RequestError: another kind than those of `KINDS`, or more people than there are.
    """
    if kind not in TABLES:
        raise RequestError(f"expected one of {', '.join(KINDS)}, got {kind}")
    rows_of, per_person = TABLES[kind]
    people = people or max(1, round(count / per_person))
    for rows in chunks(count, start):
        yield rows_of(seed, people, rows)


def _ndjson(columns: Columns) -> str:
    encoded = [
        ["null" if value is None else value if name in _JSON else encode_basestring(value) for value in column]
        for name, column in columns.items()
    ]
    line = "{" + ", ".join(f'"{name}": %s' for name in columns) + "}\n"
    return "".join([line % row for row in zip(*encoded, strict=True)])


def write_sample(
    kind: str, count: int, seed: int, path: Path | str, file_format: str = "ndjson", *, people: int | None = None
) -> None:
    """Write `count` rows (1 or more) of `kind` to a new file; it appears only when it is complete.

    CSV is plain, without the ' that exports set before what a spreadsheet may run.

    Args:
        file_format: "csv", "ndjson" or "parquet".
        people: see `make`.

    Raises:
        ConflictError: `path` exists.
        RequestError: an unknown kind or format, no rows, or too many.
    """
    if file_format not in tuple(FileFormat):
        raise RequestError(f"expected one of {', '.join(FileFormat)}, got {file_format}")
    if count < 1:
        raise RequestError(f"expected at least one row, got {count}")
    tables = make(kind, count, seed, people=people)
    with new_file(Path(path)) as file:
        first = next(tables)
        if file_format == FileFormat.PARQUET:
            with writing(file, dict.fromkeys(first, "text"), FileFormat.PARQUET) as writer:
                for columns in chain([first], tables):
                    writer.write(dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
        elif file_format == FileFormat.CSV:
            cells = csv.writer(codecs.getwriter("utf-8")(file), lineterminator="\n")
            cells.writerow(first)
            for columns in chain([first], tables):
                cells.writerows(zip(*columns.values(), strict=True))
        else:
            file.writelines(_ndjson(columns).encode() for columns in chain([first], tables))
