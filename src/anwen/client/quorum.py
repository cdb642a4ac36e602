"""What several keepers answered about the same rows: enough of it, contradictions in it, and who is wrong.

Sans-I/O: answers go in as arrays, values and accusations come out. A component is held by n - t + 1 keepers, so two
answers can be compared wherever two holders were asked; what no comparison decides, the caller's own check
(a commitment, a posting's check value) decides among the few candidates.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anwen.crypto.dprf import held_by, key_sets
from anwen.errors import ProofError
from anwen.formats.answer import Answer

Bytes = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]
KeySet = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """A contradiction, or a broken promise; `evidence` are keepers' signed answer headers, which hold no key material.

    What is told of a node has no evidence: nodes sign nothing.
    """

    suspects: tuple[str, ...]  # keepers' ids, "node/ID"; none where an honest one may have caused it
    reason: str
    evidence: tuple[bytes, ...]


def choose(keepers: Sequence[str], threshold: int, subjects: Bytes) -> dict[str, Rows]:
    """Return for each keeper the rows it is to be asked for: t keepers a row, by the (random) handle.

    The same handle always meets the same keepers, so that all ledgers fill evenly and repeated openings charge no
    third ledger. `subjects`: uint8, shape (n, 16).
    """
    groups = list(itertools.combinations(sorted(keepers), threshold))
    group = np.ascontiguousarray(subjects[:, :4]).view(">u4")[:, 0] % len(groups)
    member = {k: np.array([k in g for g in groups]) for k in sorted(keepers)}
    return {k: np.flatnonzero(mask[group]) for k, mask in member.items()}


class Round:
    """The answers to one request over `rows` rows; each keeper may have answered for a part of them."""

    def __init__(self, keepers: Sequence[str], threshold: int, rows: int) -> None:
        self.threshold, self.rows = threshold, rows
        self.sets = key_sets(keepers, threshold)
        self._column = {k: {s: i for i, s in enumerate(held_by(k, keepers, threshold))} for k in keepers}
        self._values: dict[str, Bytes] = {}
        self._have: dict[str, Flags] = {}
        self.receipts: dict[str, bytes] = {}
        self.expires_s = 0  # of all grants that were answered, once one was: other answers would not combine with them

    def add(self, keeper: str, answer: Answer, rows: Rows | None = None) -> None:
        """Take a keeper's answer for `rows` (all, if None). Raises ProofError when its shape is not what was asked."""
        index = np.arange(self.rows) if rows is None else rows
        if self.expires_s not in {0, answer.header.expires_s}:
            raise ProofError(f"keeper {keeper}: answered under another second than the others")
        if answer.components.shape != (len(self._column[keeper]), len(index), 32):
            raise ProofError(f"keeper {keeper}: answered {answer.components.shape}, asked for {len(index)} rows")
        if keeper not in self._values:
            self._values[keeper] = np.zeros((len(self._column[keeper]), self.rows, 32), np.uint8)
            self._have[keeper] = np.zeros(self.rows, np.bool_)
        self._values[keeper][:, index] = answer.components
        self._have[keeper][index] = True
        self.receipts[keeper], self.expires_s = answer.receipt, answer.header.expires_s

    def drop(self, keeper: str) -> None:
        """Forget what a keeper answered."""
        del self._values[keeper], self._have[keeper], self.receipts[keeper]

    def uncovered(self) -> Rows:
        """Return the rows that fewer than t keepers have answered."""
        return np.flatnonzero(sum(self._have.values(), np.zeros(self.rows, np.int64)) < self.threshold)

    def unanswered(self, keeper: str, rows: Rows) -> Rows:
        """Return those of `rows` that a keeper has not answered for."""
        return rows[~self._have[keeper][rows]] if keeper in self._have else rows

    def values(self) -> tuple[Bytes, Flags, Flags]:
        """Return F(x) for each row, which rows are contradicted, and in which rows every component came twice."""
        total = np.zeros((self.rows, 32), np.uint8)
        contradicted = np.zeros(self.rows, np.bool_)
        doubled = np.ones(self.rows, np.bool_)
        for key_set in self.sets:
            value, known, twice = np.zeros_like(total), np.zeros(self.rows, np.bool_), np.zeros(self.rows, np.bool_)
            for keeper, have in self._have.items():
                column = self._column[keeper].get(key_set)
                if column is None:
                    continue
                theirs, fresh, again = self._values[keeper][column], have & ~known, have & known
                contradicted |= again & (theirs != value).any(axis=1)
                value = np.where(fresh[:, None], theirs, value)
                twice |= again
                known |= have
            total ^= value
            doubled &= twice
        return total, contradicted, doubled

    def candidates(self, row: int) -> Iterator[tuple[bytes, frozenset[str]]]:
        """Yield F(x) of one row under each assumption about who lied, fewest liars first, each with those accused.

        What an assumed liar said counts only where nobody else said anything; the others have to agree.
        """
        answered = [k for k, have in self._have.items() if have[row]]
        for size in range(self.threshold):
            for accused in itertools.combinations(sorted(answered), size):
                values = [self._believed(s, row, accused) for s in self.sets]
                for choice in itertools.product(*values):
                    total = np.bitwise_xor.reduce([np.frombuffer(c, np.uint8) for c in choice])
                    yield total.tobytes(), frozenset(accused)

    def _believed(self, key_set: KeySet, row: int, accused: Sequence[str]) -> list[bytes]:
        said = dict(self._said(key_set, row))
        trusted = {value for keeper, value in said.items() if keeper not in accused}
        if len(trusted) > 1:
            return []  # somebody else lies as well
        return list(trusted or dict.fromkeys(said.values()))

    def settles(self, row: int) -> bool:
        """Return whether t keepers told each component: only then can one liar be told from another."""
        return all(len(list(self._said(s, row))) >= self.threshold for s in self.sets)

    def disputes(self) -> Report | None:
        """Return who contradicts whom, if anybody: the liar alone where all his comparisons fail, else all suspects."""
        against: dict[str, set[KeySet]] = {}
        for key_set in self.sets:
            for (a, value_a), (b, value_b) in itertools.combinations(self._columns(key_set), 2):
                both = self._have[a] & self._have[b]
                if (value_a[both] != value_b[both]).any():
                    for keeper in (a, b):
                        against.setdefault(keeper, set()).add(key_set)
        if not against:
            return None
        most = max(len(sets) for sets in against.values())
        suspects = tuple(sorted(k for k, sets in against.items() if len(sets) == most))
        evidence = tuple(self.receipts[k] for k in sorted(against))
        return Report(suspects, "components of one request contradict each other", evidence)

    def _columns(self, key_set: KeySet) -> Iterator[tuple[str, Bytes]]:
        for keeper, values in self._values.items():
            column = self._column[keeper].get(key_set)
            if column is not None:
                yield keeper, values[column]

    def _said(self, key_set: KeySet, row: int) -> Iterator[tuple[str, bytes]]:
        for keeper, values in self._columns(key_set):
            if self._have[keeper][row]:
                yield keeper, values[row].tobytes()
