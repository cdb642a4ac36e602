"""Parquet through pyarrow, which is an extra: plain columns only, limits from the footer before a page is read.

No extension types (CVE-2023-47248), no file but the one named. pyarrow is imported when a Parquet file is opened.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from anwen.errors import MalformedError, RequestError
from anwen.files.rows import Columns, Reject, Row, Span, by_field

GROUP_BYTES = 2**30
"""Most bytes of a row group, uncompressed, as the footer states them."""

FOOTER_BYTES = 2**26
BATCH_ROWS = 1024
DEPTH = 16


def pyarrow() -> Any:
    """Return the pyarrow module with its Parquet part loaded.

    Raises:
        RequestError: it is not installed.
    """
    try:
        import pyarrow as arrow  # noqa: PLC0415, ICN001 - an extra
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError:
        raise RequestError("Parquet files need pyarrow: pip install 'anwen[arrow]'") from None
    return arrow


def _is_plain(arrow: Any, kind: Any, levels: int = DEPTH) -> bool:
    """Return whether a column type is one of those we read: scalars, and lists and structs of them for `json`.

    Extension types are none: no test below takes them for what they are stored as.
    """
    types = arrow.types
    if levels == 0:
        return False
    if types.is_dictionary(kind) or types.is_list(kind) or types.is_large_list(kind):
        return _is_plain(arrow, kind.value_type, levels - 1)
    if types.is_struct(kind):
        return all(_is_plain(arrow, field.type, levels - 1) for field in kind)
    tests = "string large_string integer floating boolean date timestamp decimal128 null".split()  # noqa: SIM905
    return any(getattr(types, f"is_{test}")(kind) for test in tests)


class ParquetSource:
    """One Parquet file; `whole` is the span of all its rows, `size_bytes` what it holds uncompressed.

    Schema and footer are checked at once.
    """

    def __init__(self, path: Path, columns: Columns) -> None:
        self._arrow = pyarrow()
        # the last two: a name that is no UTF-8, a date beyond the year 9999
        self._broken = (self._arrow.ArrowException, OSError, ValueError, OverflowError)
        self._path = path
        try:
            with self._opened() as file:
                schema, metadata = file.schema_arrow, file.metadata
        except self._broken:
            raise MalformedError("expected a Parquet file") from None
        for number, kind in enumerate(schema.types, 1):
            if not _is_plain(self._arrow, kind):
                raise MalformedError(f"column {number} of the file has a type that is not read: {kind.id}")
        self._names = columns.names(list(schema.names))
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        if any(g.num_rows < 0 or not 0 <= g.total_byte_size <= GROUP_BYTES for g in groups):
            raise MalformedError(f"expected row groups of at most {GROUP_BYTES} bytes, uncompressed")
        self.size_bytes = sum(g.total_byte_size for g in groups)
        self._starts = list(accumulate((g.num_rows for g in groups), initial=0))
        rows = self._starts.pop()
        if rows != metadata.num_rows:
            raise MalformedError(f"expected {metadata.num_rows} rows as the footer says, got {rows}")
        self.whole = Span(0, rows, 1, 0)

    def _opened(self) -> Any:
        return self._arrow.parquet.ParquetFile(
            self._path,
            page_checksum_verification=True,
            thrift_string_size_limit=FOOTER_BYTES,
            thrift_container_size_limit=2**20,
            arrow_extensions_enabled=False,
        )

    def boundaries(self) -> Iterator[Span]:
        """Yield, in order, the span from each row to the end."""
        return (Span(start, self.whole.end, start + 1, 0) for start in range(self.whole.end))

    def read(self, spans: Sequence[Span]) -> Iterator[Row | Reject]:
        """Yield every row of `spans`. Each row group that holds one of them is decoded from its beginning."""
        with self._opened() as file:
            for group, (first, end) in enumerate(pairwise([*self._starts, self.whole.end])):
                if within := deque(s for s in spans if s.start < end and s.end > first):
                    yield from self._read_group(file, group, (first, end), within)

    def _read_group(self, file: Any, group: int, bounds: tuple[int, int], left: deque[Span]) -> Iterator[Row | Reject]:
        first = bounds[0]
        try:
            for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], use_threads=False):
                end, rows = first + batch.num_rows, list[int]()
                while left and left[0].start < end:
                    rows += range(max(left[0].start, first) - first, min(left[0].end, end) - first)
                    if left[0].end > end:
                        break
                    left.popleft()
                if rows:
                    yield from self._rows(batch, rows, first)
                first = end
        except self._broken:
            raise MalformedError(f"row group {group} of the Parquet file cannot be read") from None
        if first != bounds[1]:
            raise MalformedError(
                f"row group {group} of the Parquet file has another number of rows than its footer says"
            )

    def _rows(self, batch: Any, rows: list[int], first: int) -> Iterator[Row | Reject]:
        """Yield some rows of a batch; where it does not validate, one by one, so that only the bad ones are refused."""
        try:
            batch.validate(full=True)
            taken = batch if len(rows) == batch.num_rows else batch.take(self._arrow.array(rows, "int64"))
            lists = [self._in_microseconds(column).to_pylist() for column in taken.columns]
        except self._broken:
            if batch.num_rows == 1:
                yield Reject(first + 1, 0, "holds bytes that do not follow the column's type")
            else:
                for i in rows:
                    yield from self._rows(batch.slice(i, 1), [0], first + i)
            return
        for row, cells in zip(rows, zip(*lists, strict=True), strict=True):
            yield Row(first + row + 1, 0, by_field(self._names, cells))

    def _in_microseconds(self, column: Any) -> Any:
        """Return a column whose instants have no nanoseconds: Python's datetime has none."""
        if self._arrow.types.is_timestamp(column.type) and column.type.unit == "ns":
            return column.cast(self._arrow.timestamp("us", column.type.tz), safe=False)
        return column
