"""Ready vault files made complete, and the next version of one: edits of TOML text that keep its comments.

Pure: no I/O.
"""

from __future__ import annotations

import base64
import json
import tomllib
from collections.abc import Mapping
from datetime import date

from anwen.errors import PolicyError
from anwen.formats.toml_lines import locate, set_value

OFFICERS, ZONES = "#: officers", "#: zones"
"""Lines of a template that `fill_template` replaces."""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a JSON string of visible characters is a TOML basic string


def _inline(values: Mapping[str, object]) -> str:
    parts = (f"{key} = {_quoted(v.hex() if isinstance(v, bytes) else str(v))}" for key, v in values.items())
    return "{ " + ", ".join(parts) + " }"


def _officer_tables(officers: Mapping[str, tuple[str, bytes]]) -> str:
    return "\n".join(
        f"[officers.{name}]\nperson = {_quoted(person)}\nkey = {_quoted(base64.b64encode(der).decode())}\n"
        for name, (person, der) in officers.items()
    )


def _zone_tables(zones: Mapping[str, Mapping[str, Mapping[str, object]]]) -> str:
    return "\n".join(
        f"[zones.{name}]\n" + "".join(f"{part} = {_inline(values)}\n" for part, values in zone.items())
        for name, zone in zones.items()
    )


def fill_template(
    text: str,
    *,
    vault_id: bytes,
    name: str,
    expires: date,
    officers: Mapping[str, tuple[str, bytes]],
    zones: Mapping[str, Mapping[str, Mapping[str, object]]],
    principals: Mapping[str, bytes],
    single_machine: bool,
    threshold: int | None = None,
    quorum: int | None = None,
) -> str:
    """Return a complete `vault.toml` of version 1 from a template, comments kept.

    Args:
        officers: (person, DER of the public key) by officer id.
        zones: by zone, `{"keeper": {"address", "peer_address", "tls_pin", "identity"}, "node": {"address",
            "tls_pin"}}`; pins and identities as bytes or lower-case hexadecimal.
        principals: DER of the public key, for each principal that the template names, and no other.
        threshold: another threshold than the template's; likewise `quorum`.

    Raises:
        PolicyError: the template has no place for a part, or names other principals.
    """
    declared = set(tomllib.loads(text).get("principals", {}))
    if declared != set(principals):
        raise PolicyError(f"template: expected keys for principals {sorted(declared)}, got {sorted(principals)}")
    for mark, tables in ((OFFICERS, _officer_tables(officers)), (ZONES, _zone_tables(zones))):
        if f"\n{mark}\n" not in text:
            raise PolicyError(f"template: expected a line {mark!r}, got none")
        text = text.replace(f"\n{mark}\n", f"\n{tables}", 1)
    vault = {
        "id": _quoted(vault_id.hex()),
        "name": _quoted(name),
        "version": "1",
        "expires": expires.isoformat(),
        "single_machine": "true" if single_machine else "false",
    }
    vault |= {key: str(n) for key, n in (("threshold", threshold), ("quorum", quorum)) if n is not None}
    try:
        for key, value in vault.items():
            text = set_value(text, ("vault",), key, value)
        for principal, der in principals.items():
            text = set_value(text, ("principals", principal), "key", _quoted(base64.b64encode(der).decode()))
    except KeyError as error:
        raise PolicyError(f"template: expected a header of table {error}, got none") from None
    return text


def write_version(text: str, version: int, previous: bytes) -> str:
    """Return a vault file's text as version `version`, which follows the one whose digest is `previous`.

    Raises:
        PolicyError: the text has no [vault] header with a version, or is no TOML.
    """
    wanted = {"version": version, "previous": previous.hex()}
    try:
        tomllib.loads(text)
        edited = _with_version(text, version, _quoted(previous.hex()))
        vault = tomllib.loads(edited)["vault"]
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"expected TOML with a table [vault], got: {error}") from None
    except KeyError:
        raise PolicyError("expected a header [vault] with a version, got none") from None
    if {key: vault.get(key) for key in wanted} != wanted:
        raise PolicyError("expected version and previous on lines of their own under [vault]")
    return edited


def _with_version(text: str, version: int, previous: str) -> str:
    text = set_value(text, ("vault",), "version", str(version))
    places = locate(text)
    if ("vault", "previous") in places:
        return set_value(text, ("vault",), "previous", previous)
    end = text.find("\n", places["vault", "version"].end)
    end = len(text) if end < 0 else end
    return f"{text[:end]}\nprevious = {previous}{text[end:]}"
