"""How failures leave the program: a hint for each code, an exit code for each kind, and never a value."""

import subprocess
import sys
from pathlib import Path

import pytest

from anwen import errors
from anwen.cli import failures, main, output
from anwen.errors import (
    BY_CODE,
    AnwenError,
    BudgetError,
    ConflictError,
    DisputeError,
    GrantError,
    OpenError,
    QuorumError,
    UnavailableError,
)

CANARY = "canary-13800138000"
TASK = """
import asyncio, gc
async def fails(): int(V)
async def forgets():
    task = asyncio.create_task(fails())
    await asyncio.sleep(0.01)
    del task
asyncio.run(forgets())
gc.collect()
"""


def test_every_code_has_a_hint_and_no_hint_is_without_code():
    assert set(failures.HINTS) == set(BY_CODE)


def test_nobody_is_told_that_nothing_was_changed_where_a_write_may_have_been_carried_out():
    assert "look first whether a write was carried out" in failures.HINTS["unavailable"]
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    assert not [t for t in (errors.__doc__, UnavailableError.__doc__, *failures.HINTS.values(), page)
                if "nothing was changed" in t]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AnwenError("x"), 1), (ConflictError("x"), 3), (GrantError("x"), 4), (BudgetError("x"), 4),
        (QuorumError("x"), 5), (OpenError(), 6), (DisputeError("x"), 6),
    ],
)  # fmt: skip
def test_exit_codes(error, code, capsys):
    assert failures.report(error) == code
    said = capsys.readouterr().err
    assert said.startswith(f"error[{error.code}]: ")
    assert f"hint: {failures.HINTS[error.code]}" in said


def test_a_spent_budget_says_when_it_may_go_on(capsys):
    failures.report(BudgetError("open: 100 of 100", retry_after_s=1800))
    assert "in 30 min" in capsys.readouterr().err
    assert failures.describe(BudgetError("x", retry_after_s=1.26))["retry_after_s"] == 1.3


@pytest.mark.parametrize("raised", [ValueError(CANARY), KeyError(CANARY), RuntimeError(CANARY)])
def test_an_unexpected_error_shows_class_and_place_and_no_value(raised, monkeypatch, capsys):
    def broken(self):
        secret = CANARY  # noqa: F841 - a local that must not be shown
        raise raised

    monkeypatch.setattr("anwen.cli.settings.Settings.folder", broken)
    assert main.run(["policy", "show"]) == failures.FAILED
    printed = capsys.readouterr()
    assert CANARY not in printed.out + printed.err
    assert f"error[internal]: {type(raised).__name__} at anwen/cli/policy.py:" in printed.err


@pytest.mark.parametrize(
    "fault",
    [
        "raise ValueError(V)",
        "import threading; t = threading.Thread(target=lambda: int(V)); t.start(); t.join()",
        TASK,
        "class C:\n def __del__(self): int(V)\nc = C(); del c",
        "import logging; logging.getLogger('somewhere').error('told', exc_info=ValueError(V))",
    ],
)  # fmt: skip
def test_no_way_of_python_to_print_a_traceback_shows_a_value(fault):
    code = f"from anwen.cli import failures; failures.guard_process()\nV = {CANARY!r}\n{fault}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert CANARY not in done.stdout + done.stderr
    assert "Error" in done.stderr


def test_usage_errors_exit_with_two(capsys):
    assert main.run(["find"]) == failures.USAGE
    assert main.run(["nothing"]) == failures.USAGE
    assert main.run(["find", "person", "phone=1"]) == failures.USAGE  # no vault named
    assert "--vault" in capsys.readouterr().err


def test_help_lists_every_command_and_every_command_has_help(capsys):
    assert main.run(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in main.cli.commands:
        assert f"  {name} " in shown
        assert main.run([name, "--help"]) == 0
        assert capsys.readouterr().out.startswith("Usage: anwen " + name)


def test_output_steers_no_terminal(capsys):
    assert output.visible("Li\x1b[31m\u202e") == "Li\ufffd[31m\ufffd"
    output.emit({"name": "a\x1b\x9b\u202e", "city": "北京"})
    line = capsys.readouterr().out
    assert "\\u001b" in line
    assert "\\u009b" in line
    assert "\\u202e" in line
    assert "北京" in line
