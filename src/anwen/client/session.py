"""One principal's conversation with the keepers and nodes of a vault: grants, rounds, hedging, retries.

A round goes to several keepers at once. Writes and searches ask all that are trusted; openings ask t, chosen by handle,
and the others only when one fails, contradicts or is late. Nodes are asked one after another, the next when one fails
or is late. What fails for want of answers is asked again, under fresh grants, until the deadline.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from anwen.client.asking import Asking, Background, Calls, all_of, first_of
from anwen.client.health import Health
from anwen.client.quorum import Bytes, Flags, Report, Round, Rows, choose
from anwen.client.transport import Transport
from anwen.crypto import grants
from anwen.crypto.prf_input import nonce_base
from anwen.errors import (
    AnwenError,
    ConflictError,
    DeniedError,
    IntegrityError,
    OverloadedError,
    PolicyError,
    ProofError,
    QuorumError,
    RequestError,
    UnavailableError,
)
from anwen.formats import wire
from anwen.formats.answer import Answer, Header, decode_answer, decode_header, verify_receipt
from anwen.model import Policy

log = logging.getLogger("anwen.client")

T = TypeVar("T")
GRANT_LIFE_S = 60
SETTLING_S = 2.0
"""How long a contradiction waits for the keepers that could settle it."""

FIRST_PAUSE_S, LAST_PAUSE_S = 0.02, 1.0
RETRIED = (UnavailableError, QuorumError, OverloadedError)
"""These very classes: a full disk or a wrong clock does not pass within a call's time."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of a session, in seconds. What requests usually take is learned; see `health`."""

    deadline_s: float = 30.0  # of one call of the vault, with all that it asks again
    request_s: float = 30.0  # a keeper or node that takes longer counts as down
    grace_s: float = 0.05  # how long a write waits at least for the last keepers
    least_s: float = 0.02  # a small request that takes longer than usual waits so long before another is asked,
    most_s: float = 0.15  # and at most so long


