"""Hypothesis profiles: fast by default, `ANWEN_HYPOTHESIS=deep` for `make deep`; and a way to show figures."""

import os
import sys

import pytest
from hypothesis import HealthCheck, settings

_SLOW_MACHINE = [HealthCheck.too_slow]
settings.register_profile("fast", max_examples=50, deadline=None, suppress_health_check=_SLOW_MACHINE)
settings.register_profile("deep", max_examples=2000, deadline=None, suppress_health_check=_SLOW_MACHINE)
settings.load_profile(os.environ.get("ANWEN_HYPOTHESIS", "fast"))


@pytest.fixture
def say(capsys):
    """Writes a line of figures that a test measured, also where pytest keeps output to itself."""

    def write(line):
        with capsys.disabled():
            sys.stdout.write(f"\n{line}")

    return write
