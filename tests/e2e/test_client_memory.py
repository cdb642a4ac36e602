"""A thief who reads the whole memory of a busy client: what he finds is counted and printed, and is of nobody else.

What the process opened or searched stays known to whoever takes its memory: Python wipes nothing. What must not be there is
anything of people whom it did not open: not their values, and no key of theirs.
"""

import subprocess
import sys
import textwrap

import pytest

import anwen
from anwen import vault_folder
from anwen.rehearse.breach.live import look
from anwen.rehearse.breach.load import secrets_of
from anwen.rehearse.breach.search import memory_of

from .conftest import person, running

OPENED, OTHERS = 30, 200

CLIENT = """
import itertools, sys, threading, time
import anwen
folder, phones = sys.argv[1], sys.argv[2:]
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
with anwen.connect(folder, key="case_worker", purpose="casework") as clerk:
    for turn, phone in enumerate(itertools.cycle(phones)):
        (found,) = clerk.find("person", phone=phone)
        assert clerk.open([found], ["identity", "contact"])
        if turn == len(phones):
            print("busy", flush=True)
        if stop.is_set():
            break
        time.sleep(0.02)  # its budget of searches is for an hour
    print("idle", flush=True)
    sys.stdin.readline()
"""


def scalar(key):
    number = key.private_numbers().private_value
    return [number.to_bytes(32), number.to_bytes(32, "little")]


def count(pid, secrets):
    """How many of each kind stand in a process's memory, and how many bytes that is."""
    hits = {}
    size = look(memory_of(pid), secrets, hits, "client")
    return {kind: len(hits.get(("client", kind), ())) for kind in secrets}, size


@pytest.mark.deep
def test_a_dump_of_a_busy_client_holds_nothing_of_people_whom_it_did_not_open(tmp_path, say):
    vault, rows = vault_folder.create(tmp_path / "police", "police"), [person(i) for i in range(OPENED + OTHERS)]
    with running(vault):
        with anwen.connect(vault.path, key="importer", purpose="intake") as importer:
            stored = importer.put_many("person", rows)
        with anwen.connect(vault.path, key="case_worker", purpose="casework") as clerk:
            records = clerk.get([r.record for r in stored])
        told, mine = dumped(vault, rows, records)
    for state, ((found, size), (foreign, _)) in told.items():
        counted = ", ".join(f"{n} of {len(mine[kind])} {kind}" for kind, n in found.items())
        say(
            f"{state} client, {size >> 20} MiB: {counted} of {OPENED} opened; of {OTHERS} others {sum(foreign.values())}"
        )
    for (found, _), (foreign, _) in told.values():
        assert sum(foreign.values()) == 0, foreign
        assert found["token keys"] > 0, "the search has to be able to find what is there"
    assert told["busy"][0][0]["values"] > 0


def dumped(vault, rows, records):
    """Read the memory of a client while it opens some of the people, and once it has nothing to do."""
    policy = vault.policy()
    folders = [vault.path / "keepers" / k for k in policy.keepers]
    schema = policy.collections["person"]
    mine = secrets_of(policy, folders, schema, rows[:OPENED], records[:OPENED])
    others = secrets_of(policy, folders, schema, rows[OPENED:], records[OPENED:])
    both = {value for values in mine.values() for value in values}  # a field's key, a day of birth
    others = {kind: [v for v in values if v not in both] for kind, values in others.items()}
    mine["principal's key"] = scalar(vault.principal_key("case_worker"))
    command = [sys.executable, "-c", textwrap.dedent(CLIENT), str(vault.path), *(r["phone"] for r in rows[:OPENED])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        told = {}
        for state in ("busy", "idle"):
            assert client.stdout.readline() == f"{state}\n"
            told[state] = count(client.pid, mine), count(client.pid, others)
            client.stdin.write("\n")
            client.stdin.flush()
        assert client.wait(30) == 0
    return told, mine
