"""Peers as witnesses: no keeper serves from an older state than it has shown."""

import json
import shutil

import pytest
from keeper_rig import START_S, VAULT, Crash, CutDisk, Disk, People

from anwen.errors import (
    GrantError,
    MalformedError,
    NotFoundError,
    ProofError,
    QuorumError,
    RollbackError,
    UnavailableError,
)
from anwen.formats import checkpoint
from anwen.formats.checkpoint import log_origin as origin


async def spend(rig, keeper="a", count=1):
    people = People(count)
    await rig.ask("open", people.open(bytes(20)), [keeper])
    return people


def snapshot(rig, keeper, to):
    shutil.copytree(rig.path(keeper), to)


def restore(rig, keeper, source):
    shutil.rmtree(rig.path(keeper))
    shutil.copytree(source, rig.path(keeper))


async def test_an_older_copy_of_a_keepers_folder_does_not_serve(rig, tmp_path):
    """A snapshot resets ledger, denials and spent grants."""
    await rig.keepers["a"].cosign_now()
    snapshot(rig, "a", tmp_path / "old")
    await spend(rig)
    await rig.keepers["a"].cosign_now()
    await rig.keepers["a"].close()
    restore(rig, "a", tmp_path / "old")
    keeper = rig.open("a")
    with pytest.raises(RollbackError, match="a peer has seen 6"):
        await keeper.start()
    for op, body in (("open", b""), ("state", b""), ("policy", rig.sign(rig.next_policy()))):
        with pytest.raises(RollbackError):
            await keeper.handle(op, rig.grant(body, "a"), body)
    with pytest.raises(GrantError):  # strangers are not told what is wrong
        await keeper.handle("open", "", b"")
    for op in ("cosign", "last_seen", "ceremony_state"):
        with pytest.raises(RollbackError):
            await keeper.handle_peer(op, b"{}")


async def test_one_peer_that_remembers_is_enough(rig, tmp_path):
    snapshot(rig, "a", tmp_path / "old")
    await spend(rig)
    rig.down = {"b"}
    await rig.keepers["a"].cosign_now()
    rig.down = set()
    await rig.keepers["a"].close()
    restore(rig, "a", tmp_path / "old")
    with pytest.raises(RollbackError):
        await rig.open("a").start()


async def test_a_fork_of_the_same_length_does_not_serve(rig, tmp_path):
    snapshot(rig, "a", tmp_path / "old")
    await spend(rig)
    await rig.keepers["a"].cosign_now()
    await rig.keepers["a"].close()
    restore(rig, "a", tmp_path / "old")
    rig.down = {"b", "c"}
    forked = rig.open("a")
    with pytest.raises(QuorumError):
        await forked.start()
    forked._stopped = None  # as if nobody had asked
    await spend(rig)
    rig.down = set()
    with pytest.raises(RollbackError):
        await forked.cosign_now()
    with pytest.raises(RollbackError):
        await spend(rig)
    await forked.close()
    with pytest.raises(RollbackError):
        await rig.open("a").start()


async def test_its_own_checkpoint_shows_a_cut_log(rig):
    await spend(rig)
    await rig.keepers["a"].cosign_now()
    keeper = rig.keepers["a"]
    offset = next(keeper.log.frames(keeper.log.size - 1)).offset
    await keeper.close()
    path = max((rig.path("a") / "log").glob("*-*.log"))
    path.write_bytes(path.read_bytes()[:offset])
    with pytest.raises(RollbackError):
        rig.open("a")


async def test_a_policy_older_than_the_log_does_not_start(rig):
    await rig.keepers["a"].handle("policy", "", rig.sign(rig.next_policy()))
    await rig.keepers["a"].close()
    (rig.path("a") / "policy" / "0002.json").unlink()
    with pytest.raises(RollbackError):
        rig.open("a")


async def test_a_keeper_that_hears_no_peer_does_not_serve_yet_and_one_that_serves_goes_on(rig):
    rig.down = {"b", "c"}
    await spend(rig)  # a cut between zones does not stop who runs
    await rig.keepers["a"].cosign_now()
    await rig.keepers["a"].close()
    keeper = rig.open("a")
    with pytest.raises(QuorumError):
        await keeper.start()
    with pytest.raises(UnavailableError):
        await spend(rig)
    rig.down = {"b"}
    await keeper.start()
    await spend(rig)


