"""Ceremonies: every deviation names the deviator and opens nothing; every crash is made good by running again."""

import contextlib
import copy
import json
import os

import pytest
from keeper_rig import Crash, CutDisk, Disk, People, Rig

from anwen.errors import (
    AnwenError,
    ConflictError,
    DeniedError,
    MalformedError,
    PolicyError,
    ProofError,
    UnavailableError,
)
from anwen.keeper import ceremony, statement
from anwen.keeper import folder as files
from anwen.model import SERIES
from anwen.supervisor import run_ceremony


@pytest.fixture
async def rig(tmp_path):
    made = await Rig(tmp_path).start(ceremonies=())
    yield made
    await made.close()


def opened(rig, series="record"):
    return [i for i in rig.ids if (series, 1) in rig.keepers[i]._state.opened]


def held(rig):
    return {i: files.read_keys(rig.path(i), "record", 1) for i in rig.ids}


async def test_holders_of_a_set_have_one_key_and_nobody_has_all(rig):
    await rig.ceremony()
    keys = held(rig)
    assert {i: list(k.secrets) for i, k in keys.items()} == {"a": ["b", "c"], "b": ["a", "c"], "c": ["a", "b"]}
    assert keys["a"].secrets["c"] == keys["b"].secrets["c"]
    assert len({s for k in keys.values() for s in k.secrets.values()}) == 3
    assert opened(rig) == ["a", "b", "c"]


async def test_series_and_repetitions_have_different_keys(rig, tmp_path):
    for series in SERIES:
        await rig.ceremony(series)
    again = await Rig(tmp_path / "again").start()
    folders = [*(rig.path(i) for i in rig.ids), *(again.path(i) for i in rig.ids)]
    secrets = {s for f in folders for n in SERIES for s in files.read_keys(f, n, 1).secrets.values()}
    assert len(secrets) == 2 * (3 + 3 + 3 + 1)
    await again.close()


@pytest.mark.parametrize("shape", [(3, 2), (5, 3)])
async def test_all_keepers_hold_the_one_key_of_the_pads(tmp_path, shape):
    rig = await Rig(tmp_path, *shape).start(ceremonies=["mask"])
    (secret,) = {s for i in rig.ids for s in files.read_keys(rig.path(i), "mask", 1).secrets.values()}
    assert [list(files.read_keys(rig.path(i), "mask", 1).secrets) for i in rig.ids] == [[""]] * shape[0]
    assert len(secret) == 32
    assert secret.hex() not in b"".join(body for _, _, body in rig.spy).decode()
    await rig.close()


async def test_no_message_shows_a_key_or_contribution(rig):
    await rig.ceremony()
    said = b"".join(body for _, _, body in rig.spy)
    for keys in held(rig).values():
        for secret in keys.secrets.values():
            assert secret not in said
            assert secret.hex().encode() not in said


async def test_only_the_first_ceremony_needs_no_officers(rig):
    with pytest.raises(DeniedError):
        await rig.ceremony("record", 2)
    await rig.ceremony()
    with pytest.raises(DeniedError):
        await rig.ceremony("record", 2)
    before = held(rig)
    await rig.ceremony()  # again: nothing to do
    assert {i: k.transcript for i, k in held(rig).items()} == {i: k.transcript for i, k in before.items()}
    body = json.dumps({"series": "record", "number": 1, "abandons": []}).encode()
    with pytest.raises(ConflictError):
        await rig.keepers["a"].handle_peer("ceremony_announce", body)


@pytest.mark.parametrize(
    ("series", "number"), [("other", 1), ("record", 0), ("record", True), ("record", 2**32), (None, 1)]
)
async def test_unknown_series(rig, series, number):
    with pytest.raises(MalformedError):
        await rig.ceremony(series, number)


# --- deviations ------------------------------------------------------------------------------------------------------


def tampering(rig, op, deviator, change):
    """A coordinator's view in which one keeper's answer to one step is another one."""

    def call(keeper):
        honest = rig.call(keeper)

        async def peer(step, body):
            answer = await honest(step, body)
            if (step, keeper) == (f"ceremony_{op}", deviator):
                return change(answer.decode()).encode()
            return answer

        return peer

    return {i: call(i) for i in rig.ids}


