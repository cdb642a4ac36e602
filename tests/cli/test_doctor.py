"""`anwen doctor` against a running vault: what each zone says, what peers say of it, and what a fault looks like."""

import asyncio
import contextlib
import dataclasses
import os
import shutil
import signal
import sqlite3
import time
from types import SimpleNamespace

import pytest
from tests.cli.conftest import person
from tests.e2e.conftest import running

import anwen as library
from anwen import supervisor, vault_folder
from anwen.cli import doctor_services
from anwen.cli.failures import INTEGRITY, OK, REQUEST, UNAVAILABLE
from anwen.client import inspecting
from anwen.errors import GrantError
from anwen.formats.wire import AT_LEAST, MEMBER_WHOLE, NO_STANDBY, STORE_COUNTS

DPO = ("--as", "dpo", "--json")


def by_what(done):
    return {row["what"]: row for row in done.rows}


def test_an_auditor_sees_keepers_their_logs_nodes_and_the_store(anwen, police):
    with library.connect(police, key="importer", purpose="intake") as vault:
        vault.put_many("person", [person(i) for i in range(600_000, 600_007)])
    done = anwen("doctor", *DPO)
    rows = by_what(done)
    assert done.code == OK, done.rows
    assert rows["store"]["text"].startswith("sqlite, one file: no zone promise")
    for keeper in "abc":
        assert rows[f"keeper {keeper}"]["zone"] == keeper
        assert "epoch 1, generation 1" in rows[f"keeper {keeper}"]["text"]
        others = ", ".join(sorted(set("abc") - {keeper}))
        assert f"now by {others}" in rows[f"log of keeper {keeper}"]["text"]
        assert rows[f"log of keeper {keeper}"]["level"] == "ok"
    assert int(rows["node a"]["text"].split()[0]) >= 7
    assert "synchronous=2" in rows["store of node a"]["text"]
    zones = [row["zone"] for row in done.rows if row["zone"]]
    assert zones == sorted(zones)


def test_whoever_may_not_audit_is_told_what_was_not_asked(anwen):
    rows = by_what(anwen("doctor", "--as", "importer", "--json"))
    assert rows["node a"]["text"].startswith("answers at")
    assert "audit" in rows["peers, store"]["text"]
    assert "store of node a" not in rows


@pytest.fixture
def office(police, tmp_path):
    """The vault's folder as somebody has it who runs nothing: the policies, and principals' keys."""
    copy = tmp_path / "office"
    shutil.copytree(police, copy, ignore=shutil.ignore_patterns("keepers", "nodes", "store"))
    return copy


def test_who_was_to_ask_and_cannot_fails(anwen, office):
    """A port that answers is no reason to call a vault well that nobody could ask."""
    (office / "principals" / "dpo.key").chmod(0o644)
    (office / "principals" / "importer.key").write_bytes(b"junk")
    elsewhere = office.parent / "dpo.key"
    for who, said in (
        ("dpo", "policy: dpo.key: mode 0644, expected 0600"),
        ("nobody", "not_found: no principal 'nobody'"),
        ("importer", "malformed: "),
        (str(elsewhere), f"not_found: {elsewhere}: no such key file"),
    ):
        done = anwen("doctor", "--as", who, "--json", vault=office)
        line = by_what(done)[f"--as {who}"]
        assert (line["level"], line["text"].startswith(said)) == ("fail", True), line
        assert done.code == REQUEST
        assert by_what(done)["keeper a"]["text"].startswith("answers at")  # what can be seen is


def test_keys_that_are_there_and_cannot_be_used_are_warned_of(anwen, office):
    keys = list((office / "principals").glob("*.key"))
    for key in keys:
        key.write_bytes(b"junk")
    line = by_what(anwen("doctor", "--json", vault=office))["peers, store"]
    assert (line["level"], "key of dpo: " in line["text"]) == ("warn", True), line
    for key in keys:
        key.unlink()
    assert by_what(anwen("doctor", "--json", vault=office))["peers, store"]["level"] == "ok"


def test_a_node_tells_auditors_alone_about_its_store(police):
    for key, purpose, told in (("dpo", "oversight", True), ("importer", "intake", False)):
        with library.connect(police, key=key, purpose=purpose) as vault:
            session = vault.session
            asked = inspecting.store_state(session, purpose, "a")
            if told:
                assert vault._loop.run(asked).engine == "sqlite"
            else:
                with pytest.raises(GrantError):
                    vault._loop.run(asked)


