"""A vault in one folder: made by `anwen init`, run by `anwen up` or opened in one process (docs/architecture.md).

In real use each zone's and each person's part lies on a machine of its own; one folder is for development, small uses
and tests, and the policy has to say so (`single_machine = true`).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import os
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import IO

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from anwen.errors import ConflictError, MalformedError, NotFoundError, PolicyError, StorageError
from anwen.formats import policy_chain, policy_file
from anwen.formats.policy_chain import SignedPolicy
from anwen.keeper.folder import make_identity, read_private
from anwen.model import Policy
from anwen.net import tls
from anwen.net.ports import free_port

TEMPLATES = ("police", "commerce", "devices")
POLICY_DAYS = 90
SINGLE_MACHINE = (
    "single_machine: all keepers and the store are on this machine. Whoever takes the machine takes the vault, "
    "and when it stops, the vault stops. The zone promises hold only on three machines."
)
"""What every report of such a vault repeats."""


def template(name: str) -> str:
    """Return a ready vault file. Raises NotFoundError."""
    if name not in TEMPLATES:
        raise NotFoundError(f"no template {name!r}; there are {', '.join(TEMPLATES)}")
    return resources.files("anwen").joinpath("templates", f"{name}.toml").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Shape:
    """What `create` makes: how many zones and officers, how many of each must agree, and the store behind the nodes.

    `engine` and `store`: as `store.engines.connect` takes them. `hosts`: where zones listen, if not on 127.0.0.1.
    """

    zones: tuple[str, ...] = ("a", "b", "c")
    threshold: int = 2
    nodes: tuple[str, ...] = ("a",)
    officers: tuple[str, ...] = ("officer1", "officer2", "officer3")
    engine: str = "sqlite"
    store: Mapping[str, object] = field(default_factory=lambda: {"path": "../../store/anwen.sqlite"})
    hosts: Mapping[str, str] = field(default_factory=dict)


class VaultFolder:
    """Paths and keys of one vault folder."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not (self.path / "root.json").exists():
            raise NotFoundError(f"{self.path}: no vault here; `anwen init {self.path}` makes one")

    @property
    def toml(self) -> Path:
        """The file that officers edit."""
        return self.path / "vault.toml"

    @property
    def root(self) -> bytes:
        """SHA-256 of the first policy: what everything else is checked against."""
        try:
            pin = json.loads((self.path / "root.json").read_bytes())
            return bytes.fromhex(pin["root"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise MalformedError(f"{self.path / 'root.json'}: does not follow the format") from error

    def documents(self) -> list[bytes]:
        """Return the signed policy versions, first one first."""
        return [p.read_bytes() for p in sorted((self.path / "policy").glob("[0-9]*.json"))]

    def policy(self) -> Policy:
        """Return the newest policy, after checking the whole chain from the pinned root. Raises PolicyError."""
        return policy_chain.verify_chain(self.documents(), self.root)

    def principal_key(self, principal: str) -> ec.EllipticCurvePrivateKey:
        """Return a principal's private key. Raises NotFoundError; PolicyError when others may read the file."""
        return read_key(self.path / "principals" / f"{principal}.key")

    def lock(self) -> IO[bytes]:
        """Return an open file that keeps others from running this vault until it is closed.

        Raises:
            ConflictError: it runs. PolicyError: the policy does not say that one machine may hold all keepers.
        """
        if not self.policy().single_machine:
            raise PolicyError(f"{self.toml}: all keepers on one machine need single_machine = true in [vault]")
        file = (self.path / "run.lock").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise ConflictError(f"{self.path}: this vault is running already (anwen up, or opened embedded)") from error
        return file

    def publish(self, signed: SignedPolicy) -> Path:
        """Keep the next signed version beside the others. Running keepers and nodes have to be given it too.

        Raises: ConflictError: somebody signed that version before. StorageError: it was not kept.
        """
        path = self.path / "policy" / f"{signed.policy.version:04}.json"
        _write(path, policy_chain.encode_signed(signed))
        return path


def read_toml(path: Path) -> str:
    """Return a vault file's text. Raises PolicyError: it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PolicyError(f"{path.name}: expected UTF-8; save it as that") from error


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the P-256 key in a PEM file. Raises NotFoundError, PolicyError (mode), MalformedError."""
    if not path.exists():
        raise NotFoundError(f"{path}: no such key file")
    secret = read_private(path)
    try:
        key = load_pem_private_key(secret, None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:  # the last: of a wrong length
        raise MalformedError(f"{path}: not a PEM private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise MalformedError(f"{path}: not a P-256 key")
    return key


def make_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Make a P-256 key file, mode 0600, and return the key."""
    key = ec.generate_private_key(ec.SECP256R1())
    _write(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    return key


def public_der(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a key's public half as policies name it."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def create(
    path: Path | str, vault_template: str = "police", *, name: str = "", shape: Shape | None = None
) -> VaultFolder:
    """Make a vault folder with keys for everybody in it and a signed first policy.

    The folder appears complete or not at all: it is made under another name and renamed last.

    Args:
        vault_template: the name of a ready template, or the text of one.

    Raises:
        ConflictError: the folder exists. NotFoundError: no such template.
    """
    target, shape = Path(path), shape or Shape()
    if target.exists() and any(target.iterdir()):
        raise ConflictError(f"{target}: exists and is not empty")
    partial = target.with_name(f".{target.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)  # what an interrupted `init` left; nothing in it was ever used
    partial.mkdir(parents=True, mode=0o700)
    text = vault_template if "\n" in vault_template else template(vault_template)
    _fill(partial, text, name or target.name, shape)
    if target.exists():
        target.rmdir()
    partial.rename(target)
    return VaultFolder(target)


def _fill(path: Path, text: str, name: str, shape: Shape) -> None:
    officers = {o: make_key(path / "officers" / f"{o}.key") for o in shape.officers}
    ids = tomllib.loads(text).get("principals", {})
    principals = {p: make_key(path / "principals" / f"{p}.key") for p in ids}
    zones = _zones(path, shape)
    filled = policy_file.fill_template(
        text,
        vault_id=os.urandom(16),
        name=name,
        expires=dt.datetime.now(dt.UTC).date() + dt.timedelta(days=POLICY_DAYS),
        officers={o: (o.capitalize(), public_der(k)) for o, k in officers.items()},
        zones=zones,
        principals={p: public_der(k) for p, k in principals.items()},
        single_machine=True,
        engine=shape.engine,
        threshold=shape.threshold,
    )
    _write(path / "vault.toml", filled.encode())
    policy = policy_file.parse_toml(filled)
    signers = list(officers)[: policy.quorum]
    signatures = {o: policy_chain.sign(policy, o, officers[o]) for o in signers}
    document = policy_chain.encode_signed(SignedPolicy(policy, signatures))
    root = json.dumps({"vault": policy.vault.hex(), "root": policy_chain.digest(policy).hex()}).encode()
    for part in [path, *(path / "keepers" / k for k in policy.keepers), *(path / "nodes" / n for n in policy.nodes)]:
        _write(part / "policy" / "0001.json", document)
        _write(part / "root.json", root)
    for keeper in policy.keepers:
        _write(path / "keepers" / keeper / "keeper.json", json.dumps({"id": keeper}).encode())
    for node in policy.nodes:
        about = {"id": node, "store": shape.store}
        _write(path / "nodes" / node / "node.json", json.dumps(about).encode())
    (path / "store").mkdir(mode=0o700)


def _zones(path: Path, shape: Shape) -> dict[str, dict[str, dict[str, str]]]:
    zones: dict[str, dict[str, dict[str, str]]] = {}
    for zone in shape.zones:
        folder, host = path / "keepers" / zone, shape.hosts.get(zone, "127.0.0.1")
        folder.mkdir(parents=True, mode=0o700)
        zones[zone] = {
            "keeper": {
                "address": f"{host}:{free_port()}",
                "peer_address": f"{host}:{free_port()}",
                "tls_pin": _certificate(folder, f"keeper-{zone}"),
                "identity": make_identity(folder).hex(),
            }
        }
        if zone in shape.nodes:
            pin = _certificate(path / "nodes" / zone, f"node-{zone}")
            zones[zone]["node"] = {"address": f"{host}:{free_port()}", "tls_pin": pin}
    return zones


def _certificate(folder: Path, name: str) -> str:
    key, certificate = tls.make_certificate(name)
    _write(folder / "tls.key", key, 0o600)
    _write(folder / "tls.crt", certificate)
    return tls.pin_of_pem(certificate).hex()


def _write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Make a file, whole or not at all. Raises ConflictError: it is there. StorageError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(path.parent) as folder:
            partial.unlink(missing_ok=True)  # under the lock nobody writes it: a crash left it
            try:
                fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
                with os.fdopen(fd, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                # commit point: a crash before it leaves a name that nobody reads, and the next try removes
                os.link(partial, path)
            finally:
                partial.unlink(missing_ok=True)
            os.fsync(folder)
    except FileExistsError as error:
        raise ConflictError(f"{path}: exists") from error
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Give the block an open folder that nobody else holds through here."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


__all__ = ["SINGLE_MACHINE", "Shape", "VaultFolder", "create", "make_key", "public_der", "read_key", "read_toml"]
