"""Floods from one place, in a stolen name, or of strangers: whoever comes from elsewhere, or has a grant, is served."""

import asyncio

import pytest
from door_rig import ECHO, HEALTHZ, WITHIN_S, dial, post, raw, until
from hypothesis import given
from hypothesis import strategies as st

from anwen.errors import ClockError, GrantError, OverloadedError, TooLargeError, UnavailableError
from anwen.net.exchange import REFUSAL, State
from anwen.net.room import Room
from anwen.net.server import SHED

ELSEWHERE = ["127.0.0.2", "127.0.0.3"]
HELD = post("/v1/held", "Anwen g", 1, b"x")


@pytest.fixture
async def crowd():
    """Opens connections, and closes them."""
    writers = []

    async def make(service, count, sent, address=ELSEWHERE[0], answer=b""):
        for _ in range(count):
            reader, writer = await dial(service, address, sent)
            writers.append(writer)
            if answer:
                await reader.readuntil(answer)
        return writers[-count:]

    yield make
    for writer in writers:
        writer.transport.abort()
    await asyncio.sleep(0)


def grants(*good):
    def admit(authorization):
        if authorization.removeprefix("Anwen ") not in good:
            raise GrantError("said to the log alone")

    return admit


# --- bodies ------------------------------------------------------------------------------------------------------------


async def test_what_is_announced_takes_no_room(start, pools, crowd):
    service = await start()
    await crowd(service, 8, post("/v1/echo", "Anwen x", 64 * 2**20, b"x"))
    await until(lambda: service.held.taken == 8)
    assert await pools(service).post("/v1/echo", "Anwen g", bytes(2**20), WITHIN_S) == bytes(2**20)
    assert service.held.taken == 8


async def test_an_address_holds_no_more_bytes_than_it_leaves(start, pools, crowd):
    service = await start(held_bytes=100_000)
    await crowd(service, 30, post("/v1/echo", "Anwen x", 9_000, bytes(8_000)))
    await until(lambda: len(service.connections) == 7)  # all others were refused
    assert service.held.taken == 56_000  # with 48,000 held 52,000 are left, with 56,000 only 44,000
    assert await pools(service).post("/v1/echo", "Anwen g", bytes(20_000), WITHIN_S) == bytes(20_000)


async def test_bytes_that_find_no_room_are_told_so_and_given_back(start, pools, crowd):
    service = await start(held_bytes=10_000)
    (writer,) = await crowd(service, 1, post("/v1/echo", "Anwen x", 9_000, bytes(8_000)))
    await until(lambda: service.held.taken == 8_000)
    with pytest.raises(OverloadedError):
        await pools(service).post("/v1/echo", "Anwen g", bytes(3_000), WITHIN_S)
    writer.transport.abort()
    await until(lambda: service.held.taken == 0)
    assert await pools(service).post("/v1/echo", "Anwen g", bytes(3_000), WITHIN_S)


@pytest.mark.parametrize("end", [lambda w: w.transport.abort(), lambda w: w.write(b"one more")], ids=["cut", "refused"])
async def test_a_body_counts_for_as_long_as_it_is_handled_though_its_connection_is_gone(start, crowd, gate, end):
    service = await start()
    (writer,) = await crowd(service, 1, post("/v1/held", "Anwen x", 8_000, bytes(8_000)))
    await until(lambda: service.running)
    end(writer)
    await until(lambda: not service.connections)
    assert (service.held.taken, service.requests.taken) == (8_000, 1)
    gate.set()
    await until(lambda: not service.running)
    assert (service.held.taken, service.requests.taken) == (0, 0)


async def test_a_body_that_comes_in_parts_is_read_for_a_good_grant_alone(start, crowd):
    service = await start(admit=grants("good"))
    assert await raw(service, post("/v1/echo", "Anwen bad", 1_000_000, b"x")) == REFUSAL  # and nothing else was sent
    reader, writer = await dial(service, sent=post("/v1/echo", "Anwen good", 3, b"a"))
    await until(lambda: service.held.taken == 1)
    writer.write(b"bc")
    assert (await reader.readuntil(b"abc")).startswith(b"HTTP/1.1 200 OK\r\n")
    writer.close()


