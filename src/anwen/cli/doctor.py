"""`anwen doctor`: is the vault whole and running, is this machine fit for it. Changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import resource
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from anwen.access import connect_async
from anwen.cli import failures, output
from anwen.cli.settings import Settings, cli, settings_of
from anwen.client.session import Session
from anwen.errors import AnwenError, GrantError
from anwen.formats import policy_chain, policy_file, wire
from anwen.formats.answer import Header, verify_receipt
from anwen.model import Policy
from anwen.net.connection import Pool
from anwen.vault_folder import SINGLE_MACHINE, VaultFolder

EXPIRY_WARN_DAYS = 14
DISK_WARN_BYTES = 2 * 2**30
CLOCK_WARN_S, CLOCK_FAIL_S = 5.0, 30.0
TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Check:
    """One line of the report. `code`: exit code that a failure asks for."""

    level: Literal["ok", "warn", "fail"]
    what: str
    text: str
    code: int = failures.FAILED


@cli.command("doctor")
@settings_of
def doctor(settings: Settings) -> None:
    """Check policy, keepers, nodes, clocks, files and this machine. Exit code: the worst failure's."""
    folder = settings.folder()
    checks = [*_policy(folder), *_files(folder), *_machine(folder), *asyncio.run(_services(settings, folder))]
    settings.show([{k: v for k, v in dataclasses.asdict(c).items() if k != "code"} for c in checks])
    failed = [c.code for c in checks if c.level == "fail"]
    warned = sum(c.level == "warn" for c in checks)
    output.say(f"{len(failed)} failed, {warned} to look at, {len(checks) - len(failed) - warned} fine")
    if failed:
        raise click.exceptions.Exit(max(failed))


def _policy(folder: VaultFolder) -> Iterator[Check]:
    policy = folder.policy()  # raises where the chain is broken: nothing else means anything then
    days = (policy.expires_s - time.time()) / 86_400
    day = dt.datetime.fromtimestamp(policy.expires_s, dt.UTC).date()
    signed = f"version {policy.version}, signed by its quorum, expires {day}"
    renew = "; anwen policy next --renew, then have officers sign" if days <= EXPIRY_WARN_DAYS else ""
    yield Check("fail" if days <= 0 else "warn" if renew else "ok", "policy", signed + renew)
    if folder.toml.exists():
        try:
            edited = policy_chain.digest(policy_file.parse_toml(folder.toml.read_text())) != policy_chain.digest(policy)
            state = "edited; nothing of it counts before officers sign it" if edited else "as signed"
            yield Check("warn" if edited else "ok", "vault.toml", state)
        except AnwenError as error:
            yield Check("warn", "vault.toml", f"{str(error).splitlines()[0]}; anwen policy check")
    yield Check("warn", "zones", SINGLE_MACHINE) if policy.single_machine else Check("ok", "zones", "one machine each")


def _files(folder: VaultFolder) -> Iterator[Check]:
    secret = [p for pattern in ("**/*.key", "**/*.keys") for p in folder.path.glob(pattern)]
    store = [p for p in folder.path.glob("store/*") if p.is_file()]
    for what, paths in (("secret keys", secret), ("store", store)):
        open_to_others = [str(p.relative_to(folder.path)) for p in paths if p.stat().st_mode & 0o077]
        said = f"others may read {', '.join(open_to_others[:5])}: chmod 600" if open_to_others else "for owners alone"
        yield Check("fail" if open_to_others else "ok", what, f"{len(paths)} files, {said}")
    officers = list(folder.path.glob("officers/*.key"))
    if len(officers) > 1:
        yield Check("warn", "officers", f"{len(officers)} keys lie together here; each belongs to one person")


def _machine(folder: VaultFolder) -> Iterator[Check]:
    soft, _ = resource.getrlimit(resource.RLIMIT_CORE)
    yield Check("ok", "core dumps", "off") if soft == 0 else Check("warn", "core dumps", "on here: ulimit -c 0")
    swaps = Path("/proc/swaps")
    if swaps.exists():
        used = len(swaps.read_text().splitlines()) > 1
        text = "on: memory of clients may reach the disk; encrypt it or turn it off" if used else "off"
        yield Check("warn" if used else "ok", "swap", text)
    free = shutil.disk_usage(folder.path).free
    text = f"{free / 2**30:.1f} GiB free"
    yield Check("warn" if free < DISK_WARN_BYTES else "ok", "disk", text)


