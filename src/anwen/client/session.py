"""One principal's conversation with the keepers and nodes of a vault: grants, rounds, hedging, retries.

A round goes to several keepers at once. Writes and searches ask all that are trusted; openings ask t, chosen by handle,
and the others only when one fails, contradicts or is late. Nodes are asked one after another, the next when one fails,
answers junk or is late. What fails for want of answers is asked again, under fresh grants, until the deadline.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from anwen.client.asking import Asking, Background, Calls, all_of, first_of, told_by_most
from anwen.client.deadline import failing
from anwen.client.health import Health
from anwen.client.quorum import Bytes, Flags, Report, Round, Rows, choose
from anwen.client.transport import Transport
from anwen.crypto import grants
from anwen.crypto.prf_input import nonce_base
from anwen.errors import (
    AnwenError,
    MalformedError,
    OverloadedError,
    PolicyError,
    ProofError,
    QuorumError,
    TooLargeError,
    UnavailableError,
)
from anwen.formats import wire
from anwen.formats.answer import Answer, Header, decode_answer, decode_header, issuer_hash, verify_receipt
from anwen.model import Policy

log = logging.getLogger("anwen.client")

T = TypeVar("T")
GRANT_LIFE_S = 60
SETTLING_S = 2.0
MOST_REPORTS = 256
"""How long a contradiction, or a miss, waits for those that could settle it: at most, and a quarter of the deadline."""

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
        self._check_policy()
        zones = {f"keeper/{k.id}": k.zone for k in self.policy.keepers.values()}
        zones |= {f"node/{n.id}": n.zone for n in self.policy.nodes.values()}
        self.health = Health(self.timing.least_s, self.timing.most_s, time.monotonic(), zones)
        self._background = Background()
        self._turn = random.randrange(1 << 16)  # noqa: S311 - spreads clients over nodes
        self._closed = False
        self.numbers: tuple[int, int] | None = None  # epoch and generation, once known: see `rounds`
        self._outdated = False
        self.prehash: dict[tuple[int, int], bytes] = {}  # token keys whose components two keepers told
        self.logged: dict[str, tuple[int, bytes]] = {}  # how long each keeper's log is by the receipt beside it

    # --- grants and single calls -------------------------------------------------------------------------------

    def expiry_s(self) -> int:
        """Return until when a grant made now is good."""
        return int(self.clock()) + GRANT_LIFE_S

    def grant(self, audience: str, purpose: str, body: bytes) -> str:
        """Return a grant for one recipient and this exact body. Raises PolicyError: the policy has expired."""
        request = hashlib.sha256(body).digest()
        return self._signed(grants.Grant(self.principal, audience, self.expiry_s(), self.random(16), purpose, request))

    def _signed(self, grant: grants.Grant) -> str:
        self._check_policy()
        return grants.sign(self.key, grant)

    def siblings(self, op: str, purpose: str, body: bytes) -> Callable[[str], Coroutine[Any, Any, Answer]]:
        """Return what asks a keeper with grants of one `jti` and `exp`, so that all compute the same nonce base."""
        expires_s, request, jti = self.expiry_s(), hashlib.sha256(body).digest(), self.random(16)
        promised = _Promised.of(op, body, nonce_base(self.principal, jti, expires_s, request))

        def send(keeper: str) -> Coroutine[Any, Any, Answer]:
            audience = grants.keeper_audience(self.policy.vault, keeper)
            grant = grants.Grant(self.principal, audience, expires_s, jti, purpose, request)
            return self._ask(keeper, op, grant, body, promised)

        return send

    def _check_policy(self) -> None:
        """Refuse to go on under a policy that has expired: it may still list who was removed since."""
        if self.policy.expires_s <= self.clock():
            raise PolicyError(f"policy version {self.policy.version} has expired: officers must sign the next one")

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
        except AnwenError:
            self.health.answered(recipient, op, len(body), sent_s=sent_s, now_s=time.monotonic())
            raise
        finally:
            self.health.ended(recipient)
        self.health.answered(recipient, op, len(body), sent_s=sent_s, now_s=time.monotonic())
        return answer

    async def until_answered(self, purpose: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Return what `attempt` returns; try again, each time after a longer pause, what fails for want of answers."""
        until_s, pause_s = time.monotonic() + self.timing.deadline_s, FIRST_PAUSE_S
        while True:
            self._probe(purpose)
            try:
                done = await attempt()
            except RETRIED as error:
                # at random, so that those who were sent away together do not come back together
                wait_s = max(pause_s, error.retry_after_s or 0.0) * random.uniform(1, 2)  # noqa: S311
                if type(error) not in RETRIED or self._closed or time.monotonic() + wait_s >= until_s:
                    raise
                failing(error)
            else:
                failing(None)
                return done
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

    async def node(
        self, op: str, purpose: str, body: bytes, read: Callable[[bytes], T], nodes: Sequence[str] = ()
    ) -> tuple[str, T]:
        """Return which node answered and what `read` makes of it: the own zone's, if it is well, else any.

        Args:
            read: raises ProofError, MalformedError or TooLargeError at what no honest node says: another is asked.
            nodes: only these are asked, in their order, each once. Every node call is idempotent.
        """

        async def ask(grant: str, node: str) -> tuple[str, T]:
            answer = await self._call(node, op, grant, body)
            try:
                return node, read(answer)
            except (ProofError, MalformedError, TooLargeError) as error:
                self.report(Report((node,), f"{op}: {error}", ()))
                raise ProofError(f"{node}: {error}") from error

        async def attempt() -> tuple[str, T]:
            sending = functools.partial(ask, self.grant(grants.node_audience(self.policy.vault), purpose, body))
            return await first_of(self.calls(op), self.health, len(body), nodes or self._nodes(), sending)

        return await attempt() if nodes else await self.until_answered(purpose, attempt)

    def _nodes(self) -> list[str]:
        """Return the nodes in turn, those of the own zone first."""
        nodes = list(self.policy.nodes.values())
        if not nodes:
            raise PolicyError("the policy names no node")
        self._turn += 1
        at = self._turn % len(nodes)
        return [f"node/{n.id}" for n in sorted(nodes[at:] + nodes[:at], key=lambda n: n.zone != self.zone)]

    def others(self, first: str) -> list[str]:
        """Return the nodes besides one, those of other zones first."""
        zones = {f"node/{n.id}": n.zone for n in self.policy.nodes.values()}
        return sorted((n for n in self._nodes() if n != first), key=lambda n: zones[n] == zones[first])

    @property
    def settling_s(self) -> float:
        """How long a call waits for a second opinion."""
        return min(SETTLING_S, self.timing.deadline_s / 4)

    async def keeper(self, keeper: str, op: str, purpose: str, body: bytes) -> bytes:
        """Return one keeper's answer to a request that is not about the DPRF. Raises what it answered."""
        grant = self.grant(grants.keeper_audience(self.policy.vault, keeper), purpose, body)
        return await self._call(f"keeper/{keeper}", op, grant, body)

    # --- rounds ------------------------------------------------------------------------------------------------

    def combine(self, answers: Mapping[str, Answer], rows: int) -> tuple[Bytes, Flags, Flags, Round]:
        """Return F for each row, contradicted and doubly answered rows, and the round; reports contradictions."""
        found = Round(list(self.policy.keepers), self.policy.threshold, rows)
        wrong: dict[str, BaseException] = {}
        for keeper, answer in answers.items():
            try:
                found.add(keeper, answer)
            except ProofError as error:  # as good as no answer
                wrong[keeper] = error
        self.report_disputes(found)
        if len(found.receipts) < self.policy.threshold:
            raise self.why(wrong)
        return *found.values(), found

    def report_disputes(self, found: Round) -> None:
        """Report who contradicts whom, after what nobody signed is left out."""
        if found.disputes():
            self.disown(found)
            if dispute := found.disputes():
                self.report(dispute)

    def disown(self, found: Round) -> None:
        """Drop and report answers that their keeper did not sign; looked at only where answers do not fit."""
        for keeper, receipt in list(found.receipts.items()):
            if not self.is_signed(keeper, receipt):
                found.drop(keeper)

    def is_signed(self, keeper: str, receipt: bytes) -> bool:
        """Return whether a keeper's pinned key signed its answer; report it if not."""
        try:
            verify_receipt(receipt, self.policy.keepers[keeper].identity)
        except ProofError:
            self.report(Report((keeper,), "an answer that its pinned key did not sign", ()))
            return False
        return True

    def report(self, report: Report) -> None:
        """Keep and log an accusation, once, whose evidence really carries the signatures of those it names."""
        for receipt in report.evidence:
            keeper = self.policy.keepers[_keeper_of(receipt)]
            verify_receipt(receipt, keeper.identity)
        known = any((r.suspects, r.reason) == (report.suspects, report.reason) for r in self.reports)
        if known or len(self.reports) >= MOST_REPORTS:  # a liar finds new words without end
            return
        self.reports.append(report)
        log.warning("%s: %s", ", ".join(report.suspects) or "keepers or nodes", report.reason)

    async def ask_all(self, op: str, purpose: str, body: bytes) -> dict[str, Answer]:
        """Ask every trusted keeper with one body; return after all answered, or enough and the others are late.

        Raises: QuorumError, or what the keepers answered when fewer could agree to it than it needs.
        """
        return await self.until_answered(purpose, lambda: all_of(self, op, purpose, body))

    def why(self, errors: Mapping[str, BaseException], needed: int = 0) -> AnwenError:
        """Return the error that explains best why fewer than needed answered: what most say, a denial first, then
        silence.

        Raises: what is not an AnwenError: a fault of ours.
        """
        for error in errors.values():
            if not isinstance(error, AnwenError):
                raise error
        said = {k: e for k, e in errors.items() if isinstance(e, AnwenError)}
        if refusal := told_by_most(list(said.values())):
            return refusal
        codes = ", ".join(f"{k}: {e.code}" for k, e in sorted(said.items())) or "no answer in time"
        quorum = QuorumError(f"fewer than {needed or self.policy.threshold} keepers answered ({codes})")
        quorum.retry_after_s = max((e.retry_after_s or 0.0 for e in said.values()), default=0.0) or None
        return quorum

    async def _ask(
        self, keeper: str, op: str, grant: grants.Grant, body: bytes, promised: _Promised | None = None
    ) -> Answer:
        raw = await self._call(f"keeper/{keeper}", op, self._signed(grant), body)
        try:
            answer = decode_answer(raw)
        except MalformedError as error:
            raise ProofError(f"keeper {keeper}: {error}") from error
        (promised or _Promised()).check(answer, keeper)
        self._check(answer.header, keeper, op, grant)
        least = answer.header.entry + (op != "state")
        if least > self.logged.get(keeper, (0, b""))[0]:
            self.logged[keeper] = least, answer.receipt
        return answer

    def _check(self, header: Header, keeper: str, op: str, grant: grants.Grant) -> None:
        same = (header.vault, header.keeper, header.op, header.issuer, header.request, header.expires_s)
        issuer = issuer_hash(self.principal)
        if same != (self.policy.vault, keeper, op, issuer, grant.request, grant.expires_s):
            raise ProofError(f"keeper {keeper}: the answer is to another request")
        if header.policy_version > self.policy.version and not self._outdated:
            self._outdated = True
            newer, mine = header.policy_version, self.policy.version
            log.warning("keeper %s has policy version %d, this client has %d", keeper, newer, mine)

    async def ask_some(self, op: str, purpose: str, subjects: Bytes, body_for: Callable[[Rows], bytes]) -> Round:
        """Ask t keepers for each row, others where one fails or is slow; return the round, every row covered.

        Args:
            subjects: uint8, shape (n, 16): chooses who is asked.
            body_for: makes the request for some of the rows.
        """
        return await self.until_answered(purpose, lambda: self._ask_some(op, purpose, subjects, body_for))

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
                if not self.health.silent(f"keeper/{keeper}", time.monotonic()):
                    asking.start(keeper, found.unanswered(keeper, rows))
            await asking.all(self.settling_s)
        finally:
            asking.calls.give_up()

    def send(
        self, keeper: str, op: str, purpose: str, body: bytes, *, jti: bytes | None = None, expires_s: int = 0
    ) -> Coroutine[Any, Any, Answer]:
        """Return one request to one keeper, to be awaited.

        Logs of several keepers are joined by the `jti`; answers of several combine where `expires_s` is the same.
        """
        audience, request = grants.keeper_audience(self.policy.vault, keeper), hashlib.sha256(body).digest()
        until_s = expires_s or self.expiry_s()
        grant = grants.Grant(self.principal, audience, until_s, jti or self.random(16), purpose, request)
        return self._ask(keeper, op, grant, body)


def _keeper_of(receipt: bytes) -> str:
    return decode_header(receipt).keeper


@dataclass(frozen=True, slots=True)
class _Promised:
    """What a keeper's answer must say besides, where it is to be a receipt, and rows are to be sealed under it."""

    base: bytes = b""
    root: bytes = bytes(32)
    numbers: tuple[int, int] | None = None

    @classmethod
    def of(cls, op: str, body: bytes, base: bytes) -> Self:
        """Return what the answers to a request must say."""
        if op == "put":
            message = wire.decode(body, op)
            numbers = message.number("epoch"), message.number("generation")
            return cls(base, message.sent_root("records", "cells"), numbers)
        return cls(root=wire.decode(body, op).sent_root("records")) if op == "delete" else cls()

    def check(self, answer: Answer, keeper: str) -> None:
        """Refuse a nonce, root, epoch or generation that is not the request's: its rows would open never."""
        header = answer.header
        numbers = (header.epoch, header.generation)
        if (self.base and answer.nonce_base != self.base) or header.root != self.root:
            raise ProofError(f"keeper {keeper}: nonce or root are not those of this request")
        if self.numbers not in {None, numbers}:
            raise ProofError(f"keeper {keeper}: answers a put under another epoch or generation than it was asked for")
