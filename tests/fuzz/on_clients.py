"""Targets: a client whose answers were changed by one keeper, or by its node: an error, or the right answer.

Keepers and node are real; what lies changes the true answer on its way, and a keeper signs it anew with its own key.
"""

import dataclasses
import functools
import json

import numpy as np
from feed import NUMBERS, Feed, edited, edited_json, json_text, patched
from laws import law, within
from rigs import Vault, renewing, run

from anwen.client import audit, inspecting
from anwen.client.session import Session, Timing
from anwen.client.vault import AsyncVault
from anwen.errors import BY_CODE, AnwenError, UnavailableError, from_code
from anwen.formats import answer, problem, wire

CLASSES = ["name", "contact", "name.masked"]
PATIENT = Timing(deadline_s=20.0, request_s=20.0, grace_s=2.0, least_s=2.0, most_s=2.0)
"""For honest rounds, and for those in which one keeper lies: whoever is late is not looked at."""

HASTY = Timing(deadline_s=0.2, request_s=0.2, grace_s=0.1, least_s=0.1, most_s=0.1)
"""What a node refuses is asked again until the deadline."""


class _Clients:
    """A vault with three persons and a visit in it, and how clients reach it."""

    def __init__(self):
        self.vault = Vault()
        self.count = 0
        self.rows = [
            {"name": f"Person {c * 3}", "phone": f"+861380013800{i}", "city": "1 Chang'an Road"}
            for i, c in enumerate("ABC")
        ]
        run(self._fill())

    async def _fill(self):
        client = self.client(self.vault)
        put = await client.put_many("person", self.rows)
        self.ids = [p.record for p in put]
        law(all(p.error is None for p in put), "the rig does not work")
        changed = self.rows[2] | {"city": "2 Chang'an Road"}
        [third] = await client.get([self.ids[2]])
        await client.update(third, "contact", {k: changed[k] for k in ("phone", "city")})
        await client.put("visit", {"subject": put[0].subject, "note": "first"})
        self.versions = [[row] for row in self.rows]
        self.versions[2].append(changed)
        self.subjects = [p.subject for p in put]

    def client(self, transport, timing=PATIENT):
        """A new client, as one process would have it."""
        key = self.vault.rig.keys["alice"]
        session = Session(self.vault.policy, "alice", key, transport, clock=self.vault.rig.clock, timing=timing)
        return AsyncVault(session, "work")

    def fresh(self):
        """A person that nobody wrote yet."""
        self.count += 1
        n = self.count
        return {"name": "Person New", "phone": f"+86139{n:08}", "city": f"{n} New Road"}

    @property
    def full(self):
        return self.vault.full

    def discard(self):
        self.vault.discard()


_clients = renewing(_Clients)


class Lying:
    """A transport on which a keeper or node lies, as a feed says."""

    def __init__(self, at, who, feed):
        self.at, self.who, self.feed, self.calls = at, who, feed, 0

    async def call(self, recipient, op, grant, body, timeout_s):
        answered = await self.at.vault.call(recipient, op, grant, body, timeout_s)
        self.calls += 1
        if recipient != self.who or not self.feed:
            return answered
        return self.lie(recipient, op, answered)

    def lie(self, recipient, op, answered):
        """What comes in place of an answer."""
        kind, feed = self.feed.below(8), self.feed
        if kind == 0:
            return answered
        if kind == 1:
            raise _error(feed)
        if kind == 2:
            return patched(answered, feed, 3)
        if recipient.startswith("node/"):
            return self.edited_message(op, answered)
        return self.signed_anew(recipient.removeprefix("keeper/"), answered, kind)

    def edited_message(self, op, answered):
        try:
            message = wire.decode(answered, "outcomes", "rows", "store_state")
            return edited(message, self.feed)
        except AnwenError:
            return answered

    def signed_anew(self, keeper, answered, kind):
        feed, true = self.feed, answer.decode_answer(answered)
        components = true.components.copy()
        if kind in (3, 4):
            for _ in range(1 + feed.below(3)):
                if components.size:
                    components.reshape(-1)[feed.below(components.size)] ^= 1 + feed.below(255)
        if kind == 5:
            components = components[: feed.below(4), : feed.below(4)]
        changes = {"components": answer.column_hashes(components), "rows": components.shape[1]}
        changes["columns"] = components.shape[0]
        if kind in (6, 7):
            names = [f.name for f in dataclasses.fields(answer.Header)]
            name, value = feed.choose(names), getattr(true.header, feed.choose(names))
            old = getattr(true.header, name)
            if isinstance(old, int):
                value = feed.choose(NUMBERS)
            elif type(value) is not type(old):
                value = patched(old, feed, 2)[: len(old)].ljust(len(old), b"\0") if isinstance(old, bytes) else "x"
            changes[name] = value
        try:
            header = dataclasses.replace(true.header, **changes)
            if kind == 7:
                shape = (header.columns, header.rows, 32)
                components = np.zeros(shape, np.uint8) if np.prod(shape, dtype=float) < 2**16 else components
            return answer.encode_answer(header, self.at.vault.identities[keeper], true.nonce_base, components)
        except AnwenError:
            return answered

    async def close(self):
        """The vault goes on."""


