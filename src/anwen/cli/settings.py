"""What every command shares: which vault, as whom, for which purpose, in which form."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from anwen.access import connect, connect_async, open_async
from anwen.access import open as open_embedded
from anwen.client.sync import Vault
from anwen.client.vault import AsyncVault
from anwen.errors import GrantError, NotFoundError
from anwen.model import Collection, Policy, Purpose
from anwen.vault_folder import VaultFolder

Fits = Callable[[Policy, Purpose], bool]


@dataclass
class Settings:
    """The shared options of one call, from the command line or the environment."""

    vault: Path | None = None
    key: str | None = None
    purpose: str | None = None
    embedded: bool = False
    json: bool = False

    def folder(self) -> VaultFolder:
        """Return the vault's folder. Raises UsageError, NotFoundError."""
        path = self.vault or (Path() if Path("root.json").exists() else None)
        if path is None:
            raise click.UsageError("which vault? give --vault DIR, set ANWEN_VAULT, or work in the vault's folder")
        return VaultFolder(path.parent if path.name == "vault.toml" else path)

    def principal(self, policy: Policy) -> str:
        """Return who asks. Raises UsageError."""
        if not self.key:
            known = ", ".join(policy.principals)
            raise click.UsageError(f"who asks? give --as PRINCIPAL or KEYFILE, or set ANWEN_KEY; there are {known}")
        return Path(self.key).stem if self.key.endswith(".key") else self.key

    def why(self, policy: Policy, fits: Fits) -> str:
        """Return the purpose: the one stated, or the only one of the principal's that fits what is asked.

        Raises: UsageError: several fit. NotFoundError, GrantError: not a purpose, or not of this principal.
        """
        principal = self.principal(policy)
        if principal not in policy.principals:
            raise NotFoundError(f"no principal {principal!r}; there are {', '.join(policy.principals)}")
        role = policy.roles[policy.principals[principal].role]
        known = sorted(role.purposes)
        if self.purpose:
            if self.purpose not in policy.purposes:
                raise NotFoundError(f"no purpose {self.purpose!r}; there are {', '.join(policy.purposes)}")
            if self.purpose not in role.purposes:
                raise GrantError(f"{principal} does not have purpose {self.purpose}; it has {', '.join(known)}")
            return self.purpose
        fitting = [p for p in known if fits(policy, policy.purposes[p])]
        if len(fitting) == 1:
            return fitting[0]
        named = ", ".join(fitting or known)
        raise click.UsageError(f"for which purpose? give --purpose or set ANWEN_PURPOSE; {principal} has {named}")

    @contextlib.contextmanager
    def ask(self, fits: Fits = lambda *_: True) -> Iterator[Vault]:
        """Open the vault for as long as the context lasts: connected, or embedded in this process."""
        folder = self.folder()
        policy = folder.policy()
        purpose = self.why(policy, fits)
        opener = open_embedded if self.embedded else connect
        with opener(folder.path, key=self.key or "", purpose=purpose) as vault:
            yield vault

    def another(self, vault: Vault, fits: Fits) -> Vault:
        """Return the vault for its purpose if that fits, else for another of the principal's that does.

        Raises: GrantError: none fits.
        """
        policy, stated = vault.policy, vault.asynchronous.purpose
        role = policy.roles[policy.principals[self.principal(policy)].role]
        for name in [stated, *sorted(role.purposes)]:
            if fits(policy, policy.purposes[name]):
                return vault.for_purpose(name)
        raise GrantError(f"purpose {stated} does not allow a step of this, nor does another of this principal's")

    async def ask_async(self, fits: Fits) -> AsyncVault:
        """Return the vault for code with an event loop."""
        folder = self.folder()
        purpose = self.why(folder.policy(), fits)
        if self.embedded:
            return await open_async(folder.path, key=self.key or "", purpose=purpose)
        return connect_async(folder.path, key=self.key or "", purpose=purpose)


def collection_of(policy: Policy, name: str) -> Collection:
    """Return a collection by name. Raises NotFoundError."""
    if name not in policy.collections:
        raise NotFoundError(f"no collection {name!r}; there are {', '.join(policy.collections)}")
    return policy.collections[name]


def masked_classes(policy: Policy, purpose: str, collection: Collection) -> list[str]:
    """Return the renditions of a collection that a purpose may open and that show anything."""
    allowed = policy.purposes[purpose].open
    shown = {f.class_name for f in collection.fields if f.mask}
    classes = [c for c in collection.classes if c.name in shown and (collection.id, c.rendition_id) in allowed]
    return [f"{c.name}.masked" for c in classes]


def check_opens(policy: Policy, purpose: str, collection: Collection, classes: Sequence[str]) -> None:
    """Say at once what keepers would refuse without saying why. Raises NotFoundError, GrantError."""
    for name in classes:
        plain = name.removesuffix(".masked")
        if plain not in collection.class_named:
            raise NotFoundError(f"{collection.name}: no class {plain!r}; there are {', '.join(collection.class_named)}")
        found = collection.class_named[plain]
        if (collection.id, found.id if plain == name else found.rendition_id) not in policy.purposes[purpose].open:
            raise GrantError(f"purpose {purpose} may not open {collection.name}.{name}")


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value not in (None, False):
        setattr(ctx.ensure_object(Settings), str(param.name), value)


def shared_options(*, environment: bool) -> list[click.Option]:
    """Return the options that every command takes, before or after its name; the environment counts least."""
    table = (
        ("vault", ["--vault"], "ANWEN_VAULT", "DIR", "The vault's folder (ANWEN_VAULT; default: this folder)."),
        ("key", ["--as", "key"], "ANWEN_KEY", "WHO", "Principal, or its key file ID.key (ANWEN_KEY)."),
        ("purpose", ["--purpose"], "ANWEN_PURPOSE", "NAME", "Why you ask (ANWEN_PURPOSE)."),
    )
    types: dict[str, Any] = {"vault": click.Path(path_type=Path)}
    options = [
        click.Option(
            names, metavar=metavar, help=text, type=types.get(name, str), expose_value=False, callback=_keep,
            envvar=variable if environment else None,
        )
        for name, names, variable, metavar, text in table
    ]  # fmt: skip
    flags = (
        ("--embedded", "Open the vault in this process instead of connecting to a running one."),
        ("--json", "Machine-readable output; messages go to standard error."),
    )
    options += [click.Option([f], is_flag=True, help=text, expose_value=False, callback=_keep) for f, text in flags]
    return options


class Command(click.Command):
    """A command that takes the shared options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += shared_options(environment=False)


class Group(click.Group):
    """A group whose commands take the shared options."""

    command_class = Command


def command(name: str | None = None, **kwargs: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Return a decorator that makes a `Command`."""
    return click.command(name, cls=Command, **kwargs)


settings_of = click.make_pass_decorator(Settings, ensure=True)
