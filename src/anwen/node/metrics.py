"""What a node shows of itself beside its requests: the engine behind it and the policy it follows."""

from __future__ import annotations

from anwen.model import NodeInfo
from anwen.net.metrics import Metrics
from anwen.node.service import Node


def metrics_of(node: Node, info: NodeInfo) -> Metrics:
    """Return the counts of a node."""
    found = Metrics("node", info.id, info.zone, node.operations)
    found.gauge("anwen_store_info", "The engine behind the node.", lambda: 1, engine=node.policy.engine)
    found.follow_policy(lambda: node.policy.version, lambda: node.policy.expires_s)
    return found