@contextlib.asynccontextmanager
async def _asking(settings: Settings, folder: VaultFolder) -> AsyncIterator[tuple[Session, str] | None]:
    """Yield a session and purpose of whichever principal's key is at hand, the one asked for first."""
    policy = folder.policy()
    for name in [settings.key] if settings.key else policy.principals:
        principal = policy.principals.get(Path(name).stem if name.endswith(".key") else name)
        if principal and policy.roles[principal.role].purposes:
            purpose = min(policy.roles[principal.role].purposes)
            with contextlib.suppress(AnwenError):  # no key here, or one that others may read: its own line names it
                vault = connect_async(folder.path, key=name, purpose=purpose)
                break
    else:
        yield None
        return
    async with vault:
        yield vault.session, purpose


async def _services(settings: Settings, folder: VaultFolder) -> list[Check]:
    policy = folder.policy()
    async with _asking(settings, folder) as asking:
        keepers = [
            _keeper(policy, k, *asking) if asking else _reach(f"keeper {k}", info.address, info.tls_pin)
            for k, info in policy.keepers.items()
        ]
        nodes = [_reach(f"node {n}", info.address, info.tls_pin) for n, info in policy.nodes.items()]
        return list(await asyncio.gather(*keepers, *nodes))


async def keeper_versions(settings: Settings, folder: VaultFolder) -> dict[str, int]:
    """Return which policy version each keeper has, as far as they say ("keeper a": 2)."""
    found = {}
    async with _asking(settings, folder) as asking:
        for keeper in folder.policy().keepers if asking else ():
            assert asking is not None
            with contextlib.suppress(AnwenError, TimeoutError):  # what is down is named when it is sent to
                found[f"keeper {keeper}"] = (await _state(keeper, *asking)).policy_version
    return found


async def _state(keeper: str, session: Session, purpose: str) -> Header:
    """Return what a keeper signs about itself. Raises TimeoutError too."""
    async with asyncio.timeout(TIMEOUT_S):
        body = wire.encode("state", session.random(wire.SALT_BYTES))
        answer = await session.send(keeper, "state", purpose, body, None)
    return verify_receipt(answer.receipt, session.policy.keepers[keeper].identity)


async def _keeper(policy: Policy, keeper: str, session: Session, purpose: str) -> Check:
    what, before = f"keeper {keeper}", time.time()
    try:
        header = await _state(keeper, session, purpose)
    except TimeoutError:
        return Check("fail", what, f"no answer within {TIMEOUT_S:g} s", failures.UNAVAILABLE)
    except AnwenError as error:
        return Check("fail", what, f"{error.code}: {error}", failures.exit_code(error))
    offset = header.time_ms / 1000 - (before + time.time()) / 2
    text = (
        f"epoch {header.epoch}, generation {header.generation}, policy {header.policy_version}, "
        f"{header.entry:,} log entries, clock {offset:+.1f} s"
    )
    if abs(offset) > CLOCK_FAIL_S:
        return Check("fail", what, f"{text}: set the clocks", failures.UNAVAILABLE)
    if header.policy_version != policy.version:
        return Check("warn", what, f"{text}: not version {policy.version}; anwen policy publish")
    return Check("warn" if abs(offset) > CLOCK_WARN_S else "ok", what, text)


async def _reach(what: str, address: str, pin: bytes) -> Check:
    """Without a grant a service answers its one refusal, and by that shows that it is there and holds its key."""
    pool = Pool(address, pin, limit=1)
    try:
        await pool.post("/v1/state", None, b"", TIMEOUT_S)
    except GrantError:
        pass
    except AnwenError as error:
        code = failures.INTEGRITY if failures.exit_code(error) == failures.INTEGRITY else failures.UNAVAILABLE
        return Check("fail", what, f"{error.code}: {error}", code)
    finally:
        await pool.aclose()
    return Check("ok", what, f"answers at {address} with its pinned key")
