"""Deployment files: what they name exists, what they forbid a service does without, and nothing in them is a secret."""

import asyncio
import ctypes
import json
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
import yaml
from tests.e2e.conftest import person

import anwen as library
from anwen import vault_folder
from anwen.errors import BY_CODE, IntegrityError, PolicyError, StorageError
from anwen.keeper.metrics import metrics_of
from anwen.keeper.service import Keeper
from anwen.net.metrics import CODES
from anwen.node.metrics import metrics_of as node_metrics_of
from anwen.node.service import Node
from anwen.store.sqlite import SqliteStore

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


# --- Prometheus and Grafana ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exposition(tmp_path_factory):
    """What a keeper and a node show."""
    folder = vault_folder.create(tmp_path_factory.mktemp("shown") / "v", "police")
    keeper = Keeper.open(folder.path / "keepers" / "a", peers={})
    store = SqliteStore(folder.path / "store" / "anwen.sqlite")
    policy = folder.policy()
    try:
        of_node = node_metrics_of(Node(policy, store), policy.nodes["a"], store, folder.path)
        return metrics_of(keeper, folder.path).exposition() + of_node.exposition()
    finally:
        asyncio.run(store.close())
        asyncio.run(keeper.close())


def expressions():
    """Every expression of the dashboard and the alerts, by where it stands."""
    dashboard = json.loads((DEPLOY / "grafana" / "anwen.json").read_text())
    found = [(p["title"], t["expr"]) for p in dashboard["panels"] for t in p["targets"]]
    alerts = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())
    return found + [(r["alert"], r["expr"]) for g in alerts["groups"] for r in g["rules"]]


def test_every_metric_and_code_that_is_shown_or_alerted_on_exists_and_all_are_shown(exposition):
    shown = set(re.findall(r"^(anwen_\w+?)\{", exposition, re.MULTILINE))
    families = set(re.findall(r"^# TYPE (anwen_\w+)", exposition, re.MULTILINE))
    named = {(where, name) for where, e in expressions() for name in re.findall(r"anwen_\w+", e)}
    assert {name for _, name in named} - shown == set()
    used = {name for _, name in named}
    assert {f for f in families if not any(n.startswith(f) for n in used)} == set()
    page = (ROOT / "docs" / "operations.md").read_text()
    assert set(re.findall(r"`(anwen_\w+)", page.partition("## Metrics")[2].partition("## Logs")[0])) == families
    codes = {c for _, e in expressions() for m in re.findall(r'code(?:=~|=|!=)"([^"]*)"', e) for c in m.split("|")}
    assert codes <= set(CODES)
    assert len(codes) > 8


def test_what_an_alert_counts_the_first_of_is_shown_from_the_start(exposition):
    """`increase` of a series that begins at one is nothing."""
    counted = [e for w, e in expressions() if w.startswith("Anwen") and "increase(" in e]
    assert len(counted) == 2
    codes = {c for e in counted for m in re.findall(r'code(?:=~|=)"([^"]*)"', e) for c in m.split("|")}
    grave = {c for c, kind in BY_CODE.items() if issubclass(kind, IntegrityError | StorageError)}
    assert codes == grave | {"unexpected"}
    shown = re.findall(
        r'^anwen_requests_total\{service="(\w+)".*op="(\w+)",code="(\w+)"\} 0$', exposition, re.MULTILINE
    )
    ops = set(re.findall(r'^anwen_request_seconds_count\{service="(\w+)".*op="(\w+)"\}', exposition, re.MULTILINE))
    assert len(ops) > 15
    assert set(shown) == {(service, op, code) for service, op in ops for code in codes}


