"""The keys in use: the one place where shares meet inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anwen.crypto import dprf, prf
from anwen.crypto.grants import Grant
from anwen.crypto.prf import PrfKey
from anwen.errors import PolicyError, StorageError, UnavailableError
from anwen.formats.answer import COMPONENT_BYTES
from anwen.keeper import folder as files
from anwen.keeper.ceremony import names_held
from anwen.keeper.requests import Work
from anwen.keeper.state import State
from anwen.model import SERIES, Policy

Held = Sequence[tuple[PrfKey, ...]]
"""For each part of a request the keys of its series, in the order of the answer's component columns."""


class Shares:
    """Keys of all opened series."""

    def __init__(self, folder: Path, state: State, keeper: str, policy: Policy) -> None:
        self._folder, self._state, shape = folder, state, (list(policy.keepers), policy.threshold)
        self._sets, self._columns = dprf.key_sets(*shape), dprf.held_by(keeper, *shape)
        self._names = {series: names_held(policy, series, keeper) for series in SERIES}
        self._keys: dict[tuple[str, int], tuple[PrfKey, ...]] = {}

    def load(self, series: str, number: int, transcript: bytes) -> None:
        """Bring a series' keys into use.

        Raises: StorageError: they are not those that the log opened. PolicyError: nor those of the policy's keepers.
        """
        keys = files.read_keys(self._folder, series, number)
        if keys is None or keys.transcript != transcript:
            raise StorageError(f"keys/{series}-{number}.keys is lost, or not what the log opened")
        if list(keys.secrets) != (expected := self._names[series]):
            raise PolicyError(
                f"keys/{series}-{number}.keys: expected the sets {', '.join(expected)} of the policy's keepers and "
                f"threshold, got {', '.join(keys.secrets)}"
            )
        self._keys[series, number] = tuple(PrfKey(secret) for secret in keys.secrets.values())

    def held(self, work: Work) -> Held:
        """Return the keys for each part of a request. Raises UnavailableError before a series' first ceremony."""
        if work.inputs:
            self._current("mask")  # without pads nothing is answered
        return [self._current(series) for series, _ in work.inputs]

    def check(self) -> None:
        """Raise UnavailableError, as requests will, unless each series had its ceremony."""
        for series in SERIES:
            self._current(series)

    def _current(self, series: str) -> tuple[PrfKey, ...]:
        keys = self._keys.get((series, self._state.number(series)))
        if keys is None:
            raise UnavailableError(f"no ceremony of series {series} was held yet")
        return keys

    def mask(self, components: npt.NDArray[np.uint8], work: Work, grant: Grant) -> None:
        """Add the pads of the grant's principal and second to components: only with others' of that second they join.

        Not to hashes, which give no value away and are compared at any time.
        """
        start = 0
        for _, inputs in () if work.only_hashes else work.inputs:
            (key,), rows = self._current("mask"), slice(start, start := start + len(inputs))
            pads = dprf.pads(key, grant.issuer, grant.expires_s, self._sets, inputs)
            for column, key_set in enumerate(self._columns):
                components[column, rows] ^= pads[key_set]


def evaluate(keys: Held, work: Work) -> npt.NDArray[np.uint8]:
    """Return the components, shape (columns, rows, 32); for `verify` only their hashes.

    Called once the request's entry is durable.
    """
    rows = sum(len(inputs) for _, inputs in work.inputs)
    components = np.empty((len(keys[0]) if keys else 0, rows, COMPONENT_BYTES), np.uint8)
    for column in range(len(components)):
        start = 0
        for held, (_, inputs) in zip(keys, work.inputs, strict=True):
            components[column, start : start + len(inputs)] = prf.evaluate(held[column], inputs)
            start += len(inputs)
    if work.only_hashes:
        rows_of_all = components.reshape(-1, COMPONENT_BYTES)
        hashed = b"".join(hashlib.sha256(row.tobytes()).digest() for row in rows_of_all)
        return np.frombuffer(hashed, np.uint8).reshape(components.shape)
    return components
