"""M7, M8: whatever a file holds, rows read = rows taken + rows refused, each with its line and reason, never a value."""

import csv
import io
import json
import random
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anwen.errors import MalformedError
from anwen.files import FileFormat, Reject, Row, detect_format, read_rows, split
from anwen.files.rows import LINE_BYTES


def write(tmp_path, data, name="f.csv"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def outcomes(path, **options):
    """(line, values) of each row, (line, reason) of each reject."""
    return [(r.line, r.values if isinstance(r, Row) else r.reason) for r in read_rows(path, **options)]


HOSTILE_CSV = [
    (b"1,2", {"a": "1", "b": "2"}),
    (b"1", "expected 2 columns, got 1"),
    (b"1,2,3", "expected 2 columns, got 3"),
    (b"1,\xff", "expected UTF-8"),
    (b"1,\xed\xa0\x80", "expected UTF-8"),  # a lone surrogate
    (b"1,\0", "holds a NUL"),
    (b"1,\xef\xbb\xbf2", "holds a byte order mark"),
    (b'1,"2', "a quote that is not closed, or not where a cell begins"),
    (b'1,"2"x', "quotes that do not follow RFC 4180"),
    (b"1," + b"9" * LINE_BYTES, f"longer than {LINE_BYTES} bytes"),
    (b"'=1+1,''+", {"a": "=1+1", "b": "'+"}),
    (b'"x ""y"", z",', {"a": 'x "y", z', "b": ""}),
]


def test_hostile_csv_costs_only_its_own_rows(tmp_path):
    lines = [entry for entry, _ in HOSTILE_CSV]
    path = write(tmp_path, b"a,b\r\n" + b"\r\n".join(lines) + b"\r\n\r\n5,6")
    expected = [(n, outcome) for n, (_, outcome) in enumerate(HOSTILE_CSV, 2)] + [
        (len(lines) + 3, {"a": "5", "b": "6"})
    ]
    assert outcomes(path) == expected


HOSTILE_JSON = [
    (b'{"a": 1, "b": null}', {"a": 1, "b": None}),
    (b'{"a": 1, "a": 2}', "a key is there twice"),
    (b'{"a": {"b": 1, "b": 2}}', "a key is there twice"),
    (b'{"a": NaN}', "a number that is not finite"),
    (b'{"a": -Infinity}', "a number that is not finite"),
    (b'{"a": 1e999}', "a number that is not finite"),
    (b'{"a": ' + b"9" * 10**6 + b"}", "a number of more than 64 characters"),
    (b'{"a": 0.' + b"9" * 10**6 + b"}", "a number of more than 64 characters"),
    (b'{"a": ' + b"9" * LINE_BYTES + b"}", f"longer than {LINE_BYTES} bytes"),
    (b'{"a": ' + b"[" * 500_000 + b"]" * 500_000 + b"}", "expected a JSON object"),
    (b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}", "more than 64 levels"),
    (b'{"a": "\0"}', "holds a NUL"),
    (b'{"a": "\\ud800"}', "holds a lone surrogate"),
    (b'{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}),
    (b'\xef\xbb\xbf{"a": 1}', "holds a byte order mark"),
    (b'{"a": "\xff"}', "expected UTF-8"),
    (b"[1]", "expected a JSON object"),
    (b"{'a': 1}", "expected a JSON object"),
    (b'{"a": 1} {"a": 2}', "expected a JSON object"),
]


def test_hostile_ndjson_costs_only_its_own_rows(tmp_path):
    path = write(tmp_path, b"\n".join(entry for entry, _ in HOSTILE_JSON) + b"\n\n" + b'{"a": 5}', "f.ndjson")
    expected = [(n, outcome) for n, (_, outcome) in enumerate(HOSTILE_JSON, 1)] + [(len(HOSTILE_JSON) + 2, {"a": 5})]
    assert outcomes(path) == expected


def test_a_line_without_end_is_never_held_whole(tmp_path):
    path = write(tmp_path, b"a,b\n" + b"x" * (30 * LINE_BYTES) + b"\n1,2\n")
    tracemalloc.start()
    assert [line for line, _ in outcomes(path)] == [2, 3]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * LINE_BYTES


@pytest.mark.parametrize(
    ("header", "options", "message"),
    [
        (b"", {}, "line 1: expected a header"),
        (b"\n", {}, "line 1: expected a header"),
        (b"a,\xff\n", {}, "line 1: expected a header"),
        (b'a,"b\nc"\n', {}, "line 1: expected a header"),
        (b"a,a\n", {}, "columns 1 and 2 of the file stand for the same field"),
        (b"a,b\n", {"mapping": {"b": "a"}}, "columns 1 and 2"),
        (b"a,b\n", {"mapping": {"c": "a"}}, "does not have: c"),
        (b"a,\n", {}, "column 2 of the file is no field"),
        (b"a,secret\n", {"fields": ["a", "b"]}, r"column 2 of the file is no field; .*\(fields: a, b\)"),
        (b"a,b\n", {"required": ["c"]}, "no column for required fields: c"),
        (b",".join(b"c%d" % i for i in range(2000)) + b"\n", {}, "at most 1024 columns"),
        ("a,b\n".encode("utf-16"), {}, "UTF-16"),
    ],
)
def test_headers_are_refused_before_the_first_row(tmp_path, header, options, message):
    with pytest.raises(MalformedError, match=message) as caught:
        read_rows(write(tmp_path, header + b"1,2\n" if header else b""), **options)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_delimiters_marks_and_mapping(tmp_path, delimiter):
    path = write(tmp_path, ("\ufeff" + "Name,Tel,x\nA B,1,2\n".replace(",", delimiter)).encode())
    options = {"mapping": {"Name": "name", "x": None}, "fields": ["name", "Tel"], "required": ["name"]}
    assert outcomes(path, **options) == [(2, {"name": "A B", "Tel": "1"})]


def test_ndjson_keys_are_mapped_and_checked(tmp_path):
    path = write(tmp_path, b'{"N": 1, "x": 2}\n{"N": 1, "n": 2}\n{"n": 1, "secret": 2}\n', "f.jsonl")
    assert outcomes(path, mapping={"N": "n", "x": None}, fields=["n"]) == [
        (1, {"n": 1}),
        (2, "two keys stand for the same field"),
        (3, "key 2 is no field"),
    ]
    with pytest.raises(MalformedError, match="two columns to one field"):
        read_rows(path, mapping={"a": "n", "b": "n"})


def test_a_stray_quote_does_not_swallow_the_rest(tmp_path):
    path = write(tmp_path, b'a,b\n1,5" pipe\n2,x\n3,7" pipe\n4,"y\nz"\n5,w\n')
    result = outcomes(path)
    assert [line for line, _ in result] == [2, 3, 4, 5, 7]
    assert [r["a"] for _, r in result if isinstance(r, dict)] == ["2", "4", "5"]
    assert result[3] == (5, {"a": "4", "b": "y\nz"})


# without a lone \r, which csv.writer of Python 3.11 leaves unquoted
cells = st.text(st.sampled_from("ab,;\t\"'\n=+-@ é"), max_size=6)
mess = st.text(st.sampled_from('a,"\n\r'), max_size=60)


@given(rows=st.lists(st.tuples(cells, cells), max_size=12), parts=st.integers(1, 6))
def test_what_the_csv_module_writes_is_read_back_in_any_number_of_parts(tmp_path_factory, rows, parts):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("a", "b"), *rows])
    path = write(tmp_path_factory.mktemp("f"), text.getvalue().encode())
    whole = list(read_rows(path))
    escaped = lambda c: c[1:] if c.lstrip("'") != c and c.lstrip("'")[:1] in tuple("=+-@\t\r") else c  # noqa: E731
    assert [r.values for r in whole] == [{"a": escaped(a), "b": escaped(b)} for a, b in rows]
    check_parts(path, parts, whole)


