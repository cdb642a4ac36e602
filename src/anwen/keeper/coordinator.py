"""Carries a ceremony's messages between keepers. Sees no key, signs nothing, and nobody needs to trust it.

Run again after any crash it ends well: keys that all keepers confirmed are opened everywhere; an attempt that somebody
never confirmed is abandoned and begun anew (docs/spec/ceremony.md).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from anwen.errors import ProofError
from anwen.model import KeeperInfo, Policy
from anwen.net.connection import Pool

PeerCall = Callable[[str, bytes], Awaitable[bytes]]
"""Takes a peer operation and its body; returns the keeper's answer or raises AnwenError."""
PEER_TIMEOUT_S = 5.0


def peer_calls(policy: Policy) -> dict[str, PeerCall]:
    """Return how to call each keeper's peer listener, known by its pinned key."""
    return {info.id: _peer_call(info) for info in policy.keepers.values()}


def _peer_call(info: KeeperInfo) -> PeerCall:
    pool = Pool(info.peer_address, info.tls_pin, limit=4)

    async def call(op: str, body: bytes) -> bytes:
        return await pool.post(f"/v1/{op}", None, body, PEER_TIMEOUT_S)

    return call


async def run_ceremony(series: str, number: int, peers: Mapping[str, PeerCall]) -> None:
    """Make and open one series' keys at all keepers, or finish what an earlier run left.

    Args:
        series: "record", "index" or "prehash". number: 1; later ones need officers' signatures.
        peers: all keepers of the policy, by id.

    Raises:
        ProofError: a keeper deviated, and is named; nothing was opened. UnavailableError: a keeper is down.
    """
    keepers = sorted(peers)
    about = {"series": series, "number": number}

    async def ask(op: str, keeper: str, **members: Any) -> str:
        return (await peers[keeper](f"ceremony_{op}", json.dumps(about | members).encode())).decode()

    async def ask_all(op: str, **members: Any) -> list[str]:
        return list(await asyncio.gather(*(ask(op, keeper, **members) for keeper in keepers)))

    states = {k: json.loads(t.split("\n")[0]) for k, t in zip(keepers, await ask_all("state"), strict=True)}
    confirms = {k: s["confirm"] for k, s in states.items() if s["confirm"]}
    transcripts = {k: json.loads(c.split("\n")[0])["transcript"] for k, c in confirms.items()}
    if len(confirms) < len(keepers) or len(set(transcripts.values())) > 1:
        opened = [k for k, s in states.items() if s["opened"]]
        if opened:
            lost = [k for k in keepers if transcripts.get(k) != states[opened[0]]["opened"]]
            raise ProofError(f"{series} {number} is open at {opened}, and its keys are lost at {lost}")
        abandons = []
        for transcript in set(transcripts.values()):
            other = next(k for k in keepers if transcripts.get(k) != transcript)
            abandons.append(await ask("abandon", other, transcript=transcript))
        announces = await ask_all("announce", abandons=abandons)
        reveals = await ask_all("reveal", announces=announces)
        confirms = dict(zip(keepers, await ask_all("confirm", reveals=reveals), strict=True))
    await ask_all("open", confirms=[confirms[k] for k in keepers])
