"""History in InfluxDB: what is sent, what an outage costs, and that no name can forge a line."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from daemon.store.history import EventFilter, StoreError, open_history
from daemon.store.influx import InfluxHistory, InfluxServer, WriteError, read_token
from daemon.store.lineprotocol import line
from facility.config import StoreConfig
from tests.conftest import FreePort
from tests.history_values import NOW_S, decision, domain, event, frame, gpu
from tests.test_lineprotocol import parsed
from tests.victoria import Victoria


class Box:
    """A server in memory that can be away, refuse, or hang."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.batches: list[int] = []
        self.away = False
        self.refuse_next = False
        self.asked = threading.Event()
        self.hanging = threading.Event()
        self.hanging.set()

    def write(self, lines: str) -> None:
        self.asked.set()
        assert self.hanging.wait(timeout=20.0)
        if self.refuse_next:
            self.refuse_next = False
            raise WriteError("status 400: malformed", refused=True)
        if self.away:
            raise WriteError("connection refused", refused=False)
        rows = lines.split("\n")
        self.batches.append(len(rows))
        self.lines += rows

    def close(self) -> None:
        self.away = True


def started(box: Box, *, lines_max: int = 100_000) -> InfluxHistory:
    history = InfluxHistory(
        box, site="s", lines_max=lines_max, retry_s_min=0.01, wall_s=lambda: NOW_S
    )
    history.start()
    return history


@pytest.fixture
def box() -> Box:
    return Box()


@pytest.fixture
def history(box: Box) -> Iterator[InfluxHistory]:
    store = started(box)
    yield store
    box.hanging.set()
    store.close()


# The buffer


def test_lines_go_out_in_batches(history: InfluxHistory, box: Box) -> None:
    for number in range(6_000):
        history.record_event(event(number))
    assert history.flush(timeout_s=10.0)
    assert len(box.lines) == 6_000
    assert max(box.batches) <= 5_000
    assert history.counters()["written"] == {"line": 6_000}


def test_an_outage_costs_the_oldest_and_raw_samples_first(box: Box) -> None:
    box.away = True
    history = started(box, lines_max=100)
    for second in range(20):  # 2 lines and 2 samples each
        history.record_telemetry(frame(gpu(), at_s=NOW_S + second))
    for number in range(70):
        history.record_event(event(number, at_s=NOW_S + 100 + number))
    assert not history.flush(timeout_s=10.0)
    counters = history.counters()
    assert counters["failing"]
    assert counters["pending_count"] == 100
    assert counters["last_error"] == "connection refused"
    box.away = False
    assert history.flush(timeout_s=10.0)
    assert history.flush(timeout_s=10.0)
    found = [parsed(text) for text in box.lines]
    history.close()
    counters = history.counters()
    # 40 samples all went; of 40 lines, 70 events and the alarm, the oldest 11 lines went.
    assert counters["dropped"] == {"sample": 40, "line": 11}
    frames = [one for one in found if one[0] in ("gpu", "node")]
    assert min(one[3] for one in frames) == round((NOW_S + 5) * 1e6)
    events = [one for one in found if one[0] == "event" and one[1]["event"] == "test"]
    assert [one[2]["sentence"] for one in events] == [f"number {number}" for number in range(70)]
    assert [e.event for e in history.take_events()] == ["history-failing", "history-recovered"]


def test_a_batch_that_the_server_refuses_does_not_stop_the_next(
    history: InfluxHistory, box: Box
) -> None:
    box.refuse_next = True
    history.record_event(event(1))
    assert history.flush(timeout_s=10.0)
    assert "malformed" in history.counters()["last_error"]
    history.record_event(event(2))
    assert history.flush(timeout_s=10.0)
    assert [parsed(text)[2]["sentence"] for text in box.lines] == ["number 2"]
    assert history.counters()["dropped"] == {"refused_line": 1}
    assert history.counters()["last_error"] == ""