@dataclass
class Session:
    """What all use cases share. `clock` is wall time in seconds; `random` gives n random bytes."""

    policy: Policy
    principal: str
    key: EllipticCurvePrivateKey = field(repr=False)
    transport: Transport
    clock: Callable[[], float] = time.time
    random: Callable[[int], bytes] = os.urandom
    timing: Timing = field(default_factory=Timing)
    reports: list[Report] = field(default_factory=list)
    zone: str = ""  # whose node is preferred

    def __post_init__(self) -> None:
        if self.policy.expires_s <= self.clock():
            raise PolicyError(f"policy version {self.policy.version} has expired: officers must sign the next one")
        self.health = Health(self.timing.least_s, self.timing.most_s, time.monotonic())
        self._background = Background()
        self._turn = random.randrange(1 << 16)  # noqa: S311 - spreads clients over nodes
        self._closed = False
        self._current: tuple[int, int] | None = None
        self._outdated = False
        self.prehash: dict[tuple[int, int], bytes] = {}

    # --- grants and single calls -------------------------------------------------------------------------------

    def grant(self, audience: str, purpose: str, body: bytes, jti: bytes | None = None) -> str:
        """Return a grant for one recipient and this exact body."""
        expires_s, request = int(self.clock()) + GRANT_LIFE_S, hashlib.sha256(body).digest()
        claims = grants.Grant(self.principal, audience, expires_s, jti or self.random(16), purpose, request)
        return grants.sign(self.key, claims)

    def siblings(self, op: str, purpose: str, body: bytes) -> Callable[[str], Coroutine[Any, Any, Answer]]:
        """Return what asks a keeper with grants of one `jti` and `exp`, so that all compute the same nonce base."""
        expires_s, request, jti = int(self.clock()) + GRANT_LIFE_S, hashlib.sha256(body).digest(), self.random(16)
        base = nonce_base(self.principal, jti, expires_s, request)

        def send(keeper: str) -> Coroutine[Any, Any, Answer]:
            audience = grants.keeper_audience(self.policy.vault, keeper)
            grant = grants.Grant(self.principal, audience, expires_s, jti, purpose, request)
            return self._ask(keeper, op, grants.sign(self.key, grant), body, base)

        return send

    def calls(self, op: str) -> Calls[Any]:
        """Return a collection of requests, still empty."""
        return Calls(self.health, self._background, op)

    async def _call(self, recipient: str, op: str, grant: str, body: bytes) -> bytes:
        sent_s = time.monotonic()
        self.health.sent(recipient)
        try:
            within_s = min(self.timing.request_s, self.timing.deadline_s)
            answer = await self.transport.call(recipient, op, grant, body, within_s)
        except OverloadedError as error:
            self.health.refused(recipient, error.retry_after_s or FIRST_PAUSE_S, time.monotonic())
            raise
        except UnavailableError:
            self.health.failed(recipient, time.monotonic())
            raise
        except AnwenError as error:
            self.health.answered(recipient, op, len(body), sent_s=sent_s, now_s=time.monotonic())
            if isinstance(error, ConflictError):
                self._current = None  # another epoch or generation than was named
            raise
        finally:
            self.health.ended(recipient)
        self.health.answered(recipient, op, len(body), sent_s=sent_s, now_s=time.monotonic())
        return answer

    async def _until_answered(self, purpose: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Return what `attempt` returns; try again, each time after a longer pause, what fails for want of answers."""
        until_s, pause_s = time.monotonic() + self.timing.deadline_s, FIRST_PAUSE_S
        while True:
            self._probe(purpose)
            try:
                return await attempt()
            except RETRIED as error:
                # at random, so that those who were sent away together do not come back together
                wait_s = max(pause_s, error.retry_after_s or 0.0) * random.uniform(1, 2)  # noqa: S311
                if type(error) not in RETRIED or self._closed or time.monotonic() + wait_s >= until_s:
                    raise
            await asyncio.sleep(wait_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)

    def _probe(self, purpose: str) -> None:
        """Ask for a sign of life those recipients that are asked for nothing else at present."""
        names = [*(f"keeper/{k}" for k in self.policy.keepers), *(f"node/{n}" for n in self.policy.nodes)]
        for recipient in self.health.to_probe(names, time.monotonic()):
            self._background.add(asyncio.get_running_loop().create_task(self._ask_state(recipient, purpose)))

    async def _ask_state(self, recipient: str, purpose: str) -> None:
        kind, _, name = recipient.partition("/")
        vault, body = self.policy.vault, wire.encode("state", self.random(wire.SALT_BYTES))
        audience = grants.node_audience(vault) if kind == "node" else grants.keeper_audience(vault, name)
        try:
            await self._call(recipient, "state", self.grant(audience, purpose, body), body)
        except AnwenError as error:
            if not isinstance(error, UnavailableError):  # that is noted already
                self.health.failed(recipient, time.monotonic())

    async def close(self) -> None:
        """End probes and let go of all connections."""
        self._closed = True
        await self._background.close()
        await self.transport.close()

    async def node(self, op: str, purpose: str, body: bytes, answer: str) -> wire.Message:
        """Return a node's answer: of the own zone's, if it is well, else of any. Every node call is idempotent."""

        async def attempt() -> bytes:
            grant = self.grant(grants.node_audience(self.policy.vault), purpose, body)
            ask = functools.partial(self._call, op=op, grant=grant, body=body)
            return await first_of(self.calls(op), self.health, len(body), self._nodes(), ask)

        return wire.decode(await self._until_answered(purpose, attempt), answer)

    def _nodes(self) -> list[str]:
        """Return the nodes in turn, those of the own zone first."""
        nodes = list(self.policy.nodes.values())
        if not nodes:
            raise PolicyError("the policy names no node")
        self._turn += 1
        at = self._turn % len(nodes)
        return [f"node/{n.id}" for n in sorted(nodes[at:] + nodes[:at], key=lambda n: n.zone != self.zone)]

    async def keeper(self, keeper: str, op: str, purpose: str, body: bytes) -> bytes:
        """Return one keeper's answer to a request that is not about the DPRF. Raises what it answered."""
        grant = self.grant(grants.keeper_audience(self.policy.vault, keeper), purpose, body)
        return await self._call(f"keeper/{keeper}", op, grant, body)

    # --- rounds ------------------------------------------------------------------------------------------------

    async def current(self, purpose: str) -> tuple[int, int]:
        """Return epoch and generation, as any keeper states them."""
        if self._current is None:
            body = wire.encode("state", self.random(wire.SALT_BYTES))
            answers = await self.ask_all("state", purpose, body)
            said = Counter((a.header.epoch, a.header.generation) for a in answers.values())
            self._current = max(said, key=lambda pair: (said[pair], pair))  # the newest would be any liar's choice
        return self._current

    async def prehash_keys(self, purpose: str, fields: Sequence[tuple[int, int]]) -> Mapping[tuple[int, int], bytes]:
        """Return the token keys of (collection, field) pairs; asked once a session, kept in this process only."""
        missing = sorted(set(fields) - set(self.prehash))
        if missing:
            table = {"collection": np.array([c for c, _ in missing]), "field": np.array([f for _, f in missing])}
            body = wire.encode("prehash", self.random(wire.SALT_BYTES), tables={"fields": table})
            values, contradicted, _, _ = self.combine(await self.ask_all("prehash", purpose, body), len(missing))
            if contradicted.any():
                # nothing checks a token key: a liar's key would hide people, so none is used
                raise IntegrityError("keepers contradict each other about a token key; see the session's reports")
            self.prehash |= {pair: values[i].tobytes() for i, pair in enumerate(missing)}
        return self.prehash

    def combine(self, answers: Mapping[str, Answer], rows: int) -> tuple[Bytes, Flags, Flags, Round]:
        """Return F for each row, contradicted and doubly answered rows, and the round; reports contradictions."""
        found = Round(list(self.policy.keepers), self.policy.threshold, rows)
        wrong: dict[str, BaseException] = {}
        for keeper, answer in answers.items():
            try:
                found.add(keeper, answer)
            except ProofError as error:  # as good as no answer
                wrong[keeper] = error
        if found.disputes():
            self.disown(found)
        if len(found.receipts) < self.policy.threshold:
            raise self.why(wrong)
        if dispute := found.disputes():
            self.report(dispute)
        return *found.values(), found

    def disown(self, found: Round) -> None:
        """Drop and report answers that their keeper did not sign; looked at only where answers do not fit."""
        for keeper, receipt in list(found.receipts.items()):
            try:
                verify_receipt(receipt, self.policy.keepers[keeper].identity)
            except ProofError:
                found.drop(keeper)
                self.report(Report((keeper,), "an answer that its pinned key did not sign", ()))

    def report(self, report: Report) -> None:
        """Keep and log an accusation whose evidence really carries the signatures of those it names."""
        for receipt in report.evidence:
            keeper = self.policy.keepers[_keeper_of(receipt)]
            verify_receipt(receipt, keeper.identity)
        self.reports.append(report)
        log.warning("keepers %s: %s", ", ".join(report.suspects), report.reason)

    async def ask_all(self, op: str, purpose: str, body: bytes) -> dict[str, Answer]:
        """Ask every trusted keeper with one body; return after all answered, or enough and the others are late.

        Raises: QuorumError, or what the keepers answered when fewer could agree to it than it needs.
        """
        return await self._until_answered(purpose, lambda: all_of(self, op, purpose, body))

    def why(self, errors: Mapping[str, BaseException], needed: int = 0) -> AnwenError:
        """Return the error that explains best why fewer than needed answered: a denial, a broken promise, then silence.

        Raises: what is not an AnwenError: a fault of ours.
        """
        for error in errors.values():
            if not isinstance(error, AnwenError):
                raise error
        for kind in (DeniedError, IntegrityError, RequestError):
            for error in errors.values():
                if isinstance(error, kind):
                    return error
        said = ", ".join(f"{k}: {getattr(e, 'code', '?')}" for k, e in sorted(errors.items())) or "no answer in time"
        waits = [getattr(e, "retry_after_s", None) or 0.0 for e in errors.values()]
        error = QuorumError(f"fewer than {needed or self.policy.threshold} keepers answered ({said})")
        error.retry_after_s = max(waits, default=0.0) or None
        return error

    async def _ask(self, keeper: str, op: str, grant: str, body: bytes, base: bytes = b"") -> Answer:
        answer = decode_answer(await self._call(f"keeper/{keeper}", op, grant, body))
        if op == "put" and answer.nonce_base != base:
            raise ProofError(f"keeper {keeper}: the nonce is not that of this request")  # its rows would open never
        self._check(answer.header, keeper, op, body)
        return answer

    def _check(self, header: Header, keeper: str, op: str, body: bytes) -> None:
        same = (header.vault, header.keeper, header.op, header.request)
        if same != (self.policy.vault, keeper, op, hashlib.sha256(body).digest()):
            raise ProofError(f"keeper {keeper}: the answer is to another request")
        if header.policy_version > self.policy.version and not self._outdated:
            self._outdated = True
            log.warning("policy version %d is in force, this client has %d", header.policy_version, self.policy.version)
        if self._current and (header.epoch, header.generation) != self._current:
            self._current = None

    async def ask_some(self, op: str, purpose: str, subjects: Bytes, body_for: Callable[[Rows], bytes]) -> Round:
        """Ask t keepers for each row, others where one fails or is slow; return the round, every row covered.

        Args:
            subjects: uint8, shape (n, 16): chooses who is asked.
            body_for: makes the request for some of the rows.
        """
        return await self._until_answered(purpose, lambda: self._ask_some(op, purpose, subjects, body_for))

    async def _ask_some(self, op: str, purpose: str, subjects: Bytes, body_for: Callable[[Rows], bytes]) -> Round:
        now_s, keepers = time.monotonic(), list(self.policy.keepers)
        trusted = [k for k in keepers if self.health.trusted(f"keeper/{k}", now_s)]
        enough = trusted if len(trusted) >= self.policy.threshold else keepers
        found = Round(keepers, self.policy.threshold, len(subjects))
        asking = Asking(self, op, purpose, body_for, found)
        try:
            for keeper, rows in choose(enough, self.policy.threshold, subjects).items():
                asking.start(keeper, rows)
            await asking.until_covered()
        finally:
            asking.calls.give_up()
        return found

    async def ask_rest(
        self, op: str, purpose: str, found: Round, rows: Rows, body_for: Callable[[Rows], bytes]
    ) -> None:
        """Ask every keeper that has not answered for `rows` to do so too, as far as they can; adds to `found`."""
        asking = Asking(self, op, purpose, body_for, found)
        try:
            for keeper in self.policy.keepers:
                asking.start(keeper, found.unanswered(keeper, rows))
            await asking.all(SETTLING_S)
        finally:
            asking.calls.give_up()

    def send(self, keeper: str, op: str, purpose: str, body: bytes, jti: bytes | None) -> Coroutine[Any, Any, Answer]:
        """Return one request to one keeper, to be awaited; logs of several keepers are joined by the `jti`."""
        grant = self.grant(grants.keeper_audience(self.policy.vault, keeper), purpose, body, jti)
        return self._ask(keeper, op, grant, body)


def _keeper_of(receipt: bytes) -> str:
    return decode_header(receipt).keeper