def test_alerts_say_what_to_do_and_whom_they_wake():
    (group,) = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"]["summary"]
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "scrape.yaml").read_text())
    job, others = scrape["scrape_configs"]
    assert all(t.startswith("127.0.0.1:") for s in job["static_configs"] for t in s["targets"])
    assert not any(t.startswith("127.0.0.1:") for s in others["static_configs"] for t in s["targets"])
    assert (others["scheme"], others["honor_labels"], job["honor_labels"]) == ("https", True, True)
    assert {r for _, e in expressions() for r in re.findall(r'job="([^"]+)"', e)} == {
        job["job_name"],
        others["job_name"],
    }
    assert [DEPLOY / "prometheus" / f for f in scrape["rule_files"]] == [DEPLOY / "prometheus" / "alerts.yaml"]


def test_what_is_compared_across_zones_is_fetched_from_the_other_zones(exposition):
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "scrape.yaml").read_text())
    (match,) = scrape["scrape_configs"][1]["params"]["match[]"]
    fetched = set(re.search(r'__name__=~"([^"]+)"', match)[1].split("|"))
    compared = {n for _, e in expressions() for n in re.findall(r"max\((anwen_\w+)\) != min\(", e)}
    assert compared | {"up"} == fetched
    assert len(compared) == 3


def test_what_the_alerts_of_a_lost_zone_go_by_tells_zones_apart(exposition):
    """A maximum over peers hides the one that is silent."""
    alerts = {w: e for w, e in expressions() if w.startswith("Anwen")}
    assert alerts["AnwenPeerSilent"] == "anwen_cosigned_age_seconds > 120"
    for peer in "bc":
        assert f'anwen_cosigned_age_seconds{{service="keeper",id="a",zone="a",peer="{peer}"}}' in exposition
    assert "anwen_shed_total" in alerts["AnwenShedding"]
    assert {"anwen_disk_free_bytes", "anwen_store_members_up"} <= set(re.findall(r"\w+", " ".join(alerts.values())))


# --- systemd ---------------------------------------------------------------------------------------------------------


def unit(path):
    """A unit's settings: the values of each name, in order."""
    found = {}
    for line in path.read_text().splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("path", UNITS, ids=lambda p: p.name)
def test_units_are_hardened(path):
    found = unit(path)
    for name, value in {
        "NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes",
        "PrivateDevices": "yes", "MemoryDenyWriteExecute": "yes", "LimitCORE": "0", "UMask": "0077",
        "CapabilityBoundingSet": "", "RestrictNamespaces": "yes", "Restart": "always",
    }.items():  # fmt: skip
        assert found[name] == [value], name
    service = path.name.removeprefix("anwen-").partition("@")[0]
    assert found["ReadWritePaths"] == [f"/var/lib/anwen/{service}s/%i"]
    program, folder = found["ExecStart"][0].split()
    assert Path(program).name in SCRIPTS
    assert folder == found["ReadWritePaths"][0]
    assert found["User"] == [f"anwen-{service}"]  # keepers' and nodes' are two: neither reads the other's folder
    assert "root" not in found["User"] + found["Group"]
    if service == "keeper":
        assert (found["LimitMEMLOCK"], found["MemorySwapMax"]) == (["infinity"], ["0"])
        assert "2" in found["RestartPreventExitStatus"][0].split()  # a rollback
    assert not any("KEY" in e or "SECRET" in e for e in found["Environment"])


def drop_in():
    """The one of docs/operations.md, by which a keeper's identity comes from a credential."""
    return re.search(r"```ini\n(.*?)```", (ROOT / "docs" / "operations.md").read_text(), re.DOTALL)[1]


