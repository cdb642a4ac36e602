"""Services and connection pools for tests of the door."""

import asyncio
import contextlib

import pytest
from door_rig import handler

from anwen.net import tls
from anwen.net.connection import Pool
from anwen.net.server import Limits, serve


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = tls.make_certificate("test")
    (folder / "tls.key").touch(mode=0o600)
    (folder / "tls.key").write_bytes(key)
    (folder / "tls.crt").write_bytes(certificate)
    return folder


@pytest.fixture(scope="module")
def pin(files):
    return tls.pin_of_pem((files / "tls.crt").read_bytes())


@pytest.fixture
def gate():
    """What requests to `/v1/held` wait for."""
    return asyncio.Event()


@pytest.fixture
async def start(files, gate):
    async def gated(path, authorization, body):
        if path == "/v1/held":
            await gate.wait()
            return b"held"
        return await handler(path, authorization, body)

    async with contextlib.AsyncExitStack() as stack:

        async def run(*, admit=lambda _authorization: None, **limits):
            context = tls.server_context(files / "tls.crt", files / "tls.key")
            service = await serve(
                gated, "127.0.0.1:0", context, Limits(**limits),
                without_grant={"/v1/who"}, whose=lambda grant: grant, admit=admit,
            )  # fmt: skip
            stack.push_async_callback(service.aclose, 0.1)
            return service

        yield run


@pytest.fixture
async def pools(pin):
    made = []

    def make(service, **options):
        made.append(Pool(service.address, options.pop("pin", pin), **options))
        return made[-1]

    yield make
    for pool in made:
        await pool.aclose()