def _error(feed):
    """Any refusal that a peer may answer."""
    error = from_code(feed.choose(sorted(BY_CODE)), "said by a liar", feed.choose((None, None, 0.0, 0.01)))
    return problem.decode(error.http_status, problem.encode(error))


# --- what a client does, and whether what it got is right --------------------------------------------------------


async def _find(at, client, exact, feed):
    i = feed.below(3)
    found = await client.find("person", CLASSES, phone=at.rows[i]["phone"])
    law({r.id for r in found} <= {at.ids[i]} and (found or not exact), "found other records than hold the value")
    await _opened(at, client, found)


async def _find_many(at, client, exact, feed):
    cities = [at.rows[0]["city"], "nowhere", "2 Chang'an Road"]
    found = await client.find_many("person", "city", cities, CLASSES)
    for got, wanted in zip(found, [{0, 1}, set(), {2}], strict=True):
        ids = {r.id for r in got}
        law(ids <= {at.ids[i] for i in wanted} | ({at.ids[2]} if wanted else set()), "found another person")
        law(not exact or {at.ids[i] for i in wanted} <= ids, "hid a person")
    await _opened(at, client, [r for part in found for r in part])


async def _get(at, client, exact, feed):
    got = await client.get(at.ids)
    law(len(got) == 3 and (all(got) or not exact), "a record is hidden")
    for wanted, record in zip(at.ids, got, strict=True):
        law(record is None or record.id == wanted, "another record than was asked for")
    await _opened(at, client, [r for r in got if r])


async def _list(at, client, exact, feed):
    i = feed.below(3)
    before = client.session.transport.calls
    got = await client.list_subject(at.subjects[i], "person", ["name"])
    law({r.id for r in got} <= {at.ids[i]} or not exact, "records of another subject")
    law(len(got) <= 1 or not exact, "surplus records")
    law(client.session.transport.calls - before <= 12, "a node keeps a client asking")


async def _scan(at, client, exact, feed):
    seen = 0
    async for record in client.scan("person", ["name"], page=4):
        law(record.collection == "person", "a record of another collection")
        seen += 1
        law(seen < 100_000, "a node keeps a client asking")
    law(seen >= 3 or not exact, "a scan hides records")


async def _put(at, client, exact, feed):
    row = at.fresh()
    put = await client.put("person", row)
    if not exact:
        again = dict(at.fresh(), city=row["city"])
        client.session.transport = at.vault  # the lie is over; what was learnt from it stays
        await client.put("person", again)
        row = again
    honest = at.client(at.vault)
    found = await honest.find("person", CLASSES, city=row["city"])
    law(put.record in [r.id for r in found] or not exact, "what was stored is not found")
    opened = await honest.open(found, CLASSES[:2])
    law(row in opened, "what was stored does not open to what was written")


async def _visit(at, client, exact, feed):
    put = await client.put("visit", {"person.phone": at.rows[1]["phone"], "note": "by reference"})
    law(put.subject == at.subjects[1], "a visit of another person")


async def _update(at, client, exact, feed):
    row = at.fresh()
    honest = at.client(at.vault)
    put = await honest.put("person", row)
    [record] = await client.get([put.record])
    if record is None:
        return
    changed = {"phone": at.fresh()["phone"], "city": row["city"]}
    await client.update(record, "contact", changed)
    [again] = await honest.get([put.record])
    opened = await honest.open([again], ["contact"])
    law(opened in ([changed], [{k: row[k] for k in changed}]), "an update left something else")


async def _delete(at, client, exact, feed):
    honest = at.client(at.vault)
    put = await honest.put("person", at.fresh())
    [record] = await client.get([put.record])
    if record is not None:
        await client.delete([record])
        law(await honest.get([put.record]) == [None] or not exact, "a deleted record is still there")


