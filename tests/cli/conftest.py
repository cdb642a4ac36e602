"""A running police vault for the command line's tests, and `anwen` as a function."""

import json
import sys
from dataclasses import dataclass, field

import pytest
from tests.e2e.conftest import person, running

from anwen import vault_folder
from anwen.cli import main

__all__ = ["person"]


@dataclass
class Done:
    """What a command did."""

    code: int
    out: str
    err: str
    rows: list = field(default_factory=list)


@pytest.fixture(scope="session")
def police(tmp_path_factory):
    """The folder of a vault whose processes run until the session ends."""
    folder = vault_folder.create(tmp_path_factory.mktemp("cli") / "police", "police")
    with running(folder):
        yield folder.path


@pytest.fixture
def anwen(capsys, monkeypatch, request):
    """Runs `anwen` in this process; JSON lines of its output are `rows`."""

    def call(*arguments, stdin="", vault=None):
        import io

        vault = vault or request.getfixturevalue("police")
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = main.run(["--vault", str(vault), *map(str, arguments)])
        printed = capsys.readouterr()
        rows = []
        if "--json" in arguments:
            rows = [json.loads(line) for line in printed.out.splitlines() if line.startswith("{")]
        return Done(code, printed.out, printed.err, rows)

    return call


def write_csv(path, rows):
    """Write dicts as CSV."""
    names = list(dict.fromkeys(n for r in rows for n in r))
    path.write_text("\n".join([",".join(names), *(",".join(str(r.get(n, "")) for n in names) for r in rows)]) + "\n")
    return path
