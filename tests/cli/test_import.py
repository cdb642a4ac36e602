"""Imports: every row is stored or named, and an interrupted import goes on without losing or doubling any."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from tests.cli.conftest import person, write_csv

from anwen.cli import import_part, import_state
from anwen.cli.failures import OK, REQUEST
from anwen.cli.import_part import ranges
from anwen.cli.import_state import ImportFolder, PartState, Plan
from anwen.errors import BudgetError, DisputeError, RefusedError, UnavailableError
from anwen.files import FileFormat, read_rows

IMPORT = ("--as", "importer", "--json")
ONE = (*IMPORT, "--processes", "1")
CANARY = "not-a-number-canary"


def people(numbers, **changes):
    return [person(i, address=f"Road {i} Beijing", **changes) for i in numbers]


def stored(anwen, numbers):
    """How many of these people are in the vault, and how often the one most often there."""
    from anwen.access import connect

    vault = anwen.vault
    with connect(vault, key="importer", purpose="registration") as v:
        found = v.find_many("person", "id_number", [person(i)["id_number"] for i in numbers], ["_index"])
    return sum(bool(f) for f in found), max(len(f) for f in found)


@pytest.fixture
def here(anwen, police):
    anwen.vault = police
    return anwen


def test_bad_rows_are_named_without_values_and_good_ones_stored(here, tmp_path):
    rows = people(range(1000, 1010))
    rows[2]["phone"] = CANARY
    rows[5]["id_number"] = "110101199003070000"
    rows[7]["id_number"] = rows[6]["id_number"]
    del rows[8]["name"]
    file = write_csv(tmp_path / "p.csv", rows)
    done = here("import", "person", file, *IMPORT)
    assert done.code == OK, done.err
    totals = done.rows[0]
    assert (totals["read"], totals["stored"], totals["rejected"]) == (10, 6, 4)
    rejects = [json.loads(line) for line in (tmp_path / "p.csv.rejects").read_text().splitlines()]
    conflict = {7, 8} & {r["row"] for r in rejects}
    assert len(conflict) == 1  # one of two rows with the same number
    assert [(r["row"], r["field"], r["code"]) for r in rejects if r["row"] not in conflict] == [
        (3, "phone", "malformed"), (6, "id_number", "malformed"), (9, "name", "malformed"),
    ]  # fmt: skip
    assert (tmp_path / "p.csv.rejects").stat().st_mode & 0o777 == 0o600
    assert CANARY not in (tmp_path / "p.csv.rejects").read_text() + done.out + done.err
    assert not (tmp_path / "p.csv.rejects.import").exists()


def test_columns_are_mapped_or_left_out_and_a_wrong_header_is_refused_first(here, tmp_path):
    rows = [{"ID": p["id_number"], "Full name": p["name"], "shoe": "42"} for p in people(range(1020, 1025))]
    file = write_csv(tmp_path / "p.csv", rows)
    refused = here("import", "person", file, *ONE)
    assert (refused.code, "--map COLUMN=FIELD" in refused.err) == (REQUEST, True)
    assert [p.name for p in tmp_path.iterdir()] == ["p.csv"]
    done = here("import", "person", file, "--map", "ID=id_number", "--map", "Full name=name", "--skip", "shoe", *ONE)
    assert (done.code, done.rows[0]["stored"]) == (OK, 5), done.err


def test_a_file_without_rows_is_imported_at_once(here, tmp_path):
    file = write_csv(tmp_path / "p.csv", people([1]))
    file.write_text(file.read_text().splitlines()[0] + "\n")
    done = here("import", "person", file, *ONE)
    assert (done.code, done.rows[0]["read"], done.rows[0]["done"]) == (OK, 0, True)


def test_ndjson_and_parquet(here, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    (tmp_path / "p.ndjson").write_text("".join(json.dumps(p) + "\n" for p in people(range(1030, 1040))))
    assert here("import", "person", tmp_path / "p.ndjson", *ONE).rows[0]["stored"] == 10
    parquet.write_table(pyarrow.Table.from_pylist(people(range(1040, 1050))), tmp_path / "p.parquet")
    assert here("import", "person", tmp_path / "p.parquet", *ONE).rows[0]["stored"] == 10


def test_a_record_for_an_unknown_person_is_rejected(here, tmp_path):
    file = write_csv(tmp_path / "i.csv", [
        {"person_id_number": person(4999)["id_number"], "case_number": "U-1", "kind": "x", "occurred": "2024-05-01T10:00:00Z"}
    ])  # fmt: skip
    done = here("import", "incident", file, *ONE)
    assert done.rows[0]["reasons"] == {"not_found": 1}


def start(police, file, *more):
    arguments = [
        sys.executable,
        "-c",
        "from anwen.cli.main import main; main()",
        "--vault",
        str(police),
        "import",
        "person",
    ]
    return subprocess.Popen(
        [*arguments, str(file), *IMPORT, "--batch", "32", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def progress(file, parts=2):
    """How many rows the interrupted import has noted."""
    folder, done = ImportFolder(file.with_name(file.name + ".rejects")), 0
    for part in range(parts):
        try:
            done += folder.load(part).counts["read"]
        except (OSError, ValueError):
            return 0
    return done


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_import_goes_on_and_stores_each_person_once(here, police, tmp_path, kill):
    base = {signal.SIGINT: 2000, signal.SIGTERM: 2600, signal.SIGKILL: 3200}[kill]
    numbers = range(base, base + 400)
    file = write_csv(tmp_path / "p.csv", people(numbers))
    running = start(police, file)
    until = time.monotonic() + 60
    while progress(file) < 64 and running.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    running.send_signal(kill)
    _, err = running.communicate(timeout=60)
    if kill != signal.SIGKILL:
        assert running.returncode == 130, err
        assert "--resume" in err
    else:
        wait_for_workers(file)
    again = here("import", "person", file, *IMPORT)
    assert (again.code, "--resume" in again.err) == (REQUEST, True)  # it says so, and asks to decide
    done = here("import", "person", file, "--resume", *IMPORT)
    assert done.code == OK, done.err
    totals = done.rows[0]
    assert totals["read"] == totals["stored"] + totals["already"] == 400
    assert totals["rejected"] == 0
    assert totals["already"] <= (2 * 2 * 32 if kill == signal.SIGKILL else 0)
    assert stored(here, numbers) == (400, 1)
    assert not (tmp_path / "p.csv.rejects.import").exists()


def test_rows_whose_answer_was_not_noted_are_not_stored_twice_without_a_unique_field(here, tmp_path):
    """As a kill leaves it that comes between an answer and its note."""
    (one,) = people([3900])
    assert here("import", "person", write_csv(tmp_path / "p.csv", [one]), *ONE).code == OK
    times = [f"2024-05-01T10:{i:02}:00Z" for i in range(40)]
    rows = [{"person_id_number": one["id_number"], "kind": "theft", "occurred": t} for t in times]
    file, rejects = write_csv(tmp_path / "i.csv", rows), tmp_path / "i.csv.rejects"
    job = one_part(here, file, rejects, 16, "incident", "registration")
    assert import_part.run_parts(job, lambda part, state: None) is None
    ImportFolder(rejects).save(0, PartState())
    done = here("import", "incident", file, "--resume", *IMPORT)
    assert (done.rows[0]["stored"], done.rows[0]["already"], done.rows[0]["rejected"]) == (0, 40, 0), done.err
    assert len(incidents_of(here, one)) == 40


def incidents_of(here, one):
    from anwen.access import connect

    with connect(here.vault, key="case_worker", purpose="casework") as vault:
        (found,) = vault.find("person", id_number=one["id_number"])
        return vault.list_subject(found.subject, "incident")


def test_of_rows_that_are_put_again_one_that_was_deleted_is_rejected_and_one_that_is_anothers_too(here, tmp_path):
    from anwen.access import connect

    one, other, third = people(range(3901, 3904))
    file, rejects = write_csv(tmp_path / "p.csv", [one, third]), tmp_path / "p.csv.rejects"
    job = one_part(here, file, rejects, 16)
    assert here("import", "person", write_csv(tmp_path / "q.csv", [other, third]), *ONE).rows[0]["stored"] == 2
    assert import_part.run_parts(job, lambda part, state: None) is None
    with connect(here.vault, key="records_officer", purpose="deletion") as vault:
        vault.delete(vault.find("person", ["_index"], id_number=one["id_number"]))
    ImportFolder(rejects).save(0, PartState())
    done = here("import", "person", file, "--resume", *IMPORT)
    assert (done.rows[0]["reasons"], done.rows[0]["already"]) == ({"refused": 1, "conflict": 1}, 0), done.err


def wait_for_workers(file):
    """Workers notice that their parent is gone, and end; the lock is the parent's, so nothing else waits for them."""
    until, last = time.monotonic() + 30, -1
    while time.monotonic() < until:
        now = progress(file)
        if now == last:
            return
        last = now
        time.sleep(0.5)


