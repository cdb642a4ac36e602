"""Read the keepers' logs from outside: who has seen a person, and whether each log is whole.

A log is whole when its entries hash to the root of a checkpoint that its keeper signed, peers cosigned it a moment ago,
and it holds all that the keeper's own receipts are for. Only public keys of the signed policy are needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from anwen.client.inspecting import keeper_state
from anwen.client.quorum import Report
from anwen.client.records import handle_of
from anwen.client.session import Session
from anwen.crypto.merkle import Frontier, leaf_hash
from anwen.errors import AnwenError, MalformedError, ProofError, QuorumError, TooLargeError, UnavailableError
from anwen.formats import wire
from anwen.formats.answer import verify_receipt
from anwen.formats.checkpoint import Checkpoint, cosignatures, log_origin, verify_note
from anwen.formats.policy_chain import digest
from anwen.model import Policy

PAGE = 4096
MAX_ABOUT = 64 * PAGE
"""Entries. As many about one person are read of one keeper."""

ABOUT_S, LOG_S = 120.0, 3600.0
"""For how long one keeper is read, about a person and from its first entry on."""

FRESH_S = 300
"""How old the newest cosignature may be: a keeper has one made when its log is read from the start."""

SAME_REQUEST_MS = 180_000
"""Grants live 120 s, and keepers' clocks differ by 30 s at most."""

_POLICY = b'"op":"policy"'
_LAST_MS = 253_402_300_799_000  # year 9999
_NAME_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class Seen:
    """One request about a person, as one or more keepers logged it. `doubt`: why it may be otherwise, or empty."""

    time_ms: int
    principal: str
    purpose: str
    operation: str
    classes: tuple[str, ...]
    keepers: tuple[str, ...]
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the check of one keeper's log found. `problem` is empty when the log is whole."""

    keeper: str
    entries: int
    root: str
    cosigned_by: tuple[str, ...]
    problem: str = ""


class _Who(NamedTuple):
    """What is the same in all entries of one request."""

    principal: str
    purpose: str
    operation: str


class _Told(NamedTuple):
    """What one keeper says besides."""

    keeper: str
    time_ms: int
    classes: tuple[str, ...]


async def who_has_seen(session: Session, purpose: str, subject: str, since_s: int = 0) -> list[Seen]:
    """Return every request about a person since a time, oldest first, from all keepers that answer.

    The same request lies in several logs: `jti` and `exp` of its grant join them. What keepers say of it differently
    is shown apart, what fewer than t say is marked: a keeper may name somebody who asked nothing. One whose answer does
    not parse is left out and reported.

    Raises: MalformedError: no handle. QuorumError: fewer than n - t + 1 keepers answered, so an opening might be in
    none of these logs.
    """
    handle = handle_of(subject)
    told: dict[str, dict[_Who, list[_Told]]] = {}
    failed: dict[str, BaseException] = {}

    async def ask(keeper: str) -> None:
        try:
            raws = about(session, purpose, keeper, handle, since_s)
            async with _within(keeper, ABOUT_S):
                read = [_read(session.policy, keeper, raw) async for raw in raws]
        except AnwenError as error:
            failed[keeper] = error  # if it is down: what it alone logged opened nobody, t keepers log each opening
            if isinstance(error, ProofError):
                session.report(Report((keeper,), str(error), ()))
            return
        for jti, who, said in read:
            told.setdefault(jti, {}).setdefault(who, []).append(said)

    await asyncio.gather(*map(ask, session.policy.keepers))
    answered = len(session.policy.keepers) - len(failed)
    if answered < session.policy.answers_to_defeat:
        why = session.why(failed)
        if isinstance(why, UnavailableError):
            raise QuorumError(f"{answered} logs read; {session.policy.answers_to_defeat} are needed to miss no opening")
        raise why
    seen = [_seen(session.policy, answered, who, of, len(by)) for by in told.values() for who, of in by.items()]
    return sorted(seen, key=lambda s: s.time_ms)


def _seen(policy: Policy, answered: int, who: _Who, told: list[_Told], versions: int) -> Seen:
    """Return one line: the earlier of the middle times, all classes that any keeper names."""
    times, keepers = [said.time_ms for said in told], sorted({said.keeper for said in told})
    doubts = []
    if versions > 1 or max(times) - min(times) > SAME_REQUEST_MS:
        doubts.append("keepers contradict each other about this request")
    if len({said.classes for said in told}) > 1:
        doubts.append("keepers name different classes: parts of one batch, or one lies")
    if len(keepers) < policy.threshold:
        doubts.append(f"in {len(keepers)} of {answered} logs; what is opened is in {policy.threshold}")
    classes = tuple(sorted({name for said in told for name in said.classes}))
    return Seen(statistics.median_low(times), *who, classes, tuple(keepers), "; ".join(doubts))


