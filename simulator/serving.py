"""Serving in the twin: one engine per node with continuous batching, request by request.

An engine works off prompts first in, first out (prefill), then all requests of its batch gain
tokens together (decode). Both are counters per engine, so that a request is only two marks: the
prefill work and the tokens at which it is done. Nothing is done per token, and nothing per request
but when it comes and when a phase of it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from facility.topology import Site
from simulator.bank import DECODE, PREFILL, Demand
from simulator.dispatch import Dispatcher
from simulator.engine import DecodeStep, Engine
from simulator.gpu import GpuConstants
from simulator.latency import TPOT, TTFT, LatencyBook
from simulator.loads.trace import Arrivals
from simulator.requests import RequestTable

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


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
        self._byte_per_s = gpus * np.array([part.memory_byte_per_s for part in parts])
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
        # A lower quality is a smaller or terser model: less work for the prompt, fewer tokens.
        kept = self.engine.quality_work_ratio ** self.dispatcher.quality_level[node]
        generated = np.maximum(np.rint(arrivals.generated_tokens[taken] * kept), 1.0)
        work_s = kept * self.engine.prefill_s(context.astype(np.float64), REFERENCE_FLOP_PER_S)
        self.requests.add(
            node=node,
            at_s=arrivals.at_s[taken],
            mark=self._line_up(node, work_s),
            work_s=work_s,
            context=context,
            generated=generated.astype(np.int64),
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
        ratio = clock_mhz / self._high_mhz
        speed = self._prefill_rate * self.engine.prefill_speed(ratio[PREFILL])
        backlog_s = self._tail - table.prefilled_s
        decoding = self.batch > 0.0
        share_max = np.where(decoding, self.engine.prefill_share_max, 1.0)
        # What waits before a full batch may as well wait at the router: it costs no power there.
        batch_max = np.ceil(self.engine.batch_max * self.dispatcher.batch_ratio)
        share_max *= self.up & (self.batch < batch_max)
        rate = speed * share_max
        share = np.minimum(backlog_s / (speed * dt_s), share_max)
        key_tokens = self._key_tokens + self.batch * table.decoded
        decode = self.engine.decode_step(
            batch=self.batch,
            key_tokens=np.maximum(key_tokens, 0.0),
            clock_ratio=ratio[DECODE],
            byte_per_s=self._byte_per_s,
        )
        decoding &= self.up
        self.busy = np.where(decoding, 1.0, share)
        tokens = (1.0 - share) * dt_s / decode.seconds * decoding
        demand = self._demand(share, backlog_s, decode, decoding)
        self._advance(at_s, dt_s, share * dt_s * speed, rate, tokens)
        return demand

    def _demand(
        self, share: FloatArray, backlog_s: FloatArray, decode: DecodeStep, decoding: BoolArray
    ) -> Demand:
        """What both phases ask of the GPUs; nothing where the engine is down."""
        demand = Demand(np.empty((2, self._count)), np.empty((2, self._count)), share)
        demand.intensity[PREFILL] = self.engine.prefill_load(backlog_s * self._tokens_per_s)
        demand.intensity[DECODE] = decode.intensity * decoding
        demand.bandwidth[PREFILL] = self.engine.prefill_bandwidth
        demand.bandwidth[DECODE] = decode.bandwidth * decoding
        if self._has_opaque:
            opaque = self._opaque > 0.0
            demand.intensity[DECODE, opaque] = self._opaque[opaque]
            demand.bandwidth[DECODE, opaque] = OPAQUE_BANDWIDTH
        demand.intensity *= self.up
        demand.bandwidth *= self.up
        return demand

    def _advance(
        self,
        at_s: float,
        dt_s: float,
        prefill_s: FloatArray,
        rate: FloatArray,
        tokens: FloatArray,
    ) -> None:
        """Move both counters on and handle the requests whose mark they pass.

        `rate` is the speed of the prefill counter while there are prompts: they go first, so it
        reaches a mark before the step is over.
        """
        table = self.requests
        before_s = table.prefilled_s.copy()
        table.advance(prefill_s, tokens)
        done = table.passed()
        if len(done) == 0:
            return
        decoded = table.decoding[done]
        first, last = done[~decoded], done[decoded]
        if len(first):
            node = table.node[first]
            reached_s = (table.mark[first] - before_s[node]) / np.maximum(rate[node], 1e-9)
            self._first_tokens(first, node, at_s, np.clip(reached_s, 0.0, dt_s), dt_s, tokens)
        if len(last):
            self._last_tokens(last, at_s, dt_s, tokens)

    def _first_tokens(
        self,
        rows: IntArray,
        node: IntArray,
        at_s: float,
        reached_s: FloatArray,
        dt_s: float,
        tokens: FloatArray,
    ) -> None:
        """Prompts are done `reached_s` into the step: the first token is out, decode begins."""
        table = self.requests
        # A request that came during this step cannot have been served before it came.
        own_s = table.work_s[rows] / self._prefill_rate[node]
        when = np.maximum(at_s + reached_s, table.at_s[rows] + own_s)
        begin = table.decoded[node] - tokens[node] * (1.0 - reached_s / dt_s)
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
