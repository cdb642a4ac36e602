"""How a keeper reaches the other keepers: their peer listeners, each request signed."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterator, Mapping

from anwen.keeper import statement
from anwen.keeper.folder import Identity
from anwen.model import KeeperInfo, Policy
from anwen.net.connection import Pool

PeerCall = Callable[[str, bytes], Awaitable[bytes]]
"""Takes a peer operation and its body; returns the keeper's answer or raises AnwenError."""
PEER_TIMEOUT_S = 5.0
MAX_ANSWER_BYTES = 2**20


class Peers(Mapping[str, PeerCall]):
    """Peer listeners of all keepers that the policy in force names, each known by the key that it pins.

    They answer keepers alone: `identity` signs requests.
    """

    def __init__(self, identity: Identity, policy: Callable[[], Policy], timeout_s: float = PEER_TIMEOUT_S) -> None:
        self._identity, self._policy, self._timeout_s = identity, policy, timeout_s
        self._pools: dict[tuple[str, bytes], Pool] = {}

    def __getitem__(self, keeper: str) -> PeerCall:
        return functools.partial(self._ask, self._policy().keepers[keeper])

    def __iter__(self) -> Iterator[str]:
        return iter(self._policy().keepers)

    def __len__(self) -> int:
        return len(self._policy().keepers)

    async def _ask(self, keeper: KeeperInfo, op: str, body: bytes) -> bytes:
        place = (keeper.peer_address, keeper.tls_pin)
        if place not in self._pools:
            self._pools[place] = Pool(*place, limit=4, max_answer_bytes=MAX_ANSWER_BYTES)
        authorization = f"Anwen {statement.sign_request(self._identity, keeper.id, op, body)}"
        return await self._pools[place].post(f"/v1/{op}", authorization, body, self._timeout_s)

    async def aclose(self) -> None:
        """Let go of all connections."""
        for pool in self._pools.values():
            await pool.aclose()