def resigned(rig, deviator, edit):
    """The deviator signs what it changed: only its content can give it away."""

    def change(text):
        content = json.loads(text.split("\n")[0])
        edit(content)
        kind = content.pop("kind")
        content = {k: v for k, v in content.items() if k not in ("vault", "keeper")}
        return statement.sign(rig.keepers[deviator].identity, kind, **content)

    return change


def flip(text, at=0):
    return text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :]


def edits(content):
    """Every way to change one member of a statement."""
    for name, value in content.items():
        if name in ("kind", "vault", "keeper"):
            continue
        if isinstance(value, dict):
            for key in value:
                yield f"{name}.{key}", lambda c, n=name, k=key: c[n].update({k: flip(c[n][k])})
                yield f"no {name}.{key}", lambda c, n=name, k=key: c[n].pop(k)
        else:
            other = {"int": 7, "str": "00", "list": ["a", "b"]}[type(value).__name__]
            yield name, lambda c, n=name, o=other: c.update({n: o})
        yield f"no {name}", lambda c, n=name: c.pop(n)


SAMPLES = {
    "announce": {
        "series": "",
        "number": 1,
        "keepers": [],
        "threshold": 2,
        "hpke": "",
        "commitments": {"a": "", "c": ""},
    },
    "reveal": {"series": "", "number": 1, "transcript": "", "sealed": {"a": "", "c": ""}},
    "confirm": {"series": "", "number": 1, "transcript": "", "checks": {"a": "", "c": ""}},
}
DEVIATIONS = [(op, name) for op, sample in SAMPLES.items() for name, _ in edits(sample)]


@pytest.mark.parametrize(("op", "name"), DEVIATIONS)
async def test_a_signed_deviation_names_the_deviator_and_opens_nothing(rig, op, name):
    def edit(content):
        dict(edits(copy.deepcopy(content)))[name](content)

    with pytest.raises(ProofError, match="keeper b"):
        await run_ceremony("record", 1, tampering(rig, op, "b", resigned(rig, "b", edit)))
    assert opened(rig) == []
    await rig.ceremony()
    assert opened(rig) == ["a", "b", "c"]


@pytest.mark.parametrize("part", [bytes(32), bytes(31), bytes(33), b""])
async def test_who_reveals_something_else_than_he_committed_to_is_named(rig, part):
    """The last to reveal would choose the key."""

    def change(text):
        session = rig.keepers["b"]._ceremony._sessions["record", 1]
        session.contributions = dict.fromkeys(session.contributions, part)
        return text

    with pytest.raises(ProofError, match="keeper b: its contribution is not the one"):
        await run_ceremony("record", 1, tampering(rig, "announce", "b", change))
    assert opened(rig) == []


@pytest.mark.parametrize("op", SAMPLES)
@pytest.mark.parametrize("how", ["changed", "cut", "empty", "another's", "other signature"])
async def test_an_unsigned_deviation_names_whose_statement_does_not_verify(rig, op, how):
    def change(text):
        line, signature = text.split("\n")
        return {
            "changed": f"{line[:-2]} {line[-2:]}\n{signature}",
            "cut": text[:-1],
            "empty": "",
            "another's": resigned(rig, "a", lambda _: None)(text),
            "other signature": f"{line}\n{flip(signature)}",
        }[how]

    with pytest.raises(ProofError, match="keeper b"):
        await run_ceremony("record", 1, tampering(rig, op, "b", change))
    assert opened(rig) == []


async def test_messages_of_another_attempt_are_refused(rig):
    old = {}
    for op, following in (("announce", "reveal"), ("reveal", "confirm")):

        async def stops(step, body, following=following):
            if step == f"ceremony_{following}":
                raise UnavailableError("keeper c is down")
            return await rig.call("c")(step, body)

        peers = tampering(rig, op, "b", lambda text, op=op: old.setdefault(op, text)) | {"c": stops}
        with pytest.raises(UnavailableError):
            await run_ceremony("record", 1, peers)
    for op, text in old.items():
        with pytest.raises(ProofError, match="keeper b"):
            await run_ceremony("record", 1, tampering(rig, op, "b", lambda _, t=text: t))
    assert opened(rig) == []


