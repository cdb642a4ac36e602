"""Targets: messages, answers, envelopes, grants, policies, checkpoints, problems, values, proofs."""

import base64
import dataclasses
import json
from collections import Counter
from decimal import Decimal, InvalidOperation

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from feed import NUMBERS, Feed, edited_json, patched
from laws import REFUSED, law, tried
from reference import RefusedError
from reference import decode as decode_by_the_page

import vault_texts
from anwen.client.rows import Cell, open_cell
from anwen.crypto import envelope as sealing
from anwen.crypto import grants, merkle, padding
from anwen.errors import (
    AnwenError,
    GrantError,
    MalformedError,
    OpenError,
    PolicyError,
    ProofError,
    TooLargeError,
    UnavailableError,
)
from anwen.formats import answer, checkpoint, envelope, identifiers, normalise, policy_chain, policy_file, problem, wire
from anwen.formats.policy_template import write_version
from anwen.model import INDEX_CLASS, Field
from anwen.store.trim import trim_cells, trim_wraps

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
WITNESS_KEY = Ed25519PrivateKey.from_private_bytes(b"w" * 32)
VAULT, SUBJECT, RECORD = bytes(16), b"s" * 16, b"r" * 16
ORIGIN, WITNESS = checkpoint.log_origin(VAULT, "a"), checkpoint.log_origin(VAULT, "b")
POLICY = vault_texts.policy()


# --- messages and answers --------------------------------------------------------------------------------------------


def wire_message(data):
    """Any bytes as a message: refused, or the one encoding of what it says; a reader by the page agrees."""
    try:
        expected = decode_by_the_page(data, *wire.SCHEMAS)
    except RefusedError:
        expected = None
    message = tried((MalformedError, TooLargeError), wire.decode, data, *wire.SCHEMAS)
    law((message is REFUSED) == (expected is None), "the page says otherwise")
    if message is REFUSED:
        return
    tables = {
        name: {c: [v.tobytes() for v in column] if column.ndim == 2 else column.tolist() for c, column in t.items()}
        for name, t in message.tables.items()
    }
    law((message.op, message.salt, message.scalars, tables, message.blobs) == expected, "read differently")
    again = wire.encode(message.op, message.salt, message.scalars, message.tables, message.blobs)
    law(again == data, "not in its one form")


def answer_bytes(data):
    """Any bytes as a keeper's answer."""
    found = tried((MalformedError, ProofError), answer.decode_answer, data)
    if found is not REFUSED:
        law(found.receipt + found.nonce_base + found.components.tobytes() == data, "answer: not in its one form")
        tried(ProofError, answer.verify_receipt, found.receipt, PUBLIC)


def answer_signed(data):
    """A header with any values, signed by the keeper: what a liar may say."""
    feed = Feed(data)
    header = patched(Feed(feed.take(216)).rest().ljust(216, b"\0"), Feed(feed.piece()))[:216].ljust(216, b"\0")
    receipt = b"ANWA" + header[4:]
    receipt += KEY.sign(receipt)
    found = tried(MalformedError, answer.verify_receipt, receipt, PUBLIC)
    law(found is REFUSED or found.encode() == receipt[: answer.HEADER_BYTES], "header: not in its one form")
    tried((MalformedError, ProofError), answer.decode_answer, receipt + feed.rest())


# --- envelopes -------------------------------------------------------------------------------------------------------


def cells_blob(data):
    """Any bytes as a row's cells, as a client gets them from a node, and a node from its store."""
    cells = tried(MalformedError, envelope.split_cells, data)
    if cells is not REFUSED:
        law(envelope.join_cells(list(cells), list(cells.values())) == data, "cells: not in their one form")
        law(trim_cells(data, set(cells)) == data, "cells: trimmed to themselves")
        law(set(envelope.split_cells(trim_cells(data, {1, 2}))) == set(cells) & {1, 2}, "cells: trimmed")
        for sealed in cells.values():
            if tried(MalformedError, envelope.check_form, sealed) is not REFUSED:
                law(len(envelope.commitment(sealed)) == 32, "commitment")
    tried(MalformedError, envelope.commitment, data)


def wraps_blob(data):
    """Any bytes as a row's wraps."""
    wraps = tried(MalformedError, envelope.split_wraps, data)
    if wraps is not REFUSED:
        rows = [int.from_bytes(nonce[20:]) for nonce, _ in wraps.values()]
        law(envelope.join_wraps(data[:20], list(wraps), rows, [w for _, w in wraps.values()]) == data, "wraps: form")
        law(trim_wraps(data, set(wraps)) == data, "wraps: trimmed to themselves")
        law(set(envelope.split_wraps(trim_wraps(data, {1}))) == set(wraps) & {1}, "wraps: trimmed")


