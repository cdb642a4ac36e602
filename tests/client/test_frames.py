"""Rows come and go as dicts, Arrow, pandas and polars."""

import datetime as dt

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from anwen.client import frames
from anwen.errors import MalformedError

ROWS = [{"name": "Li Na", "born": dt.date(1990, 1, 2)}, {"name": "Wang", "phone": "+8613800138000"}]


@pytest.mark.parametrize("make", [list, pa.Table.from_pylist, pl.DataFrame, pd.DataFrame])
def test_a_field_that_a_row_lacks_stays_away(make):
    even = [{"name": None, "born": None, "phone": None} | row for row in ROWS] if make is not list else ROWS
    assert frames.rows_of(make(even)) == ROWS


@pytest.mark.parametrize("make", [frames.arrow, frames.pandas, frames.polars])
def test_opened_values_become_a_table(make):
    table = make([{"a": "x", "n": 1}, {"a": "y"}])
    assert frames.rows_of(table)[0] == {"a": "x", "n": 1}
    assert frames.rows_of(table)[1] == {"a": "y"}


def test_something_else_is_refused():
    with pytest.raises(MalformedError, match="got int"):
        frames.rows_of(5)
