"""An HTTP echo over TLS by our own server, as a process: what a call costs before anything is done with it.

`/v1/echo` sends the body back; `/v1/granted` first checks one ES256 grant, as every keeper and node does.
Prints "ADDRESS PIN" when it listens, ends when its input does.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from anwen.crypto import grants
from anwen.net import server, tls


def handler(public_der: bytes) -> server.Handler:
    """Return a handler that knows one principal."""
    key = grants.load_public_key(public_der)

    async def handle(path: str, grant: str | None, body: bytes) -> bytes:
        if path == "/v1/granted":
            grants.verify(grants.parse((grant or "").removeprefix("Anwen ")), key)
        return body

    return handle


async def main(public_der: bytes) -> None:
    """Serve until standard input ends."""
    with tempfile.TemporaryDirectory() as folder:
        key_path, cert_path = Path(folder) / "tls.key", Path(folder) / "tls.crt"
        key, certificate = tls.make_certificate("echo")
        key_path.touch(0o600)
        key_path.write_bytes(key)
        cert_path.write_bytes(certificate)
        context = tls.server_context(cert_path, key_path)
        served = await server.serve(handler(public_der), "127.0.0.1:0", context)
        print(served.address, tls.pin_of_pem(certificate).hex(), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await served.aclose()


if __name__ == "__main__":
    asyncio.run(main(bytes.fromhex(sys.argv[1])))
