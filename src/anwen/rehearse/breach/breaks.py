"""Defences switched off on purpose, in the copy alone: a rehearsal that does not see it sees nothing.

Each is code that is put into processes from outside before they start, or into the rehearsal's own clients. The product
has no switch for any of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Break:
    """`where`: "keeper" and "node": in all of these processes; "client": in the clients of the rehearsal."""

    title: str
    seen_by: str  # the theft that must report it
    says: str  # in these words, of the bound that it breaks: 400 people of police, 4,000 for inference
    where: str
    code: str


_NO_PADS = """
import numpy as np
import anwen.crypto.dprf as dprf
dprf.pads = lambda key, issuer, expires_s, sets, inputs: dict.fromkeys(sets, np.uint8(0))
"""

BREAKS: Mapping[str, Break] = {
    "open-door": Break(
        "a service answers a guessed path",
        "nobody",
        "other answers, first to",
        "node",
        """
import anwen.net.exchange as exchange, re
exchange._OP_PATH = re.compile(r"/.*")
true_begin = exchange.Connection._begin
def begin(self, head, came):
    if head.startswith(b"GET /status "):
        self._refuse(b"HTTP/1.1 200 OK\\r\\nContent-Length: 3\\r\\n\\r\\nup\\n")
        return False
    return true_begin(self, head, came)
exchange.Connection._begin = begin
""",
    ),
    "plaintext": Break(
        "clients do not encrypt: an envelope holds its body in clear",
        "dump",
        "values stand in files",
        "client",
        """
import anwen.crypto.envelope as envelope
from anwen.crypto.padding import pad
class Clear:
    def __init__(self, key): pass
    def encrypt(self, iv, body, context): return body + bytes(16)
    def decrypt(self, iv, body, context): return body[:-16]
envelope.AESGCM = Clear
""",
    ),
    "labels": Break(
        "clients give all postings of a value labels that begin alike",
        "inference",
        "of rows by",
        "client",
        """
import anwen.crypto.blind_index as blind_index
true_labels = blind_index.labels
def labels(k_w, start, count):
    alike = blind_index.token(k_w, b"alike")[:8]
    return [alike + label[8:] for label in true_labels(k_w, start, count)]
blind_index.labels = labels
""",
    ),
    "padding": Break(
        "bodies are padded by Padmé alone, short ones too",
        "inference",
        " on length of",
        "both",
        """
import anwen.crypto.padding as padding
padding.MIN_PADDED_BYTES = 1
""",
    ),
    "one-share": Break(
        "clients take one component for F(x), and keepers add no pads, so that a single keeper's shares open rows",
        "keeper",
        "people, at most 0: no value, index key, DEK",
        "both",
        _NO_PADS
        + """
import anwen.client.quorum as quorum
true_values = quorum.Round.values
def values(self):
    total, contradicted, doubled = true_values(self)
    for keeper in ("c", "a"):
        if keeper in self._values:
            rows = self._have[keeper]
            total[rows] = self._values[keeper][self._column[keeper][("b",)]][rows]
    return total, contradicted, doubled
quorum.Round.values = values
""",
    ),
    "talkative": Break(
        "clients send the searched value along, as the salt of a node's request",
        "node",
        "in its memory or traffic",
        "client",
        """
import anwen.client.finding as finding
import anwen.client.vault as vault
true_token, true_node_find, last = vault.token, finding.node_find, [b""]
def token(key, value):
    last[0] = value
    return true_token(key, value)
async def node_find(session, *asked):
    true_random = session.random
    session.random = lambda size: last[0][:size].ljust(size) if size == 16 else true_random(size)
    try:
        return await true_node_find(session, *asked)
    finally:
        session.random = true_random
vault.token, finding.node_find = token, node_find
""",
    ),
    "budget": Break(
        "keepers charge and do not refuse",
        "key",
        "people, at most 200",
        "keeper",
        """
import anwen.policy.budgets as budgets
budgets.Ledger.reserve = budgets.Ledger.replay
""",
    ),
    "windows": Break(
        "keepers count in fixed windows, each hour anew",
        "key",
        "people, at most 200",
        "keeper",
        """
import anwen.policy.budgets as budgets
true_expire = budgets._Window.expire
def expire(self, now):
    return true_expire(self, now - now % self.window_s + self.window_s - 1e-6)
budgets._Window.expire = expire
""",
    ),
    "answers-keep": Break(
        "keepers add no pads, so that answers of different moments combine",
        "key, prepared",
        "people, at most 200",
        "keeper",
        _NO_PADS,
    ),
    "share-of-all": Break(
        "each keeper enforces B·t/n, as if none were the thief's",
        "key and keeper",
        "people, at most 200",
        "keeper",
        """
