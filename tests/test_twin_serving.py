"""Requests through the twin's engines: order, latency against clock, routing, loss, and counts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facility.compiler import compile_site
from facility.example import row_site
from facility.topology import Site
from facility.wire import EndpointRoute, Routing
from simulator.bank import DECODE, PREFILL, Demand
from simulator.dispatch import Dispatcher
from simulator.engine import Engine
from simulator.gpu import H100_SXM
from simulator.latency import BIN_RATIO, TPOT, TTFT, LatencyBook
from simulator.loads.trace import Arrivals
from simulator.serving import REFERENCE_FLOP_PER_S, Engines

STEP_S = 0.1
NODES = 5
CHAT = ("n01", "n03", "n05")
FULL_MHZ = np.full((2, NODES), 1980.0)


@pytest.fixture(scope="module")
def site() -> Site:
    """Five nodes: three serve chat, which is high priority, two batch."""
    return compile_site(row_site(nodes=NODES))


class Bench:
    """Engines on a bench: requests in, clock by hand, latencies out."""

    def __init__(self, site: Site, engine: Engine | None = None) -> None:
        self.book = LatencyBook(2)
        self.engines = Engines(
            site,
            [H100_SXM] * NODES,
            engine=engine or Engine(),
            opaque_intensity=0.0,
            book=self.book,
            priorities=("high", "low"),
        )
        self.now_s = 0.0
        self.rng = np.random.default_rng(1)

    def ask(self, *, context: int, generated: int, count: int = 1) -> None:
        self.engines.admit(
            Arrivals(
                np.full(count, self.now_s), np.full(count, context), np.full(count, generated)
            ),
            self.rng,
        )

    def run(self, seconds: float, clock_mhz: float = 1980.0) -> Demand:
        for _ in range(round(seconds / STEP_S)):
            demand = self.engines.step(
                at_s=self.now_s, dt_s=STEP_S, clock_mhz=np.full((2, NODES), clock_mhz)
            )
            self.now_s += STEP_S
        return demand

    def latency(self, kind: int) -> list[float]:
        """Medians of both priorities that have one."""
        totals = [self.book.total(priority) for priority in (0, 1)]
        both = [item.ttft_p50_s if kind == TTFT else item.tpot_p50_s for item in totals]
        return [seconds for seconds in both if seconds is not None]

    def counts(self) -> tuple[int, int, int, int]:
        engines = self.engines
        return (
            int(engines.arrived.sum()),
            int(engines.served.sum()),
            int(engines.lost.sum()),
            engines.requests.count,
        )


def prefill_s(tokens: int) -> float:
    return float(Engine().prefill_s(np.array([float(tokens)]), REFERENCE_FLOP_PER_S)[0])


def decode_s(batch: int, context: float, clock_ratio: float = 1.0) -> float:
    step = Engine().decode_step(
        batch=np.array(float(batch)),
        key_tokens=np.array(batch * context),
        clock_ratio=np.array(clock_ratio),
        byte_per_s=np.array(8 * H100_SXM.memory_byte_per_s),
    )
    return float(step.seconds)


def test_a_lone_request_waits_for_its_own_prefill_and_decodes_alone(site: Site) -> None:
    bench = Bench(site)
    bench.ask(context=4000, generated=201)
    bench.run(10.0)
    assert bench.counts() == (1, 1, 0, 0)
    assert bench.latency(TTFT) == [pytest.approx(prefill_s(4000), rel=0.02)]
    assert bench.latency(TPOT) == [pytest.approx(decode_s(1, 4100.0), rel=0.02)]


def test_prefill_of_a_70b_model_on_eight_h100_is_of_the_published_order() -> None:
    # splitwise-sim measured 137 ms at 2048 tokens with an engine of 2023; today's are faster.
    assert 0.137 / 3.0 <= prefill_s(2048) <= 0.137
    assert 3.3 <= prefill_s(8192) / prefill_s(2048) <= 4.5


def test_decode_is_two_to_three_times_faster_than_the_engine_of_2023() -> None:
    for batch, measured_s in ((1, 0.0298), (16, 0.0342), (32, 0.0386), (64, 0.0502)):
        assert 2.0 <= measured_s / decode_s(batch, 512.0) <= 3.0


def test_a_lower_clock_slows_prefill_nearly_in_proportion(site: Site) -> None:
    bench = Bench(site)
    bench.ask(context=8000, generated=1)
    bench.run(3.0, clock_mhz=1980.0 * 0.6)
    slower = bench.latency(TTFT)[0] / prefill_s(8000)
    assert slower == pytest.approx(0.19 + 0.81 / 0.6, rel=0.02)


def test_decode_hardly_feels_the_clock_above_the_knee_and_does_below() -> None:
    full_s = decode_s(16, 1300.0)
    assert decode_s(16, 1300.0, 0.6) / full_s < 1.08
    assert decode_s(16, 1300.0, 0.3) / full_s > 1.3


def test_prompts_at_one_engine_are_worked_off_in_order(site: Site) -> None:
    one = Bench(site)
    one.ask(context=4000, generated=1, count=50)
    one.run(20.0)
    first_s, last_s = one.book.total(0).ttft_p50_s, one.book.total(0).ttft_p99_s
    assert first_s is not None
    assert last_s is not None
    # 50 equal prompts on five engines: the last waits for about all of its engine's.
    assert last_s == pytest.approx(10 * prefill_s(4000), rel=0.25)
    assert first_s < 0.7 * last_s
    assert one.counts() == (50, 50, 0, 0)


def test_a_full_batch_holds_back_further_prompts(site: Site) -> None:
    bench = Bench(site, Engine(batch_max=4))
    bench.ask(context=100, generated=5000, count=100)
    bench.run(5.0)
    # A step may overshoot by the prompts that it finishes; then nothing more begins.
    before = bench.engines.batch.copy()
    bench.run(5.0)
    assert (before >= 4).all()
    assert bench.engines.batch.tolist() == before.tolist()
    # One prompt of each engine may have begun.
    assert 0 <= 100 - int(before.sum()) - int(bench.engines.queued().sum()) <= NODES


def test_an_engine_that_has_no_room_loses_requests_and_says_so(site: Site) -> None:
    bench = Bench(site, Engine(queue_max=10))
    bench.ask(context=1000, generated=100, count=200)
    arrived, served, lost, held = bench.counts()
    assert (arrived, served) == (200, 0)
    assert held == 10 * NODES
    assert lost == 200 - held


def test_every_request_is_served_lost_or_still_there(site: Site) -> None:
    bench = Bench(site, Engine(queue_max=40))
    for _ in range(200):
        bench.ask(context=900, generated=60, count=7)
        bench.run(STEP_S)
        arrived, served, lost, held = bench.counts()
        assert arrived == served + lost + held
        assert int(bench.engines.load.sum()) == held
    assert served > 0
    assert lost > 0


def test_a_node_that_goes_dark_loses_what_it_holds_and_gets_nothing_more(site: Site) -> None:
    bench = Bench(site)
    bench.ask(context=1000, generated=500, count=40)
    bench.run(1.0)
    down = np.array([True, False, False, False, False])
    held = int(bench.engines.load[0])
    bench.engines.take_down(down)
    assert bench.counts()[2] == held > 0
    bench.ask(context=1000, generated=500, count=40)
    bench.run(1.0)
    assert bench.engines.load[0] == 0
    demand = bench.run(STEP_S)
    assert demand.intensity[:, 0].tolist() == [0.0, 0.0]
    bench.engines.bring_up(down)
    bench.ask(context=1000, generated=500, count=40)
    assert bench.engines.load[0] > 0


def test_a_service_without_any_endpoint_up_loses_its_requests(site: Site) -> None:
    bench = Bench(site)
    bench.engines.take_down(np.ones(NODES, dtype=np.bool_))
    bench.ask(context=1000, generated=10, count=5)
    assert bench.counts() == (5, 0, 5, 0)


def test_prefill_asks_for_cores_and_decode_for_memory(site: Site) -> None:
    bench = Bench(site)
    bench.ask(context=8000, generated=400, count=20)
    demand = bench.run(STEP_S)
    assert (demand.prefill_share == 1.0).all()
    assert (demand.intensity[PREFILL] > 0.75).all()
    demand = bench.run(5.0)
    assert (demand.prefill_share == 0.0).all()
    assert (demand.intensity[DECODE] < 0.35).all()
    assert (demand.bandwidth[DECODE] > 0.3).all()


def chosen(dispatcher: Dispatcher, *, count: int, load: np.ndarray | None = None) -> np.ndarray:
    """How many of `count` requests each node got."""
    load = np.zeros(NODES) if load is None else load
    _, node = dispatcher.assign(count, load=load, load_max=math.inf, rng=np.random.default_rng(1))
    return np.bincount(node[node >= 0], minlength=NODES)


def routing(weights: dict[str, float], *, drain: str = "", valid_s: float = 10.0) -> Routing:
    return Routing(
        service="chat",
        decision_id="d",
        at_s=0.0,
        valid_s=valid_s,
        endpoints=tuple(
            EndpointRoute(endpoint=name, weight_ratio=weight, drain=name == drain)
            for name, weight in weights.items()
        ),
    )


def test_services_share_requests_by_their_endpoints_and_endpoints_equally(site: Site) -> None:
    counts = chosen(Dispatcher(site), count=5000)
    assert counts == pytest.approx(np.full(NODES, 1000), rel=0.05)


def test_the_least_loaded_endpoint_gets_the_next_request(site: Site) -> None:
    counts = chosen(Dispatcher(site), count=2, load=np.array([5.0, 5.0, 4.0, 4.0, 5.0]))
    assert counts[2] + counts[3] == 2


def test_weights_shift_requests_in_proportion_and_a_drain_stops_them(site: Site) -> None:
    dispatcher = Dispatcher(site)
    assert dispatcher.apply(routing({"n01": 1.0, "n03": 0.5, "n05": 1.0}, drain="n05"), 0.0) == []
    counts = chosen(dispatcher, count=5000)
    assert counts[0] == pytest.approx(2 * counts[2], rel=0.05)
    assert counts[4] == 0


def test_routing_is_forgotten_when_it_is_no_longer_valid(site: Site) -> None:
    dispatcher = Dispatcher(site)
    dispatcher.apply(routing({"n01": 0.0}, valid_s=10.0), 5.0)
    dispatcher.expire(15.0)
    assert chosen(dispatcher, count=500)[0] == 0
    dispatcher.expire(15.1)
    assert chosen(dispatcher, count=500)[0] > 0


def test_endpoints_of_another_service_or_none_are_refused_by_name(site: Site) -> None:
    dispatcher = Dispatcher(site)
    refused = dispatcher.apply(routing({"n02": 0.0, "n99": 0.0, "n01": 0.0}), 0.0)
    assert refused == ["n02 is no endpoint of chat", "n99 is no endpoint of chat"]
    counts = chosen(dispatcher, count=500)
    assert counts[0] == 0
    assert counts[1] > 0


def test_quantiles_are_within_a_bin_and_missing_ones_are_none() -> None:
    book = LatencyBook(2)
    assert book.total(0).ttft_p99_s is None
    assert book.last_minute(0).ttft_p50_s is None
    book.add(TTFT, np.zeros(1000, np.int64), np.linspace(0.1, 1.0, 1000))
    book.close_second()
    total = book.total(0)
    assert total.ttft_p50_s == pytest.approx(0.55, rel=BIN_RATIO - 1.0)
    assert total.ttft_p99_s == pytest.approx(0.991, rel=BIN_RATIO - 1.0)
    assert total.tpot_p50_s is None
    assert book.total(1).ttft_p50_s is None


def test_the_last_minute_forgets_what_is_older() -> None:
    book = LatencyBook(1)
    book.add(TTFT, np.zeros(10, np.int64), np.full(10, 9.0))
    for _ in range(60):
        book.close_second()
    assert book.last_minute(0).ttft_p50_s == pytest.approx(9.0, rel=0.01)
    book.close_second()
    assert book.last_minute(0).ttft_p50_s is None
    assert book.total(0).ttft_p50_s == pytest.approx(9.0, rel=0.01)


def limits(*, batch_ratio: float = 1.0, quality_level: int = 0) -> Routing:
    """The same limits for every chat endpoint."""
    return Routing(
        service="chat",
        decision_id="d",
        at_s=0.0,
        valid_s=10.0,
        endpoints=tuple(
            EndpointRoute(
                endpoint=name,
                weight_ratio=1.0,
                batch_ratio=batch_ratio,
                quality_level=quality_level,
            )
            for name in CHAT
        ),
    )


def largest_batch(bench: Bench, seconds: float) -> float:
    """The largest batch of any engine of chat."""
    largest = 0.0
    for _ in range(round(seconds / STEP_S)):
        bench.run(STEP_S)
        largest = max(largest, float(bench.engines.batch[[0, 2, 4]].max()))
    return largest


@pytest.mark.parametrize(("batch_ratio", "batch"), [(1.0, 32), (0.5, 16), (0.01, 1)])
def test_a_batch_ratio_limits_how_many_requests_decode_together(
    site: Site, batch_ratio: float, batch: int
) -> None:
    bench = Bench(site, Engine(batch_max=32, queue_max=10_000))
    bench.engines.dispatcher.apply(limits(batch_ratio=batch_ratio), 0.0)
    bench.ask(context=64, generated=400, count=600)
    # Prompts that end within one step go into the batch together.
    assert batch <= largest_batch(bench, 5.0) <= batch + 12
    assert bench.counts()[2] == 0


def test_limits_end_with_the_routing_that_set_them(site: Site) -> None:
    dispatcher = Dispatcher(site)
    dispatcher.apply(limits(batch_ratio=0.5, quality_level=2), 5.0)
    dispatcher.expire(15.0)
    assert dispatcher.batch_ratio[0] == 0.5
    assert dispatcher.quality_level[0] == 2
    dispatcher.expire(15.1)
    assert dispatcher.batch_ratio.min() == 1.0
    assert dispatcher.quality_level.max() == 0


def test_each_rung_of_quality_leaves_a_part_of_the_work(site: Site) -> None:
    took = []
    for level in (0, 1, 2):
        bench = Bench(site)
        bench.engines.dispatcher.apply(limits(quality_level=level), 0.0)
        bench.engines.dispatcher.weight[[1, 3]] = 0.0  # batch takes nothing
        bench.ask(context=8000, generated=1, count=40)
        bench.run(30.0)
        took.append(bench.latency(TTFT)[0])
    ratio = Engine().quality_work_ratio
    assert took[1] / took[0] == pytest.approx(ratio, rel=0.05)
    assert took[2] / took[1] == pytest.approx(ratio, rel=0.05)
