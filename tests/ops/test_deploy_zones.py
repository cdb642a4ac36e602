"""Who can touch what (K1): nothing but a zone's own units and containers reaches that zone's folders, and no name is in two.

Read from the files that are shipped; each way in which zones are commonly joined is put into them, and found.
"""

import copy
import itertools
import posixpath
import re

import pytest
import yaml
from tests.ops.test_deploy import COMPOSE, DEPLOY, UNITS, drop_in

ZONES = "abc"
SHARED = {"/opt/anwen/bin/anwen-keeper", "/opt/anwen/bin/anwen-node", "/usr/share/doc/anwen/operations.md"}
"""Programs and pages, which nobody writes to."""
OWN = {  # what a container may have that reaches nothing outside of it, or is every machine's own
    "image", "network_mode", "user", "read_only", "restart", "init", "stop_grace_period", "security_opt", "cap_drop",
    "pids_limit", "tmpfs", "logging", "mem_limit", "memswap_limit", "oom_score_adj", "ulimits", "profiles", "command",
}  # fmt: skip
NAMES = re.compile(
    r"(Load|Set|Import)Credential\w*|EnvironmentFile|Bind\w*Paths|\w+Directory|JoinsNamespaceOf|Sockets|Slice|BindsTo|PartOf"
    r"|Requires|Delegate\w*|NetworkNamespacePath|IPCNamespacePath|Root\w+|PassEnvironment|FileDescriptor\w+|Open\w+"
)
"""Settings of units that name what two units might share."""


def of_compose(compose):
    """(zone, what) for all that containers reach. Whatever is in neither list counts as shared by all."""
    for name in set(compose) - {"name", "services"}:
        if not name.startswith("x-"):
            yield from ((zone, f"{name} of all") for zone in ZONES)
    for name, service in compose["services"].items():
        zone = name.rpartition("-")[2]
        assert service["profiles"] == [f"zone-{zone}"]
        for volume in service.get("volumes", []):
            yield zone, posixpath.normpath(re.sub(r"\$\{ANWEN_DIR[^}]*\}", "/var/lib/anwen", volume).partition(":")[0])
        for setting in set(service) - OWN - {"volumes"}:
            for value in service[setting] if isinstance(service[setting], list) else [service[setting]]:
                yield zone, f"{setting} {value}"


def of_units(texts):
    """(zone, what) for all that each zone's instances of the units name or may write to."""
    for text, zone in itertools.product(texts, ZONES):
        for line in text.replace("%i", zone).splitlines():
            name, _, value = line.partition("=")
            if line and line[0] not in "#[":
                paths = {posixpath.normpath(p) for p in re.findall(r"(?<![\w~])/[\w./@-]+", value)}
                yield from ((zone, path) for path in paths - SHARED)
                if NAMES.fullmatch(name):
                    yield zone, f"{name} {value}"


def in_two_zones(touched):
    """What one zone reaches and another has, too: by the same name, or in a folder that it has."""
    found = set()
    for (zone, what), (other, its) in itertools.product(set(touched), repeat=2):
        if zone != other and (what == its or (what[0] == its[0] == "/" and its.startswith(what.rstrip("/") + "/"))):
            found.add(what)
    return found


def test_no_container_reaches_what_is_another_zones():
    touched = list(of_compose(COMPOSE))
    assert in_two_zones(touched) == set()
    assert set(touched) == {(z, f"/var/lib/anwen/{kind}/{z}") for z in ZONES for kind in ("keepers", "nodes")}


def test_no_unit_reaches_what_is_another_zones():
    touched = list(of_units([path.read_text() for path in UNITS]))
    assert in_two_zones(touched) == set()
    assert set(touched) == {(z, f"/var/lib/anwen/{kind}/{z}") for z in ZONES for kind in ("keepers", "nodes")}


def test_the_drop_in_of_the_page_joins_no_zones():
    assert in_two_zones(of_units([path.read_text() + drop_in() for path in UNITS if "keeper" in path.name])) == set()


def test_no_other_file_names_a_zones_folder():
    ours = {*UNITS, DEPLOY / "compose.yaml"}
    for path in (p for p in DEPLOY.rglob("*") if p.is_file() and p not in ours):
        assert not re.search(r"(keepers|nodes)/|ANWEN_DIR|identity\.key|tls\.key|/secrets/", path.read_text()), path


@pytest.mark.parametrize(
    ("service", "change"),
    [
        ("keeper-a", {"volumes": ["${ANWEN_DIR:?}/keepers/b:/keeper"]}),
        ("keeper-a", {"volumes": ["${ANWEN_DIR:?}:/keeper"]}),
        ("keeper-a", {"volumes": ["${ANWEN_DIR:?}/keepers/a/../b:/keeper"]}),
        ("node-b", {"volumes": ["/:/host"]}),
        *(("all", {k: [v]}) for k, v in (("secrets", "identity"), ("networks", "back"), ("configs", "tls"), ("env_file", "env"))),
        *(("all", {k: v}) for k, v in (("pid", "host"), ("ipc", "host"), ("cgroup_parent", "x"), ("userns_mode", "host"))),
        ("all", {"volumes_from": ["keeper-a"]}),
        ("all", {"volumes": ["shared:/shared"]}),
        ("top", {"volumes": {"shared": {}}}), ("top", {"secrets": {"identity": {}}}), ("top", {"networks": {"back": {}}}),
    ],
)  # fmt: skip
def test_zones_that_a_compose_file_joins_are_found(service, change):
    changed = copy.deepcopy(yaml.safe_load(yaml.safe_dump(COMPOSE)))
    targets = {"all": changed["services"].values(), "top": [changed]}.get(service) or [changed["services"][service]]
    for target in targets:
        target.update(copy.deepcopy(change))
    assert in_two_zones(of_compose(changed))


@pytest.mark.parametrize(
    "line",
    [
        "ReadWritePaths=/var/lib/anwen/keepers", "ReadWritePaths=/var/lib/anwen", "BindPaths=/var/lib/anwen/keepers/b",
        "BindReadOnlyPaths=/var/lib/anwen/nodes/b", "LoadCredentialEncrypted=identity.key:/etc/anwen/identity.cred",
        "EnvironmentFile=/etc/anwen/env", "StateDirectory=anwen", "JoinsNamespaceOf=anwen-keeper@a.service",
        "LoadCredential=anwen", "NetworkNamespacePath=/run/netns/anwen", "Slice=anwen.slice",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", UNITS, ids=lambda p: p.name)
def test_zones_that_a_unit_joins_are_found(path, line):
    texts = [p.read_text() for p in UNITS if p != path] + [path.read_text() + line + "\n"]
    assert in_two_zones(of_units(texts))
    own = line.replace("/b", "/%i").replace("@a", "@%i")
    if own != line:
        assert not in_two_zones(of_units([path.read_text() + own + "\n"]))