async def test_a_keeper_reveals_to_no_announcement_of_its_own_but_the_last(rig):
    about = {"series": "record", "number": 1}

    async def ask(keeper, op, **members):
        return (await rig.call(keeper)(f"ceremony_{op}", json.dumps(about | members).encode())).decode()

    old = [await ask(i, "announce", abandons=[]) for i in rig.ids]
    await ask("b", "announce", abandons=[])
    with pytest.raises(ProofError, match="keeper b: not its announce statement of this attempt"):
        await ask("b", "reveal", announces=old)


async def test_a_coordinator_cannot_show_two_sets_of_announcements(rig):
    """It would learn contributions for keys of its own choice: a keeper reveals to one set alone."""
    about = {"series": "record", "number": 1}

    async def ask(keeper, op, **members):
        return (await rig.keepers[keeper].handle_peer(f"ceremony_{op}", json.dumps(about | members).encode())).decode()

    first = [await ask(i, "announce", abandons=[]) for i in rig.ids]
    await ask("a", "reveal", announces=first)
    second = [first[0], await ask("b", "announce", abandons=[]), first[2]]
    with pytest.raises(ProofError):
        await ask("a", "reveal", announces=second)
    for texts in (first[:2], [*first, first[0]], [first[1], first[0], first[2]], []):
        with pytest.raises(ProofError):
            await ask("c", "reveal", announces=texts)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"series":"record","number":1}', b"\xff"])
@pytest.mark.parametrize("step", ["announce", "reveal", "confirm", "open", "state", "abandon", "other"])
async def test_malformed_peer_requests(rig, step, body):
    if step == "state" and b"number" in body:
        return
    with pytest.raises(MalformedError):
        await rig.keepers["a"].handle_peer(f"ceremony_{step}", body)


# --- crashes ---------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", range(12))
async def test_a_crash_at_any_durable_step_is_made_good_by_running_again(tmp_path, step, after):
    import asyncio

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    rig = await Rig(tmp_path).start(ceremonies=())
    keeper = rig.keepers["b"]
    disk = CutDisk(step, after=after)
    keeper._disk = keeper.log._disk = keeper.log.leaves._disk = keeper._ceremony._disk = disk
    try:
        await rig.ceremony()
        assert disk.steps <= step
    except (AnwenError, Crash, OSError):
        assert disk.steps > step
    rig.disks["b"] = Disk()
    rig.open("b")
    await rig.keepers["b"].start()
    await rig.ceremony()
    assert opened(rig) == ["a", "b", "c"]
    await agree(rig)
    await rig.close()


async def agree(rig):
    await rig.ceremony("index")
    await rig.ceremony("mask")
    people = People(1)
    written = await rig.ask("put", people.put(with_tokens=False))
    assert len({rig.value({k: written[k] for k in pair}).tobytes() for pair in ("ab", "bc", "ac")}) == 1


STEPS = ("state", "announce", "reveal", "confirm", "open")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("reached", [False, True])
@pytest.mark.parametrize("restarted", ["", "a", "b", "abc"])
async def test_a_coordinator_that_stops_anywhere_is_followed_by_one_that_ends_well(rig, step, reached, restarted):
    def stopping(keeper):
        async def peer(op, body):
            answer = await rig.call(keeper)(op, body) if op != f"ceremony_{step}" or keeper < "b" or reached else b""
            if op == f"ceremony_{step}" and keeper == "b":
                raise UnavailableError("the coordinator's machine stopped")
            return answer

        return peer

    with pytest.raises(UnavailableError):
        await run_ceremony("record", 1, {i: stopping(i) for i in rig.ids})
    for i in restarted:
        await rig.restart(i)
    await rig.ceremony()
    assert opened(rig) == ["a", "b", "c"]
    assert len({k.transcript for k in held(rig).values()}) == 1
    await agree(rig)


