"""A running vault whose services show their metrics and log in JSON."""

import contextlib
import json
import urllib.request

import pytest
from tests.e2e.conftest import person, running

from anwen import vault_folder
from anwen.net.ports import free_port

__all__ = ["person"]


def watched(folder):
    """Have every service of a vault show its metrics on loopback; return their addresses by (service, id)."""
    policy, addresses = folder.policy(), {}
    for service, ids in (("keeper", policy.keepers), ("node", policy.nodes)):
        for name in ids:
            path = folder.path / f"{service}s" / name / f"{service}.json"
            addresses[service, name] = f"127.0.0.1:{free_port()}"
            path.write_text(json.dumps(json.loads(path.read_bytes()) | {"metrics": addresses[service, name]}))
    return addresses


def scrape(address, path="/metrics"):
    """What a scraper gets: type of the content and text."""
    with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


@pytest.fixture(scope="session")
def vault(tmp_path_factory):
    """A running police vault; tests of this folder share it, so each brings people of its own."""
    text = vault_folder.template("police").replace(
        "per_hour = 200, per_day = 1_000", "per_hour = 9_000, per_day = 9_000"
    )
    folder = vault_folder.create(tmp_path_factory.mktemp("ops") / "police", text)
    folder.metrics = watched(folder)
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ANWEN_LOG", "json")  # of these processes: other tests of the session read logs as text
            folder.processes = stack.enter_context(running(folder))
        yield folder
