"""`anwen backup` and `anwen restore`: the store's sealed bytes on another disk, and back into an empty store."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anwen.backup import archive
from anwen.cli import failures, output
from anwen.cli.rights import opens
from anwen.cli.settings import PATH, Group, Settings, cli, settings_of
from anwen.vault_folder import VaultFolder

if TYPE_CHECKING:
    from anwen.backup.drill import Drilled

wraps_option = click.option(
    "--wraps", type=PATH, metavar="DIR", help="Where the wraps are now (default: SOURCE/wraps)."
)


class _Backup(Group):
    """A group for which whatever is not the name of a command is a backup's target."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["to", *args]
        return super().parse_args(ctx, args)


@cli.group("backup", cls=_Backup)
def backup_group() -> None:
    """Copy the store into a new folder TARGET; check such a copy; open people from one.

    `anwen backup TARGET` is short for `anwen backup to TARGET`.
    """


def _node(folder: VaultFolder) -> Path:
    """Return the node's folder that says how to reach the store: this one, or that of the vault's first node."""
    here = folder.path / "node.json"
    return folder.path if here.exists() else folder.path / "nodes" / next(iter(folder.policy().nodes))


def _about(backup: archive.Backup) -> dict[str, Any]:
    return {**backup.about, "rows": backup.rows(), "sha256": dict(backup.digests)}


def _said(backup: archive.Backup) -> str:
    rows = ", ".join(f"{count:,} of {name}" for name, count in backup.rows().items()) or "no rows at all"
    digests = "\n".join(f"{digest}  {part}/{archive.MANIFEST}" for part, digest in backup.digests.items())
    return f"made {backup.about['made']}, policy {backup.about['policy']}: {rows}\n{digests}"


@backup_group.command("to")
@click.argument("target", type=PATH)
@settings_of
def to_command(settings: Settings, target: Path) -> None:
    """Copy the store, of a running vault or not, into the new folder TARGET: `bulk` and, apart, `wraps`."""
    begun = time.monotonic()
    made = asyncio.run(_back_up(settings.folder(), target))
    settings.done(f"{target}: {_said(made)}\n{time.monotonic() - begun:.1f} s", target=str(target), **_about(made))


async def _back_up(folder: VaultFolder, target: Path) -> archive.Backup:
    files = {f"policy-{i:04}.json": document for i, document in enumerate(folder.documents(), 1)}
    files["root.json"] = (folder.path / "root.json").read_bytes()
    async with archive.opened(folder.policy(), _node(folder)) as store:
        return await archive.back_up(store, folder.policy(), files, target)


@backup_group.command("verify")
@click.argument("source", type=PATH)
@wraps_option
@settings_of
def verify_command(settings: Settings, source: Path, wraps: Path | None) -> None:
    """Check every file of a backup against its manifests. Exit code 6 if one is not as it was written."""
    found = archive.read(source, wraps)
    archive.check(found)
    settings.done(f"{source}: whole; {_said(found)}", source=str(source), **_about(found))


@cli.command("restore")
@click.argument("source", type=PATH)
@wraps_option
@settings_of
def restore_command(settings: Settings, source: Path, wraps: Path | None) -> None:
    """Load a backup into the vault's store, which must be empty: all or nothing. Run it again if it was interrupted."""
    folder, found = settings.folder(), archive.read(source, wraps)
    asyncio.run(_restore(folder, found))
    settings.done(f"restored; {_said(found)}", source=str(source), **_about(found))


async def _restore(folder: VaultFolder, found: archive.Backup) -> None:
    async with archive.opened(folder.policy(), _node(folder), make=True) as store:
        await archive.restore(found, store, folder.policy().vault)


@backup_group.command("drill")
@click.argument("source", type=PATH)
@wraps_option
@click.option(
    "--sample", type=click.IntRange(1, 16_384), default=20, show_default=True, help="How many records to open."
)
@settings_of
def drill_command(settings: Settings, source: Path, wraps: Path | None, sample: int) -> None:
    """Restore SOURCE into an empty store of its own, and open a sample with the running keepers.

    Charged and logged like every opening. The running store is not touched. Exit code 6 if a record does not open.
    """
    found = archive.read(source, wraps)
    begun = time.monotonic()
    done = asyncio.run(_drill(settings, found, sample))
    about = {"records": done.records, "sampled": done.sampled, "opened": done.opened, "failed": done.failed}
    others = "".join(f", {count} {code}" for code, count in sorted(done.failed.items()))
    said = f"{done.opened} of {done.sampled} drawn from {done.records:,} records opened{others}"
    settings.done(f"{said}; {time.monotonic() - begun:.1f} s", source=str(source), **about)
    if set(done.failed) - {"refused"}:
        output.say(f"hint: {failures.HINTS['open']}")
        raise click.exceptions.Exit(failures.INTEGRITY)


async def _drill(settings: Settings, found: archive.Backup, sample: int) -> Drilled:
    from anwen.backup.drill import drill  # noqa: PLC0415 - other commands load no node

    with tempfile.TemporaryDirectory(prefix="anwen-drill-") as scratch:
        async with await settings.ask_async(opens) as vault:
            return await drill(found, vault, sample, Path(scratch))