async def test_confirmed_keys_are_discarded_only_when_another_never_confirmed_them(rig):
    """An attempt that could still open must not be replaced: somebody might have opened it."""
    with pytest.raises(ProofError):
        await run_ceremony("record", 1, tampering(rig, "confirm", "c", lambda _: ""))
    about = {"series": "record", "number": 1}
    transcript = held(rig)["a"].transcript.hex()
    for abandons in ([], ["x"], [statement.sign(rig.keepers["b"].identity, "abandon", **about, transcript="00")],
                     [statement.sign(rig.keepers["a"].identity, "abandon", **about, transcript=transcript)]):  # fmt: skip
        body = json.dumps(about | {"abandons": abandons}).encode()
        with pytest.raises(ConflictError):
            await rig.keepers["a"].handle_peer("ceremony_announce", body)
    with pytest.raises(ConflictError):
        await rig.keepers["b"].handle_peer("ceremony_abandon", json.dumps(about | {"transcript": transcript}).encode())
    await rig.ceremony()
    assert held(rig)["a"].transcript.hex() == transcript, "all had confirmed: completed, not begun anew"


async def test_open_keys_that_a_keeper_lost_are_not_made_anew(rig):
    await rig.ceremony()
    before = held(rig)["a"].transcript
    files.key_path(rig.path("c"), "record", 1).unlink()
    with pytest.raises(ProofError, match="lost at \\['c'\\]"):
        await rig.ceremony()
    assert held(rig)["a"].transcript == before


@pytest.mark.parametrize("sets", [["b", "d"], ["b"], ["c", "b"], ["b", "c", "d"]])
async def test_keys_for_other_sets_than_the_policys_are_not_brought_into_use(rig, sets):
    await rig.ceremony()
    await rig.keepers["a"].close()
    keys = held(rig)["a"]
    secrets, checks = (dict.fromkeys(sets, bytes(32)) for _ in range(2))
    files.KeyFile("record", 1, keys.transcript, secrets, checks).write(rig.path("a"), rig.disks["a"])
    with pytest.raises(PolicyError, match=f"record-1.keys: expected the sets b, c of .*, got {', '.join(sets)}"):
        rig.open("a")
    keys.write(rig.path("a"), rig.disks["a"])
    await rig.restart("a")


# --- the last to reveal ----------------------------------------------------------------------------------------------


def within(keeper):
    return keeper._ceremony._sessions["record", 1]


async def keys_to_choose_from(rig, choices=8):
    """How many keys the last keeper could give the set that it shares with the first, having read all the others say.

    It reveals what it likes: its contribution sealed anew, or another one.
    """
    me, last = rig.keepers["a"], rig.keepers["c"]

    async def ask(keeper, step, **said):
        body = json.dumps({"series": "record", "number": 1, **said}).encode()
        return (await rig.keepers[keeper].handle_peer(f"ceremony_{step}", body)).decode()

    announces = [await ask(i, "announce", abandons=[]) for i in rig.ids]
    reveals = [await ask(i, "reveal", announces=announces) for i in rig.ids]
    path, attempt = files.key_path(rig.path("a"), "record", 1), within(me)
    found, first = set(), within(last).contributions
    for choice in range(choices):
        within(last).revealed = ""
        within(last).contributions = {name: os.urandom(32) for name in first} if choice % 2 else first
        reveals[2] = await ask("c", "reveal", announces=announces)
        me._ceremony._sessions["record", 1] = attempt
        with contextlib.suppress(ProofError):
            await ask("a", "confirm", reveals=reveals)
            found.add(files.read_keys(rig.path("a"), "record", 1).secrets["b"])
            path.unlink()
    return len(found)


async def test_the_last_to_reveal_chooses_nothing(rig):
    assert await keys_to_choose_from(rig) == 1


async def test_without_commitments_he_chooses_among_as_many_keys_as_he_likes(rig, monkeypatch):
    monkeypatch.setattr(ceremony.Ceremony, "_commit", lambda *_: "")
    assert await keys_to_choose_from(rig, choices=8) == 1 + 4
