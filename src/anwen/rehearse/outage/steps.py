"""What operators do, done while a zone is dead: start, add a client, move a node, change the policy, sign in.

No step may need the dead zone (docs/dependencies-of-start.md): in 2022 a cooling fault in one zone of a cloud region
kept users elsewhere in it from starting, scaling and failing over, because those needed the dead zone.
"""

from __future__ import annotations

import base64
import shutil
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anwen
from anwen import signing
from anwen.client.vault import AsyncVault
from anwen.errors import AnwenError, NotFoundError, UnavailableError
from anwen.formats import policy_chain, policy_file
from anwen.formats.policy_template import write_version
from anwen.formats.toml_lines import set_value
from anwen.net import tls
from anwen.net.ports import free_port
from anwen.rehearse import officers
from anwen.rehearse.outage import load
from anwen.rehearse.outage.zones import PARTS, ZONES, Zones, ask_node
from anwen.sample import MAX_RESIDENTS
from anwen.vault_folder import make_key, public_der


@dataclass
class Site:
    """A vault of which some zones live, and what the steps have made of its next policy."""

    zones: Zones
    living: Sequence[str]
    text: str = ""  # of the next version's file
    client: str = ""  # the principal that it adds
    node: Path = field(default_factory=Path)  # the folder of the node that it moves, in the first living zone


async def without(zones: Zones, zone: str, _: int) -> str:
    """Kill a zone, then do every step; return what was done. Raises UnavailableError: a step needs that zone."""
    await zones.kill(zone, PARTS)
    site = Site(zones, [each for each in ZONES if each != zone], zones.folder.toml.read_text(encoding="utf-8"))
    for name, step in STEPS:
        try:
            await step(site)
        except AnwenError as error:
            raise UnavailableError(f"without zone {zone}: {name}: {error}") from error
    return f"with zones {' and '.join(site.living)} alone: {'; '.join(dict(STEPS))}"


async def catch_up(zones: Zones, zone: str) -> None:
    """Start the zone, and give it the policy versions that it missed. Raises UnavailableError."""
    await zones.restart(zone)
    await _publish(Site(zones, [zone]))


async def _restart(site: Site, parts: Collection[str]) -> None:
    for zone in site.living:
        await site.zones.terminate(zone, parts)
        await site.zones.restart(zone)


async def _add_client(site: Site) -> None:
    """Make the key of a new principal, and name it in the next policy."""
    folder = site.zones.folder
    site.client = f"newcomer{folder.policy().version}"
    key = base64.b64encode(public_der(make_key(folder.path / "principals" / f"{site.client}.key"))).decode()
    site.text += f'\n[principals.{site.client}]\nrole = "client"\nkey = "{key}"\n'


async def _prepare_node(site: Site) -> None:
    """Make a folder with a key of its own for a living zone's node, and name key and a new address in the policy."""
    zone, folder = site.living[0], site.zones.folder
    old, policy = (folder.path / "nodes" / zone).resolve(), folder.policy()
    site.node = shutil.copytree(old, old.with_name(f"node{policy.version}"))
    key, certificate = tls.make_certificate(f"node-{zone}")
    (site.node / "tls.key").write_bytes(key)
    (site.node / "tls.crt").write_bytes(certificate)
    address = f"{policy.nodes[zone].address.rpartition(':')[0]}:{free_port()}"
    node = f'{{ address = "{address}", tls_pin = "{tls.pin_of_pem(certificate).hex()}" }}'
    site.text = set_value(site.text, ("zones", zone), "node", node)


async def _sign(site: Site) -> None:
    """Have a quorum of officers sign the next version."""
    folder = site.zones.folder
    current = folder.policy()
    text = write_version(site.text, current.version + 1, policy_chain.digest(current))
    new = policy_file.parse_toml(text, folder.toml.name)
    signing.check_successor(current, new)
    signed = officers.sign(folder, current, new)
    signing.replace(folder.toml, text.encode())
    folder.publish(signed)


async def _move_node(site: Site) -> None:
    """Start the node at its new address, under the policy that names it, in place of the old one."""
    shutil.copytree(site.zones.folder.path / "policy", site.node / "policy", dirs_exist_ok=True)
    await site.zones.move_node(site.living[0], site.node)


async def _publish(site: Site) -> None:
    """Give living zones the newest policy, which a moved node has. Raises UnavailableError: one did not take it."""
    folder, policy = site.zones.folder, site.zones.folder.policy()
    has = {f"node {site.living[0]}": policy.version} if site.client else {}
    answers = await signing.publish(policy, folder.documents(), has)
    for part in ("keeper", "node"):
        for zone in site.living:
            answer = answers[f"{part} {zone}"]
            if answer != policy.version:
                raise UnavailableError(f"{part} {zone} has not taken policy {policy.version}: {answer}")
    await site.zones.follow()


def _connect(site: Site) -> AsyncVault:
    return anwen.connect_async(site.zones.folder.path, key=site.client, purpose="work", zone=site.living[0])


async def _begin(site: Site) -> None:
    """Be known to the moved node, and open a person, as the new principal. Raises NotFoundError: there is nobody."""
    async with _connect(site) as vault:
        await ask_node(vault.session, site.living[0], "work")
        async for record in vault.scan("person", ["contact"]):
            await vault.open([record], ["contact"])
            return
    raise NotFoundError("there is nobody to open")


async def _use(site: Site) -> None:
    """Put, find, open and delete a person whom the load never puts. Raises NotFoundError: not found as it was put."""
    (person,) = load.person([MAX_RESIDENTS - site.zones.policy.version])
    async with _connect(site) as vault:
        await vault.put("person", person)
        records = await vault.find("person", ["identity"], id_number=person["id_number"])
        if [values["name"] for values in await vault.open(records, ["identity"])] != [person["name"]]:
            raise NotFoundError("a person is not found as it was put")
        await vault.delete(records)


STEPS: Sequence[tuple[str, Callable[[Site], Awaitable[None]]]] = (
    ("start a keeper", partial(_restart, parts=["keeper"])),
    ("start a node", partial(_restart, parts=["node", "database"])),
    ("add a client", _add_client),
    ("add or move a node", _prepare_node),
    ("make and sign a policy", _sign),
    ("add or move a node", _move_node),
    ("publish a policy", _publish),
    ("begin as a client", _begin),
    ("put, find, open, delete", _use),
)
"""In order, by their names in docs/dependencies-of-start.md, where they are marked."""
