"""CSV, NDJSON and Parquet in and out: every row read is yielded or rejected, none is dropped in silence.

Rows are read lazily; a file is cut into spans, so that an import can take its rows in another order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from anwen.errors import MalformedError
from anwen.files.parquet_source import ParquetSource
from anwen.files.rows import Columns, FileFormat, Reject, Row, Span, detect_format
from anwen.files.text_source import CsvSource, NdjsonSource, TextSource
from anwen.files.writer import RejectsWriter, RowWriter, create, new_file, writing

__all__ = [
    "FileFormat",
    "Reject",
    "RejectsWriter",
    "Row",
    "RowWriter",
    "Span",
    "create",
    "detect_format",
    "new_file",
    "read_rows",
    "split",
    "writing",
]


def _open(path: Path, file_format: FileFormat | None, columns: Columns) -> TextSource | ParquetSource:
    if not path.is_file():
        raise MalformedError(f"expected a file, got nothing that can be read as one: {path.name}")
    file_format = file_format or detect_format(path)
    if file_format == FileFormat.PARQUET:
        return ParquetSource(path, columns)
    return (CsvSource if file_format == FileFormat.CSV else NdjsonSource)(path, columns)


def read_rows(
    path: Path,
    spans: Sequence[Span] | None = None,
    *,
    file_format: FileFormat | None = None,
    mapping: Mapping[str, str | None] | None = None,
    fields: Collection[str] | None = None,
    required: Collection[str] = (),
) -> Iterator[Row | Reject]:
    """Return an iterator over the rows of a file: each row is yielded as `Row` or as `Reject`, in order.

    Args:
        spans: the parts to read, from `split`, ascending; None reads all.
        file_format: None tells it by suffix or first bytes.
        mapping: field by column of the file; None as field leaves the column out; columns not named keep their name.
        fields: the names a field may have; None allows any.
        required: fields that a column must stand for (CSV and Parquet; NDJSON has no columns to check).

    Raises:
        MalformedError: at once, the header or schema does not fit; later, a Parquet page is broken.
        RequestError: a Parquet file without pyarrow installed.
    """
    source = _open(path, file_format, Columns(mapping or {}, fields, required))
    return source.read([source.whole] if spans is None else spans)


def split(path: Path, most: int, *, file_format: FileFormat | None = None) -> tuple[list[Span], int, int]:
    """Return at most `most` spans of equally many rows (the last may have fewer), and the numbers of rows and bytes.

    Every row is in one of them, and none is empty. Text files are read through once, about 2 us a row, so that no
    quoted line break is taken for a row's end and every span knows the number of its first row.
    """
    source = _open(path, file_format, Columns())
    starts: list[Span] = []
    each = rows = 1
    for rows, boundary in enumerate(source.boundaries(), 1):
        if (rows - 1) % each == 0:
            starts.append(boundary)
        if len(starts) > max(most, 1):
            starts, each = starts[::2], 2 * each
    ends = [span.start for span in starts[1:]] + [source.whole.end]
    spans = [Span(s.start, end, s.row, s.line) for s, end in zip(starts, ends, strict=True)] if starts else []
    return spans, rows if spans else 0, source.size_bytes
