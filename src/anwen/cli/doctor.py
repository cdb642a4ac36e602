"""`anwen doctor`: is the vault whole and running, is this machine fit for it. Changes nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import click

from anwen.cli import output
from anwen.cli.doctor_services import Check, disk, sampled, services
from anwen.cli.settings import Settings, cli, settings_of
from anwen.errors import AnwenError
from anwen.formats import policy_chain, policy_file
from anwen.vault_folder import SINGLE_MACHINE, VaultFolder, read_toml

EXPIRY_WARN_DAYS = 14


@cli.command("doctor")
@click.option("--sample", type=click.IntRange(0, 1024), default=0, help="Open so many records of each collection (0).")
@settings_of
def doctor(settings: Settings, sample: int) -> None:
    """Check policy, keepers, nodes, store, clocks, files and this machine. Exit code: the worst failure's.

    With --sample, also whether records drawn at random open, and their renditions are masks of what they hold: all that
    the purpose opens, charged and logged like every opening.
    """
    folder = settings.folder()
    checks = [*_policy(folder), *_files(folder), *_machine(folder), *asyncio.run(services(settings, folder))]
    if sample:
        checks += asyncio.run(sampled(settings, sample))
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
            edited = policy_chain.digest(policy_file.parse_toml(read_toml(folder.toml))) != policy_chain.digest(policy)
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
    yield disk("disk", shutil.disk_usage(folder.path).free)
