"""Why a row does not open is told to the log alone: one answer, byte for byte, and no time that tells causes apart."""

import asyncio
import itertools
import os
import random
import ssl
import time

import numpy as np
import pytest
from keeper_rig import DAY_S, NAME_CLASS, People
from scipy import stats

from anwen.crypto.grants import claimed_issuer
from anwen.net import tls
from anwen.net.server import serve

TIMINGS = int(os.environ.get("ANWEN_TIMINGS", "50000"))
"""For each cause: two causes make a pair of 100,000."""

CAUSES = ("deleted", "erased", "expired", "restricted")


@pytest.fixture
async def door(rig, tmp_path):
    """A keeper's listener, and what connects to it."""
    key, certificate = tls.make_certificate("keeper")
    (tmp_path / "t.key").touch(mode=0o600)
    (tmp_path / "t.key").write_bytes(key)
    (tmp_path / "t.crt").write_bytes(certificate)

    async def handle(path, authorization, body):
        return await rig.keepers["a"].handle(path.removeprefix("/v1/"), authorization.removeprefix("Anwen "), body)

    server = await serve(
        handle, "127.0.0.1:0", tls.server_context(tmp_path / "t.crt", tmp_path / "t.key"), whose=claimed_issuer
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, port = server.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)

    async def ask(op, body, **kw):
        """Whole answer and the seconds that it took."""
        head = f"POST /v1/{op} HTTP/1.1\r\nAuthorization: Anwen {rig.grant(body, 'a', **kw)}\r\n"
        sent = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        begun = time.perf_counter_ns()
        writer.write(sent)
        answer = await reader.readuntil(b"\r\n\r\n")
        took_ns = time.perf_counter_ns() - begun
        (length,) = [line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return answer + await reader.readexactly(int(length.partition(b":")[2])), took_ns

    yield ask
    writer.close()
    await server.aclose(0.1)


@pytest.fixture
async def refused(rig):
    """One person for each cause."""
    people = {cause: People(1, classes=(NAME_CLASS,)) for cause in CAUSES}
    await rig.ask("delete", people["deleted"].delete())
    rig.append_about("erase", people["erased"])
    rig.append_about("restrict", people["restricted"], purpose="work")
    people["expired"].collected_s -= 366 * DAY_S
    await rig.settle()
    return people


async def test_the_whole_answer_is_the_same_for_every_cause(door, refused):
    answers = {cause: (await door("open", people.open(bytes(20))))[0] for cause, people in refused.items()}
    assert len(set(answers.values())) == 1, answers
    (answer,) = set(answers.values())
    assert answer.startswith(b"HTTP/1.1 403 ")
    opened, _ = await door("open", People(1, classes=(NAME_CLASS,)).open(bytes(20)))
    assert opened.startswith(b"HTTP/1.1 200 ")


async def timings(door, bodies, count):
    """Nanoseconds of `count` answers for each cause, in an order of chance."""
    taken = {cause: [] for cause in bodies}
    order = list(bodies) * count
    random.shuffle(order)
    for cause in order:
        taken[cause].append((await door("open", bodies[cause](bytes(20))))[1])
    return {cause: np.array(values, float) for cause, values in taken.items()}


def welch(taken):
    """|t| of each pair, without the slowest twentieth of all, in which the machine's other work is."""
    slow = np.quantile(np.concatenate(list(taken.values())), 0.95)
    kept = {cause: values[values < slow] for cause, values in taken.items()}
    pairs = itertools.combinations(kept, 2)
    return {(a, b): abs(float(stats.ttest_ind(kept[a], kept[b], equal_var=False).statistic)) for a, b in pairs}


@pytest.mark.deep
async def test_no_pair_of_causes_is_told_apart_by_the_time_of_the_answer(door, refused, say):
    taken = await timings(door, {cause: people.open for cause, people in refused.items()}, TIMINGS)
    found = welch(taken)
    more = People(256, classes=(NAME_CLASS,))
    more.subject = np.vstack([refused["erased"].subject, more.subject[1:]])
    control = await timings(door, {"one row": refused["erased"].open, "256 rows": more.open}, TIMINGS // 10)
    (seen,) = welch(control).values()
    say(f"{TIMINGS} each: " + ", ".join(f"{cause} {np.median(values) / 1e3:.1f} us" for cause, values in taken.items()))
    say("Welch's |t|: " + ", ".join(f"{a} and {b} {t:.2f}" for (a, b), t in found.items()))
    say(f"a tenth as many, one row against 256: |t| {seen:.1f}")
    assert max(found.values()) < 4.5
    assert seen > 4.5, "the test has to be able to tell a difference"
