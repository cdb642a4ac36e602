"""How far an import has come, kept beside its rejects file, so that an interrupted one goes on where it stopped.

A folder `REJECTS.import` holds `plan.json` (which file, into what, in which parts) and for each part its state and its
rejects. A part's state names what is acknowledged (`left` begins behind it), what may be stored behind that (`asked`:
sent, perhaps answered) and what surely is (`stored`: acknowledged out of order).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from anwen.errors import ConflictError, MalformedError
from anwen.files import FileFormat, Span
from anwen.signing import replace

HEAD_BYTES = 2**20
SAME = ("file", "size", "head", "vault", "collection", "mapping", "file_format")
"""Members of plans that continue each other, however they are cut into parts and whoever runs them."""
T = TypeVar("T")
_NOTHING = Span(0, 0, 1, 1)


@dataclass(frozen=True)
class Plan:
    """What an import does."""

    file: str
    size: int
    head: str  # SHA-256 of the first MiB
    vault: str
    collection: str
    principal: str
    purpose: str
    file_format: FileFormat
    mapping: Mapping[str, str | None]
    batch: int
    spans: tuple[Span, ...] = ()


@dataclass
class PartState:
    """How far one part has come. `left.row` is the number of the first row that is not acknowledged."""

    left: Span
    asked: int = 0  # number of the last row that was ever sent
    stored: list[tuple[int, int]] = field(default_factory=list)  # first and last rows acknowledged behind `left.row`
    counts: dict[str, int] = field(default_factory=lambda: {"read": 0, "stored": 0, "already": 0, "rejected": 0})
    reasons: dict[str, int] = field(default_factory=dict)  # rejected rows by code
    rejects_bytes: int = 0
    done: bool = False


def fingerprint(path: Path) -> tuple[int, str]:
    """Return size and hash of the beginning of a file: enough to notice another one."""
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.sha256(file.read(HEAD_BYTES)).hexdigest()


class ImportFolder:
    """The state of one import on disk."""

    def __init__(self, rejects: Path) -> None:
        self.rejects = rejects
        self.path = rejects.with_name(rejects.name + ".import")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second import of the same file away; leave no folder without a plan in it. Raises ConflictError."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        with (self.path / "lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConflictError(f"{self.path.name}: an import of this file is running") from error
            try:
                yield
            finally:
                if not (self.path / "plan.json").exists():
                    shutil.rmtree(self.path)

    def plan(self) -> Plan | None:
        """Return the plan of an interrupted import, if there is one. Raises MalformedError."""

        def made(content: dict[str, Any]) -> Plan:
            spans = tuple(Span(*map(int, s)) for s in content.pop("spans"))
            return Plan(file_format=FileFormat(content.pop("file_format")), spans=spans, **content)

        path = self.path / "plan.json"
        return _read(path, made) if path.exists() else None

    def begin(self, plan: Plan) -> None:
        """Write a new plan and the states of its parts; the plan last, so that a crash leaves none or all."""
        (self.path / "plan.json").unlink(missing_ok=True)
        for path in self.path.glob("[0-9]*"):
            path.unlink()
        for part, span in enumerate(plan.spans):
            self.save(part, PartState(span))
        content = dataclasses.asdict(plan) | {"spans": [dataclasses.astuple(s) for s in plan.spans]}
        replace(self.path / "plan.json", json.dumps(content).encode())

    def load(self, part: int) -> PartState:
        """Return a part's state. Raises MalformedError."""

        def made(content: dict[str, Any]) -> PartState:
            stored = [(int(a), int(b)) for a, b in content["stored"]]
            numbers = {name: int(content[name]) for name in ("asked", "rejects_bytes")}
            counts = {name: int(content["counts"][name]) for name in PartState(_NOTHING).counts}
            reasons = {code: int(n) for code, n in content["reasons"].items()}
            left, done = Span(*map(int, content["left"])), bool(content["done"])
            return PartState(left, stored=stored, counts=counts, reasons=reasons, done=done, **numbers)

        return _read(self.path / f"{part}.json", made)

    def save(self, part: int, state: PartState) -> None:
        """Keep a part's state, durably. A crash leaves the old one or the new one."""
        content = dataclasses.asdict(state) | {"left": dataclasses.astuple(state.left)}
        replace(self.path / f"{part}.json", json.dumps(content).encode())

    def rejects_of(self, part: int) -> Path:
        """Return where a part's rejects are until the end."""
        return self.path / f"{part}.rejects"

    def finish(self, plan: Plan) -> bool:
        """Join the parts' rejects, if there are any, into the rejects file; forget the plan. Return if there are."""
        parts = [p for p in map(self.rejects_of, range(len(plan.spans))) if p.exists() and p.stat().st_size]
        self.rejects.unlink(missing_ok=True)
        if parts:
            joined = self.path / "joined"
            joined.touch(0o600)
            with joined.open("wb") as target:
                for part in parts:
                    target.write(part.read_bytes())
            joined.replace(self.rejects)
        (self.path / "plan.json").unlink()  # whoever holds the lock removes the rest
        return bool(parts)


def _read(path: Path, made: Callable[[dict[str, Any]], T]) -> T:
    try:
        return made(json.loads(path.read_bytes()))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise MalformedError(f"{path}: does not follow the format; --restart begins anew") from error
