"""Reading a keeper's log: nothing hidden behind many entries, no more memory than a page, other requests go on."""

import asyncio
import json
import os
import threading
import time
import tracemalloc

import pytest
from keeper_rig import DAY_S, PERSON, People, plain

from anwen.client import audit
from anwen.errors import ProofError, StorageError, TooLargeError
from anwen.formats import wire
from anwen.keeper.log import Log
from anwen.keeper.reading import MAX_ENTRIES
from anwen.keeper.side import Block, Kind

SIDE_BYTES = 2**19
"""Of a put of 16,384 rows."""


async def read(rig, op, **scalars):
    body = plain(op, **scalars)
    return wire.decode(await rig.keepers["a"].handle(op, rig.grant(body, "a"), body), "entries")


class Asking:
    """What `client.audit` needs of a session, with the rig's keepers behind it."""

    def __init__(self, rig):
        self.rig, self.random, self.pages = rig, os.urandom, 0

    async def keeper(self, keeper, op, _purpose, body):
        self.pages += 1
        return await self.rig.keepers[keeper].handle(op, self.rig.grant(body, keeper), body)


async def requests_about(rig, subject, count):
    """As many requests about a person, logged as `verify` logs them."""
    keeper = rig.keepers["a"]
    month = time.strftime("%Y-%m", time.gmtime(rig.clock.now_s))
    seen = Block.of(Kind.SEEN, PERSON, keeper._months.pseudonyms(month, subject))
    about = {"iss": "alice", "purpose": "work", "classes": {}, "jti": bytes(16).hex(), "exp": int(rig.clock.now_s)}
    for _ in range(count):
        last = keeper._append("verify", about, [seen])
    await keeper.log.commit(last)


async def test_an_opening_is_not_hidden_by_many_requests_that_cost_nothing(rig):
    """`verify` and `open` of one person charge one subject, however often they are asked."""
    people = People(1)
    subject = people.subject[0].tobytes()
    await rig.ask("put", people.put(), ["a"])
    await rig.ask("open", people.open(bytes(20)), ["a"])
    await requests_about(rig, subject, MAX_ENTRIES)
    await rig.ask("delete", people.delete(), ["a"])
    first = await read(rig, "audit", subject=subject, since_s=0, start=0)
    ops = [json.loads(e)["op"] for e in first.blobs["entries"]]
    assert (ops[:2], len(ops)) == (["put", "open"], MAX_ENTRIES)
    assert first.number("start") < first.number("size"), "it says that there is more"
    session = Asking(rig)
    told = [json.loads(e) async for e in audit.about(session, "work", "a", subject, 0)]
    assert [e["op"] for e in told] == ["put", "open", *["verify"] * MAX_ENTRIES, "delete"]
    assert [e["index"] for e in told] == sorted({e["index"] for e in told})
    assert session.pages == 2


async def test_exactly_a_page_is_all(rig):
    subject = People(1).subject[0].tobytes()
    await rig.ask("put", People(1).put(), ["a"])
    await requests_about(rig, subject, MAX_ENTRIES)
    assert len([e async for e in audit.about(Asking(rig), "work", "a", subject, 0)]) == MAX_ENTRIES


class Lying(Asking):
    """A keeper that says that there is more, for ever."""

    def __init__(self, rig, answer):
        super().__init__(rig)
        self.answer = answer

    async def keeper(self, _keeper, _op, _purpose, body):
        self.pages += 1
        start, found = self.answer(wire.decode(body, "audit").number("start"))
        scalars = {"start": start, "size": 2**64 - 1, "free_bytes": 0}
        return wire.encode("entries", bytes(16), scalars, {}, {"entries": found, "checkpoint": [b""]})


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda at: (at, [b"{}"]), ProofError),
        (lambda _: (0, [b"{}"]), ProofError),
        (lambda at: (at + 1, []), ProofError),
        (lambda at: (at + 1, [b"{}"]), TooLargeError),
    ],
)
async def test_a_keeper_that_never_comes_to_an_end_is_left(rig, answer, error):
    session = Lying(rig, answer)
    with pytest.raises(error, match="keeper a"):
        assert [e async for e in audit.about(session, "work", "a", bytes(16), 0)]
    assert session.pages <= 64


# --- what reading takes ----------------------------------------------------------------------------------------------


async def long_log(rig, count=64):
    keeper = rig.keepers["a"]
    for i in range(count):
        entry = json.dumps({"t": 0, "op": "put", "i": i, "lasting": 9}).encode()
        await keeper.log.commit(keeper.log.append("2023-11-14", entry, bytes(SIDE_BYTES)))


@pytest.mark.parametrize("op", ["log", "audit"])
async def test_side_data_is_not_held_however_much_there_is(rig, op):
    await long_log(rig)
    about = {"start": 0, "count": 4096} if op == "log" else {"subject": bytes(16), "since_s": 0, "start": 0}
    await read(rig, op, **about)
    tracemalloc.start()
    try:
        await read(rig, op, **about)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 8 * SIDE_BYTES, f"{most} bytes for {64 * SIDE_BYTES} of side data"


@pytest.mark.parametrize("op", ["log", "audit"])
async def test_the_event_loop_is_left_to_others(rig, monkeypatch, op):
    threads = []
    for name in ("read", "frames"):
        real = getattr(Log, name)

        def spying(*arguments, real=real):
            threads.append(threading.current_thread())
            return real(*arguments)

        monkeypatch.setattr(Log, name, spying)
    await read(
        rig, op, **({"start": 0, "count": 9} if op == "log" else {"subject": bytes(16), "since_s": 0, "start": 0})
    )
    assert threads
    assert threading.main_thread() not in threads


async def test_an_audit_and_a_large_put_may_need_the_months_key_at_once(rig):
    await rig.ask("put", People(1).put(), ["a"])
    months, people = rig.keepers["a"]._months, os.urandom(16 * 16_384)
    expected = months.pseudonyms("2023-11", people)
    assert expected is not None

    def puts():
        for _ in range(300):
            assert months.pseudonyms("2023-11", people) == expected

    put = asyncio.to_thread(puts)
    audits = asyncio.to_thread(lambda: [months.handles("2023-11", expected[:16]) for _ in range(30_000)])
    found = (await asyncio.gather(put, audits, asyncio.to_thread(puts)))[1]
    assert set(found) == {people[:16]}


@pytest.mark.parametrize("how", ["removed", "damaged"])
async def test_a_log_that_cannot_be_read_is_a_failing_disk(rig, how):
    await rig.ask("put", People(1).put(), ["a"])
    rig.clock.now_s += DAY_S
    await rig.ask("put", People(1).put(), ["a"])
    path = min((rig.path("a") / "log").glob("*-*.log"))
    data = path.read_bytes()
    path.unlink()
    if how == "damaged":
        path.write_bytes(data.replace(b'"op":"put"', b'"op":"log"'))
    for op, about in (("log", {"start": 0, "count": 9}), ("audit", {"subject": bytes(16), "since_s": 0, "start": 0})):
        with pytest.raises(StorageError):
            await read(rig, op, **about)


async def test_a_log_that_was_removed_under_a_running_keeper_answers_nothing_more(rig):
    """What is written to a file without a name is gone with the process."""
    people = People(1)
    for path in (rig.path("a") / "log").glob("*-*.log"):
        path.unlink()
    for _ in range(2):
        with pytest.raises(StorageError):
            await rig.ask("open", people.open(bytes(20)), ["a"])
    with pytest.raises(StorageError):
        await rig.ask("state", plain("state"), ["a"])
