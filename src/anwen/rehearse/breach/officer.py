"""One officer's key: policies that he signs alone, sent to everybody and put into a client's folder."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import replace

from anwen import vault_folder
from anwen.errors import AnwenError
from anwen.formats import policy_chain
from anwen.formats.policy_chain import SignedPolicy
from anwen.model import Budget, Policy
from anwen.net.connection import Pool
from anwen.rehearse.breach.scene import Scene
from anwen.rehearse.breach.theft import Theft
from anwen.vault_folder import VaultFolder

POST_S = 10.0


async def steal_key(scene: Scene) -> Theft:
    """Return what an officer's key does: policies that open everything to everybody, signed by him alone."""
    theft = Theft(
        "officer", "the key of one officer", 0, "no keeper, node or client follows a policy that one officer signed",
        "rehearse/breach/officer.py",
    )  # fmt: skip
    officer = next(iter(scene.policy.officers))
    for what, signed in _forged(scene, officer):
        document = policy_chain.encode_signed(signed)
        taken = [name for name, pool in doors(scene) if await takes(pool, document)]
        theft.must(not taken, f"{what}: taken by {', '.join(taken)}")
        theft.must(not client_takes(scene, document), f"{what}: a client follows it")
        theft.note(f"{what}: sent to all keepers and nodes, and put into a client's folder")
    theft.note("an edited vault.toml in a client's folder")
    theft.must(not _toml_counts(scene), "a client follows an edited vault.toml")
    theft.close()
    return theft


def _forged(scene: Scene, officer: str) -> Iterator[tuple[str, SignedPolicy]]:
    """Yield what he may think of: limitless budgets, in several wrappings."""
    policy, key = scene.policy, vault_folder.read_key(scene.folder.path / "officers" / f"{officer}.key")
    roles = {
        name: replace(role, budgets={counter: Budget(10**9, 10**9) for counter in role.budgets})
        for name, role in policy.roles.items()
    }  # fmt: skip
    loose = replace(policy, version=policy.version + 1, previous=policy_chain.digest(policy), roles=roles)
    alone = {
        o: replace(officers, public_key=policy.officers[officer].public_key) for o, officers in policy.officers.items()
    }

    def signed(new: Policy, *names: str) -> SignedPolicy:
        return SignedPolicy(new, dict.fromkeys(names, policy_chain.sign(new, officer, key)))

    yield "limitless budgets", signed(loose, officer)
    yield "the same, signed in all officers' names", signed(loose, *policy.officers)
    yield "a quorum of one", signed(replace(loose, quorum=1), officer)
    yield "all officers' keys replaced by his", signed(replace(loose, officers=alone), *policy.officers)
    yield "another first version", signed(replace(loose, version=1, previous=bytes(32)), officer)
    yield "a version further on", signed(replace(loose, version=policy.version + 2), officer)


def doors(scene: Scene) -> Iterator[tuple[str, Pool]]:
    """Yield every keeper and node that a policy may be sent to."""
    for keeper in scene.policy.keepers.values():
        yield f"keeper {keeper.id}", Pool(keeper.address, keeper.tls_pin, limit=1)
    for node in scene.policy.nodes.values():
        yield f"node {node.id}", Pool(node.address, node.tls_pin, limit=1)


async def takes(pool: Pool, document: bytes) -> bool:
    """Return whether a keeper or node takes a policy."""
    async with contextlib.aclosing(pool):
        try:
            await pool.post("/v1/policy", None, document, POST_S)
        except AnwenError:
            return False
        return True


def client_takes(scene: Scene, document: bytes) -> bool:
    """Return whether a client follows a policy that lies in its folder as the newest one, or as the only one."""
    for name in (f"{scene.policy.version + 1:04}.json", f"{scene.policy.version:04}.json"):
        with client_folder(scene) as folder:
            (folder.path / "policy" / name).write_bytes(document)
            with contextlib.suppress(AnwenError):
                if policy_chain.digest(folder.policy()) != policy_chain.digest(scene.policy):
                    return True
    return False


def _toml_counts(scene: Scene) -> bool:
    with client_folder(scene) as folder:
        text = (scene.folder.path / "vault.toml").read_text(encoding="utf-8")
        (folder.path / "vault.toml").write_text(text.replace("127.0.0.1", "127.9.9.9"), encoding="utf-8")
        return policy_chain.digest(folder.policy()) != policy_chain.digest(scene.policy)


@contextlib.contextmanager
def client_folder(scene: Scene, newest: int = 9999) -> Iterator[VaultFolder]:
    """Give the block what a client has of the vault: the pinned root and the signed policies, up to a version."""
    path = scene.outside / "client"
    shutil.rmtree(path, ignore_errors=True)
    (path / "policy").mkdir(parents=True)
    for document in scene.folder.path.glob("policy/[0-9]*.json"):
        if int(document.stem) <= newest:
            shutil.copy(document, path / "policy")
    shutil.copy(scene.folder.path / "root.json", path)
    yield VaultFolder(path)
    shutil.rmtree(path)
