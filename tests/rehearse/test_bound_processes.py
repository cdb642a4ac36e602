"""What a bound process is before it becomes the command it was started for."""

import subprocess
import sys
from pathlib import Path

from anwen.rehearse.bound import bound

SLACK = Path("/proc/self/timerslack_ns")


def test_threads_wake_as_late_as_was_asked():
    told = [
        int(subprocess.run(bound("cat", str(SLACK), slack_ns=ns), capture_output=True, check=True).stdout)
        for ns in (1_000_000, 0)
    ]
    assert told == [1_000_000, int(SLACK.read_text())]


def test_it_ends_with_whoever_started_it():
    starts = "import subprocess; from anwen.rehearse.bound import bound; subprocess.Popen(bound('sleep', '60'))"
    # returns when all who hold its pipe have ended
    subprocess.run([sys.executable, "-c", starts], capture_output=True, check=True, timeout=30)
