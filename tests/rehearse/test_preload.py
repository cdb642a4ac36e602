"""What a rehearsal puts into processes: clocks that somebody sets, and time that passes."""

import subprocess
import sys

import pytest

from anwen.rehearse import preload

SHOW = "import time; print(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), time.monotonic())"


def seen(*prefix):
    out = subprocess.run([*prefix, sys.executable, "-c", SHOW], check=True, capture_output=True, text=True).stdout
    return [float(word) for word in out.split()]


@pytest.mark.parametrize("passes", [False, True])
def test_a_clock_that_is_set_and_time_that_passes(tmp_path, passes):
    prefix = preload.prefix(tmp_path / "code", preload.clock(tmp_path / "clock", passes=passes))
    for ahead in (0, 3600, -50):
        (tmp_path / "clock").write_text(f"{ahead:+}")
        before, shown = seen(), seen(*prefix)
        moved = [round((b - a) / 10) * 10 for a, b in zip(before, shown, strict=True)]
        assert moved == [ahead, ahead * passes, 0]
