"""What `anwen doctor` asks of a running vault: each keeper, what its peers say of its log, each node, and the store."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import operator
import os
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from anwen.access import connect_async
from anwen.cli import failures
from anwen.cli.rights import opens
from anwen.cli.settings import Settings
from anwen.client import inspecting
from anwen.client.inspecting import StoreState
from anwen.client.records import Record
from anwen.client.session import Session
from anwen.client.spot_check import spot_check
from anwen.client.vault import AsyncVault
from anwen.errors import AnwenError, GrantError, NotFoundError, UnavailableError
from anwen.formats.policy_schema import ENGINES
from anwen.formats.wire import AT_LEAST, MEMBER_WHOLE, NO_STANDBY
from anwen.model import KeeperInfo, NodeInfo, Policy
from anwen.net.connection import Pool
from anwen.vault_folder import VaultFolder

T = TypeVar("T")
CLOCK_WARN_S, CLOCK_FAIL_S = 5.0, 30.0
COSIGNED_WARN_S = 60.0
DISK_WARN_BYTES = 2 * 2**30
TIMEOUT_S = 5.0
COSIGN_S = 15.0
"""How long a keeper may take to have its log cosigned: it waits 5 s for a peer that hangs, and before that perhaps 5 s
more, where such a round was under way when it was asked."""
COUNT_S = 30.0
"""How long a node may take to ask each member of its store how it is, and to count what is there."""


@dataclass(frozen=True)
class Check:
    """One line of the report. `code`: exit code that a failure asks for."""

    level: Literal["ok", "warn", "fail"]
    what: str
    text: str
    code: int = failures.FAILED
    zone: str = ""


@dataclass(frozen=True)
class _Asking:
    """A session of whichever principal's key is at hand, and its purpose."""

    session: Session
    purpose: str
    audits: bool
    numbers: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)  # by keeper: epoch and generation
    counting: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)  # nodes count one after another: one store


async def services(settings: Settings, folder: VaultFolder) -> list[Check]:
    """Return a line for the store's promise, and what each keeper and node has to say, zone by zone."""
    policy = folder.policy()
    found = [Check("warn" if policy.engine == "sqlite" else "ok", "store", ENGINES[policy.engine])]
    unusable: dict[str, AnwenError] = {}
    async with _asking(settings, folder, unusable) as asking:
        work: list[tuple[str, Awaitable[list[Check]]]] = []
        for keeper in policy.keepers.values():
            work.append((keeper.zone, _keeper(policy, asking, keeper)))
        for node in policy.nodes.values():
            work.append((node.zone, _node(policy, asking, node)))
        answers = await asyncio.gather(*(said for _, said in work))
    of_zones = [(zone, check) for (zone, _), said in zip(work, answers, strict=True) for check in said]
    found += [dataclasses.replace(check, zone=zone) for zone, check in sorted(of_zones, key=operator.itemgetter(0))]
    found += _unequal(asking.numbers) if asking else []
    if asking is None or not asking.audits:
        found.append(_not_asked(settings, unusable if asking is None else {}))
    return found


def _not_asked(settings: Settings, unusable: dict[str, AnwenError]) -> Check:
    """Return the line of what nobody was asked, and of why: a failure where somebody was to ask, by `--as`."""
    if settings.key and unusable:
        return _failed(f"--as {settings.key}", unusable[settings.key])
    text = "not asked what they see; --as a principal with an audit purpose does"
    for name, error in unusable.items():
        if not isinstance(error, NotFoundError):  # that key is here, and would have done; best ones come first
            return Check("warn", "peers, store", f"{text}; the key of {name}: {error}")
    return Check("ok", "peers, store", text)


@contextlib.asynccontextmanager
async def _asking(
    settings: Settings, folder: VaultFolder, unusable: dict[str, AnwenError]
) -> AsyncIterator[_Asking | None]:
    """Yield a session of whichever principal's key is at hand, one that may audit if there is any.

    Into `unusable` goes why others were not used.
    """
    policy = folder.policy()

    def best(name: str) -> tuple[bool, str]:
        """Return whether a principal has no purpose that audits, and the purpose to ask for."""
        principal = policy.principals.get(Path(name).stem if name.endswith(".key") else name)
        purposes = policy.roles[principal.role].purposes if principal else ()
        return min(((not policy.purposes[p].audit, p) for p in purposes), default=(True, ""))

    for name in sorted([settings.key] if settings.key else policy.principals, key=best):
        silent, purpose = best(name)
        try:
            vault = connect_async(folder.path, key=name, purpose=purpose)
            break
        except AnwenError as error:  # no key here, or one that others may read
            unusable[name] = error
    else:
        yield None
        return
    async with vault:
        yield _Asking(vault.session, purpose, audits=not silent)


