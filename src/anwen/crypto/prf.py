"""Pseudo-random function over batches of equal-length inputs, and a KDF for single derivations.

``PRF(k, x) = CMAC(k, 1 || x) || CMAC(k, 2 || x)``: the KDF in counter mode of NIST SP 800-108r1 with an 8-bit
counter before the fixed input and AES-256-CMAC (SP 800-38B) as its PRF, 256 bits of output (docs/spec/prf.md).
A batch runs as one AES call per block position over all rows and both counters, with wide XORs between them.

Pure: no I/O, no clock, no randomness.
"""

from __future__ import annotations

import threading
from typing import NoReturn

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

from anwen.errors import MalformedError

KEY_BYTES = 32
OUTPUT_BYTES = 32
_BLOCK = 16
_FEW = 8  # up to here a copied CMAC object for each row costs less than the numpy calls of a batch
_COUNTERS = (1, 2)
_COUNTER_BYTES = (b"\x01", b"\x02")
_CHUNK = 1024  # rows at once: their 32 KB of chaining state stay in the first-level cache

Bytes2D = npt.NDArray[np.uint8]


class PrfKey:
    """A PRF key, ready for use. Shows nothing of itself, cannot be copied or pickled.

    Threads may share one: the library lets a cipher object serve one thread at a time, so a lock lies around it.
    """

    __slots__ = ("_cmac", "_ecb", "_last", "_lock", "_secret")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise MalformedError(f"PRF key: expected {KEY_BYTES} bytes, got {len(secret)}")
        self._lock = threading.Lock()
        self._secret = bytearray(secret)
        # ECB here is nothing but the block calls inside CMAC, many at once (ASVS 11.3.1 bans it as a mode)
        self._ecb = Cipher(AES256(self._secret), ECB()).encryptor()  # noqa: S305
        self._cmac = CMAC(AES256(self._secret))
        self._last = np.frombuffer(_doubled(self._ecb.update(bytes(_BLOCK))), np.uint64)

    def __repr__(self) -> str:
        return "<PrfKey>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a PRF key is not copied or pickled")

    def wipe(self) -> None:
        """Forget the key. Best effort: overwrites our copy; the library frees its own, unoverwritten."""
        self._secret[:] = bytes(len(self._secret))
        for name in ("_ecb", "_cmac", "_last"):
            if hasattr(self, name):
                delattr(self, name)


def _doubled(block: bytes) -> bytes:
    """Return the CMAC sub-key K1: the block times x in GF(2^128). All our inputs are whole blocks: K2 is not used."""
    number = int.from_bytes(block) << 1
    return (number if number < 1 << 128 else number ^ (1 << 128 | 0x87)).to_bytes(_BLOCK)


def evaluate(key: PrfKey, inputs: Bytes2D) -> Bytes2D:
    """Return PRF(key, x) for every row x of `inputs`.

    Args:
        key: not wiped.
        inputs: uint8, shape (n, L), L + 1 a multiple of 16; n may be 0.

    Returns:
        uint8, shape (n, 32). See docs/spec/prf.md for measured times.

    Raises:
        MalformedError: `inputs` has another shape or dtype.
    """
    if inputs.dtype != np.uint8 or inputs.ndim != 2 or (inputs.shape[1] + 1) % _BLOCK:
        raise MalformedError(f"PRF inputs: expected uint8 (n, 16 m - 1), got {inputs.dtype} {inputs.shape}")
    if len(inputs) <= _FEW:
        return _evaluate_few(key, inputs)
    output = np.empty((len(inputs), OUTPUT_BYTES), np.uint8)
    for start in range(0, len(inputs), _CHUNK):
        with key._lock:  # noqa: SLF001 - this module is the key's own
            _evaluate_chunk(key, inputs[start : start + _CHUNK], output[start : start + _CHUNK])
    return output


def _evaluate_few(key: PrfKey, inputs: Bytes2D) -> Bytes2D:
    joined = bytearray()
    for row in inputs:
        message = row.tobytes()
        for counter in _COUNTER_BYTES:
            mac = key._cmac.copy()  # noqa: SLF001
            mac.update(counter + message)
            joined += mac.finalize()
    return np.frombuffer(joined, np.uint8).reshape(len(inputs), OUTPUT_BYTES)


def _evaluate_chunk(key: PrfKey, inputs: Bytes2D, output: Bytes2D, counters: tuple[int, int] = _COUNTERS) -> None:
    """Write CMAC(counter || x) for both counters beside each other into `output`, for every row x."""
    rows, blocks = len(inputs), (inputs.shape[1] + 1) // _BLOCK
    messages = np.empty((rows, blocks * _BLOCK), np.uint8)
    messages[:, 0] = 0
    messages[:, 1:] = inputs
    # Block-major, so that each XOR below runs over contiguous memory. complex128 is only the widest element (16 bytes)
    # that numpy copies in one step.
    columns = np.empty((blocks, rows), np.complex128)
    columns[...] = messages.view(np.complex128).T
    words = columns.view(np.uint64)  # (blocks, 2 rows)
    words[-1].reshape(rows, 2)[...] ^= key._last  # noqa: SLF001
    buffer = np.empty(4 * rows + 2, np.uint64)  # update_into asks for 15 bytes more than it writes
    state = buffer[: 4 * rows].reshape(2, 2 * rows)  # one line for each counter
    state[:] = words[0]
    state.view(np.uint8).reshape(2, rows, _BLOCK)[:, :, 0] ^= np.array(counters, np.uint8)[:, None]
    source, target = state.data.cast("B"), buffer.data.cast("B")
    encrypt = key._ecb.update_into  # noqa: SLF001
    encrypt(source, target)
    for block in words[1:]:
        np.bitwise_xor(state, block, out=state)
        encrypt(source, target)
    output.view(np.complex128)[...] = state.view(np.complex128).T


def derive(secret: bytes, label: bytes, context: bytes) -> bytes:
    """Return 32 bytes for one purpose of `secret`: SP 800-108r1, counter mode, HMAC-SHA-256, 32-bit counter.

    The fixed input is ``label || 00 || context || 00000100``; labels must not contain a zero byte. HMAC, so that
    nothing derived here can meet a value of `evaluate` under the same key.

    Raises:
        MalformedError: a label that is empty or contains a zero byte.
    """
    if not label or 0 in label:
        raise MalformedError("derivation label: expected at least one byte, none of them zero")
    kdf = KBKDFHMAC(
        hashes.SHA256(), Mode.CounterMode, OUTPUT_BYTES, 4, 4, CounterLocation.BeforeFixed, label, context, None
    )
    return kdf.derive(secret)
