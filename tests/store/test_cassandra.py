"""The Cassandra engine on three real members: the contract, settings that are refused, several nodes at once."""

import pytest
from cassandra_members import connected, emptied
from contract import StoreContract


@pytest.fixture
async def store(members):
    engine = await connected(members)
    await emptied(engine)
    yield engine
    await engine.close()


class TestCassandra(StoreContract):
    pass