def test_keepers_and_sqlites_nodes_say_how_much_room_their_disks_have(anwen, police):
    free = shutil.disk_usage(police).free
    lines = by_what(anwen("doctor", "--as", "dpo", "--json", vault=police))
    for service in ("keeper a", "keeper b", "keeper c", "node a"):
        line = lines[f"disk of {service}"]
        assert line["level"] == ("ok" if free >= doctor_services.DISK_WARN_BYTES else "warn")
        assert float(line["text"].split(" GiB")[0]) == pytest.approx(free / 2**30, rel=0.2)
    assert doctor_services.disk("disk", doctor_services.DISK_WARN_BYTES - 1).level == "warn"


async def test_nodes_count_one_after_another_and_a_cut_count_is_called_at_least(monkeypatch):
    """Nodes of one store: each of their counts reads the same keys."""
    counting = []

    async def counted(_session, _purpose, node):
        counting.append(node)
        assert len(counting) == 1, "two at a time"
        await asyncio.sleep(0.3)
        counting.remove(node)
        counts = dict.fromkeys(STORE_COUNTS, 0) | {"records": 4_000_000}
        return inspecting.StoreState(7, int(time.time() * 1000), "cassandra", counts, (AT_LEAST,))

    monkeypatch.setattr(inspecting, "store_state", counted)
    policy = SimpleNamespace(version=7, engine="cassandra")
    asking = doctor_services._Asking(None, "oversight", audits=True)
    nodes = [SimpleNamespace(id=name) for name in "abc"]
    answers = await asyncio.gather(*(doctor_services._node(policy, asking, node) for node in nodes))
    for check, _ in answers:
        assert check.text.startswith("at least 4,000,000 records")
        assert check.level == "ok"
        assert "clock -0.0 s" in check.text or "clock +0.0 s" in check.text  # 0.3 s of counting are no offset


@pytest.mark.parametrize(
    ("engine", "settings", "expected"),
    [
        ("postgresql", ("fsync=on", "synchronous_standby_names=b"), [("ok", "store of node a")]),
        ("postgresql", (f"synchronous_standby_names={NO_STANDBY}", "fsync=on"), [("warn", "store of node a")]),
        ("cassandra", (f"member a={MEMBER_WHOLE}", f"member b={MEMBER_WHOLE}"), [("ok", "store of node a")]),
        ("cassandra", (f"member a={MEMBER_WHOLE}", "member b=down"), [("ok", "store of node a"), ("warn", "members, node a")]),
        ("sqlite", (), [("fail", "store of node a")]),
    ],
)  # fmt: skip
def test_what_a_node_says_of_its_store_is_warned_of(engine, settings, expected):
    state = inspecting.StoreState(1, 0, engine, {}, settings)
    found = doctor_services.store_lines("postgresql" if engine == "sqlite" else engine, "a", state)
    assert [(check.level, check.what) for check in found] == expected
    assert all("b down" in check.text for check in found if check.what.startswith("members"))


@pytest.fixture
def broken(tmp_path):
    """A vault of its own, to be broken, and its processes."""
    folder = vault_folder.create(tmp_path / "v", "police")
    with running(folder) as processes:
        yield folder, processes


def test_a_lost_keeper_fails_and_its_peers_say_that_it_does_not_cosign(anwen, broken):
    folder, processes = broken
    os.kill(processes.processes["keeper c"].pid, signal.SIGKILL)
    done = anwen("doctor", *DPO, vault=folder.path)
    rows = by_what(done)
    assert done.code == UNAVAILABLE
    assert (rows["keeper c"]["level"], rows["keeper a"]["level"]) == ("fail", "ok")
    assert (rows["log of keeper a"]["level"], rows["log of keeper b"]["level"]) == ("warn", "warn")
    assert "not by c" in rows["log of keeper a"]["text"]


def test_a_hung_keeper_fails_alone_and_its_peers_logs_are_not_taken_for_broken(anwen, broken):
    folder, processes = broken
    hung = processes.processes["keeper c"].pid
    os.kill(hung, signal.SIGSTOP)
    try:
        rows = by_what(anwen("doctor", *DPO, vault=folder.path))
    finally:
        os.kill(hung, signal.SIGCONT)
    assert {what for what, row in rows.items() if row["level"] == "fail"} == {"keeper c"}
    for keeper in "ab":
        said = rows[f"log of keeper {keeper}"]
        assert (said["level"], "not by c" in said["text"]) == ("warn", True), said


