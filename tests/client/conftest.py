"""One embedded vault for all tests here that need one; each brings people of its own."""

import itertools

import pytest
from client_rig import ClientRig, person

NUMBERS = itertools.count(1, 200)


@pytest.fixture(scope="session")
def running_rig(tmp_path_factory):
    made = ClientRig(tmp_path_factory.mktemp("client") / "police")
    yield made
    made.close()


@pytest.fixture
def rig(running_rig):
    yield running_rig
    running_rig.end_clients()


@pytest.fixture
def base():
    """200 people's numbers that no other test uses."""
    return next(NUMBERS)


@pytest.fixture
def people(rig, base):
    """Ten people, stored while nobody lies."""
    rows = [person(base + i) for i in range(10)]
    assert all(r.error is None for r in rig.connect("importer", "intake").put_many("person", rows))
    return rows
