"""Targets: changed requests to keepers and nodes. What is refused leaves nothing behind but a line in the log."""

import hashlib
import json
import os
import sqlite3

from feed import Feed, edited, patched
from keeper_rig import People
from laws import law, within
from node_rig import NOW_S, Put, Row, deletion, find, get, listing, receipt
from rigs import Vault, renewing, requests_of, run

from anwen.crypto import grants
from anwen.errors import AnwenError, DeniedError, RequestError
from anwen.formats import answer, policy_chain, wire


class _Keeper:
    """Keeper a of a vault, with what it charges and appends written down."""

    def __init__(self):
        self.vault = Vault()
        self.rig, self.keeper = self.vault.rig, self.vault.rig.keepers["a"]
        self.requests = requests_of(self.rig)
        self.said = []
        self._watch(self.keeper.log, "append", lambda day, entry, side, lasting=False: json.loads(entry)["op"])
        self._watch(self.keeper._state.ledger, "reserve", lambda *_: "charge")

    def _watch(self, of, name, describe):
        inner = getattr(of, name)

        def outer(*args, **kw):
            result = inner(*args, **kw)
            self.said.append(describe(*args, **kw))
            return result

        setattr(of, name, outer)

    @property
    def full(self):
        return self.vault.full

    def discard(self):
        self.vault.discard()


_keeper = renewing(_Keeper)


def keeper_request(data):
    """A keeper's request with edits, under a grant that covers it."""
    at, feed = _keeper(), Feed(data)
    op = feed.choose((*at.requests, "policy"))
    claimed = op if feed.below(8) else feed.choose((*at.requests, "none", "policy"))
    who, purpose = feed.choose((("alice", "work"),) * 6 + (("alice", "look"), ("bob", "look"), ("bob", "work")))
    at.said.clear()
    at.rig.clock.now_s += 1
    denied = len(at.keeper._state.denied)
    try:
        body = _policy(at.rig, feed) if op == "policy" else edited(at.requests[op], feed)
    except AnwenError:
        return  # beyond what a message may hold
    token = at.rig.grant(body, "a", who=who, purpose=purpose, jti=os.urandom(16))
    with within():
        try:
            answered = run(at.keeper.handle(claimed, token, body))
        except (RequestError, DeniedError):
            law(at.said in ([], ["refused"]), f"refused, and yet {at.said}")
            law(len(at.keeper._state.denied) == denied, "refused, and yet rows are denied")
            return
    expected = {"state": [], "policy": ["policy"]}.get(claimed, ["charge", claimed])
    law(at.said == expected, f"answered {claimed}, and there were {at.said}")
    if claimed in {"audit", "log"}:
        wire.decode(answered, "entries")
        return
    found = answer.decode_answer(answered)
    header = answer.verify_receipt(found.receipt, at.vault.identities["a"].public_key().public_bytes_raw())
    law((header.op, header.request) == (claimed, hashlib.sha256(body).digest()), "an answer to another request")


def _policy(rig, feed):
    """The next policy, which nobody signed after its edits."""
    signed = rig.sign(rig.next_policy(expires_s=rig.policy.expires_s + 86_400))
    edited_ = patched(signed, feed, 4)
    try:
        same = policy_chain.decode_signed(edited_) == policy_chain.decode_signed(signed)
    except AnwenError:
        same = False
    return signed[:-9] if same else edited_


def keeper_grant(data):
    """Any text as a grant, any path as an operation, with a good body."""
    at, feed = _keeper(), Feed(data)
    op = feed.choose((*at.requests, "policy", "cosign", ""))
    body = at.requests["index"].body
    token = at.rig.grant(body, "a")
    at.said.clear()
    at.rig.clock.now_s += 1
    changed = patched(token.encode(), feed, 3).decode("latin-1")
    with within():
        try:
            run(at.keeper.handle(op, changed, body))
        except (RequestError, DeniedError):
            law(at.said in ([], ["refused"]), f"refused, and yet {at.said}")
            return
    law(op == "index", "another operation than the body's was answered")
    grants.verify(grants.parse(changed), at.keeper._public_keys(at.rig.policy.principals["alice"].public_key))


