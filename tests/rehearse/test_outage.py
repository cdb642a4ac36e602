"""`anwen rehearse outage` on real zones: it finds nothing where nothing is wrong, sees every break, leaves nothing behind.

The long ones, with every fault and other engines, are deep.
"""

import asyncio
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from anwen.cli.failures import FAILED, OK, STOPPED
from anwen.rehearse import cassandra, patroni, postgresql
from anwen.rehearse.outage import steps
from anwen.rehearse.outage.databases import database
from anwen.rehearse.outage.faults import FAULTS, Fault, NotProvedError
from anwen.rehearse.outage.figures import OK as ACKNOWLEDGED
from anwen.rehearse.outage.network import Loopback, Namespaces, network
from anwen.rehearse.outage.processors import Processors, taken_s
from anwen.rehearse.outage.rehearsal import Settings
from anwen.rehearse.outage.rehearsal import rehearse as rehearsed

ANWEN = [sys.executable, "-c", "from anwen.cli.main import main; main()", "rehearse", "outage"]
APART = os.geteuid() == 0 and shutil.which("ip") is not None
TIMEOUT_S = 900


@pytest.fixture
def rehearse(tmp_path):
    """Runs the command; returns its exit code, figures and page. Nothing may be left when it has ended."""

    def call(*arguments):
        files = tmp_path / "out.json", tmp_path / "out.html"
        command = [*ANWEN, *arguments, "--figures", str(files[0]), "--report", str(files[1])]
        environment = os.environ | {"TMPDIR": str(tmp_path)}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            out, said = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.terminate()
            process.wait()
        assert left_behind(process.pid, tmp_path) == []
        assert files[0].exists(), said
        return process.returncode, json.loads(files[0].read_text()), files[1].read_text(), out + said

    return call


def left_behind(pid, folder):
    """What a rehearsal of this process id still has: folders, mounts, namespaces, links, processes in its folder."""
    found = [str(p) for p in folder.glob("anwen-outage-*")]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if str(folder) in line]
    found += [str(p) for p in Path("/sys/fs/cgroup").rglob(f"anw{pid}-*")]
    if APART:
        for command in (["ip", "netns", "list"], ["ip", "-brief", "link"]):
            lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
            found += [line for line in lines if line.startswith(f"anw{pid}")]
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"{folder}/anwen-outage-".encode() in entry.read_bytes():
                found.append(str(entry))
        except OSError:
            continue  # gone
    return found


def test_a_zone_killed_and_cut_off_loses_nothing_and_callers_see_no_error(rehearse):
    code, found, page, said = rehearse("--quick", *([] if APART else ["--fault", "kill", "--fault", "hang"]))
    assert code == OK, said
    assert [r["fault"] for r in found["runs"]] == ["kill", "partition" if APART else "hang"]
    for run in found["runs"]:
        assert run["proof"]
        assert run["operations"] > 300
        assert set(run["lost"]) == {"all zones", "without a", "without b", "without c"}
        assert run["at"]["fault"] < run["at"]["restore"] < run["at"]["whole"] < run["at"]["end"]
        assert all(0.1 < run["processor_ms"][part] < 200 for part in ("keeper", "node"))
        assert run["processor_ms"]["database"] == 0  # one file, which the nodes read
    assert found["people"] > 300
    assert f"store sqlite; its promise: {found['promise']}" in said
    assert page.count("<svg") == len(found["runs"])


def weak(failures):
    """A fault that does nothing, and does not take hold the first so many times."""
    left = iter(range(failures))

    async def begin(*_):
        if next(left, None) is not None:
            raise NotProvedError("it is as it was")
        return "nothing was done"

    async def restore(*_):
        pass

    return Fault("nothing", begin, restore)