def padding_bytes(data):
    """Any bytes as a padded body."""
    body = tried(OpenError, padding.unpad, data)
    law(body is REFUSED or padding.pad(body) == data, "padding: not in its one form")
    law(padding.unpad(padding.pad(data)) == data, "padding: comes back")
    law(padding.is_padded_length(padding.padded_length(len(data))), "padded length")


def envelope_bytes(data):
    """Any bytes as an envelope that opens under a known DEK."""
    context = sealing.context(VAULT, 1, 1, 1, SUBJECT, RECORD)
    key, commitment = sealing.derive(b"d" * 32, context)
    body = tried(OpenError, sealing.open_envelope, b"d" * 32, context, data)
    if body is not REFUSED:
        law(envelope.commitment(data) == commitment and key, "opened under another commitment")
        law(sealing.seal(b"d" * 32, data[1:13], context, body) == data, "envelope: not in its one form")


def cell_body(data):
    """What a writer with the right keys may have sealed, be it broken or malicious: opened, or `OpenError`."""
    feed = Feed(data)
    person = POLICY.collections["person"]
    class_id = feed.choose((1, 2, 0x8001, 0x8002, INDEX_CLASS))
    context = sealing.context(POLICY.vault, person.id, class_id, 1, SUBJECT, RECORD)
    sealed = sealing.seal(b"d" * 32, bytes(12), context, feed.rest())
    cell = Cell(person, SUBJECT, RECORD, class_id, 1, 0, 0, sealed, bytes(24), b"d" * 32)
    values = tried(OpenError, open_cell, POLICY.vault, cell, bytes(32))
    if values is not REFUSED and class_id != INDEX_CLASS:
        law(set(values) <= set(person.field_named), "opened to a field that is none")
        json.dumps(values, ensure_ascii=False, allow_nan=False).encode()  # as exports write them


# --- grants ----------------------------------------------------------------------------------------------------------


def grant_text(data):
    """Any text after `Anwen `."""
    text = data.decode("latin-1")
    grants.claimed_issuer("Anwen " + text)
    parts = tried(GrantError, grants.parse, text)
    if parts is not REFUSED:
        law(grants._has_form(parts[0]), "grant: a claim has another form")
        law(".".join((parts[1].decode(), grants._encode64(parts[2]))) == text, "grant: not in its one form")
        tried(GrantError, grants.verify, parts, vault_texts.private_key("grant").public_key())


def grant_claims(data):
    """Any claims, in a grant that is otherwise well formed; the quick way and the JSON parser agree."""
    token = f"{grants._HEADER64}.{grants._encode64(data)}.{grants._encode64(bytes(64))}"
    quick = tried(GrantError, grants.parse, token)
    slow = tried(GrantError, grants._claims_in_json, data)
    if quick is not REFUSED:
        quick = quick[0]
    law(quick == slow or len(token) > grants.MAX_CHARS, "grant: two readers differ")


def public_key(data):
    """Any bytes as a principal's public key."""
    tried(MalformedError, grants.load_public_key, data)


# --- policies --------------------------------------------------------------------------------------------------------


def policy_toml(data):
    """Any text as a vault file; what it says can be signed and read again."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    policy = tried(PolicyError, policy_file.parse_toml, text)
    if policy is not REFUSED:
        document = json.loads(policy_file.canonical(policy))
        law(policy_file.from_json(document) == policy, "policy: TOML and JSON differ")
        law(policy_file.canonical(policy_file.from_json(document)) == policy_file.canonical(policy), "canonical")


def policy_next(data):
    """Any text that is to become the next version."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    edited = tried(PolicyError, write_version, text, 2, bytes(32))
    if edited is not REFUSED:
        law(write_version(edited, 2, bytes(32)) == edited, "policy: edited twice")


_LINES = [line for line in vault_texts.text().splitlines() if line.strip() and not line.startswith("#")]
_TOML = (
    "1960-01-01", "0001-01-01", "9999-12-31", "1979-05-27T07:32:00Z", "07:32:00", "inf", "nan", "1e999", "-1", "0x7fff", "0",
    "9" * 5000, '""', '"\\u0000"', '"\\U0010FFFF"', "'''x\ny'''", '"""a\n"""', "[]", "[[[]]]", "{}", "{a = {b = 1}}", "true",
    "[" * 300 + "]" * 300, "[1, # x\n 2,]", '["a", "a"]', '"own"', "{per_hour = 1, per_day = 1}",
)  # fmt: skip