import anwen.model as model
def keeper_budget(self, budget):
    n, t = len(self.keepers), self.threshold
    return model.Budget(budget.per_hour * t // n, budget.per_day * t // n)
model.Policy.keeper_budget = keeper_budget
""",
    ),
    "unlogged": Break(
        "keepers answer openings that they do not log",
        "key",
        "answers are in no log",
        "keeper",
        """
import anwen.keeper.service as service
true_append, turns = service.Keeper._append, [0]
def append(self, op, about, blocks, **kw):
    turns[0] += op == "open"
    if op == "open" and turns[0] % 2:
        op, about = "state", {k: v for k, v in about.items() if k != "req"}
    return true_append(self, op, about, blocks, **kw)
service.Keeper._append = append
""",
    ),
    "nonce": Break(
        "keepers make the same nonces for every put",
        "writer",
        "recorded puts gave values of stored rows",
        "both",
        """
import anwen.crypto.prf_input as prf_input
prf_input.nonce_base = lambda *_: bytes(20)
import sys
for name in ("anwen.client.session",):
    if name in sys.modules:
        sys.modules[name].nonce_base = prf_input.nonce_base
""",
    ),
    "guesses": Break(
        "keepers do not count the values that puts and searches ask for",
        "writer",
        "values of id_number were answered for, at most",
        "keeper",
        """
import anwen.keeper.requests as requests
requests._sum_by_collection = lambda pairs: {}
""",
    ),
    "replay": Break(
        "keepers take a grant again, and for another keeper",
        "keeper",
        "grants that passed a keeper were taken again",
        "keeper",
        """
import anwen.crypto.grants as grants, anwen.keeper.state as state
state.State.is_spent = lambda self, *_: False
true_check = grants.check
grants.check = lambda grant, audience, *rest: true_check(grant, grant.audience, *rest)
""",
    ),
    "one-officer": Break(
        "one signature makes a policy",
        "officer",
        "taken by keeper",
        "keeper",
        """
import dataclasses
import anwen.formats.policy_chain as policy_chain
true_check = policy_chain._check_quorum
policy_chain._check_quorum = lambda policy, signed: true_check(dataclasses.replace(policy, quorum=1), signed)
""",
    ),
    "forgetful": Break(
        "keepers do not compare their log with what peers have signed",
        "rollback",
        "serves on an older copy of its log",
        "keeper",
        """
import anwen.keeper.witness as witness
async def ask_peers(self):
    return None
witness.Witnessed.ask_peers = ask_peers
witness.Witnessed.check = lambda self, note: 0
""",
    ),
    "any-version": Break(
        "keepers take any version that a quorum once signed",
        "rollback",
        "version 1 after 2: taken by keeper",
        "keeper",
        """
import anwen.formats.policy_chain as policy_chain
policy_chain.Screen.check = lambda self, document: None
policy_chain.verify_next = lambda current, signed: signed.policy
""",
    ),
    "loose": Break(
        "envelopes are bound to no record and no person",
        "rows",
        "a row opens to somebody else's values",
        "both",
        """
import anwen.crypto.envelope as envelope
envelope.context = lambda *_: b"anywhere"
import sys
for name in ("anwen.client.rows", "anwen.rehearse.breach.live"):
    if name in sys.modules and hasattr(sys.modules[name], "context"):
        sys.modules[name].context = envelope.context
import anwen.crypto.prf_input as prf_input
true_inputs = prf_input.record_inputs
def record_inputs(collection, class_, version, epoch, collected_s, expires_s, subject, record, nonce):
    return true_inputs(collection, class_, version, epoch, collected_s, expires_s, subject * 0, record * 0, nonce)
prf_input.record_inputs = record_inputs
""",
    ),
    "undeleted": Break(
        "keepers open what was deleted",
        "rows",
        "1 people, at most 0",
        "keeper",
        """
import anwen.keeper.state as state
state.State.check_rows = lambda self, *_: None
""",
    ),
    "trusting": Break(
        "clients believe what one keeper says, whatever the others do",
        "liar",
        "disputed writes were stored",
        "client",
        """
import numpy as np
import anwen.client.quorum as quorum
true_values = quorum.Round.values
def values(self):
    total, contradicted, doubled = true_values(self)
    return total, np.zeros_like(contradicted), np.ones_like(doubled)
quorum.Round.values = values
quorum.Round.disputes = lambda self: None
""",
    ),
}
"""By name. What each breaks is what the theft named in it must find."""
