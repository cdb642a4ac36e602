"""What every command shares: which vault, as whom, for which purpose, in which form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from anwen.access import connect, connect_async, open_async
from anwen.access import open as open_embedded
from anwen.cli import output
from anwen.cli.rights import Fits
from anwen.client.session import Timing
from anwen.client.sync import Vault
from anwen.client.vault import AsyncVault
from anwen.errors import GrantError, NotFoundError
from anwen.files import FileFormat, detect_format
from anwen.model import Policy
from anwen.vault_folder import VaultFolder

PATH = click.Path(path_type=Path)
EXISTING = click.Path(path_type=Path, exists=True, dir_okay=False)
TIMING = Timing(deadline_s=10.0)
"""A person waits: a vault that does not run is said not to, after tries that outlive any one lost zone."""


@dataclass
class Settings:
    """The shared options of one call, from the command line or the environment."""

    vault: Path | None = None
    key: str = ""
    purpose: str = ""
    embedded: bool = False
    json: bool = False

    def show(self, items: Sequence[Mapping[str, object]]) -> None:
        """Print items, as a table or as JSON lines."""
        if self.json:
            for item in items:
                output.emit(item)
        else:
            output.table(items)

    def done(self, text: str, **item: object) -> None:
        """Say what was done; with --json, print it too."""
        if self.json:
            output.emit(item)
        output.say(text)

    def folder(self) -> VaultFolder:
        """Return the vault's folder. Raises UsageError, NotFoundError."""
        path = self.vault or (Path() if Path("root.json").exists() else None)
        if path is None:
            raise click.UsageError("which vault? give --vault DIR, set ANWEN_VAULT, or work in the vault's folder")
        return VaultFolder(path.parent if path.name == "vault.toml" else path)

    def principal(self, policy: Policy) -> str:
        """Return who asks. Raises UsageError, NotFoundError."""
        known = ", ".join(policy.principals)
        if not self.key:
            raise click.UsageError(f"who asks? give --as PRINCIPAL or KEYFILE, or set ANWEN_KEY; there are {known}")
        principal = Path(self.key).stem if self.key.endswith(".key") else self.key
        if principal not in policy.principals:
            raise NotFoundError(f"no principal {principal!r}; there are {known}")
        return principal

    def purposes(self, policy: Policy) -> list[str]:
        """Return the purposes of whoever asks."""
        return sorted(policy.roles[policy.principals[self.principal(policy)].role].purposes)

    def why(self, policy: Policy, fits: Fits) -> str:
        """Return the purpose: the one stated, or the only one of the principal's that fits what is asked.

        Raises: UsageError: several fit. NotFoundError, GrantError: not a purpose, or not of this principal.
        """
        known, principal = self.purposes(policy), self.principal(policy)
        if self.purpose and self.purpose not in policy.purposes:
            raise NotFoundError(f"no purpose {self.purpose!r}; there are {', '.join(policy.purposes)}")
        if self.purpose and self.purpose not in known:
            raise GrantError(f"{principal} does not have purpose {self.purpose}; it has {', '.join(known)}")
        fitting = [self.purpose] if self.purpose else [p for p in known if fits(policy, policy.purposes[p])]
        if len(fitting) == 1:
            return fitting[0]
        named = ", ".join(fitting or known)
        raise click.UsageError(f"for which purpose? give --purpose or set ANWEN_PURPOSE; {principal} has {named}")

    def ask(self, fits: Fits) -> Vault:
        """Return the vault: connected, or embedded in this process."""
        folder = self.folder()
        opener = open_embedded if self.embedded else connect
        return opener(folder.path, key=self.key, purpose=self.why(folder.policy(), fits), timing=TIMING)

    async def ask_async(self, fits: Fits) -> AsyncVault:
        """Return the vault for code with an event loop."""
        folder = self.folder()
        purpose = self.why(folder.policy(), fits)
        if self.embedded:
            return await open_async(folder.path, key=self.key, purpose=purpose)
        return connect_async(folder.path, key=self.key, purpose=purpose, timing=TIMING)

    def another(self, vault: Vault, fits: Fits) -> Vault:
        """Return the vault for its purpose if that fits, else for another of the principal's that does.

        Raises: GrantError: none fits.
        """
        stated = vault.asynchronous.purpose
        for name in [stated, *self.purposes(vault.policy)]:
            if fits(vault.policy, vault.policy.purposes[name]):
                return vault.for_purpose(name)
        raise GrantError(f"purpose {stated} does not allow a step of this, nor does another of this principal's")


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Keep a shared option's value: one after the command's name counts more than one before, the environment least."""
    settings, name = ctx.ensure_object(Settings), str(param.name)
    stated = ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE
    if stated or (value and not getattr(settings, name)):
        setattr(settings, name, value)


def _shared(*names: str, **attributes: Any) -> click.Option:
    return click.Option(names, expose_value=False, callback=_keep, **attributes)


SHARED = [
    _shared("--vault", type=PATH, envvar="ANWEN_VAULT", metavar="DIR", help="The vault's folder (default: this one)."),
    _shared("--as", "key", envvar="ANWEN_KEY", metavar="WHO", help="Principal, or its key file ID.key (ANWEN_KEY)."),
    _shared("--purpose", envvar="ANWEN_PURPOSE", metavar="NAME", help="Why you ask (ANWEN_PURPOSE)."),
    _shared("--embedded", is_flag=True, help="Open the vault in this process instead of connecting to a running one."),
    _shared("--json", is_flag=True, help="Machine-readable output; messages go to standard error."),
]
"""The options that every command takes, before or after its name."""


class Command(click.Command):
    """A command that takes the shared options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += SHARED


class Group(click.Group):
    """A group whose commands take the shared options."""

    command_class = Command
    group_class = type


@click.version_option(package_name="anwen", prog_name="anwen")
@click.group(
    cls=Group,
    params=SHARED,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 change the request, 4 denied or budget spent, 5 try again, "
    "6 integrity: stop and alert. docs/cli.md explains each command.",
)
def cli() -> None:
    """Keep personal data in a self-hosted vault."""


def format_of(file_format: str | None, path: Path) -> FileFormat:
    """Return the format that was stated, or what the file's name tells."""
    return FileFormat(file_format) if file_format else detect_format(path)


settings_of = click.make_pass_decorator(Settings, ensure=True)
to_option = click.option(
    "--to", "target", type=PATH, required=True, metavar="FILE", help="A new file; it gets mode 0600."
)
format_option = click.option(
    "--format", "file_format", type=click.Choice(list(FileFormat)), help="Default: by its name."
)
stdin_option = click.option(
    "--stdin", is_flag=True, help="Read FIELD=VALUE lines from standard input: nothing lands in a history."
)
