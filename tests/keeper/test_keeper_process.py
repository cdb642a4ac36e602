"""Keepers as processes: TLS with pinned keys, kill -9 under load, a clean stop, and what they refuse to start with."""

import asyncio
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from keeper_rig import VAULT, Clock, People, Rig, plain

from anwen import supervisor
from anwen.errors import AnwenError, GrantError, StorageError, UnavailableError
from anwen.formats import answer, checkpoint, policy_chain
from anwen.formats.checkpoint import log_origin as origin
from anwen.keeper.app import check_swap
from anwen.keeper.ceremony import STEPS
from anwen.keeper.folder import read_identity
from anwen.keeper.statement import RELEASE, sign_request
from anwen.net.connection import Pool
from anwen.net.metrics import NOTED_PER_S
from anwen.net.ports import free_port
from anwen.net.tls import make_certificate, pin_of_pem


class Processes(Rig):
    """The rig's folders, each served by a process of its own."""

    def __init__(self, folder):
        super().__init__(folder, clock=Clock(time.time()))
        keepers = {}
        for i in self.ids:
            key, certificate = make_certificate(f"keeper-{i}")
            (self.path(i) / "tls.key").touch(0o600)
            (self.path(i) / "tls.key").write_bytes(key)
            (self.path(i) / "tls.crt").write_bytes(certificate)
            addresses = {"address": f"127.0.0.1:{free_port()}", "peer_address": f"127.0.0.1:{free_port()}"}
            keepers[i] = replace(self.policy.keepers[i], tls_pin=pin_of_pem(certificate), **addresses)
        self.policy = replace(self.policy, keepers=keepers)
        for i in self.ids:
            (self.path(i) / "policy" / "0001.json").write_bytes(self.sign(self.policy))
            root = {"vault": VAULT.hex(), "root": policy_chain.digest(self.policy).hex()}
            (self.path(i) / "root.json").write_text(json.dumps(root))
        self.running = {}
        self.pools = {i: Pool(k.address, k.tls_pin) for i, k in keepers.items()}

    async def spawn(self, keeper, *, ready=True, ahead=0):
        """`ahead`: how many releases its software is ahead of this one."""
        later = f"import runpy; from anwen.keeper import statement; statement.RELEASE += {ahead}; "
        code = later + "runpy.run_module('anwen.keeper.app', run_name='__main__')"
        process = await asyncio.create_subprocess_exec(
            sys.executable, *(["-c", code] if ahead else ["-m", "anwen.keeper.app"]), str(self.path(keeper)),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self.running[keeper] = process
        if ready:
            line = await asyncio.wait_for(process.stdout.readline(), 20)
            assert line.decode() == f"keeper {keeper} ready on {self.policy.keepers[keeper].address}\n"
        return process

    async def ask(self, op, body, keepers=None, **kw):
        self.clock.now_s = time.time()
        kw.setdefault("jti", os.urandom(16))
        chosen = keepers or self.ids
        found = await asyncio.gather(
            *(self.pools[k].post(f"/v1/{op}", f"Anwen {self.grant(body, k, **kw)}", body, 10) for k in chosen)
        )
        return dict(zip(chosen, map(answer.decode_answer, found), strict=True))

    async def aclose(self):
        for pool in self.pools.values():
            await pool.aclose()
        for process in self.running.values():
            if process.returncode is None:
                process.kill()
            await process.communicate()


@pytest.fixture
async def vault(tmp_path):
    made = Processes(tmp_path)
    yield made
    await made.aclose()


async def up(vault):
    await asyncio.gather(*(vault.spawn(i) for i in vault.ids))
    await supervisor.hold_ceremonies(vault.path("a"))


def today(people):
    people.collected_s = int(time.time()) // 86400 * 86400
    return people


async def test_processes_serve_survive_kill_9_and_stop_cleanly(vault):
    await up(vault)
    people = today(People(3))
    written = await vault.ask("put", people.put())
    base = written["a"].nonce_base
    done = []

    async def load(number):
        while True:
            jti = os.urandom(16)
            try:
                await vault.ask("open", people.open(base), ["b"], jti=jti)
            except AnwenError:
                return
            done.append(jti)
            assert number >= 0

    loads = [asyncio.create_task(load(i)) for i in range(8)]
    await asyncio.sleep(0.5)
    vault.running["b"].kill()
    await asyncio.gather(*loads)
    assert done
    await vault.running["b"].communicate()
    assert (await vault.ask("open", people.open(base), ["a", "c"])).keys() == {"a", "c"}
    await vault.spawn("b")
    files = sorted((vault.path("b") / "log").glob("*-*.log"))
    logged = b"".join(f.read_bytes() for f in files)
    assert all(jti.hex().encode() in logged for jti in done)
    opened = vault.value(await vault.ask("open", people.open(base)))
    assert opened.tobytes() == vault.value(written)[:6].tobytes()
    for process in vault.running.values():
        process.send_signal(signal.SIGTERM)
        out, err = await asyncio.wait_for(process.communicate(), 10)
        assert (process.returncode, out) == (0, b"")
        assert all(b"none of its peers" in line for line in err.splitlines()), err


async def test_what_has_no_grant_gets_one_answer(vault):
    await up(vault)
    pool, peer = vault.pools["a"], Pool(vault.policy.keepers["a"].peer_address, vault.policy.keepers["a"].tls_pin)
    said = set()
    for path, grant, body in (
        ("/v1/open", None, b""), ("/v1/open", "Anwen x.y.z", b""), ("/v1/nothing", None, b""), ("/v1/policy", None, b"{}"),
        ("/v1/last_seen", None, b"{}"), ("/v1/ceremony_state", None, b"{}"), ("/admin", None, b""),
    ):  # fmt: skip
        with pytest.raises(GrantError) as refused:
            await pool.post(path, grant, body, 5)
        said.add(str(refused.value))
    state = json.dumps({"series": "record", "number": 1}).encode()
    by_b = sign_request(read_identity(vault.path("b")), "a", "ceremony_state", state)
    stranger = replace(read_identity(vault.path("b")), key=Ed25519PrivateKey.generate())
    for path, token, body in (
        ("/v1/open", "", b""), ("/v1/state", "", b""), ("/v1/policy", "", b""), ("/v1/other", "", b""), ("/v1/cosign", "", b"{}"),
        ("/v1/last_seen", "", b"{}"), *((f"/v1/ceremony_{step}", "", state) for step in STEPS),
        ("/v1/ceremony_state", sign_request(stranger, "a", "ceremony_state", state), state),
        ("/v1/ceremony_state", sign_request(read_identity(vault.path("b")), "c", "ceremony_state", state), state),
        ("/v1/ceremony_state", sign_request(read_identity(vault.path("b")), "a", "ceremony_announce", state), state),
        ("/v1/ceremony_state", by_b, state + b" "), ("/v1/ceremony_state", "e30", state), ("/v1/ceremony_state", "_", state),
        ("/v1/other", sign_request(read_identity(vault.path("b")), "a", "other", state), state),
    ):  # fmt: skip
        with pytest.raises(GrantError) as refused:
            await peer.post(path, f"Anwen {token}" if token else None, body, 5)
        said.add(str(refused.value))
    assert len(said) == 1
    assert b"transcript" in await peer.post("/v1/ceremony_state", f"Anwen {by_b}", state, 5)
    await peer.aclose()


async def test_why_a_grant_was_refused_is_in_the_log_and_of_whom_is_not(vault):
    await up(vault)
    people, began = today(People(1)), time.monotonic()
    refusals = [
        ({"life_s": -1}, "expired, or valid for too long"),
        ({"who": "bob", "purpose": "look"}, "collection 1 is not covered by the purpose"),
        ({"who": "bob"}, "not a purpose of the principal's role"),
    ]
    for about, _ in [*refusals, *refusals[:1] * 60]:
        with pytest.raises(GrantError):
            await vault.ask("put", people.put(), ["a"], **about)
    seconds = int(time.monotonic() - began) + 2
    vault.running["a"].send_signal(signal.SIGTERM)
    said = (await vault.running["a"].communicate())[1].decode()
    for _, cause in refusals:
        assert f"refused op=put code=grant cause={cause}\n" in said, said
    assert said.count("refused") <= NOTED_PER_S * seconds
    handles = [people.subject.tobytes().hex(), people.record.tobytes().hex()]
    assert not [text for text in ("alice", "bob", "look", "eyJ", *handles) if text in said]


async def test_keepers_answer_the_next_release_and_none_beyond(vault):
    """A keeper that is two releases away from both others finds no peer, says why, and does not serve."""
    await asyncio.gather(vault.spawn("a"), vault.spawn("b"))
    for ahead in (2, -2):
        early = await vault.spawn("c", ready=False, ahead=ahead)
        said: list[bytes] = []
        while sum(b"none of its peers" in line for line in said) < 3:  # it asks again and again
            said.append(await asyncio.wait_for(early.stderr.readline(), 20))
        why = [line for line in said if b"release" in line]
        assert len(why) == 2, "once for each peer"
        assert all(f"keeper c is of release {RELEASE + ahead}, its peer of {RELEASE}".encode() in s for s in why), why
        early.kill()
        assert (await early.communicate())[0] == b""  # it never served
    for ahead in (1, -1):
        await vault.spawn("c", ahead=ahead)
        vault.running["c"].kill()
        await vault.running["c"].communicate()


def test_a_release_has_a_number_of_its_own():
    assert str(RELEASE) == version("anwen").split(".")[1]


async def test_a_process_with_an_older_log_ends(vault, tmp_path):
    await up(vault)
    shutil.copytree(vault.path("a"), tmp_path / "old")
    await vault.ask("open", today(People(1)).open(bytes(20)))
    await asyncio.sleep(2.5)  # the checkpoint goes out by itself
    vault.running["a"].kill()
    await vault.running["a"].communicate()
    shutil.rmtree(vault.path("a"))
    shutil.copytree(tmp_path / "old", vault.path("a"))
    process = await vault.spawn("a", ready=False)
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 2
    assert out == b""
    assert b"rollback" in err


async def test_a_peers_new_key_is_trusted_as_soon_as_the_policy_says_so_and_the_old_one_no_more(vault):
    """A keeper whose TLS key was stolen gets another one, at another address; the others go on running."""
    await up(vault)
    key, certificate = make_certificate("keeper-c")
    address = {"address": f"127.0.0.1:{free_port()}", "peer_address": f"127.0.0.1:{free_port()}"}
    moved = replace(vault.policy.keepers["c"], tls_pin=pin_of_pem(certificate), **address)
    signed = vault.sign(vault.next_policy(keepers=vault.policy.keepers | {"c": moved}))
    for i in vault.ids:
        await vault.pools[i].post("/v1/policy", None, signed, 10)
    cosigned = origin(VAULT, "c"), vault.policy.keepers["c"].identity
    checkpoint_of_a = vault.path("a") / "log" / "checkpoint"

    async def cosigned_by_c(asked):
        async with asyncio.timeout(20):
            while True:
                await vault.ask("open", today(People(1)).open(bytes(20)), ["a"])
                await asyncio.sleep(0.5)
                note = checkpoint_of_a.read_text()
                if bool(checkpoint.cosignatures(note, dict([cosigned]))) == asked:
                    return

    await cosigned_by_c(asked=False)  # c still runs where it was, with the key that is no longer its own
    vault.running["c"].terminate()
    await vault.running["c"].communicate()
    (vault.path("c") / "tls.key").write_bytes(key)
    (vault.path("c") / "tls.crt").write_bytes(certificate)
    vault.policy = replace(vault.policy, keepers=vault.policy.keepers | {"c": moved})
    await vault.spawn("c")
    await cosigned_by_c(asked=True)


async def test_alone_it_waits_for_a_peer_and_stops_when_told(vault):
    process = await vault.spawn("a", ready=False)
    await asyncio.sleep(1.5)
    assert process.returncode is None
    with pytest.raises(UnavailableError):
        await vault.ask("state", plain("state"), ["a"])
    process.send_signal(signal.SIGTERM)
    out, _ = await asyncio.wait_for(process.communicate(), 10)
    assert (process.returncode, out) == (0, b"")


@pytest.mark.parametrize("name", ["identity.key", "tls.key"])
async def test_a_key_that_others_may_read_stops_the_process(vault, name):
    (vault.path("a") / name).chmod(0o644)
    process = await vault.spawn("a", ready=False)
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, out) == (1, b"")
    assert b"expected 0600" in err


