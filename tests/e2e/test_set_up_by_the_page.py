"""Three zones set up, and a keeper moved, as docs/operations.md and docs/backup.md say: their own commands, real processes.

Zones are addresses of loopback, so `single_machine` stays: without it officers are refused such addresses.
"""

import asyncio
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

import anwen
from anwen.cli import main
from anwen.cli.failures import OK
from anwen.client.sync import Loop
from anwen.supervisor import Running
from anwen.vault_folder import VaultFolder

from .conftest import person

DOCS = Path(__file__).parents[2] / "docs"
HOSTS = {"a": "127.0.0.2", "b": "127.0.0.3", "c": "127.0.0.4"}
ELSEWHERE = "127.0.0.5"


def page_commands(name, begin, end):
    """What a part of a page has in its console blocks."""
    part = (DOCS / name).read_text().partition(begin)[2].partition(end)[0]
    return [line.strip()[2:] for line in part.splitlines() if line.strip().startswith("$ ")]


def in_zone(host):
    return lambda match: match[1].replace("127.0.0.1:", f"{host}:")


class Machines:
    """Folders that were carried to zones' machines, what runs from them, and an officer's folder of the vault."""

    def __init__(self, path, processes, loop):
        self.path, self.officer = path, path / "officer"
        self.processes, self.loop, self.moved = processes, loop, {}

    def anwen(self, *arguments):
        return main.run(["--vault", str(self.officer), *map(str, arguments)])

    def folder(self, kind, zone):
        path = self.moved.get(zone) if kind == "keeper" else None
        path = path or self.path / f"zone_{zone}" / f"{kind}s" / zone
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def start(self, kind, *zones):
        async def together():
            starting = (
                self.processes.start(f"{kind} {z}", f"anwen.{kind}.app", self.folder(kind, z), lambda _: None)
                for z in zones
            )
            await asyncio.gather(*starting)

        self.loop.run(together())

    def stop(self, kind, zone):
        process = self.processes.processes[f"{kind} {zone}"]
        process.send_signal(signal.SIGTERM)
        self.loop.run(process.wait())

    def sign(self, *edits):
        """Have two officers sign a version with other text in it."""
        assert self.anwen("policy", "next") == OK
        text = (self.officer / "vault.toml").read_text()
        for pattern, new in edits:
            text, count = re.subn(pattern, new, text)
            assert count
        (self.officer / "vault.toml").write_text(text)
        for n in (1, 2):
            assert self.anwen("policy", "sign", "--yes", "--officer", self.officer / f"officers/officer{n}.key") == OK

    def ask(self, key, purpose):
        return anwen.connect(self.officer, key=key, purpose=purpose)

    def name_of(self, record):
        with self.ask("case_worker", "casework") as vault:
            return vault.open(vault.get([record], ["identity"], collection="person"), ["identity"])[0]["name"]


@pytest.fixture
def machines(tmp_path):
    loop = Loop()
    processes = Running((tmp_path / "lock").open("wb"))
    try:
        yield Machines(tmp_path, processes, loop)
    finally:
        loop.run(processes.stop())
        loop.close()


def test_three_zones_serve_as_set_up_by_the_page_and_a_keeper_moves_by_it(machines, tmp_path, capsys):
    # 1: made, edited, signed
    assert main.run(["init", str(machines.officer)]) == OK
    machines.sign(*((rf"(\[zones\.{zone}\][^\[]*)", in_zone(host)) for zone, host in HOSTS.items()))
    assert "policy/ of the folder of keeper a, keeper b, keeper c, node a, and start" in capsys.readouterr().err
    # 2: the page's own command
    (command,) = page_commands("operations.md", "## Set up", "**systemd**")
    subprocess.run(["sh", "-ec", command], cwd=machines.officer, check=True)
    # 3: carried
    for kind, zone in (*(("keeper", zone) for zone in HOSTS), ("node", "a")):
        shutil.move(machines.officer / f"{kind}s" / zone, machines.folder(kind, zone))
    # 5: started; the ceremony on one of the machines
    machines.start("keeper", *HOSTS)
    assert main.run(["ceremony", str(machines.folder("keeper", "a"))]) == OK
    machines.start("node", "a")
    assert [k.address.partition(":")[0] for k in VaultFolder(machines.officer).policy().keepers.values()] == [
        *HOSTS.values()
    ]
    assert machines.anwen("--as", "dpo", "policy", "publish") == OK  # all have it
    with machines.ask("importer", "intake") as vault:
        record = vault.put("person", person(1)).record
    assert machines.name_of(record) == person(1)["name"]

    machines.sign((HOSTS["c"], ELSEWHERE))
    assert "policy/ of the folder of keeper c, and start" in capsys.readouterr().err
    machines.stop("keeper", "c")
    old, new = machines.folder("keeper", "c"), tmp_path / "zone_d" / "keepers" / "c"
    shutil.copytree(old, new)
    (command,) = page_commands("backup.md", "**Moving one**", "**Replacing")
    command = command.replace("/var/lib/anwen/", f"{tmp_path}/zone_d/")
    subprocess.run(["sh", "-ec", command], cwd=machines.officer, check=True)
    shutil.rmtree(old)
    machines.moved["c"] = new
    machines.start("keeper", "c")
    assert machines.anwen("--as", "dpo", "policy", "publish") == OK
    machines.stop("keeper", "b")  # so the one that moved is needed
    assert machines.name_of(record) == person(1)["name"]
    machines.start("keeper", "b")  # and asks a and c
    assert machines.anwen("--as", "dpo", "doctor") == OK
    assert "log of keeper" in (said := capsys.readouterr().out)
    assert "fail" not in said
