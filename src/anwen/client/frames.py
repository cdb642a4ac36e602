"""Rows as Arrow tables, pandas or polars data frames, in and out. Each needs its extra: `pip install anwen[polars]`.

Opened values come as JSON types (text, numbers, booleans, dates as ISO 8601 text), and stay so: a frame's columns are
those that any row has, missing values null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from anwen.errors import MalformedError

Rows = list[dict[str, object]]


def rows_of(frame: object) -> Rows:
    """Return the rows of an Arrow table, a pandas or polars data frame, or a sequence of mappings.

    Nulls and NaN are left out: a field is there or it is not.

    Raises: MalformedError: something else.
    """
    if hasattr(frame, "to_pylist"):  # pyarrow.Table, RecordBatch
        return [_present(row) for row in frame.to_pylist()]
    if hasattr(frame, "to_dicts"):  # polars.DataFrame
        return [_present(row) for row in frame.to_dicts()]
    if hasattr(frame, "to_dict") and hasattr(frame, "columns"):  # pandas.DataFrame
        return [_present(row) for row in frame.to_dict(orient="records")]
    if isinstance(frame, Sequence) and all(isinstance(row, Mapping) for row in frame):
        return [dict(row) for row in frame]
    raise MalformedError(f"expected rows, an Arrow table or a data frame, got {type(frame).__name__}")


def _present(row: Mapping[str, Any]) -> dict[str, object]:
    return {str(k): v for k, v in row.items() if v is not None and v == v}  # noqa: PLR0124 - NaN, NaT differ from themselves


def arrow(values: Sequence[Mapping[str, object]]) -> Any:
    """Return a `pyarrow.Table` of opened values."""
    return _needs("pyarrow", "arrow").Table.from_pylist(_even(values))


def pandas(values: Sequence[Mapping[str, object]]) -> Any:
    """Return a `pandas.DataFrame` of opened values."""
    return _needs("pandas", "pandas").DataFrame(_even(values))


def polars(values: Sequence[Mapping[str, object]]) -> Any:
    """Return a `polars.DataFrame` of opened values."""
    return _needs("polars", "polars").DataFrame(_even(values))


def _even(values: Sequence[Mapping[str, object]]) -> Rows:
    names = list(dict.fromkeys(name for row in values for name in row))
    return [{name: row.get(name) for name in names} for row in values]


def _needs(module: str, extra: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        raise MalformedError(f"{module} is not installed: pip install 'anwen[{extra}]'") from error