def test_a_spent_budget_stops_cleanly_and_the_rest_follows(here, police, tmp_path, monkeypatch):
    from anwen.client.vault import AsyncVault

    numbers = range(4000, 4200)
    file = write_csv(tmp_path / "p.csv", people(numbers))
    real, calls = AsyncVault.put_many, []

    async def put_many(self, collection, rows, **keys):
        calls.append(len(rows))
        if len(calls) == 3:
            raise BudgetError("write: 100 of 100", retry_after_s=1200)
        return await real(self, collection, rows, **keys)

    monkeypatch.setattr(AsyncVault, "put_many", put_many)
    rejects = tmp_path / "p.csv.rejects"
    jobs = one_part(here, file, rejects, 32)
    assert import_part.run_parts(jobs, lambda part, state: None).code == "budget"
    noted = ImportFolder(rejects).load(0)
    assert noted.counts["stored"] == 64
    assert noted.stored == [(96, 127)]  # the batch behind the refused one was stored, and is not sent again
    done = here("import", "person", file, "--resume", *IMPORT)
    assert (done.rows[0]["stored"], done.rows[0]["already"], done.rows[0]["rejected"]) == (200, 0, 0), done.err
    assert stored(here, numbers) == (200, 1)


@pytest.mark.parametrize(
    ("error", "base"),
    [(BudgetError("spent"), 5000), (UnavailableError("no answer"), 5200), (DisputeError("x"), 5400)],
    ids=["budget", "unavailable", "dispute"],
)
def test_a_second_pass_that_fails_stops_an_import_that_goes_on_with_the_rows_left(
    here, tmp_path, monkeypatch, error, base
):
    from anwen.access import connect
    from anwen.client.writing import Writer

    name = f"Common {error.code.title()}"
    with connect(here.vault, key="importer", purpose="intake") as v:
        assert not any(r.error for r in v.put_many("person", people(range(base, base + 60), name=name)))
    rows = [*people(range(base + 60, base + 70)), *people(range(base + 70, base + 75), name=name)]
    file, rejects = write_csv(tmp_path / "p.csv", rows), tmp_path / "p.csv.rejects"
    real, calls = Writer._put, []

    async def put(self, purpose, plain):
        calls.append(len(plain))
        if len(calls) == 2:
            raise error
        return await real(self, purpose, plain)

    monkeypatch.setattr(Writer, "_put", put)
    job = one_part(here, file, rejects, 32)
    assert import_part.run_parts(job, lambda part, state: None).code == error.code
    noted = ImportFolder(rejects).load(0)
    assert (calls, sum(b - a + 1 for a, b in noted.stored), noted.done) == ([15, 5], 10, 0)
    done = here("import", "person", file, "--resume", *ONE)
    assert (done.rows[0]["stored"], done.rows[0]["already"], done.rows[0]["rejected"]) == (15, 0, 0), done.err
    assert stored(here, range(base + 60, base + 75)) == (15, 1)


