"""What this machine allows: the smallest possible form of each step, measured in every round."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from anwen.crypto import grants
from anwen.net.connection import Pool

ECB_BYTES = 16 * 1024


def _each_us(work: Callable[[], object], budget_s: float, most: int = 20_000) -> float:
    """Return the median microseconds of one call, over batches that fit into `budget_s`."""
    work()
    start = time.perf_counter()
    work()
    once = max(time.perf_counter() - start, 1e-7)
    count = int(max(1, min(most, budget_s / once) // 9))
    taken = []
    for _ in range(9):
        start = time.perf_counter()
        for _ in range(count):
            work()
        taken.append((time.perf_counter() - start) / count)
    return sorted(taken)[4] * 1e6


class Floors:
    """Measures all floors; keeps the echo process of one run."""

    def __init__(self, folder: Path, budget_s: float = 0.1) -> None:
        self.folder, self.budget_s = folder, budget_s
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        der = self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self._echo = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("echo.py")), der.hex()],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._stack.callback(self._stop_echo)
        assert self._echo.stdout is not None
        self._address, self._pin = self._echo.stdout.readline().split()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _stop_echo(self) -> None:
        assert self._echo.stdin is not None
        self._echo.stdin.close()
        try:
            self._echo.wait(5)
        except subprocess.TimeoutExpired:
            self._echo.kill()
            self._echo.wait()

    def measure(self) -> dict[str, float]:
        """Return microseconds by floor."""
        return self._disk() | self._crypto() | asyncio.run(self._net())

    def _disk(self) -> dict[str, float]:
        path = self.folder / "floor.append"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        data = bytes(256)
        try:
            append = _each_us(lambda: (os.write(fd, data), os.fdatasync(fd)), 3 * self.budget_s)
        finally:
            os.close(fd)
            path.unlink()
        return {"append_fdatasync_us": append, "sqlite_commit_us": self._sqlite_commit()}

    def _sqlite_commit(self) -> float:
        path = self.folder / "floor.sqlite"
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB)")
            row = (bytes(256),)
            return _each_us(lambda: connection.execute("INSERT INTO t (v) VALUES (?)", row), 3 * self.budget_s)
        finally:
            connection.close()
            for file in self.folder.glob("floor.sqlite*"):
                file.unlink()

    def _crypto(self) -> dict[str, float]:
        nonce, small, large, block = bytes(12), bytes(128), bytes(1024), bytes(ECB_BYTES)
        reused = AESGCM(bytes(32))
        ecb = Cipher(algorithms.AES256(bytes(32)), modes.ECB()).encryptor()
        out = bytearray(ECB_BYTES + 15)
        public, ecdsa = self._key.public_key(), ec.ECDSA(hashes.SHA256())
        signature = self._key.sign(large, ecdsa)
        work: dict[str, Callable[[], object]] = {
            "gcm_128_reused_us": lambda: reused.encrypt(nonce, small, small),
            "gcm_1k_reused_us": lambda: reused.encrypt(nonce, large, small),
            "gcm_128_fresh_us": lambda: AESGCM(os.urandom(32)).encrypt(nonce, small, small),
            "gcm_1k_fresh_us": lambda: AESGCM(os.urandom(32)).encrypt(nonce, large, small),
            "ecb_16k_us": lambda: ecb.update_into(block, out),
            "sha256_256_us": lambda: hashlib.sha256(out[:256]).digest(),
            "sha512_128_us": lambda: hashlib.sha512(small).digest(),
            "es256_sign_us": lambda: self._key.sign(large, ecdsa),
            "es256_verify_us": lambda: public.verify(signature, large, ecdsa),
        }
        return {name: _each_us(w, self.budget_s) for name, w in work.items()}

    async def _net(self) -> dict[str, float]:
        pool, body = Pool(self._address, bytes.fromhex(self._pin)), bytes(512)
        claims = grants.Grant("bench", "0" * 32 + "/node", 2**33, bytes(16), "floor", hashlib.sha256(body).digest())
        grant = f"Anwen {grants.sign(self._key, claims)}"
        found = {}
        try:
            for name in ("echo", "granted"):
                taken = []
                until = time.perf_counter() + 3 * self.budget_s
                while time.perf_counter() < until or len(taken) < 20:
                    start = time.perf_counter()
                    await pool.post(f"/v1/{name}", grant, body, 5.0)
                    taken.append(time.perf_counter() - start)
                found[f"tls_{name}_us"] = sorted(taken)[len(taken) // 2] * 1e6
        finally:
            await pool.aclose()
        return found
