"""One principal's conversation with the keepers and nodes of a vault: grants, rounds, hedging, retries.

A round goes to several keepers at once. Writes and searches ask all that are live; openings ask t, chosen by handle,
and the others only when one fails, contradicts or is slow.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from anwen.client.quorum import Bytes, Flags, Report, Round, Rows, choose
from anwen.client.transport import Transport
from anwen.crypto import grants
from anwen.crypto.prf_input import nonce_base
from anwen.errors import (
    AnwenError,
    DeniedError,
    IntegrityError,
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

GRANT_LIFE_S = 60
DOWN_S = 2.0
"""How long a keeper or node that did not answer is asked only when it is needed."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Deadlines of a session, in seconds."""

    request_s: float = 30.0  # a keeper or node that takes longer counts as down
    grace_s: float = 0.5  # how long a write waits for the last keepers once t have answered
    hedge_s: float = 0.15  # how long an opening waits before it asks one keeper more; and, for each row:
    hedge_row_s: float = 0.0005


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

    def __post_init__(self) -> None:
        if self.policy.expires_s <= self.clock():
            raise PolicyError(f"policy version {self.policy.version} has expired: officers must sign the next one")
        self._down: dict[str, float] = {}
        self._current: tuple[int, int] | None = None
        self._outdated = False
        self.prehash: dict[tuple[int, int], bytes] = {}

    # --- grants and single calls -------------------------------------------------------------------------------

    def grant(self, audience: str, purpose: str, body: bytes) -> str:
        """Return a grant for one recipient and this exact body."""
        return self._siblings(purpose, body, [audience])[0][0]

    def _siblings(
        self, purpose: str, body: bytes, audiences: Iterable[str], jti: bytes | None = None
    ) -> tuple[list[str], bytes]:
        """Return grants of one `jti` and `exp`, and the nonce base that keepers must compute from them."""
        expires_s, request = int(self.clock()) + GRANT_LIFE_S, hashlib.sha256(body).digest()
        jti = jti or self.random(16)
        made = (grants.Grant(self.principal, a, expires_s, jti, purpose, request) for a in audiences)
        return [grants.sign(self.key, g) for g in made], nonce_base(self.principal, jti, expires_s, request)

    def live(self, ids: Iterable[str], kind: str) -> list[str]:
        """Return the ids that have answered lately, or have not been asked."""
        now = time.monotonic()
        return [i for i in ids if self._down.get(f"{kind}/{i}", 0.0) <= now]

    async def _call(self, recipient: str, op: str, grant: str, body: bytes) -> bytes:
        try:
            return await self.transport.call(recipient, op, grant, body, self.timing.request_s)
        except UnavailableError as error:
            self._down[recipient] = time.monotonic() + max(DOWN_S, error.retry_after_s or 0.0)
            raise

    async def node(self, op: str, purpose: str, body: bytes, answer: str) -> wire.Message:
        """Return a node's answer; when none answers, all are asked once more. Every node call is idempotent."""
        nodes = sorted(self.policy.nodes, key=lambda n: n not in self.live([n], "node"))
        error: AnwenError = QuorumError("the policy names no node")
        for node in [*nodes, *nodes]:
            grant = self.grant(grants.node_audience(self.policy.vault), purpose, body)
            try:
                return wire.decode(await self._call(f"node/{node}", op, grant, body), answer)
            except UnavailableError as failed:
                error = failed
        raise error

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
            self._current = max((a.header.epoch, a.header.generation) for a in answers.values())
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
        """Ask every live keeper with one body; return after all answered, or t and a grace.

        Raises: QuorumError, or what the keepers answered when fewer than t could agree to.
        """
        asked = self.live(self.policy.keepers, "keeper")
        if len(asked) < self.policy.threshold:
            asked = list(self.policy.keepers)
        audiences = [grants.keeper_audience(self.policy.vault, k) for k in asked]
        siblings, base = self._siblings(purpose, body, audiences)
        tasks = {k: self._ask(k, op, g, body, base) for k, g in zip(asked, siblings, strict=True)}
        return await self._gather({k: _started(t) for k, t in tasks.items()})

    async def _gather(self, tasks: Mapping[str, asyncio.Future[Answer]]) -> dict[str, Answer]:
        """Return the answers, at least t of them; after t, the others have a grace."""
        pending, grace = set(tasks.values()), None
        try:
            while pending:
                done, pending = await asyncio.wait(pending, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    break
                if sum(t.done() and not t.exception() for t in tasks.values()) >= self.policy.threshold:
                    grace = self.timing.grace_s
        finally:
            for task in pending:
                task.cancel()
        ended = {k: t for k, t in tasks.items() if t.done() and not t.cancelled()}
        answers = {k: t.result() for k, t in ended.items() if not t.exception()}
        if len(answers) < self.policy.threshold:
            raise self.why({k: e for k, t in ended.items() if (e := t.exception())})
        return answers

    def why(self, errors: Mapping[str, BaseException]) -> AnwenError:
        """Return the error that explains best why fewer than t answered: a denial, a broken promise, then silence.

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
        return QuorumError(f"fewer than {self.policy.threshold} keepers answered ({said})")

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
        live = self.live(self.policy.keepers, "keeper")
        enough = live if len(live) >= self.policy.threshold else list(self.policy.keepers)
        found = Round(list(self.policy.keepers), self.policy.threshold, len(subjects))
        asking = _Asking(self, op, purpose, body_for, found)
        try:
            for keeper, rows in choose(enough, self.policy.threshold, subjects).items():
                asking.start(keeper, rows)
            await asking.until_covered(self.timing.hedge_s + self.timing.hedge_row_s * len(subjects))
        finally:
            asking.cancel()
        return found

    async def ask_rest(
        self, op: str, purpose: str, found: Round, rows: Rows, body_for: Callable[[Rows], bytes]
    ) -> None:
        """Ask every keeper that has not answered for `rows` to do so too, as far as they can; adds to `found`."""
        asking = _Asking(self, op, purpose, body_for, found)
        for keeper in self.policy.keepers:
            asking.start(keeper, found.unanswered(keeper, rows))
        await asking.all()

    def send(self, keeper: str, op: str, purpose: str, body: bytes, jti: bytes | None) -> asyncio.Future[Answer]:
        """Start one request to one keeper; logs of several keepers are joined by the `jti`."""
        audience = grants.keeper_audience(self.policy.vault, keeper)
        (grant,), _ = self._siblings(purpose, body, [audience], jti)
        return _started(self._ask(keeper, op, grant, body))


class _Asking:
    """Requests under way for parts of one round."""

    def __init__(
        self, session: Session, op: str, purpose: str, body_for: Callable[[Rows], bytes], found: Round
    ) -> None:
        self.session, self.op, self.purpose, self.body_for, self.found = session, op, purpose, body_for, found
        self.tasks: dict[asyncio.Future[Answer], tuple[str, Rows]] = {}
        self.asked: dict[str, Rows] = {k: np.empty(0, np.intp) for k in session.policy.keepers}
        self.failed: dict[str, BaseException] = {}
        self.jti = session.random(16)

    def start(self, keeper: str, rows: Rows) -> bool:
        """Ask a keeper for those of `rows` that it has not been asked for yet; True if there were any."""
        rows = np.setdiff1d(rows, self.asked[keeper])
        if keeper in self.failed or not len(rows):
            return False
        jti = None if len(self.asked[keeper]) else self.jti  # a keeper takes a jti once
        self.asked[keeper] = np.union1d(self.asked[keeper], rows)
        task = self.session.send(keeper, self.op, self.purpose, self.body_for(rows), jti)
        self.tasks[task] = (keeper, rows)
        return True

    async def until_covered(self, hedge_s: float) -> None:
        """Wait until every row has t answers; ask others for what fails or takes longer than `hedge_s`."""
        hedge_at = time.monotonic() + hedge_s
        while len(missing := self.found.uncovered()):
            late = time.monotonic() >= hedge_at
            if late or self.failed or not self.tasks:
                helping = [self.start(k, missing) for k in self.session.policy.keepers]
                if not any(helping) and not self.tasks:
                    raise self.session.why(self.failed)
            await self._take(None if late else max(0.0, hedge_at - time.monotonic()))

    async def all(self) -> None:
        """Wait for all that was asked; failures are left out."""
        while self.tasks:
            await self._take(None)

    async def _take(self, within_s: float | None) -> None:
        done, _ = await asyncio.wait(self.tasks, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            keeper, rows = self.tasks.pop(task)
            try:
                self.found.add(keeper, task.result(), rows)
            except AnwenError as error:
                self.failed[keeper] = error

    def cancel(self) -> None:
        """Give up on what has not answered."""
        for task in self.tasks:
            task.cancel()


def _started(work: Coroutine[Any, Any, Answer]) -> asyncio.Future[Answer]:
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda t: t.cancelled() or t.exception())  # nobody may wait for it any more
    return task


def _keeper_of(receipt: bytes) -> str:
    return decode_header(receipt).keeper
