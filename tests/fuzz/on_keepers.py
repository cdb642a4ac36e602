"""Targets: what a keeper reads of its own disk, and of its peers, one of whom may be malicious."""

import contextlib
import functools
import json
import math
import os
import shutil

from feed import Feed, edited_json, json_text, patched
from keeper_rig import START_S, QuickDisk
from laws import REFUSED, law, refusals, tried, within
from on_files import scratch
from rigs import Vault, files_of, put_back, renewing, requests_of, run

from anwen.errors import (
    AnwenError,
    ConflictError,
    DeniedError,
    GrantError,
    MalformedError,
    NotFoundError,
    PolicyError,
    ProofError,
    QuorumError,
    RollbackError,
    StorageError,
    UnavailableError,
)
from anwen.keeper import log as logs
from anwen.keeper import side, statement
from anwen.keeper.ceremony import Ceremony
from anwen.keeper.folder import KeyFile
from anwen.keeper.leaves import Leaves
from anwen.keeper.service import Keeper
from anwen.keeper.witness import Witness
from anwen.supervisor import run_ceremony

_CLOCK = float(START_S + 90_000)


@functools.cache
def _vault():
    """Keepers whose logs reach over two days, and the files of keeper a as they lie when it has stopped."""
    vault = Vault()
    requests_of(vault.rig)
    run(vault.rig.keepers["a"].cosign_now())
    vault.rig.clock.now_s = int(_CLOCK)
    for _ in range(3):
        requests_of(vault.rig)
    run(vault.rig.ask("delete", requests_of(vault.rig)["delete"].body))
    run(vault.rig.keepers["a"].cosign_now())
    return vault


@functools.cache
def _files():
    vault = _vault()
    run(vault.rig.keepers["a"].close())
    return files_of(vault.rig.path("a"))


# --- its own disk ----------------------------------------------------------------------------------------------------


def side_data(data):
    """Any bytes as side data of an entry."""
    blocks = tried(MalformedError, lambda: list(side.decode(data)))
    if blocks is not REFUSED:
        law(len(data) < 16 or side.encode(data[:16], blocks) == data, "side data: not in its one form")
        for block in blocks:
            law(block.width == 0 or len(block.values()) == block.rows, "rows of a block")


def _frames(data):
    """The frames of a day file as (write, entry, side)."""
    found, at = [], logs._SEED.size
    while at < len(data):
        _, entry, extra, write, _ = logs._HEAD.unpack_from(data, at)
        at += logs._HEAD.size
        found.append((write, data[at : at + entry], data[at + entry : at + entry + extra]))
        at += entry + extra
    return found


def _reframed(data, feed):
    """A day file with one entry or its side data changed, and all checksums right."""
    frames = _frames(data)
    at = feed.below(len(frames))
    _, entry, extra = frames[at]
    if feed.below(2):
        return with_frame(data, at, extra=patched(extra, Feed(feed.rest()), 3))
    return with_frame(
        data, at, json_text(edited_json(json.loads(entry), feed, 3), feed).encode("utf-8", "surrogatepass")
    )


def with_frame(data, at, entry=None, extra=None):
    """A day file with another entry or other side data in one frame, and all checksums right."""
    frames = _frames(data)
    write, *kept = frames[at]
    frames[at] = (write, kept[0] if entry is None else entry, kept[1] if extra is None else extra)
    seed = data[: logs._SEED.size]
    return seed + b"".join(logs._frame(seed, *frame) for frame in frames)


