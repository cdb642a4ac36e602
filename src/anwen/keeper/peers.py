"""How a keeper reaches the other keepers: their peer listeners, each request signed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from anwen.keeper import statement
from anwen.keeper.folder import Identity
from anwen.model import Policy
from anwen.net.connection import Pool

PeerCall = Callable[[str, bytes], Awaitable[bytes]]
"""Takes a peer operation and its body; returns the keeper's answer or raises AnwenError."""
PEER_TIMEOUT_S = 5.0


class Peers:
    """Keepers' peer listeners, each known by its pinned key. They answer keepers alone: `identity` signs requests."""

    def __init__(self, policy: Policy, identity: Identity, timeout_s: float = PEER_TIMEOUT_S) -> None:
        self._identity, self._timeout_s = identity, timeout_s
        self._pools = {k.id: Pool(k.peer_address, k.tls_pin, limit=4) for k in policy.keepers.values()}
        self.calls: dict[str, PeerCall] = {keeper: self._caller(keeper) for keeper in self._pools}

    def _caller(self, keeper: str) -> PeerCall:
        async def call(op: str, body: bytes) -> bytes:
            authorization = f"Anwen {statement.sign_request(self._identity, keeper, op, body)}"
            return await self._pools[keeper].post(f"/v1/{op}", authorization, body, self._timeout_s)

        return call

    async def aclose(self) -> None:
        """Let go of all connections."""
        for pool in self._pools.values():
            await pool.aclose()
