"""The next version of a vault's policy, signed by those officers whose keys lie in its folder."""

from __future__ import annotations

from anwen import signing
from anwen.errors import NotFoundError
from anwen.formats import policy_chain
from anwen.formats.policy_chain import SignedPolicy
from anwen.model import Policy
from anwen.vault_folder import VaultFolder, read_key


def sign(folder: VaultFolder, current: Policy, new: Policy) -> SignedPolicy:
    """Return `new` with a quorum of signatures of `current`'s officers. Raises NotFoundError: too few keys are here."""
    signed = SignedPolicy(new, {})
    for path in sorted((folder.path / "officers").glob("*.key")):
        key = read_key(path)
        officer = signing.officer_of(current, key)
        signed = SignedPolicy(new, {**signed.signatures, officer: policy_chain.sign(new, officer, key)})
        if signing.has_quorum(current, signed):
            return signed
    here = len(signed.signatures)
    raise NotFoundError(f"{here} officers' keys are here, expected those of {current.quorum} persons")
