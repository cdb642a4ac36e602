"""How keepers make a series' keys without a dealer: announce, reveal, confirm, open (docs/spec/ceremony.md).

For each key set T, every holder commits to 32 random bytes, then sends them to the other holders alone, sealed to HPKE
keys made for this ceremony, and all extract `k_T`. A keeper answers what an untrusted coordinator relays: every message
is signed by the pinned identity over vault, series and number, and any deviation ends the attempt and names the
deviator. A keeper keeps its keys before it confirms, and uses them once it has all confirmations and logged them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey as HpkeKey
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PublicKey as HpkePublicKey

from anwen.crypto import dprf
from anwen.errors import ConflictError, DeniedError, MalformedError, ProofError
from anwen.keeper import folder as files
from anwen.keeper import statement
from anwen.keeper.folder import Disk, Identity, KeyFile
from anwen.model import SERIES, Policy

STEPS = {
    "state": (), "abandon": ("transcript",), "announce": ("abandons",), "reveal": ("announces",),
    "confirm": ("reveals",), "open": ("confirms",),
}  # fmt: skip
"""What a coordinator sends with each step beside series and number."""
_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)  # X-Wing: recorded ceremonies stay closed
_MLKEM_BYTES = 1184


def set_name(key_set: tuple[str, ...]) -> str:
    """Return how a key set is written in files and messages."""
    return "+".join(key_set)


@dataclass(slots=True, repr=False)
class _Session:
    """One attempt; in memory alone, so a crash ends it."""

    series: str
    number: int
    key: HpkeKey
    contributions: Mapping[str, bytes]
    announced: str
    announces: dict[str, dict[str, Any]] = field(default_factory=dict)
    transcript: bytes = b""  # hash of all announcements
    revealed: str = ""


class Ceremony:
    """One keeper's part in ceremonies."""

    def __init__(self, identity: Identity, folder: Path, disk: Disk, random: Callable[[int], bytes]) -> None:
        self._identity, self._folder, self._disk, self._random = identity, folder, disk, random
        self._sessions: dict[tuple[str, int], _Session] = {}

    # --- what a coordinator asks -----------------------------------------------------------------------------------

    def answer(
        self,
        policy: Policy,
        step: str,
        body: bytes,
        current: Callable[[str], int],
        opened: Mapping[tuple[str, int], bytes],
    ) -> str | KeyFile:
        """Return the statement that answers one step; for "open" the keys that may be opened now.

        Args:
            current: gives the number of a series that is in use, 0 for none. opened: transcripts by series and number.
        """
        if step not in STEPS:
            raise MalformedError(f"no step {step} in a ceremony")
        request = statement.read_object(body, "series", "number", *STEPS[step])
        series, number = _series_of(request)
        if step == "state":
            return self.state(series, number, opened.get((series, number)))
        said = request[STEPS[step][0]]
        if step == "abandon":
            return self.abandon(series, number, str(said))
        if not isinstance(said, list):
            raise MalformedError(f"ceremony_{step}: expected a list of statements")
        if step == "announce":
            return self.announce(policy, series, number, said, current=current(series))
        steps: Mapping[str, Callable[..., str | KeyFile]]
        steps = {"reveal": self.reveal, "confirm": self.confirm, "open": self.check_open}
        return steps[step](policy, series, number, said)

    def state(self, series: str, number: int, opened: bytes | None) -> str:
        """Return what this keeper holds, with its confirmation if it has keys."""
        prepared = files.read_keys(self._folder, series, number)
        confirm = self._confirmation(prepared) if prepared else None
        return self._sign("state", series, number, opened=opened.hex() if opened else None, confirm=confirm)

    def abandon(self, series: str, number: int, transcript: str) -> str:
        """End any attempt, and state that the keys of `transcript` are not here and never will be."""
        self._sessions.pop((series, number), None)
        prepared = files.read_keys(self._folder, series, number)
        if prepared and prepared.transcript.hex() == transcript:
            raise ConflictError(f"keeper {self._identity.keeper}: {series} {number} is confirmed here")
        return self._sign("abandon", series, number, transcript=transcript)

    def announce(self, policy: Policy, series: str, number: int, abandons: list[object], *, current: int) -> str:
        """Begin an attempt: a fresh HPKE key, and a commitment for each key that this keeper will hold."""
        if number <= current:
            raise ConflictError(f"{series} {number} is open; current is {current}")
        if (current, number) != (0, 1):
            raise DeniedError(f"{series} {number}: only the first ceremony needs no officers' signatures")
        self._discard(policy, series, number, abandons)
        classic, lattice = X25519PrivateKey.generate(), MLKEM768PrivateKey.generate()
        public = lattice.public_key().public_bytes_raw() + classic.public_key().public_bytes_raw()
        names = names_held(policy, series, self._identity.keeper)
        contributions = {name: self._random(dprf.CONTRIBUTION_BYTES) for name in names}
        me = self._identity.keeper
        commitments = {name: self._commit(c, series, number, me, name) for name, c in contributions.items()}
        message = self._sign(
            "announce", series, number, keepers=list(policy.keepers),
            threshold=dprf.threshold_of(series, policy.threshold), hpke=public.hex(), commitments=commitments,
        )  # fmt: skip
        key = HpkeKey(lattice, classic)
        self._sessions[series, number] = _Session(series, number, key, contributions, message)
        return message

    def _discard(self, policy: Policy, series: str, number: int, abandons: list[object]) -> None:
        """Remove keys of an attempt that can no longer open: one other keeper, at least, never confirmed it."""
        prepared = files.read_keys(self._folder, series, number)
        if prepared is None:
            return
        others = [k for k in policy.keepers if k != self._identity.keeper]
        about = {"series": series, "number": number, "transcript": prepared.transcript.hex()}
        for text, keeper in ((text, keeper) for text in abandons for keeper in others):
            try:
                statement.verify(policy, text, "abandon", keeper, **about)
            except ProofError:
                continue
            path = files.key_path(self._folder, series, number)
            path.unlink()
            self._disk.sync_folder(path.parent)  # a crash before: the keys are back, and are discarded again
            return
        raise ConflictError(f"keeper {self._identity.keeper}: {series} {number} is confirmed, and nobody abandoned it")

    def reveal(self, policy: Policy, series: str, number: int, announces: list[object]) -> str:
        """Return this keeper's contributions, sealed to each other holder, once all have committed."""
        session = self._session(series, number)
        contents = self._all_of(policy, "announce", session, announces, session.announced)
        transcript = _hash(announces)
        if session.revealed and session.transcript != transcript:
            raise ProofError("another set of announcements was revealed to")
        if session.revealed:
            return session.revealed
        sealed, threshold = {}, dprf.threshold_of(series, policy.threshold)
        for keeper, content in contents.items():
            about, commitments = (content.get("keepers"), content.get("threshold")), content.get("commitments")
            agreed, held = about == (list(policy.keepers), threshold), names_held(policy, series, keeper)
            if not agreed or not isinstance(commitments, dict) or list(commitments) != held:
                raise ProofError(f"keeper {keeper}: announced other keepers or key sets than the policy's")
            shared = b"".join(session.contributions[name] for name in self._shared(policy, series, keeper))
            if keeper != self._identity.keeper:
                info = _info(transcript, self._identity.keeper, keeper)
                sealed[keeper] = _sealed_to(keeper, content.get("hpke"), shared, info)
        session.announces, session.transcript = contents, transcript
        session.revealed = self._sign("reveal", series, number, transcript=transcript.hex(), sealed=sealed)
        return session.revealed

    def confirm(self, policy: Policy, series: str, number: int, reveals: list[object]) -> str:
        """Check every contribution against its commitment, keep the keys, and state their check values."""
        session = self._session(series, number)
        me, given = self._identity.keeper, {self._identity.keeper: session.contributions}
        for keeper, content in self._all_of(policy, "reveal", session, reveals, session.revealed).items():
            if content.get("transcript") != session.transcript.hex():
                raise ProofError(f"keeper {keeper}: revealed to other announcements")
            if keeper != me:
                given[keeper] = self._opened(policy, session, keeper, content)
        transcript = _hash([session.transcript.hex(), *reveals])
        secrets = {}
        for key_set in _held_by(policy, series, me):
            name = set_name(key_set)
            parts = {keeper: part[name] for keeper, part in given.items() if name in part}
            # over the announcements, which commit to every part: who reveals last, and may seal his parts anew as often
            # as he likes, has nothing left to choose by
            secrets[name] = dprf.extract(series, number, policy.vault, key_set, session.transcript, parts)
        checks = {name: dprf.check_value(secret) for name, secret in secrets.items()}
        keys = KeyFile(series, number, transcript, secrets, checks)
        keys.write(self._folder, self._disk)
        # A crash before this line ends the attempt here; after it, the same confirmation is given again on request.
        del self._sessions[series, number]
        return self._confirmation(keys)

    def check_open(self, policy: Policy, series: str, number: int, confirms: list[object]) -> KeyFile:
        """Return the keys to open, once all keepers confirmed the same transcript and the same keys."""
        keys = files.read_keys(self._folder, series, number)
        if keys is None:
            raise ConflictError(f"keeper {self._identity.keeper}: no keys of {series} {number} to open")
        about = {"series": series, "number": number, "transcript": keys.transcript.hex()}
        known = {name: (self._identity.keeper, check.hex()) for name, check in keys.checks.items()}
        for keeper, content in statement.verify_all(policy, confirms, "confirm", **about).items():
            checks = content.get("checks")
            if not isinstance(checks, dict) or list(checks) != names_held(policy, series, keeper):
                raise ProofError(f"keeper {keeper}: confirmed other key sets than its own")
            for name, check in checks.items():
                first, expected = known.setdefault(name, (keeper, check))
                if check != expected:
                    raise ProofError(f"keeper {keeper}: its key for the set {name} is not that of keeper {first}")
        return keys

    # --- parts -----------------------------------------------------------------------------------------------------

    def _opened(self, policy: Policy, session: _Session, keeper: str, content: dict[str, Any]) -> dict[str, bytes]:
        """Return what another keeper contributed to the keys that both hold."""
        names = self._shared(policy, session.series, keeper)
        try:
            sealed = bytes.fromhex(content["sealed"][self._identity.keeper])
            joined = _SUITE.decrypt(sealed, session.key, _info(session.transcript, keeper, self._identity.keeper))
        except (InvalidTag, ValueError, KeyError, TypeError):
            raise ProofError(f"keeper {keeper}: its sealed contributions do not open") from None
        size = dprf.CONTRIBUTION_BYTES
        parts = {name: joined[i * size : (i + 1) * size] for i, name in enumerate(names)}
        committed = session.announces[keeper]["commitments"]
        for name, part in parts.items():
            about = (session.series, session.number, keeper, name)
            if len(joined) != size * len(names) or self._commit(part, *about) != committed[name]:
                raise ProofError(f"keeper {keeper}: its contribution is not the one it committed to")
        return parts

    def _all_of(
        self, policy: Policy, kind: str, session: _Session, texts: list[object], mine: str
    ) -> dict[str, dict[str, Any]]:
        """Return the verified statements of all keepers, ours as we made it."""
        contents = statement.verify_all(policy, texts, kind, series=session.series, number=session.number)
        if mine not in texts:  # what we did not sign never stands in our place: `verify_all` has seen to that
            raise ProofError(f"keeper {self._identity.keeper}: not its {kind} statement of this attempt")
        return contents

    def _session(self, series: str, number: int) -> _Session:
        session = self._sessions.get((series, number))
        if session is None:
            raise ConflictError(f"keeper {self._identity.keeper}: no ceremony of {series} {number} is under way")
        return session

    def _shared(self, policy: Policy, series: str, keeper: str) -> list[str]:
        theirs = set(names_held(policy, series, keeper))
        return [name for name in names_held(policy, series, self._identity.keeper) if name in theirs]

    def _commit(self, contribution: bytes, series: str, number: int, keeper: str, name: str) -> str:
        if len(contribution) != dprf.CONTRIBUTION_BYTES:
            return ""
        context = f"{self._identity.vault.hex()}\n{series}\n{number}\n{keeper}\n{name}".encode()
        return dprf.commit(contribution, context).hex()

    def _sign(self, kind: str, series: str, number: int, **members: Any) -> str:
        return statement.sign(self._identity, kind, series=series, number=number, **members)

    def _confirmation(self, keys: KeyFile) -> str:
        checks = {name: check.hex() for name, check in keys.checks.items()}
        return self._sign("confirm", keys.series, keys.number, transcript=keys.transcript.hex(), checks=checks)


