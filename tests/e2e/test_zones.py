"""A zone killed, hung or swallowing connections, under reads and writes: no caller sees an error, and it comes back.

Gaps and latencies are printed, not asserted: they are measured on quiet machines (docs/clients.md).
"""

import asyncio
import contextlib
import itertools
import random
import re
import signal
import socket
import sqlite3
import time

import pytest

import anwen
from anwen import vault_folder
from anwen.client.session import Timing
from anwen.client.sync import Loop
from anwen.errors import AnwenError
from anwen.supervisor import up

from .conftest import person

DEADLINE_S = 2.0
FAULT_AFTER_S, FAULT_S, AFTER_S = 1.5, 2.5, 3.0
MODULES = {"keeper": "anwen.keeper.app", "node": "anwen.node.app"}
NUMBERS = itertools.count(600_000)


class Zones:
    """A vault with a keeper and a node in each of three zones, and what can happen to a zone."""

    def __init__(self, folder, loop, processes):
        self.folder, self.loop, self.processes, self.policy = folder, loop, processes, folder.policy()
        self.holes = contextlib.ExitStack()

    def names(self, zone):
        return [f"{kind} {zone}" for kind in MODULES]

    def signal(self, zone, number):
        for name in self.names(zone):
            self.processes.processes[name].send_signal(number)

    def kill(self, zone):
        self.signal(zone, signal.SIGKILL)

    def hang(self, zone):
        """SIGSTOP, but not in the middle of a transaction: a lock on the file all nodes share would stop them all."""
        store = self.folder.path / "store" / "anwen.sqlite"
        for _ in range(50):
            self.signal(zone, signal.SIGSTOP)
            with contextlib.closing(sqlite3.connect(store, timeout=0.2, isolation_level=None)) as db:
                try:
                    db.execute("BEGIN IMMEDIATE")
                    db.execute("ROLLBACK")
                except sqlite3.OperationalError:
                    self.signal(zone, signal.SIGCONT)
                else:
                    return
        raise AssertionError("never between two transactions")

    def swallow(self, zone):
        """Kill, and put listening sockets in place that no connection gets through: SYNs stay unanswered."""
        self.kill(zone)
        for address in (self.policy.keepers[zone].address, self.policy.nodes[zone].address):
            host, _, port = address.rpartition(":")
            hole = self.holes.enter_context(socket.socket())
            hole.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            until = time.monotonic() + 5
            while True:
                try:
                    hole.bind((host, int(port)))
                    break
                except OSError:  # the killed process still holds it
                    assert time.monotonic() < until
            hole.listen(0)
            for _ in range(2):
                filler = self.holes.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex((host, int(port)))

    def go_on(self, zone):
        self.signal(zone, signal.SIGCONT)

    def restart(self, zone):
        self.holes.close()
        for kind, module in MODULES.items():
            folder = self.folder.path / f"{kind}s" / zone
            self.loop.run(self.processes.start(f"{kind} {zone}", module, folder, lambda _: None))


@pytest.fixture(scope="module")
def zones(tmp_path_factory):
    text = re.sub(r"per_(hour|day) *= *[0-9_]+", r"per_\1 = 900_000", vault_folder.template("police"))
    shape = vault_folder.Shape(nodes=("a", "b", "c"))
    folder = vault_folder.create(tmp_path_factory.mktemp("zones") / "v", text, shape=shape)
    loop = Loop()
    processes = loop.run(up(folder))
    try:
        yield Zones(folder, loop, processes)
    finally:
        loop.run(processes.stop())
        loop.close()


class Load:
    """Reads and writes, each the next when the last has ended; what came of each."""

    def __init__(self, reader, writer, ids):
        self.reader, self.writer, self.ids = reader, writer, ids
        self.calls, self.errors, self.put = [], [], []
        self.random, self.stopped = random.Random(7), False

    async def read(self):
        (record,) = await self.reader.get([self.random.choice(self.ids)], ["identity"], collection="person")
        assert (await self.reader.open([record], ["identity"]))[0]["name"]

    async def find(self):
        row = self.random.choice(self.put)[0] if self.put else None
        found = await self.reader.find("person", phone=(row or person(599_999))["phone"])
        assert len(found) == (1 if row else 0)

    async def write(self):
        row = person(next(NUMBERS))
        result = await self.writer.put("person", row)
        self.put.append((row, result.record))

    async def repeat(self, kind):
        while not self.stopped:
            start = time.monotonic()
            try:
                await getattr(self, kind)()
            except AnwenError as error:
                self.errors.append((kind, round(time.monotonic() - start, 3), repr(error)))
            self.calls.append((kind, start, time.monotonic()))

    def figures(self, since, until):
        for kind in ("read", "find", "write"):
            ends = sorted(e for k, _, e in self.calls if k == kind and since <= e <= until)
            took = sorted(e - s for k, s, e in self.calls if k == kind and since <= e <= until)
            gap = max((b - a for a, b in itertools.pairwise([since, *ends, until])), default=0.0)
            p99 = took[int(0.99 * (len(took) - 1))] if took else float("nan")
            yield f"{kind}: {len(took)}, longest gap {gap * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms"


LOST = [(zone, *how) for zone in "abc" for how in (("kill", "restart"), ("hang", "go_on"), ("swallow", "restart"))]
IN_CI = [("b", "hang", "go_on"), ("c", "swallow", "restart")]  # a rehearsal of outages kills one


@pytest.mark.parametrize(
    ("zone", "fault", "undo"), [pytest.param(*each, marks=[] if each in IN_CI else pytest.mark.deep) for each in LOST]
)
def test_a_lost_zone_costs_nobody_an_error_and_is_used_again_when_it_is_back(zones, zone, fault, undo):
    asyncio.run(_through(zones, zone, getattr(zones, fault), getattr(zones, undo)))


async def _through(zones, zone, fault, undo):
    timing, path = Timing(deadline_s=DEADLINE_S), zones.folder.path
    async with (
        anwen.connect_async(path, key="importer", purpose="intake", timing=timing) as writer,
        anwen.connect_async(path, key="case_worker", purpose="casework", timing=timing) as reader,
    ):
        rows = [person(next(NUMBERS)) for _ in range(20)]
        load = Load(reader, writer, [r.record for r in await writer.put_many("person", rows)])
        work = [asyncio.create_task(load.repeat(kind)) for kind in ("read", "read", "find", "write", "write")]
        begun = time.monotonic()
        await asyncio.sleep(FAULT_AFTER_S)
        lost = time.monotonic()
        await asyncio.to_thread(fault, zone)
        await asyncio.sleep(FAULT_S)
        back = time.monotonic()
        await asyncio.to_thread(undo, zone)
        returned = time.monotonic()
        await asyncio.sleep(AFTER_S)
        load.stopped = True
        await asyncio.gather(*work)
        for name, since, until in (("before", begun, lost), ("fault", lost, back), ("after", back, time.monotonic())):
            print(f"{fault.__name__} {zone}, {name}: {'; '.join(load.figures(since, until))}")  # noqa: T201 - for `pytest -s`
        assert load.errors == []
        longest = max(end - start for _, start, end in load.calls)
        assert longest < DEADLINE_S
        for session, recipients in ((reader.session, ("keeper", "node")), (writer.session, ("keeper", "node"))):
            for kind in recipients:
                assert session.health._known[f"{kind}/{zone}"].heard_s > returned, kind
        got = await reader.get([record for _, record in load.put], ["identity"], collection="person")
        assert all(got)
