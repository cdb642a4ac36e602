"""What is written is read back equal, appears complete or not at all, for its owner alone, and runs in no spreadsheet."""

import csv
import gc
import json
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anwen.errors import ConflictError, MalformedError
from anwen.files import FileFormat, Reject, RejectsWriter, create, new_file, read_rows, writing
from anwen.formats import normalise
from anwen.formats.characters import refusal
from anwen.model import Field

FIELDS = {kind: Field(1, kind, kind, "c", scheme="cn.ric", region="CN") for kind in sorted(normalise.KINDS)}
KINDS = {kind: kind for kind in FIELDS}

good_text = st.text(
    st.characters(exclude_categories=["Cs"]).filter(lambda c: refusal(c) is None) | st.just("\n"), max_size=8
)
tricky = st.text(st.sampled_from("'=+-@\t,;\"\n a"), max_size=6)
samples = {
    "address": good_text | tricky,
    "bool": st.booleans(),
    "date": st.dates(),
    "datetime": st.datetimes().map(lambda d: d.isoformat() + "Z"),
    "decimal": st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-(10**20), max_value=10**20),
    "email": st.sampled_from(["a@b.example", "-x@b.example", "=cmd@b.example"]),
    "int": st.integers(-(2**63), 2**63 - 1),
    "json": st.dictionaries(good_text, st.lists(st.floats(allow_nan=False, allow_infinity=False)), max_size=2),
    "name": st.text("éü'- \u0301", max_size=6).map("=Anna ".__add__) | tricky.map("'a".__add__),
    "national_id": st.just("11010519491231002X"),
    "phone": st.just("+8613800138000"),
    "text": good_text | tricky,
}


def canonical(row):
    return {kind: normalise.normalise(FIELDS[kind], value) for kind, value in row.items()}


rows_of_all_kinds = st.lists(
    st.fixed_dictionaries({kind: st.none() | samples[kind] for kind in FIELDS}).map(canonical), max_size=4
)


@pytest.mark.parametrize("suffix", ["csv", "ndjson", "parquet"])
@given(rows=rows_of_all_kinds)
def test_rows_come_back_equal(tmp_path_factory, suffix, rows):
    path = tmp_path_factory.mktemp("f") / f"f.{suffix}"
    with create(path, KINDS) as writer:
        writer.write(rows[:1])
        writer.write(rows[1:])
    read = [{kind: r.values.get(kind) for kind in FIELDS} for r in read_rows(path)]
    assert [canonical(row) for row in read] == rows
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@given(st.lists(tricky, min_size=1, max_size=5))
def test_no_cell_begins_as_a_formula(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("f") / "f.csv"
    with create(path, {"a": "text", "b": "text"}) as writer:
        writer.write({"a": value, "b": "x"} for value in values)
    with path.open(newline="") as file:
        cells = [row[0] for row in csv.reader(file)][1:]
    assert not any(cell[:1] in tuple("=+-@\t\r\0") for cell in cells)
    assert [r.values["a"] for r in read_rows(path)] == values


@pytest.mark.parametrize("suffix", ["csv", "ndjson", "parquet"])
def test_a_failed_write_leaves_nothing(tmp_path, suffix):
    def write():
        with create(tmp_path / f"f.{suffix}", {"a": "text"}) as writer:
            writer.write([{"a": "x"}])
            raise InterruptedError

    with pytest.raises(InterruptedError):
        write()
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_replaced_not_even_what_came_meanwhile(tmp_path):
    path = tmp_path / "f.csv"

    def write():
        with create(path, {"a": "text"}) as writer:
            writer.write([{"a": "mine"}])
            path.write_text("theirs")

    with pytest.raises(ConflictError, match="it exists"):
        write()
    with pytest.raises(ConflictError, match="it exists"):
        write()
    assert path.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_rejects_hold_place_and_reason_and_resume_where_they_were_synced(tmp_path):
    path = tmp_path / "rejects.ndjson"
    with RejectsWriter(path) as rejects:
        rejects.write(Reject(3, 4, "expected UTF-8"))
        kept = rejects.sync()
        rejects.write(Reject(9, 10, "phone: expected a phone number", "phone"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with RejectsWriter(path, keep_bytes=kept) as rejects:
        rejects.write(Reject(7, 8, "expected 2 columns, got 1"))
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert entries == [
        {"row": 3, "line": 4, "field": None, "code": "malformed", "reason": "expected UTF-8"},
        {"row": 7, "line": 8, "field": None, "code": "malformed", "reason": "expected 2 columns, got 1"},
    ]
    with pytest.raises(MalformedError, match="at least 100000 bytes"):
        RejectsWriter(path, keep_bytes=100_000)


@pytest.mark.parametrize("file_format", list(FileFormat))
def test_what_is_written_into_a_stream_that_fails_is_closed_with_it(tmp_path, file_format):
    """As an export does that seals what is written: the stream is not a file of its own."""

    def write():
        with new_file(tmp_path / "f") as file, writing(file, {"a": "text"}, file_format) as writer:
            writer.write([{"a": "x"}])
            raise InterruptedError

    with pytest.raises(InterruptedError):
        write()
    gc.collect()  # a writer that closes itself now would warn
    assert list(tmp_path.iterdir()) == []
    with new_file(tmp_path / "g") as file, writing(file, {"a": "text"}, file_format) as writer:
        writer.write([{"a": "x"}])
    assert [r.values for r in read_rows(tmp_path / "g", file_format=file_format)] == [{"a": "x"}]
