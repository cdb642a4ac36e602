"""Keepers as each other's witnesses: cosigning checkpoints, and remembering for a peer what it last signed.

A keeper that starts asks its peers for the last checkpoint that they saw of it; only one with its own signature counts.
Every answer carries the peer's time, from which a keeper learns that its own clock is wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from anwen.crypto import merkle
from anwen.errors import AnwenError, MalformedError, NotFoundError, ProofError, QuorumError, RollbackError, StorageError
from anwen.formats import checkpoint
from anwen.keeper import statement
from anwen.keeper.clocks import Clocks
from anwen.keeper.folder import Disk, Identity
from anwen.keeper.log import Log
from anwen.keeper.peers import PeerCall
from anwen.model import KeeperInfo, Policy

_MAX_PROOF = 128
_NOTE_LINES = 5
_MAX_ANSWER_BYTES = 2**13
_MAX_TIME_S = 2**38
_log = logging.getLogger("anwen.keeper")


@dataclass(frozen=True, slots=True)
class Heard:
    """What a peer answered: of the right form, and nothing else is known of it."""

    time_s: float
    note: str  # the last checkpoint of ours that it saw, "" for none
    cosignature: str  # "" for none


def read_answer(answer: bytes) -> Heard:
    """Return what a peer answered. Raises MalformedError whatever else it may be."""
    if len(answer) > _MAX_ANSWER_BYTES:
        raise MalformedError(f"a peer's answer of {len(answer)} bytes")
    said = statement.read_object(answer, "time_s", "size", "note", "cosignature")
    time_s, note, line = said["time_s"], said["note"], said["cosignature"] or ""
    if type(time_s) not in (int, float) or not 0 <= time_s < _MAX_TIME_S:  # NaN is not, either
        raise MalformedError("a peer's answer: expected a time")
    if any(not isinstance(text, str) or not text.replace("\u2014", "").isascii() for text in (note, line)):
        raise MalformedError("a peer's answer: expected a note and a cosignature, of dashes and ASCII")
    return Heard(float(time_s), note, line)


def _read(path: Path) -> str:
    """Return a kept checkpoint, "" if there is none. Raises MalformedError."""
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise MalformedError(f"{path.name}: not a checkpoint") from None


@dataclass(frozen=True, slots=True)
class Seen:
    """The last checkpoint that this keeper cosigned for a peer."""

    size: int = 0
    root: bytes = merkle.EMPTY_ROOT
    note: str = ""


class Witness:
    """What this keeper does for its peers' logs."""

    def __init__(self, identity: Identity, folder: Path, disk: Disk, clock: Callable[[], float]) -> None:
        self._identity, self._folder, self._disk, self._clock = identity, folder, disk, clock
        self._seen: dict[str, Seen] = {}

    def last_seen(self, policy: Policy, body: bytes) -> bytes:
        """Return the last checkpoint seen of the keeper that asks."""
        request = statement.read_object(body, "keeper", "statement")
        keeper = _peer(policy, request["keeper"])
        statement.verify(policy, request["statement"], "last_seen", keeper)
        return self._answer(self._last(policy, keeper), None)

    def cosign(self, policy: Policy, body: bytes) -> bytes:
        """Cosign a checkpoint that follows from the last one; else return that one without a cosignature.

        Raises:
            ProofError: not signed by the keeper, or not consistent with what it signed before: a fork.
        """
        request = statement.read_object(body, "keeper", "note", "old", "proof")
        keeper, note, proof = _peer(policy, request["keeper"]), request["note"], request["proof"]
        if not isinstance(note, str) or note.count("\n") != _NOTE_LINES:  # more would come back to the keeper, from us
            raise MalformedError("cosign: expected a checkpoint with one signature")
        if not isinstance(proof, list) or len(proof) > _MAX_PROOF:
            raise MalformedError("cosign: expected a proof")
        name = checkpoint.log_origin(policy.vault, keeper)
        head, last = checkpoint.verify_note(note, name, policy.keepers[keeper].identity), self._last(policy, keeper)
        if head.origin != name:
            raise ProofError(f"keeper {keeper}: checkpoint of another log")
        if request["old"] != last.size or head.size < last.size:
            return self._answer(last, None)
        try:
            nodes = [bytes.fromhex(node) for node in proof]
        except (ValueError, TypeError):
            raise MalformedError("cosign: expected a proof in hex") from None
        merkle.verify_consistency(last.size, last.root, head.size, head.root, nodes)
        own = checkpoint.log_origin(policy.vault, self._identity.keeper)
        signed = checkpoint.cosign(note, own, self._identity.key, max(0, int(self._clock())))
        try:
            self._disk.replace(self._folder / f"{keeper}.note", note.encode())
        except OSError as error:
            raise StorageError("the checkpoint cannot be remembered") from error
        # A crash before: no cosignature left. After: this size is the least that the keeper may start with.
        self._seen[keeper] = Seen(head.size, head.root, note)
        return self._answer(self._seen[keeper], signed[len(note) :])

    def _last(self, policy: Policy, keeper: str) -> Seen:
        path = self._folder / f"{keeper}.note"
        if keeper not in self._seen:
            note = _read(path)
            if not note:
                return Seen()
            name = checkpoint.log_origin(policy.vault, keeper)
            head = checkpoint.verify_note(note, name, policy.keepers[keeper].identity)
            self._seen[keeper] = Seen(head.size, head.root, note)
        return self._seen[keeper]

    def _answer(self, seen: Seen, cosignature: str | None) -> bytes:
        answer = {"time_s": self._clock(), "size": seen.size, "note": seen.note, "cosignature": cosignature}
        return json.dumps(answer).encode()


