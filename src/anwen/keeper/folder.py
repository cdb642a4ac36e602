"""A keeper's folder: its files, who may read them, and the few ways in which bytes become durable.

Every durable step of a keeper is a method of `Disk`, so that tests can cut before and after each one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from anwen.errors import ConflictError, MalformedError, PolicyError, StorageError

PRIVATE = 0o600


class Disk:
    """Durable steps. Each raises OSError when the operating system refuses."""

    def write(self, fd: int, data: bytes) -> None:
        """Write all of `data` at the end of an open file."""
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    def sync(self, fd: int) -> None:
        """Make an open file's bytes and length durable."""
        os.fdatasync(fd)

    def sync_folder(self, folder: Path) -> None:
        """Make names in a folder durable."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        """Put `source` in the place of `target`, at once or not at all."""
        source.replace(target)

    def replace(self, path: Path, data: bytes, mode: int = 0o644) -> None:
        """Make `data` the content of `path`. A crash leaves the old file or the new one, and perhaps `*.new`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(path.name + ".new")
        fresh.unlink(missing_ok=True)
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            self.write(fd, data)
            self.sync(fd)
        finally:
            os.close(fd)
        self.rename(fresh, path)
        self.sync_folder(path.parent)


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """Which keeper this is, and what proves it."""

    keeper: str
    vault: bytes
    root: bytes  # SHA-256 of the first policy: pinned, never taken from the network
    key: Ed25519PrivateKey

    @property
    def public(self) -> bytes:
        """The raw public key, as policies pin it."""
        return self.key.public_key().public_bytes_raw()


def make_identity(folder: Path, disk: Disk | None = None) -> bytes:
    """Make a keeper's `identity.key` and return its raw Ed25519 public key. Raises ConflictError if there is one."""
    path = folder / "identity.key"
    if path.exists():
        raise ConflictError(f"{folder.name}/identity.key exists")
    key = Ed25519PrivateKey.generate()
    (disk or Disk()).replace(path, key.private_bytes_raw(), PRIVATE)
    return key.public_key().public_bytes_raw()


def read_private(path: Path) -> bytes:
    """Return a secret file's bytes. Raises PolicyError when others may read it, StorageError when nobody can."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            if mode & 0o077:
                raise PolicyError(f"{path.name}: mode {mode:04o}, expected 0600")
            return file.read()
    except OSError as error:
        raise StorageError(f"{path.name}: cannot be read ({type(error).__name__})") from error


def read_identity(folder: Path) -> Identity:
    """Return the keeper that lives in `folder`. Raises MalformedError, PolicyError or StorageError."""
    secret = read_private(folder / "identity.key")
    if (folder / "tls.key").exists():
        read_private(folder / "tls.key")
    try:
        key = Ed25519PrivateKey.from_private_bytes(secret)
        about = _read_json(folder / "keeper.json", {"id"}, optional=frozenset({"metrics"}))
        root = _read_json(folder / "root.json", {"vault", "root"})
        return Identity(about["id"], bytes.fromhex(root["vault"]), bytes.fromhex(root["root"]), key)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"{folder.name}: identity.key or root.json does not follow the format") from error


def _read_json(path: Path, members: set[str], optional: frozenset[str] = frozenset()) -> dict[str, str]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise StorageError(f"{path.name}: cannot be read ({type(error).__name__})") from error
    if not isinstance(value, dict) or set(value) - optional != members or set(map(type, value.values())) != {str}:
        raise MalformedError(f"{path.name}: expected members {sorted(members)}")
    return value


def read_policy_documents(folder: Path) -> list[bytes]:
    """Return the signed policy versions, first one first. Raises PolicyError when one is missing."""
    paths = sorted((folder / "policy").glob("[0-9][0-9][0-9][0-9].json"))
    if not paths or [p.stem for p in paths] != [f"{i + 1:04}" for i in range(len(paths))]:
        raise PolicyError(f"policy: expected 0001.json and all that follow, found {len(paths)} files")
    return [path.read_bytes() for path in paths]


def write_policy(folder: Path, version: int, signed: bytes, disk: Disk) -> None:
    """Keep a policy version, durably."""
    disk.replace(folder / "policy" / f"{version:04}.json", signed)


@dataclass(frozen=True, slots=True, repr=False)
class KeyFile:
    """One series' keys as they came out of a ceremony. In use only once the log says that it was opened."""

    series: str
    number: int
    transcript: bytes
    secrets: Mapping[str, bytes]  # by key set, written "a+b"
    checks: Mapping[str, bytes]

    def write(self, folder: Path, disk: Disk) -> None:
        """Keep the keys, durably. A crash leaves none or all of them."""
        content = {
            "series": self.series,
            "number": self.number,
            "transcript": self.transcript.hex(),
            "keys": {name: secret.hex() for name, secret in self.secrets.items()},
            "checks": {name: check.hex() for name, check in self.checks.items()},
        }
        path = key_path(folder, self.series, self.number)
        disk.replace(path, json.dumps(content, separators=(",", ":")).encode(), PRIVATE)


def key_path(folder: Path, series: str, number: int) -> Path:
    """Return where a series' keys lie."""
    return folder / "keys" / f"{series}-{number}.keys"


def read_keys(folder: Path, series: str, number: int) -> KeyFile | None:
    """Return a series' keys, or None if there are none. Raises MalformedError, PolicyError or StorageError."""
    path = key_path(folder, series, number)
    if not path.exists():
        return None
    try:
        content = json.loads(read_private(path))
        secrets = {name: bytes.fromhex(secret) for name, secret in content["keys"].items()}
        checks = {name: bytes.fromhex(check) for name, check in content["checks"].items()}
        found = KeyFile(content["series"], content["number"], bytes.fromhex(content["transcript"]), secrets, checks)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise MalformedError(f"{path.name}: does not follow the format") from None
    if (found.series, found.number) != (series, number) or set(secrets) != set(checks):
        raise MalformedError(f"{path.name}: holds another series")
    return found
