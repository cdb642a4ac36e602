"""Import, find, open, list, update, delete, export, audit, doctor against a running vault."""

import json

import pytest
from tests.cli.conftest import person, write_csv

from anwen.cli.failures import DENIED, FAILED, INTEGRITY, OK, REQUEST, UNAVAILABLE, USAGE

CLERK = ("--as", "case_worker", "--purpose")
OFFICER = ("--as", "records_officer", "--purpose")


def people(numbers):
    """Residents whose values hold no comma."""
    return [person(i, address=f"Road {i} Beijing") for i in numbers]


@pytest.fixture(scope="module")
def imported(police, tmp_path_factory):
    """Fifty residents and a hundred incidents about them."""
    from anwen.cli import main

    folder = tmp_path_factory.mktemp("files")
    residents = people(range(50))
    persons = write_csv(folder / "persons.csv", residents)
    incidents = write_csv(
        folder / "incidents.csv",
        [
            {
                "person_id_number": residents[i % 50]["id_number"], "case_number": f"C-{i:05}", "kind": "theft",
                "occurred": "2024-05-01T10:00:00Z", "place": "Market", "description": f"Case {i}",
            }
            for i in range(100)
        ],
    )  # fmt: skip
    for collection, file in (("person", persons), ("incident", incidents)):
        assert (
            main.run(["--vault", str(police), "import", collection, str(file), "--as", "importer", "--processes", "1"])
            == OK
        )
    return residents


def test_find_shows_masked_values_and_open_shows_all(anwen, imported):
    phone = imported[7]["phone"]
    found = anwen("find", "person", "--stdin", *CLERK, "overview", "--json", stdin=f"phone={phone}\n")
    assert found.code == OK
    (row,) = found.rows
    assert row["values"] == {"id_number": f"•••• {imported[7]['id_number'][-4:]}", "phone": f"•••• {phone[-4:]}"}
    opened = anwen("open", row["record"], "--classes", "identity", *CLERK, "casework", "--json")
    assert opened.rows[0]["values"]["name"] == imported[7]["name"]
    assert "address" not in opened.out
    listed = anwen("list", row["subject"], "incident", "--open", "report", *CLERK, "casework", "--json")
    assert sorted(r["values"]["case_number"] for r in listed.rows) == ["C-00007", "C-00057"]


def test_a_field_without_value_is_asked_for_and_ids_open_nothing(anwen, imported):
    found = anwen("find", "person", "phone", "--ids", *CLERK, "overview", "--json", stdin=f"{imported[3]['phone']}\n")
    assert [set(r) for r in found.rows] == [{"record", "subject", "version"}]
    assert imported[3]["phone"] not in found.out + found.err


def test_a_table_for_a_pipe_is_tab_separated(anwen, imported):
    found = anwen("find", "person", f"id_number={imported[4]['id_number']}", "--open", "contact", *CLERK, "casework")
    head, row = found.out.splitlines()
    assert head.split("\t")[:3] == ["record", "subject", "version"]
    assert imported[4]["email"] in row.split("\t")


def test_what_is_asked_wrongly_says_what_to_do(anwen, imported):
    assert anwen("find", "person", "phone=1", "--as", "case_worker").code == USAGE  # two purposes would fit
    assert anwen("find", "person", "phone=1").code == USAGE  # nobody asks
    for arguments, said in (
        (("find", "nobody", "x=1", *CLERK, "casework"), "no collection 'nobody'"),
        (("find", "person", "shoe=1", *CLERK, "casework"), "no field shoe"),
        (("find", "person", "email=a@b.example", *CLERK, "casework"), "not an indexed field"),
        (("find", "person", "phone=12", *CLERK, "casework"), "phone"),
        (("open", "00" * 16, "--classes", "identity", *CLERK, "casework"), "not there"),
        (("open", "zz", "--classes", "identity", *CLERK, "casework"), "32 hexadecimal"),
        (("find", "person", "phone=1", "--as", "nobody"), "no principal"),
        (("find", "person", "phone=1", *CLERK, "nothing"), "no purpose"),
    ):
        done = anwen(*arguments)
        assert (done.code, said in done.err, "hint: " in done.err) == (REQUEST, True, True), done.err
    denied = anwen("find", "person", "phone=+8613800000001", *CLERK, "oversight")
    assert (denied.code, "error[grant]" in denied.err) == (DENIED, True)


