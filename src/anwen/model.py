"""The words of the system as values: what a policy says about collections, people, keepers and budgets.

Pure values, no behaviour beyond look-ups. `formats.policy_file` builds a `Policy` from `vault.toml` or from
its canonical JSON; keepers, nodes and clients only ever read it.
"""

from __future__ import annotations

import enum
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

RENDITION = 0x8000
"""Bit that turns a class id into the id of its rendition (`contact` 2, `contact.masked` 0x8002)."""

SERIES = ("record", "index", "prehash", "mask")
"""What keepers make keys of, each in a ceremony of its own (docs/architecture.md)."""

INDEX_CLASS = 0x7FFF
"""Class id of `_index`: the tokens of a row's indexed fields, for re-indexing. In every collection."""


class Counter(enum.StrEnum):
    """What a budget counts, per principal and sliding window."""

    OPEN = "open"  # distinct subjects whose full classes were opened
    LIST = "list"  # distinct subjects whose renditions were opened
    RECORDS = "records"  # (record, class) cells opened, full or rendition; rows written; rows of deletions
    SEARCH = "search"  # index evaluations: look-ups, misses and those of writes
    WRITE = "write"  # distinct subjects written
    DELETE = "delete"  # distinct subjects whose records were deleted


@dataclass(frozen=True, slots=True)
class Budget:
    """Promised bound over the whole vault, for a window of 3,600 s and one of 86,400 s."""

    per_hour: int
    per_day: int


@dataclass(frozen=True, slots=True)
class Field:
    """A column. `kind` is one of `formats.normalise.KINDS`."""

    id: int
    name: str
    kind: str
    class_name: str
    index: str | None = None  # None, "unique" or "exact"
    mask: str | None = None  # None or "last4"
    required: bool = False
    scheme: str | None = None  # python-stdnum module of a `national_id`, e.g. "cn.ric"
    region: str | None = None  # default region of a `phone`, e.g. "CN"
    values: tuple[str, ...] | None = None  # the only values allowed, of a `text`


@dataclass(frozen=True, slots=True)
class DataClass:
    """A sensitivity class: what is sealed, and opened, together."""

    id: int
    name: str

    @property
    def rendition_id(self) -> int:
        """Class id of the masked twin."""
        return self.id | RENDITION


@dataclass(frozen=True)
class Collection:
    """A record type."""

    id: int
    name: str
    subject: str  # "own": every record is a person; else the name of the collection whose subject it refers to
    classes: tuple[DataClass, ...]
    fields: tuple[Field, ...]
    retention_days: int
    dates: str = "day"  # unit of collected_on and expires_on: "day" or "second"
    limits: Mapping[Counter, Budget] = field(default_factory=dict)  # ceilings over all principals

    @cached_property
    def field_named(self) -> dict[str, Field]:
        """Fields by name."""
        return {f.name: f for f in self.fields}

    @cached_property
    def class_named(self) -> dict[str, DataClass]:
        """Classes by name (without renditions)."""
        return {c.name: c for c in self.classes}

    @cached_property
    def class_ids(self) -> tuple[int, ...]:
        """Ids of all that is always written, ascending: classes, `_index`, renditions."""
        full = [c.id for c in self.classes]
        return tuple(sorted([*full, *(i | RENDITION for i in full), INDEX_CLASS]))

    def class_name_of(self, class_id: int) -> str | None:
        """Return `contact`, `contact.masked` or `_index`; None when there is no such class."""
        if class_id == INDEX_CLASS:
            return "_index"
        tail = ".masked" if class_id & RENDITION else ""
        return next((c.name + tail for c in self.classes if c.id == class_id & ~RENDITION), None)

    @cached_property
    def _by_class(self) -> dict[str, tuple[Field, ...]]:
        return {c.name: tuple(f for f in self.fields if f.class_name == c.name) for c in self.classes}

    def fields_of(self, class_name: str) -> tuple[Field, ...]:
        """Return the fields of one class, in the order of the policy."""
        return self._by_class[class_name]


@dataclass(frozen=True, slots=True)
class Purpose:
    """Why somebody asks, and what that may touch. Pairs are (collection id, class id or field id)."""

    name: str
    legal_basis: str
    open: frozenset[tuple[int, int]]  # renditions and `_index` under their own ids
    search: frozenset[tuple[int, int]]  # fields
    write: frozenset[int]  # collections
    delete: frozenset[int]  # collections
    audit: bool = False


@dataclass(frozen=True, slots=True)
class Role:
    """What a principal may be."""

    name: str
    purposes: frozenset[str]
    budgets: Mapping[Counter, Budget]  # a counter that is not named allows nothing
    binding: str = "request"


@dataclass(frozen=True, slots=True)
class Principal:
    """A person or service that asks."""

    id: str
    role: str
    public_key: bytes  # DER SubjectPublicKeyInfo, P-256


@dataclass(frozen=True, slots=True)
class Officer:
    """A person whose key, in a quorum, signs the policy."""

    id: str
    person: str
    public_key: bytes  # DER SubjectPublicKeyInfo, P-256

    @property
    def person_key(self) -> str:
        """What is equal for every spelling of one person's name: a quorum counts persons, not keys."""
        return " ".join(unicodedata.normalize("NFKC", self.person).casefold().split())


@dataclass(frozen=True, slots=True)
class KeeperInfo:
    """Where a keeper is and how it is known."""

    id: str
    zone: str
    address: str  # host:port for clients
    peer_address: str  # host:port for other keepers
    tls_pin: bytes  # SHA-256 of the certificate's SubjectPublicKeyInfo
    identity: bytes  # raw Ed25519 public key (32): signs answers, checkpoints and ceremony messages


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """Where a node is and how it is known."""

    id: str
    zone: str
    address: str
    tls_pin: bytes


@dataclass(frozen=True)
class Policy:
    """One signed version of everything that officers decide."""

    vault: bytes  # 16 random bytes
    name: str
    version: int
    previous: bytes  # SHA-256 of the canonical JSON of the version before; 32 zero bytes in version 1
    expires_s: int
    threshold: int
    quorum: int
    single_machine: bool
    engine: str
    officers: Mapping[str, Officer]
    keepers: Mapping[str, KeeperInfo]  # ascending by id
    nodes: Mapping[str, NodeInfo]
    collections: Mapping[str, Collection]
    purposes: Mapping[str, Purpose]
    roles: Mapping[str, Role]
    principals: Mapping[str, Principal]

    @cached_property
    def collection_by_id(self) -> dict[int, Collection]:
        """Collections by id."""
        return {c.id: c for c in self.collections.values()}

    @property
    def answers_to_defeat(self) -> int:
        """The number n - t + 1: how many keepers share a budget, and must hold a denial before it binds."""
        return len(self.keepers) - self.threshold + 1

    def answers_needed(self, op: str) -> int:
        """Return how many keepers carry an operation: t; of a deletion as many as leave no t that do not deny it."""
        return max(self.threshold, self.answers_to_defeat) if op == "delete" else self.threshold

    def keeper_budget(self, budget: Budget) -> Budget:
        """Return what one keeper enforces so that the total stays within `budget` with t - 1 keepers corrupt."""
        parts = self.answers_to_defeat
        return Budget(budget.per_hour // parts, budget.per_day // parts)
