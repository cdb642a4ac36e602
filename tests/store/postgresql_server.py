"""A PostgreSQL server for tests: one for a file, a database for each store."""

import asyncio
import contextlib
import itertools
import os
import socket
import tempfile
import time
from pathlib import Path

import psycopg
import pytest

from anwen.rehearse import postgresql

needs_server = pytest.mark.skipif(
    postgresql.missing() is not None and os.environ.get("ANWEN_ENGINES") != "required", reason=str(postgresql.missing())
)
_numbers = itertools.count()


@contextlib.contextmanager
def running_server(address="127.0.0.1"):
    """A server in a folder that its user can reach, which pytest's own folders are not."""
    with tempfile.TemporaryDirectory(prefix="anwen-postgresql-") as name:
        Path(name).chmod(0o711)
        server = postgresql.Server(Path(name) / "server", address)
        try:
            asyncio.run(server.start())
            yield server
        finally:
            server.kill()  # what it would write back in good order is thrown away


def execute(server, *statements, dbname="postgres"):
    """What the last statement answers, as superuser."""
    settings = server.settings()
    password = Path(settings["password_file"]).read_text()
    with psycopg.connect(settings["conninfo"], password=password, autocommit=True, dbname=dbname) as db:
        for statement in statements:
            cursor = db.execute(statement)
        return cursor.fetchall() if cursor.description else []


def fresh_settings(server, **more):
    """Settings of a database of its own, for a role that may do no more than a node must."""
    name = f"anwen_{next(_numbers)}"
    password = Path(server.settings()["password_file"]).read_text()
    execute(server, f"CREATE ROLE {name} LOGIN PASSWORD '{password}'", f"CREATE DATABASE {name} OWNER {name}")
    settings = server.settings(login=name)
    return settings | {"conninfo": f"{settings['conninfo']} dbname={name}"} | more


@contextlib.contextmanager
def server_setting(server, name, value, usual="on"):
    """A server whose own configuration says so, for new connections and old."""
    try:
        _alter(server, f"ALTER SYSTEM SET {name} = {value}", name, value)
        yield
    finally:
        _alter(server, f"ALTER SYSTEM RESET {name}", name, usual)


def _alter(server, statement, name, value):
    execute(server, statement, "SELECT pg_reload_conf()")
    until = time.monotonic() + 10
    while execute(server, f"SHOW {name}") != [(value,)]:  # the server reloads by a signal, and tells nobody when
        assert time.monotonic() < until


async def one_value(db, statement):
    return (await (await db.execute(statement)).fetchone())[0]


def other_address():
    """An address of this machine that is not loopback; sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return probe.getsockname()[0]
