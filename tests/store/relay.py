"""A TCP relay on loopback whose connections a test can cut: what was under way is lost, in both directions."""

import asyncio
import contextlib


class Relay:
    def __init__(self, port):
        self._to, self._open, self._tasks = port, set(), set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks)

    def cut(self):
        """Abort every connection: no answer that is on its way arrives."""
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        self._open.add(writer)
        ends = [writer]
        with contextlib.suppress(OSError):
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._to)
            self._open.add(far)
            ends.append(far)
            await asyncio.gather(self._pump(reader, far), self._pump(far_reader, writer))
        for end in ends:
            end.transport.abort()
            self._open.discard(end)
        self._tasks.discard(asyncio.current_task())

    async def _pump(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
