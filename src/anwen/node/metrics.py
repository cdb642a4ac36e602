"""What a node shows of itself beside its requests: the engine behind it and the policy it follows."""

from __future__ import annotations

from pathlib import Path

from anwen.model import NodeInfo
from anwen.net.metrics import Metrics
from anwen.node.service import Node
from anwen.store.base import Store


def metrics_of(node: Node, info: NodeInfo, store: Store, data: Path) -> Metrics:
    """Return the counts of a node before `store`. `data`: what lies on the disk that it writes to."""
    found = Metrics("node", info.id, info.zone, node.operations)
    found.gauge("anwen_store_info", "The engine behind the node.", lambda: 1, engine=store.engine)
    found.gauge("anwen_store_members", "Members of the store that there are.", lambda: store.members()[1])
    found.gauge("anwen_store_members_up", "Of these, those that answer.", lambda: store.members()[0])
    found.follow_disk(data)
    found.follow_policy(lambda: node.policy.version, lambda: node.policy.expires_s)
    return found