def test_a_keeper_takes_its_identity_as_the_drop_in_lays_it_and_not_from_the_credential_itself(tmp_path):
    keeper = vault_folder.create(tmp_path / "v", "police").path / "keepers" / "a"
    credentials, run = tmp_path / "credentials", tmp_path / "run"
    link, credential = keeper / "identity.key", credentials / "identity.key"
    (run / "anwen-keeper-a").mkdir(parents=True)
    credentials.mkdir()
    link.rename(credential)
    credential.chmod(0o440)  # as systemd shows one that an ACL opens to the service's user
    link.symlink_to(credential)
    with pytest.raises(PolicyError, match="mode 0440"):
        Keeper.open(keeper, peers={})
    (command,) = re.findall(r"^ExecStartPre=(.*)$", drop_in(), re.MULTILINE)
    for specifier, value in (("%d", credentials), ("%t", run), ("%i", "a")):
        command = command.replace(specifier, str(value))
    for _ in range(2):  # and when it starts again
        subprocess.run(command.split(), check=True)
    link.unlink()
    link.symlink_to(run / "anwen-keeper-a" / "identity.key")
    asyncio.run(Keeper.open(keeper, peers={}).close())
    assert "`/run/anwen-keeper-a/identity.key`" in (ROOT / "docs" / "operations.md").read_text()


