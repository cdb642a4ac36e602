"""`anwen policy`: mistakes with their lines, signatures up to the quorum, versions that keepers take."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from tests.e2e.conftest import running

from anwen.cli.failures import DENIED, OK, REQUEST, UNAVAILABLE
from anwen.errors import ConflictError
from anwen.formats import policy_chain
from anwen.formats.policy_chain import SignedPolicy
from anwen.vault_folder import VaultFolder


@pytest.fixture
def vault(anwen, tmp_path):
    """A fresh vault that does not run."""
    folder = tmp_path / "v"
    assert anwen("init", folder, vault=tmp_path).code == OK
    return folder


def edit(vault, pattern, new):
    text, count = re.subn(pattern, new, (vault / "vault.toml").read_text(), count=1)
    assert count
    (vault / "vault.toml").write_text(text)


def test_init_tells_what_next_and_what_one_machine_means(anwen, tmp_path):
    done = anwen("init", tmp_path / "v", "--template", "commerce", vault=tmp_path)
    assert "anwen up" in done.out
    assert "single_machine" in done.err
    again = anwen("init", tmp_path / "v", vault=tmp_path)
    assert (again.code, "not empty" in again.err) == (REQUEST, True)


def test_init_with_servers_gives_each_zone_a_node_that_knows_its_store(anwen, tmp_path):
    about = {"conninfo": "host=db.example dbname=anwen"}
    (tmp_path / "store.json").write_text(json.dumps(about))
    made = anwen("init", tmp_path / "v", "--engine", "postgresql", "--store", tmp_path / "store.json", vault=tmp_path)
    assert made.code == OK
    policy = VaultFolder(tmp_path / "v").policy()
    assert (policy.engine, set(policy.nodes)) == ("postgresql", {"a", "b", "c"})
    for node in policy.nodes:
        assert json.loads((tmp_path / "v" / "nodes" / node / "node.json").read_text()) == {"id": node, "store": about}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--engine", "cassandra"], "engine cassandra: expected a --store FILE"),
        (["--store", "store.json"], "engine sqlite: expected no --store FILE"),
        (["--engine", "postgresql", "--store", "list.json"], "list.json: expected a JSON object"),
        (["--engine", "postgresql", "--store", "gone.json"], "gone.json: expected a JSON object (FileNotFoundError)"),
    ],
)
def test_init_refuses_a_store_that_does_not_fit_its_engine(anwen, tmp_path, monkeypatch, options, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store.json").write_text("{}")
    (tmp_path / "list.json").write_text("[]")
    done = anwen("init", tmp_path / "v", *options, vault=tmp_path)
    assert (done.code, reason in done.err) == (REQUEST, True), done.err
    assert not (tmp_path / "v").exists()


def test_check_names_lines_and_finds_bad_indexes(anwen, vault):
    assert anwen("policy", "check", vault=vault).code == OK
    edit(vault, "retention_days = 7300", "retention_days = 'long'")
    done = anwen("policy", "check", vault=vault)
    assert done.code == REQUEST
    assert re.search(r"vault\.toml:\d+: collections\.person\.retention_days", done.err)


def test_check_refuses_an_index_on_a_field_of_few_values(anwen, vault):
    edit(vault, r"sex = \{ id = 4,", 'sex = { id = 4, index = "exact",')
    done = anwen("policy", "check", "--json", vault=vault)
    assert done.code == REQUEST
    assert any(r.get("level") == "error" and "sex" in r["where"] for r in done.rows)


def test_officers_sign_up_to_the_quorum_and_edits_in_between_drop_signatures(anwen, vault):
    def sign(n, *more, stdin=""):
        key = vault / "officers" / f"officer{n}.key"
        return anwen("policy", "sign", "--officer", key, *more, vault=vault, stdin=stdin)

    assert sign(1, "--yes").code == REQUEST  # the file is the version that is signed already
    assert anwen("policy", "next", "--renew", vault=vault).code == OK
    edit(vault, r"per_hour = 200, per_day = 1_000", "per_hour = 250, per_day = 1_000")
    no = sign(1, stdin="n\n")
    assert (no.code, "LOOSENS" in no.err, "250" in no.err) == (130, True, True)
    assert not (vault / "vault.toml.signatures.json").exists()
    first = sign(1, stdin="y\n")
    assert (first.code, "2 different persons are needed" in first.err) == (OK, True)
    assert sign(1, "--yes").code == OK  # one person twice is one person
    assert not (vault / "policy" / "0002.json").exists()
    edit(vault, r"per_hour = 250, per_day = 1_000", "per_hour = 240, per_day = 1_000")
    second = sign(2, "--yes")
    assert "officer1 signed: those signatures are dropped" in second.err
    assert not (vault / "policy" / "0002.json").exists()
    third = sign(3, "--yes", "--json")
    assert third.rows == [{"version": 2, "signed_by": ["officer2", "officer3"], "complete": True}]
    assert VaultFolder(vault).policy().version == 2
    assert not (vault / "vault.toml.signatures.json").exists()
    stranger = anwen("policy", "sign", "--officer", vault / "principals" / "dpo.key", "--yes", vault=vault)
    assert stranger.code == REQUEST


CUT = """
import os, resource, signal, sys
from anwen.formats import policy_chain
from anwen.vault_folder import VaultFolder

how, folder, draft = sys.argv[1], VaultFolder(sys.argv[2]), open(sys.argv[3], "rb").read()

def pause(*_):
    print("here", flush=True)
    sys.stdin.read()

if how == "full":  # of a disk that takes some bytes
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
else:  # just before the name appears
    os.link = pause
