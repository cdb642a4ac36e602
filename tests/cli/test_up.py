"""`anwen up` and the demo as processes: started, stopped and killed, they leave nothing behind that blocks the next run."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anwen import supervisor
from anwen.cli.failures import DENIED, OK, UNAVAILABLE
from anwen.errors import UnavailableError
from anwen.vault_folder import create

SERVICES = (b"anwen.keeper.app", b"anwen.node.app")
ANWEN = [sys.executable, "-c", "from anwen.cli.main import main; main()"]


def leftovers(folder):
    """Ids of keepers and nodes whose folder lies below `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # gone
        if set(SERVICES) & set(arguments) and any(a.startswith(os.fsencode(folder) + b"/") for a in arguments):
            found.append(int(entry.name))
    return found


@pytest.fixture
def started(tmp_path):
    """`anwen up --json` in a process of its own, ready."""
    folder = create(tmp_path / "v", "police").path.resolve()
    process = subprocess.Popen(
        [*ANWEN, "up", str(folder), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.folder = folder
    process.ready = json.loads(process.stdout.readline())
    yield process
    if process.poll() is None:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_serves_until_it_is_told_to_stop(started, number):
    assert set(started.ready["addresses"]) == {"keeper a", "keeper b", "keeper c", "node a"}
    assert len(leftovers(started.folder)) == 4
    started.send_signal(number)
    _, said = started.communicate(timeout=30)
    assert started.returncode == OK
    assert "single_machine" in said
    assert leftovers(started.folder) == []


def test_when_one_process_ends_all_are_stopped_and_it_says_which(started):
    os.kill(leftovers(started.folder)[0], signal.SIGKILL)
    _, said = started.communicate(timeout=30)
    assert started.returncode == UNAVAILABLE
    assert "ended by itself" in said
    assert leftovers(started.folder) == []


def test_up_works_after_it_was_killed(started):
    started.kill()
    started.communicate()
    again = subprocess.Popen(
        [*ANWEN, "--vault", str(started.folder), "up", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert json.loads(again.stdout.readline())["ready"]
    again.send_signal(signal.SIGTERM)
    _, said = again.communicate(timeout=30)
    assert again.returncode == OK, said
    assert leftovers(started.folder) == []


def test_what_up_started_ends_by_itself_when_up_is_killed(started):
    started.kill()
    started.communicate()
    with (started.folder / "run.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # comes when the last process that holds it has ended
    assert leftovers(started.folder) == []


async def test_a_process_that_never_says_that_it_is_ready_is_named_and_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "START_S", 0.2)
    async with supervisor.Running(tmp_path.joinpath("lock").open("ab")) as running:
        with pytest.raises(UnavailableError, match=r"^keeper a did not start within 0\.2 s$"):
            await running.start("keeper a", "none", tmp_path, print, ["sh", "-c", "exec sleep 60"])
        process = running.processes["keeper a"]
    assert process.returncode == -signal.SIGTERM


DEMO = Path(__file__).parents[2] / "examples" / "demo" / "run.py"


def demo(folder):
    return subprocess.Popen(
        [sys.executable, str(DEMO), str(folder), "--people", "1000"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def interrupted(folder, number, after):
    """Run the demo up to the line that begins with `after`, then signal it; return what it said."""
    process = demo(folder)
    said = []
    for line in process.stdout:
        said.append(line)
        if after in line:
            time.sleep(0.3)
            process.send_signal(number)
            break
    rest, _ = process.communicate(timeout=60)
    return process.returncode, "".join(said) + rest


def test_the_demo_works_again_and_again_however_it_was_interrupted(tmp_path):
    folder = (tmp_path / "demo").resolve()
    code, said = interrupted(folder, signal.SIGINT, "Start: three keepers")
    assert code == 130, said
    code, _ = interrupted(folder, signal.SIGKILL, "anwen import person")
    assert code == -signal.SIGKILL
    process = demo(folder)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == OK, said
    assert leftovers(folder) == []
    assert "0 of 100 found" in said
    assert "100 of 100 found" in said
    assert "plaintext in the files" in said
    code, said = interrupted(folder, signal.SIGTERM, "anwen import person")  # a finished one is made anew
    assert code == 130, said
    assert leftovers(folder) == []


def test_a_ceremony_is_held_from_the_folder_of_one_keeper_and_changes_nothing_that_is_there(started, tmp_path):
    keys = {p: p.read_bytes() for p in started.folder.rglob("*.keys")}
    said = subprocess.run(
        [*ANWEN, "--json", "ceremony", str(started.folder / "keepers" / "b")],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (said.returncode, json.loads(said.stdout)["keepers"]) == (OK, ["a", "b", "c"])
    assert {p: p.read_bytes() for p in started.folder.rglob("*.keys")} == keys
    assert len(keys) == 12
    stranger = shutil.copytree(started.folder / "keepers" / "b", tmp_path / "stranger")
    (stranger / "identity.key").write_bytes(os.urandom(32))
    said = subprocess.run([*ANWEN, "ceremony", str(stranger)], check=False, capture_output=True, text=True, timeout=60)
    assert said.returncode == DENIED
    assert "grant" in said.stderr