@contextlib.asynccontextmanager
async def _within(keeper: str, seconds: float) -> AsyncIterator[None]:
    """Bound the time for which one keeper is read. Raises UnavailableError."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise UnavailableError(f"keeper {keeper}: its log is not read within {seconds:g} s") from error


def _entries(keeper: str, answer: bytes) -> wire.Message:
    try:
        return wire.decode(answer, "entries")
    except (MalformedError, TooLargeError) as error:
        raise ProofError(f"keeper {keeper}: {error}") from error


def members(keeper: str, raw: bytes) -> dict[str, Any]:
    """Return an entry's members. Raises ProofError: it is no JSON object."""
    try:
        entry = json.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise ProofError(f"keeper {keeper}: an entry that does not parse") from error
    if not isinstance(entry, dict):
        raise ProofError(f"keeper {keeper}: an entry that is no object")
    return entry


def _read(policy: Policy, keeper: str, raw: bytes) -> tuple[str, _Who, _Told]:
    """Return which request an entry is about, what is the same at all keepers, and what this one says.

    A keeper takes a `jti` once as long as its grant is good, so both of them name a request, and neither alone does.
    """
    entry = members(keeper, raw)
    time_ms, classes, jti, expires_s = (entry.get(name) for name in ("t", "classes", "jti", "exp"))
    names = [entry.get(name) for name in ("iss", "purpose", "op")]
    texts = [*names, jti]
    good = all(isinstance(n, str) and len(n) <= _NAME_CHARACTERS and n.isascii() for n in texts)
    if not (good and all(str(n).isidentifier() for n in names)):  # no escape sequence reaches a terminal
        raise ProofError(f"keeper {keeper}: an entry without the names that it must have")
    if type(time_ms) is not int or not 0 <= time_ms <= _LAST_MS or not isinstance(classes, dict):
        raise ProofError(f"keeper {keeper}: an entry without time or classes")
    if type(expires_s) is not int:
        raise ProofError(f"keeper {keeper}: an entry without the end of its grant")
    return f"{jti} {expires_s}", _Who(*map(str, names)), _Told(keeper, time_ms, class_names(policy, keeper, classes))


def class_names(policy: Policy, keeper: str, classes: Mapping[str, Any]) -> tuple[str, ...]:
    """Return "person.identity" for "1.1", and so on; numbers where this policy version knows no name."""
    names = []
    for pair in classes:
        collection_id, _, class_id = pair.partition(".")
        if not (pair.isascii() and collection_id.isdecimal() and class_id.isdecimal() and len(pair) <= 11):
            raise ProofError(f"keeper {keeper}: an entry with classes that there cannot be")
        collection = policy.collection_by_id.get(int(collection_id))
        name = collection.class_name_of(int(class_id)) if collection else None
        names.append(f"{collection.name}.{name}" if collection and name else pair)
    return tuple(sorted(names))