folder.publish(policy_chain.decode_signed(draft))
"""


@pytest.mark.parametrize("how", ["full", "killed"])
def test_a_version_whose_writing_was_cut_off_is_not_there_and_is_signed_again(anwen, vault, tmp_path, how):
    def sign(n):
        return anwen("policy", "sign", "--officer", vault / "officers" / f"officer{n}.key", "--yes", vault=vault)

    assert anwen("policy", "next", vault=vault).code == OK
    assert sign(1).code == OK
    draft = vault / "vault.toml.signatures.json"
    command = [sys.executable, "-c", CUT, how, vault, draft]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        if how == "killed":
            assert process.stdout.readline() == b"here\n"
            process.kill()
        assert (process.wait(30) != 0, b"File too large" in process.stderr.read()) == (True, how == "full")
    assert VaultFolder(vault).policy().version == 1
    assert anwen("policy", "show", vault=vault).code == OK
    assert sign(2).code == OK
    assert VaultFolder(vault).policy().version == 2
    assert sorted(p.name for p in (vault / "policy").iterdir()) == ["0001.json", "0002.json"]


def test_of_two_who_make_a_version_at_once_one_is_told_and_nothing_is_overwritten(anwen, vault):
    assert anwen("policy", "next", vault=vault).code == OK
    assert anwen("policy", "sign", "--officer", vault / "officers" / "officer1.key", "--yes", vault=vault).code == OK
    signed = policy_chain.decode_signed((vault / "vault.toml.signatures.json").read_bytes())
    published = VaultFolder(vault).publish(signed)
    before = published.read_bytes()
    with pytest.raises(ConflictError, match="exists"):
        VaultFolder(vault).publish(SignedPolicy(signed.policy, {}))
    assert published.read_bytes() == before
    assert sorted(p.name for p in (vault / "policy").iterdir()) == ["0001.json", "0002.json"]


@pytest.mark.parametrize(
    ("pattern", "new"),
    [("threshold = 2", "threshold = 3"), (r"\[zones\.c\]", "[zones.d]")],
    ids=["threshold", "keeper"],
)
def test_a_version_whose_keepers_have_no_keys_is_refused_before_anybody_signs(anwen, vault, pattern, new):
    edit(vault, pattern, new)
    for version in (1, 2):
        assert f"version = {version}" in (vault / "vault.toml").read_text()
        done = anwen("policy", "check", vault=vault)
        assert (done.code, "whose keys the ceremony made" in done.err) == (REQUEST, True), done.err
        assert anwen("policy", "next", vault=vault).code == OK
    done = anwen("policy", "sign", "--officer", vault / "officers" / "officer1.key", "--yes", vault=vault)
    assert (done.code, "make a new vault" in done.err) == (REQUEST, True), done.err
    assert not (vault / "vault.toml.signatures.json").exists()


def test_a_file_of_another_vault_is_checked_for_itself(anwen, vault, tmp_path):
    assert anwen("init", tmp_path / "w", "--template", "commerce", vault=tmp_path).code == OK
    assert anwen("policy", "check", tmp_path / "w" / "vault.toml", vault=vault).code == OK


def test_publish_gives_keepers_and_nodes_what_they_lack(anwen, vault):
    with running(VaultFolder(vault)):
        for _ in range(2):
            anwen("policy", "next", vault=vault)
            for n in (1, 2):
                key = vault / "officers" / f"officer{n}.key"
                anwen("policy", "sign", "--officer", key, "--yes", vault=vault)
        warned = anwen("doctor", vault=vault)
        assert "anwen policy publish" in warned.out
        done = anwen("policy", "publish", "--json", vault=vault)
        assert done.code == OK, done.rows
        assert {r["to"]: r["accepted"] for r in done.rows} == dict.fromkeys(
            ["keeper a", "keeper b", "keeper c", "node a"], True
        )
        assert "anwen policy publish" not in anwen("doctor", vault=vault).out
        assert anwen("policy", "publish", vault=vault).code == OK  # again: nothing is missing


def test_publish_says_no_more_than_it_knows(anwen, vault, tmp_path):
    """Services tell strangers nothing of their policy: who has no key learns who is there, and gives what they lack."""

    def publish():
        done = anwen("policy", "publish", "--json", vault=bare)
        return done.code, {r["to"]: (r["accepted"], r["answer"]) for r in done.rows}

    everybody = ["keeper a", "keeper b", "keeper c", "node a"]
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(vault / "root.json", bare)
    shutil.copytree(vault / "policy", bare / "policy")
    code, rows = publish()  # of one version, to services that are down
    assert (code, {accepted for accepted, _ in rows.values()}) == (UNAVAILABLE, {False})
    with running(VaultFolder(vault)):
        code, rows = publish()
        assert (code, list(rows)) == (DENIED, everybody)
        said = "grant: answers; not known whether it has version 1 or refuses it: that it tells principals alone (--as KEYFILE)"
        unknown = (False, said)
        assert rows == dict.fromkeys(everybody, unknown)
        assert anwen("policy", "publish", "--as", vault / "principals" / "dpo.key", vault=bare).code == OK
        anwen("policy", "next", vault=vault)
        for n in (1, 2):
            anwen("policy", "sign", "--officer", vault / "officers" / f"officer{n}.key", "--yes", vault=vault)
        shutil.copy(vault / "policy" / "0002.json", bare / "policy")
        assert publish() == (OK, dict.fromkeys(everybody, (True, "has version 2")))
        assert publish() == (DENIED, dict.fromkeys(everybody, (False, said.replace("1 or", "2 or"))))
        (bare / "policy" / "0002.json").unlink()  # who publishes may know less than who is given
        done = anwen("policy", "publish", "--as", vault / "principals" / "dpo.key", "--json", vault=bare)
        now = {r["to"]: r["answer"] for r in done.rows}
        assert [now[f"keeper {k}"] for k in "abc"] == ["has version 2"] * 3
