"""What services count of themselves: readable by Prometheus, by name and number right, and about nobody."""

import asyncio
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.error

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.ops.conftest import person, scrape

import anwen
from anwen.errors import AnwenError, BudgetError, GrantError, PolicyError, ProofError, StorageError
from anwen.net.metrics import BUCKETS_S, OTHER, Metrics, offer
from anwen.net.ports import free_port
from anwen.net.server import SHED

LABELS = {"service", "id", "zone", "op", "code", "le", "engine", "reason", "peer"}
MARKS = ["Markedname Qzv", "marked.qzv@example.org", "+8613877700077", "Qzv Road"]


def samples(text):
    """Every sample by name and the labels that matter here."""
    found = {}
    for family in text_string_to_metric_families(text):
        for s in family.samples:
            labels = {k: v for k, v in s.labels.items() if k not in ("service", "id", "zone")}
            found[(s.name, *sorted(labels.items()))] = s.value
    return found


def value(text, name, **labels):
    return samples(text).get((name, *sorted(labels.items())), 0)


async def answering(_path, _authorization, body):
    if body:
        raise {b"budget": BudgetError, b"grant": GrantError, b"storage": StorageError, b"proof": ProofError}.get(
            body, RuntimeError
        )("no")
    return b""


async def call(handler, op, body=b""):
    try:
        return await handler(f"/v1/{op}", "Anwen x", body)
    except (AnwenError, RuntimeError):
        return None


async def test_requests_are_counted_by_operation_and_outcome_and_no_path_becomes_a_label():
    metrics = Metrics("keeper", "a", 'zone "1"\n', {"open", "put"})
    handler = metrics.counting(answering)
    for body in (b"", b"", b"budget", b"grant", b"broken"):
        await call(handler, "open", body)
    await call(handler, "zhangwei")
    text = metrics.exposition()
    counted = {code: value(text, "anwen_requests_total", op="open", code=code) for code in ("ok", "budget", "grant")}
    assert counted == {"ok": 2, "budget": 1, "grant": 1}
    assert value(text, "anwen_requests_total", op="open", code="unexpected") == 1
    assert value(text, "anwen_requests_total", op=OTHER, code="ok") == 1
    assert "zhangwei" not in text
    assert value(text, "anwen_requests_under_way") == 0
    assert {s.labels["zone"] for f in text_string_to_metric_families(text) for s in f.samples} == {'zone "1"\n'}


@pytest.mark.parametrize(("body", "code"), [(b"storage", "storage"), (b"proof", "proof"), (b"x", "unexpected")])
async def test_the_first_grave_failure_is_a_step_from_zero_to_one(body, code):
    metrics = Metrics("keeper", "a", "a", {"open"})
    series = ("anwen_requests_total", ("code", code), ("op", "open"))
    before = samples(metrics.exposition())
    await call(metrics.counting(answering), "open", body)
    after = samples(metrics.exposition())
    assert (before[series], after[series]) == (0, 1)
    assert {n for n in after if n[0] == series[0]} == {n for n in before if n[0] == series[0]}


async def test_the_histogram_is_cumulative_and_its_last_bucket_is_its_count():
    metrics = Metrics("node", "a", "a", {"node_get"})
    release, started = asyncio.Event(), asyncio.Event()

    async def slow(_path, _authorization, _body):
        started.set()
        await release.wait()
        await asyncio.sleep(0.03)
        return b""

    task = asyncio.create_task(call(metrics.counting(slow), "node_get"))
    await started.wait()
    assert value(metrics.exposition(), "anwen_requests_under_way") == 1
    release.set()
    await task
    text = metrics.exposition()
    counts = [value(text, "anwen_request_seconds_bucket", op="node_get", le=str(le)) for le in (*BUCKETS_S, "+Inf")]
    assert counts == sorted(counts)
    assert counts[BUCKETS_S.index(0.025)] == 0
    assert counts[-1] == value(text, "anwen_request_seconds_count", op="node_get") == 1
    assert value(text, "anwen_request_seconds_sum", op="node_get") >= 0.03


async def test_a_gauge_that_cannot_be_read_is_left_out_and_takes_no_other_along():
    def broken():
        raise StorageError("log")

    metrics = Metrics("keeper", "a", "a", {"open"})
    metrics.gauge("anwen_broken", "x", broken)
    metrics.gauge("anwen_fine", "x", lambda: 3)
    assert "anwen_broken" not in metrics.exposition()
    assert value(metrics.exposition(), "anwen_fine") == 3


def test_an_age_is_counted_from_the_latest_time_that_was_ever_seen():
    metrics, last_s = Metrics("keeper", "a", "a", ()), time.time() - 50
    times = iter([0, last_s, 0, last_s - 9])
    metrics.age("anwen_age", "x", lambda: next(times), peer="b")
    assert value(metrics.exposition(), "anwen_age", peer="b") > 10**9
    assert [round(value(metrics.exposition(), "anwen_age", peer="b"), -1) for _ in range(3)] == [50, 50, 50]


