"""A node for each test."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # vault_texts

from node_rig import NOW_S, POLICY, grant

from anwen.node.service import Node
from anwen.store.sqlite import SqliteStore


class Ask:
    """Sends requests with good grants unless told otherwise."""

    def __init__(self, node):
        self.node = node

    async def __call__(self, op, body, purpose="intake", **claims):
        return await self.node.handle(op, grant(body, purpose, **claims), body)


@pytest.fixture
async def node(tmp_path):
    store = SqliteStore(tmp_path / "anwen.sqlite")
    yield Node(POLICY, store, clock=lambda: NOW_S)
    await store.close()


@pytest.fixture
def ask(node):
    return Ask(node)
