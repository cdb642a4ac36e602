"""What strangers send may be in any text that is logged: it is cut, made printable, and so much a second at most."""

import json
import logging
import time

import pytest

from anwen.errors import GrantError
from anwen.net.logs import MAX_CHARACTERS, Formatter
from anwen.net.metrics import NOTED_PER_S, Metrics

HOSTILE = "\x1b[31m\r\n2026-01-01 anwen INFO all is well\u202e" + "x" * 10**6


@pytest.mark.parametrize("as_json", [True, False])
def test_a_line_stays_one_line_of_printable_text_of_bounded_length(as_json):
    record = logging.LogRecord("anwen.net", logging.INFO, "", 0, "refused %s", (HOSTILE,), None)
    record.op, record.cause = HOSTILE, HOSTILE
    line = Formatter(as_json=as_json).format(record)
    assert len(line) < 4 * MAX_CHARACTERS
    said = "".join(json.loads(line).values()) if as_json else line
    assert said.isprintable()
    assert "?[31m? 2026-01-01" in said


async def test_of_many_refusals_a_few_a_second_are_logged(caplog):
    async def refuse(_path, _authorization, _body):
        raise GrantError("the grant does not cover this request")

    counted = Metrics("keeper", "a", "a", {"open"}).counting(refuse)
    caplog.set_level(logging.INFO, "anwen.net")
    began = int(time.monotonic())
    for _ in range(500):
        with pytest.raises(GrantError):
            await counted("/v1/open", "Anwen x", b"")
    seconds = int(time.monotonic()) - began + 1
    assert NOTED_PER_S <= len(caplog.records) <= NOTED_PER_S * seconds
