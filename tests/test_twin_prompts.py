"""Prompts beside a batch: chunks and what they cost, priorities at one engine, and preemption."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.dispatch import Dispatcher, Packing
from simulator.engine import Engine
from simulator.gpu import H100_SXM
from simulator.latency import Latency, LatencyBook
from simulator.loads.trace import Arrivals
from simulator.serving import REFERENCE_FLOP_PER_S, Engines
from tests.twin_rows import a100_site

HIGH, LOW = 0, 1
DT_S = 0.1


class Stand:
    """One engine of eight H100 on a stand; both priorities ask it, unless each has its own."""

    def __init__(
        self,
        engine: Engine | None = None,
        *,
        nodes: tuple[str, ...] = ("high",),
        dt_s: float = DT_S,
    ) -> None:
        self.engine = engine or Engine()
        self.book = LatencyBook(2)
        self.engines = Engines(
            a100_site(nodes),
            [H100_SXM] * len(nodes),
            engine=self.engine,
            opaque_intensity=0.0,
            book=self.book,
            priorities=("high", "low"),
        )
        self.dt_s, self.steps = dt_s, 0
        self._clock_mhz = np.full((2, len(nodes)), 1980.0)
        self._rng = np.random.default_rng(1)

    def ask(
        self, *, prompt: int, generated: int, priority: int, count: int = 1, after_s: float = 0.0
    ) -> None:
        at_s = self.steps * self.dt_s + after_s
        self.engines.admit(
            Arrivals(
                np.full(count, at_s), np.full(count, prompt), np.full(count, generated),
                np.full(count, priority),
            ),
            self._rng,
        )  # fmt: skip

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / self.dt_s)):
            self.engines.step(
                at_s=self.steps * self.dt_s, dt_s=self.dt_s, clock_mhz=self._clock_mhz
            )
            self.steps += 1

    def total(self, priority: int) -> Latency:
        return self.book.total(priority)

    def prefill_s(self, tokens: int) -> float:
        return float(self.engine.prefill_s(np.array([float(tokens)]), REFERENCE_FLOP_PER_S)[0])

    def decode_s(self, batch: int, context: float) -> float:
        step = self.engine.decode_step(
            batch=np.array(float(batch)),
            key_tokens=np.array(batch * context),
            clock_ratio=np.array(1.0),
            byte_per_s=np.array(8 * H100_SXM.memory_byte_per_s),
        )
        return float(step.seconds)


@pytest.mark.parametrize("dt_s", [0.01, 0.1, 0.25])
@pytest.mark.parametrize("after_s", [0.0, 0.003, 0.009])
def test_a_prompt_that_comes_within_a_step_is_timed_from_there(dt_s: float, after_s: float) -> None:
    stand = Stand(dt_s=dt_s)
    stand.ask(prompt=700, generated=40, priority=HIGH, after_s=after_s)
    stand.run(3.0)
    assert stand.total(HIGH).ttft_p50_s == pytest.approx(stand.prefill_s(700), rel=0.005)
    assert stand.total(HIGH).tpot_p50_s == pytest.approx(stand.decode_s(1, 720), rel=0.02)


def test_a_second_prompt_waits_for_the_first_and_not_for_the_step() -> None:
    stand = Stand(dt_s=0.25)
    own_s = stand.prefill_s(2000)
    stand.ask(prompt=2000, generated=1, priority=HIGH)
    stand.ask(prompt=2000, generated=1, priority=HIGH, after_s=own_s / 2)
    stand.run(2.0)
    first_s, second_s = own_s, 1.5 * own_s
    total = stand.total(HIGH)
    assert total.ttft_p50_s == pytest.approx(first_s, rel=0.005)
    assert total.ttft_p99_s == pytest.approx(second_s, rel=0.005)


def test_beside_a_batch_a_chunk_and_a_decode_step_take_turns() -> None:
    stand = Stand()
    stand.ask(prompt=100, generated=3000, priority=HIGH, count=20)
    stand.run(4.0)
    alone = stand.total(HIGH)
    stand.ask(prompt=1000, generated=1, priority=LOW)
    stand.run(2.0)
    step_s, chunk_s = stand.decode_s(20, 200.0), stand.prefill_s(1000)
    assert alone.itl_p50_s == pytest.approx(step_s, rel=0.05)
    assert stand.total(LOW).ttft_p50_s == pytest.approx(chunk_s + step_s, rel=0.05)


def test_tokens_come_apart_by_a_whole_chunk_while_prompts_wait() -> None:
    stand = Stand()
    stand.ask(prompt=100, generated=3000, priority=HIGH, count=20)
    stand.run(2.0)
    stand.book.clear()
    stand.ask(prompt=2000, generated=1, priority=LOW, count=60)
    stand.run(3.0)
    assert stand.engines.prompts.waiting_s().sum() > 0.0
    chunk_s, step_s = stand.prefill_s(int(stand.engine.chunk_tokens)), stand.decode_s(20, 300.0)
    found = stand.total(HIGH)
    assert found.itl_p99_s == pytest.approx(chunk_s + step_s, rel=0.05)
    stand.run(20.0)
    assert stand.engines.prompts.waiting_s().sum() == 0.0
    stand.book.clear()
    stand.run(2.0)
    assert stand.total(HIGH).itl_p99_s == pytest.approx(stand.decode_s(20, 900.0), rel=0.1)


def test_small_chunks_are_kind_to_the_batch_and_slow_for_the_prompts() -> None:
    def run(chunk_tokens: float) -> tuple[float, int]:
        stand = Stand(Engine(chunk_tokens=chunk_tokens))
        stand.ask(prompt=100, generated=3000, priority=HIGH, count=40)
        stand.run(3.0)
        stand.book.clear()
        stand.ask(prompt=8000, generated=1, priority=LOW, count=100)
        stand.run(15.0)
        gap_s = stand.total(HIGH).itl_p99_s
        assert gap_s is not None
        return gap_s, int(stand.engines.served[LOW])

    (small_gap_s, small_served), (large_gap_s, large_served) = run(256.0), run(4096.0)
    assert small_gap_s < 0.4 * large_gap_s
    assert small_served < 0.8 * large_served


def test_the_time_that_prompts_get_has_a_ceiling() -> None:
    engine = Engine(chunk_tokens=8192.0, prefill_share_max=0.5)
    share = engine.chunk_share(
        chunk_s=np.array([0.01, 0.02, 0.021, 1.0]), speed=np.ones(4), decode_s=np.full(4, 0.02)
    )
    assert share.tolist() == pytest.approx([1 / 3, 0.5, 0.5, 0.5])


def test_higher_prompts_go_before_lower_ones_that_came_earlier() -> None:
    stand = Stand(Engine(lower_share_min=0.0))
    stand.ask(prompt=4000, generated=1, priority=LOW, count=20)
    stand.run(0.5)
    stand.ask(prompt=4000, generated=1, priority=HIGH)
    stand.run(10.0)
    own_s = stand.prefill_s(4000)
    assert stand.total(HIGH).ttft_p50_s == pytest.approx(own_s, rel=0.02)
    assert stand.total(LOW).ttft_p99_s == pytest.approx(21 * own_s, rel=0.02)


def test_where_each_priority_has_engines_of_its_own_there_is_one_queue() -> None:
    stand = Stand(nodes=("high", "low"))
    stand.ask(prompt=4000, generated=1, priority=LOW, count=5)
    stand.ask(prompt=4000, generated=1, priority=HIGH, count=1)
    assert stand.engines.load.tolist() == [1.0, 5.0]
    assert stand.engines.prompts.tail_s.shape == (1, 2)
    assert Stand().engines.prompts.tail_s.shape == (2, 1)


@pytest.mark.parametrize(("lower_share_min", "served"), [(0.0, 0), (0.05, 1), (0.2, 5)])
def test_lower_prompts_keep_a_share_however_many_higher_ones_wait(
    lower_share_min: float, served: int
) -> None:
    stand = Stand(Engine(lower_share_min=lower_share_min, queue_max=10_000))
    own_s = stand.prefill_s(2000)
    stand.ask(prompt=2000, generated=1, priority=HIGH, count=300)
    stand.ask(prompt=2000, generated=1, priority=LOW, count=20)
    stand.run(27.0 * own_s)
    assert stand.engines.served[LOW] == pytest.approx(served, abs=1)
    assert (stand.engines.served[LOW] > 0) == (lower_share_min > 0.0)


def full_of_low(engine: Engine) -> Stand:
    stand = Stand(engine)
    stand.ask(prompt=100, generated=2000, priority=LOW, count=engine.batch_max)
    stand.run(3.0)
    assert stand.engines.batch.tolist() == [engine.batch_max]
    return stand


def test_a_higher_prompt_takes_the_place_of_a_lower_sequence_in_a_full_batch() -> None:
    stand = full_of_low(Engine(batch_max=8))
    stand.ask(prompt=1000, generated=50, priority=HIGH, count=2)
    stand.run(1.0)
    assert stand.engines.preempted.tolist() == [0, 2]
    ttft_s = stand.total(HIGH).ttft_p99_s
    assert ttft_s is not None
    assert ttft_s < 0.5
    stand.run(120.0)
    assert stand.engines.served.tolist() == [2, 8]
    assert stand.engines.preempted.tolist() == [0, 2]
    assert stand.engines.requests.count == 0
    assert stand.engines.batch.tolist() == [0.0]
    assert stand.engines._key_tokens.tolist() == pytest.approx([0.0], abs=1e-3)


def test_no_sequence_is_preempted_more_often_than_it_may_be() -> None:
    waits = full_of_low(Engine(batch_max=8, preemptions_max=0))
    waits.ask(prompt=1000, generated=50, priority=HIGH)
    waits.run(5.0)
    assert waits.engines.preempted.tolist() == [0, 0]
    assert waits.engines.served.tolist() == [0, 0]
    once = full_of_low(Engine(batch_max=8))
    for _ in range(30):
        once.ask(prompt=1000, generated=200, priority=HIGH, count=8)
        once.run(2.0)
    assert once.engines.preempted[LOW] == 8
    assert once.engines.requests.preempted.max() == 1


def test_equals_never_preempt_each_other() -> None:
    stand = full_of_low(Engine(batch_max=8))
    stand.ask(prompt=1000, generated=50, priority=LOW)
    stand.run(5.0)
    assert stand.engines.preempted.tolist() == [0, 0]


def test_a_preempted_request_counts_its_first_token_once_and_its_pause_in_full() -> None:
    stand = full_of_low(Engine(batch_max=1))
    stand.ask(prompt=1000, generated=1000, priority=HIGH)
    stand.run(60.0)
    assert stand.engines.served.tolist() == [1, 1]
    low, high = stand.total(LOW), stand.total(HIGH)
    assert stand.book.counts()[0, LOW].sum() == 1.0
    assert low.e2e_p50_s is not None
    assert high.e2e_p50_s is not None
    alone_s = 2000 * stand.decode_s(1, 1100.0)
    assert low.e2e_p50_s == pytest.approx(alone_s + high.e2e_p50_s, rel=0.05)


def packed(load: list[float], *, share: float, depth: int, count: int = 1) -> list[int]:
    """How many of `count` requests each of the nodes got."""
    dispatcher = Dispatcher(
        a100_site(["high"] * len(load)), packing=Packing(share=share, depth=depth)
    )
    rng = np.random.default_rng(1)
    _, node = dispatcher.assign(count, load=np.array(load), load_max=1e9, rng=rng)
    return [int(got) for got in np.bincount(node, minlength=len(load))]


def test_packed_requests_go_to_the_fullest_that_has_a_place() -> None:
    assert packed([1.0, 3.0, 2.0], share=1.0, depth=4) == [0, 1, 0]
    assert packed([1.0, 4.0, 2.0], share=1.0, depth=4) == [0, 0, 1]
    assert packed([1.0, 3.0, 2.0], share=1.0, depth=4, count=5) == [2, 1, 2]


def test_unpacked_requests_go_anywhere_alike() -> None:
    counts = packed([50.0, 3.0, 2.0], share=0.0, depth=4, count=9000)
    assert counts == pytest.approx([3000, 3000, 3000], rel=0.05)


def test_a_packing_router_knows_drains_and_full_queues() -> None:
    dispatcher = Dispatcher(a100_site(["high"] * 3), packing=Packing(share=0.5, depth=4))
    dispatcher.set_up(np.array([False, True, True]))
    rng = np.random.default_rng(1)
    _, node = dispatcher.assign(1000, load=np.zeros(3), load_max=100.0, rng=rng)
    assert (node != 0).all()
    assert (node == -1).sum() == 800
