"""The policy as text and as bytes: `vault.toml` that officers edit, and the canonical JSON that they sign.

Both are read by one schema. Every number is a whole number below 2^40 and every key is ASCII, so canonical JSON
(RFC 8785) is JSON with sorted keys and no spaces (docs/spec/policy.md).

Pure: no I/O.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping

from anwen.errors import PolicyError
from anwen.formats.policy_schema import read_policy, write_policy
from anwen.formats.policy_template import fill_template, write_version
from anwen.formats.toml_lines import dotted, line_of, locate
from anwen.model import Policy

__all__ = ["canonical", "canonical_json", "fill_template", "from_json", "parse_toml", "to_json", "write_version"]

MAX_CHARACTERS = 2**20

_MISTAKES, _SHOWN = 20, 200  # mistakes in JSON that are listed, and characters of each

to_json = write_policy


def parse_toml(text: str, name: str = "vault.toml") -> Policy:
    """Return the policy that a vault file states.

    Raises:
        PolicyError: one line for each mistake, `vault.toml:LINE: key.path: expected ..., got ...`, all of them.
    """
    if len(text) > MAX_CHARACTERS:
        raise PolicyError(f"{name}:1: expected at most {MAX_CHARACTERS} characters, got {len(text)}")
    try:
        data, places = tomllib.loads(text), locate(text.replace("\r\n", "\n"))
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"\(at line (\d+), column \d+\)", str(error))
        line = int(at.group(1)) if at else text.count("\n") + 1
        raise PolicyError(f"{name}:{line}: expected TOML, got: {str(error).partition(' (at ')[0]}") from None
    except (RecursionError, ValueError):
        raise PolicyError(f"{name}:1: expected TOML of modest depth and numbers") from None
    policy, mistakes = read_policy(data, dates=True)
    if policy is None:
        lines = sorted((line_of(places, m.path), dotted(m.path), m.text) for m in mistakes)
        raise PolicyError("\n".join(f"{name}:{line}: {path}: {text}" for line, path, text in dict.fromkeys(lines)))
    return policy


def from_json(data: Mapping[str, object]) -> Policy:
    """Return the policy that `to_json` wrote; any other writing of it is refused.

    Raises:
        PolicyError: one line for each mistake, of which the first are listed: who wrote it may be anybody.
    """
    policy, mistakes = read_policy(data, dates=False)
    if policy is None:
        lines = list(dict.fromkeys(f"policy: {dotted(m.path)}: {m.text}" for m in mistakes))
        shown = [line[:_SHOWN] for line in lines[:_MISTAKES]]
        if len(lines) > _MISTAKES:
            shown.append(f"policy: and {len(lines) - _MISTAKES} other mistakes")
        raise PolicyError("\n".join(shown))
    if to_json(policy) != data:
        raise PolicyError("policy: expected every default written out and every list ascending, got another form")
    return policy


def canonical(policy: Policy) -> bytes:
    """Return the policy's canonical JSON (RFC 8785): what officers sign and what the next version names."""
    return canonical_json(to_json(policy))


def canonical_json(values: object) -> bytes:
    """Return the canonical JSON of what a policy holds: whole numbers, ASCII keys, text without control characters.

    Raises:
        ValueError, TypeError: text that is no Unicode, or another value than JSON has.
    """
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
