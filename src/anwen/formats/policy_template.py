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
from anwen.formats.toml_lines import set_value

OFFICERS, ZONES = "#: officers", "#: zones"
"""Lines of a template that `fill_template` replaces."""


def _toml(value: object) -> str:
    """Return a value as TOML; bytes in hexadecimal."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, date):
        return value.isoformat()
    # a JSON string of visible characters is a TOML basic string; so are numbers, true and false
    return json.dumps(value.hex() if isinstance(value, bytes) else value, ensure_ascii=False)


def _base64(der: bytes) -> str:
    return base64.b64encode(der).decode()


def _tables(of: str, tables: Mapping[str, Mapping[str, object]]) -> str:
    return "\n".join(
        f"[{of}.{name}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in table.items())
        for name, table in tables.items()
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
    engine: str | None = None,
    threshold: int | None = None,
    quorum: int | None = None,
) -> str:
    """Return a complete `vault.toml` of version 1 from a template, comments kept.

    Args:
        officers: (person, DER of the public key) by officer id.
        zones: by zone, `{"keeper": {"address", "peer_address", "tls_pin", "identity"}, "node": {"address",
            "tls_pin"}}`; pins and identities as bytes or lower-case hexadecimal.
        principals: DER of the public key, for each principal that the template names, and no other.
        threshold: another threshold than the template's; likewise `quorum` and `engine`.

    Raises:
        PolicyError: the template has no place for a part, or names other principals.
    """
    declared = set(tomllib.loads(text).get("principals", {}))
    if declared != set(principals):
        raise PolicyError(f"template: expected keys for principals {sorted(declared)}, got {sorted(principals)}")
    signers = {id_: {"person": person, "key": _base64(der)} for id_, (person, der) in officers.items()}
    for mark, tables in ((OFFICERS, _tables("officers", signers)), (ZONES, _tables("zones", zones))):
        if f"\n{mark}\n" not in text:
            raise PolicyError(f"template: expected a line {mark!r}, got none")
        text = text.replace(f"\n{mark}\n", f"\n{tables}", 1)
    vault = {"id": vault_id, "name": name, "version": 1, "expires": expires, "single_machine": single_machine}
    others = {"threshold": threshold, "quorum": quorum, "engine": engine}
    vault |= {key: value for key, value in others.items() if value is not None}
    try:
        for key, value in vault.items():
            text = set_value(text, ("vault",), key, _toml(value))
        for principal, der in principals.items():
            text = set_value(text, ("principals", principal), "key", _toml(_base64(der)))
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
        tomllib.loads(text)  # `set_value` takes valid TOML alone
        edited = text
        for key, value in wanted.items():
            edited = set_value(edited, ("vault",), key, _toml(value))
        vault = tomllib.loads(edited)["vault"]
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"expected TOML with a table [vault], got: {error}") from None
    except KeyError:
        raise PolicyError("expected a header [vault] with a version, got none") from None
    if {key: vault.get(key) for key in wanted} != wanted:
        raise PolicyError("expected version and previous on lines of their own under [vault]")
    return edited
