"""A vault of keepers for each test."""

import pytest
from keeper_rig import Rig


@pytest.fixture
async def rig(tmp_path):
    made = await Rig(tmp_path).start()
    yield made
    await made.close()
