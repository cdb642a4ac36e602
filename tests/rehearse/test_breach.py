"""`anwen rehearse breach` on a real vault: every bound holds, every defence that is switched off is missed, nothing stays.

Most breaks are deep: each is a vault of its own.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import anwen
from anwen.cli.failures import FAILED, OK, REQUEST
from anwen.rehearse import postgresql
from anwen.rehearse.breach.breaks import BREAKS
from anwen.rehearse.breach.liar import _check_writes
from anwen.rehearse.breach.live import LATER
from anwen.rehearse.breach.rehearsal import THEFTS
from anwen.rehearse.breach.theft import Theft
from anwen.rehearse.breach.thief import most_in_window

ANWEN = [sys.executable, "-c", "from anwen.cli.main import main; main()"]
TIMEOUT_S = 900
IN_CI = ("budget",)
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="reads the memory of other processes")
POSTGRESQL = pytest.mark.skipif(
    postgresql.missing() is not None and os.environ.get("ANWEN_ENGINES") != "required", reason=str(postgresql.missing())
)


@pytest.fixture
def room():
    """A folder that PostgreSQL's user can reach, which pytest's own folders are not."""
    with tempfile.TemporaryDirectory(prefix="anwen-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture
def breach(tmp_path, room):
    """Runs the command; returns exit code, figures, page and what it said. Nothing may be left when it has ended."""

    def call(*arguments, usual=("--quick",)):
        files = tmp_path / "out.json", tmp_path / "out.html"
        command = [*ANWEN, "rehearse", "breach", *usual, *arguments]
        done = subprocess.run(
            [*command, "--figures", str(files[0]), "--report", str(files[1])], env=os.environ | {"TMPDIR": str(room)},
            capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert not list(room.glob("anwen-breach-*")), said
        assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if f"{room}/anwen-breach".encode() in read(p)]
        figures = json.loads(files[0].read_text()) if files[0].exists() else {}
        return done.returncode, figures, files[1].read_text() if files[1].exists() else "", said

    return call


def read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""  # gone


def theft(figures, name):
    return next(t for t in figures["thefts"] if t["name"] == name)


@ROOT
def test_no_theft_gives_more_than_its_bound_and_the_thief_of_a_key_gets_all_of_it(breach):
    names = [n for n in THEFTS if n != "inference"]
    code, found, page, said = breach("--people", "300", *(word for n in names for word in ("--theft", n)))
    assert code == OK, said
    assert found["broken"] == []
    assert [t["name"] for t in found["thefts"]] == [n if n != "keepers" else "2 keepers" for n in names]
    assert {t["name"]: t["people"] for t in found["thefts"] if t["people"]} == {
        "key": 150, "key, prepared": 150, "key and keeper": 200, "2 keepers": found["people"] + 20 + LATER,
    }  # fmt: skip
    assert theft(found, "key")["figures"]["unlogged"] == 0
    assert theft(found, "nobody")["figures"]["answers"] == 1
    assert theft(found, "nobody")["figures"]["requests"] > 4_000
    assert theft(found, "key")["figures"]["honest_in_hour"] >= 140
    assert theft(found, "dump")["figures"]["values_looked_for"] > 1_000
    older = {name: n for name, n in theft(found, "rollback")["figures"].items() if "older" in name}
    assert older == {
        "older_policies_taken": 0, "sealed_records_from_an_older_node": 20, "people_opened_under_an_older_policy": 0,
    }  # fmt: skip
    assert theft(found, "rows")["figures"]["older_values_opened"] == 2  # by id and by a search: they are genuine
    assert theft(found, "rows")["figures"]["deleted_values_opened"] == 0
    lied = theft(found, "liar")["figures"]
    assert [(lied[f"{lie}: writes disputed"], lied[f"{lie}: writes"]) for lie in ("one", "both")] == [(3, 3)] * 2
    assert [lied[f"{lie}: writes stored"] for lie in ("silent", "slow")] == [3, 3]
    tokens = theft(found, "tokens")["figures"]
    assert tokens["name: tokens by dictionary"] == tokens["name: tokens"] > 100
    probed = theft(found, "writer")["figures"]
    assert probed["search_budget"] == 500
    assert probed["values_answered"] == 498  # all of it, but for two token keys: he has a keeper's shares, too
    assert probed["values_there"] == 1
    assert probed["by_puts"] > 0 < probed["by_searches"]
    assert theft(found, "node")["figures"]["later_postings"] == 3 * LATER
    assert 0 < theft(found, "node")["figures"]["later_postings_recognised"] < LATER  # of names that he saw searched
    assert "<script" not in page
    assert "http" not in page.replace("http://localhost", "")


@ROOT
@pytest.mark.deep
def test_public_statistics_guess_no_better_of_a_dump_and_the_report_shows_it(breach):
    code, found, page, said = breach("--people", "5000", "--theft", "inference")
    assert code == OK, said
    won = {(c["store"], c["column"]): c["recovered"] for c in found["columns"]}
    assert won["deterministic", "sex"] == 1
    assert won["Anwen", "sex"] < 0.6
    assert "order-preserving" in page


def seen(breach, name):
    people = "4000" if BREAKS[name].seen_by == "inference" else "400"  # of few, chance says as much as a weakness
    code, found, page, said = breach("--people", people, "--break", name)
    assert code == FAILED, said
    assert [t["name"] for t in found["thefts"]] == [BREAKS[name].seen_by]
    assert any(BREAKS[name].says in line for line in found["broken"]), found["broken"]
    assert not any("does not work" in line for line in found["broken"]), found["broken"]
    assert "Broken on purpose" in page


@ROOT
@pytest.mark.parametrize("name", IN_CI)
def test_a_defence_that_is_switched_off_is_missed(breach, name):
    seen(breach, name)


@ROOT
@pytest.mark.deep
@pytest.mark.parametrize("name", sorted(BREAKS.keys() - set(IN_CI)))
def test_every_other_defence_that_is_switched_off_is_missed(breach, name):
    seen(breach, name)


def customer(i):
    about = {"customer_number": f"C00000000{i:02}", "name": f"Person {i}", "birth_date": "1980-01-02"}
    return about | {"phone": f"+86138001380{i:02}", "email": f"person-{i}@example.org"}


@ROOT
def test_a_copy_is_robbed_and_never_the_vault_itself(breach, tmp_path):
    folder = anwen.create(tmp_path / "v", "commerce").path
    code, _, _, said = breach("--vault", str(folder), "--theft", "officer")
    assert code == REQUEST, said  # nobody is in it
    with anwen.open(folder, key="importer", purpose="intake") as importer:
        importer.put_many("customer", [customer(i) for i in range(12)])
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    words = [word for name in ("liar", "writer", "officer", "inference") for word in ("--theft", name)]
    code, found, _, said = breach("--vault", str(folder), *words)
    assert code == OK, said
    assert [t["name"] for t in found["thefts"]] == ["liar", "writer", "officer"]
    assert found["people"] == 12
    assert "inference" in found["skipped"]
    assert theft(found, "writer")["figures"]["values_answered"] == 498  # of 500: two token keys cost one each
    assert "0 recorded puts asked again, as they were" in theft(found, "writer")["tried"]
    assert "NO WRITE WAS TRIED" in theft(found, "liar")["promise"]  # its bound on writes would hold of nothing
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    with folder.joinpath("run.lock").open("ab") as held:
        import fcntl

        fcntl.flock(held, fcntl.LOCK_EX)
        code, _, _, said = breach("--vault", str(folder), "--theft", "officer")
    assert code == REQUEST
    assert "running already" in said
    shutil.rmtree(folder)


@ROOT
@POSTGRESQL
def test_any_vault_is_compared_with_other_systems_where_made_up_people_stand_in_for_its_own(breach, tmp_path):
    folder = anwen.create(tmp_path / "v", "commerce").path
    with anwen.open(folder, key="importer", purpose="intake") as importer:
        importer.put_many("customer", [customer(i) for i in range(12)])
    words = ("--vault", str(folder), "--hours", "2", "--theft", "dump", "--theft", "key")
    code, found, page, said = breach(*words, usual=())
    assert code == OK, said
    ran = [c for c in found["compared"] if c["how"] == "run here"]
    assert {c["system"] for c in ran} >= {"PostgreSQL", "PostgreSQL with pgcrypto"}
    assert all(c["login"] == c["people"] == 12 for c in ran)
    assert "People exposed by one theft" in page
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("lie", "disputed", "stored", "said"),
    [
        ("one", 3, 0, ""), ("one", 2, 1, "1 disputed writes were stored"), ("both", 2, 0, "1 of 3 writes failed"),
        ("two-faced", 1, 2, ""), ("two-faced", 0, 0, "3 of 3 writes failed"), ("slow", 0, 3, ""),
        ("silent", 3, 0, "3 writes were disputed"),
    ],
)  # fmt: skip
def test_writes_have_to_end_as_the_lie_demands_and_not_to_fail_for_another_reason(lie, disputed, stored, said):
    came = Theft("liar", "", 0, "", "")
    _check_writes(came, lie, 3, disputed, stored)
    assert said in "".join(came.broken) if said else not came.broken


@pytest.mark.parametrize(
    ("times", "width", "most"),
    [([], 10, 0), ([5], 10, 1), ([0, 9.9], 10, 2), ([0, 10], 10, 1), ([0, 4, 8, 12, 30, 31], 9, 3), ([3, 1, 2], 1, 1)],
)
def test_the_most_in_any_window_is_found_wherever_it_begins(times, width, most):
    assert most_in_window(times, width) == most
