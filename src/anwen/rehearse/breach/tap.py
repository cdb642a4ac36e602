"""What the attacker runs in the processes of his zone: a tap on all that passes, and a keeper that lies.

Both look at files outside the vault, so that the rehearsal can switch them while the processes run.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

_LENGTH = struct.Struct(">I")

LIES = {
    "one": "one of its components is wrong",
    "both": "all of its components are wrong",
    "two-faced": "every second answer is wrong",
    "silent": "it does not answer",
    "slow": "it answers after three seconds",
}

_TAP = """
import asyncio, os, struct
import anwen.{part}.service as service

true_handle = service.{kind}.handle
LIE, TAP, ON = {lie!r}, {tap!r}, {on!r}

def lie():
    try:
        with open(LIE) as file:
            return file.read()
    except OSError:
        return ""

async def handle(self, op, grant, body):
    how = lie() if op in ("open", "index", "put") else ""
    if how in ("silent", "slow"):
        await asyncio.sleep(3600 if how == "silent" else 3)
    answer = await true_handle(self, op, grant, body)
    if os.path.exists(ON):
        parts = [op.encode(), grant.encode(), body, answer]
        with open(TAP, "ab") as file:
            file.write(b"".join(struct.pack(">I", len(part)) + part for part in parts))
    return answer

service.{kind}.handle = handle
"""

_LIAR = """
true_evaluate, turns = service.evaluate, [0]

def evaluate(keys, work):
    values, how = true_evaluate(keys, work), "" if any(series == "prehash" for series, _ in work.inputs) else lie()
    turns[0] += 1
    if len(values) and (how in ("one", "both") or (how == "two-faced" and turns[0] % 2)):
        values[:1 if how == "one" else None] ^= 1
    return values

service.evaluate = evaluate
"""


class Passed(NamedTuple):
    """A request that passed the attacker's keeper or node, and its answer."""

    op: str
    grant: str
    body: bytes
    answer: bytes


def code(part: str, folder: Path) -> str:
    """Return what runs in the attacker's "keeper" or "node"."""
    paths = {"lie": str(folder / "lie"), "tap": str(file_of(part, folder)), "on": str(_on(part, folder))}
    tapping = _TAP.format(part=part, kind=part.capitalize(), **paths)
    return tapping + (_LIAR if part == "keeper" else "")


def file_of(part: str, folder: Path) -> Path:
    """Return where a tap writes."""
    return folder / f"{part}.tap"


def switch(folder: Path, on: Collection[str]) -> None:
    """Let the taps of these parts write from now on, and the others no more."""
    for part in ("node", "keeper"):
        if part in on:
            _on(part, folder).touch()
        else:
            _on(part, folder).unlink(missing_ok=True)


def _on(part: str, folder: Path) -> Path:
    return folder / f"{part}.tap-on"


def tell(folder: Path, how: str) -> None:
    """Have the attacker's keeper lie in one of `LIES`; "": tell the truth."""
    (folder / "lie").write_text(how)


def read(part: str, folder: Path) -> Iterator[Passed]:
    """Yield what passed while a tap was on."""
    path = file_of(part, folder)
    data = path.read_bytes() if path.exists() else b""
    at = 0
    while at < len(data):
        parts = []
        for _ in Passed._fields:
            (size,) = _LENGTH.unpack_from(data, at)
            parts.append(data[at + 4 : at + 4 + size])
            at += 4 + size
        yield Passed(parts[0].decode(), parts[1].decode(), *parts[2:])
