"""What a keeper shows of itself beside its requests: numbers of its log, keys, policy and clock."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from anwen.formats.checkpoint import cosignatures, log_origin, verify_note
from anwen.keeper import reading, requests
from anwen.keeper.service import Keeper
from anwen.net.metrics import Metrics


def metrics_of(keeper: Keeper, folder: Path) -> Metrics:
    """Return the counts of the keeper in `folder`; what they read they read when they are asked for."""
    me, vault = keeper.policy.keepers[keeper.identity.keeper], keeper.policy.vault
    peers = {k: log_origin(vault, k) for k in keeper.policy.keepers if k != me.id}
    found = Metrics("keeper", me.id, me.zone, {*requests.CHECKS, *reading.CHECKS, "state", "policy"})

    def times() -> dict[str, int]:
        """Return whose cosignature the newest checkpoint has, by the name of the peer's log, and of when."""
        identities = {name: keeper.policy.keepers[k].identity for k, name in peers.items()}
        return cosignatures(keeper.witnessed.note, identities) if keeper.witnessed.note else {}

    def time_of(name: str) -> int:
        return times().get(name, 0)

    def cosigned() -> int:
        return verify_note(keeper.witnessed.note, log_origin(vault, me.id), me.identity).size if times() else 0

    found.gauge("anwen_log_entries", "Entries of the keeper's log that are durable.", lambda: keeper.log.size)
    found.gauge("anwen_log_entries_cosigned", "Of these, those that a peer has cosigned.", cosigned)
    for peer, name in peers.items():
        found.age("anwen_cosigned_age_seconds", "Since a peer cosigned the log.", partial(time_of, name), peer=peer)
    found.gauge("anwen_epoch", "Number of the record keys in use.", lambda: keeper.number("record"))
    found.gauge("anwen_generation", "Number of the index keys in use.", lambda: keeper.number("index"))
    found.gauge("anwen_clock_offset_seconds", "Median of peers' clocks, ahead of ours.", lambda: keeper.clocks.offset_s)
    found.follow_disk(folder)
    found.follow_policy(lambda: keeper.policy.version, lambda: keeper.policy.expires_s)
    return found