async def sampled(settings: Settings, count: int) -> list[Check]:
    """Return a line for each collection that the purpose opens: what became of records drawn from it."""
    async with await settings.ask_async(opens) as vault:
        opened = {collection for collection, _ in vault.policy.purposes[vault.purpose].open}
        return [await _sample(vault, c.name, count) for c in vault.policy.collections.values() if c.id in opened]


async def _sample(vault: AsyncVault, collection: str, count: int) -> Check:
    what, drawn = f"sample of {collection}", dict[str, Record]()
    try:
        for after in (os.urandom(16).hex(), ""):  # ids are random, and so are those that follow a random one
            async for record in vault.scan(collection, page=count, after=after):
                drawn[record.id] = record
                if len(drawn) == count:
                    break
            if len(drawn) == count:
                break
        found = await spot_check(vault, list(drawn.values()))
    except AnwenError as error:
        return _failed(what, error)
    wrong = [f"{record} ({why})" for record, why in zip(drawn, found, strict=True) if why not in ("", "refused")]
    if wrong:
        said = f"{len(wrong)} of {len(drawn)} do not open, or show what is not their mask: {', '.join(wrong[:5])}"
        return Check("fail", what, f"{said}; anwen audit names who wrote them", failures.INTEGRITY)
    refused = f", {found.count('refused')} refused" if "refused" in found else ""
    return Check("ok", what, f"{found.count('')} of {len(drawn)} drawn open{refused}")


async def policy_versions(settings: Settings, folder: VaultFolder) -> dict[str, int]:
    """Return which policy version each keeper has, and which nodes have the newest, as far as known ("keeper a": 2)."""
    found, policy = {}, folder.policy()
    async with _asking(settings, folder, {}) as asking:
        if asking is None:
            return {}
        for keeper in policy.keepers:
            with contextlib.suppress(AnwenError):  # what is down is named when it is sent to
                state = await _within(inspecting.keeper_state(asking.session, asking.purpose, keeper))
                found[f"keeper {keeper}"] = state.policy_version
        for node in policy.nodes:
            with contextlib.suppress(AnwenError):  # and who lacks versions is given them
                newest = folder.documents()[-1]
                await _within(inspecting.has_policy(asking.session, asking.purpose, node, newest))
                found[f"node {node}"] = policy.version
    return found


async def _within(asked: Awaitable[T], timeout_s: float = TIMEOUT_S) -> T:
    """Return an answer. Raises UnavailableError when it takes too long."""
    try:
        async with asyncio.timeout(timeout_s):
            return await asked
    except TimeoutError:
        raise UnavailableError(f"no answer within {timeout_s:g} s") from None


def _failed(what: str, error: AnwenError) -> Check:
    return Check("fail", what, f"{error.code}: {error}", failures.exit_code(error))


async def _keeper(policy: Policy, asking: _Asking | None, info: KeeperInfo) -> list[Check]:
    what, before = f"keeper {info.id}", time.time()
    if asking is None:
        return [await _reach(what, info.address, info.tls_pin)]
    try:
        header = await _within(inspecting.keeper_state(asking.session, asking.purpose, info.id))
    except AnwenError as error:
        return [_failed(what, error)]
    asking.numbers[info.id] = header.epoch, header.generation
    offset = header.time_ms / 1000 - (before + time.time()) / 2
    text = f"epoch {header.epoch}, generation {header.generation}, {header.entry:,} log entries"
    found = [_in_step(what, text, policy, header.policy_version, offset)]
    if asking.audits:
        found += await _log(policy, asking, info.id)
    return found


def disk(what: str, free_bytes: int) -> Check:
    """Return the line of a disk."""
    return Check("warn" if free_bytes < DISK_WARN_BYTES else "ok", what, f"{free_bytes / 2**30:.1f} GiB free")


def _unequal(numbers: dict[str, tuple[int, int]]) -> list[Check]:
    """Return a line if keepers do not have keys of the same ceremonies; most of what they answer does not fit then."""
    if len(set(numbers.values())) <= 1 and all(map(all, numbers.values())):
        return []
    said = ", ".join(f"{k} {epoch} and {generation}" for k, (epoch, generation) in sorted(numbers.items()))
    return [Check("warn", "epochs", f"keepers differ in epoch and generation, or have none: {said}; anwen ceremony")]