def test_recording_goes_on_while_the_server_hangs(history: InfluxHistory, box: Box) -> None:
    box.hanging.clear()
    history.record_event(event(0))
    assert box.asked.wait(timeout=10.0)
    assert not history.flush(timeout_s=0.01)
    begin_s = time.thread_time()
    for number in range(1, 1_001):
        history.record_event(event(number))
    assert time.thread_time() - begin_s < 1.0
    assert history.counters()["queue_depth"] == 1_000
    box.hanging.set()
    assert history.flush(timeout_s=10.0)
    assert len(box.lines) == 1_001


def test_what_cannot_be_sent_at_the_end_is_counted(box: Box) -> None:
    history = started(box)
    box.away = True
    history.record_event(event(1))
    history.close()
    assert history.counters()["dropped"]["line"] >= 1


def test_the_last_minutes_can_be_read_without_the_server(history: InfluxHistory) -> None:
    for second in range(3):
        one = domain(power_w=40_000.0 + second, sentence=f"in state {'abc'[second]}")
        history.record_decision(decision(one, at_s=NOW_S + second, events=(event(second),)))
    assert history.flush(timeout_s=10.0)
    seconds = history.domain_rollups("row-1", since_s=NOW_S + 1, until_s=NOW_S + 9)
    assert [rollup.power_w for rollup in seconds] == [40_001.0, 40_002.0]
    (minute,) = history.domain_rollups("row-1", since_s=NOW_S, until_s=NOW_S, period_s=60)
    assert (minute.cycles_count, minute.power_w) == (3, 40_001.0)
    assert [e.sentence for e in history.events(EventFilter(limit=2))] == ["number 2", "number 1"]
    assert [s.sentence for s in history.sentences("row-1", limit=1)] == ["in state c"]


def test_what_only_the_server_has_says_where_it_is(history: InfluxHistory) -> None:
    with pytest.raises(StoreError, match="node n1 is in InfluxDB"):
        history.node_rollups("n1", since_s=0.0, until_s=1.0)
    with pytest.raises(StoreError, match="GPU-a are in InfluxDB"):
        history.gpu_minute("GPU-a", minute_s=0)


# The token and the address


def test_the_token_comes_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret-token==\n")
    assert read_token(tmp_path / "token") == "secret-token=="


@pytest.mark.parametrize("content", ["", "\n", "two words", "two\nlines", "tokén"])
def test_a_file_that_holds_no_token_is_refused_without_showing_it(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "token").write_text(content, encoding="utf-8")
    with pytest.raises(StoreError, match=r"store\.token_file") as caught:
        read_token(tmp_path / "token")
    assert "two" not in str(caught.value)


