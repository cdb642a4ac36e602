"""How far an import has come, kept beside its rejects file, so that an interrupted one goes on where it stopped.

A folder `REJECTS.import` holds `plan.json` (which file, into what, in which parts) and for each part its state and its
rejects. A part is a random choice of the file's rows, in an order that the plan's secret decides: the order in which
rows come shows in a store's files, and a file is often sorted by something that it tells of people. A part's state
counts rows in that order: how many are acknowledged (`done`), and which ones behind are, too (`stored`). Whatever else
an earlier run stored without noting it is not stored again: rows are put under keys that the secret makes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from anwen.client.records import NEAR
from anwen.errors import ConflictError, MalformedError
from anwen.files import FileFormat, Reject, Row, Span, split
from anwen.signing import replace

HEAD_BYTES = 2**20
SAME = ("file", "size", "head", "vault", "collection", "mapping", "file_format")
"""Members of plans that continue each other, however they are cut into parts and whoever runs them."""
T = TypeVar("T")
Taken = Row | Reject
PART_ROWS, PART_BYTES = 65_536, 2**25
"""Rows that a part holds at most, and about how many bytes of the file: they are in memory while it is under way."""
MOST_SPANS = 2**18
"""A file of no more rows is dealt row by row, one of twice as many in pairs of neighbours, and so on."""
REJECTS_AT_ONCE = 2**20


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
    secret: str = ""  # 16 bytes, hex: orders rows, and makes their idempotency keys
    rows: int = 0
    parts: tuple[tuple[Span, ...], ...] = ()

    def cut(self, processes: int) -> Plan:
        """Return the plan with its parts: at least as many as processes, each with spans from all over the file."""
        spans, rows, size = split(Path(self.file), MOST_SPANS, file_format=self.file_format)
        secrets.SystemRandom().shuffle(spans)
        count = min(max(processes, -(-rows // PART_ROWS), -(-size // PART_BYTES)), len(spans))
        parts = tuple(tuple(sorted(spans[i::count], key=lambda s: s.row)) for i in range(count))
        return dataclasses.replace(self, secret=secrets.token_hex(16), rows=rows, parts=parts)

    def in_order(self, rows: Iterable[Taken]) -> list[Taken]:
        """Return rows of a part in the order in which they are put; any run of any process gives the same one."""
        key = bytes.fromhex(self.secret)
        return sorted(rows, key=lambda row: hashlib.blake2b(row.number.to_bytes(8), key=key, digest_size=16).digest())

    def key(self, part: int, place: int) -> str:
        """Return the idempotency key of a row, by its place in the order of its part: the same in any run."""

        def drawn(number: int, size: int) -> str:
            said, key = part.to_bytes(4) + number.to_bytes(8), bytes.fromhex(self.secret)
            return hashlib.blake2b(said, key=key, digest_size=size, person=b"key").hexdigest()

        return drawn(place // self.batch, NEAR) + drawn(place, 16 - NEAR)


@dataclass
class PartState:
    """How far one part has come, in rows from its beginning."""

    done: int = 0  # so many are acknowledged or rejected
    stored: list[tuple[int, int]] = field(default_factory=list)  # acknowledged behind `done`: from and to, from 0
    counts: dict[str, int] = field(default_factory=lambda: {"read": 0, "stored": 0, "already": 0, "rejected": 0})
    reasons: dict[str, int] = field(default_factory=dict)  # rejected rows by code
    rejects_bytes: int = 0
    ended: bool = False


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
            parts = tuple(tuple(Span(*map(int, s)) for s in part) for part in content.pop("parts"))
            secret, rows = bytes.fromhex(content.pop("secret")).hex(), int(content.pop("rows"))
            file_format = FileFormat(content.pop("file_format"))
            return Plan(file_format=file_format, secret=secret, rows=rows, parts=parts, **content)

        path = self.path / "plan.json"
        return _read(path, made) if path.exists() else None

    def begin(self, plan: Plan) -> None:
        """Write a new plan and the states of its parts; the plan last, so that a crash leaves none or all."""
        (self.path / "plan.json").unlink(missing_ok=True)
        for path in self.path.glob("[0-9]*"):
            path.unlink()
        for part in range(len(plan.parts)):
            self.save(part, PartState())
        content = dataclasses.asdict(plan) | {"parts": [[dataclasses.astuple(s) for s in part] for part in plan.parts]}
        replace(self.path / "plan.json", json.dumps(content).encode())

    def load(self, part: int) -> PartState:
        """Return a part's state. Raises MalformedError."""

        def made(content: dict[str, Any]) -> PartState:
            stored = [(int(a), int(b)) for a, b in content["stored"]]
            numbers = {name: int(content[name]) for name in ("done", "rejects_bytes")}
            counts = {name: int(content["counts"][name]) for name in PartState().counts}
            reasons = {code: int(n) for code, n in content["reasons"].items()}
            return PartState(stored=stored, counts=counts, reasons=reasons, ended=bool(content["ended"]), **numbers)

        return _read(self.path / f"{part}.json", made)

    def save(self, part: int, state: PartState) -> None:
        """Keep a part's state, durably. A crash leaves the old one or the new one."""
        replace(self.path / f"{part}.json", json.dumps(dataclasses.asdict(state)).encode())

    def rejects_of(self, part: int) -> Path:
        """Return where a part's rejects are until the end."""
        return self.path / f"{part}.rejects"

    def finish(self, plan: Plan) -> bool:
        """Bring the parts' rejects, if there are any, into the rejects file, in the order of rows; forget the plan.

        Returns: whether there are any.
        """
        parts = [p for p in map(self.rejects_of, range(len(plan.parts))) if p.exists() and p.stat().st_size]
        self.rejects.unlink(missing_ok=True)
        if parts:
            joined = self.path / "joined"
            joined.touch(0o600)
            with joined.open("wb") as target:
                for first in range(1, plan.rows + 1, REJECTS_AT_ONCE):
                    found = [found for part in parts for found in _lines(part, first, first + REJECTS_AT_ONCE)]
                    target.writelines(line for _, line in sorted(found))
            joined.replace(self.rejects)
        (self.path / "plan.json").unlink()  # whoever holds the lock removes the rest
        return bool(parts)


def _lines(rejects: Path, first: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield those lines of a part's rejects that are about rows from `first` to before `end`, with the row."""
    with rejects.open("rb") as file:
        for line in file:
            row = int(json.loads(line)["row"])
            if first <= row < end:
                yield row, line


def _read(path: Path, made: Callable[[dict[str, Any]], T]) -> T:
    try:
        return made(json.loads(path.read_bytes()))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise MalformedError(f"{path}: does not follow the format; --restart begins anew") from error
