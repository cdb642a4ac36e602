"""Hypothesis profiles, fast by default, `ANWEN_HYPOTHESIS=deep` for `make deep`; which tests go together; figures."""

import os
import sys

import pytest
from hypothesis import HealthCheck, settings

_SLOW_MACHINE = [HealthCheck.too_slow]
settings.register_profile("fast", max_examples=50, deadline=None, suppress_health_check=_SLOW_MACHINE)
settings.register_profile("deep", max_examples=2000, deadline=None, suppress_health_check=_SLOW_MACHINE)
settings.load_profile(os.environ.get("ANWEN_HYPOTHESIS", "fast"))


ZONES = {"test_outage.py", "test_zones.py", "test_overload.py", "test_floods.py"}
"""Files whose callers wait for an answer within a deadline: no two of them at once."""


def pytest_collection_modifyitems(items):
    """Keep in one process, where there are two, what shares a module's fixtures, a cluster, or a need for quiet."""
    for item in items:
        alone = "zones" if item.path.name in ZONES else "cassandra" if "members" in item.fixturenames else ""
        item.add_marker(pytest.mark.xdist_group(alone or item.path.name))


@pytest.fixture
def say(capsys):
    """Writes a line of figures that a test measured, also where pytest keeps output to itself."""

    def write(line):
        with capsys.disabled():
            sys.stdout.write(f"\n{line}")

    return write
