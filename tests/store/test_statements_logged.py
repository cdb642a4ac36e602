"""Side doors of the engines: every statement logged, the write-ahead and commit logs, the data files, hints, statistics.

A real vault puts, changes, finds, opens and deletes people whose values are then looked for, in every plain encoding, in all
that the engine has on its disk. A value that somebody else writes there in clear is found, or the search proves nothing.
"""

import asyncio
import contextlib
import re
import time

import pytest
from cassandra_members import connected
from postgresql_server import execute, fresh_settings, needs_server, running_server
from test_every_cell import person

import anwen
from anwen import vault_folder
from anwen.rehearse.breach.search import Needles, files_below, forms, search

PLANTED = "Planted Canary Qzv"


def marked(i):
    """A person whose values turn up nowhere by chance."""
    name, address = f"Marked Canary Qzv {chr(65 + i)}", f"{i} Canary Qzv Road, Beijing"
    return person(i, name=name, address=address, phone=f"+8613977700{i}77", email=f"canary.qzv{i}@example.org")


PEOPLE = [marked(i) for i in range(6)]
CORRECTED = {"phone": "+8613912345678", "email": "corrected.qzv@example.org", "address": "7 Corrected Qzv Road"}
VALUES = sorted({v for row in PEOPLE for v in row.values()} | set(CORRECTED.values()))
NEEDLES = Needles(VALUES)
PLANTED_NEEDLES = Needles([PLANTED])


def seeded(folder, people):
    """People put one by one and together, changed, found, opened by a clerk; the last one deleted."""
    with anwen.open(folder.path, key="importer", purpose="intake") as importer:
        stored = [importer.put("person", people[0]), *importer.put_many("person", people[1:])]
        assert [r.error for r in stored] == [None] * len(people)
    with anwen.open(folder.path, key="records_officer", purpose="rectification") as officer:
        records = officer.get([r.record for r in stored])
        officer.update(records[0], "contact", CORRECTED)
        officer.for_purpose("deletion").delete([records[-1]])
    with anwen.open(folder.path, key="case_worker", purpose="casework") as clerk:
        for row in people[:-1]:
            (found,) = clerk.find("person", id_number=row["id_number"])
            assert clerk.open([found], ["identity"])[0]["name"] == row["name"]


def found_in(paths, needles=NEEDLES):
    """Which of the values stand in these files. The files must be some, and not empty."""
    found, size = set(), 0
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # compacted into another while we look
            more, read = search([path], needles)
            found, size = found | more, size + read
    assert size > 0
    return [needles._values[i] for i in sorted(found)]


def test_each_value_is_looked_for_in_raw_hexadecimal_base64_and_both_utf_16(tmp_path):
    path = tmp_path / "file"
    for value in VALUES:
        assert {value.encode(), value.encode("utf-16-le"), value.encode().hex().encode()} <= set(forms(value))
        for form in forms(value):
            path.write_bytes(b"\0x" + form + b"x\0")
            assert found_in([path]), value


@needs_server
def test_no_value_reaches_postgresqls_statements_log_or_files(tmp_path):
    with running_server() as server:
        execute(server, "ALTER SYSTEM SET log_statement = 'all'", "ALTER SYSTEM SET log_min_duration_statement = 0",
                "ALTER SYSTEM SET log_parameter_max_length = -1", "ALTER SYSTEM SET log_error_verbosity = verbose",
                "SELECT pg_reload_conf()")  # fmt: skip
        settings = fresh_settings(server)
        name = settings["conninfo"].rpartition("=")[2]
        folder = anwen.create(tmp_path / "v", "police", shape=vault_folder.Shape(engine="postgresql", store=settings))
        seeded(folder, PEOPLE)
        execute(server, "ANALYZE", "CHECKPOINT", dbname=name)
        said = (server.folder / "log").read_bytes()
        assert said.count(b"INSERT INTO") > 10
        assert len(re.findall(rb"\$\d+ = '(\{\")?\\+x[0-9a-f]{32}", said)) > 50, "values that are bound are logged too"
        assert found_in(files_below(server.folder)) == []
        execute(server, "CREATE TABLE planted (value text)", f"INSERT INTO planted VALUES ('{PLANTED}')", "ANALYZE",
                "CHECKPOINT", dbname=name)  # fmt: skip
        for place in ("data/base", "data/pg_wal"):
            assert found_in(files_below(server.folder / place), PLANTED_NEEDLES) == [PLANTED], place
        assert found_in([server.folder / "log"], PLANTED_NEEDLES) == [PLANTED]


async def plant(members, keyspace):
    """A value in clear, in a table that nobody compresses."""
    store = await connected(members, keyspace=keyspace)
    try:
        await store._session.define(
            f"CREATE TABLE {keyspace}.planted (value text PRIMARY KEY) WITH compression = {{'enabled': false}}"
        )
        await store._session.run("INSERT INTO {ks}.planted (value) VALUES (?)", [(PLANTED,)])
    finally:
        await store.close()


def made(members, tmp_path, keyspace):
    shape = vault_folder.Shape(engine="cassandra", store=members.settings("a") | {"keyspace": keyspace})
    return anwen.create(tmp_path / "v", "police", shape=shape)


def everything(members, folder=""):
    """All files of all members, or those in one folder of each."""
    return [p for zone in members.zones for p in files_below(members.folder / zone / folder)]


def test_no_value_reaches_cassandras_commit_log_or_any_other_file(members, tmp_path):
    seeded(made(members, tmp_path, "side_doors"), PEOPLE)
    assert found_in(everything(members)) == []
    asyncio.run(plant(members, "side_doors"))
    assert found_in(everything(members, "commitlog"), PLANTED_NEEDLES) == [PLANTED]


@pytest.mark.deep
def test_no_value_reaches_cassandras_hints_for_a_lost_member_or_its_sstables(members, tmp_path):
    folder = made(members, tmp_path, "back_doors")
    seeded(folder, PEOPLE[:3])
    members.kill("c")
    try:
        seeded(folder, PEOPLE[3:])
        asyncio.run(plant(members, "back_doors"))
        until = time.monotonic() + 30
        while not any(PLANTED.encode() in p.read_bytes() for p in everything(members, "hints")):  # every ten seconds
            assert time.monotonic() < until
            time.sleep(0.5)
        assert found_in(everything(members, "hints")) == []
        members.kill("b")
        asyncio.run(members.start_member("b"))  # what its commit log holds is written to tables
    finally:
        asyncio.run(members.start_member("c"))
    assert found_in(everything(members, "data"), PLANTED_NEEDLES) == [PLANTED]
    assert found_in(everything(members)) == []
