"""CSV, NDJSON and Parquet in and out: every row read is yielded or rejected, none is dropped in silence."""

from __future__ import annotations

from anwen.files.reader import read_rows, split
from anwen.files.rejects import RejectsWriter
from anwen.files.rows import FileFormat, Reject, Row, Span, detect_format
from anwen.files.writer import RowWriter, create

__all__ = [
    "FileFormat",
    "Reject",
    "RejectsWriter",
    "Row",
    "RowWriter",
    "Span",
    "create",
    "detect_format",
    "read_rows",
    "split",
]
