"""Targets: files that people bring, and those that services find in their own folders."""

import asyncio
import dataclasses
import functools
import io
import itertools
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from feed import Feed, patched
from laws import REFUSED, law, refusals, tried

import vault_texts
from anwen.backup import archive
from anwen.cli.import_state import ImportFolder, PartState, Plan
from anwen.client import sealed_file
from anwen.errors import (
    IntegrityError,
    MalformedError,
    NotFoundError,
    OpenError,
    PolicyError,
    StorageError,
)
from anwen.files import FileFormat, Reject, read_rows, split
from anwen.formats import policy_chain
from anwen.keeper import folder as keeper_files
from anwen.keeper.folder import Disk
from anwen.keeper.side import MonthKeys
from anwen.net import metrics
from anwen.node import app as node_app
from anwen.store import engines
from anwen.store.copying import columns
from anwen.vault_folder import VaultFolder, read_key

SMALL = 2**16
"""Bytes of a file that a target may write: the disk is not what is tested."""


@functools.cache
def scratch():
    """A folder in memory for the files of this process."""
    base = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(prefix="anwen-fuzz-", dir=base if base.is_dir() else None))
    import atexit

    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def written(name, data, mode=0o600):
    """A file in the scratch folder with these bytes."""
    path = scratch() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    return path


# --- rows ------------------------------------------------------------------------------------------------------------


def _rows(path, file_format, expected=None):
    """Every row of a file is yielded or rejected, in order, whole, in parts, and after any interruption."""
    rows = tried(MalformedError, lambda: list(read_rows(path, file_format=file_format)))
    if rows is REFUSED:
        return
    law([r.number for r in rows] == list(range(1, len(rows) + 1)), "rows are not numbered one by one")
    law(all(a.line <= b.line for a, b in itertools.pairwise(rows)), "rows do not follow each other")
    law(expected is None or len(rows) == expected, f"{len(rows)} of {expected} rows")
    for row in rows:
        if isinstance(row, Reject):
            law(row.reason, "rejected without a reason")
        else:
            for name in row.values:
                law(isinstance(name, str), "a field without a name")
    parts, count, _ = split(path, 3, file_format=file_format)
    law(count == len(rows), f"{count} rows counted, {len(rows)} read")
    apart = [row for span in parts for row in read_rows(path, [span], file_format=file_format)]
    law(_plain(apart) == _plain(rows), "parts hold other rows than the whole")
    first = [row for row in rows if row.number < (parts[1].row if len(parts) > 1 else count + 1)]
    law(_plain(read_rows(path, parts[:1], file_format=file_format)) == _plain(first), "a part holds other rows")


def _plain(rows):
    return [repr(row) + repr(getattr(row, "values", None)) for row in rows]


def csv_file(data):
    """Any bytes as CSV."""
    _rows(written("rows.csv", data), FileFormat.CSV)


def ndjson_file(data):
    """Any bytes as NDJSON; as many rows as lines that are not blank."""
    path = written("rows.ndjson", data)
    lines = [line for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip(b"\r\n")]
    _rows(path, FileFormat.NDJSON, len(lines))


def parquet_file(data):
    """Any bytes as Parquet; as many rows as the footer says, or none at all."""
    _rows(written("rows.parquet", data), FileFormat.PARQUET)


# --- sealed files and keys -------------------------------------------------------------------------------------------

RECIPIENT = X25519PrivateKey.from_private_bytes(b"x" * 32)


@functools.cache
def _sealed(size):
    out = io.BytesIO()
    writer = sealed_file.SealedWriter(out, RECIPIENT.public_key())
    writer.write(bytes(size))
    writer.finish()
    return out.getvalue()


def sealed_bytes(data):
    """Any bytes as a sealed file, and a real one with edits: it opens only as it was written."""
    with refusals(MalformedError, OpenError):
        for chunk in sealed_file.read(io.BytesIO(data), RECIPIENT):
            law(len(chunk) <= sealed_file.CHUNK_BYTES, "a chunk")
    feed = Feed(data)
    real = _sealed(feed.choose((0, 5, 2**16, 2**16 + 1)))
    changed = patched(real, feed, 4)
    if tried((MalformedError, OpenError), list, sealed_file.read(io.BytesIO(changed), RECIPIENT)) is not REFUSED:
        law(changed == real, "a changed file opens")


