"""Members that ask for TLS and a password: what a node needs there, what it refuses, and one member lost."""

import contextlib
import datetime as dt
import ipaddress
import re
import ssl
import time
from pathlib import Path

import pytest
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
from cassandra.policies import WhiteListRoundRobinPolicy
from cassandra_members import connected, running, stopped
from contract import EPOCH, outcomes, row
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from anwen.errors import PolicyError, UnavailableError
from anwen.store.base import Outcome

DOCS = Path(__file__).parents[2] / "docs"
FACTORY = "org.apache.cassandra.security.PEMBasedSslContextFactory"
OPERATOR = "CREATE ROLE operator WITH PASSWORD = 'operator' AND LOGIN = true AND SUPERUSER = true"


class Authority:
    """Signs certificates of addresses."""

    def __init__(self):
        self._key, self._name = ec.generate_private_key(ec.SECP256R1()), _name("authority")
        self.certificate = _sign(self._name, self._key, self._name, self._key, x509.BasicConstraints(True, 0))

    def pem(self, address):
        """Return a key and its certificate."""
        key, names = ec.generate_private_key(ec.SECP256R1()), [x509.IPAddress(ipaddress.ip_address(address))]
        certificate = _sign(_name(address), key, self._name, self._key, x509.SubjectAlternativeName(names))
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return secret + certificate


def _name(name):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _sign(subject, key, issuer, by, extension):
    start = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    builder = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=30))
        .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
    )
    return builder.sign(by, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


ONE_COPY = "ALTER KEYSPACE system_auth WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}"
THREE = ONE_COPY.replace("SimpleStrategy", "NetworkTopologyStrategy").replace("replication_factor': 1", "zones': 3")


def documented():
    """Return the statements of docs/store-cassandra.md, with a password and this data centre's name."""
    (block,) = re.findall(r"```sql\n(.*?)```", (DOCS / "store-cassandra.md").read_text(), re.DOTALL)
    return block.replace("'...'", "'right'").replace("'dc1'", "'zones'").strip().rstrip(";").split(";\n")


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture(scope="module")
def files(tmp_path_factory, authority):
    folder = tmp_path_factory.mktemp("files")
    (folder / "ca.pem").write_bytes(authority.certificate)
    (folder / "other.pem").write_bytes(Authority().certificate)
    for name in ("right", "wrong"):
        (folder / name).write_text(f"{name}\n")
        (folder / name).chmod(0o600)
    return folder


@pytest.fixture(scope="module")
def members(tmp_path_factory, authority, files):
    folder = tmp_path_factory.mktemp("login")
    options = {
        "authenticator": "PasswordAuthenticator",
        "authorizer": "CassandraAuthorizer",
        "roles_validity": "600s",  # the role that is there at first is in one place, and asked for once
        "client_encryption_options": {
            "enabled": True,
            "keystore": "keystore.pem",  # in each member's own folder
            "ssl_context_factory": {"class_name": FACTORY},
        },
    }
    cluster = stopped(folder, 1, **options)
    for zone in cluster.zones:
        (folder / zone).mkdir(mode=0o700)
        (folder / zone / "keystore.pem").write_bytes(authority.pem(cluster.addresses[zone]))
    with running(cluster):
        until = time.monotonic() + 60
        while True:  # its own superuser comes some seconds after it serves
            with contextlib.suppress(NoHostAvailable):
                asked(cluster, files, ("cassandra", "cassandra"))
                break
            assert time.monotonic() < until
            time.sleep(0.2)
        asked(cluster, files, ("cassandra", "cassandra"), THREE, OPERATOR)
        asked(cluster, files, ("operator", "operator"), *documented())
        yield cluster


def asked(members, files, login, *statements):
    """Ask one member, which knows its own superuser before others do."""
    address = members.addresses["a"]
    profile = ExecutionProfile(WhiteListRoundRobinPolicy([address]), request_timeout=20)
    context = ssl.create_default_context(cafile=files / "ca.pem")
    cluster = Cluster(
        [(address, members.ports[0])], execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        auth_provider=PlainTextAuthProvider(*login), ssl_context=context, protocol_version=4,
    )  # fmt: skip
    try:
        session = cluster.connect()
        for statement in statements:
            session.execute(statement)
    finally:
        cluster.shutdown()


def settings(files, **more):
    return {"username": "anwen", "password_file": str(files / "right"), "ca_file": str(files / "ca.pem")} | more


async def test_a_node_signs_in_over_tls_and_goes_on_with_any_member_lost(members, files):
    first = await connected(members, **settings(files))
    try:
        assert first._session.cluster.ssl_context.check_hostname
        kept = row()
        assert await outcomes(first, kept) == [Outcome.STORED]
        counts = await first.statistics()
        assert {v for k, v in counts.settings.items() if k.startswith("commitlog_sync ")} == {"batch"}
        assert counts.settings["replication of system_auth"].endswith("NetworkTopologyStrategy, zones 3")
    finally:
        await first.close()
    members.kill("b")
    try:
        for zone in "ac":
            store = await connected(members, zone, **settings(files))
            try:
                assert await outcomes(store, row()) == [Outcome.STORED]
                assert len(await store.get(EPOCH, [kept.record], ())) == 1
            finally:
                await store.close()
    finally:
        await members.start_member("b")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"password_file": "wrong"}, "and/or password are incorrect"),
        ({"ca_file": "other.pem"}, "certificate verify failed"),
    ],
)
async def test_a_wrong_password_or_authority_is_named(members, files, wrong, said):
    with pytest.raises(UnavailableError, match=said) as error:
        await connected(members, **settings(files, **{key: str(files / name) for key, name in wrong.items()}))
    assert "right" not in str(error.value)
    assert members.addresses["a"] in str(error.value)


async def test_a_certificate_of_another_address_is_refused(members, files, authority):
    keystore = members.folder / "c" / "keystore.pem"
    members.kill("c")
    keystore.write_bytes(authority.pem("192.0.2.1"))
    try:
        await members.start_member("c")
        alone = {"contact_points": members.settings("c")["contact_points"][2:]}
        with pytest.raises(UnavailableError, match="certificate is not valid for"):
            await connected(members, **settings(files), **alone)
    finally:
        members.kill("c")
        keystore.write_bytes(authority.pem(members.addresses["c"]))
        await members.start_member("c")


async def test_a_node_that_may_not_read_the_members_settings_is_refused(members, files):
    asked(members, files, ("operator", "operator"), "REVOKE SELECT ON KEYSPACE system_views FROM anwen")
    try:
        with pytest.raises(PolicyError, match=r"anwen has no SELECT permission on .*; GRANT SELECT ON KEYSPACE"):
            await connected(members, **settings(files))
    finally:
        asked(members, files, ("operator", "operator"), documented()[-1])


async def test_roles_that_lie_in_one_zone_are_refused(members, files):
    asked(members, files, ("operator", "operator"), ONE_COPY)
    try:
        with pytest.raises(PolicyError, match="system_auth: expected NetworkTopologyStrategy, got SimpleStrategy"):
            await connected(members, **settings(files))
    finally:
        asked(members, files, ("operator", "operator"), THREE)