def policy_lines(data):
    """A whole vault file with lines dropped, doubled, moved and given other values."""
    feed, lines = Feed(data), list(_LINES)
    for _ in range(4):
        if not feed:
            break
        at, kind = feed.below(len(lines)), feed.below(6)
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines.insert(feed.below(len(lines)), lines[at])
        elif kind in (2, 3):
            lines[at] = f"{lines[at].partition('=')[0].rstrip()} = {feed.choose(_TOML)}"
        elif kind == 4:
            lines[at] = patched(lines[at].encode(), feed, 2).decode("utf-8", "replace")
        else:
            name = feed.choose(("x", "a.b", "id", '"q.r"'))
            lines.insert(at, f"{name} = {feed.choose(_TOML)}")
    policy_toml("\n".join(lines).encode())


def policy_successor(data):
    """The next version with edits, signed by the quorum: what stored rows mean stays."""
    feed = Feed(data)
    after = dataclasses.replace(POLICY, version=2, previous=policy_chain.digest(POLICY))
    document = edited_json(json.loads(policy_file.canonical(after)), feed, 3)
    policy = tried(PolicyError, policy_file.from_json, document if isinstance(document, dict) else {})
    if policy is REFUSED:
        return
    law(json.loads(policy_file.canonical(policy)) == document, "policy: not in its one form")
    ours = [o for o in ("ada", "ben") if o in policy.officers or o in POLICY.officers]
    signatures = {}
    for officer in ours:
        made = tried(PolicyError, policy_chain.sign, policy, officer, vault_texts.private_key(f"officer {officer}"))
        signatures |= {} if made is REFUSED else {officer: made}
    signed = policy_chain.decode_signed(policy_chain.encode_signed(policy_chain.SignedPolicy(policy, signatures)))
    if tried(PolicyError, policy_chain.verify_next, POLICY, signed) is REFUSED:
        return
    for name, before in POLICY.collections.items():
        law(policy.collections[name].id == before.id, "a collection is renumbered")
        law({c.id for c in before.classes} <= {c.id for c in policy.collections[name].classes}, "a class is gone")


def policy_signed(data):
    """Any bytes as a signed policy."""
    signed = tried(PolicyError, policy_chain.decode_signed, data)
    if signed is not REFUSED:
        again = policy_chain.decode_signed(policy_chain.encode_signed(signed))
        law(again == signed, "signed policy: does not come back")
        law(tried(PolicyError, policy_chain.verify_next, POLICY, signed) is REFUSED, "a policy that nobody signed")
    law(tried(PolicyError, policy_chain.verify_chain, [data], bytes(32)) is REFUSED, "another root")


# --- checkpoints -----------------------------------------------------------------------------------------------------


def note_text(data):
    """Any text as a signed note; lone surrogates too, which JSON carries between keepers."""
    text = data.decode("utf-8", "surrogatepass") if _is_text(data) else data.decode("utf-8", "surrogateescape")
    head = tried(MalformedError, checkpoint.decode_checkpoint, text)
    law(head is REFUSED or checkpoint.encode_checkpoint(head) == text, "checkpoint: not in its one form")
    tried((MalformedError, ProofError), checkpoint.verify_note, text, ORIGIN, PUBLIC)
    witnesses = {WITNESS: WITNESS_KEY.public_key().public_bytes_raw()}
    found = tried(MalformedError, checkpoint.cosignatures, text, witnesses)
    signed = tried(MalformedError, checkpoint.cosign, text, WITNESS, WITNESS_KEY, 5)
    law((found is REFUSED) == (signed is REFUSED), "a note in one place, and none in another")
    if signed is not REFUSED and text.count("\n\u2014 ") < checkpoint.MAX_SIGNATURES:
        law(signed.startswith(text), "cosigned another note")
        law(checkpoint.cosignatures(signed, witnesses)[WITNESS] >= 5, "a cosignature that does not verify")


