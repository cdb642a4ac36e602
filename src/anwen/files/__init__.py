"""CSV, NDJSON and Parquet in and out: every row read is yielded or rejected, none is dropped in silence."""

from __future__ import annotations

from anwen.files.reader import read_rows, split
from anwen.files.rows import FileFormat, Reject, Row, Span, detect_format
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
