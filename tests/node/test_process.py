"""The node as a process: it says when it is ready, refuses an unsafe start, and stops cleanly."""

import contextlib
import dataclasses
import functools
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from node_rig import POLICY, grant
from test_node import version_2

import vault_texts
from anwen.errors import GrantError, StorageError
from anwen.formats import policy_chain, wire
from anwen.net import tls
from anwen.net.connection import Pool
from anwen.net.ports import free_port
from anwen.node import app
from anwen.store.sqlite import SqliteStore


@pytest.fixture
def folder(tmp_path):
    """A node's folder, as `anwen init` makes it."""
    path = tmp_path / "nodes" / "zone_a"
    (path / "policy").mkdir(parents=True)
    key, certificate = tls.make_certificate("node")
    (path / "tls.key").touch(mode=0o600)
    (path / "tls.key").write_bytes(key)
    (path / "tls.crt").write_bytes(certificate)
    info = dataclasses.replace(
        POLICY.nodes["zone_a"], address=f"127.0.0.1:{free_port()}", tls_pin=tls.pin_of_pem(certificate)
    )
    policy = dataclasses.replace(POLICY, nodes={**POLICY.nodes, "zone_a": info})
    signatures = {o: policy_chain.sign(policy, o, vault_texts.private_key(f"officer {o}")) for o in ("ada", "ben")}
    document = policy_chain.encode_signed(policy_chain.SignedPolicy(policy, signatures))
    (path / "policy" / "0001.json").write_bytes(document)
    root = {"vault": policy.vault.hex(), "root": policy_chain.digest(policy).hex()}
    (path / "root.json").write_text(json.dumps(root))
    (path / "node.json").write_text(json.dumps({"id": "zone_a", "store": {"path": "../../store/anwen.sqlite"}}))
    return path, policy, info


@contextlib.contextmanager
def running(path):
    command = [sys.executable, "-m", "anwen.node.app", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def resident_bytes(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def refused_start(path):
    with running(path) as process:
        out, err = process.communicate(timeout=20)
    assert (out, process.returncode) == ("", 1)
    assert "Traceback" not in err
    return err


async def test_a_node_takes_nobody_before_its_store_is_warm(folder, monkeypatch):
    path, _, info = folder
    host, port = info.address.split(":")

    async def warm(_store):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=5)
        raise StorageError("not warm")

    monkeypatch.setattr(SqliteStore, "warm", warm)
    with pytest.raises(StorageError, match="not warm"):
        await app._run(path)


async def test_a_node_runs_and_stops(folder):
    path, _, info = folder
    with running(path) as process:
        assert process.stdout.readline() == f"node zone_a ready on {info.address}\n"
        pool = Pool(info.address, info.tls_pin)
        with pytest.raises(GrantError):
            await pool.post("/v1/node_get", "Anwen a.b.c", b"", 5)
        assert resource.prlimit(process.pid, resource.RLIMIT_CORE) == (0, 0)
        await pool.aclose()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "")
    assert "refused" in err
    assert "a.b.c" not in err
    store = path.parents[1] / "store"
    assert [p.name for p in store.iterdir()] == ["anwen.sqlite"]  # the log is checkpointed and gone
    assert (store.stat().st_mode | (store / "anwen.sqlite").stat().st_mode) & 0o077 == 0


async def test_a_policy_given_to_a_node_outlives_it(folder):
    path, policy, info = folder
    document = version_2(nodes=policy.nodes, previous=policy_chain.digest(policy))
    known = functools.partial(grant, document, expires_s=int(time.time()) + 60)
    for authorization in (None, f"Anwen {known()}"):  # kept by the first, known to the second
        with running(path) as process:
            process.stdout.readline()
            pool = Pool(info.address, info.tls_pin)
            assert await pool.post("/v1/policy", authorization, document, 5) == b""
            for again in (document, document + b"x"):
                with pytest.raises(GrantError):
                    await pool.post("/v1/policy", None, again, 5)
            await pool.aclose()
    assert (path / "policy" / "0002.json").read_bytes() == document


async def test_a_node_rests_within_its_memory(folder):
    path, _, info = folder
    with running(path) as process:
        process.stdout.readline()
        pool = Pool(info.address, info.tls_pin)
        body = wire.encode("node_find", bytes(16), tables={"labels": {"label": np.zeros((9, 16), np.uint8)}})
        with pytest.raises(GrantError):
            await pool.post("/v1/node_find", "Anwen a.b.c", body, 5)
        await pool.aclose()
        rest_bytes = resident_bytes(process.pid)
    assert rest_bytes < 80 * 2**20


def test_a_readable_key_does_not_start(folder):
    (folder[0] / "tls.key").chmod(0o644)
    assert "PolicyError: tls.key: mode 0644, expected 0600" in refused_start(folder[0])


def test_a_readable_store_does_not_start(folder):
    store = folder[0].parents[1] / "store"
    store.mkdir()
    (store / "anwen.sqlite").touch(mode=0o644)
    (store / "anwen.sqlite").chmod(0o644)
    assert "mode 0644, expected 0600" in refused_start(folder[0])


@pytest.mark.parametrize("name", ["node.json", "root.json", "policy/0001.json", "tls.crt", "tls.key"])
@pytest.mark.parametrize("content", [None, b"", b"junk", b"{}"], ids=["missing", "empty", "junk", "braces"])
def test_a_missing_or_broken_file_does_not_start(folder, name, content):
    (folder[0] / name).unlink()
    if content is not None:
        (folder[0] / name).touch(mode=0o600)
        (folder[0] / name).write_bytes(content)
    assert "PolicyError" in refused_start(folder[0])


def test_a_policy_below_its_quorum_does_not_start(folder):
    path, policy, _ = folder
    signatures = {"ada": policy_chain.sign(policy, "ada", vault_texts.private_key("officer ada"))}
    document = policy_chain.encode_signed(policy_chain.SignedPolicy(policy, signatures))
    (path / "policy" / "0001.json").write_bytes(document)
    assert "PolicyError" in refused_start(path)


def test_another_nodes_key_does_not_start(folder):
    path, _, _ = folder
    key, certificate = tls.make_certificate("other")
    (path / "tls.key").write_bytes(key)
    (path / "tls.crt").write_bytes(certificate)
    assert "names another key" in refused_start(path)


def test_a_taken_address_does_not_start(folder):
    path, _, info = folder
    host, port = info.address.split(":")
    with socket.create_server((host, int(port))):
        assert "cannot listen" in refused_start(path)
