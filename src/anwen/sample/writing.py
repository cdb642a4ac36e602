"""Sample files: rows of one kind, in CSV, NDJSON or Parquet, the same bytes for the same seed and count."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from json.encoder import encode_basestring
from pathlib import Path
from typing import IO

from anwen.errors import ConflictError, RequestError
from anwen.sample.draw import Int64
from anwen.sample.records import Records, number, pick
from anwen.sample.residents import Columns, Residents, chunks

Maker = Callable[[Int64], Columns]
_PERSON = ("id_number", "name", "birth_date", "sex", "phone", "email", "address", "household_region")
_JSON = frozenset({"items", "values"})


def _people(seed: int, letter: str, key: str, names: tuple[str, ...]) -> Maker:
    table = Residents(seed)
    return lambda rows: {key: number(letter, seed, rows), **pick(table.columns(rows), names)}


def _persons(seed: int, _people: int) -> Maker:
    table = Residents(seed)
    return lambda rows: pick(table.columns(rows), _PERSON)


_MAKERS: dict[str, tuple[Callable[[int, int], Maker], float]] = {
    "police.person": (_persons, 1),
    "police.incident": (lambda seed, people: Records(seed, people).incidents, 2),
    "commerce.customer": (
        lambda seed, _: _people(seed, "C", "customer_number", ("name", "birth_date", "phone", "email")),
        1,
    ),
    "commerce.order": (lambda seed, people: Records(seed, people).orders, 3),
    "commerce.address": (lambda seed, people: Records(seed, people).deliveries, 1),
    "devices.owner": (lambda seed, _: _people(seed, "E", "owner_number", ("name", "phone", "email", "address")), 1),
    "devices.device": (lambda seed, people: Records(seed, people).devices, 1.5),
    "devices.reading": (lambda seed, people: Records(seed, people).readings, 20),
}

KINDS = tuple(_MAKERS)
"""What can be made: a ready vault file's name and one of its collections."""

FORMATS = ("csv", "ndjson", "parquet")


def make(kind: str, count: int, seed: int, *, people: int | None = None, start: int = 0) -> Iterator[Columns]:
    """Yield `count` rows of `kind` from row `start` on, as columns in chunks; strings, JSON text, and None.

    Args:
        people: how many rows the table has that this one refers to, made with the same seed. By default as many as go
            with `count`: one person for two incidents or three orders; for readings the devices, one for twenty.

    Raises:
        RequestError: another kind than those of `KINDS`, or more people than there are.
    """
    if kind not in _MAKERS:
        raise RequestError(f"expected one of {', '.join(KINDS)}, got {kind}")
    maker, per_person = _MAKERS[kind]
    rows_of = maker(seed, people or max(1, round(count / per_person)))
    for rows in chunks(count, start):
        yield rows_of(rows)


def _ndjson(columns: Columns) -> str:
    encoded = [
        ["null" if value is None else value if name in _JSON else encode_basestring(value) for value in column]
        for name, column in columns.items()
    ]
    line = "{" + ", ".join(f'"{name}": %s' for name in columns) + "}\n"
    return "".join([line % row for row in zip(*encoded, strict=True)])


def _write_text(file: IO[bytes], rows: Iterator[Columns], file_format: str) -> None:
    for first, columns in enumerate(rows):
        if file_format == "ndjson":
            file.write(_ndjson(columns).encode())
            continue
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if first == 0:
            writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        file.write(text.getvalue().encode())


def _write_parquet(file: IO[bytes], rows: Iterator[Columns]) -> None:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise RequestError("Parquet files need pyarrow: pip install 'anwen[arrow]'") from None
    first = pa.table(next(rows))
    schema = pa.schema([(name, pa.string()) for name in first.column_names])
    with parquet.ParquetWriter(file, schema) as writer:
        writer.write_table(first.cast(schema))
        for columns in rows:
            writer.write_table(pa.table(columns, schema=schema))


def write_sample(
    kind: str, count: int, seed: int, path: Path | str, file_format: str = "ndjson", *, people: int | None = None
) -> None:
    """Write `count` rows (1 or more) of `kind` to a new file; it appears only when it is complete.

    Args:
        file_format: "csv", "ndjson" or "parquet".
        people: see `make`.

    Raises:
        ConflictError: `path` exists.
        RequestError: an unknown kind or format, no rows, or too many.
    """
    path = Path(path)
    if file_format not in FORMATS:
        raise RequestError(f"expected one of {', '.join(FORMATS)}, got {file_format}")
    if count < 1:
        raise RequestError(f"expected at least one row, got {count}")
    if path.exists():
        raise ConflictError(f"{path.name}: expected a new file, but it exists")
    rows = make(kind, count, seed, people=people)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if file_format == "parquet":
                _write_parquet(file, rows)
            else:
                _write_text(file, rows, file_format)
        os.link(temporary, path)  # made-up data: not synced, but never half a file under its name
    except FileExistsError:
        raise ConflictError(f"{path.name}: expected a new file, but it exists") from None
    finally:
        temporary.unlink(missing_ok=True)
