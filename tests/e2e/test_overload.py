"""More requests than a vault can serve: they are answered later, or sent away with a time to come again; none is lost.

How much throughput is left is measured in `bench/suites/overload.py`.
"""

import asyncio
import contextlib
import itertools
import time

import anwen
from anwen.client.session import Timing
from anwen.crypto import grants
from anwen.errors import OverloadedError
from anwen.formats import wire
from anwen.net.connection import Pool

from .conftest import person

NUMBERS = itertools.count(700_000)
PATIENT = Timing(deadline_s=20.0)


async def test_many_sessions_at_once_are_all_served(vault):
    async with anwen.connect_async(vault.path, key="importer", purpose="intake", timing=PATIENT) as importer:
        stored = await importer.put_many("person", [person(next(NUMBERS)) for _ in range(8)])
    done, until = [], time.monotonic() + 2

    async def client(number):
        async with anwen.connect_async(vault.path, key="case_worker", purpose="casework", timing=PATIENT) as clerk:
            while time.monotonic() < until:
                (record,) = await clerk.get([stored[number % 8].record], ["contact"], collection="person")
                assert (await clerk.open([record], ["contact"]))[0]["phone"]
                done.append(number)

    await asyncio.gather(*(client(i) for i in range(32)))
    assert set(done) == set(range(32))


async def test_a_flood_by_one_principal_is_sent_away_and_another_is_served(vault):
    """Through the door of a node, on 200 connections: of 256 requests at a time one principal has 128 at most."""
    async with contextlib.AsyncExitStack() as stack:
        flooder = await stack.enter_async_context(
            anwen.connect_async(vault.path, key="importer", purpose="intake", timing=PATIENT)
        )
        modest = await stack.enter_async_context(
            anwen.connect_async(vault.path, key="case_worker", purpose="casework", timing=PATIENT)
        )
        row = person(next(NUMBERS))
        await flooder.put("person", row)
        session, node = flooder.session, flooder.policy.nodes["a"]
        pool = Pool(node.address, node.tls_pin, limit=200)
        stack.push_async_callback(pool.aclose)
        labels = {"labels": {"label": _labels(1024)}, "classes": {"class": []}}
        body = wire.encode("node_find", session.random(wire.SALT_BYTES), tables=labels)
        grant = session.grant(grants.node_audience(flooder.policy.vault), "intake", body)

        async def ask():
            try:
                await pool.post("/v1/node_find", f"Anwen {grant}", body, 30)
            except OverloadedError as error:
                return error.retry_after_s
            return None

        for several in range(20, 201, 20):  # so that all connections are there when the flood comes
            await asyncio.gather(*(ask() for _ in range(several)))
        flood = [asyncio.create_task(ask()) for _ in range(1000)]
        await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
        assert len(await modest.find("person", phone=row["phone"])) == 1
        ends = await asyncio.gather(*flood)
        assert ends.count(None) > 0
        assert all(wait is None or 0 < wait <= 1 for wait in ends)
        assert len(set(ends)) == 2, "nobody was sent away: this is no flood"


def _labels(count):
    import numpy as np

    return np.random.default_rng(1).integers(0, 256, (count, 16), dtype=np.uint8)
