"""What a keeper shows of itself beside its requests: numbers of its log, keys, policy and clock."""

from __future__ import annotations

import time

from anwen.formats.checkpoint import cosignatures, log_origin, verify_note
from anwen.keeper import reading, requests
from anwen.keeper.service import Keeper
from anwen.net.metrics import Metrics


def metrics_of(keeper: Keeper) -> Metrics:
    """Return the counts of a keeper; what they read they read when they are asked for."""
    me = keeper.policy.keepers[keeper.identity.keeper]
    found = Metrics("keeper", me.id, me.zone, {*requests.CHECKS, *reading.CHECKS, "state", "policy"})

    def cosigned() -> tuple[int, int]:
        """Return entries under the newest checkpoint that a peer cosigned, and when (Unix seconds); 0 before."""
        names = {log_origin(keeper.policy.vault, k): i.identity for k, i in keeper.policy.keepers.items() if k != me.id}
        note, mine = keeper.witnessed.note, log_origin(keeper.policy.vault, me.id)
        times = cosignatures(note, names).values() if note else ()
        return (verify_note(note, mine, me.identity).size, max(times)) if times else (0, 0)

    found.gauge("anwen_log_entries", "Entries of the keeper's log that are durable.", lambda: keeper.log.size)
    found.gauge("anwen_log_entries_cosigned", "Of these, those that a peer has cosigned.", lambda: cosigned()[0])
    found.gauge("anwen_cosigned_age_seconds", "Since a peer cosigned the log.", lambda: time.time() - cosigned()[1])
    found.gauge("anwen_epoch", "Number of the record keys in use.", lambda: keeper.number("record"))
    found.gauge("anwen_generation", "Number of the index keys in use.", lambda: keeper.number("index"))
    found.gauge("anwen_clock_offset_seconds", "Median of peers' clocks, ahead of ours.", lambda: keeper.clocks.offset_s)
    found.follow_policy(lambda: keeper.policy.version, lambda: keeper.policy.expires_s)
    return found