async def about(session: Session, purpose: str, keeper: str, subject: bytes, since_s: int) -> AsyncIterator[bytes]:
    """Yield a keeper's log entries about a person since a time, page by page, each with a member `index`.

    Raises: ProofError: it says that there is more, and gives nothing. TooLargeError: more than `MAX_ABOUT` entries.
    """
    at, size = 0, 1
    for _ in range(MAX_ABOUT // PAGE):
        scalars: dict[str, int | bytes] = {"subject": subject, "since_s": since_s, "start": at}
        body = wire.encode("audit", session.random(wire.SALT_BYTES), scalars)
        answer = _entries(keeper, await session.keeper(keeper, "audit", purpose, body))
        for entry in answer.blobs["entries"]:
            yield entry
        before, at, size = at, answer.number("start"), answer.number("size")
        if at >= size:
            return
        if at <= before or not answer.blobs["entries"]:
            raise ProofError(f"keeper {keeper}: an audit that goes on and does not get on")
    raise TooLargeError(f"keeper {keeper}: more than {MAX_ABOUT} requests about this person; ask since a later day")


class Page(NamedTuple):
    """Some of a log's entries, and the checkpoint that came with them."""

    entries: list[bytes]
    note: str


async def pages(session: Session, purpose: str, keeper: str, start: int = 0) -> AsyncIterator[Page]:
    """Yield a keeper's log from entry `start` on, as far as it went when the first page was read.

    Raises: ProofError: a page is short; by one entry at a time a liar might go on for ever.
    """
    at, size = start, start + 1
    while at < size:
        scalars: dict[str, int | bytes] = {"start": at, "count": PAGE}
        body = wire.encode("log", session.random(wire.SALT_BYTES), scalars)
        answer = _entries(keeper, await session.keeper(keeper, "log", purpose, body))
        if at == start:
            size = answer.number("size")  # reading is logged too: an end that moves on is not chased
        due = min(PAGE, max(0, size - at))
        found = answer.blobs["entries"][:due]
        if len(found) != due:
            raise ProofError(f"keeper {keeper}: {len(found)} entries from {at} on, of {size}")
        yield Page(found, b"".join(answer.blobs["checkpoint"][:1]).decode(errors="replace"))
        at += due


async def verify(session: Session, purpose: str) -> list[Verdict]:
    """Check every keeper's log from its first entry to its cosigned checkpoint; one verdict for each keeper.

    Of a log that is not read within `LOG_S` the verdict is that: a liar signs as many entries as he likes, and peers
    cosign that they follow from fewer.
    """
    return await asyncio.gather(*(_verify_one(session, purpose, keeper) for keeper in session.policy.keepers))


async def _verify_one(session: Session, purpose: str, keeper: str) -> Verdict:
    frontier, head = Frontier(), Checkpoint("", 0, b"")
    by: tuple[str, ...] = ()
    try:
        await keeper_state(session, purpose, keeper)
        async with _within(keeper, LOG_S):
            async for page in pages(session, purpose, keeper):
                if not by:  # later ones cover entries that reading itself made
                    head, by = _checkpoint(session, keeper, page.note)
                for entry in page.entries[: head.size - frontier.size]:
                    frontier.append(leaf_hash(entry))
                    if _POLICY in entry:
                        _check_policy(session.policy, keeper, entry)
                if frontier.size == head.size:
                    break  # what lies beyond nobody else has signed
        if not by or head.size > frontier.size:
            raise ProofError(f"keeper {keeper}: {frontier.size} entries, but {head.size} were cosigned")
        if frontier.root() != head.root:
            raise ProofError(f"keeper {keeper}: its entries do not hash to the root that was cosigned")
        _check_receipt(session, keeper, head.size)
        return Verdict(keeper, frontier.size, frontier.root().hex(), by)
    except AnwenError as error:
        return Verdict(keeper, frontier.size, "", (), f"{error.code}: {error}")


def _checkpoint(session: Session, keeper: str, note: str) -> tuple[Checkpoint, tuple[str, ...]]:
    """Return a log's tree head and who cosigned it, the last of them a moment ago."""
    policy = session.policy
    if not note:
        raise ProofError(f"keeper {keeper}: no cosigned checkpoint yet")
    origin = log_origin(policy.vault, keeper)
    head = verify_note(note, origin, policy.keepers[keeper].identity)
    if head.origin != origin:
        raise ProofError(f"keeper {keeper}: its checkpoint is of another log")
    peers = {log_origin(policy.vault, k): k for k in policy.keepers if k != keeper}
    times = cosignatures(note, {name: policy.keepers[k].identity for name, k in peers.items()})
    if not times:
        raise ProofError(f"keeper {keeper}: no peer has cosigned its checkpoint")
    if (age_s := session.clock() - max(times.values())) > FRESH_S:
        raise ProofError(
            f"keeper {keeper}: last cosigned {age_s:.0f} s ago: what came since is not there to be checked"
        )
    return head, tuple(sorted(peers[name] for name in times))


def _check_policy(policy: Policy, keeper: str, entry: bytes) -> None:
    """Refuse a log with a policy of our policy's number that is another one: some keepers were shown something else."""
    said = members(keeper, entry)
    if said.get("policy") == policy.version and said.get("digest") != digest(policy).hex():
        raise ProofError(f"keeper {keeper}: took another policy {policy.version} than ours, which officers signed too")


def _check_receipt(session: Session, keeper: str, size: int) -> None:
    """Refuse a log that ends before an entry which the keeper gave this session a receipt for."""
    least, receipt = session.logged[keeper]
    verify_receipt(receipt, session.policy.keepers[keeper].identity)
    if size < least:
        raise ProofError(f"keeper {keeper}: a log of {size} entries, but its own receipt is for entry {least - 1}")
