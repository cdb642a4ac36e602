"""A whole vault for tests: three real keeper processes and a node over TLS on loopback, made from the police template."""

import asyncio
import contextlib
import datetime as dt

import pytest

import anwen
from anwen import vault_folder
from anwen.client.sync import Loop
from anwen.supervisor import up


def person(i, **changes):
    """A made-up resident; different numbers are different people."""
    birth = (dt.date(1950, 1, 1) + dt.timedelta(days=i // 1000)).strftime("%Y%m%d")
    return {
        "id_number": id_number(f"110101{birth}{i % 1000:03}"),
        "name": f"Person {chr(65 + i % 26)}{chr(97 + i // 26 % 26)}",
        "birth_date": f"{birth[:4]}-{birth[4:6]}-{birth[6:]}",
        "sex": "FM"[i % 2],
        "phone": f"+86138{i:08}",
        "email": f"p{i}@example.org",
        "address": f"{i} Chang'an Road, Beijing",
        **changes,
    }


def id_number(first17):
    """GB 11643: the check digit of an identity number."""
    weights = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2]
    return first17 + "10X98765432"[sum(int(d) * w for d, w in zip(first17, weights, strict=True)) % 11]


@contextlib.contextmanager
def running(folder):
    """The vault in `folder`, served by processes of its own until the end of the block."""
    loop = Loop()
    try:
        processes = loop.run(up(folder))
        try:
            yield processes
        finally:
            loop.run(processes.stop())
    finally:
        loop.close()


@pytest.fixture(scope="session")
def vault(tmp_path_factory):
    """A running police vault; tests of a session share it, so each brings people of its own."""
    text = vault_folder.template("police").replace(
        "per_hour = 200, per_day = 1_000", "per_hour = 9_000, per_day = 9_000"
    )
    folder = vault_folder.create(tmp_path_factory.mktemp("vault") / "police", text)
    with running(folder) as processes:
        folder.processes = processes
        yield folder


@pytest.fixture
def connect(vault):
    """Opens connections to the shared vault, and closes them."""
    with contextlib.ExitStack() as stack:
        yield lambda key, purpose, **kw: stack.enter_context(anwen.connect(vault.path, key=key, purpose=purpose, **kw))


@pytest.fixture
def run():
    """Runs a coroutine."""
    return asyncio.run
