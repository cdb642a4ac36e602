"""`anwen init`, `up`, `sample` and `bench`: make a vault in a folder, run it, make data for it, measure it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import click

from anwen import sample, supervisor, vault_folder
from anwen.cli import failures, output
from anwen.cli.settings import PATH, Settings, cli, format_of, format_option, settings_of, to_option
from anwen.errors import ConflictError, MalformedError, NotFoundError, UnavailableError
from anwen.formats.policy_schema import ENGINES
from anwen.model import SERIES
from anwen.vault_folder import SINGLE_MACHINE, Shape, VaultFolder

NEXT = """vault {name} in {folder}: {collections}
principals: {principals} (keys in {folder}/principals)
officers:   {officers} (keys in {folder}/officers; move each to its owner)

next: anwen up {folder}
then, in another terminal: export ANWEN_VAULT={folder}
      anwen sample {template}.{first} --to {first}.csv
      anwen import {first} {first}.csv --as importer"""


@cli.command("init")
@click.argument("folder", type=PATH)
@click.option("--template", type=click.Choice(vault_folder.TEMPLATES), default="police", show_default=True)
@click.option("--name", default="", help="The vault's name (default: the folder's).")
@click.option("--engine", type=click.Choice(ENGINES), default="sqlite", show_default=True)
@click.option("--store", "store_file", type=PATH, help="JSON file that says how nodes reach the engine's servers.")
@settings_of
def init(settings: Settings, folder: Path, *, template: str, name: str, engine: str, store_file: Path | None) -> None:
    """Make a vault in FOLDER: keys for keepers, officers and principals, and a first signed policy."""
    policy = vault_folder.create(folder, template, name=name, shape=_shape(engine, store_file)).policy()
    named = {n: list(getattr(policy, n)) for n in ("collections", "principals", "officers")}
    if settings.json:
        about = {"vault": policy.vault.hex(), "folder": str(folder), "single_machine": policy.single_machine}
        output.emit(about | named)
    else:
        first = next(c.name for c in policy.collections.values() if c.subject == "own")
        listed = {n: ", ".join(ids) for n, ids in named.items()}
        click.echo(NEXT.format(name=policy.name, folder=folder, template=template, first=first, **listed))
    if policy.single_machine:
        output.say(SINGLE_MACHINE)


def _shape(engine: str, store_file: Path | None) -> Shape:
    """Return one node and a file for SQLite; for servers that every zone reaches, a node in each."""
    if (engine == "sqlite") != (store_file is None):
        raise MalformedError(f"engine {engine}: expected {'no' if store_file else 'a'} --store FILE")
    if store_file is None:
        return Shape()
    try:
        store = json.loads(store_file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise MalformedError(f"{store_file}: expected a JSON object ({type(error).__name__})") from error
    if not isinstance(store, dict):
        raise MalformedError(f"{store_file}: expected a JSON object")
    return Shape(nodes=Shape().zones, engine=engine, store=store)


@cli.command("ceremony")
@click.argument("keeper", type=PATH)
@settings_of
def ceremony(settings: Settings, keeper: Path) -> None:
    """Have all keepers make the first keys, from the machine of one of them, whose folder KEEPER is.

    Every keeper of the policy has to run. What is there already stays as it is.
    """
    policy = asyncio.run(supervisor.hold_ceremonies(keeper))
    if settings.json:
        output.emit({"series": list(SERIES), "keepers": list(policy.keepers)})
    else:
        click.echo(f"{policy.name}: keepers {', '.join(policy.keepers)} hold the keys of {', '.join(SERIES)}")


@cli.command("up")
@click.argument("folder", type=PATH, required=False)
@settings_of
def up(settings: Settings, folder: Path | None) -> None:
    """Run the vault in FOLDER (default: --vault) until Ctrl-C or SIGTERM."""
    settings.vault = folder or settings.vault
    try:
        asyncio.run(_up(VaultFolder(settings.folder().path.resolve()), as_json=settings.json))
    except asyncio.CancelledError:
        raise click.Abort from None  # before it served


async def _up(folder: VaultFolder, *, as_json: bool) -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    policy = folder.policy()
    addresses = {f"keeper {k.id}": k.address for k in policy.keepers.values()}
    addresses |= {f"node {n.id}": n.address for n in policy.nodes.values()}
    async with await supervisor.up(folder, output.say) as running:
        if as_json:
            output.emit({"ready": True, "addresses": addresses, "policy_version": policy.version})
        else:
            click.echo(f"ready: {policy.name}, policy version {policy.version}; " + ", ".join(addresses))
        if policy.single_machine:
            output.say(SINGLE_MACHINE)
        try:
            name = await running.wait()
        except asyncio.CancelledError:
            output.say("stopping")
            return
        raise UnavailableError(f"{name} ended by itself; the others were stopped; see process.log in its folder")


@cli.command("sample")
@click.argument("kind", type=click.Choice(list(sample.KINDS)))
@click.option("--count", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--people", type=click.IntRange(min=1), help="Persons the rows refer to (default: as go with COUNT).")
@to_option
@format_option
@settings_of
def sample_command(
    settings: Settings, *, kind: str, count: int, seed: int, people: int | None, target: Path, file_format: str | None
) -> None:
    """Write COUNT made-up rows of KIND to a file, the same for the same seed.

    KIND is a template and one of its collections. Rows about others' persons refer to those of the same seed.
    """
    if target.exists():
        raise ConflictError(f"{target}: exists")
    started = time.monotonic()
    sample.write_sample(kind, count, seed, target, format_of(file_format, target), people=people)
    elapsed = time.monotonic() - started
    about = {"kind": kind, "count": count, "seed": seed, "file": str(target), "seconds": round(elapsed, 3)}
    settings.done(f"{count:,} {kind} written to {target} in {elapsed:.1f} s", **about)


@cli.command("bench")
@click.argument("name", default="")
@click.option("--quick", is_flag=True, help="Small sizes: checks that answers are right, says nothing about speed.")
def bench(name: str, quick: bool) -> None:
    """Run the measurement NAME (default: all) of docs/benchmarks.md, which lie in the source tree."""
    script = Path(__file__).resolve().parents[3] / "bench" / "run.py"
    if not script.is_file():
        raise NotFoundError("measurements are in the source tree, not in the installed package: bench/run.py")
    command = [sys.executable, str(script), *([name] if name else []), *(["--quick"] if quick else [])]
    if subprocess.run(command, check=False).returncode:  # noqa: S603 - our own script
        raise click.exceptions.Exit(failures.FAILED)