def key_files(data):
    """Any bytes as key files in PEM."""
    path = written("some.key", data)
    for read in (sealed_file.read_recipient, sealed_file.read_recipient_key, read_key):
        with refusals(MalformedError, PolicyError):
            read(path)


# --- backups ---------------------------------------------------------------------------------------------------------

_COUNTS = {"row": 2, "posting": 2, "subject": 2, "deleted": 2, "wrap_1": 2}


def backup_manifest(data):
    """Any bytes as a backup's manifest."""
    for part in ("bulk", "wraps"):
        written(f"backup/{part}/manifest.json", data.replace(b'"bulk"', b'"%s"' % part.encode()))
    found = tried((MalformedError, IntegrityError, NotFoundError), archive.read, scratch() / "backup")
    if found is not REFUSED:
        law(set(found.about) == set(archive._COMMON), "what a backup is")
        law(all(columns(name) for name in found.rows()), "a table that no store has")
        tried(IntegrityError, archive.check, found)


def backup_table(data):
    """Any bytes as a table of a backup: its rows, as many as the manifest says, or none."""
    feed = Feed(data)
    name, part = feed.choose(sorted(_COUNTS)), "wraps"
    part = "wraps" if name.startswith("wrap") else "bulk"
    rows = feed.below(8) + 1
    written(f"backup/{part}/{name}", feed.rest())
    files = {p: {name: {"rows": rows}} if p == part else {} for p in ("bulk", "wraps")}
    found = archive.Backup({}, {p: scratch() / "backup" / p for p in ("bulk", "wraps")}, files, {})
    read = tried(MalformedError, lambda: [row for batch in found.table(name) for row in batch])
    if read is not REFUSED:
        law(len(read) == rows and all(len(row) == len(columns(name)) for row in read), "rows of a table")
        for row in read:
            for kind, value in zip(columns(name), row, strict=True):
                law(isinstance(value, bytes) if kind == "b" else 0 <= value < 2**63, "a value of a table")


# --- files of our own ------------------------------------------------------------------------------------------------


def import_state(data):
    """Any bytes as what an interrupted import left."""
    folder = ImportFolder(scratch() / "rejects")
    written("rejects.import/plan.json", data)
    written("rejects.import/0.json", data)
    plan = tried(MalformedError, folder.plan)
    if plan is not REFUSED:
        law(isinstance(plan, Plan), "a plan")
        for span in itertools.chain(*plan.parts):
            law(all(type(n) is int for n in dataclasses.astuple(span)), "a span")
        law(plan.in_order([Reject(1, 1, ""), Reject(2, 2, "")]) is not None, "an order")
    state = tried(MalformedError, folder.load, 0)
    if state is not REFUSED:
        law(isinstance(state, PartState), "a state")
        numbers = [state.done, state.asked, state.rejects_bytes, *itertools.chain(*state.stored)]
        numbers += [*state.counts.values(), *state.reasons.values()]
        law(all(type(n) is int for n in numbers), "a number of a state")
        law(type(state.ended) is bool, "whether a part has ended")
        folder.save(0, state)
        law(folder.load(0) == state, "a state does not come back")


@functools.cache
def _node_folder():
    from anwen.net import tls

    key, crt = tls.make_certificate("node")
    policy = vault_texts.policy()
    nodes = {k: dataclasses.replace(n, tls_pin=tls.pin_of_pem(crt)) for k, n in policy.nodes.items()}
    policy = dataclasses.replace(policy, nodes=nodes)
    signatures = {
        o: policy_chain.sign(policy, o, vault_texts.private_key(f"officer {o}")) for o in sorted(policy.officers)[:2]
    }
    document = policy_chain.encode_signed(policy_chain.SignedPolicy(policy, signatures))
    root = json.dumps({"vault": policy.vault.hex(), "root": policy_chain.digest(policy).hex()}).encode()
    name = next(iter(policy.nodes))
    return {
        "node.json": json.dumps({"id": name, "store": {"path": "x/anwen.sqlite"}}).encode(), "root.json": root,
        "policy/0001.json": document, "tls.crt": crt, "tls.key": key,
    }  # fmt: skip


