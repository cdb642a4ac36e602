import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anwen.crypto import merkle
from anwen.errors import MalformedError, ProofError
from vectors import golden

LARGEST = 64
LEAVES = [merkle.leaf_hash(bytes([i])) for i in range(LARGEST)]
SUBTREE = merkle.subtree_of(LEAVES)

# inputs and roots of the reference tree of certificate-transparency (cpp/merkletree/merkle_tree_test.cc)
REFERENCE_LEAVES = [
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
]  # fmt: skip
REFERENCE_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def naive(leaves):
    """MTH of RFC 6962 section 2.1, by its definition."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = max(1 << i for i in range(len(leaves)) if 1 << i < len(leaves))
    return hashlib.sha256(b"\x01" + naive(leaves[:k]) + naive(leaves[k:])).digest()


def naive_path(m, leaves):
    """PATH of section 2.1.1."""
    n = len(leaves)
    if n == 1:
        return []
    k = max(1 << i for i in range(n) if 1 << i < n)
    if m < k:
        return [*naive_path(m, leaves[:k]), naive(leaves[k:])]
    return [*naive_path(m - k, leaves[k:]), naive(leaves[:k])]


def naive_subproof(m, leaves, whole):
    """SUBPROOF of section 2.1.2."""
    n = len(leaves)
    if m == n:
        return [] if whole else [naive(leaves)]
    k = max(1 << i for i in range(n) if 1 << i < n)
    if m <= k:
        return [*naive_subproof(m, leaves[:k], whole), naive(leaves[k:])]
    return [*naive_subproof(m - k, leaves[k:], whole=False), naive(leaves[:k])]


def flipped(node):
    return bytes([node[0] ^ 1]) + node[1:]


def broken_proofs(proof):
    """Every small change of a proof."""
    for at, node in enumerate(proof):
        yield [*proof[:at], flipped(node), *proof[at + 1 :]]
        yield [*proof[:at], *proof[at + 1 :]]
        yield [*proof[:at], node[:31], *proof[at + 1 :]]
        yield [*proof[:at], node, *proof[at:]]
    for at in range(len(proof) - 1):
        yield [*proof[:at], proof[at + 1], proof[at], *proof[at + 2 :]]
    yield [*proof, bytes(32)]
    yield [*proof, b""]


def test_reference_tree_of_certificate_transparency():
    leaves = [merkle.leaf_hash(bytes.fromhex(entry)) for entry in REFERENCE_LEAVES]
    for size, expected in enumerate(REFERENCE_ROOTS, 1):
        assert merkle.root(leaves[:size]).hex() == expected
    assert merkle.root([]) == merkle.EMPTY_ROOT == hashlib.sha256().digest()


def test_roots_and_frontiers_of_all_sizes():
    frontier = merkle.Frontier()
    for size in range(LARGEST + 1):
        assert frontier.size == size
        assert frontier.root() == merkle.root(LEAVES[:size]) == naive(LEAVES[:size])
        restored = merkle.Frontier(frontier.size, tuple(frontier.hashes))
        assert restored.root() == frontier.root()
        if size < LARGEST:
            frontier.append(LEAVES[size])
            assert restored.root() != frontier.root()


def test_a_frontier_of_the_wrong_shape_is_refused():
    for size, hashes in ((-1, []), (1, []), (2, LEAVES[:2]), (3, [LEAVES[0], b"short"])):
        with pytest.raises(MalformedError):
            merkle.Frontier(size, hashes)


def test_inclusion_of_every_leaf_in_every_size():
    for size in range(1, LARGEST + 1):
        root = naive(LEAVES[:size])
        for index in range(size):
            proof = merkle.inclusion_proof(SUBTREE, index, size)
            assert proof == naive_path(index, LEAVES[:size])
            merkle.verify_inclusion(LEAVES[index], index, size, proof, root)


def test_every_tampered_inclusion_is_refused():
    for size in [*range(1, 18), 31, 32, 33, 64]:
        root = merkle.root(LEAVES[:size])
        for index in range(size):
            proof = merkle.inclusion_proof(SUBTREE, index, size)
            for broken in broken_proofs(proof):
                with pytest.raises(ProofError):
                    merkle.verify_inclusion(LEAVES[index], index, size, broken, root)
            for leaf, at, total, top in (
                (flipped(LEAVES[index]), index, size, root),
                (LEAVES[index], index, size, flipped(root)),
                (LEAVES[index], -1, size, root),
                (LEAVES[index], size, size, root),
                (LEAVES[index], index, 0, root),
            ):
                with pytest.raises(ProofError):
                    merkle.verify_inclusion(leaf, at, total, proof, top)


def test_a_leaf_is_at_one_place_only():
    for size in range(1, 20):
        root = merkle.root(LEAVES[:size])
        for index, other in itertools.permutations(range(size), 2):
            with pytest.raises(ProofError):
                merkle.verify_inclusion(LEAVES[index], other, size, merkle.inclusion_proof(SUBTREE, index, size), root)


def test_consistency_of_every_pair_of_sizes():
    for new in range(LARGEST + 1):
        for old in range(new + 1):
            proof = merkle.consistency_proof(SUBTREE, old, new)
            assert proof == (naive_subproof(old, LEAVES[:new], whole=True) if 0 < old < new else [])
            merkle.verify_consistency(old, naive(LEAVES[:old]), new, naive(LEAVES[:new]), proof)


def test_every_tampered_consistency_is_refused():
    for new in [*range(18), 32, 33]:
        for old in range(new + 1):
            roots = merkle.root(LEAVES[:old]), merkle.root(LEAVES[:new])
            proof = merkle.consistency_proof(SUBTREE, old, new)
            for broken in broken_proofs(proof):
                with pytest.raises(ProofError):
                    merkle.verify_consistency(old, roots[0], new, roots[1], broken)
            with pytest.raises(ProofError):
                merkle.verify_consistency(old, flipped(roots[0]), new, roots[1], proof)
            if old:  # every tree goes on from the empty one
                with pytest.raises(ProofError):
                    merkle.verify_consistency(old, roots[0], new, flipped(roots[1]), proof)


def test_a_proof_too_short_for_the_claimed_size_is_refused():
    for old, new, claimed in ((1, 2, 8), (2, 3, 9), (4, 8, 64), (3, 4, 64), (8, 16, 17)):
        proof = merkle.consistency_proof(SUBTREE, old, new)
        roots = merkle.root(LEAVES[:old]), merkle.root(LEAVES[:new])
        merkle.verify_consistency(old, roots[0], new, roots[1], proof)
        with pytest.raises(ProofError):
            merkle.verify_consistency(old, roots[0], claimed, roots[1], proof)


def test_a_rewritten_history_is_not_consistent():
    for new in range(2, 34):
        for old in range(1, new):
            for at in range(old):
                other = [*LEAVES[:at], merkle.leaf_hash(b"other"), *LEAVES[at + 1 : new]]
                proof = merkle.consistency_proof(merkle.subtree_of(other), old, new)
                with pytest.raises(ProofError):
                    merkle.verify_consistency(old, merkle.root(LEAVES[:old]), new, merkle.root(other), proof)
                if at not in {0, old - 1}:
                    break


def test_impossible_questions():
    for index, size in ((-1, 3), (3, 3), (0, 0)):
        with pytest.raises(MalformedError):
            merkle.inclusion_proof(SUBTREE, index, size)
    for old, new in ((-1, 3), (4, 3)):
        with pytest.raises(MalformedError):
            merkle.consistency_proof(SUBTREE, old, new)
        with pytest.raises(ProofError):
            merkle.verify_consistency(old, bytes(32), new, bytes(32), [])


def test_proofs_ask_for_few_subtrees_and_only_aligned_ones():
    asked = []

    def subtree(start, end):
        asked.append((start, end))
        return merkle.root(LEAVES[start:end])

    for size in range(1, LARGEST + 1):
        for index in range(size):
            asked.clear()
            merkle.inclusion_proof(subtree, index, size)
            merkle.consistency_proof(subtree, index, size)
            assert len(asked) <= 2 * size.bit_length() + 1
            for start, end in asked:
                width = 1 << (end - start - 1).bit_length()
                assert start % width == 0


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=200), st.data())
def test_any_tree(entries, data):
    leaves = [merkle.leaf_hash(entry) for entry in entries]
    index = data.draw(st.integers(0, len(leaves) - 1))
    subtree, root = merkle.subtree_of(leaves), merkle.root(leaves)
    merkle.verify_inclusion(
        leaves[index], index, len(leaves), merkle.inclusion_proof(subtree, index, len(leaves)), root
    )
    proof = merkle.consistency_proof(subtree, index, len(leaves))
    merkle.verify_consistency(index, merkle.root(leaves[:index]), len(leaves), root, proof)


def test_a_leaf_is_never_taken_for_a_node():
    assert merkle.leaf_hash(LEAVES[0] + LEAVES[1]) != merkle.node_hash(LEAVES[0], LEAVES[1])


def test_the_page_has_our_root():
    page = golden("log.md")
    leaves = [merkle.leaf_hash(entry.encode()) for entry in page["entries"].split(" ")]
    assert merkle.root(leaves).hex() == page["root"]
    proof = merkle.inclusion_proof(merkle.subtree_of(leaves), 1, len(leaves))
    assert " ".join(node.hex() for node in proof) == page["inclusion of entry 1"]
