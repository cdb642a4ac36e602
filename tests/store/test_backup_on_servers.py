"""`anwen backup` and `restore` of a whole vault whose store is on servers, by the command line, into another database."""

import json
from itertools import count

import pytest
from postgresql_server import fresh_settings, needs_server, running_server
from tests.e2e.conftest import person

import anwen
from anwen import vault_folder
from anwen.cli import main
from anwen.cli.failures import OK, REQUEST
from anwen.vault_folder import Shape

_numbers = count()


@pytest.fixture
def postgresql():
    with running_server() as server:
        yield lambda: fresh_settings(server)


@pytest.fixture
def cassandra(members):
    return lambda: members.settings("a") | {"keyspace": f"restored_{next(_numbers)}"}


@pytest.mark.parametrize("engine", [pytest.param("postgresql", marks=needs_server), "cassandra"])
def test_people_put_changed_and_deleted_are_after_a_restore_what_they_were(engine, request, tmp_path, capsys):
    empty = request.getfixturevalue(engine)
    folder = vault_folder.create(tmp_path / "v", "police", shape=Shape(engine=engine, store=empty()))

    def run(*arguments):
        code = main.run(["--vault", str(folder.path), *map(str, arguments)])
        return code, capsys.readouterr()

    people = [person(i) for i in range(9)]
    with anwen.open(folder.path, key="importer", purpose="intake") as importer:
        put = [r.record for r in importer.put_many("person", people)]
    contact = {"address": "1 New Street", "email": "new@example.org"}
    with anwen.open(folder.path, key="records_officer", purpose="rectification") as officer:
        for phone in ("+8613900000001", "+8613900000002"):
            officer.update(officer.get(put[:1])[0], "contact", contact | {"phone": phone})
        officer.for_purpose("deletion").delete(officer.get(put[1:2]))
    code, said = run("backup", tmp_path / "b")
    assert code == OK, said.err
    code, said = run("restore", tmp_path / "b")
    assert (code, "the store is not empty" in said.err) == (REQUEST, True)
    for settings in folder.path.glob("nodes/*/node.json"):
        settings.write_text(json.dumps(json.loads(settings.read_bytes()) | {"store": empty()}))
    code, said = run("restore", tmp_path / "b")
    assert code == OK, said.err
    with anwen.open(folder.path, key="case_worker", purpose="casework") as clerk:
        found = clerk.get(put, ["identity"], collection="person")
        assert [r is None for r in found] == [i == 1 for i in range(9)]
        there = [r for r in found if r]
        names = [p["name"] for i, p in enumerate(people) if i != 1]
        assert [v["name"] for v in clerk.open(there, ["identity"])] == names
        (changed,) = clerk.find("person", phone="+8613900000002")
        assert (changed.id, clerk.open([changed], ["contact"])[0]["address"]) == (put[0], "1 New Street")
        assert clerk.find("person", phone="+8613900000001") == clerk.find("person", phone=people[1]["phone"]) == []
    with anwen.open(folder.path, key="importer", purpose="intake") as importer:
        assert [r.error is None for r in importer.put_many("person", [people[2], people[1]])] == [False, True]
