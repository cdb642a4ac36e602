"""A slow link where the kernel has none: `python -m anwen.rehearse.outage.delay INTERFACE INTERFACE SECONDS`.

Every frame that comes in on one interface goes out on the other, that much later. Checksums and segmentation that the
kernel left to a network card that does not exist travel in a header before each frame (PACKET_VNET_HDR). Ends with its
standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys

_SOL_PACKET, _PACKET_VNET_HDR, _PACKET_IGNORE_OUTGOING = 263, 15, 23
_ETH_P_ALL = 3
_FRAME_BYTES = 2**17


def _socket(interface: str) -> socket.socket:
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    link.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    link.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**24)
    link.bind((interface, _ETH_P_ALL))
    link.setblocking(False)
    return link


def _send(link: socket.socket, frame: bytes) -> None:
    with contextlib.suppress(OSError):  # dropped, as by a link that is full
        link.send(frame)


async def relay(one: str, other: str, delay_s: float) -> None:
    """Carry frames between two interfaces until standard input ends."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    links = [_socket(one), _socket(other)]

    def forward(source: socket.socket, target: socket.socket) -> None:
        while True:
            try:
                frame = source.recv(_FRAME_BYTES)
            except OSError:
                return
            loop.call_later(delay_s, _send, target, frame)

    loop.add_reader(links[0], forward, links[0], links[1])
    loop.add_reader(links[1], forward, links[1], links[0])
    loop.add_reader(sys.stdin.fileno(), stop.set)
    await stop.wait()


if __name__ == "__main__":
    asyncio.run(relay(sys.argv[1], sys.argv[2], float(sys.argv[3])))