async def test_where_grants_cannot_be_told_without_the_body_who_sends_half_of_one_stays_a_stranger(start, crowd):
    service = await start(admit=None)
    await crowd(service, 1, post("/v1/echo", "Anwen x", 3, b"a"))
    await until(lambda: service.held.taken == 1)
    assert service.strangers.keys() == service.connections


async def test_why_a_principal_is_not_admitted_is_told(start):
    def admit(_authorization):
        raise ClockError("its clock is 40 s from its peers'")

    service = await start(admit=admit)
    assert b'"code":"clock"' in await raw(service, post("/v1/echo", "Anwen good", 1_000_000, b"x"))


async def test_bodies_without_a_grant_take_nothing_from_those_with_one(start, pools, crowd):
    service = await start(held_bytes=100_000, held_bytes_without_grant=10_000)
    head = b"POST /v1/who HTTP/1.1\r\nContent-Length: 2000\r\n\r\n"
    for address in ELSEWHERE:
        await crowd(service, 20, head + bytes(1_900), address)
    await until(lambda: service.held_without_grant.taken > 5_000)
    assert service.held.taken == 0
    assert await pools(service).post("/v1/echo", "Anwen g", bytes(40_000), WITHIN_S) == bytes(40_000)


# --- connections -------------------------------------------------------------------------------------------------------


def closes_in_s(service):
    """How long the one connection may idle."""
    (connection,) = service.connections
    return connection.deadline - asyncio.get_running_loop().time()


async def test_a_stranger_idles_for_seconds_and_whoever_showed_a_grant_for_minutes(start, crowd):
    service = await start()
    for sent, answer in ((HEALTHZ, b"ok\n"), (b"POST /v1/who HTTP/1.1\r\nContent-Length: 0\r\n\r\n", b"nobody")):
        (writer,) = await crowd(service, 1, sent, answer=answer)
        assert closes_in_s(service) <= service.limits.head_timeout_s == 10
        writer.transport.abort()
        await until(lambda: not service.connections)
    await crowd(service, 1, ECHO, answer=b"hello")
    assert closes_in_s(service) > 200


