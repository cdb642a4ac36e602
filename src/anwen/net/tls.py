"""TLS 1.3 between parties that know each other by key: certificates carry keys, hashes of keys decide.

A service's certificate is self-signed; whoever connects compares SHA-256 of its SubjectPublicKeyInfo with the signed
policy, after the handshake and before the first byte is sent. No authority, no tickets, no early data, and no switch
that turns the comparison off.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from anwen.errors import MalformedError, PolicyError

PIN_BYTES = 32
_YEARS = 10
_READ_BYTES = 2**18

_PIECE_BYTES, _RECORD_COST, _WORTH, _MOST_WASTE = 2**13, 128, 8, 20 * 2**10
"""What bounds the work for records that carry nothing, as key updates: each counts as so many bytes more, each byte of
plaintext pays for eight, and a connection ends when more than this is owed. One record in the making owes less."""


def make_certificate(name: str, address: str = "127.0.0.1") -> tuple[bytes, bytes]:
    """Return a fresh P-256 key and its self-signed certificate, both PEM, for localhost and an address, for ten years.

    The dates matter to nobody who pins; they are there because the format has them.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(address))]
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=365 * _YEARS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return key_pem, certificate.public_bytes(serialization.Encoding.PEM)


def spki_pin(cert_der: bytes) -> bytes:
    """Return SHA-256 of a DER certificate's SubjectPublicKeyInfo. Raises MalformedError."""
    try:
        key = x509.load_der_x509_certificate(cert_der).public_key()
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise MalformedError("not a certificate in DER") from error
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()


def pin_of_pem(cert_pem: bytes) -> bytes:
    """Return the pin of a PEM certificate. Raises MalformedError."""
    try:
        certificate = x509.load_pem_x509_certificate(cert_pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise MalformedError("not a certificate in PEM") from error
    return spki_pin(certificate.public_bytes(serialization.Encoding.DER))


def _tls13(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    return context


def server_context(cert_path: Path, key_path: Path) -> ssl.SSLContext:
    """Return a context that speaks TLS 1.3 alone, without tickets, so without early data.

    Raises:
        PolicyError: a file is missing or not a pair, or others than its owner may read the key.
    """
    try:
        mode = key_path.stat().st_mode & 0o777
        if mode & 0o077:
            raise PolicyError(f"{key_path.name}: mode {mode:04o}, expected 0600")
        context = _tls13(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        context.num_tickets = 0
        context.load_cert_chain(cert_path, key_path)
    except OSError as error:  # ssl.SSLError is one, too
        raise PolicyError(f"{cert_path.name} and {key_path.name}: no usable pair ({type(error).__name__})") from error
    return context


def client_context() -> ssl.SSLContext:
    """Return a context that accepts any certificate: `Channel.peer_pin` is compared before a byte is sent."""
    context = _tls13(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Channel:
    """One end of a TLS connection as bytes in, bytes out: limits can apply before a handshake begins.

    Feeding it straight from a plain transport also saves the layers of asyncio's own TLS transport.
    """

    def __init__(self, context: ssl.SSLContext, *, server_side: bool) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=server_side)
        self.ready = False  # the handshake is complete
        self.ended = False  # the other end said that nothing more will come
        self._owed = self._to_header = 0
        self._header = b""  # the first bytes of a record's, of which more will come

    def receive(self, data: bytes) -> bytes:
        """Return the plaintext that came with `data`. Raises ssl.SSLError: send what is `outgoing`, then close.

        Also for records that carry next to nothing: what anybody may send must not keep the process busy.
        """
        if len(data) > _PIECE_BYTES:
            return b"".join([self.receive(data[at : at + _PIECE_BYTES]) for at in range(0, len(data), _PIECE_BYTES)])
        plain = self._receive(data)
        owed = self._owed + len(data) + _RECORD_COST * self._headers(data) - _WORTH * len(plain)
        self._owed = max(0, owed)
        if self._owed > _MOST_WASTE:
            raise ssl.SSLError("records that carry nothing")
        return plain

    def _headers(self, data: bytes) -> int:
        """Return how many records begin in `data`: their five bytes of header come in clear."""
        data, at, count = self._header + data, self._to_header, 0
        while at + 5 <= len(data):
            at, count = at + 5 + int.from_bytes(data[at + 3 : at + 5]), count + 1
        self._to_header, self._header = max(0, at - len(data)), data[at:]
        return count

    def _receive(self, data: bytes) -> bytes:
        self._in.write(data)
        if not self.ready:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                return b""
            self.ready = True
        parts = []
        try:
            while part := self._tls.read(_READ_BYTES):
                parts.append(part)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def start(self) -> None:
        """Begin the handshake, as a client."""
        self.receive(b"")

    def send(self, data: bytes) -> None:
        """Encrypt `data`; it is then `outgoing`."""
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]

    def finish(self) -> None:
        """Tell the other end that nothing more will come."""
        if self.ready:
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()

    def outgoing(self) -> bytes:
        """Return the bytes to put on the wire now."""
        return self._out.read()

    def peer_pin(self) -> bytes:
        """Return the pin of the other end's certificate. Raises MalformedError."""
        return spki_pin(self._tls.getpeercert(binary_form=True) or b"")
