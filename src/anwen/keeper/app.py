"""The keeper's process: hardening, two TLS listeners, one line when it serves, and a clean stop.

Peers' listener opens first, so that keepers that start together can ask each other; clients' listener opens once a peer
has answered. What goes wrong unexpectedly is logged by class alone: messages and locals may hold anything.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's linear algebra is not used; its threads take 30 MB

import asyncio
import contextlib
import ctypes
import logging
import resource
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from anwen.crypto import grants
from anwen.crypto.grants import claimed_issuer
from anwen.errors import AnwenError, GrantError, QuorumError, RollbackError, StorageError
from anwen.keeper import statement
from anwen.keeper.ceremony import STEPS
from anwen.keeper.metrics import metrics_of
from anwen.keeper.peers import Peers
from anwen.keeper.service import Keeper
from anwen.model import Policy
from anwen.net import logs, metrics
from anwen.net.server import Limits, serve
from anwen.net.tls import server_context

RETRY_S = 0.5
COSIGN_EVERY_S, ASK_EVERY_S = 1.0, 10.0
_PR_SET_DUMPABLE = 4
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_CLIENT_LIMITS = Limits(body_bytes=16 * 2**20)
_PEER_LIMITS = Limits(body_bytes=2**20, connections=64, connections_per_address=64, requests=64)
PEER_OPS = ("cosign", "last_seen", *(f"ceremony_{step}" for step in STEPS))
_log = logging.getLogger("anwen.keeper")


def harden() -> bool:
    """Keep this process from being dumped or read by others; return whether its memory is locked, off every disk."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    if os.geteuid() != 0 and limit != resource.RLIM_INFINITY:
        return False  # under a limit, locking what is still to be allocated makes allocations fail later
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
    return bool(libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0)


def check_swap(policy: Policy, *, locked: bool, swaps: str) -> None:
    """Raise StorageError where keys might be swapped to a disk; a vault on a single machine is only warned.

    Args:
        swaps: what /proc/swaps says: a line of names, and one for each swap that is on.
    """
    if locked or len(swaps.splitlines()) == 1:
        return
    problem = "memory cannot be locked and swap is on: set RLIMIT_MEMLOCK to unlimited or turn swap off"
    if not policy.single_machine:
        raise StorageError(problem)
    _log.warning("%s; going on, since this vault is for a single machine", problem)


async def run(folder: Path, *, locked: bool) -> None:
    """Serve the keeper in `folder` until SIGTERM or SIGINT; `locked` as `harden` returned.

    Raises:
        AnwenError: it cannot start, or finds that its state was rolled back.
    """
    keeper = Keeper.open(folder, peers={})
    keeper.witnessed.peers = Peers(keeper.identity, lambda: keeper.policy)
    check_swap(keeper.policy, locked=locked, swaps=_read_swaps())
    mine = keeper.policy.keepers[keeper.identity.keeper]
    tls = server_context(folder / "tls.crt", folder / "tls.key")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    async def for_peers(path: str, authorization: str | None, body: bytes) -> bytes:
        op, token = path.removeprefix("/v1/"), (authorization or "").removeprefix("Anwen ")
        statement.verify_request(keeper.policy, keeper.identity.keeper, op, token, body)
        if op not in PEER_OPS:
            raise GrantError(grants.WORDING)
        return await keeper.handle_peer(op, body)

    async def for_clients(path: str, authorization: str | None, body: bytes) -> bytes:
        return await keeper.handle(path.removeprefix("/v1/"), (authorization or "").removeprefix("Anwen "), body)

    def admit(authorization: str) -> None:
        keeper.admit(authorization.removeprefix("Anwen "))

    peers = await serve(for_peers, mine.peer_address, tls, _PEER_LIMITS)
    try:
        if not await _unless(stop, _start(keeper)):
            return
        counts = metrics_of(keeper, folder)
        counted = counts.counting(for_clients)
        async with metrics.offer(counts, folder / "keeper.json"):
            paths = ["/v1/policy"]
            clients = await serve(
                counted, mine.address, tls, _CLIENT_LIMITS, without_grant=paths, whose=claimed_issuer, admit=admit
            )
            counts.shed = clients.shed
            sys.stdout.write(f"keeper {mine.id} ready on {clients.address}\n")
            sys.stdout.flush()
            try:
                await _unless(stop, _look_after(keeper))
            finally:
                await clients.aclose()
    finally:
        await peers.aclose()
        await keeper.close()


def _read_swaps() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/swaps").read_text()
    return ""  # unknown counts as on


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Return whether `work` ended before `stop` was set; what it raises is raised here."""
    stopping, working = asyncio.create_task(stop.wait()), asyncio.create_task(work)
    await asyncio.wait({stopping, working}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        working.result()
        return True
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working
    return False


async def _start(keeper: Keeper) -> None:
    while True:
        try:
            await keeper.start()
        except QuorumError as error:
            _log.warning("%s: %s", error.code, error)
            await asyncio.sleep(RETRY_S)
        else:
            return


async def _look_after(keeper: Keeper) -> None:
    """Have new entries cosigned, and the clock compared, for as long as the keeper serves."""
    while True:
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(keeper.grown.wait(), ASK_EVERY_S)
            await keeper.cosign_now()
        except StorageError as error:
            _log.warning("%s: %s", error.code, error)
        await asyncio.sleep(COSIGN_EVERY_S)


def main() -> int:
    """Run a keeper; the one argument is its folder. Returns the exit code: 2 for a rollback, 1 for other errors."""
    logs.configure(logging.INFO)  # why a grant was refused, so many times a second
    if len(sys.argv) != 2:
        sys.stderr.write("usage: anwen-keeper FOLDER\n")
        return 64
    try:
        asyncio.run(run(Path(sys.argv[1]), locked=harden()))
    except RollbackError as error:
        _log.critical("%s: %s", error.code, error)
        return 2
    except AnwenError as error:
        _log.critical("%s: %s", error.code, error)
        return 1
    except Exception as error:  # noqa: BLE001 - the process edge: no traceback, no locals
        _log.critical("unexpected %s", type(error).__name__)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
