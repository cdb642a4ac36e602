"""Strangers and thieves at every door: how long a principal's openings take while they last, against without.

Four floods at a pace that leaves the machine some of its cores, from addresses that no principal uses: connections that
say nothing, grants that are no grants, grants for another recipient, and grants that were used once already. Run as a
script it is the process that floods.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from anwen.crypto import grants
from anwen.crypto.grants import Grant
from anwen.formats import wire
from anwen.net import http1
from anwen.vault_folder import VaultFolder
from rules import Goal, Rounds, percentile, rotated
from suites.overload import drive
from suites.single import loaded
from systems import anwen

ROWS = 2_000
CLIENTS = 2
KINDS = ("quiet", "idle connections", "junk grants", "foreign grants", "replayed grants")
CONNECTIONS, PACE = 10_000, 60
"""Idle connections that are tried, and requests a second of the other floods, over all doors together."""

REOPENED = 300
"""Idle connections that are opened again each second."""

ADDRESSES = [f"127.0.1.{i}" for i in range(1, 11)]
LIFE_S, KEEPERS = 100, 3
THIEF = "loader"
"""Whose key signs foreign and replayed grants; its purpose opens nothing."""


def run(setting: Any) -> tuple[Rounds, dict[str, Any]]:
    """Open by id without a flood and under each, in rotated order."""
    rounds, rows, count = Rounds(), setting.size(ROWS), setting.rounds(4)
    times = {"quick": (0.5, 1.0), "bench": (2.0, 15.0), "full": (2.0, 30.0)}[setting.profile]
    told: dict[str, Any] = {}
    with anwen.running(setting.folder / "flood") as system:
        bench = loaded(setting, system, rows)
        for r in range(count):
            rounds.floors.append(setting.floors.measure())
            p99: dict[str, float] = {}
            for order, kind in enumerate(rotated(KINDS, r)):
                with flood(system.path, kind) as said:
                    points, _ = drive(bench, CLIENTS, times)
                told[f"{kind}, round {r}"] = said
                samples = [1e3 * t for s in points for _, t in s["samples"]]
                errors = {code: n for s in points for code, n in s["errors"].items()}
                p99[kind] = percentile(samples, 0.99)
                metrics = {f"{kind}, p50": (percentile(samples, 0.5), "ms"), f"{kind}, p99": (p99[kind], "ms")}
                rounds.add(r, order, anwen.NAME, metrics)
                rounds.gate.check(not errors, f"{kind}: errors {errors}")
                rounds.gate.check(not any(s["wrong"] for s in points), f"{kind}: wrong answers")
                first = KEEPERS if kind == "replayed grants" else 0  # which is no replay yet
                rounds.gate.check(said.get("answers", {}).get("answered", 0) <= first, f"{kind}: answered {said}")
            ratios = {f"{kind}, p99 against quiet": (p99[kind] / p99["quiet"], "x") for kind in KINDS[1:]}
            rounds.add(r, len(KINDS), anwen.NAME, ratios)
        settings: dict[str, Any] = {anwen.NAME: anwen.settings(system), "rows": rows, "clients": CLIENTS}
    for kind in KINDS[1:]:
        rounds.goal(f"{kind}, p99 against quiet", anwen.NAME, Goal("<=", 2.0, "G"))
    return rounds, settings | {"connections": CONNECTIONS, "requests a second": PACE, "floods": told}


@contextlib.contextmanager
def flood(vault: Path, kind: str) -> Iterator[dict[str, Any]]:
    """Flood until the end of the block; what came of it is in the dict that is given."""
    said: dict[str, Any] = {}
    if kind == "quiet":
        yield said
        return
    command = [sys.executable, __file__, str(vault), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "under way\n":
            raise RuntimeError(f"the flood of {kind} did not begin")
        yield said
        said |= json.loads(process.communicate("", timeout=60)[0])
    if process.returncode or not said["sent"]:
        raise RuntimeError(f"the flood of {kind} failed: {said}")


class Flood:
    """One flood, from many addresses at all doors in turn."""

    def __init__(self, vault: Path, kind: str) -> None:
        self.kind, folder = kind, VaultFolder(vault)
        self.policy, self.key = folder.policy(), folder.principal_key(THIEF)
        self.keeper_at = {info.address: k for k, info in self.policy.keepers.items()}
        self.doors = itertools.cycle([*self.keeper_at, *(info.address for info in self.policy.nodes.values())])
        self.sources = itertools.cycle(ADDRESSES)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE
        self.sent, self.open, self.most = 0, 0, 0
        self.answers: Counter[str] = Counter()
        self.tasks: set[asyncio.Task[None]] = set()
        self.spent: dict[str, tuple[str, bytes]] = {}

    async def run(self) -> dict[str, Any]:
        """Flood until standard input ends."""
        over = asyncio.Event()
        asyncio.get_running_loop().run_in_executor(None, sys.stdin.read).add_done_callback(lambda _: over.set())
        one = self.idle if self.kind == "idle connections" else self.ask
        pace, begun = (REOPENED, CONNECTIONS) if one == self.idle else (PACE, 0)
        for _ in range(begun):
            await self._start(one)
        print("under way", flush=True)
        while not over.is_set():
            await self._start(one)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), 1 / pace)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        return {"sent": self.sent, "open at once": self.most, "answers": dict(self.answers)}

    async def _start(self, one: Any) -> None:
        if one == self.idle and self.open >= CONNECTIONS:
            return
        task = asyncio.create_task(one())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        self.sent += 1
        if self.sent % 100 == 0:
            await asyncio.sleep(0)

    async def idle(self) -> None:
        """Hold one connection that says nothing, until it is closed."""
        host, port = http1.split_address(next(self.doors))
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(host, port, local_addr=(next(self.sources), 0))
            self.open += 1
            self.most = max(self.most, self.open)
            try:
                await reader.read(1)
            finally:
                self.open -= 1
                writer.transport.abort()

    async def ask(self) -> None:
        """Send one request that has to be refused."""
        address = next(self.doors)
        grant, body = self._request(address)
        host, port = http1.split_address(address)
        head = f"POST /v1/prehash HTTP/1.1\r\nAuthorization: Anwen {grant}\r\nContent-Length: {len(body)}\r\n\r\n"
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            source = (next(self.sources), 0)
            reader, writer = await asyncio.open_connection(host, port, ssl=self.context, local_addr=source)
            try:
                writer.write(head.encode() + body)
                answer = await reader.readuntil(b"\r\n")
                status = int(answer.split()[1])
                self.answers["answered" if status == HTTPStatus.OK else "refused"] += 1
            finally:
                writer.transport.abort()

    def _request(self, door: str) -> tuple[str, bytes]:
        if self.kind == "junk grants":
            return f"{os.urandom(48).hex()}.{os.urandom(96).hex()}.{os.urandom(48).hex()}", os.urandom(256)
        if self.kind == "replayed grants" and door in self.spent:
            return self.spent[door]
        fields = {"collection": np.ones(1, np.uint64), "field": np.ones(1, np.uint64)}
        body = wire.encode("prehash", os.urandom(wire.SALT_BYTES), tables={"fields": fields})
        here = self.keeper_at.get(door)
        others = [k for k in self.policy.keepers if k != here]
        recipient = here if here and self.kind == "replayed grants" else others[0]
        audience = grants.keeper_audience(self.policy.vault, recipient)
        self.spent[door] = grants.sign(self.key, self._claims(audience, body)), body
        return self.spent[door]

    def _claims(self, audience: str, body: bytes) -> Grant:
        return Grant(THIEF, audience, int(time.time()) + LIFE_S, os.urandom(16), "load", hashlib.sha256(body).digest())


if __name__ == "__main__":
    print(json.dumps(asyncio.run(Flood(Path(sys.argv[1]), sys.argv[2]).run())))
