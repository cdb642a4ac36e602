"""Framing: a small accepted language, and a corpus of what request smuggling is made of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anwen.errors import MalformedError, PolicyError
from anwen.net import http1

GOOD = b"POST /v1/put HTTP/1.1\r\nHost: a:1\r\nAuthorization: Anwen abc.DEF-_.x\r\nContent-Length: 12\r\n\r\n"

# Shapes from the request-smuggling literature: RFC 9112 sections 2.2, 6.1-6.3, 11.2; J. Kettle, "HTTP Desync
# Attacks" (2019); the "http-garden" differential corpus (2024). Each must be refused, not repaired.
SMUGGLING = {
    "chunked": b"POST /v1/put HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "chunked beside length": b"POST /v1/put HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "identity": b"POST /v1/put HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: identity\r\n\r\n",
    "hidden chunked, tab": b"POST /v1/put HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding:\tchunked\r\n\r\n",
    "hidden chunked, space": b"POST /v1/put HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding : chunked\r\n\r\n",
    "hidden chunked, case": b"POST /v1/put HTTP/1.1\r\nContent-Length: 5\r\ntRANSFER-eNCODING: xchunked\r\n\r\n",
    "hidden chunked, fold": b"POST /v1/put HTTP/1.1\r\nContent-Length: 5\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n",
    "two lengths": b"POST /v1/put HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    "same length twice": b"POST /v1/put HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
    "list of lengths": b"POST /v1/put HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n",
    "length +": b"POST /v1/put HTTP/1.1\r\nContent-Length: +5\r\n\r\n",
    "length -": b"POST /v1/put HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    "length hex": b"POST /v1/put HTTP/1.1\r\nContent-Length: 0x5\r\n\r\n",
    "length underscore": b"POST /v1/put HTTP/1.1\r\nContent-Length: 1_0\r\n\r\n",
    "length leading zero": b"POST /v1/put HTTP/1.1\r\nContent-Length: 05\r\n\r\n",
    "length fraction": b"POST /v1/put HTTP/1.1\r\nContent-Length: 5.0\r\n\r\n",
    "length empty": b"POST /v1/put HTTP/1.1\r\nContent-Length: \r\n\r\n",
    "length huge": b"POST /v1/put HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
    "length in other digits": b"POST /v1/put HTTP/1.1\r\nContent-Length: \xd9\xa5\r\n\r\n",
    "no length": b"POST /v1/put HTTP/1.1\r\nHost: a\r\n\r\n",
    "get with body": b"GET /healthz HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
    "two grants": b"POST /v1/put HTTP/1.1\r\nAuthorization: Anwen a\r\nAuthorization: Anwen b\r\nContent-Length: 0\r\n\r\n",
    "two hosts": b"POST /v1/put HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 0\r\n\r\n",
    "bare line feed": b"POST /v1/put HTTP/1.1\nContent-Length: 5\r\n\r\n",
    "bare line feed in headers": b"POST /v1/put HTTP/1.1\r\nX: y\nContent-Length: 5\r\n\r\n",
    "bare carriage return": b"POST /v1/put HTTP/1.1\r\nX: y\rContent-Length: 5\r\n\r\n",
    "nul": b"POST /v1/put HTTP/1.1\r\nX: y\0\r\nContent-Length: 5\r\n\r\n",
    "fold": b"POST /v1/put HTTP/1.1\r\nX: y\r\n z\r\nContent-Length: 5\r\n\r\n",
    "space before colon": b"POST /v1/put HTTP/1.1\r\nContent-Length : 5\r\n\r\n",
    "no name": b"POST /v1/put HTTP/1.1\r\n: 5\r\nContent-Length: 5\r\n\r\n",
    "no colon": b"POST /v1/put HTTP/1.1\r\nContent-Length 5\r\n\r\n",
    "non-ascii name": b"POST /v1/put HTTP/1.1\r\nContent-L\xc3\xa9ngth: 5\r\n\r\n",
    "upgrade": b"POST /v1/put HTTP/1.1\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\n",
    "expect": b"POST /v1/put HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    "trailer": b"POST /v1/put HTTP/1.1\r\nTrailer: X\r\nContent-Length: 5\r\n\r\n",
    "http/1.0": b"POST /v1/put HTTP/1.0\r\nContent-Length: 5\r\n\r\n",
    "http/2": b"PRI * HTTP/2.0\r\n\r\n",
    "http/1.10": b"POST /v1/put HTTP/1.10\r\nContent-Length: 5\r\n\r\n",
    "absolute target": b"POST https://a/v1/put HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
    "two spaces": b"POST  /v1/put HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
    "space in target": b"POST /v1/put x HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
    "leading blank line": b"\r\nPOST /v1/put HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
    "leading space": b" POST /v1/put HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
    "lower-case method": b"post /v1/put HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
    "http/0.9": b"GET /healthz\r\n\r\n",
    "control character in value": b"POST /v1/put HTTP/1.1\r\nX: a\x0bb\r\nContent-Length: 5\r\n\r\n",
    "head too long": b"POST /v1/put HTTP/1.1\r\nX: " + b"a" * 8192 + b"\r\nContent-Length: 5\r\n\r\n",
    "no end": b"POST /v1/put HTTP/1.1\r\nContent-Length: 5\r\n",
    "empty": b"",
}


@pytest.mark.parametrize("head", SMUGGLING.values(), ids=SMUGGLING)
def test_smuggling_shapes_are_refused(head):
    with pytest.raises(MalformedError):
        http1.parse_request(head)


def test_a_good_head_is_read():
    assert http1.parse_request(GOOD) == http1.Request("POST", "/v1/put", "Anwen abc.DEF-_.x", 12, close=False)
    close = http1.parse_request(b"GET /healthz HTTP/1.1\r\nConnection: Close\r\n\r\n")
    assert close == http1.Request("GET", "/healthz", None, 0, close=True)


@pytest.mark.parametrize("value", [b"Bearer abc", b"Anwen", b"anwen abc", b"Anwen a b", b"Anwen a,b", b"Basic YTpi"])
def test_another_authorization_is_none(value):
    head = b"POST /v1/put HTTP/1.1\r\nAuthorization: " + value + b"\r\nContent-Length: 0\r\n\r\n"
    assert http1.parse_request(head).authorization is None


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_changed_byte_never_changes_where_the_request_ends_unseen(at, byte):
    """Whatever is accepted has one Content-Length, written as a plain number."""
    head = GOOD[:at] + bytes([byte]) + GOOD[at + 1 :]
    try:
        request = http1.parse_request(head)
    except MalformedError:
        return
    lengths = [
        line.split(b":")[1].strip() for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    ]
    assert lengths == [str(request.length).encode()] or (not lengths and request.method not in {"GET", "POST"})


@given(
    st.from_regex(r"/v1/[a-z_]{1,20}", fullmatch=True),
    st.none() | st.from_regex(r"Anwen [A-Za-z0-9_.-]{1,99}", fullmatch=True),
    st.integers(0, 2**26),
)
def test_what_is_written_is_read(path, grant, length):
    head = http1.encode_request(path, "127.0.0.1:8000", grant, length)
    assert http1.parse_request(head) == http1.Request("POST", path, grant, length, close=False)


@given(st.sampled_from([200, 403, 409, 503]), st.integers(0, 2**26), st.booleans())
def test_an_answer_that_is_written_is_read(status, length, close):
    head = http1.encode_response(status, "application/octet-stream", length, close=close)
    assert http1.parse_response(head) == http1.Response(status, length, close)


@pytest.mark.parametrize(("after_s", "said"), [(0, 0), (0.1, 1), (1, 1), (1.2, 2), (86_399.01, 86_400)])
def test_retry_after_is_whole_seconds_and_never_too_soon(after_s, said):
    head = http1.encode_response(429, "a/b", 5, close=True, retry_after_s=after_s)
    assert f"\r\nRetry-After: {said}\r\n".encode() in head
    assert http1.parse_response(head) == http1.Response(429, 5, close=True)
    assert b"Retry-After" not in http1.encode_response(429, "a/b", 5, close=True)


@pytest.mark.parametrize("grant", ["Anwen a\r\nX: y", "Anwen a\nX: y", "a" * 9000])
def test_a_grant_cannot_add_a_header(grant):
    with pytest.raises(MalformedError):
        http1.encode_request("/v1/put", "a:1", grant, 0)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
        b"junk\r\n\r\n",
    ],
)
def test_other_answers_are_refused(head):
    with pytest.raises(MalformedError):
        http1.parse_response(head)


@pytest.mark.parametrize(("address", "parts"), [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:8443", ("::1", 8443))])
def test_addresses(address, parts):
    assert http1.split_address(address) == parts


@pytest.mark.parametrize("address", ["", "a", "a:", ":1", "a:b", "a:70000", "::1:80", "a:-1", "a:١"])
def test_bad_addresses(address):
    with pytest.raises(PolicyError):
        http1.split_address(address)