async def test_the_process_cannot_dump_core_and_is_small(vault):
    await up(vault)
    process = vault.running["a"]
    limits = Path(f"/proc/{process.pid}/limits").read_text()  # noqa: ASYNC240
    assert limits.split("Max core file size")[1].split()[:2] == ["0", "0"]
    status = Path(f"/proc/{process.pid}/status").read_text()  # noqa: ASYNC240
    rss_kb = int(status.split("VmRSS:")[1].split()[0])
    assert rss_kb < 80 * 1024, f"{rss_kb} kB at rest"


async def test_an_unexpected_error_shows_nothing_but_its_class(vault, tmp_path):
    mark = "4PLAINTEXT-MARK9"
    (vault.path("a") / "keeper.json").write_text(json.dumps({"id": ["a", mark]}))
    process = await vault.spawn("a", ready=False)
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 1
    assert mark.encode() not in out + err
    assert b"Traceback" not in err


HEAD = "Filename Type Size Used Priority\n"


@pytest.mark.parametrize(
    ("locked", "swaps", "starts"),
    [(True, f"{HEAD}/swap", True), (False, HEAD, True), (False, f"{HEAD}/swap", False), (False, "", False)],
)
def test_keys_that_could_be_swapped_stop_the_start_but_of_a_vault_for_one_machine(
    tmp_path, caplog, locked, swaps, starts
):
    policy = Rig(tmp_path).policy
    check_swap(policy, locked=locked, swaps=swaps)
    assert ("swap is on" in caplog.text) != starts
    apart = replace(policy, single_machine=False)
    if starts:
        check_swap(apart, locked=locked, swaps=swaps)
    else:
        with pytest.raises(StorageError):
            check_swap(apart, locked=locked, swaps=swaps)
