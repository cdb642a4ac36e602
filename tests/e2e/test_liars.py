"""A keeper that lies, is silent or slow: reads go on, a disputed write is refused, and no honest keeper is accused.

The liar is the real keeper, its answers changed on the way and signed anew with its own key, as it would itself.
"""

import asyncio
import dataclasses
import itertools
import sqlite3

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from anwen.client.session import Timing
from anwen.errors import DisputeError, IntegrityError, UnavailableError
from anwen.formats.answer import column_hashes, decode_answer, encode_answer

from .conftest import person

NUMBERS = itertools.count(50_000, 100)


class Liar:
    """Between a client and the keepers: changes what one keeper answers to some operations."""

    def __init__(
        self,
        vault,
        inner,
        keeper,
        ops,
        columns=(0, 1),
        *,
        silent=False,
        slow_s=0.0,
        once=False,
        forged=False,
        short=False,
    ):
        secret = (vault.path / "keepers" / keeper / "identity.key").read_bytes()
        self.key, self.inner, self.keeper, self.ops = Ed25519PrivateKey.from_private_bytes(secret), inner, keeper, ops
        if forged:
            self.key = Ed25519PrivateKey.generate()
        self.short = short
        self.columns, self.silent, self.slow_s, self.once, self.told = columns, silent, slow_s, once, 0

    async def call(self, recipient, op, grant, body, timeout_s):
        lie = recipient == f"keeper/{self.keeper}" and op in self.ops and not (self.once and self.told)
        if lie and self.silent:
            raise UnavailableError("no answer")
        answer = await self.inner.call(recipient, op, grant, body, timeout_s)
        if not lie:
            return answer
        self.told += 1
        await asyncio.sleep(self.slow_s)
        true = decode_answer(answer)
        components = true.components.copy()
        components[list(self.columns)] ^= 1
        if self.short:
            components = components[:, 1:]
        header = dataclasses.replace(true.header, components=column_hashes(components), rows=components.shape[1])
        return encode_answer(header, self.key, true.nonce_base, components)

    async def close(self):
        await self.inner.close()


@pytest.fixture
def lying(vault, connect):
    def make(key, purpose, *args, timing=None, **kw):
        # patient: on a busy machine a keeper may be late, and whoever is not asked is not caught
        client = connect(key, purpose, timing=timing or Timing(grace_s=5.0, least_s=5.0, most_s=5.0))
        client.session.transport = Liar(vault, client.session.transport, *args, **kw)
        return client

    return make


@pytest.fixture
def people(connect):
    rows = [person(next(NUMBERS) + i) for i in range(12)]
    connect("importer", "intake").put_many("person", rows)
    return rows


@pytest.mark.parametrize("keeper", ["a", "b", "c"])
@pytest.mark.parametrize("columns", [(0,), (1,), (0, 1)])
def test_reads_go_on_with_a_liar_who_alone_is_named(lying, people, keeper, columns):
    clerk = lying("case_worker", "casework", keeper, {"open"}, columns)
    found = [r for p in people for r in clerk.find("person", phone=p["phone"])]
    opened = clerk.open(found, ["identity"])
    assert [v["id_number"] for v in opened] == [p["id_number"] for p in people]
    assert clerk.session.reports
    assert {r.suspects for r in clerk.session.reports} == {(keeper,)}


@pytest.mark.parametrize("keeper", ["a", "b", "c"])
def test_a_liar_in_a_search_hides_nobody(lying, people, keeper):
    clerk = lying("case_worker", "casework", keeper, {"index"})
    assert [len(clerk.find("person", phone=p["phone"])) for p in people] == [1] * 12
    assert {r.suspects for r in clerk.session.reports} == {(keeper,)}


@pytest.mark.parametrize("columns", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("keeper", ["a", "b", "c"])
def test_a_disputed_write_is_refused_with_both_signed_headers_and_stores_nothing(lying, connect, keeper, columns):
    row = person(next(NUMBERS))
    importer = lying("importer", "intake", keeper, {"put"}, columns)
    with pytest.raises(DisputeError) as refused:
        importer.put("person", row)
    assert len(refused.value.evidence) == 3
    assert keeper in importer.session.reports[0].suspects
    if columns == (0, 1):
        assert importer.session.reports[0].suspects == (keeper,)
    assert connect("case_worker", "casework").find("person", phone=row["phone"]) == []


@pytest.mark.parametrize("keeper", ["a", "b", "c"])
@pytest.mark.parametrize("how", ["forged", "short"])
def test_an_answer_without_a_signature_or_of_another_size_stops_no_reading(lying, people, keeper, how):
    clerk = lying("case_worker", "casework", keeper, {"open", "index"}, **{how: True})
    found = [r for p in people for r in clerk.find("person", phone=p["phone"])]
    opened = clerk.open(found, ["identity"])
    assert [v["id_number"] for v in opened] == [p["id_number"] for p in people]
    assert {r.suspects for r in clerk.session.reports} <= {(keeper,)}
    assert how == "short" or clerk.session.reports


@pytest.mark.parametrize("columns", [(0,), (0, 1)])
def test_a_wrong_token_key_hides_nobody_and_nothing_is_written_under_it(lying, connect, people, columns):
    clerk = lying("case_worker", "casework", "b", {"prehash"}, columns)
    assert len(clerk.find("person", phone=people[0]["phone"])) == 1
    row, importer = person(next(NUMBERS)), lying("importer", "intake", "b", {"prehash"}, columns)
    if columns == (0,):  # whose lie it is cannot be told
        with pytest.raises(IntegrityError):
            importer.put("person", row)
    else:
        importer.put("person", row)
    assert len(connect("case_worker", "casework").find("person", phone=row["phone"])) == len(columns) - 1


@pytest.mark.parametrize("keeper", ["a", "b", "c"])
def test_a_silent_keeper_is_done_without(lying, people, keeper):
    clerk = lying("case_worker", "casework", keeper, {"open", "index"}, silent=True)
    found = [r for p in people for r in clerk.find("person", phone=p["phone"])]
    assert len(clerk.open(found, ["identity"])) == 12
    assert clerk.session.reports == []


def test_a_slow_keeper_is_not_waited_for(lying, people):
    timing = Timing()
    clerk = lying("case_worker", "casework", "a", {"open"}, (), slow_s=20.0, timing=timing)
    found = [r for p in people for r in clerk.find("person", phone=p["phone"])]

    async def within():
        async with asyncio.timeout(10):
            return await clerk.asynchronous.open(found, ["identity"])

    assert len(clerk._loop.run(within())) == 12


def test_a_report_without_the_keepers_signature_is_not_believed(connect):
    from anwen.client.quorum import Report
    from anwen.errors import ProofError
    from anwen.formats.answer import RECEIPT_BYTES, Header

    clerk = connect("case_worker", "casework")
    header = Header(clerk.policy.vault, "a", "open", *[bytes(32)] * 4, 1, 1, 1, 0, 0, 0, 0, 0)
    forged = header.encode().ljust(RECEIPT_BYTES, b"\0")
    with pytest.raises(ProofError):
        clerk.session.report(Report(("a",), "framed", (forged,)))
    assert clerk.session.reports == []


def test_a_write_with_one_keeper_down_is_marked_unverified(lying, vault):
    importer = lying("importer", "intake", "c", {"put"}, silent=True)
    put = importer.put("person", person(next(NUMBERS)))
    with sqlite3.connect(f"file:{vault.path}/store/anwen.sqlite?mode=ro", uri=True) as db:
        marks = db.execute("SELECT verified FROM row WHERE record = ?", (bytes.fromhex(put.record),)).fetchall()
    assert marks == [(0,)]
