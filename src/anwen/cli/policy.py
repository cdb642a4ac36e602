"""`anwen policy`: check the vault file, sign it as officers do, send it to keepers and nodes."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from pathlib import Path

import click

from anwen.cli import doctor, failures, output, signing
from anwen.cli.settings import Group, Settings, settings_of
from anwen.errors import AnwenError, PolicyError
from anwen.formats import policy_chain, policy_file
from anwen.formats.policy_template import write_version
from anwen.formats.toml_lines import set_value
from anwen.model import Policy
from anwen.policy import check, difference
from anwen.vault_folder import POLICY_DAYS, SINGLE_MACHINE, VaultFolder, read_key

FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.group("policy", cls=Group)
def policy_command() -> None:
    """Check, sign and publish the policy: the vault file as its officers' quorum signed it."""


def _file(settings: Settings, file: Path | None) -> Path:
    return file or settings.folder().toml


def _read(path: Path) -> Policy:
    return policy_file.parse_toml(path.read_text(encoding="utf-8"), path.name)


@policy_command.command("check")
@click.argument("file", type=FILE, required=False)
@settings_of
def check_command(settings: Settings, file: Path | None) -> None:
    """Explain every mistake in FILE (default: the vault's vault.toml) and what the policy allows."""
    policy = _read(_file(settings, file))
    findings = check.explain(policy, int(time.time()))
    for finding in findings:
        if settings.json:
            output.emit({"level": finding.level, "where": finding.path, "text": finding.text})
        else:
            click.echo(f"{finding}")
    errors = sum(f.level == "error" for f in findings)
    if errors:
        raise PolicyError(f"{errors} findings must be corrected before officers can sign")
    output.say(f"policy {policy.name} version {policy.version}: no errors")
    if policy.single_machine:
        output.say(SINGLE_MACHINE)


@policy_command.command("sign")
@click.argument("file", type=FILE, required=False)
@click.option("--officer", "key_file", type=FILE, required=True, metavar="KEYFILE", help="The officer's key file.")
@click.option("--yes", is_flag=True, help="Sign without asking; for drills, never for a person.")
@settings_of
def sign_command(settings: Settings, file: Path | None, key_file: Path, yes: bool) -> None:
    """Show what would change, sign it as one officer, and make the next version once the quorum has signed."""
    folder, path = settings.folder(), _file(settings, file)
    current, new = folder.policy(), _read(path)
    errors = [f"{f.path}: {f.text}" for f in check.explain(new, int(time.time())) if f.level == "error"]
    if errors:
        raise PolicyError("not signed: " + "\n".join(errors))
    signing.check_successor(current, new)
    key = read_key(key_file)
    officer = signing.officer_of(current, key)
    for line in difference.describe(current, new):
        output.say(line)
    if not yes:
        click.confirm(f"sign version {new.version} as {officer}?", abort=True, err=True)
    draft = signing.Draft.read(path, new)
    if draft.dropped:
        output.say(f"the file has changed since {', '.join(draft.dropped)} signed: those signatures are dropped")
    signed = draft.add(current, officer, policy_chain.sign(new, officer, key))
    have = sorted(draft.signatures)
    if signed is not None:
        published = folder.publish(signed)
        draft.remove()
        output.say(f"version {new.version} is signed by {', '.join(have)}: {published}; next: anwen policy publish")
    else:
        output.say(f"signed by {', '.join(have)}; {current.quorum} different persons are needed")
    if settings.json:
        output.emit({"version": new.version, "signed_by": have, "complete": signed is not None})


@policy_command.command("next")
@click.argument("file", type=FILE, required=False)
@click.option("--renew", is_flag=True, help=f"Also let it expire {POLICY_DAYS} days from now.")
@settings_of
def next_command(settings: Settings, file: Path | None, renew: bool) -> None:
    """Make FILE (default: vault.toml) the version after the signed one: sets `version` and `previous`."""
    folder, path = settings.folder(), _file(settings, file)
    current = folder.policy()
    text = write_version(path.read_text(encoding="utf-8"), current.version + 1, policy_chain.digest(current))
    if renew:
        expires = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=POLICY_DAYS)
        text = set_value(text, ("vault",), "expires", expires.isoformat())
    signing.replace(path, text.encode())
    output.say(f"{path}: now version {current.version + 1}; next: edit it, then anwen policy sign --officer KEYFILE")
    if settings.json:
        output.emit({"version": current.version + 1})


@policy_command.command("show")
@settings_of
def show_command(settings: Settings) -> None:
    """Show the newest signed policy: who may ask what, and for how many people."""
    policy = settings.folder().policy()
    if settings.json:
        output.emit(policy_file.to_json(policy))
        return
    expires = dt.datetime.fromtimestamp(policy.expires_s, dt.UTC).date()
    click.echo(f"{policy.name}, version {policy.version}, expires {expires}, vault {policy.vault.hex()}")
    click.echo(f"keepers {', '.join(policy.keepers)}: any {policy.threshold} answer; nodes {', '.join(policy.nodes)}")
    for collection in policy.collections.values():
        click.echo(
            f"\ncollection {collection.name} (subject: {collection.subject}, kept {collection.retention_days} days)"
        )
        for f in collection.fields:
            marks = " ".join(m for m in (f.index and f"index={f.index}", f.mask and f"mask={f.mask}") if m)
            click.echo(f"  {f.class_name}.{f.name}: {f.kind}{' required' if f.required else ''} {marks}".rstrip())
    stated = policy_file.to_json(policy)["purposes"]
    assert isinstance(stated, dict)
    for name, purpose in stated.items():
        click.echo(f"\npurpose {name}: {purpose.get('legal_basis', '')}")
        for right in ("open", "search", "write", "delete"):
            if purpose[right]:
                click.echo(f"  {right}: {', '.join(purpose[right])}")
    for principal in policy.principals.values():
        role = policy.roles[principal.role]
        budgets = ", ".join(f"{c} {b.per_hour}/h {b.per_day}/day" for c, b in role.budgets.items())
        click.echo(f"\nprincipal {principal.id}: {', '.join(sorted(role.purposes))}; {budgets or 'no budget'}")


@policy_command.command("publish")
@settings_of
def publish_command(settings: Settings) -> None:
    """Send signed versions to every keeper and node that lacks them; say who accepted."""
    folder = settings.folder()
    answers = asyncio.run(_publish(settings, folder))
    failed = [a for a in answers.values() if isinstance(a, AnwenError)]
    for name, answer in answers.items():
        said = f"{answer.code}: {answer}" if isinstance(answer, AnwenError) else f"has version {answer}"
        if settings.json:
            output.emit({"to": name, "accepted": not isinstance(answer, AnwenError), "answer": said})
        else:
            click.echo(f"{name}: {said}")
    if failed:
        output.say("hint: start what is down and publish again; those who accepted keep it")
        raise click.exceptions.Exit(failures.exit_code(failed[0]))


async def _publish(settings: Settings, folder: VaultFolder) -> dict[str, int | AnwenError]:
    policy, documents = folder.policy(), folder.documents()
    versions = await doctor.keeper_versions(settings, folder)
    return await signing.publish(policy, documents, versions)
