"""Peers that lie: whatever one says, a keeper goes on, with the clock, the log and the cosignatures of honest ones."""

import base64
import json
import math

import pytest
from keeper_rig import START_S, VAULT, People, plain

from anwen.errors import AnwenError, MalformedError, ProofError, QuorumError
from anwen.formats import checkpoint
from anwen.formats.checkpoint import log_origin as origin
from anwen.keeper.folder import Identity
from anwen.keeper.witness import Witness

HONEST = {"time_s": START_S, "size": 0, "note": "", "cosignature": None}


def answers(**changes):
    return json.dumps(HONEST | changes).encode()


JUNK = {
    "nothing": b"",
    "no object": b"[]",
    "no JSON": b"{",
    "no UTF-8": b"\xff",
    "deep": b"[" * 8000,
    "deeper than any answer is long": b'{"time_s":' * 10**6,
    "long": answers(note="x" * 2**21),
    "honest but long": answers() + b" " * 2**13,
    "a member short": json.dumps({"time_s": START_S, "size": 0, "note": ""}).encode(),
    "a member more": answers(more=1),
    "a time of 400 digits": answers(time_s=10**400),
    "a time of 5000 digits": answers().replace(b"1700000000", b"9" * 5000),
    "an endless time": answers(time_s=math.inf),
    "an endless time ago": answers(time_s=-math.inf),
    "no time at all": answers(time_s=math.nan),
    "a time before all times": answers(time_s=-1),
    "a time after all times": answers(time_s=2**63),
    "a time of another type": answers(time_s="5"),
    "true as a time": answers(time_s=True),
    "null as a time": answers(time_s=None),
    "a number as a note": answers(note=5),
    "null as a note": answers(note=None),
    "a list as a cosignature": answers(cosignature=["x"]),
    "half a character": answers(cosignature="\u2014 x \ud800\n"),
    "a control character": answers(note="x\x1b[2J"),
}


def lying(answer):
    async def peer(op, body):
        return answer(op, body) if callable(answer) else answer

    return peer


def surround(rig, keeper, answer):
    keeper.witnessed.peers = {"b": lying(answer), "c": rig.call("c")}
    return keeper


def cosigners(rig, note):
    witnesses = {origin(VAULT, k): i.identity for k, i in rig.policy.keepers.items() if k != "a"}
    return {name.rpartition("/")[2] for name in checkpoint.cosignatures(note, witnesses)}


async def goes_on(rig, keeper):
    note = await keeper.cosign_now()
    assert cosigners(rig, note) == {"c"}
    assert keeper.clocks.offset_s == 0
    assert checkpoint.verify_note(note, origin(VAULT, "a"), keeper.identity.public).size == keeper.log.size
    await rig.ask("open", People(1).open(bytes(20)), ["a"])
    return note


@pytest.mark.parametrize("name", JUNK)
async def test_a_peer_that_answers_junk_is_one_that_does_not_answer(rig, name):
    keeper = surround(rig, rig.keepers["a"], JUNK[name])
    await goes_on(rig, keeper)
    await keeper.close()
    keeper = surround(rig, rig.open("a"), JUNK[name])
    await keeper.start()
    await goes_on(rig, keeper)
    keeper.witnessed.peers = {"b": lying(JUNK[name])}
    with pytest.raises(QuorumError):
        await keeper.start()


async def test_half_a_character_in_a_note_of_our_own_is_no_note(rig):
    """Our name and key id stand in it, so its signature is looked at."""
    keeper = rig.keepers["a"]
    note = keeper.witnessed.sign()
    for at in range(note.index("\n") + 1):
        surround(rig, keeper, answers(note=note[:at] + "\ud800" + note[at + 1 :]))
        await keeper.witnessed.ask_peers()
    await goes_on(rig, keeper)


async def test_a_peer_that_asks_with_junk_is_refused(rig):
    """The same from the other side: a keeper that witnesses for a liar."""
    note = rig.keepers["b"].witnessed.sign()
    good = {"keeper": "b", "note": note, "old": 0, "proof": []}
    name, size, root, *rest = note.split("\n")
    bad = [
        {"note": note.replace("anwen", "an\ud800en")},
        {"note": "\n".join([name + "\ud800", size, root, *rest])},
        {"note": note + "\ud800"},
        {"old": math.nan},
        {"old": 10**400},
        {"old": 5, "proof": ["\ud800"]},
        {"proof": [bytes(32).hex()] * 10**4},
        {"proof": [[[[]]]]},
        {"keeper": "\ud800"},
        {"keeper": ["b"]},
    ]
    for change in bad:
        try:
            answered = await rig.keepers["a"].handle_peer("cosign", json.dumps(good | change).encode())
        except AnwenError:
            continue
        assert json.loads(answered)["cosignature"] is None
    for op, body in (("last_seen", {"keeper": "b", "statement": "\ud800\n00"}), ("cosign", good)):
        with pytest.raises(MalformedError):
            await rig.keepers["a"].handle_peer(op, json.dumps(body).encode()[:-1] + b"[" * 10**5)
    body = json.dumps({"keeper": "b", "statement": "\ud800\n00"}).encode()
    with pytest.raises(ProofError):
        await rig.keepers["a"].handle_peer("last_seen", body)


