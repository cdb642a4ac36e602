"""What operators do, done while a zone is dead: start, change the policy, sign, sign in.

No step may need the dead zone (docs/dependencies-of-start.md): in 2022 a cooling fault in one zone of a cloud region
kept users elsewhere in it from starting, scaling and failing over, because those needed the dead zone.
"""

from __future__ import annotations

import datetime as dt

import anwen
from anwen import signing
from anwen.errors import AnwenError, UnavailableError
from anwen.formats import policy_chain, policy_file
from anwen.formats.policy_chain import SignedPolicy
from anwen.formats.policy_template import write_version
from anwen.formats.toml_lines import set_value
from anwen.rehearse.outage.zones import PARTS, ZONES, Zones
from anwen.vault_folder import VaultFolder, read_key

EXPIRES_DAYS = 60


async def without(zones: Zones, zone: str, _: int) -> str:
    """Kill a zone, then do every step; return what was done. Raises AnwenError: a step needs that zone."""
    await zones.kill(zone, PARTS)
    rest = [each for each in ZONES if each != zone]
    for each in rest:
        await zones.terminate(each)
        await zones.restart(each)
    version = await change_policy(zones.folder, rest)
    await sign_in(zones.folder)
    return f"zones {' and '.join(rest)} started, policy {version} signed and in force, a new client opened a person"


async def catch_up(zones: Zones, zone: str) -> None:
    """Start the zone, and give it the policy versions that it missed. Raises UnavailableError."""
    await zones.restart(zone)
    await _publish(zones.folder, [zone])


async def change_policy(folder: VaultFolder, zones: list[str]) -> int:
    """Make a next version, have a quorum of officers sign it, give it to these zones; return its number."""
    current = folder.policy()
    text = write_version(folder.toml.read_text(encoding="utf-8"), current.version + 1, policy_chain.digest(current))
    # never the same twice, so that each rehearsal changes something that people can see
    days = dt.timedelta(days=EXPIRES_DAYS + current.version)
    text = set_value(text, ("vault",), "expires", (dt.datetime.now(dt.UTC).date() + days).isoformat())
    new = policy_file.parse_toml(text, folder.toml.name)
    signing.check_successor(current, new)
    signed = SignedPolicy(new, {})
    for path in sorted((folder.path / "officers").glob("*.key")):
        key = read_key(path)
        officer = signing.officer_of(current, key)
        signed = SignedPolicy(new, {**signed.signatures, officer: policy_chain.sign(new, officer, key)})
        if signing.has_quorum(current, signed):
            break
    signing.replace(folder.toml, text.encode())
    folder.publish(signed)
    await _publish(folder, zones)
    return new.version


async def _publish(folder: VaultFolder, zones: list[str]) -> None:
    policy = folder.policy()
    answers = await signing.publish(policy, folder.documents(), {})
    for part in ("keeper", "node"):
        for zone in zones:
            answer = answers[f"{part} {zone}"]
            if answer != policy.version:
                raise UnavailableError(f"{part} {zone} has not taken policy {policy.version}: {answer}")


async def sign_in(folder: VaultFolder) -> None:
    """Open a person as a client that begins now. Raises UnavailableError: it cannot."""
    try:
        async with anwen.connect_async(folder.path, key="checker", purpose="work") as vault:
            async for record in vault.scan("person", ["contact"]):
                await vault.open([record], ["contact"])
                return
    except AnwenError as error:
        raise UnavailableError(f"a new client cannot open a person: {error}") from error
    raise UnavailableError("there is nobody to open")
