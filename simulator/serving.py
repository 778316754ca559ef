"""Serving in the twin: one engine per node with continuous batching, request by request.

An engine works off prompts first in, first out (prefill), then all requests of its batch gain
tokens together (decode). Both are counters per engine, so that a request is only two marks: the
prefill work and the tokens at which it is done. Nothing is done per token, and nothing per request
but when it comes and when a phase of it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from facility.topology import Site
from simulator.bank import DECODE, PREFILL, Demand
from simulator.dispatch import Dispatcher
from simulator.gpu import GpuConstants
from simulator.latency import TPOT, TTFT, LatencyBook
from simulator.requests import RequestTable
from simulator.trace import Arrivals

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine: a dense model of 70 billion parameters in 16 bits, over all GPUs of a node.

    Prefill of T tokens takes `prefill_overhead_s` and its operations at `flop_share_max` x
    T / (T + `flop_half_tokens`) of the peak; a share `prefill_fixed_share` of that time does not
    follow the clock. A decode step takes `decode_overhead_s`, reading weights and keys at
    `bandwidth_share` of the peak (less below `bandwidth_knee` of the highest clock), and
    `sequence_s` for each sequence, which follows the clock.
    """

    flop_per_token: float = 140e9  # two per parameter
    flop_per_token_squared: float = 1.3e6  # causal attention, 80 layers of width 8192
    weight_bytes: float = 140e9
    key_bytes_per_token: float = 327_680.0  # 80 layers, 8 key-value heads of 128, 16 bits
    flop_share_max: float = 0.55  # H100 BF16, today's engines                       from memory
    flop_half_tokens: float = 300.0  # between the fits for A100 and H100 of splitwise-sim
    prefill_overhead_s: float = 0.010  # assumption
    prefill_fixed_share: float = 0.19  # zeus-perseus sweep: time = 0.19 + 0.81 / f
    decode_overhead_s: float = 0.006  # assumption: with the rest 2-3 times faster than splitwise
    bandwidth_share: float = 0.65  # 0.6 to 0.85 today                               from memory
    bandwidth_knee: float = 0.55  # from memory
    sequence_s: float = 8e-5  # assumption: slope of ML.ENERGY's 405B on 8 H100, scaled
    batch_max: int = 128
    queue_max: int = 512  # requests at one engine, its batch included
    chunk_tokens: float = 2048.0  # usual chunk of chunked prefill                   from memory
    prefill_share_max: float = 0.80  # a 2048-token chunk beside a decode step, by time
    prefill_intensity: float = 0.95  # assumption, times T / (T + half)
    prefill_bandwidth: float = 0.18  # assumption
    decode_intensity_idle: float = 0.15  # these three fitted to ML.ENERGY, 405B FP8 on 8 H100:
    decode_intensity_gain: float = 0.55  # 408, 468, 576, 609 W at batch 8, 32, 128, 256
    decode_intensity_half: float = 80.0

    def prefill_s(self, tokens: FloatArray, flop_per_s: float) -> FloatArray:
        """Prefill time of prompts at full clock on GPUs of `flop_per_s` together."""
        share = self.flop_share_max * tokens / (tokens + self.flop_half_tokens)
        flop = self.flop_per_token * tokens + self.flop_per_token_squared * tokens**2
        seconds: FloatArray = self.prefill_overhead_s + flop / (flop_per_s * share)
        return seconds


REFERENCE_FLOP_PER_S: Final = 8 * 989e12
"""Prefill work is counted in seconds of a node with this peak."""

OPAQUE_BANDWIDTH: Final = 0.2


