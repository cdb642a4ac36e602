"""How an application reaches a vault: `anwen.connect` a running one, `anwen.open` one embedded in this process."""

from __future__ import annotations

from pathlib import Path

from anwen.client.session import Session, Timing
from anwen.client.sync import Loop, Vault
from anwen.client.transport import HttpsTransport, Transport
from anwen.client.vault import AsyncVault
from anwen.errors import NotFoundError
from anwen.vault_folder import VaultFolder, read_key


def _session(
    folder: VaultFolder, key: str | Path, transport: Transport | None, timing: Timing | None, zone: str = ""
) -> Session:
    """Return a session of the principal whose key file this is: a path, or the id of one in the vault's folder."""
    policy = folder.policy()
    path = Path(key)
    if path.suffix != ".key":
        path = folder.path / "principals" / f"{key}.key"
    principal = path.stem
    if principal not in policy.principals:
        known = ", ".join(policy.principals)
        raise NotFoundError(f"no principal {principal!r} in policy version {policy.version}; there are {known}")
    zones = {k.zone for k in policy.keepers.values()}
    if zone and zone not in zones:
        raise NotFoundError(f"no zone {zone!r}; there are {', '.join(sorted(zones))}")
    reach = transport or HttpsTransport(policy)
    return Session(policy, principal, read_key(path), reach, timing=timing or Timing(), zone=zone)


def _folder(vault: str | Path) -> VaultFolder:
    path = Path(vault)
    return VaultFolder(path.parent if path.name == "vault.toml" else path)


def connect_async(
    vault: str | Path, *, key: str | Path, purpose: str, timing: Timing | None = None, zone: str = ""
) -> AsyncVault:
    """Return a running vault as one principal, asking for one purpose, sees it. Nothing is sent yet.

    Args:
        vault: folder with `root.json` and the signed policies, or its `vault.toml`.
        key: the principal's key file `ID.key`, or the id of one in the vault's folder.
        zone: whose node is asked first; without it, all nodes in turn.

    Raises:
        PolicyError: the policy is not signed by its quorum or has expired, or others may read the key.
        NotFoundError: no such vault, key, principal or zone.
    """
    return AsyncVault(_session(_folder(vault), key, None, timing, zone), purpose)


def connect(vault: str | Path, *, key: str | Path, purpose: str, timing: Timing | None = None, zone: str = "") -> Vault:
    """Return `connect_async`'s vault for code without an event loop."""
    return Vault(connect_async(vault, key=key, purpose=purpose, timing=timing, zone=zone), Loop())


async def open_async(vault: str | Path, *, key: str | Path, purpose: str, timing: Timing | None = None) -> AsyncVault:
    """Return a vault whose keepers, node and store run in this process: for development and small uses.

    Raises: as `connect_async`; ConflictError: the vault is running already.
    """
    from anwen.embedded import EmbeddedTransport  # noqa: PLC0415 - a client of a running vault loads no keeper

    folder = _folder(vault)
    transport = await EmbeddedTransport.start(folder)
    try:
        return AsyncVault(_session(folder, key, transport, timing), purpose)
    except BaseException:
        await transport.close()
        raise


def open(vault: str | Path, *, key: str | Path, purpose: str, timing: Timing | None = None) -> Vault:  # noqa: A001
    """Return `open_async`'s vault for code without an event loop."""
    loop = Loop()
    try:
        return Vault(loop.run(open_async(vault, key=key, purpose=purpose, timing=timing)), loop)
    except BaseException:
        loop.close()
        raise
