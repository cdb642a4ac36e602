"""The keeper: authenticate, check, charge, append to the log, fsync, evaluate, answer; in this order.

`Keeper` has no socket and no clock of its own: the process in `app`, the embedded vault and the tests bring transport,
time and disk. Between two awaits nothing else runs, so each request's checks and charges are one step.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from anwen.crypto import grants
from anwen.errors import (
    AnwenError,
    ClockError,
    GrantError,
    OverloadedError,
    PolicyError,
    RollbackError,
    StorageError,
    UnavailableError,
)
from anwen.formats import answer, policy_chain, wire
from anwen.keeper import folder as files
from anwen.keeper import reading, requests
from anwen.keeper.ceremony import Ceremony
from anwen.keeper.clocks import Clocks, since_boot
from anwen.keeper.folder import Disk, Identity, KeyFile
from anwen.keeper.log import LASTING, Log
from anwen.keeper.peers import PeerCall
from anwen.keeper.requests import Ask, Work
from anwen.keeper.shares import Held, Shares, evaluate
from anwen.keeper.side import Block, Kind, MonthKeys, encode
from anwen.keeper.state import COUNTERS, Charges, State
from anwen.keeper.witness import Witness, Witnessed
from anwen.model import Policy

MAX_WAITING = 1024
_REFUSALS_LOGGED_PER_S = 16
_KINDS = {counter: kind for kind, counter in COUNTERS.items()}
_JSON = json.JSONEncoder(separators=(",", ":"))
_log = logging.getLogger("anwen.keeper")


class Keeper:
    """One keeper. `open` it, `start` it, and hand it requests; `close` it in the end."""

    def __init__(
        self,
        folder: Path,
        identity: Identity,
        policy: Policy,
        *,
        clocks: Clocks,
        peers: Mapping[str, PeerCall],
        disk: Disk,
        random: Callable[[int], bytes],
    ) -> None:
        self._folder, self._disk, self.clocks, self._random = folder, disk, clocks, random
        self.identity, self.policy, self._screen = identity, policy, policy_chain.Screen.after(policy)
        self._months = MonthKeys(folder / "log" / "months", disk, random)
        self._state, self.log = State(policy, self._months), Log(folder / "log", disk)
        self._ceremony = Ceremony(identity, folder, disk, random)
        self._witness = Witness(identity, folder / "seen", disk, clocks.wall)
        self.witnessed = Witnessed(identity, self.log, peers, clocks)
        self._shares = Shares(folder, self._state, identity.keeper, policy)
        self._public_keys = functools.lru_cache(4096)(grants.load_public_key)
        self._audience = grants.keeper_audience(policy.vault, identity.keeper)
        self._stopped: AnwenError | None = UnavailableError(f"keeper {identity.keeper} has not heard from a peer yet")
        self._waiting, self._refusals = 0, (0, 0)
        self._cosigning = asyncio.Lock()
        self.grown = asyncio.Event()  # set when entries came that no checkpoint covers

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        clock: Callable[[], float] = time.time,
        boot: Callable[[], float] = since_boot,
        peers: Mapping[str, PeerCall],
        disk: Disk | None = None,
        random: Callable[[int], bytes] = os.urandom,
    ) -> Keeper:
        """Return the keeper in `folder`, its state rebuilt from its log. It serves once `start` returns.

        Raises:
            PolicyError: the chain of policies does not verify, or names another identity. StorageError: log or
                keys are damaged, with the place. RollbackError: they are older than one another.
        """
        identity = files.read_identity(folder)
        policy = policy_chain.verify_chain(files.read_policy_documents(folder), identity.root)
        _check_names(policy, identity)
        clocks = Clocks(clock, boot)
        keeper = cls(folder, identity, policy, clocks=clocks, peers=peers, disk=disk or Disk(), random=random)
        keeper._recover()
        return keeper

    def _recover(self) -> None:
        # Windows are some minutes longer than a day; nothing is served before the clock has reached the last entry.
        self.log.recover(3, self._state.replay)
        if self._state.policy_version > self.policy.version:
            raise RollbackError(f"policy {self.policy.version}; the log has {self._state.policy_version}")
        for (series, number), transcript in self._state.opened.items():
            self._shares.load(series, number, transcript)
        self.witnessed.recover(self._folder / "log" / "checkpoint")

    async def start(self) -> None:
        """Ask the peers what they have seen of this log, then serve.

        Raises:
            QuorumError: no peer answered; call again. RollbackError: every request is refused from now on.
        """
        try:
            await self.witnessed.ask_peers()
        except RollbackError as error:
            self._stopped = error
            raise
        if self._state.policy_version < self.policy.version:
            # the file is durable before its entry: a crash in between is made good here
            await self.log.commit(self._append_policy())
        self._stopped = None

    async def close(self) -> None:
        """Finish what is being written and close the log."""
        self._stopped = UnavailableError(f"keeper {self.identity.keeper} is stopping")
        await self.log.close()

    # --- requests --------------------------------------------------------------------------------------------------

    async def handle(self, op: str, grant: str, body: bytes) -> bytes:
        """Return the answer to a client's request.

        Args:
            op: "put", "open", "index", "prehash", "verify", "delete", "audit", "log", "state" or "policy".
            grant: as it follows `Authorization: Anwen`; may be empty for "policy", which officers' signatures carry.

        Raises:
            AnwenError: why it is refused. Nothing that is not durable in the log was answered.
        """
        if op == "policy":
            return await self._take_policy(grant, body)
        if self._waiting >= MAX_WAITING:
            raise OverloadedError("too many requests are waiting", retry_after_s=1)
        granted = self._authenticate(grant, hashlib.sha256(body).digest())
        self._check_serving()  # what is wrong here is said to principals alone
        if op == "state":
            wire.decode(body, "state")
            self._shares.check()
            return self._answer(op, granted, Work(), self.log.size, self._stated(), t_ms=self._now_ms())
        self._waiting += 1
        try:
            return await self._serve(op, granted, grant, body)
        except AnwenError as error:
            self._log_refusal(op, granted, error)
            raise
        finally:
            self._waiting -= 1

    def number(self, series: str) -> int:
        """Return the epoch ("record") or generation ("index") that is current."""
        return self._state.number(series)

    def _check_serving(self) -> None:
        if self._stopped is not None:
            raise type(self._stopped)(*self._stopped.args)
        if self.log.failed:
            raise StorageError("the log cannot be written; nothing is answered any more")

    def _now_ms(self) -> int:
        return self.clocks.now_ms(self._state.last_ms)

    def admit(self, token: str) -> grants.Grant:
        """Return a grant that is good in all but what the body says; cheap checks first, so that garbage costs little.

        Raises:
            GrantError: it is not. ClockError: said to principals alone, and instead of calling their grants expired.
        """
        parts = grants.parse(token)
        fault = self.clocks.fault(self._state.last_ms)
        if fault is None:
            grants.check(parts[0], self._audience, self._now_ms() / 1000)
        principal = self.policy.principals.get(parts[0].issuer)
        grants.verify(parts, self._public_keys(principal.public_key) if principal else None)
        if fault is not None:
            raise ClockError(f"keeper {self.identity.keeper}: its clock is {fault}")
        return parts[0]

    def _authenticate(self, token: str, request: bytes) -> grants.Grant:
        """Return the claims of a valid grant that was not used before."""
        grant = self.admit(token)
        grants.check_request(grant, request)
        if self._state.is_spent(grant.issuer, grant.jti):
            raise GrantError(grants.WORDING)
        return grant

    async def _serve(self, op: str, grant: grants.Grant, token: str, body: bytes) -> bytes:
        if op not in requests.CHECKS and op not in reading.CHECKS:
            raise GrantError(grants.WORDING)
        t_ms = self._now_ms()
        ask = Ask(op, grant, token, wire.decode(body, op), self.policy, self._state, t_ms / 1000)
        work = (requests.CHECKS.get(op) or reading.CHECKS[op])(ask)
        keys, stated = self._shares.held(work), self._stated()
        index = self._charge_and_append(ask, work, t_ms)
        await self.log.commit(index)
        # The entry is durable, and nothing was evaluated before this line: a crash costs budget at most.
        if op in reading.CHECKS:
            fresh = op == "log" and ask.message.number("start") == 0
            note = await self.cosign_now() if fresh else self.witnessed.note or self.witnessed.sign()
            return await reading.read(ask, self.log, self._months, note)
        return self._answer(op, grant, work, index, stated, t_ms=t_ms, keys=keys)

    def _stated(self) -> tuple[int, int, int]:
        """Return under which policy, epoch and generation a request is answered that is looked at now."""
        return self.policy.version, self._state.number("record"), self._state.number("index")

    def _charge_and_append(self, ask: Ask, work: Work, t_ms: int) -> int:
        """Charge the budgets and append the entry: one step, nothing runs in between."""
        grant, month = ask.grant, _day(t_ms)[:7]
        self._months.ensure(month)
        blocks = [*self._charge_blocks(work, month), *work.blocks]
        self._state.ledger.reserve(grant.issuer, work.charges, self.clocks.window_s())
        root = work.root.hex() if work.root != requests.NO_ROOT else ""
        about = {
            "iss": grant.issuer, "purpose": grant.purpose, **work.about, "jti": grant.jti.hex(),
            "exp": grant.expires_s, "req": grant.request.hex(), "root": root, "policy": self.policy.version,
        }  # fmt: skip
        return self._append(ask.op, about, blocks, t_ms=t_ms)

    def _charge_blocks(self, work: Work, month: str) -> list[Block]:
        """Return what the ledger is rebuilt from: each charge, subjects as pseudonyms."""
        blocks = []
        parts = [(_KINDS[counter], of) for counter, of in _each(work.charges)]
        parts += [(Kind.SEEN, (collection, subjects)) for collection, subjects in work.seen.items()]
        for kind, (collection, part) in parts:
            if isinstance(part, int):
                blocks.append(Block.count(kind, collection, part))
            else:
                pseudonyms = self._months.pseudonyms(month, b"".join(part))
                assert pseudonyms is not None  # `ensure` made the key
                blocks.append(Block.of(kind, collection, pseudonyms))
        return blocks

    def _append(self, op: str, about: Mapping[str, object], blocks: list[Block], *, t_ms: int | None = None) -> int:
        """Append an entry and take it into the state."""
        side = encode(self._random(16), blocks)
        t_ms = self._now_ms() if t_ms is None else t_ms
        lasting = self._state.lasting + (op in LASTING)
        entry = {"t": t_ms, "op": op, **about, "lasting": lasting, "side": hashlib.sha256(side).hexdigest()}
        encoded = _JSON.encode(entry).encode()
        index = self.log.append(_day(t_ms), encoded, side, lasting=op in LASTING)
        self._state.remember(entry, blocks)
        self.grown.set()
        return index

    def _append_policy(self) -> int:
        """Append which policy is in force; with its digest, so that two of one number do not look like one."""
        digest = policy_chain.digest(self.policy).hex()
        return self._append("policy", {"policy": self.policy.version, "digest": digest}, [])

    def _log_refusal(self, op: str, grant: grants.Grant, error: AnwenError) -> None:
        """Log that a valid grant was refused; not waited for, and so many a second at most."""
        t_ms = self._now_ms()
        second, count = self._refusals
        count = count + 1 if second == t_ms // 1000 else 1
        self._refusals = (t_ms // 1000, count)
        if self.log.failed or count > _REFUSALS_LOGGED_PER_S:
            return
        about = {"of": op, "code": error.code, "iss": grant.issuer, "purpose": grant.purpose}
        about |= {"jti": grant.jti.hex(), "req": grant.request.hex()}
        self._append("refused", about, [])

    def _answer(
        self, op: str, grant: grants.Grant, work: Work, index: int, stated: tuple[int, int, int], *, t_ms: int,
        keys: Held = (),
    ) -> bytes:  # fmt: skip
        version, epoch, generation = stated
        components = evaluate(keys, work)
        self._shares.mask(components, work, grant)
        header = answer.Header(
            vault=self.policy.vault, keeper=self.identity.keeper, op=op, issuer=answer.issuer_hash(grant.issuer),
            request=grant.request, root=work.root, components=answer.column_hashes(components),
            policy_version=version, epoch=epoch, generation=generation, expires_s=grant.expires_s, time_ms=t_ms,
            entry=index, rows=components.shape[1], columns=components.shape[0],
        )  # fmt: skip
        return answer.encode_answer(header, self.identity.key, work.nonce_base, components)

    async def _take_policy(self, grant: str, body: bytes) -> bytes:
        """Take the next policy version, which a quorum of officers signed."""
        try:
            self._screen.check(body)
            policy = policy_chain.verify_next(self.policy, policy_chain.decode_signed(body))
            _check_names(policy, self.identity)
        except PolicyError:
            self._authenticate(grant, hashlib.sha256(body).digest())  # one refusal for all who show nothing
            raise
        self._check_serving()
        try:
            files.write_policy(self._folder, policy.version, body, self._disk)
        except OSError as error:
            raise StorageError("the policy cannot be kept") from error
        # A crash before: the old version, officers send it again. After: the new one, its entry made on start.
        self.policy, self._screen = policy, policy_chain.Screen.after(policy)
        self._state.ledger.update_policy(policy)
        index = self._append_policy()
        await self.log.commit(index)
        nobody = grants.Grant("", self._audience, 0, b"", "", hashlib.sha256(body).digest())
        return self._answer("policy", nobody, Work(), index, self._stated(), t_ms=self._now_ms())

    # --- peers -----------------------------------------------------------------------------------------------------

    async def handle_peer(self, op: str, body: bytes) -> bytes:
        """Return the answer to another keeper, or to a ceremony's coordinator.

        Args:
            op: "cosign", "last_seen" or "ceremony_" and "state", "abandon", "announce", "reveal", "confirm", "open".
        """
        if isinstance(self._stopped, RollbackError):
            raise RollbackError(*self._stopped.args)
        if op == "cosign":
            return self._witness.cosign(self.policy, body)
        if op == "last_seen":
            return self._witness.last_seen(self.policy, body)
        state, step = self._state, op.removeprefix("ceremony_")
        try:
            said = self._ceremony.answer(self.policy, step, body, state.number, state.opened)
        except OSError as error:
            raise StorageError("the keys cannot be kept") from error
        return (said if isinstance(said, str) else await self._open_keys(said)).encode()

    async def _open_keys(self, keys: KeyFile) -> str:
        """Bring keys into use that all keepers confirmed: logged, and by that for good."""
        series, number = keys.series, keys.number
        if (series, number) not in self._state.opened:
            about = {"series": series, "number": number, "transcript": keys.transcript.hex()}
            index = self._append("ceremony", about, [])
            await self.log.commit(index)
            # A crash before this line: confirmed, not open, and opened by the next run. After: open.
        self._shares.load(series, number, keys.transcript)
        return self._ceremony.state(series, number, keys.transcript)

    async def cosign_now(self) -> str:
        """Have the peers cosign all that is durable now; return the checkpoint, which is kept in `log/checkpoint`."""
        async with self._cosigning:
            self.grown.clear()
            try:
                note = await self.witnessed.cosign(self.policy)
            except RollbackError as error:
                self._stopped = error
                raise
            try:
                await asyncio.to_thread(self._disk.replace, self._folder / "log" / "checkpoint", note.encode())
            except OSError as error:
                raise StorageError("the checkpoint cannot be kept") from error
            if self.clocks.fault(self._state.last_ms) is None:
                self._state.ledger.forget(self.clocks.window_s())
            # A crash before: the older checkpoint, with fewer entries under it; the log is not touched.
            return note


def _check_names(policy: Policy, identity: Identity) -> None:
    pinned = policy.keepers.get(identity.keeper)
    if policy.vault != identity.vault or pinned is None or pinned.identity != identity.public:
        raise PolicyError(f"policy {policy.version} pins another identity than keeper {identity.keeper} has")


def _each(charges: Charges) -> list[tuple[Any, tuple[int, Any]]]:
    return [(counter, part) for counter, parts in charges.items() for part in parts.items()]


@functools.lru_cache(2)
def _day_name(days: int) -> str:
    return (dt.date(1970, 1, 1) + dt.timedelta(days=days)).isoformat()


def _day(t_ms: int) -> str:
    return _day_name(t_ms // 86_400_000)