def test_errors_are_machine_readable_too(anwen, imported):
    done = anwen("open", "00" * 16, "--classes", "identity", *CLERK, "casework", "--json")
    assert done.rows[-1]["error"]["code"] == "not_found"
    assert done.rows[-1]["error"]["hint"]


def test_a_keeper_refuses_what_the_purpose_may_not_open(anwen, imported):
    record = anwen("find", "person", f"phone={imported[9]['phone']}", "--ids", *CLERK, "overview", "--json").rows[0][
        "record"
    ]
    done = anwen("open", record, "--classes", "identity", *CLERK, "overview")
    assert (done.code, "error[grant]" in done.err) == (DENIED, True)


def test_a_fault_in_mid_open_shows_no_value(anwen, imported, monkeypatch):
    from anwen.client import opening

    real = opening.open_cell

    def open_cell(vault, cell, value):
        opened = real(vault, cell, value)
        raise ValueError(f"cannot use {opened}")

    monkeypatch.setattr(opening, "open_cell", open_cell)
    done = anwen("find", "person", f"phone={imported[30]['phone']}", "--open", "identity", *CLERK, "casework")
    assert (done.code, "error[error]: ValueError at anwen/client/" in done.err) == (FAILED, True)
    assert imported[30]["name"] not in done.out + done.err
    assert imported[30]["id_number"] not in done.out + done.err


def test_update_replaces_a_class_and_keeps_what_is_asked_to_stay(anwen, imported):
    pair = f"id_number={imported[11]['id_number']}"
    record = anwen("find", "person", pair, "--ids", *OFFICER, "rectification", "--json").rows[0]["record"]
    done = anwen(
        "update", record, "contact", "--keep", "--stdin", *OFFICER, "rectification", stdin="email=new@example.org\n"
    )
    assert done.code == OK, done.err
    (now,) = anwen("open", record, "--classes", "contact", *OFFICER, "rectification", "--json").rows
    assert now["values"]["email"] == "new@example.org"
    assert now["values"]["phone"] == imported[11]["phone"]
    anwen("update", record, "contact", "email=only@example.org", *OFFICER, "rectification")
    (now,) = anwen("open", record, "--classes", "contact", *OFFICER, "rectification", "--json").rows
    assert now["values"] == {"email": "only@example.org"}


def test_delete_asks_and_then_nothing_opens(anwen, imported):
    pair = f"id_number={imported[12]['id_number']}"
    record = anwen("find", "person", pair, "--ids", *OFFICER, "deletion", "--json").rows[0]["record"]
    assert anwen("delete", record, *OFFICER, "deletion", stdin="n\n").code == 130
    assert anwen("delete", record, "--yes", *OFFICER, "deletion").code == OK
    assert anwen("open", record, "--classes", "identity", *CLERK, "casework").code == REQUEST
    assert anwen("find", "person", pair, "--ids", *CLERK, "casework", "--json").rows == []


@pytest.mark.parametrize("name", ["list.csv", "list.ndjson", "list.parquet"])
def test_an_export_is_sealed_and_opens_with_the_recipients_key(anwen, imported, tmp_path, name):
    anwen("recipient-key", tmp_path / "me")
    sealed, plain = tmp_path / f"{name}.sealed", tmp_path / name
    export = ("export", "person", "--classes", "identity.masked", "--as", "analyst", "--limit", "20", "--to")
    done = anwen(*export, sealed, "--recipient", tmp_path / "me.pub", "--json")
    assert (done.code, done.rows[0]["written"]) == (OK, 20)
    assert sealed.stat().st_mode & 0o777 == 0o600
    assert "••••".encode() not in sealed.read_bytes()
    assert anwen("unseal", sealed, "--key", tmp_path / "me", "--to", plain).code == OK
    assert plain.stat().st_mode & 0o777 == 0o600
    if name.endswith("ndjson"):
        rows = [json.loads(line) for line in plain.read_text().splitlines()]
        assert {row["id_number"][:4] for row in rows} == {"••••"}
        assert anwen(*export, tmp_path / "plain.ndjson", "--plain").code == OK
        assert sorted((tmp_path / "plain.ndjson").read_text()) == sorted(plain.read_text())
    assert anwen(*export, sealed, "--recipient", tmp_path / "me.pub").code == REQUEST  # exists
    sealed.write_bytes(sealed.read_bytes()[:-1])
    assert anwen("unseal", sealed, "--key", tmp_path / "me", "--to", tmp_path / "again").code == INTEGRITY
    assert not (tmp_path / "again").exists()