class _Node:
    """A node over a store in memory, and a look at whether anything was committed to it."""

    def __init__(self):
        self.vault = Vault()
        self.db = sqlite3.connect(self.vault.folder / "anwen.sqlite")
        self.requests = self._requests()
        self.rows = 0

    def _requests(self):
        classes = (1, 2, 0x7FFF, 0x8001, 0x8002)
        rows = [Row(classes, postings=[(2, True, [os.urandom(16)]), (2, False, [os.urandom(16)] * 2)]) for _ in "ab"]
        put = Put(*rows)
        put.receipts = [bytes(280)] * 2
        bodies = {
            "node_put": put.encode(), "node_get": get([r.record for r in rows], [1]),
            "node_find": find(rows[0].postings[0][2]), "node_list": listing(), "state": wire.encode("state", bytes(16)),
            "node_list_of": listing(subjects=[rows[0].subject]), "node_delete": deletion(*rows, receipts=[bytes(280)]),
            "node_state": wire.encode("node_state", bytes(16)),
        }  # fmt: skip
        return {op: wire.decode(body, op.removesuffix("_of")) for op, body in bodies.items()}

    def changes(self):
        """A number that grows with each commit of others."""
        return self.db.execute("PRAGMA data_version").fetchone()[0]

    @property
    def full(self):
        return self.rows > 20_000

    def discard(self):
        self.db.close()
        self.vault.discard()


_node = renewing(_Node)
_ROOTS = {"node_put": ("put", "records", "cells"), "node_delete": ("delete", "records")}


def node_request(data):
    """A node's request with edits, under a grant and, mostly, receipts that cover it."""
    at, feed = _node(), Feed(data)
    op = feed.choose(list(at.requests))
    message, op = at.requests[op], op.removesuffix("_of")
    claimed = op if feed.below(8) else feed.choose(("node_put", "node_get", "node_delete", "none", "policy", "state"))
    who, purpose = feed.choose((("alice", "work"),) * 6 + (("alice", "look"), ("bob", "look")))
    receipted = feed.below(8)
    at.vault.rig.clock.now_s = NOW_S
    try:
        body = edited(message, feed)
        if receipted:
            body = _with_receipts(at.vault, op, body)
    except AnwenError:
        return
    before = at.changes()
    with within():
        try:
            answered = run(at.vault.node.handle(claimed, at.vault.node_grant(body, purpose, who), body))
        except (RequestError, DeniedError, AnwenError) as error:
            law(at.changes() == before, f"refused ({error.code}), and yet something was stored")
            return
    law(claimed in _ROOTS or at.changes() == before, f"{claimed} stored something")
    at.rows += claimed == "node_put"
    _check_answer(claimed, body, answered)


def _with_receipts(vault, op, body):
    """A put or delete whose receipts cover what it holds after its edits."""
    if op not in _ROOTS:
        return body
    message = wire.decode(body, op)
    of, *tables = _ROOTS[op]
    changes = {name: message.number(name) for name in ("epoch", "generation") if name in message.scalars}
    receipts = [
        receipt(k, of, message.sent_root(*tables), principal="alice", key=vault.identities[k], **changes | _of(vault))
        for k in ("a", "b")
    ]
    blobs = message.blobs | {"receipts": receipts}
    return wire.encode(op, message.salt, message.scalars, message.tables, blobs)


def _of(vault):
    return {"vault": vault.policy.vault, "policy_version": vault.policy.version}


def _check_answer(op, body, answered):
    if op in {"node_get", "node_find", "node_list"}:
        rows = wire.decode(answered, "rows")
        count = wire.rows_in(rows.tables["rows"])
        law(count == len(rows.blobs["sealed"]) == len(rows.blobs["wraps"]), "rows and blobs differ in number")
    elif op in _ROOTS:
        asked, said = wire.decode(body, op), wire.decode(answered, "outcomes")
        law(wire.rows_in(said.tables["records"]) == wire.rows_in(asked.tables["records"]), "outcomes of other rows")
        if op == "node_put":
            law(wire.rows_in(said.tables["postings"]) == wire.rows_in(asked.tables["postings"]), "slots")
    elif op == "node_state":
        wire.decode(answered, "store_state")


TARGETS = {f.__name__: f for f in (keeper_request, keeper_grant, node_request)}
assert People  # the rig's persons are what requests are about
