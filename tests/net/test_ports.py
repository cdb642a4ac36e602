"""A port for a server that starts later: nobody else takes it meanwhile."""

import errno
import socket
from pathlib import Path

import pytest

from anwen.net.ports import free_port


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_is_refused_to_whoever_probes_for_one_and_given_to_the_server_it_is_for(host):
    port, family = free_port(host), socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as another:
        with pytest.raises(OSError) as refused:
            another.bind((host, port))
        assert refused.value.errno == errno.EADDRINUSE
    for _ in range(2):  # and again after it was stopped
        with socket.create_server((host, port), family=family), socket.create_connection((host, port)):
            pass


def test_ports_differ_and_no_connection_takes_one():
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = [free_port() for _ in range(500)]
    assert len(set(ports)) == len(ports)
    assert not [p for p in ports if first <= p <= last]


def test_an_address_of_another_machine_is_an_error_and_no_search_without_end():
    with pytest.raises(OSError) as refused:
        free_port("192.0.2.1")
    assert refused.value.errno == errno.EADDRNOTAVAIL
