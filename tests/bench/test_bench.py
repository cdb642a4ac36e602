"""The benchmarks themselves: statistics against values worked out by hand, and a quick run that passes its gates."""

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def rules(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("rules")


def test_rounds_come_in_rotated_order(rules):
    assert [rules.rotated("ABC", r) for r in range(4)] == [list("ABC"), list("BCA"), list("CAB"), list("ABC")]


def test_spread_is_median_and_quartiles(rules):
    assert rules.spread([4, 1, 3, 2, 5]) == rules.Spread(3, 2, 4)


def test_a_ratio_of_constant_rounds_has_no_width(rules):
    assert rules.ratio([6.0] * 7, [2.0] * 7) == rules.Ratio(3, 3, 3)


def test_what_disturbs_both_systems_in_one_round_cancels_in_the_ratio(rules):
    slow = [1.0, 1.0, 9.0, 1.0, 1.0, 9.0, 1.0]
    found = rules.ratio([2 * s for s in slow], slow)
    assert (found.ratio, found.low, found.high) == (2, 2, 2)


def test_a_ratio_needs_as_many_rounds_on_both_sides(rules):
    with pytest.raises(ValueError, match="as many rounds"):
        rules.ratio([1.0, 2.0], [1.0])


def test_p99_of_few_samples_is_not_given(rules):
    assert math.isnan(rules.percentile(list(range(999)), 0.99))
    assert rules.percentile(list(range(1001)), 0.99) == 990


def test_the_first_round_is_discarded(rules):
    row = rules.Row("m", "s", "x", {0: 100.0, 1: 1.0, 2: 3.0})
    assert row.summary()["median"] == 2


def test_one_failure_voids_every_number(rules):
    rounds = rules.Rounds()
    rounds.add(1, 0, "x", {"m": (1.0, "s")})
    assert rounds.summary()
    rounds.gate.check(ok=False, what="a row is missing")
    assert rounds.summary() == []


@pytest.mark.deep
@pytest.mark.parametrize("name", ["keeper", "single"])
def test_a_quick_run_passes_its_gates(name, tmp_path):
    command = [
        sys.executable,
        str(BENCH / "run.py"),
        name,
        "--quick",
        "--folder",
        str(tmp_path),
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    result = json.loads((tmp_path / "work" / "quick" / f"{name}.json").read_text())
    assert result["void"] == []
    assert result["summary"]


def test_the_page_shows_the_committed_results(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    figures = importlib.import_module("figures")
    page = (BENCH.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert figures.table() in page