def log_recovery(data):
    """A keeper's folder with one file changed: it starts with what it had, or says that something is damaged."""
    feed = Feed(data)
    files = dict(_files())
    name = feed.choose(sorted(n for n in files if n.startswith(("log/", "keys/", "seen/"))))
    content, mode = files[name]
    reframes = name.endswith(".log") and feed.below(2)
    files[name] = (_reframed(content, feed) if reframes else patched(content, feed, 4), mode)
    folder, now_s = scratch() / "recovered", _CLOCK + 5 * 86_400 * (len(data) % 2)  # days that are not read again
    put_back(folder, files)
    if not reframes and name.endswith(".log"):
        _check_entries(folder, name, content)
        put_back(folder, files)
    errors = (StorageError, RollbackError, PolicyError, MalformedError, ProofError)
    with within():
        keeper = tried(errors, Keeper.open, folder, clock=lambda: now_s, peers={}, disk=QuickDisk())
        if keeper is REFUSED:
            return
        try:
            for start in (0, keeper.log.size // 2):
                tried(StorageError, lambda: [logs.entry_members(f.entry) for f in keeper.log.frames(start)])  # noqa: B023
            law(len(keeper.log.leaves.root()) == 32, "a root")
        finally:
            run(keeper.close())


def _check_entries(folder, name, content):
    """Entries that a log gives after its file was changed are those that were there, from the first on."""
    real = [entry for _, entry, _ in _frames(content)]
    log = logs.Log(folder / "log", QuickDisk())
    try:
        log.recover(3650, lambda _: None)
        first = int(name[4:16])
        found = [f.entry for f in log.frames(first) if f.day in name]
        law(found == real[: len(found)], "a log gives other entries than were written")
    except StorageError:
        pass
    finally:
        run(log.close())


def leaves_file(data):
    """Any bytes as the file of leaves."""
    path = scratch() / "leaves"
    path.write_bytes(data)
    leaves = Leaves(path, QuickDisk())
    law(leaves.size == len(data) // 40, "leaves of the file")
    leaves.cut(leaves.size)
    law(leaves.root() == leaves.root_at(leaves.size), "a root in two ways")
    leaves.close()


def seen_note(data):
    """Any bytes as what a keeper remembers of a peer's log, and as its own checkpoint."""
    vault = _vault()
    folder = scratch() / "seen"
    folder.mkdir(exist_ok=True)
    (folder / "b.note").write_bytes(data)
    witness = Witness(vault.rig.keepers["a"].identity, folder, QuickDisk(), lambda: 0.0)
    with refusals(MalformedError, ProofError, StorageError):
        witness._last(vault.policy, "b")


# --- its peers -------------------------------------------------------------------------------------------------------


def peer_token(data):
    """Any text as what shows that a keeper asks."""
    vault, feed = _vault(), Feed(data)
    identity = vault.rig.keepers["a"].identity
    token = statement.sign_request(identity, "b", "cosign", b"body")
    changed = patched(token.encode(), feed, 3).decode("latin-1") if feed.below(2) else feed.rest().decode("latin-1")
    if tried(GrantError, statement.verify_request, vault.policy, "b", "cosign", changed, b"body") is not REFUSED:
        law(_text(changed) == _text(token), "a request that no keeper signed")


def _text(token):
    import base64

    return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))


def statement_text(data):
    """A peer's statement: any text, or any JSON under its real signature."""
    vault, feed = _vault(), Feed(data)
    identity = vault.rig.keepers["b"].identity
    if feed.below(2):
        line = feed.rest().decode("utf-8", "surrogateescape")
    else:
        line = json_text(edited_json(json.loads(statement.sign(identity, "x", a="b").split("\n")[0]), feed), feed)
    text = f"{line}\n{identity.key.sign(statement._PREFIX + line.encode('utf-8', 'surrogatepass')).hex()}"
    with refusals(ProofError):
        law(isinstance(statement.verify(vault.policy, text, "x", "b"), dict), "a statement")


class _Peers:
    """Keeper a, asked by a peer that holds its own key."""

    def __init__(self):
        self.vault = Vault()
        self.keeper = self.vault.rig.keepers["a"]
        other = self.vault.rig.keepers["b"]
        asked = []

        async def listening(op, body):
            asked.append((op, body))
            raise UnavailableError("only listening")

        other.witnessed.peers, kept = {"a": listening}, other.witnessed.peers
        for ask in (other.witnessed.ask_peers(), other.witnessed.cosign(self.vault.policy)):
            with contextlib.suppress(QuorumError):
                run(ask)
        other.witnessed.peers = kept
        self.requests = {op: json.loads(body) for op, body in asked}
        about = {"series": "record", "number": 1}
        more = {"state": {}, "announce": {"abandons": []}, "reveal": {"announces": ["x\n00"] * 3}}
        more |= {"confirm": {"reveals": ["x\n00"] * 3}, "open": {"confirms": ["x\n00"] * 3}}
        more |= {"abandon": {"transcript": "00"}}
        self.requests |= {f"ceremony_{step}": about | members for step, members in more.items()}
        self.count = 0

    @property
    def full(self):
        return self.count > 20_000

    def discard(self):
        self.vault.discard()


_peers = renewing(_Peers)