def _is_text(data):
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def note_signed(data):
    """Text of the signer's choice under his real signature, and lines of his choice beneath."""
    feed = Feed(data)
    text = feed.piece().decode("utf-8", "surrogateescape") + "\n"
    lines = "".join(
        f"\u2014 {feed.choose((ORIGIN, WITNESS, 'x'))} {feed.piece().decode('latin-1')}\n" for _ in range(feed.below(4))
    )
    key_id = base64.b64encode(checkpoint._key_id(ORIGIN, 1, PUBLIC) + KEY.sign(text.encode("utf-8", "surrogatepass")))
    note = f"{text}\n\u2014 {ORIGIN} {key_id.decode()}\n{lines}"
    head = tried((MalformedError, ProofError), checkpoint.verify_note, note, ORIGIN, PUBLIC)
    law(head is REFUSED or checkpoint.encode_checkpoint(head) == text, "verified another text")
    tried(MalformedError, checkpoint.cosignatures, note, {WITNESS: WITNESS_KEY.public_key().public_bytes_raw()})


def proofs(data):
    """A proof with edits: accepted only as it was."""
    feed = Feed(data)
    size = 1 + feed.below(40)
    hashes = [merkle.leaf_hash(bytes([i])) for i in range(size)]
    subtree, index, old = merkle.subtree_of(hashes), feed.below(size), feed.below(size + 1)
    first, second = merkle.inclusion_proof(subtree, index, size), merkle.consistency_proof(subtree, old, size)
    bad = _edited_proof(feed, first), _edited_proof(feed, second)
    shift = feed.choose((0, 0, 1, -1, 2**63))
    said = index + shift, size + feed.choose((0, 0, 1, -1, 2**62))
    root, old_root = merkle.root(hashes), merkle.root(hashes[:old])
    if tried(ProofError, merkle.verify_inclusion, hashes[index], *said, bad[0], root) is not REFUSED:
        law(bad[0] == first, "inclusion: another proof accepted")
        law(said[0] == index or said[1] != size, "inclusion: another place accepted")  # a signed head says the size
    if tried(ProofError, merkle.verify_consistency, old + shift, old_root, said[1], root, bad[1]) is not REFUSED:
        law(bad[1] == second, "consistency: another proof accepted")


def _edited_proof(feed, proof):
    data = patched(b"".join(proof), Feed(feed.piece()), 3)
    width = feed.choose((32, 32, 32, 31, 64))
    return [data[i : i + width] for i in range(0, len(data), width)]


# --- problems and values ---------------------------------------------------------------------------------------------


def problem_body(data):
    """Any bytes as a refusal: always an error of the tree, whose text may be shown."""
    feed = Feed(data)
    status = feed.choose((200, 400, 403, 404, 409, 413, 429, 500, 503, 507))
    error = problem.decode(status, feed.rest())
    law(isinstance(error, AnwenError), "not an error of the tree")
    law(str(error).isprintable() and len(str(error)) <= 600, "an error's text")
    law(error.retry_after_s is None or 0 <= error.retry_after_s <= 31 * 86_400, "retry_after_s")
    encoded = problem.encode(error)
    law(len(encoded) <= problem.MAX_PROBLEM_BYTES, "a refusal of more than its bytes")
    again = problem.decode(error.http_status, encoded)
    law(type(again) is type(error) or type(error) is UnavailableError, "a refusal changes on its way")


SCHEMES = sorted(
    f"{country}.{name}"
    for country, names in {
        "cn": ["ric", "uscc"], "de": ["idnr", "vat", "handelsregisternummer"], "fr": ["nir", "nif", "siren", "siret"],
        "es": ["dni", "nie", "nif", "cif"], "it": ["codicefiscale", "iva"], "nl": ["bsn", "onderwijsnummer"],
        "be": ["nn", "bis", "ssn"], "se": ["personnummer", "orgnr"], "no": ["fodselsnummer"], "fi": ["hetu", "ytunnus"],
        "dk": ["cpr", "cvr"], "pl": ["pesel", "nip"], "cz": ["rc", "dic"], "bg": ["egn", "pnf"], "ro": ["cnp", "cui"],
        "ee": ["ik"], "lt": ["asmens"], "lv": ["pvn"], "gb": ["nhs", "utr", "upn"], "ie": ["pps"], "us": ["ssn", "ein"],
        "ca": ["sin", "bn"], "br": ["cpf", "cnpj"], "mx": ["curp", "rfc"], "in_": ["aadhaar", "pan"], "kr": ["rrn"],
        "jp": ["cn"], "my": ["nric"], "id": ["nik", "npwp"], "za": ["idnr"], "tr": ["tckimlik"], "eg": ["tn"],
        "hk": ["hkid"], "tw": ["ubn"], "th": ["pin"], "il": ["idnr"], "ru": ["inn"], "ua": ["rntrc"], "ch": ["ssn"],
        "at": ["vnr"], "gr": ["amka"], "hr": ["oib"], "is_": ["kennitala"], "pt": ["cc"], "pk": ["cnic"],
    }.items()
    for name in names
    if identifiers.scheme_exists(f"{country.rstrip('_')}.{name}")
)  # fmt: skip
REGIONS = (None, "CN", "US", "DE", "RU", "AR", "IT", "BR")


