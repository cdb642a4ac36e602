"""The demo's own tools: whose folders it removes."""

import pytest
from examples.demo.folder import MARK, demo_folder

from anwen.errors import ConflictError


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