def test_what_was_written_when_a_fault_did_not_take_hold_is_looked_for_and_the_repeat_sees_no_error_of_it(monkeypatch):
    monkeypatch.setitem(FAULTS, "kill", weak(1))
    monkeypatch.setitem(FAULTS, "hang", weak(2))
    settings = Settings("sqlite", ("kill", "hang"), ("a",), 1, 1, before_s=2, after_s=1, every_s=0.2, people=100)
    outcome = asyncio.run(rehearsed(settings, lambda _: None))
    assert outcome.void == ["kill a: it is as it was", *["hang a: it is as it was"] * 2]
    assert outcome.broken == ["hang a: did not take hold twice"]
    (run,) = outcome.runs
    assert run.figures.errors == {}
    put = {o.key for o in run.operations if o.kind == "write" and o.outcome == ACKNOWLEDGED and len(o.key) == 18}
    assert outcome.people > 70 + 2 * len(put)  # of 100, 30 are hot; all four runs put people


SHORT = ("--quick", "--seconds", "1", "--fault", "kill")


def test_a_row_deleted_behind_the_vaults_back_is_seen_as_a_loss_by_a_load_of_one_kind_too(rehearse):
    code, found, page, said = rehearse(*SHORT, "--break", "forget", "--kind", "write")
    assert code == FAILED, said
    assert list(found["runs"][0]["gap_s"]) == found["kinds"] == ["write"]
    assert [len(keys) for keys in found["runs"][0]["lost"].values()] == [1] * 4
    assert "1 acknowledged writes lost" in page


@pytest.mark.deep
@pytest.mark.parametrize(
    ("name", "seen"), [("acknowledge-early", "acknowledged writes lost"), ("stale", "stale reads")]
)
def test_a_client_that_lies_about_writes_or_remembers_reads_is_seen(rehearse, name, seen):
    code, found, _, said = rehearse(*SHORT, "--break", name)
    assert code == FAILED, said
    assert any(seen in b for b in found["broken"])


def test_the_steps_that_the_list_of_dependencies_marks_are_those_that_are_done():
    text = (Path(__file__).parents[2] / "docs" / "dependencies-of-start.md").read_text()
    marked = [line.split("|")[1].removeprefix(" ● ").strip() for line in text.splitlines() if line.startswith("| ● ")]
    assert sorted(marked) == sorted(dict(steps.STEPS))


def test_without_a_zone_a_client_is_added_and_a_node_moved_and_nothing_is_lost(rehearse):
    code, found, _, said = rehearse("--quick", "--fault", "steps")
    assert code == OK, said
    (run,) = found["runs"]
    assert run["proof"] == f"with zones b and c alone: {'; '.join(dict(steps.STEPS))}"


def test_a_rehearsal_says_of_an_upgrade_that_it_is_of_the_same_build():
    docs = Path(__file__).parents[2] / "docs"
    for said in (FAULTS["upgrade"].title, *((docs / f"{n}.md").read_text() for n in ("upgrade", "rehearse-outage"))):
        assert "same build" in said.replace("*", "")


def test_the_drivers_log_is_as_loud_after_a_rehearsal_as_before(tmp_path, monkeypatch):
    class Members:
        def __init__(self, *_, **__):
            pass

        async def start(self):
            assert driver.level == logging.CRITICAL  # members that go down are no news

        async def stop(self):
            pass

    driver = logging.getLogger("cassandra")
    monkeypatch.setattr(driver, "level", logging.WARNING)
    monkeypatch.setattr(cassandra, "Cluster", Members)
    servers = database("cassandra", tmp_path, {}, lambda _: [])
    asyncio.run(servers.start())
    asyncio.run(servers.stop())
    assert driver.level == logging.WARNING


