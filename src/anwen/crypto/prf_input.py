"""Inputs of the PRF: built from typed, fixed-length columns, never from a caller's bytes (docs/spec/prf.md).

The first byte names the series (record, index, prehash), every field has a fixed width and place, and the three
lengths differ, so different fields give different inputs. Integers are big-endian.

Pure.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import numpy.typing as npt

from anwen.errors import MalformedError

RECORD_BYTES = 79
INDEX_BYTES = 47
PREHASH_BYTES = 15
NONCE_BASE_BYTES = 20
NONCE_BYTES = 24

Integers = npt.NDArray[np.unsignedinteger]
Bytes2D = npt.NDArray[np.uint8]

_RECORD = np.dtype(
    [
        ("series", "u1"), ("collection", ">u2"), ("class", ">u2"), ("version", ">u4"), ("epoch", ">u4"),
        ("collected_high", "u1"), ("collected_low", ">u4"), ("expires_high", "u1"), ("expires_low", ">u4"),
        ("subject", "u1", (16,)), ("record", "u1", (16,)), ("nonce", "u1", (NONCE_BYTES,)),
    ]
)  # fmt: skip
_INDEX = np.dtype(
    [
        ("series", "u1"), ("collection", ">u2"), ("field", ">u2"), ("normaliser", ">u2"), ("generation", ">u4"),
        ("token", "u1", (32,)), ("zeros", "u1", (4,)),
    ]
)  # fmt: skip
_PREHASH = np.dtype([("series", "u1"), ("collection", ">u2"), ("field", ">u2"), ("zeros", "u1", (10,))])


_RECORD_ROW = struct.Struct(">BHHIIBIBI16s16s24s")  # as `_RECORD`
_FEW = 16  # up to here packing row by row costs less than numpy's calls: 6 us for a row instead of 19


def _integers(name: str, values: Integers, rows: int, width_bytes: int) -> Integers:
    if values.shape != (rows,) or values.dtype.kind != "u":
        raise MalformedError(f"{name}: expected {rows} unsigned integers, got {values.dtype} {values.shape}")
    if values.itemsize > width_bytes and rows and int(values.max()) >> (8 * width_bytes):
        raise MalformedError(f"{name}: a value takes more than {width_bytes} bytes")
    return values


def _opaque(name: str, values: Bytes2D, rows: int, width_bytes: int) -> Bytes2D:
    if values.shape != (rows, width_bytes) or values.dtype != np.uint8:
        raise MalformedError(f"{name}: expected uint8 ({rows}, {width_bytes}), got {values.dtype} {values.shape}")
    return values


def _number(name: str, value: int) -> int:
    if not 0 <= value < 2**32:
        raise MalformedError(f"{name}: expected 0 to {2**32 - 1}, got {value}")
    return value


def record_inputs(  # noqa: PLR0917 - in the order of the format
    collection: Integers,
    class_: Integers,
    version: Integers,
    epoch: int,
    collected_s: Integers,
    expires_s: Integers,
    subject: Bytes2D,
    record: Bytes2D,
    nonce: Bytes2D,
) -> Bytes2D:
    """Return the inputs of wraps, uint8 (n, 79), one for each cell.

    Args:
        collection, class_: below 2^16; version: below 2^32; collected_s, expires_s: below 2^40; each shape (n,),
            any unsigned dtype.
        epoch: of all rows.
        subject, record: uint8 (n, 16). nonce: uint8 (n, 24).

    Raises:
        MalformedError: another shape or dtype, or a value that does not fit.
    """
    rows = len(collection)
    integers, opaque = (collection, class_, version, collected_s, expires_s), (subject, record, nonce)
    if rows <= _FEW and all(column.shape[:1] == (rows,) for column in (*integers, *opaque)):
        few = _few_record_inputs(rows, epoch, integers, opaque)
        if few is not None:
            return few
    inputs = np.empty(rows, _RECORD)
    inputs["series"] = 1
    inputs["collection"] = _integers("collection", collection, rows, 2)
    inputs["class"] = _integers("class", class_, rows, 2)
    inputs["version"] = _integers("version", version, rows, 4)
    inputs["epoch"] = _number("epoch", epoch)
    for name, values in (("collected", collected_s), ("expires", expires_s)):
        seconds = _integers(f"{name}_s", values, rows, 5).astype(np.uint64)
        inputs[f"{name}_high"] = seconds >> np.uint64(32)
        inputs[f"{name}_low"] = seconds & np.uint64(2**32 - 1)
    inputs["subject"] = _opaque("subject", subject, rows, 16)
    inputs["record"] = _opaque("record", record, rows, 16)
    inputs["nonce"] = _opaque("nonce", nonce, rows, NONCE_BYTES)
    return inputs.view(np.uint8).reshape(rows, RECORD_BYTES)


def _few_record_inputs(
    rows: int, epoch: int, integers: tuple[Integers, ...], opaque: tuple[Bytes2D, ...]
) -> Bytes2D | None:
    """Return the inputs of a few rows; None where a shape, dtype or value is wrong, for the other path to say which."""
    if any(column.dtype.kind != "u" or column.ndim != 1 for column in integers):
        return None
    for column, width_bytes in zip(opaque, (16, 16, NONCE_BYTES), strict=True):
        if column.shape != (rows, width_bytes) or column.dtype != np.uint8:
            return None
    packed = bytearray()
    subject, record, nonce = (column.tobytes() for column in opaque)
    try:
        for i, (collection, class_, version, collected, expires) in enumerate(
            zip(*(column.tolist() for column in integers), strict=True)
        ):
            packed += _RECORD_ROW.pack(
                1, collection, class_, version, epoch, collected >> 32, collected & 0xFFFFFFFF,
                expires >> 32, expires & 0xFFFFFFFF, subject[16 * i : 16 * i + 16], record[16 * i : 16 * i + 16],
                nonce[NONCE_BYTES * i : NONCE_BYTES * (i + 1)],
            )  # fmt: skip
    except struct.error:
        return None
    return np.frombuffer(packed, np.uint8).reshape(rows, RECORD_BYTES)


def index_inputs(
    collection: Integers, field: Integers, normaliser: Integers, generation: int, token: Bytes2D
) -> Bytes2D:
    """Return the inputs of index keys `K_w`, uint8 (n, 47); integers shape (n,), token uint8 (n, 32).

    Raises:
        MalformedError: another shape or dtype, or a value that does not fit.
    """
    rows = len(collection)
    inputs = np.zeros(rows, _INDEX)
    inputs["series"] = 2
    inputs["collection"] = _integers("collection", collection, rows, 2)
    inputs["field"] = _integers("field", field, rows, 2)
    inputs["normaliser"] = _integers("normaliser", normaliser, rows, 2)
    inputs["generation"] = _number("generation", generation)
    inputs["token"] = _opaque("token", token, rows, 32)
    return inputs.view(np.uint8).reshape(rows, INDEX_BYTES)


def prehash_inputs(collection: Integers, field: Integers) -> Bytes2D:
    """Return the inputs of token keys, uint8 (n, 15); integers shape (n,).

    Raises:
        MalformedError: another shape or dtype, or a value that does not fit.
    """
    rows = len(collection)
    inputs = np.zeros(rows, _PREHASH)
    inputs["series"] = 3
    inputs["collection"] = _integers("collection", collection, rows, 2)
    inputs["field"] = _integers("field", field, rows, 2)
    return inputs.view(np.uint8).reshape(rows, PREHASH_BYTES)


def nonce_base(principal: str, jti: bytes, expires_s: int, request: bytes) -> bytes:
    """Return the 20 bytes that sibling grants of one request share, and no other request can have.

    Every keeper computes them itself: a stored row's nonce can never be asked for again through `put`.

    Raises:
        MalformedError: `jti` is not 16 bytes, `request` not 32, or a value does not fit.
    """
    name = principal.encode()
    if len(name) >= 2**16 or len(jti) != 16 or len(request) != 32 or not 0 <= expires_s < 2**64:
        raise MalformedError("nonce base: expected a principal, 16 bytes of jti, 8 of exp and 32 of request hash")
    typed = b"anwen-nonce-1" + len(name).to_bytes(2) + name + jti + expires_s.to_bytes(8) + request
    return hashlib.sha256(typed).digest()[:NONCE_BASE_BYTES]


def nonces(base: bytes, count: int) -> Bytes2D:
    """Return the nonces of a put's cells, uint8 (count, 24): the base and the row number.

    Raises:
        MalformedError: `base` is not 20 bytes.
    """
    if len(base) != NONCE_BASE_BYTES or not 0 <= count <= 2**32:
        raise MalformedError(f"nonces: expected a base of {NONCE_BASE_BYTES} bytes, got {len(base)}")
    if count <= _FEW:
        joined = bytearray().join([base + i.to_bytes(4) for i in range(count)])
        return np.frombuffer(joined, np.uint8).reshape(count, NONCE_BYTES)
    result = np.empty((count, NONCE_BYTES), np.uint8)
    result[:, :NONCE_BASE_BYTES] = np.frombuffer(base, np.uint8)
    result[:, NONCE_BASE_BYTES:] = np.arange(count, dtype=">u4").view(np.uint8).reshape(count, 4)
    return result