def test_a_missing_token_file_or_address_is_a_clear_error(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    config = StoreConfig(kind="influxdb", url="http://127.0.0.1:1", token_file=missing)
    with pytest.raises(StoreError, match=r"store\.token_file: .*missing: cannot be read"):
        open_history(config, site="s")
    for url in (None, "influx.example:8086"):
        with pytest.raises(StoreError, match=r"store\.url: .*use http://HOST:PORT"):
            open_history(StoreConfig(kind="influxdb", url=url), site="s")


# Real servers


class Scripted(BaseHTTPRequestHandler):
    """Answers with the next status and keeps what it was asked."""

    statuses: list[int]
    asked: list[tuple[str, str]]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append((self.path, self.headers["Authorization"]))
        self.send_response(self.statuses.pop(0))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        del format, args


@pytest.mark.parametrize(
    ("status", "refused"),
    [(400, True), (413, True), (422, True), (401, False), (404, False), (429, False), (503, False)],
)
def test_only_a_malformed_batch_is_given_up(status: int, refused: bool) -> None:
    class Handler(Scripted):
        statuses = [204, status]  # noqa: RUF012 - of this test alone
        asked: list[tuple[str, str]] = []  # noqa: RUF012

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        server = InfluxServer(
            url=f"http://127.0.0.1:{http.server_port}", org="o", bucket="b", token="t"
        )
        server.write("m x_w=1.0 1")
        with pytest.raises(WriteError, match=f"status {status}") as caught:
            server.write("m x_w=1.0 1")
        server.close()
        http.shutdown()
        thread.join()
    assert caught.value.refused is refused
    path, authorization = Handler.asked[0]
    assert path.startswith("/api/v2/write?")
    assert "precision=us" in path
    assert "bucket=b" in path
    assert authorization == "Token t"


def test_a_server_that_is_away_is_an_error_to_try_again(free_port: FreePort) -> None:
    server = InfluxServer(url=f"http://127.0.0.1:{free_port()}", org="o", bucket="b", token="")
    with pytest.raises(WriteError, match="refused") as caught:
        server.write("m x_w=1.0 1")
    assert caught.value.refused is False
    server.close()


@pytest.fixture
def victoria(tmp_path: Path, free_port: FreePort) -> Iterator[Victoria]:
    server = Victoria(tmp_path / "victoria", port=free_port())
    server.start()
    yield server
    server.stop()


def values_of(series: list[dict[str, Any]]) -> list[float]:
    pairs = [pair for one in series for pair in zip(one["timestamps"], one["values"], strict=True)]
    return [value for _, value in sorted(pairs)]


def wait_until_failing(history: InfluxHistory) -> None:
    deadline_s = time.monotonic() + 10.0
    while not history.counters()["failing"]:
        assert time.monotonic() < deadline_s, history.counters()
        history.flush(timeout_s=0.5)


def test_points_survive_a_server_killed_and_restarted(victoria: Victoria) -> None:
    config = StoreConfig(kind="influxdb", url=victoria.url)
    history = open_history(config, site="hall-1", wall_s=lambda: NOW_S)
    assert isinstance(history, InfluxHistory)
    at_s = 1_700_000_000.0  # the server takes no points from the future
    for second in range(10):
        history.record_telemetry(frame(gpu(samples_w=(float(second),)), at_s=at_s + second))
    assert history.flush(timeout_s=10.0)
    selector = '{__name__="gpu_power_w"}'
    victoria.wait_for(selector, lambda found: len(values_of(found)) == 10)
    victoria.kill()
    for second in range(10, 20):
        history.record_telemetry(frame(gpu(samples_w=(float(second),)), at_s=at_s + second))
        history.record_decision(decision(domain(), at_s=at_s + second))
    wait_until_failing(history)
    victoria.start()
    for second in range(20, 30):
        history.record_telemetry(frame(gpu(samples_w=(float(second),)), at_s=at_s + second))
    assert history.flush(timeout_s=10.0), history.counters()
    expected = {float(second) for second in range(10, 30)}
    found = victoria.wait_for(selector, lambda found: expected <= set(values_of(found)))
    assert found[0]["metric"].items() >= {"site": "hall-1", "node": "n1", "gpu": "GPU-a"}.items()
    capacities = victoria.wait_for('{__name__="domain_capacity_w"}', bool)
    assert values_of(capacities) == [50_000.0] * 10
    assert history.counters()["dropped"] == {}
    assert [e.event for e in history.take_events()] == ["history-failing", "history-recovered"]
    history.close()


def test_nasty_names_arrive_as_one_series_with_that_name(victoria: Victoria) -> None:
    server = InfluxServer(url=victoria.url, org="o", bucket="b", token="")
    name = 'a,b=c "d" é, evil_w=9'
    tags = (("site", name), ("node", "back\\slash\\"))
    row = line("nasty", tags, (("x_w", 1.0),), 1_700_000_000.0, (("sentence", name + "\nx y=1"),))
    server.write(row)
    server.close()
    found = victoria.wait_for('{__name__=~"nasty.*|evil.*|x.*"}', bool)
    numbers = [one["metric"] for one in found if one["metric"]["__name__"] == "nasty_x_w"]
    assert [(metric["site"], metric["node"]) for metric in numbers] == [(name, "back/slash/")]
    assert {one["metric"]["__name__"] for one in found} <= {"nasty_x_w", "nasty_sentence"}