def names_held(policy: Policy, series: str, keeper: str) -> list[str]:
    """Return the names of the key sets whose keys a keeper holds."""
    return [set_name(s) for s in _held_by(policy, series, keeper)]


def _held_by(policy: Policy, series: str, keeper: str) -> tuple[tuple[str, ...], ...]:
    return dprf.held_by(keeper, list(policy.keepers), dprf.threshold_of(series, policy.threshold))


def _hash(texts: list[object]) -> bytes:
    return hashlib.sha256("\n\n".join(map(str, texts)).encode()).digest()


def _info(transcript: bytes, sender: str, receiver: str) -> bytes:
    return b"anwen-ceremony-1\n" + transcript + f"\n{sender}\n{receiver}".encode()


def _sealed_to(keeper: str, text: object, shared: bytes, info: bytes) -> str:
    try:
        raw = bytes.fromhex(str(text))
        lattice = MLKEM768PublicKey.from_public_bytes(raw[:_MLKEM_BYTES])
        public = HpkePublicKey(lattice, X25519PublicKey.from_public_bytes(raw[_MLKEM_BYTES:]))
        return _SUITE.encrypt(shared, public, info).hex()
    except ValueError:  # also of a point of small order, with which nothing is secret
        raise ProofError(f"keeper {keeper}: announced no HPKE key") from None


def _series_of(request: Mapping[str, object]) -> tuple[str, int]:
    series, number = request["series"], request["number"]
    if not isinstance(series, str) or series not in SERIES or type(number) is not int or not 1 <= number < 2**32:
        raise MalformedError(f"expected a series of {SERIES} and a number from 1")
    return series, number