def test_what_keepers_refuse_in_a_second_pass_takes_no_other_row_with_it(here, tmp_path, monkeypatch):
    from anwen.access import connect
    from anwen.client.writing import Writer

    with connect(here.vault, key="importer", purpose="intake") as v:
        assert not any(r.error for r in v.put_many("person", people(range(5600, 5660), name="Common Refused")))
    rows = [*people(range(5660, 5670)), *people(range(5670, 5675), name="Common Refused")]
    file, rejects = write_csv(tmp_path / "p.csv", rows), tmp_path / "p.csv.rejects"
    real, calls, refused = Writer._put, [], []

    async def put(self, purpose, plain):
        calls.append(len(plain))
        refused.extend(row.record for row in plain[:1] if len(calls) == 2)
        if any(row.record in refused for row in plain):
            raise RefusedError("not opened")
        return await real(self, purpose, plain)

    monkeypatch.setattr(Writer, "_put", put)
    assert import_part.run_parts(one_part(here, file, rejects, 32), lambda part, state: None) is None
    counts = ImportFolder(rejects).load(0).counts
    assert (calls[:2], counts["stored"], counts["rejected"]) == ([15, 5], 14, 1)
    assert stored(here, range(5660, 5675)) == (14, 1)


def one_part(here, file, rejects, batch, collection="person", purpose="intake"):
    """Plan an import in one part, as the command does, and return its job."""
    from anwen.cli import importing
    from anwen.vault_folder import VaultFolder

    policy = VaultFolder(here.vault).policy()
    size, head = import_state.fingerprint(file)
    plan = Plan(str(file), size, head, policy.vault.hex(), collection, "importer", purpose, FileFormat.CSV, {}, batch)
    kept = ImportFolder(rejects)
    with kept.lock():
        plan = importing._plan(kept, plan, policy, 1, resume=False, restart=False)
    return import_part.Job(here.vault, "importer", plan, (0,), rejects)


