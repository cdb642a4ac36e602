"""`anwen init` and `anwen up`: make a vault in a folder, run it."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import click

from anwen import supervisor, vault_folder
from anwen.cli import output
from anwen.cli.settings import Settings, command, settings_of
from anwen.errors import UnavailableError
from anwen.vault_folder import SINGLE_MACHINE, VaultFolder


@command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--template", type=click.Choice(vault_folder.TEMPLATES), default="police", show_default=True)
@click.option("--name", default="", help="The vault's name (default: the folder's).")
@settings_of
def init_command(settings: Settings, folder: Path, template: str, name: str) -> None:
    """Make a vault in FOLDER: keys for keepers, officers and principals, and a first signed policy."""
    policy = vault_folder.create(folder, template, name=name).policy()
    if settings.json:
        output.emit(
            {
                "vault": policy.vault.hex(), "folder": str(folder), "collections": list(policy.collections),
                "principals": list(policy.principals), "officers": list(policy.officers),
                "single_machine": policy.single_machine,
            }
        )  # fmt: skip
    else:
        click.echo(f"vault {policy.name} in {folder}: {', '.join(policy.collections)}")
        click.echo(f"principals: {', '.join(policy.principals)} (keys in {folder}/principals)")
        click.echo(f"officers:   {', '.join(policy.officers)} (keys in {folder}/officers; move each to its owner)")
        click.echo(f"\nnext: anwen up {folder}")
        click.echo(f"then, in another terminal: export ANWEN_VAULT={folder}")
        first = next(c.name for c in policy.collections.values() if c.subject == "own")
        click.echo(f"      anwen sample {template}.{first} --to {first}.csv")
        click.echo(f"      anwen import {first} {first}.csv --as importer")
    if policy.single_machine:
        output.say(SINGLE_MACHINE)


@command()
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@settings_of
def up_command(settings: Settings, folder: Path | None) -> None:
    """Run the vault in FOLDER (default: --vault) until Ctrl-C or SIGTERM."""
    if folder is not None:
        settings.vault = folder
    vault = VaultFolder(settings.folder().path.resolve())
    asyncio.run(_up(vault, as_json=settings.json))


async def _up(folder: VaultFolder, *, as_json: bool) -> None:
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    policy = folder.policy()
    starting = asyncio.create_task(supervisor.up(folder, output.say))
    interrupted = asyncio.create_task(stopped.wait())
    await asyncio.wait({starting, interrupted}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        raise click.Abort
    async with await starting as running:
        addresses = {f"keeper {k.id}": k.address for k in policy.keepers.values()}
        addresses |= {f"node {n.id}": n.address for n in policy.nodes.values()}
        if as_json:
            output.emit({"ready": True, "addresses": addresses, "policy_version": policy.version})
        else:
            click.echo(f"ready: {policy.name}, policy version {policy.version}; " + ", ".join(addresses))
        if policy.single_machine:
            output.say(SINGLE_MACHINE)
        ended = asyncio.create_task(running.wait())
        done, pending = await asyncio.wait({ended, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        if ended in done:
            name = ended.result()
            raise UnavailableError(f"{name} ended by itself; the others were stopped; see process.log in its folder")
    output.say("stopped")