@given(body=mess, parts=st.integers(1, 5))
def test_any_mess_is_read_alike_whole_and_in_parts(tmp_path_factory, body, parts):
    path = write(tmp_path_factory.mktemp("f"), b"a,b\n" + body.encode())
    whole = list(read_rows(path))
    assert [r.number for r in whole] == list(range(1, len(whole) + 1))
    assert all(isinstance(r, Row) or r.reason for r in whole)
    check_parts(path, parts, whole)


def check_parts(path, parts, whole):
    spans, rows, _ = split(path, parts)
    assert len(spans) <= parts
    assert rows == len(whole)
    apart = [list(read_rows(path, [span])) for span in spans]
    assert all(apart), "no span is empty"
    assert [r for part in apart for r in part] == list(read_rows(path, spans)) == whole
    for first in range(3):
        assert list(read_rows(path, spans[first::2])) == [r for part in apart[first::2] for r in part]


def test_parts_of_a_large_file_have_equally_many_rows(tmp_path):
    draw = random.Random(1)
    lines = [json.dumps({"n": n, "x": "y" * draw.randrange(200)}) for n in range(3000)]
    path = write(tmp_path, "\n".join(lines).encode(), "f.ndjson")
    spans, rows, _ = split(path, 4)
    assert ([span.row for span in spans], rows) == ([1, 1025, 2049], 3000)
    assert [r.values["n"] for r in read_rows(path, spans)] == list(range(3000))
    assert [r.values["n"] for r in read_rows(path, spans[1:2])] == list(range(1024, 2048))