@pytest.mark.parametrize("added", ["", drop_in()], ids=["as it is", "with the drop-in"])
@pytest.mark.parametrize("path", UNITS, ids=lambda p: p.name)
def test_systemd_finds_no_fault_and_little_exposure(path, added, tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not on this machine")
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = re.sub(r"^ExecStart=\S+", f"ExecStart={program}", path.read_text(), flags=re.MULTILINE)
    text = re.sub(r"^(User|Group)=.*", r"\1=daemon", text, flags=re.MULTILINE)  # there everywhere
    instance = tmp_path / path.name.replace("@.", "@a.")
    instance.write_text(text + added)
    done = subprocess.run(
        ["systemd-analyze", "verify", instance], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr.strip()) == (0, "")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", instance],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout.splitlines()[-1]


PR_SET_MDWE = 65  # Linux 6.3: what MemoryDenyWriteExecute asks for
UNDER_MDWE = """
import ctypes, mmap, sys
assert ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
except PermissionError:
    print("refused", flush=True)
sys.argv[1:] = ["--vault", sys.argv[1], "up", "--json"]
from anwen.cli.main import main
main()
"""


def test_keepers_and_nodes_run_where_no_memory_is_writable_and_executable(tmp_path):
    if ctypes.CDLL(None).prctl(66, 0, 0, 0, 0) < 0:  # PR_GET_MDWE
        pytest.skip("this kernel cannot refuse it")
    folder = vault_folder.create(tmp_path / "v", "police")
    command = [sys.executable, "-c", textwrap.dedent(UNDER_MDWE), str(folder.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout.readline() == b"refused\n"
            assert json.loads(process.stdout.readline())["ready"]
            with library.connect(folder.path, key="importer", purpose="intake") as vault:
                vault.put("person", person(1))
            with library.connect(folder.path, key="case_worker", purpose="casework") as vault:
                (found,) = vault.find("person", phone=person(1)["phone"])
                assert vault.open([found], ["identity"])[0]["name"] == person(1)["name"]
        finally:
            process.terminate()
            process.wait(30)


# --- compose ---------------------------------------------------------------------------------------------------------


def test_every_zone_has_a_keeper_and_a_node_that_start_apart_from_other_zones():
    zones = {}
    for name, service in COMPOSE["services"].items():
        (profile,) = service["profiles"]
        kind, _, zone = name.partition("-")
        assert profile == f"zone-{zone}"
        assert "depends_on" not in service
        zones.setdefault(zone, set()).add(kind)
        assert service["command"][0] in SCRIPTS
        (volume,) = service["volumes"]
        assert volume.endswith(f"/{kind}s/{zone}:{service['command'][1]}")
    assert zones == {zone: {"keeper", "node"} for zone in "abc"}


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_container_may_do_little_publishes_nothing_and_its_image_is_a_digest(name):
    service = COMPOSE["services"][name]
    assert re.fullmatch(r"\$\{ANWEN_IMAGE:\?.*sha256.*\}", service["image"])  # compose refuses to start without one
    assert not {"ports", "expose", "privileged", "cap_add", "devices", "env_file", "environment", "secrets"} & set(
        service
    )
    assert service["network_mode"] == "host"
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] not in {"0", "root", "0:0"}
    assert service["ulimits"]["core"] == 0
    assert service["mem_limit"] == service["memswap_limit"]
    if name.startswith("keeper"):
        assert service["ulimits"]["memlock"] == -1


# of the Compose Specification's keys, those that the file uses: one that is misspelt is none that compose knows
SERVICE_KEYS = {
    "cap_drop", "command", "image", "init", "logging", "mem_limit", "memswap_limit", "network_mode", "oom_score_adj",
    "pids_limit", "profiles", "read_only", "restart", "security_opt", "stop_grace_period", "tmpfs", "ulimits", "user",
    "volumes",
}  # fmt: skip
LIMITS = {"core", "memlock", "nofile"}


def rendered(**environment):
    """The compose file as compose reads it. Raises LookupError: a variable that has to be given is not, or is empty."""

    def value(match):
        name, needed, about = match.groups()
        if not environment.get(name) and needed:
            raise LookupError(f"{name}: {about}")
        return environment.get(name, "")

    text = re.sub(r"(?m)^#.*$", "", (DEPLOY / "compose.yaml").read_text())
    return yaml.safe_load(re.sub(r"\$\{(\w+)(?:(:\?)([^}]*))?\}", value, text))


@pytest.mark.parametrize("missing", ["ANWEN_IMAGE", "ANWEN_DIR"])
@pytest.mark.parametrize("given", [{}, {"ANWEN_IMAGE": "", "ANWEN_DIR": ""}])
def test_compose_refuses_to_start_without_an_image_or_a_folder(missing, given):
    environment = {"ANWEN_IMAGE": "registry.example/anwen@sha256:0", "ANWEN_DIR": "/var/lib/anwen"}
    del environment[missing]
    with pytest.raises(LookupError, match=missing):
        rendered(**given | environment)


def test_what_compose_reads_has_keys_that_it_knows_and_no_variable_is_left():
    image = "registry.example/anwen@sha256:0"
    found = rendered(ANWEN_IMAGE=image, ANWEN_DIR="/var/lib/anwen")
    assert {key for key in found if not key.startswith("x-")} == {"name", "services"}
    assert "$" not in json.dumps(found)
    for name, service in found["services"].items():
        kind, _, zone = name.partition("-")
        assert service.keys() == SERVICE_KEYS - ({"oom_score_adj"} if kind == "node" else set())
        assert service["image"] == image
        assert service["volumes"] == [f"/var/lib/anwen/{kind}s/{zone}:/{kind}"]
        assert service["logging"].keys() == {"driver", "options"}
        assert service["ulimits"].keys() <= LIMITS
        assert service["restart"] == "always"  # also after exit code 2, unlike the units
        assert "`restart: always`" in (ROOT / "docs" / "backup.md").read_text()
        assert all(isinstance(service[key], list) for key in ("cap_drop", "command", "profiles", "tmpfs"))


def test_nothing_is_left_to_a_default_that_nobody_chose():
    for path in DEPLOY.rglob("*"):
        if path.is_file() and path.suffix in {".yaml", ""}:
            text = re.sub(r"(?m)#.*$", "", path.read_text())
            assert all(v.partition(":")[2].startswith("?") for v in re.findall(r"\$\{(ANWEN_[^}]*)\}", text)), path
    recipe = (DEPLOY / "Containerfile").read_text()
    assert re.findall(r"^FROM (\S+)", recipe, re.MULTILINE) == ["${BASE}", "${BASE}"]
    assert "ARG BASE\n" in recipe
    assert "--require-hashes" in recipe
    assert re.search(r"^USER (?!0|root)", recipe, re.MULTILINE)


def test_no_file_holds_a_secret():
    for path in (p for p in DEPLOY.rglob("*") if p.is_file()):
        text = path.read_text()
        assert not re.search(r"PRIVATE KEY|password|BEGIN |token:", text, re.IGNORECASE), path
        assert not re.search(r"[0-9a-f]{32}", text), path
