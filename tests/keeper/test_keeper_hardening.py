"""What another process gets out of a running keeper: no core, no memory, no environment, nothing on swap.

Root reads everything (docs/threat-model.md); so the keeper and whoever reads run without a capability, as one user.
Beside each keeper stands a process without its defences, from which the same attack gets what it wants.
"""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from test_keeper_process import Processes

IPC_LOCK, PR_CAPBSET_DROP = 14, 24
OPEN_TO_ALL = "import sys, time; sys.stderr.write('none of its peers\\n'); sys.stderr.flush(); time.sleep(60)"
READERS = {
    "environ": "print(len(open('/proc/{pid}/environ', 'rb').read()))",
    "mem": (
        "at = int(open('/proc/{pid}/maps').read().partition('-')[0], 16); file = open('/proc/{pid}/mem', 'rb', 0); "
        "file.seek(at); print(len(file.read(64)))"
    ),
}


PREPARE = f"""
import ctypes, os, resource, sys
if os.geteuid() == 0 and sys.argv[1] == "without rights":
    for capability in range(64):
        ctypes.CDLL(None).prctl({PR_CAPBSET_DROP}, capability, 0, 0, 0)
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Cores as large as they may be, and perhaps no capability left to a process of root's; then the command itself."""


def prepared(command, *, rights):
    return [sys.executable, "-c", PREPARE, "with rights" if rights else "without rights", *command]


@contextlib.contextmanager
def running(command, folder, *, rights=True):
    """A process, past its start: a keeper without peers says so again and again."""
    process = subprocess.Popen(prepared(command, rights=rights), stderr=subprocess.PIPE, cwd=folder)
    timer = threading.Timer(30, process.kill)
    timer.start()
    try:
        assert any(b"none of its peers" in line for line in process.stderr), "it did not start"
        yield process
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.fixture
def keeper(tmp_path):
    return [sys.executable, "-m", "anwen.keeper.app", str(Processes(tmp_path / "vault").path("a"))]


@pytest.fixture
def open_to_all():
    return [sys.executable, "-c", OPEN_TO_ALL]


def read_by_another_process(pid, what):
    command = prepared([sys.executable, "-c", READERS[what].format(pid=pid)], rights=False)
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


@pytest.mark.parametrize("what", READERS)
def test_no_other_process_reads_a_keepers_memory_or_environment_not_even_of_its_own_user(
    keeper, open_to_all, tmp_path, what
):
    with running(open_to_all, tmp_path, rights=False) as process:
        if read_by_another_process(process.pid, what).returncode:
            pytest.skip("on this machine no process reads another's, defended or not")
    with running(keeper, tmp_path, rights=False) as process:
        done = read_by_another_process(process.pid, what)
    assert (done.returncode, done.stdout) == (1, "")
    assert "PermissionError" in done.stderr


def ended_by(command, folder, number):
    """How the process ended, and what it left in its folder."""
    folder.mkdir()
    with running(command, folder) as process:
        process.send_signal(number)
        _, status = os.waitpid(process.pid, 0)
        process.returncode = -os.WTERMSIG(status)
    return status, [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV], ids=lambda n: n.name)
def test_a_killed_keeper_leaves_no_core(keeper, open_to_all, tmp_path, number):
    status, _ = ended_by(open_to_all, tmp_path / "open", number)
    if not os.WCOREDUMP(status):
        pytest.skip("on this machine no process leaves a core, defended or not")
    status, left = ended_by(keeper, tmp_path / "keeper", number)
    assert os.WTERMSIG(status) == number
    assert not os.WCOREDUMP(status)
    assert left == []


def test_a_keepers_memory_is_locked_where_the_machine_allows_it(keeper, tmp_path):
    own = Path("/proc/self/status").read_text()
    may_lock = int(own.split("CapEff:")[1].split()[0], 16) >> IPC_LOCK & 1
    if not may_lock and resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] != resource.RLIM_INFINITY:
        pytest.skip("locked memory is limited here: the keeper warns, or does not start (check_swap)")
    with running(keeper, tmp_path) as process:
        status = Path(f"/proc/{process.pid}/status").read_text()
    locked_kb, used_kb = (int(status.split(f"{name}:")[1].split()[0]) for name in ("VmLck", "VmRSS"))
    assert locked_kb > used_kb, "all that it uses, and what it will"
