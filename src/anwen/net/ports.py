"""Ports for servers that start later, and start again."""

import errno
import secrets
import socket

_FIRST, _END = 10_000, 32_768
"""Below what Linux gives to connections and to port 0 (`ip_local_port_range`): a server that is down keeps its port."""


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on. Nobody else who asks here gets it within a minute, listening or not."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        port = _FIRST + secrets.randbelow(_END - _FIRST)
        with socket.socket(family) as probe:
            try:
                probe.bind((host, port))  # without SO_REUSEADDR: a port in TIME_WAIT is refused too
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            # whoever closes a connection first leaves its port in TIME_WAIT, which a server's SO_REUSEADDR passes over
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.listen(1)
            with socket.create_connection((host, port)), probe.accept()[0]:
                pass
        return port