def _peer(policy: Policy, keeper: object) -> str:
    if not isinstance(keeper, str) or keeper not in policy.keepers:
        raise NotFoundError("no such keeper in the policy")
    return keeper


class Witnessed:
    """What this keeper has its peers do for its own log and clock."""

    def __init__(self, identity: Identity, log: Log, peers: Mapping[str, PeerCall], clocks: Clocks) -> None:
        self._identity, self._log, self._clocks = identity, log, clocks
        self.peers = peers  # may name this keeper, too
        self._sizes: dict[str, int] = {}
        self._refused: dict[str, str] = {}  # why each peer answered nothing, last time
        self.note = ""  # the newest checkpoint with cosignatures

    def recover(self, path: Path) -> None:
        """Take up the checkpoint that was kept last. Raises RollbackError: our log has less, or something else.

        One that does not verify is none: whoever can write there can remove it, and peers have seen more.
        """
        try:
            note = _read(path)
            if note:
                self.check(note)
        except (ProofError, MalformedError):
            _log.warning("log/%s does not verify and is not used", path.name)
        else:
            self.note = note

    def sign(self) -> str:
        """Return a checkpoint of all that is durable now."""
        name = checkpoint.log_origin(self._identity.vault, self._identity.keeper)
        head = checkpoint.Checkpoint(name, self._log.size, self._log.leaves.root())
        return checkpoint.sign_note(checkpoint.encode_checkpoint(head), name, self._identity.key)

    def check(self, note: str) -> int:
        """Return the size in a checkpoint of ours. Raises RollbackError if our log has less, or something else."""
        name = checkpoint.log_origin(self._identity.vault, self._identity.keeper)
        head = checkpoint.verify_note(note, name, self._identity.public)
        if head.size > self._log.size:
            raise RollbackError(f"log of {self._log.size} entries; a peer has seen {head.size}")
        if self._log.leaves.root_at(head.size) != head.root:
            raise RollbackError(f"log differs from the {head.size} entries that a peer has seen")
        return head.size

    def _others(self) -> list[tuple[str, PeerCall]]:
        return [(peer, call) for peer, call in self.peers.items() if peer != self._identity.keeper]

    async def ask_peers(self) -> None:
        """Learn what peers have seen, and their time.

        Raises:
            QuorumError: no peer answered. RollbackError: this log is behind or forked.
        """
        text = statement.sign(self._identity, "last_seen")
        body = json.dumps({"keeper": self._identity.keeper, "statement": text}).encode()
        answered = await asyncio.gather(*(self._ask(peer, call, "last_seen", body) for peer, call in self._others()))
        if answered and not any(answered):
            raise QuorumError(f"keeper {self._identity.keeper}: none of its peers {sorted(self.peers)} answers")

    async def cosign(self, policy: Policy) -> str:
        """Return a checkpoint of all that is durable now with the cosignatures of all peers that answer."""
        size, note = self._log.size, self.sign()
        asked = (self._cosignature(policy.keepers[p], c, note, size) for p, c in self._others() if p in policy.keepers)
        self.note = note + "".join(await asyncio.gather(*asked))
        return self.note

    async def _cosignature(self, peer: KeeperInfo, call: PeerCall, note: str, size: int) -> str:
        """Return a peer's cosignature: one line, of that peer's and nothing else; "" if it gives none that verifies."""
        name = checkpoint.log_origin(self._identity.vault, peer.id)
        for _ in range(2):  # the second time from the size that the peer named
            old = self._sizes.get(peer.id, 0)
            proof = [node.hex() for node in merkle.consistency_proof(self._log.leaves.subtree, old, size)]
            request = {"keeper": self._identity.keeper, "note": note, "old": old, "proof": proof}
            heard = await self._ask(peer.id, call, "cosign", json.dumps(request).encode())
            line = heard.cosignature if heard else ""
            with contextlib.suppress(MalformedError):
                if line.find("\n") == len(line) - 1 and checkpoint.cosignatures(note + line, {name: peer.identity}):
                    return line
            if heard is None or not old != self._sizes.get(peer.id, 0) <= size:
                break
        return ""

    async def _ask(self, peer: str, call: PeerCall, op: str, body: bytes) -> Heard | None:
        """Return a peer's answer, None when it gives none. Only what we signed ourselves counts against us."""
        asked_s = self._clocks.boot()
        try:
            heard = read_answer(await call(op, body))
        except AnwenError as error:
            # its software is not of our time: no waiting helps, and it is asked twice a second
            if error.code == "policy" and self._refused.get(peer) != str(error):
                self._refused[peer] = str(error)
                _log.warning("keeper %s: %s", peer, error)
            return None
        self._clocks.hear(peer, heard.time_s, asked_s)
        if heard.note:
            try:
                self._sizes[peer] = self.check(heard.note)
            except (ProofError, MalformedError):
                return None  # a claim without our signature
        return heard
