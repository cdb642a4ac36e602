"""Checkpoints of a keeper's log: C2SP signed-note, tlog-checkpoint and tlog-cosignature (docs/spec/log.md).

Logs and witnesses sign with Ed25519. Signature lines of other keys and types (ML-DSA-44 has type 0x06) are kept and
ignored, as the specifications ask. We write no extension lines and accept none: one tree head has one text.

Pure: the caller brings the time.

Sources: c2sp.org/signed-note, c2sp.org/tlog-checkpoint, c2sp.org/tlog-cosignature, each at v1.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from anwen.errors import MalformedError, ProofError

ROOT_BYTES = 32
MAX_SIGNATURES = 64
MAX_NOTE_CHARS = 2**19
_LOG, _COSIGNER = 1, 4  # signature types
_SIGNATURE_BYTES = 64
_CONTROL = re.compile("[\x00-\x1f\ud800-\udfff]")  # with the halves of characters, which are no UTF-8
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


def log_origin(vault: bytes, keeper: str) -> str:
    """Return the name of a keeper's log, under which it signs and cosigns."""
    return f"anwen/{vault.hex()}/{keeper}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's tree head."""

    origin: str  # name of the log
    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class _Line:
    name: str
    key_id: bytes
    signature: bytes


def encode_checkpoint(checkpoint: Checkpoint) -> str:
    """Return the note text of a tree head. Raises MalformedError."""
    origin, size, root = checkpoint.origin, checkpoint.size, checkpoint.root
    if not origin or _has_control(origin) or not 0 <= size < 2**63 or len(root) != ROOT_BYTES:
        raise MalformedError("checkpoint: expected an origin of one line, a size and a root of 32 bytes")
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"


def decode_checkpoint(text: str) -> Checkpoint:
    """Return the tree head of a note text, its signatures unchecked. Raises MalformedError."""
    lines = text.split("\n")
    if len(lines) != 4 or not lines[0] or not _SIZE.fullmatch(lines[1]) or lines[3]:
        raise MalformedError("checkpoint: expected the three lines origin, size and root")
    checkpoint = Checkpoint(lines[0], int(lines[1]), _decode64(lines[2]))
    if encode_checkpoint(checkpoint) != text:
        raise MalformedError("checkpoint: not in its one form")
    return checkpoint


def sign_note(text: str, name: str, key: Ed25519PrivateKey) -> str:
    """Return the signed note of a log named `name` over a text that ends in a newline. Raises MalformedError."""
    if not text.endswith("\n") or _has_control(text.replace("\n", "")):
        raise MalformedError("note: expected lines without control characters")
    return f"{text}\n{_line(name, _LOG, key, key.sign(text.encode()))}"


def cosign(note: str, name: str, key: Ed25519PrivateKey, time_s: int) -> str:
    """Return the note with one more line: the witness `name` saw this tree head, consistent, at `time_s`.

    The caller has verified the note and its consistency with what it cosigned before.

    Raises:
        MalformedError: not a signed note, or a time below 0 or from 2^63.
    """
    text, _ = _split(note)
    if not 0 <= time_s < 2**63:
        raise MalformedError(f"cosignature: time {time_s} is out of range")
    signature = time_s.to_bytes(8) + key.sign(_cosigned(text, time_s))
    return note + _line(name, _COSIGNER, key, signature)


def verify_note(note: str, name: str, public: bytes) -> Checkpoint:
    """Return the tree head that the log `name` with this raw Ed25519 key signed.

    Raises:
        ProofError: no signature of that key, or one that does not verify. MalformedError: not a checkpoint.
    """
    text, lines = _split(note)
    key_id = _key_id(name, _LOG, public)
    signatures = [line.signature for line in lines if (line.name, line.key_id) == (name, key_id)]
    if not signatures:
        raise ProofError(f"checkpoint: no signature by the pinned key of {name}")
    for signature in signatures:
        if not _verifies(public, signature, text.encode()):
            raise ProofError(f"checkpoint: signature of {name} does not verify")
    return decode_checkpoint(text)


def cosignatures(note: str, witnesses: Mapping[str, bytes]) -> dict[str, int]:
    """Return by witness the latest time in a cosignature that verifies; all others are left out.

    Args:
        note: signed note.
        witnesses: raw Ed25519 public keys by name.

    Raises:
        MalformedError: not a signed note.
    """
    text, lines = _split(note)
    times: dict[str, int] = {}
    for line in lines:
        public = witnesses.get(line.name)
        if public is None or line.key_id != _key_id(line.name, _COSIGNER, public) or len(line.signature) < 8:
            continue
        time_s = int.from_bytes(line.signature[:8])
        if time_s < 2**63 and _verifies(public, line.signature[8:], _cosigned(text, time_s)):
            times[line.name] = max(time_s, times.get(line.name, 0))
    return times


def _has_control(text: str) -> bool:
    return _CONTROL.search(text) is not None


def _check_name(name: str) -> None:
    spaced = any(unicodedata.category(c)[0] == "Z" or c.isspace() for c in name)
    if not name or "+" in name or spaced or _has_control(name):
        raise MalformedError("note: a key name has no spaces, plus signs or control characters")


def _decode64(text: str) -> bytes:
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError("note: expected base64") from error
    if base64.b64encode(data).decode() != text:
        raise MalformedError("note: base64 has stray bits")
    return data


def _key_id(name: str, kind: int, public: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:4]


def _line(name: str, kind: int, key: Ed25519PrivateKey, signature: bytes) -> str:
    _check_name(name)
    key_id = _key_id(name, kind, key.public_key().public_bytes_raw())
    return f"\u2014 {name} {base64.b64encode(key_id + signature).decode()}\n"


def _cosigned(text: str, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def _verifies(public: bytes, signature: bytes, message: bytes) -> bool:
    if len(signature) != _SIGNATURE_BYTES:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _split(note: str) -> tuple[str, list[_Line]]:
    """Return text and signature lines of a note."""
    if len(note) > MAX_NOTE_CHARS or _has_control(note.replace("\n", "")):
        raise MalformedError(f"note: longer than {MAX_NOTE_CHARS} characters, or has control characters")
    end = note.rfind("\n\n")
    block = note[end + 2 :]
    if end < 0 or not block.endswith("\n"):
        raise MalformedError("note: expected text, an empty line and signature lines")
    lines = block[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise MalformedError(f"note: more than {MAX_SIGNATURES} signatures")
    return note[: end + 1], [_parse_line(line) for line in lines]


def _parse_line(line: str) -> _Line:
    parts = line.split(" ")
    if len(parts) != 3 or parts[0] != "\u2014":
        raise MalformedError("note: expected a dash, a key name and a signature")
    _check_name(parts[1])
    data = _decode64(parts[2])
    if len(data) <= 4:
        raise MalformedError("note: signature is too short")
    return _Line(parts[1], data[:4], data[4:])