def _field(feed):
    kind = feed.choose(sorted(normalise.KINDS))
    scheme = feed.choose(SCHEMES).replace("_", "") if kind == "national_id" else None
    region = feed.choose(REGIONS) if kind == "phone" else None
    return Field(1, "field", kind, "class", "exact", "last4", scheme=scheme, region=region)


def value_text(data):
    """Any text as a value of any kind: refused without showing it, or one form that stays."""
    feed = Feed(data)
    field = _field(feed)
    _normalised(field, feed.rest().decode("utf-8", "surrogateescape"))


def value_native(data):
    """Any value of JSON, or a decimal number, as programs and NDJSON files bring them."""
    feed = Feed(data)
    field = _field(feed)
    text = feed.rest()
    values = []
    for read in (json.loads, lambda t: Decimal(t.decode("ascii"))):
        try:
            values.append(read(text))
        except (ValueError, RecursionError, InvalidOperation, MemoryError):
            continue
    for value in values:
        _normalised(field, value)


def _normalised(field, value):
    found = tried(MalformedError, normalise.normalise, field, value)
    if found is not REFUSED and found is not None:
        law(normalise.normalise(field, found) == found, f"{field.kind}: changes when it is applied again")
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
        mask = normalise.mask(field, found)
        law(normalise.is_mask(mask), "a mask that is none")
        if field.kind in normalise.INDEXABLE_KINDS:
            law(isinstance(normalise.index_bytes(field, found), bytes), "index bytes")
        again = dataclasses.replace(field, required=True)
        law(normalise.normalise(again, found) == found, "a value that is none")


def wire_numbers(data):
    """Counts and lengths where they hurt: a good head, then numbers of four bytes."""
    feed = Feed(data)
    op = feed.choose(sorted(wire.SCHEMAS))
    body = b"ANW1" + bytes([wire.SCHEMAS[op].code]) + bytes(16)
    body += b"".join(bytes(c.row_bytes) for c in wire.SCHEMAS[op].scalars)
    while feed:
        body += feed.choose(NUMBERS[: NUMBERS.index(2**32 - 1) + 1]).to_bytes(4) + feed.piece()
    wire_message(body)


def ends(data):
    """One message as keepers, nodes and clients read its columns: equal, by each of their ways to do so."""
    from anwen.client.opening import stack
    from anwen.keeper import requests
    from anwen.node import answers

    message = tried((MalformedError, TooLargeError), wire.decode, data, *wire.SCHEMAS)
    if message is REFUSED:
        return
    for op in wire.SCHEMAS:
        got = tried(MalformedError, wire.decode, data, op)
        law((got is REFUSED) == (op != message.op), "another operation than the expected one was accepted")
    *_, tables, _ = decode_by_the_page(data, message.op)
    for name, table in message.tables.items():
        for column, values in table.items():
            plain = tables[name][column]
            if values.ndim == 2:
                law(requests._values(values) == plain == answers.split(values), f"{column} is read differently")
                law([v.tobytes() for v in values] == plain, f"{column} is read differently by clients")
                law(np.array_equal(stack(plain, values.shape[1]), answers.stack(plain, values.shape[1])), column)
            else:
                law(values.tolist() == plain, f"{column} is read differently")
                law(requests._count(values) == Counter(plain), f"{column}: counts")
    if message.op in {"put", "node_put"}:
        records, cells = message.tables["records"], message.tables["cells"]
        law(message.sent_root("records", "cells") == wire.put_root(records, cells), "roots of a put differ")
    if message.op in {"delete", "node_delete"}:
        law(message.sent_root("records") == wire.delete_root(message.tables["records"]), "roots differ")


TARGETS = {
    f.__name__: f
    for f in (
        wire_message, wire_numbers, ends, answer_bytes, answer_signed, cells_blob, wraps_blob, padding_bytes,
        envelope_bytes, cell_body, grant_text, grant_claims, public_key, policy_toml, policy_next,
        policy_lines, policy_successor, policy_signed,
        note_text, note_signed, proofs, problem_body, value_text, value_native,
    )
}  # fmt: skip
