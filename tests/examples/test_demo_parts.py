"""The demo's own tools: what its search finds, and whose folders it removes."""

import base64
import json
import os

import pytest
from examples.demo.folder import MARK, demo_folder
from examples.demo.search import Needles, search

from anwen.errors import ConflictError

VALUES = ["110101199003074477", "+8613800138000", "北京市朝阳区建国路88号", "li.wei@example.org"]


@pytest.mark.parametrize("spell", [
    lambda v: v.encode(), lambda v: v.encode("utf-16-le"), lambda v: v.encode("utf-16-be"),
    lambda v: v.encode().hex().encode(), lambda v: v.encode().hex().upper().encode(),
    lambda v: json.dumps({"x": v}).encode(), lambda v: json.dumps({"x": v}, ensure_ascii=False).encode(),
    lambda v: base64.b64encode(v.encode() + b"tail"), lambda v: base64.b64encode(b"1" + v.encode() + b"tail"),
    lambda v: base64.b64encode(b"12" + v.encode() + b"tail"), lambda v: base64.b64encode(b"{'a': '" + v.encode() + b"'}"),
])  # fmt: skip
@pytest.mark.parametrize("number", range(len(VALUES)))
def test_the_search_finds_a_value_in_every_spelling_anywhere(spell, number):
    noise = os.urandom(5000)
    needles = Needles(VALUES)
    for before in (0, 1, 4999):
        assert needles.within(noise[:before] + spell(VALUES[number]) + noise[before:]) == {number}


def test_the_search_finds_nothing_in_noise_and_looks_across_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("examples.demo.search.CHUNK_BYTES", 4096)
    needles = Needles(VALUES)
    file = tmp_path / "a"
    noise = os.urandom(20_000)
    file.write_bytes(noise)
    assert search([file], needles) == (set(), 20_000)
    for at in range(4080, 4100):
        file.write_bytes(noise[:at] + VALUES[2].encode() + noise[at:])
        assert search([file], needles)[0] == {2}


def test_a_folder_that_is_no_demos_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConflictError), demo_folder(tmp_path):
        pass
    assert (tmp_path / "thesis.txt").exists()


def test_leftovers_are_removed_and_a_running_demo_is_not(tmp_path):
    with demo_folder(tmp_path / "demo") as path:
        (path / "vault").mkdir()
        (path / "people.csv").write_text("x")
        with pytest.raises(ConflictError, match="running"), demo_folder(path):
            pass
    with demo_folder(tmp_path / "demo") as path:
        assert [p.name for p in path.iterdir()] == [MARK]