def test_the_disk_of_the_data_is_shown_and_one_that_is_gone_is_left_out(tmp_path):
    metrics = Metrics("node", "a", "a", ())
    metrics.follow_disk(tmp_path)
    size, text = shutil.disk_usage(tmp_path).total, metrics.exposition()
    assert value(text, "anwen_disk_size_bytes") == size
    assert 0 < value(text, "anwen_disk_free_bytes") < size
    tmp_path.rmdir()
    assert "anwen_disk" not in metrics.exposition()
    tmp_path.mkdir()


def settings(folder, address):
    path = folder / "node.json"
    path.write_text(json.dumps({"id": "a", "metrics": address}))
    return path


@pytest.mark.parametrize("address", ["0.0.0.0:1", "10.0.0.5:9464", "[::]:9464", "metrics.example.org:9464"])
async def test_metrics_leave_loopback_only_when_told_in_words(tmp_path, address):
    with pytest.raises(PolicyError, match="plain-http:"):
        async with offer(Metrics("node", "a", "a", ()), settings(tmp_path, address)):
            pass


async def test_a_unix_socket_and_a_plain_address_serve_and_an_empty_setting_listens_nowhere(tmp_path, unused_port):
    metrics = Metrics("node", "a", "a", ())
    path = tmp_path / "node.json"
    path.write_text(json.dumps({"id": "a", "metrics": f"plain-http:127.0.0.1:{unused_port}"}))
    async with offer(metrics, path):
        kind, text = await asyncio.to_thread(scrape, f"127.0.0.1:{unused_port}")
    assert kind.startswith("text/plain; version=0.0.4")
    assert text == metrics.exposition()
    path.write_text(json.dumps({"id": "a"}))
    async with offer(metrics, path):
        with pytest.raises(urllib.error.URLError):
            await asyncio.to_thread(scrape, f"127.0.0.1:{unused_port}")


async def test_hanging_scrapers_are_few_and_not_for_long(tmp_path, unused_port, monkeypatch):
    monkeypatch.setattr("anwen.net.metrics._TIMEOUT_S", 3)
    async with offer(Metrics("node", "a", "a", ()), settings(tmp_path, f"127.0.0.1:{unused_port}")):
        hung = [await asyncio.open_connection("127.0.0.1", unused_port) for _ in range(20)]
        ends = [asyncio.create_task(reader.read()) for reader, _ in hung]
        _, waiting = await asyncio.wait(ends, timeout=1.5)
        assert len(waiting) == 8
        await asyncio.wait_for(asyncio.gather(*ends), 10)
        _, text = await asyncio.to_thread(scrape, f"127.0.0.1:{unused_port}")
        for _, writer in hung:
            writer.close()
    assert "anwen_requests_under_way" in text


@pytest.fixture
def unused_port():
    return free_port()


# --- a whole vault ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def driven(vault):
    """The vault after a person with marked values was written, found, opened, and refused to others; her handle."""
    name, email, phone, address = MARKS
    row = person(70_001, name=name, email=email, phone=phone, address=address)
    with anwen.connect(vault.path, key="importer", purpose="intake") as importer:
        importer.put("person", row)
    with anwen.connect(vault.path, key="case_worker", purpose="casework") as clerk:
        (found,) = clerk.find("person", phone=phone)
        assert clerk.open([found], ["identity"])[0]["name"] == name
    with anwen.connect(vault.path, key="importer", purpose="intake") as importer, pytest.raises(GrantError):
        importer.open([found], ["identity"])
    for purpose in ("casework", "intake"):  # not of its role; does not cover it
        with anwen.connect(vault.path, key="importer", purpose=purpose) as importer, pytest.raises(GrantError):
            importer.list_subject(found.subject, "person")
    return found


def samples_id(text):
    return next(s.labels["id"] for f in text_string_to_metric_families(text) for s in f.samples)


def expositions(vault):
    return {service: scrape(address)[1] for service, address in vault.metrics.items()}


def cosigned_expositions(vault):
    """The same, once every keeper's peers have cosigned its log, as they do a moment after it has grown."""
    until_s = time.monotonic() + 30
    while True:
        found = expositions(vault)
        ages = [
            value(text, "anwen_cosigned_age_seconds", peer=peer)
            for (service, name), text in found.items() if service == "keeper" for peer in {*"abc"} - {name}
        ]  # fmt: skip
        if max(ages) < 60 or time.monotonic() > until_s:
            return found
        time.sleep(0.2)


