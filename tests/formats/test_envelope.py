import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anwen.crypto import envelope as sealing
from anwen.crypto import padding
from anwen.errors import MalformedError
from anwen.formats import envelope
from vectors import golden

BASE = bytes(range(20))
classes = st.integers(0, 2**16 - 1)
CELLS = st.dictionaries(classes, st.binary(max_size=40), max_size=6)
WRAPS = st.dictionaries(classes, st.tuples(st.integers(0, 2**32 - 1), st.binary(min_size=32, max_size=32)), max_size=6)


def shuffled(data, mapping):
    return data.draw(st.permutations(list(mapping.items())))


@given(CELLS, st.data())
def test_cells_come_back_in_any_order(cells, data):
    items = shuffled(data, cells)
    blob = envelope.join_cells([c for c, _ in items], [e for _, e in items])
    assert envelope.split_cells(blob) == cells
    assert list(envelope.split_cells(blob)) == sorted(cells)
    expected = b"".join(c.to_bytes(2) + len(cells[c]).to_bytes(4) + cells[c] for c in sorted(cells))
    assert blob == expected


@given(WRAPS, st.data())
def test_wraps_come_back_in_any_order(wraps, data):
    items = shuffled(data, wraps)
    blob = envelope.join_wraps(BASE, [c for c, _ in items], [r for _, (r, _) in items], [w for _, (_, w) in items])
    assert envelope.split_wraps(blob) == {c: (BASE + row.to_bytes(4), wrap) for c, (row, wrap) in wraps.items()}
    assert blob == BASE + b"".join(c.to_bytes(2) + wraps[c][0].to_bytes(4) + wraps[c][1] for c in sorted(wraps))


@given(CELLS, WRAPS, st.integers(0, 400), st.binary(max_size=3), st.integers(0, 3))
def test_a_mutated_blob_is_malformed_or_one_encoding_of_something(cells, wraps, at, insert, cut):
    blob = envelope.join_cells(list(cells), list(cells.values()))
    wrap_blob = envelope.join_wraps(BASE, list(wraps), [r for r, _ in wraps.values()], [w for _, w in wraps.values()])
    for original, split, join in (
        (blob, envelope.split_cells, lambda parts: envelope.join_cells(list(parts), list(parts.values()))),
        (wrap_blob, envelope.split_wraps, join_split_wraps),
    ):
        changed = original[: at % (len(original) + 1)] + insert + original[at % (len(original) + 1) + cut :]
        try:
            parts = split(changed)
        except MalformedError:
            continue
        assert join(parts) == changed or (not parts and len(changed) == 20)


def join_split_wraps(parts):
    bases = {nonce[:20] for nonce, _ in parts.values()} or {b""}
    rows = [int.from_bytes(nonce[20:]) for nonce, _ in parts.values()]
    assert len(bases) == 1
    return envelope.join_wraps((bases - {b""} or {BASE}).pop(), list(parts), rows, [w for _, w in parts.values()])


@given(st.binary(max_size=80))
def test_junk_splits_or_is_malformed(junk):
    for split in (envelope.split_cells, envelope.split_wraps):
        try:
            split(junk)
        except MalformedError:
            continue


def cell(class_id, data):
    return class_id.to_bytes(2) + len(data).to_bytes(4) + data


@pytest.mark.parametrize(
    "blob",
    [
        cell(2, b"x") + cell(1, b"y"),
        cell(1, b"x") + cell(1, b"y"),
        cell(1, b"x")[:-1],
        cell(1, b"x") + b"\0",
        cell(1, b"x")[:5],
        b"\0\x01\xff\xff\xff\xff",
    ],
)
def test_cells_have_one_form(blob):
    with pytest.raises(MalformedError):
        envelope.split_cells(blob)


@pytest.mark.parametrize(
    "entries",
    [[(2, 0), (1, 0)], [(1, 0), (1, 1)]],
)
def test_wraps_have_one_form(entries):
    blob = BASE + b"".join(c.to_bytes(2) + row.to_bytes(4) + bytes(32) for c, row in entries)
    for broken in (blob, blob[:-1], blob + b"\0", BASE[:-1], b""):
        with pytest.raises(MalformedError):
            envelope.split_wraps(broken)


def test_join_refuses_what_does_not_fit():
    wrap = bytes(32)
    for arguments in (([1, 1], [b"", b""]), ([1], []), ([-1], [b""]), ([2**16], [b""])):
        with pytest.raises(MalformedError):
            envelope.join_cells(*arguments)
    for arguments in (
        (BASE[1:], [1], [0], [wrap]),
        (BASE, [1, 1], [0, 1], [wrap, wrap]),
        (BASE, [1], [0, 1], [wrap]),
        (BASE, [1], [0], []),
        (BASE, [1], [2**32], [wrap]),
        (BASE, [1], [-1], [wrap]),
        (BASE, [1], [0], [wrap[1:]]),
    ):
        with pytest.raises(MalformedError):
            envelope.join_wraps(*arguments)


@given(st.dictionaries(classes, st.binary(min_size=32, max_size=32), max_size=6), st.data())
def test_row_tag_names_the_set_of_cells(commitments, data):
    items = shuffled(data, commitments)
    tag = envelope.row_tag([c for c, _ in items], [v for _, v in items])
    covered = b"".join(c.to_bytes(2) + commitments[c] for c in sorted(commitments))
    assert tag == hashlib.sha256(covered).digest()[:16]


def test_row_tag_refuses_what_does_not_fit():
    for class_ids, commitments in (([1, 1], [bytes(32)] * 2), ([1], []), ([1], [bytes(31)])):
        with pytest.raises(MalformedError):
            envelope.row_tag(class_ids, commitments)


@given(st.binary(max_size=700))
def test_what_was_sealed_has_the_form_of_an_envelope(body):
    context = sealing.context(bytes(16), 1, 2, 3, bytes(16), bytes(16))
    sealed = sealing.seal(bytes(32), bytes(12), context, body)
    envelope.check_form(sealed)
    assert envelope.commitment(sealed) == sealing.derive(bytes(32), context)[1]
    for broken in (sealed[:-1], sealed + b"\0", b"\x02" + sealed[1:], b"\0" + sealed[1:]):
        with pytest.raises(MalformedError):
            envelope.check_form(broken)


@given(st.integers(0, 3000))
def test_form_is_a_padded_length(size):
    candidate = b"\x01" + bytes(size)
    fits = size + 1 - 61 in {padding.padded_length(n) for n in range(3200)}
    if fits:
        envelope.check_form(candidate)
    else:
        with pytest.raises(MalformedError):
            envelope.check_form(candidate)


def test_plaintext_and_nothing_are_not_envelopes():
    for junk in (b"", b"\x01", b'{"1": "Anna"}', b"\x01" * 60):
        with pytest.raises(MalformedError):
            envelope.check_form(junk)
        with pytest.raises(MalformedError):
            envelope.commitment(junk)


def test_the_page_has_our_row():
    page = golden("envelope.md")
    sealed, class_id = bytes.fromhex(page["envelope"]), int(page["class"])
    assert envelope.row_tag([class_id], [envelope.commitment(sealed)]).hex() == page["row tag"]
    assert envelope.join_cells([class_id], [sealed])[:6].hex() == page["cell head"]
    wraps = envelope.join_wraps(bytes.fromhex(page["nonce base"]), [class_id], [9], [bytes.fromhex(page["wrap"])])
    assert wraps.hex() == page["wraps"]