async def test_who_is_asked_for_its_health_and_answers_is_not_closed_in_between(start):
    service = await start()
    reader, writer = await dial(service)
    deadlines = []
    for _ in range(4):
        writer.write(HEALTHZ)
        assert (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        deadlines.append(next(iter(service.connections)).deadline)
    assert deadlines == sorted(set(deadlines))
    writer.close()


@pytest.mark.parametrize(
    "sent", [b"", HEALTHZ, b"POST /v1/echo HTTP/1.1\r\nA"], ids=["nothing", "healthz", "half a head"]
)
@pytest.mark.parametrize("limits", [{"connections": 20}, {"connections": 20, "connections_per_address": 10}])
async def test_of_a_full_service_the_oldest_stranger_makes_room(start, pools, crowd, sent, limits):
    service = await start(**limits, head_timeout_s=60)
    known = pools(service, limit=1)
    await known.post("/v1/echo", "Anwen g", b"", WITHIN_S)
    first, *_ = await crowd(service, 40, sent, ELSEWHERE[0])
    await crowd(service, 40, sent, ELSEWHERE[1])
    await until(lambda: len(service.connections) <= 20)
    assert len(service.connections) == 20
    await until(first.transport.is_closing)
    assert await pools(service).post("/v1/echo", "Anwen g", b"new", WITHIN_S) == b"new"
    assert len([c for c in service.connections if c not in service.strangers]) == 2
    assert await known.post("/v1/echo", "Anwen g", b"still there", WITHIN_S) == b"still there"
    assert sum(service.per_address.values()) == len(service.connections) == 20


async def test_an_address_makes_room_for_its_own_alone(start, crowd):
    service = await start(connections=20, connections_per_address=5, head_timeout_s=60)
    await crowd(service, 5, b"", ELSEWHERE[0])
    mine = set(service.connections)
    await crowd(service, 50, b"", ELSEWHERE[1])
    await until(lambda: service.per_address[ELSEWHERE[1]] == 5)
    assert mine <= service.connections


@pytest.mark.parametrize("limit", [{"connections": 3}, {"connections_per_address": 3}])
async def test_who_showed_a_grant_or_is_being_served_makes_no_room(start, pools, crowd, gate, limit):
    service = await start(**limit)
    await crowd(service, 2, ECHO, "127.0.0.1", answer=b"hello")
    reader, writer = await dial(service, sent=HELD)
    await until(lambda: service.running)
    with pytest.raises(UnavailableError):
        await pools(service).post("/v1/echo", "Anwen g", b"", WITHIN_S)
    gate.set()
    assert (await reader.readuntil(b"held")).startswith(b"HTTP/1.1 200 OK\r\n")
    writer.transport.abort()
    await until(lambda: len(service.connections) == 2)
    assert await pools(service).post("/v1/echo", "Anwen g", b"x", WITHIN_S) == b"x"


# --- requests ----------------------------------------------------------------------------------------------------------


async def test_a_flood_in_somebodys_name_takes_nothing_of_his_room(start, pools, crowd, gate):
    service = await start(requests=16)
    await crowd(service, 16, post("/v1/held", "Anwen victim", 1, b"x"))
    await until(lambda: len(service.running) == 5)
    pool = pools(service)
    his = [asyncio.create_task(pool.post("/v1/held", "Anwen victim", b"", WITHIN_S)) for _ in range(3)]
    await until(lambda: len(service.running) == 8)
    gate.set()
    assert await asyncio.gather(*his) == [b"held"] * 3


async def test_a_flood_in_many_names_leaves_room_for_other_addresses(start, pools, crowd):
    service = await start(requests=16)
    for n in range(32):
        await crowd(service, 1, post("/v1/held", f"Anwen name{n}", 1, b"x"))
    await until(lambda: len(service.running) == 9)
    assert await pools(service).post("/v1/echo", "Anwen g", b"x", WITHIN_S) == b"x"


FLOOD = st.lists(st.tuples(st.sampled_from("AB"), st.sampled_from("xyz")), max_size=300)


@given(st.integers(4, 256), FLOOD)
def test_room_is_left_for_another_place_and_another_name(size, flood):
    room = Room(size)
    held = [owner for owner in flood if room.take(owner)]
    assert room.taken == len(held) <= size
    alone = Room(size)
    mine = sum(alone.take(("A", "x")) for _ in range(size))
    assert mine <= size // 4 + 2
    assert alone.take(("A", "y"))
    many = Room(size)
    theirs = sum(many.take(("A", str(n))) for n in range(size))
    assert theirs <= size // 2 + 1
    assert many.take(("B", "x"))
    for owner in held:
        room.give_back(owner)
    assert room.taken == 0
    assert room.take(("A", "x"))


# --- what is turned away, counted ---------------------------------------------------------------------------------------


async def test_every_reason_of_the_door_is_counted_and_told_with_when_to_come_again(start, crowd, gate):
    """`code="overloaded"` of `anwen_requests_total` has nothing of these: no handler saw them."""
    said, shed = [], {}

    async def turned_away(service, sent, reason):
        before = service.shed[reason]
        said.append(await raw(service, sent.replace(b"Content-L", b"Connection: close\r\nContent-L")))
        assert service.shed[reason] == before + 1
        shed[reason] = True

    small = await start(held_bytes=10_000, requests=1)
    await turned_away(small, post("/v1/echo", "Anwen g", 11_000, bytes(11_000)), "body")
    await turned_away(small, post("/v1/large", "Anwen g", 5, b"11000"), "answer")
    await crowd(small, 1, HELD)
    await until(lambda: small.requests.taken == 1)
    await turned_away(small, ECHO, "requests")
    gate.set()
    await turned_away(await start(wait_s=-1), ECHO, "late")
    full = await start(connections=1)
    await crowd(full, 1, HEALTHZ, answer=b"ok\n")
    await raw(full, HEALTHZ.replace(b"1.1\r\n", b"1.1\r\nConnection: close\r\n"))  # the stranger made room
    assert full.shed["connections"] == 1
    assert {*shed, "connections"} == set(SHED)
    assert all(b"\r\nRetry-After: 1\r\n" in answer and b'"code":"overloaded"' in answer for answer in said)


# --- answers -----------------------------------------------------------------------------------------------------------

LARGE = post("/v1/large", "Anwen g", 8, b"20000000")


async def unread(service, address=ELSEWHERE[0]):
    """A connection that asks for 20 MB and reads nothing."""
    _, writer = await dial(service, address)
    writer.transport.pause_reading()
    writer.write(LARGE)
    return writer


def waiting_bytes(service):
    return sum(c.transport.get_write_buffer_size() for c in service.connections)


async def test_answers_that_nobody_reads_are_bounded(start, pools, crowd):
    service = await start(held_bytes=100_000_000)
    writers = [await unread(service) for _ in range(3)]
    await until(lambda: service.held.taken > 60_000_000)
    await crowd(service, 7, LARGE, answer=b"overloaded")  # three: as much as is left, and one more
    assert waiting_bytes(service) <= service.held.taken < 61_000_000
    assert len(await pools(service).post("/v1/large", "Anwen g", b"20000000", WITHIN_S)) == 20_000_000
    for writer in writers:
        writer.transport.abort()
    await until(lambda: service.held.taken == 0)


async def test_who_does_not_read_is_cut(start):
    service = await start(body_timeout_s=0.3)
    writer = await unread(service)
    await until(lambda: waiting_bytes(service) > 0)
    await until(lambda: not service.connections)
    assert service.held.taken == 0
    writer.transport.abort()


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
async def test_who_reads_slowly_has_as_long_as_for_a_body(start, close):
    service = await start()
    reader, writer = await dial(service, sent=LARGE.replace(b"Content-L", close + b"Content-L"))
    head = await reader.readuntil(b"\r\n\r\n")
    (connection,) = service.connections
    assert connection.state is (State.REFUSED if close else State.WRITING)
    assert closes_in_s(service) > 30
    assert len(await reader.readexactly(20_000_000)) == 20_000_000
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    writer.transport.abort()


async def test_a_second_request_on_an_answer_that_is_not_read_closes_at_once(start):
    service = await start()
    writer = await unread(service)
    await until(lambda: waiting_bytes(service) > 0)
    writer.write(ECHO)
    await until(lambda: not service.connections)
    assert service.held.taken == 0
    writer.transport.abort()


async def test_an_answer_longer_than_anybody_takes_is_not_sent(start, pools):
    service = await start(answer_bytes=1000)
    pool = pools(service)
    assert len(await pool.post("/v1/large", "Anwen g", b"1000", WITHIN_S)) == 1000
    with pytest.raises(TooLargeError, match="ask for less"):
        await pool.post("/v1/large", "Anwen g", b"1001", WITHIN_S)
    assert service.held.taken == 0


# --- nothing comes back ------------------------------------------------------------------------------------------------

MARK = b"q9Zx7Mark"


@pytest.mark.parametrize(
    "sent",
    [
        b"%s / HTTP/1.1\r\n\r\n", b"GET /%s HTTP/1.1\r\n\r\n", b"GET /healthz HTTP/1.1\r\nConnection: close\r\nHost: %s\r\n\r\n",
        b"POST /v1/%s HTTP/1.1\r\nContent-Length: 0\r\n\r\n", b"POST /v1/echo HTTP/1.1\r\nAuthorization: %s\r\nContent-Length: 0\r\n\r\n",
        b"POST /v1/unknown HTTP/1.1\r\nAuthorization: Anwen %s\r\nX: %s\r\nContent-Length: 9\r\n\r\n%s",
        b"POST /v1/bug HTTP/1.1\r\nAuthorization: Anwen %s\r\nX: %s\r\nContent-Length: 9\r\n\r\n%s",
        b"POST /v1/echo HTTP/1.1\r\nAuthorization: Anwen g\r\nContent-Length: %s\r\n\r\n", b"%s\r\n\r\n", b"\x1b[31m%s\r\n\r\n",
        b"POST /v1/echo HTTP/1.1\r\nAuthorization: Anwen g\r\nContent-Length: 9999999999\r\nX: %s\r\n\r\n%s",
    ],
)  # fmt: skip
async def test_no_byte_of_a_bad_request_comes_back(start, sent):
    answer = await raw(await start(), sent.replace(b"%s", MARK))
    assert answer
    assert MARK not in answer


async def test_a_connection_cut_in_mid_answer_leaves_nothing_counted(start):
    service = await start()
    for _ in range(3):
        writer = await unread(service)
        await until(lambda: waiting_bytes(service) > 0)
        writer.transport.abort()
        await until(lambda: not service.connections)
    assert (service.held.taken, service.requests.taken, len(service.strangers)) == (0, 0, 0)
    assert not service.per_address
