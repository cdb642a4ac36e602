"""HTTP/1.1 heads, as little of them as the services need, and everything else refused.

One request is a head of at most 8 KiB and a body of exactly Content-Length bytes. Transfer codings, folded lines,
bare line feeds, control characters, repeated lengths, upgrades and expectations are refused, so that no two
readers can disagree on where a request ends (docs/adr/0007-own-http-framing.md).

Pure: bytes in, values out.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from anwen.errors import MalformedError, PolicyError

MAX_HEAD_BYTES = 8192
END = b"\r\n\r\n"

_REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) (/[!-~]{0,1023}) HTTP/1\.1")
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2}) [ -~]{0,64}")
_FIELD = re.compile(rb"([A-Za-z0-9-]{1,64}):[ \t]*([!-~](?:[ -~\t]*[!-~])?)?[ \t]*")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,9}")
_AUTHORIZATION = re.compile(r"Anwen [A-Za-z0-9_.-]+")
_FORBIDDEN = frozenset({b"transfer-encoding", b"te", b"trailer", b"upgrade", b"expect", b"content-encoding"})
_ONCE = frozenset({b"content-length", b"authorization", b"host", b"connection"})
_REASONS = {
    200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 409: "Conflict", 413: "Content Too Large",
    429: "Too Many Requests", 500: "Internal Server Error", 503: "Service Unavailable", 507: "Insufficient Storage",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """What a request's head says. `authorization` is the header's value, "Anwen GRANT", or None for any other."""

    method: str
    path: str
    authorization: str | None
    length: int
    close: bool


@dataclass(frozen=True, slots=True)
class Response:
    """What an answer's head says."""

    status: int
    length: int
    close: bool


def _fields(lines: list[bytes]) -> dict[bytes, bytes]:
    """Return header fields by lower-case name. Raises MalformedError for what the module refuses."""
    fields: dict[bytes, bytes] = {}
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise MalformedError("a header line does not follow the grammar")
        name = match[1].lower()
        if name in _FORBIDDEN or (name in fields and name in _ONCE):
            raise MalformedError(f"header {name.decode()} is refused or repeated")
        fields[name] = match[2] or b""
    return fields


def _length(fields: dict[bytes, bytes]) -> int | None:
    value = fields.get(b"content-length")
    if value is None:
        return None
    if _LENGTH.fullmatch(value) is None:
        raise MalformedError("Content-Length is not a plain number")
    return int(value)


def _lines(head: bytes) -> list[bytes]:
    if len(head) > MAX_HEAD_BYTES or not head.endswith(END):
        raise MalformedError(f"a head ends within {MAX_HEAD_BYTES} bytes in an empty line")
    return head[: -len(END)].split(b"\r\n")


def parse_request(head: bytes) -> Request:
    """Return what a request's head, up to and with its empty line, says.

    Raises:
        MalformedError: outside the accepted language; the connection is to be closed.
    """
    lines = _lines(head)
    match = _REQUEST_LINE.fullmatch(lines[0])
    if match is None:
        raise MalformedError("the request line does not follow the grammar")
    fields = _fields(lines[1:])
    length, method = _length(fields), match[1].decode()
    if (method == "GET" and length) or (method == "POST" and length is None):
        raise MalformedError("GET takes no body, POST needs Content-Length")
    authorization = fields.get(b"authorization", b"").decode()
    grant = authorization if _AUTHORIZATION.fullmatch(authorization) else None
    return Request(method, match[2].decode(), grant, length or 0, fields.get(b"connection", b"").lower() == b"close")


def parse_response(head: bytes) -> Response:
    """Return what an answer's head, up to and with its empty line, says. Raises MalformedError."""
    lines = _lines(head)
    match = _STATUS_LINE.fullmatch(lines[0])
    if match is None:
        raise MalformedError("the status line does not follow the grammar")
    fields = _fields(lines[1:])
    length = _length(fields)
    if length is None:
        raise MalformedError("an answer without Content-Length")
    return Response(int(match[1]), length, fields.get(b"connection", b"").lower() == b"close")


def encode_request(path: str, host: str, authorization: str | None, length: int) -> bytes:
    """Return the head of a POST; `authorization` is "Anwen GRANT" or None. Raises MalformedError."""
    grant = f"Authorization: {authorization}\r\n" if authorization is not None else ""
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\n{grant}Content-Length: {length}\r\n\r\n".encode("ascii")
    if len(head) > MAX_HEAD_BYTES or head.count(b"\r\n") != 4 + bool(grant) or head.count(b"\n") != 4 + bool(grant):
        raise MalformedError("path, host or grant do not fit a request's head")
    return head


def encode_response(
    status: int, content_type: str, length: int, *, close: bool, retry_after_s: float | None = None
) -> bytes:
    """Return the head of an answer. `retry_after_s` is said in whole seconds, rounded up (RFC 9110, 10.2.3)."""
    connection = "Connection: close\r\n" if close else ""
    retry = f"Retry-After: {math.ceil(retry_after_s)}\r\n" if retry_after_s is not None else ""
    return (
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\nContent-Type: {content_type}\r\n"
        f"Cache-Control: no-store\r\n{retry}{connection}Content-Length: {length}\r\n\r\n"
    ).encode("ascii")


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of "host:port" or "[IPv6]:port". Raises PolicyError."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not colon or not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise PolicyError(f"address {address!r}: expected host:port")
    return host, int(port)