def peer_request(data):
    """A peer's request with edits of its JSON or its bytes, its notes signed anew where they are text of its own."""
    at, feed = _peers(), Feed(data)
    at.count += 1
    op = feed.choose(sorted(at.requests))
    request = edited_json(at.requests[op], feed)
    body = json_text(request, feed).encode("utf-8", "surrogatepass")
    if feed.below(4) == 1:
        body = patched(body, feed, 3)
    with within():
        try:
            answered = run(at.keeper.handle_peer(op, body))
        except (MalformedError, ProofError, NotFoundError, ConflictError, DeniedError):
            return
    answered.decode()


def peer_answer(data):
    """A peer's answers with edits: a keeper goes on, with the clock and the checkpoint that honest peers give it."""
    at, feed = _peers(), Feed(data)
    witnessed = at.keeper.witnessed
    honest = witnessed.peers

    async def lying(op, body):
        answer = json.loads(await honest["b"](op, body))
        text = json_text(edited_json(answer, feed), feed)
        if feed.below(4) == 1:
            return patched(text.encode("utf-8", "surrogatepass"), feed, 3)
        return text.encode("utf-8", "surrogatepass")

    witnessed.peers = honest | {"b": lying}
    try:
        with within():
            run(witnessed.ask_peers())
            note = run(witnessed.cosign(at.vault.policy))
        law(math.isfinite(at.keeper.clocks.offset_s), "a clock that is no number")
        note.encode()
        law("/c " in note, "an honest peer's cosignature is lost")
    finally:
        witnessed.peers = honest


# --- ceremonies ------------------------------------------------------------------------------------------------------


class _Table:
    """Three keepers about to hold a ceremony, of whom b says what a feed wants, under its real signature."""

    def __init__(self, feed):
        vault = _vault()
        self.policy, self.feed = vault.policy, feed
        self.lies_at = feed.choose(("announce", "reveal", "confirm"))
        self.keepers = {}
        for k in vault.rig.ids:
            folder = scratch() / "ceremony" / k
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self.keepers[k] = Ceremony(vault.rig.keepers[k].identity, folder, QuickDisk(), os.urandom)

    def all(self, step, said):
        """What all say to a step, b what it wants."""
        request = {"series": "index", "number": 1}
        names = {"announce": "abandons", "reveal": "announces", "confirm": "reveals", "open": "confirms"}
        body = json.dumps(request | {names[step]: said}).encode()
        texts = []
        for k, ceremony in self.keepers.items():
            text = ceremony.answer(self.policy, step, body, lambda _: 0, {})
            texts.append(self.lie(text) if k == "b" and step == self.lies_at else text)
        return texts

    def lie(self, text):
        """b's statement with edits, signed by b."""
        content = edited_json(json.loads(text.split("\n")[0]), self.feed, 3)
        if not self.feed.below(4) and isinstance(content, dict) and isinstance(content.get("hpke"), str):
            content["hpke"] = content["hpke"][:2368] + self.feed.choose(("00" * 32, "01" + "00" * 31, "ff" * 32))
        line = json_text(content, self.feed)
        identity = self.keepers["b"]._identity
        return f"{line}\n{identity.key.sign(statement._PREFIX + line.encode()).hex()}"


def ceremony(data):
    """A whole ceremony with one keeper that lies: it is named and nothing opens, or all have the same keys."""
    table = _Table(Feed(data))
    said = []
    with within(), refusals(ProofError, MalformedError, ConflictError):
        for step in ("announce", "reveal", "confirm"):
            said = table.all(step, said)
        opened = table.all("open", said)
        law(all(isinstance(keys, KeyFile) for keys in opened), "keys")
        held = {}
        for keys in opened:
            for name, secret in keys.secrets.items():
                law(held.setdefault(name, secret) == secret, "keepers opened different keys")


def coordinated(data):
    """A coordinator whose keepers answer anything."""
    feed, vault = Feed(data), _vault()
    about = {"series": "record", "number": 1}

    async def lying(op, body):
        if feed.below(4) == 1:
            raise UnavailableError("down")
        text = statement.sign(vault.rig.keepers["b"].identity, "state", **about, opened=None, confirm=None)
        line = json_text(edited_json(json.loads(text.split("\n")[0]), feed, 2), feed)
        said = f"{line}\n{text.split(chr(10))[1]}".encode("utf-8", "surrogatepass")
        return patched(said, feed, 2) if feed.below(2) else said

    with within(), refusals(AnwenError):
        run(run_ceremony("record", 1, dict.fromkeys("abc", lying)))


TARGETS = {
    f.__name__: f
    for f in (
        side_data, log_recovery, leaves_file, seen_note, peer_token, statement_text, peer_request, peer_answer, ceremony,
        coordinated,
    )
}  # fmt: skip
