"""Complete vault files made from the templates, with keys that belong to nobody."""

from __future__ import annotations

import functools
import tomllib
from datetime import date
from importlib.resources import files

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from anwen.formats.policy_file import fill_template, parse_toml
from anwen.model import Policy

NAMES = ("police", "commerce", "devices")


@functools.cache
def private_key(name: str) -> ec.EllipticCurvePrivateKey:
    """Return a P-256 key that depends on its name alone."""
    return ec.derive_private_key(int.from_bytes(name.encode().ljust(31, b"\1")[:31]), ec.SECP256R1())


def der(name: str) -> bytes:
    return private_key(name).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def template(name: str) -> str:
    return files("anwen").joinpath("templates", f"{name}.toml").read_text(encoding="utf-8")


def zones(count: int = 3, *, one_machine: bool = True) -> dict:
    return {
        f"zone_{letter}": {
            "keeper": {
                "address": f"{'127.0.0.1' if one_machine else f'{letter}.example.org'}:{8101 + i}",
                "peer_address": f"{'127.0.0.1' if one_machine else f'{letter}.example.org'}:{8201 + i}",
                "tls_pin": bytes([i + 1]) * 32,
                "identity": bytes([i + 65]) * 32,
            },
            "node": {
                "address": f"{'127.0.0.1' if one_machine else f'{letter}.example.org'}:{8301 + i}",
                "tls_pin": bytes([i + 129]) * 32,
            },
        }
        for i, letter in enumerate("abcdefg"[:count])
    }


@functools.cache
def text(name: str = "police", keepers: int = 3, threshold: int = 2, one_machine: bool = True) -> str:
    """Return a complete vault file: three officers, of whom two sign."""
    source = template(name)
    return fill_template(
        source,
        vault_id=bytes(range(16)),
        name=f"{name} test",
        expires=date(2030, 1, 31),
        officers={o: (f"Officer {o.upper()}", der(f"officer {o}")) for o in ("ada", "ben", "cyd")},
        zones=zones(keepers, one_machine=one_machine),
        principals={p: der(f"principal {p}") for p in tomllib.loads(source)["principals"]},
        single_machine=one_machine,
        threshold=threshold,
    )


def policy(name: str = "police", keepers: int = 3, threshold: int = 2) -> Policy:
    return parse_toml(text(name, keepers, threshold))
