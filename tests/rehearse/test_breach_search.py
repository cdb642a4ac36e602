"""The search for plaintext: it finds a value in every spelling, anywhere, in files and in another process's memory."""

import base64
import json
import os
import subprocess
import sys

import pytest

import vault_texts
from anwen.rehearse.breach.load import texts
from anwen.rehearse.breach.search import Needles, memory_of, search

VALUES = ["110101199003074477", "+8613800138000", "北京市朝阳区建国路88号", "li.wei@example.org"]


@pytest.mark.parametrize("spell", [
    lambda v: v.encode(), lambda v: v.encode("utf-16-le"), lambda v: v.encode("utf-16-be"),
    lambda v: v.encode().hex().encode(), lambda v: v.encode().hex().upper().encode(),
    lambda v: json.dumps({"x": v}).encode(), lambda v: json.dumps({"x": v}, ensure_ascii=False).encode(),
    lambda v: base64.b64encode(v.encode() + b"tail"), lambda v: base64.b64encode(b"1" + v.encode() + b"tail"),
    lambda v: base64.b64encode(b"12" + v.encode() + b"tail"), lambda v: base64.b64encode(b"{'a': '" + v.encode() + b"'}"),
])  # fmt: skip
@pytest.mark.parametrize("number", range(len(VALUES)))
def test_the_search_finds_a_value_in_every_spelling_anywhere(spell, number):
    noise = os.urandom(5000)
    needles = Needles(VALUES)
    for before in (0, 1, 4999):
        assert needles.within(noise[:before] + spell(VALUES[number]) + noise[before:]) == {number}


def test_the_search_finds_nothing_in_noise_and_looks_across_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("anwen.rehearse.breach.search.CHUNK_BYTES", 4096)
    needles = Needles(VALUES)
    file = tmp_path / "a"
    noise = os.urandom(20_000)
    file.write_bytes(noise)
    assert search([file], needles) == (set(), 20_000)
    for at in range(4080, 4100):
        file.write_bytes(noise[:at] + VALUES[2].encode() + noise[at:])
        assert search([file], needles)[0] == {2}


def test_keys_are_found_as_bytes_and_short_values_are_not_looked_for():
    key = os.urandom(32)
    needles = Needles([key, "short"])
    assert needles.within(os.urandom(100) + key + os.urandom(100)) == {0}
    assert needles.within(key.hex().encode()) == {0}
    assert needles.within(b"short" * 9 + key[:31]) == set()
    assert Needles([]).within(key) == set()


def test_a_value_is_found_however_it_is_spelled():
    schema = vault_texts.policy().collections["person"]
    person = {"name": "Éva  O’Connor-Smith", "phone": "138 0013 8000", "id_number": VALUES[0], "sex": "F"}
    spelled = texts(schema, [person, person])
    assert {ways[0] for ways in spelled} == {person["name"], person["phone"], VALUES[0]}  # F is too short
    needles = Needles(spelled)
    names = ("éva  o’connor-smith", "Éva O’Connor-Smith", "éva o'connor-smith")
    written = {person["name"]: names, person["phone"]: ("+8613800138000",), VALUES[0]: (VALUES[0],)}
    for value, ways in written.items():
        for way in (value, *ways):
            for form in (way.encode(), way.encode("utf-16-le"), json.dumps(way).encode(), way.encode().hex().encode()):
                assert needles.within(b"before" + form + b"after") == {[s[0] for s in spelled].index(value)}, way


@pytest.mark.skipif(os.geteuid() != 0, reason="reads another process's memory")
def test_a_value_is_found_in_the_memory_of_a_process():
    code = "import sys; kept = sys.stdin.buffer.readline(); print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(VALUES[3].encode() + b"\n")
        process.stdin.flush()
        process.stdout.readline()
        needles = Needles(VALUES)
        found = set().union(*(needles.within(region) for region in memory_of(process.pid)))
        process.stdin.close()
    assert found == {3}
