"""The benchmark's residents are pinned: values and check sum."""

import hashlib
import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "bench" / "people.py"


@pytest.fixture(scope="module")
def people():
    spec = importlib.util.spec_from_file_location("people", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generator(people):
    assert people.splitmix64(0, 1)[0] == 0xE220A8397B1DCDAF


def test_row_0(people):
    assert list(people.rows(0, 1)[0].values()) == [
        "0000000001234567",
        "Ralen Garin",
        "1941-09-29",
        "F",
        "+8612426094747",
        "ralen.garin0@example.org",
        "256 Manov Road, Pakam, 334356",
    ]


def test_check_sum_of_the_first_thousand(people):
    text = "\n".join(";".join(row.values()) for row in people.rows(0, 1000))
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "2a33df703c092c7974c6ae4a1ab89e83327ce205b4f819708c9a806b37776de0"
    )


def test_the_commonest_name_has_382_of_100000_rows(people):
    assert Counter(people.columns(0, 100_000)[1]).most_common(1)[0][1] == 382


def test_rows_do_not_depend_on_chunks(people, tmp_path):
    people.write_ndjson(tmp_path / "people.ndjson", 40_000)
    written = [json.loads(line) for line in (tmp_path / "people.ndjson").read_text().splitlines()]
    assert written == people.rows(0, 40_000)
    assert people.rows(17_000, 3) == written[17_000:17_003]
