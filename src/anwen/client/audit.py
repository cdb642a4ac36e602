"""Read the keepers' logs from outside: who has seen a person, and whether each log is whole.

A log is whole when its entries hash to the root of a checkpoint that its keeper signed, and peers cosigned it. Only
public keys of the signed policy are needed.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

from anwen.client.session import Session
from anwen.crypto.merkle import Frontier, leaf_hash
from anwen.errors import AnwenError, ProofError, QuorumError, TooLargeError, UnavailableError
from anwen.formats import wire
from anwen.formats.checkpoint import Checkpoint, cosignatures, log_origin, verify_note
from anwen.model import Policy

PAGE = 4096
MAX_ABOUT = 64 * PAGE


@dataclass(frozen=True, slots=True)
class Seen:
    """One request about a person, as one or more keepers logged it."""

    time_ms: int
    principal: str
    purpose: str
    operation: str
    classes: tuple[str, ...]
    keepers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the check of one keeper's log found. `problem` is empty when the log is whole."""

    keeper: str
    entries: int
    root: str
    cosigned_by: tuple[str, ...]
    problem: str = ""


async def who_has_seen(session: Session, purpose: str, subject: str, since_s: int = 0) -> list[Seen]:
    """Return every request about a person since a time, oldest first, merged over all keepers that answer.

    The same request lies in several logs: its `jti` joins them.

    Raises: QuorumError: fewer than n - t + 1 keepers answered, so an opening might be in none of these logs.
    """
    seen: dict[str, Seen] = {}
    answered = 0
    for keeper in session.policy.keepers:
        try:
            told = [raw async for raw in about(session, purpose, keeper, bytes.fromhex(subject), since_s)]
        except UnavailableError:
            continue  # what this keeper alone logged opened nobody: t keepers log each opening
        answered += 1
        for raw in told:
            jti, one = _seen(session.policy, keeper, raw)
            known = seen.get(jti)
            seen[jti] = replace(one, time_ms=known.time_ms, keepers=(*known.keepers, keeper)) if known else one
    if answered < session.policy.answers_to_defeat:
        raise QuorumError(f"{answered} logs read; {session.policy.answers_to_defeat} are needed to miss no opening")
    return sorted(seen.values(), key=lambda s: s.time_ms)


def members(keeper: str, entry: bytes) -> dict[str, Any]:
    """Return an entry's members. Raises ProofError: it has none."""
    try:
        return dict(json.loads(entry))
    except (ValueError, TypeError, RecursionError) as error:
        raise ProofError(f"keeper {keeper}: an entry of its log does not follow the format") from error


def _seen(policy: Policy, keeper: str, raw: bytes) -> tuple[str, Seen]:
    """Return the `jti` and content of an entry. Raises ProofError: it does not follow the format."""
    entry = members(keeper, raw)
    try:
        issuer, purpose, op = (_name(entry[member]) for member in ("iss", "purpose", "op"))
        classes = class_names(policy, entry["classes"])
        return str(entry["jti"]), Seen(int(entry["t"]), issuer, purpose, op, classes, (keeper,))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ProofError(f"keeper {keeper}: an entry of its log does not follow the format") from error


def _name(text: str) -> str:
    if not (text.isascii() and text.isidentifier()):
        raise ValueError("not a name of a policy")
    return text


def class_names(policy: Policy, classes: dict[str, int]) -> tuple[str, ...]:
    """Return "person.identity" for "1.1", and so on; numbers for what a newer policy has."""
    names = []
    for pair in classes:
        collection_id, class_id = map(int, pair.split("."))
        collection = policy.collection_by_id.get(collection_id)
        name = collection.class_name_of(class_id) if collection else None
        names.append(f"{collection.name}.{name}" if collection and name else f"{collection_id}.{class_id}")
    return tuple(sorted(names))