async def test_a_peer_cannot_have_another_remember_a_longer_checkpoint(rig):
    """What one remembers for a keeper it shows to it on start, in an answer whose length is bounded."""
    keeper = rig.keepers["a"]
    note = await keeper.cosign_now()
    bare = note[: note.index("\n", note.index("\n\n") + 2) + 1]
    size = checkpoint.verify_note(bare, origin(VAULT, "a"), keeper.identity.public).size
    junk = f"\u2014 x {base64.b64encode(bytes(300)).decode()}\n"
    for padded in (bare + junk * 30, bare + junk, note, bare.replace("\n\n", "\n\n" + junk)):
        asked = {"keeper": "a", "note": padded, "old": size, "proof": []}
        with pytest.raises(MalformedError):
            await rig.keepers["b"].handle_peer("cosign", json.dumps(asked).encode())
    rig.down = {"c"}
    await rig.restart("a")


# --- cosignatures ----------------------------------------------------------------------------------------------------


class Liar:
    """Keeper b, which has its own key, and answers a request to cosign as it likes."""

    def __init__(self, rig, edit):
        self.identity, self._edit = rig.keepers["b"].identity, edit

    def __call__(self, op, body):
        if op != "cosign":
            return answers()
        note = json.loads(body)["note"]
        signed = checkpoint.cosign(note, origin(VAULT, "b"), self.identity.key, START_S)
        return answers(cosignature=self._edit(self, note, signed[len(note) :]))

    def line(self, name, kind, signature):
        public = self.identity.key.public_key().public_bytes_raw()
        key_id = checkpoint._key_id(name, kind, public)
        return f"\u2014 {name} {base64.b64encode(key_id + signature).decode()}\n"


def framed_id(note):
    """The log's own name and key id, over a signature that does not verify: it refuses the whole note."""
    dash, name, data = note.split("\n")[-2].split(" ")
    return f"{dash} {name} {base64.b64encode(base64.b64decode(data)[:4] + bytes(64)).decode()}\n"


def over_another_text(liar, note, _line):
    """A cosignature over a longer text, of which the note that was asked for is only the beginning."""
    longer = note + "\nx\n"
    return "\nx\n" + checkpoint.cosign(longer + note, origin(VAULT, "b"), liar.identity.key, START_S)[len(longer) :]


FRAMES = {
    "a bad line of the log's own": lambda _, note, line: line + framed_id(note),
    "the same before its own": lambda _, note, line: framed_id(note) + line,
    "64 lines": lambda _, note, line: line * 64,
    "63 lines": lambda _, note, line: line * 63,
    "two lines": lambda _, note, line: line * 2,
    "an empty line": lambda _, note, line: line + "\n",
    "an empty line before": lambda _, note, line: "\n" + line,
    "over another text": over_another_text,
    "no end of line": lambda _, note, line: line[:-1],
    "another name": lambda liar, note, line: liar.line(origin(VAULT, "c"), 4, base64.b64decode(line.split(" ")[2])[4:]),
    "a log's signature": lambda liar, note, line: liar.line(origin(VAULT, "b"), 1, bytes(64)),
    "another type beside": lambda liar, note, line: line + liar.line(origin(VAULT, "b"), 6, bytes(2420)),
    "over nothing": lambda liar, note, line: liar.line(origin(VAULT, "b"), 4, bytes(72)),
    "spaces": lambda _, note, line: line.replace(" ", "  "),
    "half a character": lambda _, note, line: line.replace("/b ", "/b\ud800 "),
}


@pytest.mark.parametrize("name", FRAMES)
async def test_a_cosignature_is_one_line_of_that_peers_own(rig, name):
    """Whatever else a peer has put into our checkpoint makes auditors refuse it, and us not start."""
    keeper = surround(rig, rig.keepers["a"], Liar(rig, FRAMES[name]))
    note = await goes_on(rig, keeper)
    await keeper.cosign_now()
    assert len(note.split("\n\n")[1].splitlines()) == 2, "its own signature and the honest cosignature"
    await rig.restart("a")
    await goes_on(rig, surround(rig, rig.keepers["a"], JUNK["nothing"]))


async def test_the_honest_line_is_taken(rig):
    keeper = surround(rig, rig.keepers["a"], Liar(rig, lambda _, note, line: line))
    assert cosigners(rig, await keeper.cosign_now()) == {"b", "c"}


@pytest.mark.parametrize("junk", [b"\xff", b"junk", b"a\nb\nc\n\n\xe2\x80\x94 x AAAAAAAA\n"])
async def test_an_own_checkpoint_that_does_not_verify_is_none(rig, caplog, junk):
    """Who can write there could remove it as well: the log and its peers decide."""
    await rig.keepers["a"].cosign_now()
    await rig.keepers["a"].close()
    (rig.path("a") / "log" / "checkpoint").write_bytes(junk)
    keeper = rig.open("a")
    assert "log/checkpoint does not verify" in caplog.text
    await keeper.start()
    assert cosigners(rig, await keeper.cosign_now()) == {"b", "c"}
    body = plain("log", start=0, count=1)
    await keeper.handle("log", rig.grant(body, "a"), body)


@pytest.mark.parametrize("junk", [b"\xff", b"junk", b"a\nb\n"])
async def test_a_peers_note_that_was_damaged_here_is_refused_by_name(rig, tmp_path, junk):
    (tmp_path / "seen").mkdir()
    (tmp_path / "seen" / "b.note").write_bytes(junk)
    identity = rig.keepers["a"].identity
    assert isinstance(identity, Identity)
    witness = Witness(identity, tmp_path / "seen", rig.disks["a"], rig.clock)
    with pytest.raises((MalformedError, ProofError)):
        witness._last(rig.policy, "b")
