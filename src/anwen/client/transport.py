"""How requests reach keepers and nodes: over pinned TLS, or, in an embedded vault, by a call."""

from __future__ import annotations

from typing import Protocol

from anwen.model import Policy
from anwen.net.connection import Pool


class Transport(Protocol):
    """Carries one request to one recipient, named "keeper/ID" or "node/ID"."""

    async def call(self, recipient: str, op: str, grant: str, body: bytes, timeout_s: float) -> bytes:
        """Return the answer's body.

        Raises: the AnwenError that the recipient answered; UnavailableError when it does not answer in time.
        """

    async def close(self) -> None:
        """Let go of all connections."""


class HttpsTransport:
    """TLS 1.3 to the addresses of the signed policy, each known by the hash of its key."""

    def __init__(self, policy: Policy) -> None:
        self._pools = {f"keeper/{k.id}": Pool(k.address, k.tls_pin) for k in policy.keepers.values()}
        self._pools |= {f"node/{n.id}": Pool(n.address, n.tls_pin) for n in policy.nodes.values()}

    async def call(self, recipient: str, op: str, grant: str, body: bytes, timeout_s: float) -> bytes:
        return await self._pools[recipient].post(f"/v1/{op}", f"Anwen {grant}", body, timeout_s)

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.aclose()
