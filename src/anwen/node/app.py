"""The node as a process: `anwen-node FOLDER` (docs/architecture.md, "A vault's folder")."""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy comes: its threads would take memory and do nothing here

import asyncio
import json
import logging
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from anwen.crypto.grants import claimed_issuer
from anwen.errors import AnwenError, MalformedError, PolicyError, StorageError
from anwen.formats import policy_chain
from anwen.model import NodeInfo, Policy
from anwen.net import logs, tls
from anwen.net.metrics import offer
from anwen.net.server import Limits, serve
from anwen.node.metrics import metrics_of
from anwen.node.service import Node
from anwen.store import engines

LIMITS = Limits()
_log = logging.getLogger("anwen.node")


def main() -> None:
    """Run a node until SIGTERM or SIGINT."""
    logs.configure(logging.INFO)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    if len(sys.argv) != 2:
        sys.exit("usage: anwen-node FOLDER")
    try:
        asyncio.run(_run(Path(sys.argv[1])))
    except AnwenError as error:
        _log.critical("%s: %s", type(error).__name__, error)
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - the process edge: no traceback, no locals
        _log.critical("unexpected %s", type(error).__name__)
        sys.exit(1)


def load(folder: Path) -> tuple[NodeInfo, Policy, Mapping[str, object]]:
    """Return which node a folder is, its policy, checked from the pinned root on, and how to reach its store.

    Raises:
        PolicyError: a file is missing or wrong, or the policy names this node with another key.
    """
    try:
        about, root = json.loads((folder / "node.json").read_bytes()), json.loads((folder / "root.json").read_bytes())
        documents = [p.read_bytes() for p in sorted((folder / "policy").glob("[0-9][0-9][0-9][0-9].json"))]
        tls_pin = tls.pin_of_pem((folder / "tls.crt").read_bytes())
        name, store, pin = str(about["id"]), dict(about["store"]), bytes.fromhex(root["root"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, MalformedError) as error:
        raise PolicyError(f"{folder}: node.json, root.json, policy or tls.crt ({type(error).__name__})") from error
    policy = policy_chain.verify_chain(documents, pin)
    info = policy.nodes.get(name)
    if info is None or info.tls_pin != tls_pin:
        raise PolicyError(f"node {name}: policy {policy.version} does not name it, or names another key")
    return info, policy, store


def save_policy(folder: Path, version: int, document: bytes) -> None:
    """Keep a signed policy version, durably. Raises StorageError."""
    path = folder / "policy" / f"{version:04}.json"
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            file.write(document)
            file.flush()
            os.fsync(file.fileno())
        # commit point: a crash before it leaves a file that no start reads
        partial.replace(path)
        parent = os.open(path.parent, os.O_RDONLY)
        os.fsync(parent)
        os.close(parent)
    except OSError as error:
        raise StorageError(f"policy {version} cannot be kept ({type(error).__name__})") from error


async def _run(folder: Path) -> None:
    info, policy, settings = load(folder)
    context = tls.server_context(folder / "tls.crt", folder / "tls.key")
    store = await engines.connect(policy.engine, settings, folder)
    await store.warm()
    node = Node(policy, store, save=lambda version, document: save_policy(folder, version, document))

    async def handler(path: str, authorization: str | None, body: bytes) -> bytes:
        return await node.handle(path.removeprefix("/v1/"), (authorization or "").removeprefix("Anwen "), body)

    # of the engines, one alone keeps its data on this machine: in the file that its setting names
    metrics = metrics_of(node, info, store, folder / str(settings.get("path", "")))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        async with offer(metrics, folder / "node.json"):
            try:
                server = await serve(
                    metrics.counting(handler),
                    info.address,
                    context,
                    LIMITS,
                    without_grant={"/v1/policy"},
                    whose=claimed_issuer,
                    admit=lambda authorization: node.admit(authorization.removeprefix("Anwen ")),
                )
            except OSError as error:
                raise StorageError(f"cannot listen on {info.address}: {error.strerror}") from error
            metrics.shed = server.shed
            print(f"node {info.id} ready on {server.address}", flush=True)  # noqa: T201 - `anwen up` waits for this line
            await stop.wait()
            await server.aclose()
    finally:
        await store.close()


if __name__ == "__main__":
    main()
