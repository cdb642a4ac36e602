"""The same thefts in other systems, run for real, and the chart that sets Anwen beside them."""

import asyncio
import math
import os
import re
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from anwen.cli import output
from anwen.errors import UnavailableError
from anwen.rehearse import postgresql
from anwen.rehearse.breach import elsewhere, report
from anwen.rehearse.breach.elsewhere import ARGUED, RUN
from anwen.rehearse.breach.rehearsal import Outcome, Settings
from anwen.rehearse.breach.theft import Theft
from anwen.sample.people import residents

PEOPLE = 50
POSTGRESQL = pytest.mark.skipif(
    postgresql.missing() is not None and os.environ.get("ANWEN_ENGINES") != "required", reason=str(postgresql.missing())
)


@pytest.fixture(scope="module")
def people():
    made_up = next(residents(PEOPLE, 1))
    return [dict(zip(made_up, row, strict=True)) for row in zip(*made_up.values(), strict=True)]


@pytest.fixture
def scratch():
    """A folder that PostgreSQL's user can reach, which pytest's own folders are not."""
    with tempfile.TemporaryDirectory(prefix="anwen-elsewhere-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@POSTGRESQL
@pytest.mark.skipif(os.geteuid() != 0, reason="reads the memory of other processes")
def test_plain_databases_lose_everybody_and_encrypted_ones_do_once_they_are_at_work(people, scratch):
    found = asyncio.run(elsewhere.compare(people, scratch))
    run = {c["system"]: (c["dump"], c["live"], c["login"]) for c in found if c["how"] == RUN}
    everybody = {
        "PostgreSQL": (PEOPLE,) * 3,
        "PostgreSQL with pgcrypto": (0, PEOPLE, PEOPLE),
        "SQLCipher": (0, PEOPLE, PEOPLE),
    }
    assert run == {name: got for name, got in everybody.items() if name != "SQLCipher" or find_spec("sqlcipher3")}
    assert [c["people"] for c in found] == [PEOPLE] * 5
    check_chart(report.page(outcome(found)), found)


def outcome(compared):
    thefts = [Theft(name, "", 20, "", "", people=people) for name, people in (("dump", 0), ("zone", 0), ("key", 15))]
    return Outcome(Settings(), "v", PEOPLE, thefts, compared=compared)


def check_chart(page, compared):
    chart = page[page.index("<svg") : page.index("</svg>")]
    bars = re.findall(
        r"end.>([^<]+)</text><rect class=(\w+) x=.330. y=.\d+. width=.([0-9.]+).[^<]+<text[^>]+>([^<]+)", chart
    )
    groups = [bars[i : i + len(compared) + 1] for i in range(0, len(bars), len(compared) + 1)]
    assert len(groups) == 3
    for key, ours, group in zip(("dump", "live", "login"), (0, 0, 15), groups, strict=True):
        assert [name for name, *_ in group] == ["Anwen", *(c["system"] for c in compared)]
        assert group[0][1] == "ours"
        assert [said for *_, said in group] == [
            f"{n} of {PEOPLE}" if n else "0" for n in (ours, *(c[key] for c in compared))
        ]
        assert [kind == "argued" for _, kind, *_ in group[1:]] == [c["how"] == ARGUED for c in compared]
        drawn = dict(zip((ours, *(c[key] for c in compared)), (float(wide) for _, _, wide, _ in group), strict=True))
        assert drawn.get(0, 0.5) == 0.5  # nobody has no bar
        assert 15 not in drawn or drawn[15] / drawn[PEOPLE] == pytest.approx(math.log(16) / math.log(51), abs=0.001)
    assert len(re.findall("<line class=axis", chart)) == 1  # ten; a hundred are more than there are


def test_a_system_that_fails_in_any_way_costs_the_others_and_the_report_nothing(people, scratch, monkeypatch):
    class Server:
        def __init__(self, folder):
            self.folder = folder

        async def start(self):
            if self.folder.name == "pgcrypto":
                raise UnavailableError("postgresql did not start")

        async def stop(self):
            pass

    def driver(_server, _people):
        raise RuntimeError(people[0]["id_number"])

    monkeypatch.setattr(postgresql, "Server", Server)
    monkeypatch.setattr(elsewhere, "_SERVERS", [("plain", "PostgreSQL", driver), *elsewhere._SERVERS[1:]])
    found = asyncio.run(elsewhere.compare(people, scratch))
    assert [c["how"] for c in found[:2]] == ["failed: RuntimeError", "not run: postgresql did not start"]
    page = report.page(outcome(found))
    assert page.count("not run here") == 6
    assert people[0]["id_number"] not in page


def test_a_terminal_says_what_was_read_what_was_tried_and_where_its_code_is(capsys):
    thefts = [Theft("key", "a key", 200, "at most 200", "rehearse/breach/thief.py", ["in batches", "singly"], 150, 8)]
    for title, items in report.tables(Outcome(Settings(), "v", PEOPLE, thefts)):
        output.say(title)
        output.table(items)
    said = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert ["key", "a key", "150", "200", "8", "at most 200", ""] in said
    assert ["key", "src/anwen/rehearse/breach/thief.py", "singly"] in said
    assert (Path(__file__).parents[2] / "src/anwen/rehearse/breach/thief.py").exists()