def _in_step(what: str, text: str, policy: Policy, version: int, offset_s: float) -> Check:
    """Return the line of a service that answers: whether its clock and its policy are those of the others."""
    text += f", policy {version}, clock {offset_s:+.1f} s"
    if abs(offset_s) > CLOCK_FAIL_S:
        return Check("fail", what, f"{text}: set the clocks", failures.UNAVAILABLE)
    if version != policy.version:
        return Check("warn", what, f"{text}: not version {policy.version}; anwen policy publish")
    return Check("warn" if abs(offset_s) > CLOCK_WARN_S else "ok", what, text)


async def _log(policy: Policy, asking: _Asking, keeper: str) -> list[Check]:
    """Return what other keepers say of one's log, for nobody else can tell that it was forked; and of its disk."""
    what = f"log of keeper {keeper}"
    try:
        log = await _within(inspecting.log_state(asking.session, asking.purpose, keeper), COSIGN_S)
    except AnwenError as error:
        return [_failed(what, error)]
    room = disk(f"disk of keeper {keeper}", log.free_bytes)
    silent = sorted(set(policy.keepers) - {keeper, *log.cosigned_by})
    age_s = time.time() - log.cosigned_s
    last = f"cosigned {age_s:.0f} s ago" if log.cosigned_s else "never cosigned"
    text = f"{last}, {log.behind:,} entries since; now by {', '.join(log.cosigned_by) or 'nobody'}"
    if silent:
        why = "down, cut off from it, or they contradict each other: anwen audit verify"
        return [Check("warn", what, f"{text}; not by {', '.join(silent)}: {why}"), room]
    return [Check("warn" if age_s > COSIGNED_WARN_S else "ok", what, text), room]


async def _node(policy: Policy, asking: _Asking | None, info: NodeInfo) -> list[Check]:
    what = f"node {info.id}"
    if asking is None or not asking.audits:
        return [await _reach(what, info.address, info.tls_pin)]
    try:
        async with asking.counting:
            state = await _within(inspecting.store_state(asking.session, asking.purpose, info.id), COUNT_S)
            offset = state.time_ms / 1000 - time.time()  # it says the time last, when it has counted
    except AnwenError as error:
        return [_failed(what, error)]
    text = ", ".join(f"{state.counts[name]:,} {name}" for name in ("records", "rows", "postings"))
    text = f"at least {text}" if AT_LEAST in state.settings else text
    text += f", {state.counts['size_bytes'] / 2**20:,.1f} MiB"
    found = [_in_step(what, text, policy, state.policy_version, offset)]
    found += store_lines(policy.engine, info.id, state)
    found += [disk(f"disk of node {info.id}", state.counts["free_bytes"])] if policy.engine == "sqlite" else []
    if state.counts["unverified"]:
        said = f"{state.counts['unverified']:,} rows were written with a keeper down: no two compared"
        found.append(Check("warn", f"rows of node {info.id}", said))
    return found


def store_lines(engine: str, node: str, state: StoreState) -> list[Check]:
    """Return what a node says of the settings of its store and of its members. `engine`: the policy's."""
    what, said = f"store of node {node}", f"{state.engine}: {', '.join(state.settings)}"
    if state.engine != engine:
        return [Check("fail", what, f"{said}; the policy names {engine}")]
    level: Literal["ok", "warn"] = "warn" if any(s.endswith(NO_STANDBY) for s in state.settings) else "ok"
    found = [Check(level, what, said)]
    members = [(name, value) for name, _, value in (s.partition("=") for s in state.settings) if name[:7] == "member "]
    if lacking := [f"{name} {value}" for name, value in members if value != MEMBER_WHOLE]:
        said = f"{', '.join(lacking)}: wait, or repair, before anything else is stopped"
        found.append(Check("warn", f"members, node {node}", said))
    return found


async def _reach(what: str, address: str, pin: bytes) -> Check:
    """Without a grant a service answers its one refusal, and by that shows that it is there and holds its key."""
    pool = Pool(address, pin, limit=1)
    try:
        await pool.post("/v1/state", None, b"", TIMEOUT_S)
    except GrantError:
        pass
    except AnwenError as error:
        code = failures.INTEGRITY if failures.exit_code(error) == failures.INTEGRITY else failures.UNAVAILABLE
        return Check("fail", what, f"{error.code}: {error}", code)
    finally:
        await pool.aclose()
    return Check("ok", what, f"answers at {address} with its pinned key")