async def about(session: Session, purpose: str, keeper: str, subject: bytes, since_s: int) -> AsyncIterator[bytes]:
    """Yield a keeper's log entries about a person since a time, page by page, each with a member `index`.

    Raises: ProofError: it says that there is more, and gives nothing. TooLargeError: more than `MAX_ABOUT` entries.
    """
    at, size = 0, 1
    for _ in range(MAX_ABOUT // PAGE):
        scalars: dict[str, int | bytes] = {"subject": subject, "since_s": since_s, "start": at}
        body = wire.encode("audit", session.random(wire.SALT_BYTES), scalars)
        answer = wire.decode(await session.keeper(keeper, "audit", purpose, body), "entries")
        for entry in answer.blobs["entries"]:
            yield entry
        before, at, size = at, answer.number("start"), answer.number("size")
        if at >= size:
            return
        if at <= before or not answer.blobs["entries"]:
            raise ProofError(f"keeper {keeper}: an audit that goes on and does not get on")
    raise TooLargeError(f"keeper {keeper}: more than {MAX_ABOUT} requests about this person; ask since a later day")


async def entries(session: Session, purpose: str, keeper: str, start: int = 0) -> AsyncIterator[tuple[bytes, str]]:
    """Yield a keeper's log entries from `start` on, each with the checkpoint note of the page it came in."""
    at, size = start, start + 1
    while at < size:
        scalars: dict[str, int | bytes] = {"start": at, "count": PAGE}
        body = wire.encode("log", session.random(wire.SALT_BYTES), scalars)
        answer = wire.decode(await session.keeper(keeper, "log", purpose, body), "entries")
        note = b"".join(answer.blobs["checkpoint"][:1]).decode(errors="replace")
        if at == start:
            size = answer.number("size")  # reading is logged too: an end that moves on is not chased
        due = min(PAGE, max(0, size - at))
        page = answer.blobs["entries"][:due]
        if len(page) != due:  # else a liar might go on for ever, one entry at a time
            raise ProofError(f"keeper {keeper}: {len(page)} entries from {at} on, of {size}")
        for entry in page:
            yield entry, note
        at += len(page)


async def verify(session: Session, purpose: str) -> list[Verdict]:
    """Check every keeper's log from its first entry to its cosigned checkpoint; one verdict for each keeper."""
    return [await _verify_one(session, purpose, keeper) for keeper in session.policy.keepers]


async def _verify_one(session: Session, purpose: str, keeper: str) -> Verdict:
    frontier, note, roots = Frontier(), "", {0: Frontier().root()}
    checkpoint: Checkpoint | None = None
    try:
        async for entry, page_note in entries(session, purpose, keeper):
            if page_note and not note:  # of the first page: later ones cover entries that reading itself made
                note = page_note
                checkpoint = _checkpoint(session.policy, keeper, note)
            frontier.append(leaf_hash(entry))
            if checkpoint and frontier.size == checkpoint.size:
                roots[frontier.size] = frontier.root()
        if checkpoint is None:
            raise ProofError(f"keeper {keeper}: no cosigned checkpoint yet")
        if checkpoint.size > frontier.size:
            raise ProofError(f"keeper {keeper}: {frontier.size} entries, but {checkpoint.size} were cosigned")
        if roots.get(checkpoint.size) != checkpoint.root:
            raise ProofError(f"keeper {keeper}: its entries do not hash to the root that was cosigned")
        by = _cosigners(session.policy, keeper, note)
        if not by:
            raise ProofError(f"keeper {keeper}: no peer has cosigned its checkpoint")
        return Verdict(keeper, frontier.size, frontier.root().hex(), by)
    except AnwenError as error:
        return Verdict(keeper, frontier.size, "", (), f"{error.code}: {error}")


def _checkpoint(policy: Policy, keeper: str, note: str) -> Checkpoint:
    origin = log_origin(policy.vault, keeper)
    checkpoint = verify_note(note, origin, policy.keepers[keeper].identity)
    if checkpoint.origin != origin:
        raise ProofError(f"keeper {keeper}: its checkpoint is of another log")
    return checkpoint


def _cosigners(policy: Policy, keeper: str, note: str) -> tuple[str, ...]:
    witnesses = {log_origin(policy.vault, k): info.identity for k, info in policy.keepers.items() if k != keeper}
    names = {log_origin(policy.vault, k): k for k in policy.keepers}
    return tuple(sorted(names[name] for name in cosignatures(note, witnesses)))