async def test_a_lying_peer_cannot_claim_a_longer_log(rig):
    """Only a checkpoint with the keeper's own signature counts."""
    name = origin(VAULT, "a")
    fake = checkpoint.Checkpoint(name, 10**6, bytes(32))
    notes = [
        checkpoint.sign_note(checkpoint.encode_checkpoint(fake), name, rig.keepers["b"].identity.key),
        "junk",
        5,
        None,
    ]

    def lying(note):
        async def peer(op, body):
            return json.dumps({"time_s": START_S, "size": 10**6, "note": note, "cosignature": "x"}).encode()

        return peer

    for note in notes:
        await rig.keepers["a"].close()
        keeper = rig.open("a")
        keeper.witnessed.peers = {"b": lying(note), "c": rig.call("c")}
        await keeper.start()
        await spend(rig)
        await keeper.cosign_now()
        keeper.witnessed.peers = {"b": rig.call("b"), "c": rig.call("c")}


# --- cosigning -------------------------------------------------------------------------------------------------------


def cosigners(rig, note, of="a"):
    witnesses = {origin(VAULT, k): i.identity for k, i in rig.policy.keepers.items() if k != of}
    return {name.rpartition("/")[2] for name in checkpoint.cosignatures(note, witnesses)}


async def test_growing_logs_are_cosigned_by_all_peers_that_are_up(rig):
    for down in (set(), {"b"}, {"b", "c"}, set()):
        rig.down = down
        await spend(rig, count=3)
        note = await rig.keepers["a"].cosign_now()
        assert cosigners(rig, note) == {"b", "c"} - down
        head = checkpoint.verify_note(note, origin(VAULT, "a"), rig.policy.keepers["a"].identity)
        assert head.size == rig.keepers["a"].log.size
        assert (rig.path("a") / "log" / "checkpoint").read_text() == note
    await rig.restart("b")
    await rig.restart("a")
    assert cosigners(rig, await rig.keepers["a"].cosign_now()) == {"b", "c"}


async def request(rig, **changes):
    await spend(rig)
    await rig.keepers["a"].cosign_now()
    await spend(rig)
    sent = []
    keeper = rig.keepers["a"]
    rig.spy.clear()
    await keeper.cosign_now()
    sent = [json.loads(b) for _, op, b in rig.spy if op == "cosign"]
    return sent[0] | changes


async def test_a_peer_does_not_cosign_what_does_not_follow(rig):
    good = await request(rig)
    note, identity = good["note"], rig.keepers["a"].identity
    name = origin(VAULT, "a")
    size = checkpoint.verify_note(note, name, identity.public).size
    fork = checkpoint.sign_note(
        checkpoint.encode_checkpoint(checkpoint.Checkpoint(name, size + 1, bytes(32))), name, identity.key
    )
    other = checkpoint.sign_note(
        checkpoint.encode_checkpoint(checkpoint.Checkpoint("other", size, bytes(32))), name, identity.key
    )
    bad = [
        ({"note": fork, "old": size, "proof": [bytes(32).hex()]}, ProofError),
        ({"note": other, "old": size, "proof": []}, ProofError),
        ({"note": note.replace(f"\n{size}\n", f"\n{size + 1}\n", 1)}, (ProofError, MalformedError)),
        ({"keeper": "b"}, ProofError),
        ({"keeper": "x"}, NotFoundError),
        ({"keeper": None}, NotFoundError),
        ({"note": 5}, MalformedError),
        ({"old": size, "proof": ["zz"]}, MalformedError),
        ({"proof": "00"}, MalformedError),
    ]
    for change, error in bad:
        with pytest.raises(error):
            await rig.keepers["b"].handle_peer("cosign", json.dumps(good | change).encode())
    answer = json.loads(await rig.keepers["b"].handle_peer("cosign", json.dumps(good).encode()))
    assert (answer["size"], answer["cosignature"]) == (size, None), "an old size is answered with the last one seen"


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", range(4))
async def test_a_peer_remembers_durably_before_it_cosigns(rig, step, after):
    await spend(rig)
    witness = rig.keepers["b"]
    witness._witness._disk = CutDisk(step, after=after)
    rig.down = {"c"}
    with pytest.raises(Crash):
        await rig.keepers["a"].cosign_now()
    await witness.close()
    rig.disks["b"] = Disk()
    rig.open("b")
    await rig.keepers["b"].start()
    await spend(rig)
    assert cosigners(rig, await rig.keepers["a"].cosign_now()) == {"b"}


async def test_last_seen_is_told_to_the_keeper_alone(rig):
    from anwen.keeper import statement

    theirs = statement.sign(rig.keepers["c"].identity, "last_seen")
    body = json.dumps({"keeper": "a", "statement": theirs}).encode()
    with pytest.raises(ProofError):
        await rig.keepers["b"].handle_peer("last_seen", body)
