"""A whole vault in one process: three keepers, a node and a SQLite store, reached by calls instead of connections.

For development and small uses: whoever takes this process takes everything, and every report says so.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import IO, Self

from anwen.errors import AnwenError, NotFoundError, UnavailableError
from anwen.keeper.peers import PeerCall
from anwen.keeper.service import Keeper
from anwen.node.app import load
from anwen.node.service import Node
from anwen.store import engines
from anwen.store.base import Store
from anwen.supervisor import ceremonies
from anwen.vault_folder import VaultFolder


class EmbeddedTransport:
    """Carries requests to keepers and a node in this process."""

    def __init__(self, lock: IO[bytes]) -> None:
        self._lock = lock
        self._keepers: dict[str, Keeper] = {}
        self._nodes: dict[str, Node] = {}
        self._stores: list[Store] = []
        self._cosigners: list[asyncio.Task[None]] = []

    @classmethod
    async def start(cls, folder: VaultFolder) -> Self:
        """Start what the folder's policy names. Raises ConflictError: it runs already, here or elsewhere."""
        policy = folder.policy()
        started = cls(folder.lock())
        try:
            for keeper in policy.keepers:
                peers = {k: started._peer(k) for k in policy.keepers if k != keeper}
                started._keepers[keeper] = Keeper.open(folder.path / "keepers" / keeper, peers=peers)
            await asyncio.gather(*(k.start() for k in started._keepers.values()))
            await ceremonies({k: started._peer(k) for k in policy.keepers})
            started._cosigners = [asyncio.create_task(_cosign(k)) for k in started._keepers.values()]
            for node in policy.nodes:
                path = folder.path / "nodes" / node
                _, _, settings = load(path)
                store = await engines.connect(policy.engine, settings, path)
                started._stores.append(store)
                started._nodes[node] = Node(policy, store)
        except BaseException:
            await started.close()
            raise
        return started

    def _peer(self, keeper: str) -> PeerCall:
        async def call(op: str, body: bytes) -> bytes:
            if keeper not in self._keepers:
                raise UnavailableError(f"keeper {keeper}: not started")
            return await self._keepers[keeper].handle_peer(op, body)

        return call

    async def call(self, recipient: str, op: str, grant: str, body: bytes, timeout_s: float) -> bytes:
        kind, _, name = recipient.partition("/")
        service = (self._keepers if kind == "keeper" else self._nodes).get(name)
        if service is None:
            raise NotFoundError(f"no {recipient}")
        try:
            async with asyncio.timeout(timeout_s):
                return await service.handle(op, grant, body)
        except TimeoutError as error:
            raise UnavailableError(f"{recipient}: no answer within {timeout_s:g} s") from error

    async def close(self) -> None:
        for task in self._cosigners:
            task.cancel()
        for keeper in self._keepers.values():
            with contextlib.suppress(UnavailableError):
                await keeper.close()
        for store in self._stores:
            await store.close()
        self._lock.close()


async def _cosign(keeper: Keeper) -> None:
    """Have new entries cosigned by the other keepers, once a second at most."""
    while True:
        await keeper.grown.wait()
        with contextlib.suppress(AnwenError):
            await keeper.cosign_now()
        await asyncio.sleep(1)