def test_a_rehearsal_that_is_told_to_stop_takes_everything_with_it(tmp_path):
    process = subprocess.Popen(
        [*ANWEN, "--quick", "--fault", "kill"], env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr.readline()  # the network is made
        while sum(what.startswith("/proc") for what in left_behind(process.pid, tmp_path)) < 3:  # keepers
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == STOPPED, said
    assert left_behind(process.pid, tmp_path) == []


def test_where_no_namespaces_can_be_made_zones_share_the_loopback(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert isinstance(network("abc"), Loopback)


def round_trip_s(links, zone, start=""):
    """How long a port of a zone where nobody listens takes to refuse; None: silence."""
    code = (
        "import socket, sys, time\nbefore = time.monotonic()\n"
        "try: socket.create_connection((sys.argv[1], 9), 1)\n"
        "except ConnectionRefusedError: print(time.monotonic() - before)\n"
        "except OSError: pass"
    )
    prefix = links.prefix(start) if start else []
    command = [*prefix, sys.executable, "-c", code, links.hosts[zone]]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(said) if said else None


@pytest.mark.skipif(not APART, reason="needs root with `ip netns`")
def test_links_are_cut_slowed_and_mended_and_all_of_it_is_removed():
    links = Namespaces(["a", "b"])
    try:
        assert round_trip_s(links, "a") < 0.1
        links.cut("a")
        assert round_trip_s(links, "a") is None
        links.mend("a")
        links.cut("a", clients=False)
        assert round_trip_s(links, "a") < 0.1
        assert round_trip_s(links, "a", start="b") is None
        links.mend("a")
        assert round_trip_s(links, "a", start="b") < 0.1
        links.slow("a")
        assert 0.19 < min(round_trip_s(links, "a") or 9 for _ in range(8)) < 0.3
        links.mend("a")
        assert min(round_trip_s(links, "a") or 9 for _ in range(8)) < 0.1
    finally:
        links.close()
    left = subprocess.run(
        "ip netns list; ip -brief link", shell=True, check=True, capture_output=True, text=True
    ).stdout
    assert links.name not in left


SPIN = "import time\nwhile time.process_time() < 0.5: pass\nprint(time.monotonic())"


@pytest.mark.skipif(not APART, reason="needs root")
def test_processor_time_is_that_of_the_process_asked_for_and_nothing_once_it_has_ended():
    busy = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert 0.28 <= taken_s(process.pid) < 3
        process.communicate(b"\n")
    assert taken_s(process.pid) == 0


def test_a_zone_that_has_much_to_do_takes_no_more_of_a_processor_than_the_others():
    shared = Processors(["busy", "calm"])
    if not shared.prefix("busy"):
        pytest.skip(shared.title)
    group = Path(shared.prefix("calm")[-1]).parent
    one = ["taskset", "-c", str(min(os.sched_getaffinity(0)))]
    try:
        names = ["busy"] * 4 + ["calm"]
        command = [sys.executable, "-S", "-c", SPIN]
        spinning = [
            subprocess.Popen([*shared.prefix(n), *one, *command], stdout=subprocess.PIPE, text=True) for n in names
        ]
        *busy, calm = [float(p.communicate(timeout=60)[0]) for p in spinning]
    finally:
        shared.close()
    assert calm < min(busy)  # one of two, not one of five
    assert not group.exists()


@pytest.mark.deep
def test_every_fault_on_the_file_of_one_machine(rehearse):
    code, found, _, said = rehearse("--quick", *(a for name in FAULTS for a in ("--fault", name)))
    assert {r["fault"] for r in found["runs"]} | set(found["skipped"]) == set(FAULTS)
    assert found["void"] == []
    assert not found["lost"] + found["duplicates"]
    assert not any(r["stale"] or any(r["lost"].values()) for r in found["runs"]), said
    two = next(r for r in found["runs"] if r["fault"] == "two")
    assert two["broken"] == []  # it stops, and says so
    assert code in (OK, FAILED)  # a slow machine may see errors while a hung node holds the file


@pytest.mark.deep
@pytest.mark.parametrize("store", [cassandra, postgresql, patroni])
def test_a_zone_killed_over_servers_loses_nothing(rehearse, store):
    if reason := store.missing():
        pytest.skip(reason)
    name = store.__name__.rpartition(".")[2]
    _, found, _, said = rehearse("--quick", "--store", name, "--fault", "kill", "--every", "0.5")
    (run,) = found["runs"]
    assert not found["lost"] + found["duplicates"], said
    assert not run["stale"]
    assert not any(run["lost"].values())