def node_folder(data):
    """Any bytes as one of the files of a node's folder, the others good."""
    feed = Feed(data)
    files = _node_folder()
    changed = feed.choose(("node.json", "root.json", "policy/0001.json", "tls.crt"))
    content = feed.rest()
    for name, good in files.items():
        written(f"node/{name}", content if name == changed else good)
    with refusals(PolicyError):
        node_app.load(scratch() / "node")
    with refusals(PolicyError):
        metrics._address(scratch() / "node" / "node.json")
    with refusals(MalformedError, PolicyError):
        VaultFolder(scratch() / "node").policy()
    with refusals(NotFoundError):
        archive._settings(scratch() / "node")


def store_settings(data):
    """Any JSON as how to reach a store: understood or refused, before anything is opened or reached."""
    feed = Feed(data)
    read = feed.choose((_sqlite, _postgresql, _cassandra))
    try:
        settings = json.loads(feed.rest())
    except (ValueError, RecursionError):
        return
    if isinstance(settings, dict):
        with refusals(PolicyError, StorageError):
            read(settings)


def _sqlite(settings):
    path = str(settings.get("path", ""))
    if "/" in path or path in {".", ".."}:
        return  # an operator may name any place, a fuzzer must not
    folder = scratch() / "stores"
    folder.mkdir(exist_ok=True)
    try:
        asyncio.run(_opened(settings, folder))
    finally:
        shutil.rmtree(folder)


async def _opened(settings, folder):
    store = await engines.connect("sqlite", settings, folder)
    await store.close()


def _postgresql(settings):
    link = pytest.importorskip("anwen.store.postgresql_link", exc_type=ImportError)
    link.target(settings, scratch())


def _cassandra(settings):
    session = pytest.importorskip("anwen.store.cassandra_session", exc_type=ImportError)
    session.Settings.parse(settings, scratch())


_IDENTITY = b"i" * 32


def keeper_folder(data):
    """Any bytes as one of the files of a keeper's folder."""
    feed = Feed(data)
    good = {
        "identity.key": _IDENTITY, "keeper.json": b'{"id": "a"}',
        "root.json": json.dumps({"vault": "00" * 16, "root": "11" * 32}).encode(),
    }  # fmt: skip
    name = feed.choose((*good, "keys/record-1.keys", "log/months/2026-01.key", "policy/0001.json"))
    content = feed.rest()
    for other, bytes_ in (good | {name: content}).items():
        written(f"keeper/{other}", bytes_)
    folder = scratch() / "keeper"
    with refusals(MalformedError, PolicyError, StorageError):
        found = keeper_files.read_identity(folder)
        law(len(found.public) == 32, "an identity")
    if name.startswith("keys"):
        keys = tried((MalformedError, PolicyError, StorageError), keeper_files.read_keys, folder, "record", 1)
        if keys is not REFUSED:
            keys.write(folder, _Quick())
            law(keeper_files.read_keys(folder, "record", 1) == keys, "keys do not come back")
    if name.startswith("log"):
        months = MonthKeys(folder / "log" / "months", _Quick(), os.urandom)
        if tried(StorageError, months.ensure, "2026-01") is not REFUSED:
            law(months.handles("2026-01", months.pseudonyms("2026-01", b"h" * 16)) == b"h" * 16, "a pseudonym")
    if name.startswith("policy"):
        with refusals(PolicyError):
            policy_chain.verify_chain(keeper_files.read_policy_documents(folder), b"\x11" * 32)


class _Quick(Disk):
    def sync(self, fd):
        pass

    def sync_folder(self, folder):
        pass


def vault_root(data):
    """Any bytes as the pinned root beside which a client finds its policies."""
    written("vault/root.json", data)
    with refusals(MalformedError):
        law(isinstance(VaultFolder(scratch() / "vault").root, bytes), "a root")


TARGETS = {
    f.__name__: f
    for f in (
        csv_file, ndjson_file, parquet_file, sealed_bytes, key_files, backup_manifest, backup_table, import_state,
        node_folder, store_settings, keeper_folder, vault_root,
    )
}  # fmt: skip