def test_an_export_needs_a_recipient_or_the_word_plain(anwen, imported, tmp_path):
    export = ("export", "person", "--classes", "identity.masked", "--as", "analyst", "--to", tmp_path / "x.csv")
    assert anwen(*export).code == USAGE
    assert not list(tmp_path.iterdir())


def test_an_export_beyond_the_budget_leaves_no_file_and_says_how_many_fit(anwen, imported, tmp_path):
    done = anwen("export", "person", "--classes", "identity", "--as", "dpo", "--plain", "--to", tmp_path / "x.csv")
    assert done.code == DENIED
    assert "error[budget]" in done.err
    assert "the partial file is removed" in done.err
    assert "fewer than 64 fit now" in done.err
    assert not list(tmp_path.iterdir())


def test_audit_tells_who_has_seen_a_person_and_that_the_logs_are_whole(anwen, imported):
    phone = imported[20]["phone"]
    (row,) = anwen("find", "person", f"phone={phone}", *CLERK, "overview", "--json").rows
    anwen("open", row["record"], "--classes", "identity", *CLERK, "casework")
    seen = anwen("audit", "subject", row["subject"], "--as", "dpo", "--json").rows
    opens = [s for s in seen if s["principal"] == "case_worker"]
    assert [(s["principal"], s["purpose"]) for s in opens] == [("case_worker", "overview"), ("case_worker", "casework")]
    assert opens[1]["classes"] == ["person.identity"]
    by_number = anwen(
        "audit", "subject", "--stdin", "--as", "dpo", "--json", stdin=f"id_number={imported[20]['id_number']}"
    )
    assert [s for s in by_number.rows if s["principal"] == "case_worker"] == opens
    verified = anwen("audit", "verify", "--as", "dpo", "--json")
    assert (verified.code, [v["ok"] for v in verified.rows]) == (OK, [True] * 3)
    last = anwen("audit", "log", "--last", "3", "--keeper", "b", "--as", "dpo", "--json").rows
    assert len(last) == 3
    assert anwen("audit", "verify", *CLERK, "casework").code == DENIED


def test_doctor_finds_a_running_vault_well_and_a_readable_key_not(anwen, police, imported):
    done = anwen("doctor", "--json")
    levels = {row["what"]: row["level"] for row in done.rows}
    assert done.code == OK, done.rows
    assert {levels[w] for w in ("policy", "secret keys", "keeper a", "keeper b", "keeper c", "node a")} == {"ok"}
    assert levels["zones"] == "warn"
    key = police / "principals" / "analyst.key"
    key.chmod(0o644)
    try:
        done = anwen("doctor")
        assert done.code != OK
        assert "analyst.key" in done.out
    finally:
        key.chmod(0o600)


def test_a_vault_that_does_not_run_is_unavailable(anwen, tmp_path):
    anwen("init", tmp_path / "still", vault=tmp_path)
    done = anwen("find", "person", "phone=+8613800000001", *CLERK, "casework", vault=tmp_path / "still")
    assert (done.code, "anwen up" in done.err) == (UNAVAILABLE, True)
    assert anwen("doctor", vault=tmp_path / "still").code == UNAVAILABLE


def test_embedded_works_without_processes(anwen, tmp_path):
    anwen("init", tmp_path / "small", vault=tmp_path)
    file = write_csv(tmp_path / "p.csv", people(range(5)))
    vault = tmp_path / "small"
    done = anwen("import", "person", file, "--as", "importer", "--embedded", "--json", vault=vault)
    assert (done.code, done.rows[0]["stored"]) == (OK, 5), done.err
    found = anwen(
        "find", "person", f"phone={person(3)['phone']}", *CLERK, "overview", "--embedded", "--json", vault=vault
    )
    assert len(found.rows) == 1
