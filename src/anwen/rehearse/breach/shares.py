"""Keys out of stolen keepers' folders, and what they give without asking anybody."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anwen.client.opening import stack
from anwen.client.rows import Cell
from anwen.crypto import dprf, prf, prf_input
from anwen.crypto.prf import PrfKey
from anwen.formats.answer import Answer
from anwen.formats.normalise import NORMALISER_VERSION
from anwen.model import Policy

Bytes2D = npt.NDArray[np.uint8]


class Shares:
    """What some keepers, or none, hold of one series: a key for each key set that any of them is not in."""

    def __init__(self, policy: Policy, folders: Sequence[Path], series: str, number: int = 1) -> None:
        """Read the key files of stolen folders."""
        self._policy, self.sets = policy, dprf.key_sets(list(policy.keepers), policy.threshold)
        self.held: dict[tuple[str, ...], PrfKey] = {}
        self.mask: PrfKey | None = None
        for folder in folders:
            for name, key in _keys(folder, f"{series}-{number}").items():
                self.held[tuple(name.split("+"))] = key
            (self.mask,) = _keys(folder, "mask-1").values()

    def without_pads(self, answer: Answer, principal: str, inputs: Bytes2D) -> dict[tuple[str, ...], Bytes2D]:
        """Return the components of an answer's last rows, as far as these keepers can: those of none leave pads on."""
        held = dprf.held_by(answer.header.keeper, list(self._policy.keepers), self._policy.threshold)
        found = {key_set: column[-len(inputs) :] for key_set, column in zip(held, answer.components, strict=True)}
        if self.mask is None:
            return found
        pads = dprf.pads(self.mask, principal, answer.header.expires_s, self.sets, inputs)
        return {key_set: column ^ pads[key_set] for key_set, column in found.items()}

    @property
    def complete(self) -> bool:
        """Whether they compute F by themselves."""
        return set(self.held) == set(self.sets)

    def components(self, inputs: Bytes2D) -> dict[tuple[str, ...], Bytes2D]:
        """Return the component of each key held, each uint8 (n, 32)."""
        return {key_set: prf.evaluate(key, inputs) for key_set, key in self.held.items()}

    def values(self, inputs: Bytes2D, others: Mapping[tuple[str, ...], Bytes2D] | None = None) -> Bytes2D:
        """Return the XOR of all components, those of `others` among them: F(x), if none is missing."""
        known = {**(others or {}), **self.components(inputs)}
        total = np.zeros((len(inputs), prf.OUTPUT_BYTES), np.uint8)
        for component in known.values():
            total ^= component
        return total

    def sums(self, inputs: Bytes2D) -> Iterator[Bytes2D]:
        """Yield every XOR of some of the components held: all that these keys can make of an input by themselves."""
        components = list(self.components(inputs).values())
        for chosen in range(1 << len(components)):
            total = np.zeros((len(inputs), prf.OUTPUT_BYTES), np.uint8)
            for i, component in enumerate(components):
                if chosen >> i & 1:
                    total ^= component
            yield total


def _keys(folder: Path, series: str) -> dict[str, PrfKey]:
    content = json.loads((folder / "keys" / f"{series}.keys").read_bytes())
    return {name: PrfKey(bytes.fromhex(secret)) for name, secret in content["keys"].items()}


def inputs_of(cells: Sequence[Cell], epoch: int = 1) -> Bytes2D:
    """Return the PRF input of each cell: none of it is secret."""

    def numbers(name: str) -> npt.NDArray[np.unsignedinteger]:
        return np.array([getattr(c, name) for c in cells], np.uint64)

    return prf_input.record_inputs(
        np.array([c.collection.id for c in cells], np.uint64), numbers("class_id"), numbers("version"), epoch,
        numbers("collected_s"), numbers("expires_s"), stack([c.subject for c in cells], 16),
        stack([c.record for c in cells], 16), stack([c.nonce for c in cells], prf_input.NONCE_BYTES),
    )  # fmt: skip


def token_keys(policy: Policy, folders: Sequence[Path], fields: Sequence[tuple[int, int]]) -> list[bytes]:
    """Return the token key of each (collection, field), made from complete shares."""
    collections, ids = (np.array([pair[i] for pair in fields], np.uint64) for i in (0, 1))
    inputs = prf_input.prehash_inputs(collections, ids)
    return [row.tobytes() for row in Shares(policy, folders, "prehash").values(inputs)]


def index_keys(policy: Policy, folders: Sequence[Path], tokens: Sequence[tuple[int, int, bytes]]) -> list[bytes]:
    """Return K_w of each (collection, field, token), made from complete shares."""
    collections, fields = (np.array([token[i] for token in tokens], np.uint64) for i in (0, 1))
    normaliser = np.full(len(tokens), NORMALISER_VERSION, np.uint64)
    inputs = prf_input.index_inputs(collections, fields, normaliser, 1, stack([t for *_, t in tokens], 32))
    return [row.tobytes() for row in Shares(policy, folders, "index").values(inputs)]