def test_every_service_counts_what_was_done(vault, driven):
    found = cosigned_expositions(vault)
    assert len(found) == 4
    keepers = [text for (service, _), text in found.items() if service == "keeper"]
    assert sum(value(t, "anwen_requests_total", op="open", code="ok") for t in keepers) >= 2
    for (service, name), text in found.items():
        assert value(text, "anwen_policy_version") == 1
        assert 80 * 86400 < value(text, "anwen_policy_expires_seconds") < 91 * 86400
        common = {
            (s.labels["service"], s.labels["id"]) for f in text_string_to_metric_families(text) for s in f.samples
        }
        assert common == {(service, name)}
    for text in keepers:
        assert value(text, "anwen_epoch") == value(text, "anwen_generation") == 1
        assert value(text, "anwen_requests_total", op="put", code="ok") >= 1
        assert value(text, "anwen_log_entries") > 5
        peers = set("abc") - {samples_id(text)}
        assert {peer for peer in "abc" if value(text, "anwen_cosigned_age_seconds", peer=peer)} == peers
        assert all(0 <= value(text, "anwen_cosigned_age_seconds", peer=peer) < 60 for peer in peers)
        assert abs(value(text, "anwen_clock_offset_seconds")) < 5
    node = found["node", "a"]
    assert value(node, "anwen_store_info", engine="sqlite") == 1
    assert value(node, "anwen_store_members") == value(node, "anwen_store_members_up") == 1
    for text in found.values():
        assert 0 < value(text, "anwen_disk_free_bytes") < value(text, "anwen_disk_size_bytes")
        assert all(value(text, "anwen_shed_total", reason=reason) == 0 for reason in SHED)
        assert text.count("anwen_shed_total{") == len(SHED)
    assert value(node, "anwen_requests_total", op="node_put", code="ok") >= 1


def test_a_checkpoint_soon_covers_the_whole_log(vault, driven):
    until = time.monotonic() + 20
    while not all(covered(scrape(a)[1]) for (service, _), a in vault.metrics.items() if service == "keeper"):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_peer_that_is_silent_shows_although_the_other_one_cosigns(vault, driven):
    hung = vault.processes.processes["keeper c"].pid
    os.kill(hung, signal.SIGSTOP)
    try:
        until = time.monotonic() + 30
        while ages(vault)["c"] < 9 or ages(vault)["b"] > 9:
            assert time.monotonic() < until, ages(vault)
            time.sleep(0.5)
    finally:
        os.kill(hung, signal.SIGCONT)


def ages(vault):
    text = scrape(vault.metrics["keeper", "a"])[1]
    return {peer: value(text, "anwen_cosigned_age_seconds", peer=peer) for peer in "bc"}


def test_what_the_door_turns_away_is_in_the_services_metrics(vault):
    for service, info in (("keeper", vault.policy().keepers["b"]), ("node", vault.policy().nodes["a"])):
        asyncio.run(crowding(info.address))
        text = scrape(vault.metrics[service, info.id])[1]
        assert value(text, "anwen_shed_total", reason="connections") > 0


async def crowding(address):
    """One more connection than one address may have."""
    host, _, port = address.rpartition(":")
    writers = [(await asyncio.open_connection(host, int(port)))[1] for _ in range(513)]
    await asyncio.sleep(0.5)
    for writer in writers:
        writer.transport.abort()


def covered(text):
    return value(text, "anwen_log_entries_cosigned") == value(text, "anwen_log_entries") > 5


def test_no_value_handle_principal_or_purpose_is_in_any_metric_or_log(vault, driven):
    policy = vault.policy()
    shown, logs = expositions(vault).values(), [p.read_text() for p in vault.path.rglob("process.log")]
    assert len(shown) == len(logs) == 4
    assert any("not a purpose of" in log for log in logs)
    secret = [*MARKS, driven.subject, driven.id, *policy.principals, *policy.purposes, *policy.collections]
    for text in (*shown, *logs):
        assert not [mark for mark in secret if mark.casefold() in text.casefold()]
    for text in shown:
        assert {k for f in text_string_to_metric_families(text) for s in f.samples for k in s.labels} <= LABELS


def test_logs_are_a_json_object_a_line(vault, driven):
    lines = (vault.path / "nodes" / "a" / "process.log").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert {"event": "refused", "op": "node_list", "code": "grant"}.items() <= entries[-1].items()
    assert set(entries[-1]) == {"time", "level", "logger", "event", "op", "code", "cause"}


def test_the_last_words_of_a_service_that_cannot_start_are_json_too(vault, tmp_path):
    folder = tmp_path / "a"
    shutil.copytree(vault.path / "nodes" / "a", folder)
    (folder / "node.json").write_text('{"id": "a", "store": {"path": "s"}, "metrics": "0.0.0.0:1"}')
    done = subprocess.run(
        [sys.executable, "-m", "anwen.node.app", str(folder)],
        env=os.environ | {"ANWEN_LOG": "json"}, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 1
    assert "is not loopback" in json.loads(done.stderr.splitlines()[-1])["event"]


def test_the_main_door_shows_no_metrics_and_the_listener_nothing_else(vault):
    policy = vault.policy()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for info in (*policy.keepers.values(), *policy.nodes.values()):
        said = asyncio.run(raw(info.address, context, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"))
        assert b"anwen_" not in said
        assert said.startswith(b"HTTP/1.1 403")
    for address in vault.metrics.values():
        for path in ("/", "/metricsx", "/v1/state", "/healthz"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                scrape(address, path)
        assert asyncio.run(raw(address, None, b"POST /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 404")


async def raw(address, context, request):
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    writer.write(request)
    said = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return said
