"""Older copies: of a keeper's folder, and of the policy, once officers signed the next one, which removed a reader.

Keepers have a log that tells which policy they followed. Nodes and clients have their folder alone: set back, they
follow the older one until it expires. So what counts is whom the removed reader then opens.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import anwen
from anwen.client import inspecting
from anwen.client.records import Record
from anwen.errors import AnwenError, NotFoundError, PolicyError, UnavailableError
from anwen.formats import policy_chain
from anwen.rehearse.breach.cast import Cast, Reader
from anwen.rehearse.breach.officer import client_folder, client_takes, doors, takes
from anwen.rehearse.breach.scene import STOLEN, Scene
from anwen.rehearse.breach.theft import Theft

SET_BACK_AFTER = 20
"""People opened between the copy of a keeper and its return."""

ASKED = 20
"""People whom the removed principal asks for."""


async def steal(scene: Scene, cast: Cast) -> Theft:
    """Return what older copies give: of a keeper's folder, from before a budget was spent, and of the policy."""
    theft = Theft(
        "rollback", "an older copy of a keeper's folder, put in its place; an older policy", 0,
        "no keeper serves on either; nobody is opened to whom a newer policy removed", "rehearse/breach/rollback.py",
    )  # fmt: skip
    await _set_back(scene, cast, theft)
    await _offer(scene, cast, theft)
    theft.close()
    return theft


async def _set_back(scene: Scene, cast: Cast, theft: Theft) -> None:
    keeper = next(k for k in scene.policy.keepers if k != STOLEN)
    path, old, new = scene.path("keeper", keeper), scene.outside / "older", scene.outside / "newer"
    shutil.copytree(path, old)
    async with scene.connect(cast.reader.principal, cast.reader.purpose) as vault:
        await vault.open(await cast.reader.some(vault, SET_BACK_AFTER), [cast.reader.class_name])
    await scene.cosigned()
    await scene.kill("keeper", keeper)
    path.rename(new)
    shutil.copytree(old, path)
    try:
        await scene.start_one("keeper", keeper)
        async with scene.connect(*cast.auditor) as vault:
            await inspecting.keeper_state(vault.session, vault.purpose, keeper)
        theft.must(False, f"keeper {keeper} serves on an older copy of its log")
        await scene.kill("keeper", keeper)
    except (UnavailableError, PolicyError) as error:
        theft.note(f"keeper {keeper} started on its older folder: {error.code}")
    finally:
        shutil.rmtree(path)
        new.rename(path)
        shutil.rmtree(old)
    await scene.start_one("keeper", keeper)


# --- an older policy ------------------------------------------------------------------------------------------


async def _offer(scene: Scene, cast: Cast, theft: Theft) -> None:
    """Add to `theft` what becomes of the present version once the next one has removed the reader."""
    before, document = scene.policy, scene.folder.documents()[-1]
    without = {name: p for name, p in before.principals.items() if name != cast.reader.principal}
    newer = replace(before, version=before.version + 1, previous=policy_chain.digest(before), principals=without)
    try:
        await scene.publish(newer)
    except NotFoundError as error:
        theft.note(f"no older policy was offered: {error}")
        return
    last = replace(before, version=newer.version + 1, previous=policy_chain.digest(newer))
    try:
        taken = [name for name, pool in doors(scene) if await takes(pool, document)]
        taken += ["a client that has the newer one"] if client_takes(scene, document) else []
        taken += await _keepers_started(scene, newer.version)
        theft.must(not taken, f"version {before.version} after {newer.version}: taken by {', '.join(taken)}")
        what = f"version {before.version} after {newer.version}: offered to all, and put before a keeper and a client"
        theft.note(what, older_policies_taken=len(taken))
        async with _node_on(scene, newer.version):
            with client_folder(scene, before.version) as folder:
                sealed, opened = await _ask(scene, cast.reader, folder.path)
    finally:
        await scene.publish(last)  # the reader is back, for other thefts
    theft.got(opened)
    theft.note(
        f"a node and a client whose folders are set back to version {before.version} (admitted: they follow it), asked "
        f"by {cast.reader.principal}, whom version {newer.version} removed",
        sealed_records_from_an_older_node=sealed, people_opened_under_an_older_policy=len(opened),
    )  # fmt: skip


async def _keepers_started(scene: Scene, version: int) -> list[str]:
    """Return the keeper that serves once its folder has lost the newest version; nobody, if it does not."""
    keeper = next(k for k in scene.policy.keepers if k != STOLEN)
    await scene.kill("keeper", keeper)
    try:
        with _without(scene.path("keeper", keeper), version):
            await scene.start_one("keeper", keeper)
            await scene.kill("keeper", keeper)
    except (UnavailableError, PolicyError):
        return []
    finally:
        await scene.start_one("keeper", keeper)
    return [f"keeper {keeper}, started on it"]


@contextlib.asynccontextmanager
async def _node_on(scene: Scene, version: int) -> AsyncIterator[None]:
    """Have every node serve without the newest version during the block."""
    with contextlib.ExitStack() as stack:
        for node in scene.policy.nodes:
            await scene.kill("node", node)
            stack.enter_context(_without(scene.path("node", node), version))
            await scene.start_one("node", node)
        yield
    for node in scene.policy.nodes:
        await scene.kill("node", node)
        await scene.start_one("node", node)


@contextlib.contextmanager
def _without(folder: Path, version: int) -> Iterator[None]:
    file, aside = folder / "policy" / f"{version:04}.json", folder / f"{version:04}.newer"
    file.rename(aside)
    try:
        yield
    finally:
        aside.replace(file)


async def _ask(scene: Scene, reader: Reader, folder: Path) -> tuple[int, set[str]]:
    """Return how many sealed records a removed principal is given, and whom keepers open to him."""
    key = scene.folder.path / "principals" / f"{reader.principal}.key"
    vault = anwen.connect_async(folder, key=key, purpose=reader.purpose)
    vault.session.clock = scene.now
    records: list[Record] = []
    async with vault:
        with contextlib.suppress(AnwenError):
            records = await reader.some(vault, ASKED)
        try:
            await vault.open(records, [reader.class_name])
        except AnwenError:
            return len(records), set()
        return len(records), {record.subject for record in records}
