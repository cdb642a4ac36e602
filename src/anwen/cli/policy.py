"""`anwen policy`: check the vault file, sign it as officers do, send it to keepers and nodes."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import time
from pathlib import Path

import click

from anwen import signing
from anwen.cli import doctor_services, failures, output
from anwen.cli.settings import EXISTING, Settings, cli, settings_of
from anwen.errors import AnwenError, GrantError, NotFoundError, PolicyError
from anwen.formats import policy_chain, policy_file
from anwen.formats.policy_chain import SignedPolicy
from anwen.formats.policy_template import write_version
from anwen.formats.toml_lines import set_value
from anwen.model import Policy
from anwen.policy import check, difference
from anwen.vault_folder import POLICY_DAYS, SINGLE_MACHINE, VaultFolder, read_key, read_toml

file_argument = click.argument("file", type=EXISTING, required=False)


@cli.group("policy")
def policy_group() -> None:
    """Check, sign and publish the policy: the vault file as its officers' quorum signed it."""


def _file(settings: Settings, file: Path | None) -> Path:
    return file or settings.folder().toml


def _read(path: Path) -> Policy:
    return policy_file.parse_toml(read_toml(path), path.name)


@policy_group.command("check")
@file_argument
@settings_of
def check_command(settings: Settings, file: Path | None) -> None:
    """Explain every mistake in FILE (default: the vault's vault.toml) and what the policy allows."""
    policy = _read(_file(settings, file))
    findings = check.explain(policy, int(time.time()))
    settings.show([{"level": f.level, "where": f.path, "text": f.text} for f in findings])
    errors = sum(f.level == "error" for f in findings)
    if errors:
        raise PolicyError(f"{errors} findings must be corrected before officers can sign")
    _check_kept(settings, policy)
    output.say(f"policy {policy.name} version {policy.version}: no errors")
    if policy.single_machine:
        output.say(SINGLE_MACHINE)


def _check_kept(settings: Settings, policy: Policy) -> None:
    """Raise PolicyError where the vault at hand could not follow this policy, if it is one of that vault."""
    with contextlib.suppress(click.UsageError, NotFoundError):  # a file without a vault
        current = settings.folder().policy()
        if policy.vault == current.vault and policy.version >= current.version:
            policy_chain.check_kept(current, policy)


@policy_group.command("sign")
@file_argument
@click.option("--officer", "key_file", type=EXISTING, required=True, metavar="KEYFILE", help="The officer's key file.")
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
    draft = path.with_name(path.name + ".signatures.json")
    signatures, dropped = signing.collected(draft, new)
    if dropped:
        output.say(f"the file has changed since {', '.join(dropped)} signed: those signatures are dropped")
    signed = SignedPolicy(new, signatures | {officer: policy_chain.sign(new, officer, key)})
    signing.replace(draft, policy_chain.encode_signed(signed))
    have, complete = sorted(signed.signatures), signing.has_quorum(current, signed)
    if complete:
        published = folder.publish(signed)
        draft.unlink()
        then = _then(signing.moved(current, new))
        said = f"version {new.version} is signed by {', '.join(have)}: {published}; next: {then}"
    else:
        said = f"signed by {', '.join(have)}; {current.quorum} different persons are needed"
    settings.done(said, version=new.version, signed_by=have, complete=complete)


def _then(moved: list[str]) -> str:
    """Return what is to be done with a signed version; `moved`: as `signing.moved` returns."""
    first = f"copy it into policy/ of the folder of {', '.join(moved)}, and start that anew; then " if moved else ""
    return f"{first}anwen policy publish"


@policy_group.command("next")
@file_argument
@click.option("--renew", is_flag=True, help=f"Also let it expire {POLICY_DAYS} days from now.")
@settings_of
def next_command(settings: Settings, file: Path | None, renew: bool) -> None:
    """Make FILE (default: vault.toml) the version after the signed one: sets `version` and `previous`."""
    folder, path = settings.folder(), _file(settings, file)
    current = folder.policy()
    text = write_version(read_toml(path), current.version + 1, policy_chain.digest(current))
    if renew:
        expires = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=POLICY_DAYS)
        text = set_value(text, ("vault",), "expires", expires.isoformat())
    signing.replace(path, text.encode())
    said = f"{path}: now version {current.version + 1}; next: edit it, then anwen policy sign --officer KEYFILE"
    settings.done(said, version=current.version + 1)


@policy_group.command("show")
@settings_of
def show_command(settings: Settings) -> None:
    """Show the newest signed policy, as JSON: what officers signed, and keepers follow."""
    content = policy_file.to_json(settings.folder().policy())
    if settings.json:
        output.emit(content)
    else:
        click.echo(json.dumps(content, indent=2, ensure_ascii=True))


@policy_group.command("publish")
@settings_of
def publish_command(settings: Settings) -> None:
    """Send signed versions to every keeper and node that lacks them; say who accepted."""
    answers = asyncio.run(_publish(settings, settings.folder()))
    refused = {name: a for name, a in answers.items() if isinstance(a, AnwenError)}
    said = {name: f"{a.code}: {a}" if isinstance(a, AnwenError) else f"has version {a}" for name, a in answers.items()}
    settings.show([{"to": name, "accepted": name not in refused, "answer": said[name]} for name in answers])
    if refused:
        if any(not isinstance(error, GrantError) for error in refused.values()):
            output.say("hint: start what is down and publish again; those who accepted keep it")
        raise click.exceptions.Exit(max(map(failures.exit_code, refused.values())))


async def _publish(settings: Settings, folder: VaultFolder) -> dict[str, int | AnwenError]:
    versions = await doctor_services.policy_versions(settings, folder)
    return await signing.publish(folder.policy(), folder.documents(), versions)