class Engines:
    """The engines of all nodes; arrays of shape (nodes,) unless said otherwise.

    `clock_mhz` of `step` is of shape (2, nodes): the slowest GPU's, in prefill and in decode.
    """

    def __init__(
        self,
        site: Site,
        parts: Sequence[GpuConstants],
        *,
        engine: Engine,
        opaque_intensity: float,
        book: LatencyBook,
        priorities: Sequence[str],
    ) -> None:
        """Idle engines; `parts` are the parts of each node, in order of the site."""
        nodes = tuple(site.nodes.values())
        gpus = np.array([node.model.gpu_count for node in nodes])
        self.engine = engine
        self.dispatcher = Dispatcher(site)
        self.requests = RequestTable(len(nodes))
        self._book = book
        self._count = len(nodes)
        self._high_mhz = np.array([float(part.clock_mhz_max) for part in parts])
        peak = gpus * np.array([part.peak_flop_per_s for part in parts])
        self._prefill_rate = peak / REFERENCE_FLOP_PER_S
        self._bytes_per_s = gpus * np.array([part.memory_byte_per_s for part in parts])
        self._opaque = np.array([node.service is None for node in nodes]) * opaque_intensity
        self._has_opaque = bool((self._opaque > 0.0).any())
        self._tokens_per_s = engine.chunk_tokens / float(
            engine.prefill_s(np.array([engine.chunk_tokens]), REFERENCE_FLOP_PER_S)[0]
        )
        rank = {priority: place for place, priority in enumerate(priorities)}
        self._priority = np.array(
            [rank[priority] for priority in self.dispatcher.priorities], dtype=np.int64
        )
        self.up = np.ones(self._count, dtype=np.bool_)
        self._tail = np.zeros(self._count)
        self._key_tokens = np.zeros(self._count)
        self.batch = np.zeros(self._count)
        self.load = np.zeros(self._count)
        self.busy = np.zeros(self._count)
        self.arrived = np.zeros(len(priorities), dtype=np.int64)
        self.served = np.zeros(len(priorities), dtype=np.int64)
        self.lost = np.zeros(len(priorities), dtype=np.int64)

    def admit(self, arrivals: Arrivals, rng: np.random.Generator) -> None:
        """Send arrivals to engines; what finds none with room is lost."""
        count = len(arrivals.at_s)
        if count == 0:
            return
        service, node = self.dispatcher.assign(
            count, load=self.load, load_max=self.engine.queue_max, rng=rng
        )
        priority = self._priority[service]
        self.arrived += np.bincount(priority, minlength=len(self.arrived))
        homeless = node < 0
        if homeless.any():
            self.lost += np.bincount(priority[homeless], minlength=len(self.lost))
        taken = np.flatnonzero(~homeless)
        node = node[taken]
        context = arrivals.context_tokens[taken]
        work_s = self.engine.prefill_s(context.astype(np.float64), REFERENCE_FLOP_PER_S)
        self.requests.add(
            node=node,
            at_s=arrivals.at_s[taken],
            mark=self._line_up(node, work_s),
            work_s=work_s,
            context=context,
            generated=arrivals.generated_tokens[taken],
            priority=priority[taken],
        )
        self.load += np.bincount(node, minlength=self._count)

    def _line_up(self, node: IntArray, work_s: FloatArray) -> FloatArray:
        """Prefill marks: each request's work comes after all work before it at its node."""
        marks = []
        tail = self._tail
        for place, work in zip(node.tolist(), work_s.tolist(), strict=True):
            tail[place] += work
            marks.append(tail[place])
        return np.array(marks)

    def step(self, *, at_s: float, dt_s: float, clock_mhz: FloatArray) -> Demand:
        """Work for `dt_s` from `at_s`; returns what that asks of the GPUs."""
        table = self.requests
        speed = clock_mhz / self._high_mhz
        fixed = self.engine.prefill_fixed_share
        prefill_speed = self._prefill_rate / (fixed + (1.0 - fixed) / speed[PREFILL])
        backlog_s = self._tail - table.prefilled_s
        decoding = self.batch > 0.0
        share_max = np.where(decoding, self.engine.prefill_share_max, 1.0)
        share_max *= self.up & (self.batch < self.engine.batch_max)
        share = np.minimum(backlog_s / (prefill_speed * dt_s), share_max)
        key_tokens = np.maximum(self._key_tokens + self.batch * table.decoded, 0.0)
        step_s, full_s, read_bytes = self._decode_step(key_tokens, speed[DECODE])
        tokens = (1.0 - share) * dt_s / step_s * (decoding & self.up)
        demand = self._demand(share, backlog_s, decoding, speed, step_s, full_s, read_bytes)
        self._advance(at_s, dt_s, share * dt_s * prefill_speed, tokens)
        return demand

    def _decode_step(
        self, key_tokens: FloatArray, speed: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Time of one decode step now and at full clock, and the bytes that it reads."""
        engine = self.engine
        read_bytes = engine.weight_bytes + key_tokens * engine.key_bytes_per_token
        read_s = read_bytes / (self._bytes_per_s * engine.bandwidth_share)
        own_s = self.batch * engine.sequence_s
        slow = np.minimum(1.0, speed / engine.bandwidth_knee)
        step_s = engine.decode_overhead_s + read_s / slow + own_s / speed
        return step_s, engine.decode_overhead_s + read_s + own_s, read_bytes

    def _demand(
        self,
        share: FloatArray,
        backlog_s: FloatArray,
        decoding: BoolArray,
        speed: FloatArray,
        step_s: FloatArray,
        full_s: FloatArray,
        read_bytes: FloatArray,
    ) -> Demand:
        """Intensity and bandwidth of both phases.

        Intensity is per clock cycle: memory-bound decode does the same work in fewer cycles when
        the clock falls, so each cycle does more.
        """
        engine = self.engine
        chunk = np.minimum(np.maximum(backlog_s * self._tokens_per_s, 64.0), engine.chunk_tokens)
        prefill = engine.prefill_intensity * chunk / (chunk + engine.flop_half_tokens)
        gain = self.batch / (self.batch + engine.decode_intensity_half)
        decode = engine.decode_intensity_idle + engine.decode_intensity_gain * gain
        decode = np.minimum(decode * full_s / (step_s * speed[DECODE]), 1.0) * decoding
        bandwidth = read_bytes / (self._bytes_per_s * step_s) * decoding
        self.busy = np.where(decoding, 1.0, share) * self.up
        if self._has_opaque:
            decode = np.where(self._opaque > 0.0, self._opaque, decode)
            bandwidth = np.where(self._opaque > 0.0, OPAQUE_BANDWIDTH, bandwidth)
        demand = Demand(np.empty((2, self._count)), np.empty((2, self._count)), share)
        demand.intensity[PREFILL], demand.intensity[DECODE] = prefill, decode
        demand.bandwidth[PREFILL], demand.bandwidth[DECODE] = engine.prefill_bandwidth, bandwidth
        demand.intensity *= self.up
        demand.bandwidth *= self.up
        return demand

    def _advance(self, at_s: float, dt_s: float, prefill_s: FloatArray, tokens: FloatArray) -> None:
        """Move both counters on and handle the requests whose mark they pass."""
        table = self.requests
        table.advance(prefill_s, tokens)
        done = table.passed()
        if len(done) == 0:
            return
        decoded = table.decoding[done]
        first, last = done[~decoded], done[decoded]
        if len(first):
            self._first_tokens(first, at_s, dt_s, prefill_s, tokens)
        if len(last):
            self._last_tokens(last, at_s, dt_s, tokens)

    def _first_tokens(
        self,
        rows: IntArray,
        at_s: float,
        dt_s: float,
        prefill_s: FloatArray,
        tokens: FloatArray,
    ) -> None:
        """Prompts are done: the first token is out, and decode begins."""
        table = self.requests
        node = table.node[rows]
        moved = prefill_s[node]
        late = (table.prefilled_s[node] - table.mark[rows]) / np.maximum(moved, 1e-12)
        when = at_s + dt_s * (1.0 - np.minimum(late, 1.0))
        # A request that came during this step cannot have been served before it came.
        when = np.maximum(when, table.at_s[rows] + table.work_s[rows] / self._prefill_rate[node])
        begin = table.decoded[node] - tokens[node] * np.minimum(late, 1.0)
        table.first_s[rows] = when
        table.decoding[rows] = True
        table.where[rows] = node + self._count
        table.begin[rows] = begin
        table.mark[rows] = begin + table.generated[rows] - 1.0
        self.batch += np.bincount(node, minlength=self._count)
        self._key_tokens += np.bincount(node, table.context[rows] - begin, minlength=self._count)
        self._book.add(TTFT, table.priority[rows], when - table.at_s[rows])

    def _last_tokens(self, rows: IntArray, at_s: float, dt_s: float, tokens: FloatArray) -> None:
        """Requests are done."""
        table = self.requests
        node = table.node[rows]
        late = (table.decoded[node] - table.mark[rows]) / np.maximum(tokens[node], 1e-12)
        when = at_s + dt_s * (1.0 - np.minimum(late, 1.0))
        generated = table.generated[rows]
        priority = table.priority[rows]
        several = generated > 1
        if several.any():
            took = np.maximum(when - table.first_s[rows], 0.0)[several]
            self._book.add(TPOT, priority[several], took / (generated[several] - 1.0))
        self.served += np.bincount(priority, minlength=len(self.served))
        self._leave(rows, node)

    def _leave(self, rows: IntArray, node: IntArray) -> None:
        """Take requests off their nodes' books and free their places."""
        table = self.requests
        begun = table.decoding[rows]
        self.load -= np.bincount(node, minlength=self._count)
        self.batch -= np.bincount(node, begun, minlength=self._count)
        held = (table.context[rows] - table.begin[rows]) * begun
        self._key_tokens -= np.bincount(node, held, minlength=self._count)
        table.free(rows)

    def take_down(self, nodes: BoolArray) -> None:
        """Engines die: what they held is lost; the router sees it and sends nothing more."""
        rows = self.requests.at_nodes(nodes)
        if len(rows):
            self.lost += np.bincount(self.requests.priority[rows], minlength=len(self.lost))
            self._leave(rows, self.requests.node[rows])
        self.up &= ~nodes
        self.dispatcher.set_up(self.up)
        self._tail[nodes] = self.requests.prefilled_s[nodes]
        self.batch[nodes] = self.load[nodes] = self._key_tokens[nodes] = 0.0

    def bring_up(self, nodes: BoolArray) -> None:
        """Engines are ready again, empty."""
        self.up |= nodes
        self.dispatcher.set_up(self.up)

    def forget_counts(self) -> None:
        """Count anew from here; requests that are already there have arrived here."""
        held = self.requests.priority[self.requests.in_use()]
        self.arrived = np.bincount(held, minlength=len(self.arrived))
        self.served[:] = 0
        self.lost[:] = 0

    def queued(self) -> IntArray:
        """Requests whose prefill has not begun, per node."""
        rows = self.requests.waiting()
        counts: IntArray = np.bincount(self.requests.node[rows], minlength=self._count)
        return counts
