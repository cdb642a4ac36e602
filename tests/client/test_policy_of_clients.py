"""The policy as a client holds it: only what a quorum signed counts, not for longer than it says, and no option skips it."""

import json
import shutil
import time

import pytest
from client_rig import person

import anwen
from anwen.errors import AnwenError, PolicyError


@pytest.fixture
def copy(rig, tmp_path):
    """What a client has of a vault: the signed chain, the root, its own key."""
    folder = tmp_path / "held"
    for name in ("policy", "principals"):
        shutil.copytree(rig.folder.path / name, folder / name)
    for name in ("root.json", "vault.toml"):
        shutil.copy(rig.folder.path / name, folder / name)
    return folder


def session_of(folder):
    return anwen.connect_async(folder, key="case_worker", purpose="casework").session


def leaves(value, path=()):
    """Every place in a JSON document that holds no container."""
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from leaves(item, (*path, i))
    else:
        yield path


def changed(document, path):
    copy = json.loads(json.dumps(document))
    inner = copy
    for step in path[:-1]:
        inner = inner[step]
    old = inner[path[-1]]
    inner[path[-1]] = (
        (not old) if isinstance(old, bool) else old + 1 if isinstance(old, int) else "0" + str(old)[1:] + "1"
    )
    return copy


def test_every_value_of_the_signed_policy_is_covered(copy):
    path = copy / "policy" / "0001.json"
    document = json.loads(path.read_bytes())
    places = list(leaves(document))
    assert len(places) > 200
    for place in places[:: max(1, len(places) // 150)]:
        path.write_text(json.dumps(changed(document, place)))
        with pytest.raises(PolicyError):
            session_of(copy)


@pytest.mark.parametrize("name", ["policy/0001.json", "root.json"])
def test_every_byte_of_the_files_is_covered_or_has_no_effect(copy, name):
    path, before = copy / name, session_of(copy).policy
    data = path.read_bytes()
    for at in range(0, len(data), max(1, len(data) // 120)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            assert session_of(copy).policy == before
        except AnwenError:
            continue


def test_members_that_are_missing_or_more_and_other_signers_are_refused(copy):
    path = copy / "policy" / "0001.json"
    document = json.loads(path.read_bytes())
    signatures = document["signatures"]
    for signed in (
        [],
        signatures[:1],
        signatures[:1] * 2,
        [{**signatures[0], "officer": signatures[1]["officer"]}] * 2,
    ):
        path.write_text(json.dumps({**document, "signatures": signed}))
        with pytest.raises(PolicyError):
            session_of(copy)
    path.unlink()
    with pytest.raises(AnwenError):
        session_of(copy)


def test_an_edited_vault_toml_changes_nothing_for_a_client(copy):
    before = session_of(copy).policy
    text = (copy / "vault.toml").read_text()
    (copy / "vault.toml").write_text(text.replace("threshold = 2", "threshold = 1").replace("127.0.0.1", "192.0.2.1"))
    assert session_of(copy).policy == before


def expiring(rig, seconds):
    """A policy that is out of force in so many seconds, by the client's clock."""
    clock = rig.policy.expires_s - seconds
    begun = time.monotonic()
    return lambda: clock + (time.monotonic() - begun)


def test_a_session_is_not_made_under_a_policy_that_has_expired(rig):
    for seconds in (0, -1, -(10**6)):
        with pytest.raises(PolicyError, match="expired"):
            rig.session("case_worker", clock=expiring(rig, seconds))


@pytest.mark.parametrize("what", ["put", "find", "open", "get", "list", "delete", "audit", "verify"])
def test_a_session_that_outlives_its_policy_asks_nobody_any_more(rig, people, what):
    clerk, importer = rig.connect("case_worker", "casework"), rig.connect("importer", "intake")
    officer, auditor = rig.connect("records_officer", "deletion"), rig.connect("dpo", "oversight")
    found = clerk.find("person", phone=people[0]["phone"])
    work = {
        "put": lambda: importer.put("person", person(199_999)),
        "find": lambda: clerk.find("person", phone=people[1]["phone"]),
        "open": lambda: clerk.open(found, ["identity"]),
        "get": lambda: clerk.get([found[0].id]),
        "list": lambda: clerk.list_subject(found[0].subject, "person"),
        "delete": lambda: officer.delete(found),
        "audit": lambda: auditor.audit_subject(found[0].subject),
        "verify": lambda: [1 / (not v.problem) for v in auditor.audit_verify()],
    }[what]
    for client in (clerk, importer, officer, auditor):
        client.session.transport.calls.clear()
        client.session.clock = lambda: rig.policy.expires_s + 1
    with pytest.raises((PolicyError, ZeroDivisionError)):
        work()
    assert all(not client.session.transport.calls for client in (clerk, importer, officer, auditor))


def test_who_states_a_newer_policy_is_named_once_and_nothing_else_changes(rig, people, caplog):
    lies = {("keeper/c", op): rig.header("c", policy_version=7) for op in ("index", "open", "state")}
    clerk = rig.connect("case_worker", "casework", lies=lies)
    for row in people[:3]:
        (found,) = clerk.find("person", phone=row["phone"])
        assert clerk.open([found], ["identity"])
    said = [r.message for r in caplog.records if "policy version" in r.message]
    assert said == ["keeper c has policy version 7, this client has 1"]
