"""Every parser that faces a network or a file, under bytes that nobody meant for it.

Here: each target's corpus, and as many changed inputs as a few seconds allow, always the same. `make deep` adds ten
minutes of atheris for each target (`ANWEN_FUZZ_S` seconds).
"""

import itertools
import os
import resource
import time
from importlib.util import find_spec

import mutator
import pytest
import seeds
import targets
from laws import MEBIBYTES, SECONDS

import run
from anwen.formats import wire

FEWER = {
    "lying_keeper": 12, "lying_node": 12, "log_answers": 60, "peer_answer": 20, "ceremony": 30, "log_recovery": 40,
    "keeper_request": 150, "node_request": 150, "peer_request": 80, "statement_text": 100, "coordinated": 100,
    "parquet_file": 60, "node_folder": 60, "policy_toml": 60, "policy_lines": 60, "policy_next": 60, "policy_successor": 40,
    "policy_signed": 60, "store_settings": 60, "keeper_folder": 100,
}  # fmt: skip
"""Inputs of targets that take more than a fraction of a millisecond each."""

INPUTS = 300
NAMES = sorted(targets.TARGETS)


def try_all(name, inputs):
    """Run inputs through a target; what it finds is raised with the input that shows it."""
    target, before = targets.TARGETS[name], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in inputs:
        begun = time.monotonic()
        try:
            target(data)
        except Exception as error:  # noqa: BLE001 - whatever a target raises is a finding
            pytest.fail(f"{name}: {type(error).__name__}: {error}\ninput: {data.hex()}")
        assert time.monotonic() - begun < 4 * SECONDS, data.hex()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < MEBIBYTES / 4, f"{name}: {grown:.0f} MiB more than before"


@pytest.mark.parametrize("name", NAMES)
def test_a_target_holds_on_its_corpus(name):
    files = targets.corpus(name)
    assert files, f"{name} has no corpus: python tests/fuzz/seeds.py {name}"
    assert sum(path.stat().st_size for path in files) <= seeds.MOST_BYTES
    try_all(name, [path.read_bytes() for path in files])


@pytest.mark.parametrize("name", NAMES)
def test_a_target_holds_on_changed_inputs(name):
    inputs = mutator.mutants([path.read_bytes() for path in targets.corpus(name)], name)
    try_all(name, itertools.islice(inputs, FEWER.get(name, INPUTS)))


@pytest.mark.parametrize("name", NAMES)
def test_a_target_holds_on_nothing_at_all(name):
    try_all(name, [b""])


def test_the_corpora_are_those_of_the_targets():
    assert {path.name for path in targets.CORPUS.iterdir()} == set(NAMES) == set(seeds.SEEDS)


def test_the_mutator_makes_the_same_inputs_again_and_many_different_ones():
    first, again, other = (list(itertools.islice(mutator.mutants([b"abc", b"xyz"], s), 200)) for s in ("a", "a", "b"))
    assert first == again != other
    assert len(set(first)) > 150


# --- the laws see what they are for: a broken parser is found within the same few inputs ------------------------------


def found_by(name):
    inputs = mutator.mutants([path.read_bytes() for path in targets.corpus(name)], name)
    for data in itertools.islice(inputs, INPUTS):
        try:
            targets.TARGETS[name](data)
        except Exception:  # noqa: BLE001 - whatever a target raises is a finding
            return True
    return False


def test_a_decoder_that_takes_a_longer_body_is_found(monkeypatch):
    real = wire.decode

    def lenient(body, *expected):
        for end in range(len(body), 20, -1):
            try:
                return real(body[:end], *expected)
            except wire.MalformedError:
                continue
        return real(body, *expected)

    monkeypatch.setattr(wire, "decode", lenient)
    assert found_by("wire_message")


def test_a_reader_of_rows_that_drops_one_is_found(monkeypatch):
    from anwen.files.rows import Row
    from anwen.files.text_source import NdjsonSource

    real = NdjsonSource.read
    monkeypatch.setattr(NdjsonSource, "read", lambda self, span: (r for r in real(self, span) if isinstance(r, Row)))
    assert found_by("ndjson_file")


def test_a_parser_that_lets_another_error_out_is_found(monkeypatch):
    import json

    from anwen.formats import problem

    monkeypatch.setattr(problem, "_decode", lambda _status, body: len(json.loads(body)) / 0)
    assert found_by("problem_body")


def test_a_keeper_that_charges_what_it_refuses_is_found(monkeypatch):
    from anwen.keeper import service

    real = service.Keeper._log_refusal

    def charging(self, op, grant, error):
        self._state.ledger.reserve(grant.issuer, {}, 0)
        real(self, op, grant, error)

    monkeypatch.setattr(service.Keeper, "_log_refusal", charging)
    assert found_by("keeper_request")


def test_a_client_that_believes_the_last_keeper_is_found(monkeypatch):
    from anwen.client import opening

    monkeypatch.setattr(opening, "_settle", lambda _session, _found, i, _cell: opening.OpenError())
    from anwen.client.quorum import Round

    real = Round.values
    monkeypatch.setattr(Round, "values", lambda self: (real(self)[0], real(self)[1] & False, real(self)[2]))
    assert found_by("lying_keeper")


# --- the long form ---------------------------------------------------------------------------------------------------


@pytest.mark.deep
@pytest.mark.skipif(find_spec("atheris") is None, reason="needs atheris (wheels: CPython 3.11 to 3.13, Linux x86-64)")
@pytest.mark.parametrize("name", NAMES)
def test_atheris_finds_nothing(name):
    seconds = int(os.environ.get("ANWEN_FUZZ_S", "600"))
    code, found, said = run.outside(name, run.KEPT / name, seconds)
    assert run.report(name, code, found, said) == 0, "\n".join(map(str, found)) + said[-3000:]
