"""Run a whole vault as processes of one machine: three keepers and their nodes (`anwen up`)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from anwen.errors import ConflictError, ProofError, UnavailableError
from anwen.formats import policy_chain
from anwen.keeper.folder import read_identity, read_policy_documents
from anwen.keeper.peers import PeerCall, Peers
from anwen.model import SERIES, Policy
from anwen.vault_folder import VaultFolder

START_S, CEREMONY_S = 60.0, 30.0
STOP_S = 10.0
LOCK_S, LOCK_STEP_S = 5.0, 0.05
"""How long processes of a vault whose `up` was killed may take to end before it counts as running."""

BOUND = """
import ctypes, os, runpy, signal, sys
parent, *sys.argv = sys.argv[1:]
prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux alone
if prctl:
    prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
if os.getppid() != int(parent):
    sys.exit("whoever started this has ended already")
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
"""Runs a module in a process that gets SIGTERM when whoever started it ends, however it ends.

"Whoever" is to the kernel the thread that forked, so start processes from a thread that outlives them: here the event
loop's, which is the main thread (`anwen up`) or a `client.sync.Loop`'s, closed after they were stopped. The child asks
for the signal itself, as code between fork and exec is not safe beside other threads; the second look at the parent
covers one that ended before.
"""


class Running:
    """The processes of a vault. Stopped in reverse order; whatever ends first ends all."""

    def __init__(self, lock: IO[bytes]) -> None:
        self._lock = lock
        self.processes: dict[str, asyncio.subprocess.Process] = {}

    async def start(
        self, name: str, module: str, folder: Path, on_event: Callable[[str], None], prefix: Sequence[str] = ()
    ) -> None:
        """Start one process and return when it says that it is ready. Raises UnavailableError with its last words.

        `prefix`: a command that becomes the one after it, such as `env`.
        """
        log = (folder / "process.log").open("ab")
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        process = await asyncio.create_subprocess_exec(
            *prefix, sys.executable, "-c", BOUND, str(os.getpid()), module, str(folder), env=environment,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=log, start_new_session=True,
            pass_fds=[self._lock.fileno()],  # held until the last process has ended, whatever became of us
        )  # fmt: skip
        log.close()
        self.processes[name] = process
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), START_S)
        except TimeoutError:
            raise UnavailableError(f"{name} did not start within {START_S:g} s") from None
        if b"ready" not in line:
            await process.wait()
            last = (folder / "process.log").read_text(errors="replace").strip().splitlines()[-1:]
            raise UnavailableError(f"{name} did not start: {' '.join(last) or 'no reason given'}")
        on_event(line.decode().strip())

    async def wait(self) -> str:
        """Return the name of the first process that ends."""
        tasks = {asyncio.create_task(p.wait()): name for name, p in self.processes.items()}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return tasks[done.pop()]
        finally:
            for task in tasks:
                task.cancel()

    async def stop(self) -> None:
        """Ask all processes to finish; end those that do not within 10 s."""
        for process in reversed(self.processes.values()):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except TimeoutError:
                process.kill()
                await process.wait()
        self._lock.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


async def lock(folder: VaultFolder) -> IO[bytes]:
    """Return the vault's lock, as `VaultFolder.lock` does; waits for what a killed `up` left to end."""
    until = time.monotonic() + LOCK_S
    while True:
        try:
            return folder.lock()
        except ConflictError:
            if time.monotonic() > until:
                raise
        await asyncio.sleep(LOCK_STEP_S)


async def up(folder: VaultFolder, on_event: Callable[[str], None] = lambda _: None) -> Running:
    """Start a vault's keepers and nodes, hold the key ceremonies that are still to be held, and return when all serve.

    Raises: ConflictError: it runs already. UnavailableError: a process did not start.
    """
    policy = folder.policy()
    running = Running(await lock(folder))
    try:
        async with asyncio.TaskGroup() as starting:
            for keeper in policy.keepers:
                path = folder.path / "keepers" / keeper
                starting.create_task(running.start(f"keeper {keeper}", "anwen.keeper.app", path, on_event))
        await hold_ceremonies(folder.path / "keepers" / next(iter(policy.keepers)))
        for node in policy.nodes:
            await running.start(f"node {node}", "anwen.node.app", folder.path / "nodes" / node, on_event)
    except BaseException as error:
        await running.stop()
        if isinstance(error, ExceptionGroup):
            raise error.exceptions[0] from None
        raise
    return running


async def ceremonies(peers: Mapping[str, PeerCall]) -> None:
    """Make the first keys of every series; does nothing where they exist already."""
    for series in SERIES:
        await run_ceremony(series, 1, peers)


async def hold_ceremonies(keeper: Path) -> Policy:
    """Do the same for the vault of the keeper in this folder, over the network; its identity is what the others answer.

    Returns the policy of that vault. Raises: UnavailableError: a keeper is down. ProofError: one deviated.
    """
    identity = read_identity(keeper)
    policy = policy_chain.verify_chain(read_policy_documents(keeper), identity.root)
    peers = Peers(identity, lambda: policy, CEREMONY_S)
    try:
        await ceremonies(peers)
    finally:
        await peers.aclose()
    return policy


async def run_ceremony(series: str, number: int, peers: Mapping[str, PeerCall]) -> None:
    """Make and open one series' keys at all keepers, or finish what an earlier run left.

    Args:
        series: one of `model.SERIES`. number: 1; later ones need officers' signatures.
        peers: all keepers of the policy, by id.

    Raises:
        ProofError: a keeper deviated, and is named; nothing was opened. UnavailableError: a keeper is down.
    """
    keepers = sorted(peers)
    about = {"series": series, "number": number}

    async def ask(op: str, keeper: str, **members: Any) -> str:
        return (await peers[keeper](f"ceremony_{op}", json.dumps(about | members).encode())).decode(errors="replace")

    async def ask_all(op: str, **members: Any) -> list[str]:
        return list(await asyncio.gather(*(ask(op, keeper, **members) for keeper in keepers)))

    states = {k: _stated(k, t) for k, t in zip(keepers, await ask_all("state"), strict=True)}
    confirms = {k: s["confirm"] for k, s in states.items() if s.get("confirm")}
    transcripts = {k: str(_stated(k, c).get("transcript")) for k, c in confirms.items()}
    if len(confirms) < len(keepers) or len(set(transcripts.values())) > 1:
        opened = [k for k, s in states.items() if s.get("opened")]
        if opened:
            lost = [k for k in keepers if transcripts.get(k) != states[opened[0]]["opened"]]
            raise ProofError(f"{series} {number} is open at {opened}, and its keys are lost at {lost}")
        abandons = []
        for transcript in set(transcripts.values()):
            other = next(k for k in keepers if transcripts.get(k) != transcript)
            abandons.append(await ask("abandon", other, transcript=transcript))
        announces = await ask_all("announce", abandons=abandons)
        reveals = await ask_all("reveal", announces=announces)
        confirms = dict(zip(keepers, await ask_all("confirm", reveals=reveals), strict=True))
    await ask_all("open", confirms=[confirms[k] for k in keepers])


def _stated(keeper: str, text: object) -> dict[str, Any]:
    """Return what a keeper states; its signature is for the others to check. Raises ProofError: it states nothing."""
    try:
        return dict(json.loads(str(text).split("\n", maxsplit=1)[0]))
    except (ValueError, TypeError, RecursionError):
        raise ProofError(f"keeper {keeper}: its answer is no statement") from None