def test_parquet_in_parts(tmp_path):
    path = tmp_path / "f.parquet"
    table = pa.table({"n": range(5000), "s": pa.array([str(i) for i in range(5000)]).dictionary_encode()})
    pq.write_table(table, path, row_group_size=700)
    whole = list(read_rows(path, mapping={"s": "t"}))
    assert [r.values for r in whole] == [{"n": i, "t": str(i)} for i in range(5000)]
    for most in (3, 16, 5000):
        spans, rows, _ = split(path, most)
        assert (len(spans) <= most, rows) == (True, 5000)
        assert list(read_rows(path, spans, mapping={"s": "t"})) == whole
        each = spans[1].row - 1
        some = [n for n in range(1, 5001) if (n - 1) // each % 3 == 1]
        assert [r.number for r in read_rows(path, spans[1::3])] == some


def test_parquet_rows_with_bytes_that_are_no_text_are_refused_alone(tmp_path):
    path = tmp_path / "f.parquet"
    bad = pa.array([b"a", b"\xff", b"c"]).cast(pa.binary()).view(pa.string())
    pq.write_table(pa.table({"s": bad}), path)
    rows = list(read_rows(path))
    assert [type(r) for r in rows] == [Row, Reject, Row]
    assert (rows[1].number, rows[1].reason) == (2, "holds bytes that do not follow the column's type")


@pytest.mark.parametrize(
    "column",
    [pa.array([b"x"]), pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8())), pa.array([1], pa.time64("us"))],
)
def test_parquet_types_outside_the_list_are_refused(tmp_path, column):
    path = tmp_path / "f.parquet"
    pq.write_table(pa.table({"a": column}), path)
    with pytest.raises(MalformedError, match="column 1 of the file has a type that is not read"):
        read_rows(path)


def test_broken_parquet(tmp_path):
    path = tmp_path / "f.parquet"
    pq.write_table(
        pa.table({"a": [str(i) * 50 for i in range(2000)]}), path, write_page_checksum=True, compression="none"
    )
    data = bytearray(path.read_bytes())
    with pytest.raises(MalformedError, match="expected a Parquet file"):
        read_rows(write(tmp_path, bytes(data[:-20]), "cut.parquet"))
    data[len(data) // 3] ^= 1
    with pytest.raises(MalformedError, match="row group 0"):
        list(read_rows(write(tmp_path, bytes(data), "flipped.parquet")))
    pq.write_table(pa.table([[1], [2]], names=["a", "a"]), path)
    with pytest.raises(MalformedError, match="stand for the same field"):
        read_rows(path)


@given(st.binary(max_size=200))
def test_no_bytes_at_all_break_a_reader(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("f")
    for name in ("f.csv", "f.ndjson", "f.parquet"):
        try:
            rows = list(read_rows(write(folder, data, name)))
        except MalformedError:
            continue
        assert all(isinstance(r, Row | Reject) for r in rows)


def test_formats(tmp_path):
    assert detect_format(tmp_path / "x.CSV") == FileFormat.CSV
    assert detect_format(write(tmp_path, b' {"a": 1}', "x")) == FileFormat.NDJSON
    assert detect_format(write(tmp_path, b"PAR1....", "y")) == FileFormat.PARQUET
    with pytest.raises(MalformedError, match=r"expected a file named \.csv"):
        detect_format(write(tmp_path, b"?", "z"))
    with pytest.raises(MalformedError, match="expected a file"):
        read_rows(tmp_path / "missing.csv")


def test_no_repr_shows_a_value(tmp_path):
    row = next(read_rows(write(tmp_path, b"a\nmarked value\n")))
    assert "marked" not in repr(row)