def test_keepers_without_the_keys_of_a_series_fail(anwen, tmp_path, monkeypatch):
    """As after an upgrade that brings a series: they run, and serve nothing."""
    folder = vault_folder.create(tmp_path / "v", "police")
    with monkeypatch.context() as before:
        before.setattr(supervisor, "SERIES", ("record", "index", "prehash"))
        with running(folder):
            done = anwen("doctor", *DPO, vault=folder.path)
            assert done.code == UNAVAILABLE
            for keeper in "abc":
                said = by_what(done)[f"keeper {keeper}"]
                assert (said["level"], said["text"]) == ("fail", "unavailable: no ceremony of series mask was held yet")
            signs = [("sign", "--yes", "--officer", folder.path / "officers" / f"officer{n}.key") for n in (1, 2)]
            for command in (("next",), *signs, ("publish",)):  # a policy does not wait for keys
                assert anwen("policy", *command, vault=folder.path).code == OK
    with running(folder):
        said = by_what(anwen("doctor", *DPO, vault=folder.path))["keeper a"]
        assert (said["level"], "policy 2" in said["text"]) == ("ok", True), said


def test_keepers_at_different_epochs_are_warned_of(anwen, monkeypatch):
    truly = inspecting.keeper_state

    async def ahead(session, purpose, keeper):
        header = await truly(session, purpose, keeper)
        return dataclasses.replace(header, epoch=2) if keeper == "c" else header

    assert "epochs" not in by_what(anwen("doctor", *DPO))
    monkeypatch.setattr(inspecting, "keeper_state", ahead)
    said = by_what(anwen("doctor", *DPO))["epochs"]
    assert (said["level"], "a 1 and 1, b 1 and 1, c 2 and 1" in said["text"]) == ("warn", True), said


def test_rows_written_with_a_keeper_down_are_counted(anwen, broken):
    folder, processes = broken
    os.kill(processes.processes["keeper c"].pid, signal.SIGKILL)
    with library.connect(folder.path, key="importer", purpose="intake") as vault:
        vault.put_many("person", [person(i) for i in range(3)])
    rows = by_what(anwen("doctor", *DPO, vault=folder.path))
    assert rows["rows of node a"]["text"].startswith("3 rows were written with a keeper down")


def test_a_sample_is_opened_and_what_does_not_open_is_named(anwen, broken):
    folder, processes = broken
    with library.connect(folder.path, key="importer", purpose="intake") as vault:
        records = [r.record for r in vault.put_many("person", [person(i) for i in range(8)])]
    clerk = ("doctor", "--as", "case_worker", "--purpose", "casework", "--json", "--sample")
    done = anwen(*clerk, "5", vault=folder.path)
    assert done.code == OK, done.rows
    assert by_what(done)["sample of person"]["text"] == "5 of 5 drawn open"
    assert by_what(done)["sample of incident"]["text"] == "0 of 0 drawn open"
    with contextlib.closing(sqlite3.connect(folder.path / "store" / "anwen.sqlite", isolation_level=None)) as db:
        for record in records[:2]:
            (sealed,) = db.execute("SELECT sealed FROM row WHERE record = ?", (bytes.fromhex(record),)).fetchone()
            spoiled = sealed[:-1] + bytes([sealed[-1] ^ 1])
            db.execute("UPDATE row SET sealed = ? WHERE record = ?", (spoiled, bytes.fromhex(record)))
    done = anwen(*clerk, "20", vault=folder.path)
    said = by_what(done)["sample of person"]
    assert (done.code, said["level"]) == (INTEGRITY, "fail")
    assert said["text"].startswith("2 of 8 do not open")
    assert all(record in said["text"] for record in records[:2])
    assert not any(record in said["text"] for record in records[2:])
    os.kill(processes.processes["keeper b"].pid, signal.SIGKILL)
    os.kill(processes.processes["keeper c"].pid, signal.SIGKILL)
    said = by_what(anwen(*clerk, "5", vault=folder.path))["sample of person"]
    assert (said["level"], "quorum" in said["text"]) == ("fail", True), said


def test_a_policy_that_services_lack_is_named(anwen, broken):
    folder, _ = broken
    copy = folder.path.parent / "copy"
    shutil.copytree(folder.path, copy, ignore=shutil.ignore_patterns("keepers", "nodes", "store"))  # they are at work
    toml = copy / "vault.toml"
    for arguments in (
        ["policy", "next", "--renew"],
        ["policy", "sign", "--officer", copy / "officers" / "officer1.key", "--yes"],
        ["policy", "sign", "--officer", copy / "officers" / "officer2.key", "--yes"],
    ):
        assert anwen(*arguments, vault=copy).code == OK, toml
    rows = by_what(anwen("doctor", *DPO, vault=copy))
    assert rows["node a"]["level"] == rows["keeper a"]["level"] == "warn"
    assert "not version 2; anwen policy publish" in rows["node a"]["text"]
