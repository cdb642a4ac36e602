"""What keepers and nodes say of themselves to whoever may audit: for `anwen doctor`.

A keeper signs what it says of itself, and its peers cosign its log. A node's word is its own, over pinned TLS.
"""

from __future__ import annotations

from dataclasses import dataclass

from anwen.client.session import Session
from anwen.crypto import grants
from anwen.errors import ProofError
from anwen.formats import wire
from anwen.formats.answer import Header, verify_receipt
from anwen.formats.checkpoint import cosignatures, log_origin, verify_note


@dataclass(frozen=True, slots=True)
class LogState:
    """How far a keeper's log is, and how much of it its peers have signed."""

    entries: int
    behind: int  # of these, those that no peer had cosigned when we asked, our own request among them
    cosigned_s: int  # when a peer last had, Unix time; 0: never
    cosigned_by: tuple[str, ...]  # peers that cosigned a checkpoint made now: they see the same log
    free_bytes: int  # on the disk that it is written to


@dataclass(frozen=True, slots=True)
class StoreState:
    """What a node says of itself and its store."""

    policy_version: int
    time_ms: int
    engine: str
    counts: dict[str, int]  # `wire.STORE_COUNTS`
    settings: tuple[str, ...]  # "NAME=VALUE"


async def keeper_state(session: Session, purpose: str, keeper: str) -> Header:
    """Return what a keeper signs about itself."""
    body = wire.encode("state", session.random(wire.SALT_BYTES))
    answer = await session.send(keeper, "state", purpose, body)
    return verify_receipt(answer.receipt, session.policy.keepers[keeper].identity)


async def log_state(session: Session, purpose: str, keeper: str) -> LogState:
    """Return how a keeper's log stands with its peers. Logged there as two requests of an auditor.

    Raises: ProofError: a checkpoint is not the keeper's, or of more entries than it has.
    """
    said, covered, before = await _checkpoint(session, purpose, keeper, 1)  # the newest that there was
    _, _, now = await _checkpoint(session, purpose, keeper, 0)  # from 0 on, the keeper has one made
    size, last_s = said.number("size"), max(before.values(), default=0)
    return LogState(size, size - covered if before else size, last_s, tuple(sorted(now)), said.number("free_bytes"))


async def _checkpoint(
    session: Session, purpose: str, keeper: str, start: int
) -> tuple[wire.Message, int, dict[str, int]]:
    """Return what a keeper says of its log, how many entries its checkpoint covers, and who cosigned that when."""
    policy, origin = session.policy, log_origin(session.policy.vault, keeper)
    body = wire.encode("log", session.random(wire.SALT_BYTES), {"start": start, "count": 0})
    answer = wire.decode(await session.keeper(keeper, "log", purpose, body), "entries")
    note = b"".join(answer.blobs["checkpoint"]).decode(errors="replace")
    head, size = verify_note(note, origin, policy.keepers[keeper].identity), answer.number("size")
    if head.origin != origin or head.size > size:
        raise ProofError(f"keeper {keeper}: {size} entries, and a checkpoint of another log or of {head.size}")
    peers = {log_origin(policy.vault, k): k for k in policy.keepers if k != keeper}
    times = cosignatures(note, {name: policy.keepers[k].identity for name, k in peers.items()})
    return answer, head.size, {peers[name]: time_s for name, time_s in times.items()}


async def has_policy(session: Session, purpose: str, node: str, document: bytes) -> None:
    """Return if a node follows this signed policy, or follows it from now on. Raises PolicyError: it does not."""
    grant = session.grant(grants.node_audience(session.policy.vault), purpose, document)
    await session.transport.call(f"node/{node}", "policy", grant, document, session.timing.request_s)


async def store_state(session: Session, purpose: str, node: str) -> StoreState:
    """Return what one node says of its store; needs a purpose that audits."""
    body = wire.encode("node_state", session.random(wire.SALT_BYTES))
    grant = session.grant(grants.node_audience(session.policy.vault), purpose, body)
    sent = session.transport.call(f"node/{node}", "node_state", grant, body, session.timing.request_s)
    said = wire.decode(await sent, "store_state")
    return StoreState(
        said.number("policy_version"),
        said.number("time_ms"),
        b"".join(said.blobs["engine"]).decode(errors="replace"),
        {name: said.number(name) for name in wire.STORE_COUNTS},
        tuple(s.decode(errors="replace") for s in said.blobs["settings"]),
    )
