"""Refusals on the wire: problem+json (RFC 9457) with the stable code of an error.

Exactly the members `type`, `title`, `status`, `code`, `detail` and `retry_after_s`; a peer's text is bounded and
made printable before anybody sees it (docs/spec/http.md).

Pure.
"""

from __future__ import annotations

import json

from anwen.errors import BY_CODE, AnwenError, UnavailableError, from_code

CONTENT_TYPE = "application/problem+json"
MAX_PROBLEM_BYTES = 4096
MAX_DETAIL = 500
_MEMBERS = {"type", "title", "status", "code", "detail", "retry_after_s"}
_MAX_RETRY_S = 31 * 86_400


def encode(error: AnwenError) -> bytes:
    """Return the body of a refusal, at most `MAX_PROBLEM_BYTES`."""
    problem = {
        "type": f"urn:anwen:error:{error.code}",
        "title": BY_CODE[error.code].__name__,
        "status": error.http_status,
        "code": error.code,
        "detail": printable(str(error)),
        "retry_after_s": error.retry_after_s,
    }
    return json.dumps(problem, separators=(",", ":")).encode()


def decode(status: int, body: bytes) -> AnwenError:
    """Return the error that a peer answered; anything that is not exactly such a body is an `UnavailableError`."""
    try:
        return _decode(status, body)
    except (ValueError, KeyError, TypeError, RecursionError):
        return UnavailableError(f"status {status} and {len(body)} bytes that are not a problem body")


def _decode(status: int, body: bytes) -> AnwenError:
    if len(body) > MAX_PROBLEM_BYTES:
        raise ValueError("too long")
    problem = json.loads(body)
    code, detail, retry_after_s = problem["code"], problem["detail"], problem["retry_after_s"]
    if set(problem) != _MEMBERS or problem["status"] != status or not isinstance(code, str):
        raise ValueError("members")
    if not isinstance(detail, str) or problem["type"] != f"urn:anwen:error:{code}":
        raise ValueError("detail or type")
    if retry_after_s is not None:
        if type(retry_after_s) not in (int, float) or not 0 <= retry_after_s <= _MAX_RETRY_S:  # NaN is not, either
            raise ValueError("retry_after_s")
        retry_after_s = float(retry_after_s)
    return from_code(code, printable(detail), retry_after_s)


def printable(text: str, most: int = MAX_DETAIL) -> str:
    """Return the first `most` characters without control characters: a peer's words end up in terminals and logs."""
    return "".join(c if c.isprintable() else "?" for c in text[:most])
