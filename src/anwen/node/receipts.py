"""Receipts: nothing enters or leaves a store that enough keepers have not charged and logged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anwen.errors import AnwenError, ProofError, UnavailableError
from anwen.formats.answer import Header, decode_header, issuer_hash, verify_receipt
from anwen.model import Policy

MAX_AGE_S = 600


@dataclass(frozen=True, slots=True)
class Expected:
    """What receipts have to say. `epoch` and `generation` None: a deletion has none."""

    op: str
    root: bytes
    issuer: str
    now_s: float
    epoch: int | None = None
    generation: int | None = None


def check_receipts(policy: Policy, receipts: Sequence[bytes], expected: Expected) -> None:
    """Check that as many different keepers signed what is expected as it needs; surplus receipts may be junk.

    Raises:
        ProofError: fewer did, with the first reason. UnavailableError: keepers have a newer policy than this node.
    """
    signers: set[str] = set()
    reason: AnwenError | None = None
    for receipt in receipts[: len(policy.keepers)]:
        try:
            signers.add(_signer(policy, receipt, expected))
        except AnwenError as error:
            reason = reason or error
    needed = policy.answers_needed(expected.op)
    if len(signers) < needed:
        if isinstance(reason, UnavailableError):
            raise reason
        cause = f": {reason}" if reason else ""
        raise ProofError(f"expected receipts of {needed} keepers, got {len(signers)}{cause}")


def _signer(policy: Policy, receipt: bytes, expected: Expected) -> str:
    name = decode_header(receipt).keeper
    keeper = policy.keepers.get(name)
    if keeper is None:
        raise ProofError("a receipt of no keeper of this vault")
    header = verify_receipt(receipt, keeper.identity)
    if header.policy_version > policy.version:
        raise UnavailableError(f"keeper {name} has policy {header.policy_version}, this node has {policy.version}")
    differs = _difference(policy, header, expected)
    if differs:
        raise ProofError(f"the receipt of keeper {name} is for another {differs}")
    return name


def _difference(policy: Policy, header: Header, expected: Expected) -> str:
    """Return what a receipt differs in, or nothing."""
    if header.vault != policy.vault:
        return "vault"
    if header.op != expected.op or header.root != expected.root:
        return "request"
    if header.issuer != issuer_hash(expected.issuer):
        return "principal"
    if expected.epoch is not None and (header.epoch, header.generation) != (expected.epoch, expected.generation):
        return "epoch or generation"
    if header.policy_version not in {policy.version, policy.version - 1}:
        return "policy version"
    if abs(header.time_ms / 1000 - expected.now_s) > MAX_AGE_S:
        return "time"
    return ""