@pytest.mark.parametrize(("rows", "processes", "parts"), [(1, 2, 1), (3, 2, 2), (64, 1, 1), (500, 1, 8), (1000, 3, 16)])
def test_a_plan_deals_every_row_once_from_all_over_the_file(tmp_path, monkeypatch, rows, processes, parts):
    monkeypatch.setattr(import_state, "PART_ROWS", 64)
    monkeypatch.setattr(import_state, "MOST_SPANS", 256)
    file = write_csv(tmp_path / "p.csv", people(range(rows)))
    plan = Plan(str(file), 0, "", "", "person", "", "", FileFormat.CSV, {}, 1).cut(processes)
    dealt = [[r.number for r in plan.in_order(read_rows(file, part))] for part in plan.parts]
    assert (len(dealt), plan.rows) == (parts, rows)
    assert sorted(n for part in dealt for n in part) == list(range(1, rows + 1))
    for part, numbers in zip(plan.parts, dealt, strict=True):
        assert [r.number for r in plan.in_order(read_rows(file, part))] == numbers  # whoever goes on finds them so
    if rows >= 500:  # neighbours in a part are as far from each other as chance has it: a third of the file
        apart = [abs(a - b) for part in dealt for a, b in itertools.pairwise(part)]
        assert abs(sum(apart) / len(apart) / rows - 1 / 3) < 0.06
        assert max(map(len, dealt)) <= 2 * 64


def test_a_sorted_file_is_put_in_random_order_and_its_rejects_named_in_that_of_the_file(here, tmp_path, monkeypatch):
    from anwen.client.vault import AsyncVault

    numbers = range(4600, 4700)
    file = write_csv(tmp_path / "p.csv", [*people(numbers), *people(range(4700, 4704), phone=CANARY), *people([4704])])
    real, order = AsyncVault.put_many, []

    async def put_many(self, collection, rows, **keys):
        order.extend(row["id_number"] for row in rows)
        return await real(self, collection, rows, **keys)

    monkeypatch.setattr(AsyncVault, "put_many", put_many)
    job = one_part(here, file, tmp_path / "p.csv.rejects", 16)
    assert import_part.run_parts(job, lambda part, state: None) is None
    assert (len(order), order == sorted(order)) == (105, False)
    done = here("import", "person", file, "--resume", *IMPORT)
    assert (done.rows[0]["stored"], done.rows[0]["rejected"]) == (101, 4), done.err
    named = [json.loads(line)["row"] for line in (tmp_path / "p.csv.rejects").read_text().splitlines()]
    assert named == [101, 102, 103, 104]


def test_another_file_does_not_continue_an_import(here, tmp_path):
    file = write_csv(tmp_path / "p.csv", people(range(4300, 4310)))
    one_part(here, file, tmp_path / "p.csv.rejects", 5)
    write_csv(file, people(range(4300, 4312)))
    refused = here("import", "person", file, "--resume", *ONE)
    assert (refused.code, "another file" in refused.err) == (REQUEST, True)
    assert here("import", "person", file, "--restart", *ONE).rows[0]["stored"] == 12


def test_two_imports_of_one_file_exclude_each_other(here, tmp_path):
    file = write_csv(tmp_path / "p.csv", people(range(4320, 4325)))
    with ImportFolder(tmp_path / "p.csv.rejects").lock():
        done = here("import", "person", file, *ONE)
    assert (done.code, "is running" in done.err) == (REQUEST, True)


def test_a_part_state_survives_writing(tmp_path):
    folder = ImportFolder(tmp_path / "r")
    folder.path.mkdir()
    state = PartState(3, stored=[(5, 6)], rejects_bytes=12)
    folder.save(0, state)
    assert folder.load(0) == state


def test_numbers_as_ranges():
    assert ranges([]) == []
    assert ranges([1, 2, 3, 7, 9, 10]) == [(1, 3), (7, 7), (9, 10)]


def test_the_process_of_a_part_that_dies_is_reported(here, police, tmp_path):
    file = write_csv(tmp_path / "p.csv", people(range(4400, 4900)))
    running = start(police, file)
    until = time.monotonic() + 60
    while progress(file) < 32 and running.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    children = [int(p) for p in children_of(running.pid)]
    os.kill(children[-1], signal.SIGKILL)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 5, err
    assert "ended by itself" in err
    assert here("import", "person", file, "--resume", *IMPORT).code == OK
    assert stored(here, range(4400, 4900)) == (500, 1)


def children_of(pid):
    """Workers of an import: children that are no resource tracker."""
    from pathlib import Path

    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [p for p in found if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]