async def _opened(at, client, records):
    """Open records: each gives values that its person has or had, or an error."""
    known = {i: n for n, i in enumerate(at.ids)}
    for record, values in zip(records, await client.open_each(records, CLASSES[:2]), strict=True):
        if isinstance(values, AnwenError):
            continue
        law(record.id in known, "a record that was never written opens")
        parts = [{k: row[k] for k in row if k in values} for row in at.versions[known[record.id]]]
        law(values in parts, "opened to values that its person never had")


READING = (_find, _find_many, _get, _list, _scan)
DOING = (_find, _find_many, _get, _list, _scan, _put, _visit, _update, _delete)


async def _does(at, client, what, exact, feed):
    try:
        await what(at, client, exact, feed)
    finally:
        await client.close()


def lying_keeper(data):
    """One keeper that lies about anything: reads go on with the right answer, and no write is lost."""
    feed, at = Feed(data), _clients()
    what, keeper = feed.choose(DOING), feed.choose("abc")
    at.vault.rig.clock.now_s += 1
    liar = Lying(at, f"keeper/{keeper}", feed)
    with within(20):
        try:
            run(_does(at, at.client(liar), what, True, feed))
        except AnwenError as error:
            law(what not in READING, f"a liar stops a reading: {error.code}: {error}")


def lying_node(data):
    """A node that lies: an error, or records that are what was asked for."""
    feed, at = Feed(data), _clients()
    what = feed.choose(DOING)
    at.vault.rig.clock.now_s += 1
    client = at.client(Lying(at, "node/a", feed), HASTY)
    with within():
        try:
            run(_does(at, client, what, False, feed))
        except AnwenError:
            return


# --- logs ------------------------------------------------------------------------------------------------------------


@functools.cache
def _recorded():
    """True answers about logs, as the keepers of a small vault gave them."""
    at = _Clients()
    kept = {}

    class Recording(Lying):
        async def call(self, recipient, op, grant, body, timeout_s):
            answered = await at.vault.call(recipient, op, grant, body, timeout_s)
            if op in {"audit", "log", "node_state"}:
                kept.setdefault((recipient, op), wire.decode(answered, "entries", "store_state"))
            return answered

    async def ask():
        for keeper in at.vault.rig.keepers.values():
            await keeper.cosign_now()
        client = at.client(Recording(at, "", Feed(b"")))
        law(await audit.who_has_seen(client.session, "work", at.subjects[0]), "nobody has seen")
        law(all(not v.problem for v in await audit.verify(client.session, "work")), "the rig does not work")
        await inspecting.store_state(client.session, "work", "a")

    run(ask())
    return at, kept


class Telling:
    """A transport that answers about logs what it has recorded, changed as a feed says."""

    def __init__(self, at, kept, feed):
        self.at, self.kept, self.feed, self.calls = at, kept, feed, 0

    async def call(self, recipient, op, grant, body, timeout_s):
        if op == "state":
            return await self.at.vault.call(recipient, op, grant, body, timeout_s)
        message = self.kept.get((recipient, op))
        if message is None or self.calls > 40:
            raise UnavailableError("not recorded")
        self.calls += 1
        feed, blobs = self.feed, dict(message.blobs)
        if feed and feed.below(2) and blobs.get("entries"):
            at = feed.below(len(blobs["entries"]))
            entry = json.loads(blobs["entries"][at])
            changed = json_text(edited_json(entry, feed, 2), feed).encode("utf-8", "surrogatepass")
            blobs["entries"] = [*blobs["entries"][:at], changed, *blobs["entries"][at + 1 :]]
        changed = dataclasses.replace(message, blobs=blobs)
        try:
            return edited(changed, feed, 2)
        except AnwenError:
            return message.body

    async def close(self):
        """Nothing is open."""


def log_answers(data):
    """Keepers' answers about their logs, and a node's about its store."""
    feed = Feed(data)
    at, kept = _recorded()
    what = feed.below(5)
    client = at.client(Telling(at, kept, feed), HASTY)
    session = client.session

    async def ask():
        if what == 0:
            for seen in await audit.who_has_seen(session, "work", at.subjects[0]):
                law(isinstance(seen.time_ms, int) and isinstance(seen.principal, str), "a line of an audit")
        elif what == 1:
            law(len(await audit.verify(session, "work")) == 3, "one verdict for each keeper")
        elif what == 2:
            await inspecting.log_state(session, "work", "a")
        elif what == 3:
            await inspecting.store_state(session, "work", "a")
        else:
            async for page in audit.pages(session, "work", "a"):
                law(all(isinstance(entry, bytes) for entry in page.entries), "an entry")

    with within():
        try:
            run(ask())
        except AnwenError:
            return


TARGETS = {f.__name__: f for f in (lying_keeper, lying_node, log_answers)}
