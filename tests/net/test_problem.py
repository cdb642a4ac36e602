"""Problem bodies: every error comes back as itself, and nothing that a peer writes is taken on trust."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anwen.errors import BY_CODE, BudgetError, UnavailableError
from anwen.formats import problem


@pytest.mark.parametrize("code", BY_CODE)
def test_every_error_comes_back_as_itself(code):
    error = BY_CODE[code]("row 3: expected 2, got 1")
    error.retry_after_s = 2.5
    back = problem.decode(error.http_status, problem.encode(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.retry_after_s == 2.5


def test_members_are_those_of_rfc_9457_and_ours():
    body = json.loads(problem.encode(BudgetError("spent", retry_after_s=60)))
    assert body == {
        "type": "urn:anwen:error:budget",
        "title": "BudgetError",
        "status": 429,
        "code": "budget",
        "detail": "spent",
        "retry_after_s": 60,
    }


@given(st.binary(max_size=200))
def test_junk_is_unavailable(body):
    assert type(problem.decode(400, body)) is UnavailableError


GOOD = json.loads(problem.encode(BudgetError("spent", retry_after_s=60)))


@pytest.mark.parametrize(
    "change",
    [
        {"status": 400}, {"type": "about:blank"}, {"status": "429"}, {"code": 7}, {"code": None}, {"detail": 5}, {"retry_after_s": "60"},
        {"retry_after_s": -1}, {"retry_after_s": 1e300}, {"retry_after_s": True}, {"extra": 1}, {"detail": "x" * 9000},
    ],
    ids=str,
)  # fmt: skip
def test_a_changed_body_is_unavailable(change):
    assert type(problem.decode(429, json.dumps(GOOD | change).encode())) is UnavailableError


@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"x"', b"[" * 4000, b'{"retry_after_s": NaN}'])
def test_other_json_is_unavailable(body):
    assert type(problem.decode(429, body)) is UnavailableError


def test_unknown_codes_are_unavailable_and_text_is_made_printable():
    new = {"code": "new_in_2030", "type": "urn:anwen:error:new_in_2030"}
    body = json.dumps(GOOD | new | {"detail": "a\x1b[31m\nb" + "c" * 900}).encode()
    error = problem.decode(429, body)
    assert type(error) is UnavailableError
    assert str(error).startswith("a?[31m?b")
    assert len(str(error)) == problem.MAX_DETAIL
