"""Serving in the twin: one engine per node with continuous batching, request by request.

An engine works off prompts chunk by chunk beside its batch (prefill), higher priorities first and
within one first in, first out; all requests of its batch gain tokens together (decode). Both are
counters per engine, so that a request is only two marks: the prefill work and the tokens at which
it is done. Nothing is done per token, and nothing per request but when it comes and when a phase of
it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from facility.topology import Site
from simulator.bank import DECODE, PREFILL, Demand
from simulator.dispatch import Dispatcher, Packing
from simulator.engine import DecodeStep, Engine
from simulator.gpu import GpuConstants
from simulator.latency import E2E, TPOT, TTFT, LatencyBook
from simulator.loads.trace import Arrivals
from simulator.prompts import Prompt, PromptQueues
from simulator.requests import RequestTable

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


REFERENCE_FLOP_PER_S: Final = 8 * 989e12
"""Prefill work is counted in seconds of a node with this peak."""

OPAQUE_BANDWIDTH: Final = 0.2
GAPS_EVERY_S: Final = 0.7
"""Times between tokens are noted so often: no whole part of what repeats by the second."""
WORK_TOKENS: Final = 16_384
"""Prompts shorter than this have their prefill time in a table."""
NOBODY: Final = np.empty(0, np.int64)


class Engines:
    """The engines of all nodes; arrays of shape (nodes,) unless said otherwise.

    `clock_mhz` of `step` is of shape (2, nodes): the slowest GPU's, in prefill and in decode.
    `batch_of` is of shape (priorities, nodes), `batch` its sum.
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
        packing: Packing | None = None,
    ) -> None:
        """Idle engines; `parts` are the parts of each node, in order of the site."""
        nodes = tuple(site.nodes.values())
        gpus = np.array([node.model.gpu_count for node in nodes])
        self.engine = engine
        self.dispatcher = Dispatcher(site, priorities, packing=packing)
        self._book = book
        self._count = len(nodes)
        self._ranks = len(priorities)
        self._high_mhz = np.array([float(part.clock_mhz_max) for part in parts])
        peak = gpus * np.array([part.peak_flop_per_s for part in parts])
        self._prefill_rate = peak / REFERENCE_FLOP_PER_S
        self._byte_per_s = gpus * np.array([part.memory_byte_per_s for part in parts])
        self._opaque = np.array([node.service is None for node in nodes]) * opaque_intensity
        self._has_opaque = bool((self._opaque > 0.0).any())
        self._chunk_max_s = float(
            engine.prefill_s(np.array([engine.chunk_tokens]), REFERENCE_FLOP_PER_S)[0]
        )
        self._tokens_per_s = engine.chunk_tokens / self._chunk_max_s
        # Prompts are whole tokens, and most are short: their work is looked up.
        lengths = np.maximum(np.arange(WORK_TOKENS, dtype=np.float64), 1.0)
        self._work_s = engine.prefill_s(lengths, REFERENCE_FLOP_PER_S)
        rank = {priority: place for place, priority in enumerate(priorities)}
        self._priority = np.array(
            [rank[priority] for priority in self.dispatcher.priorities], dtype=np.int64
        )
        self._set_up_queues()
        self.up = np.ones(self._count, dtype=np.bool_)
        self.arrived = np.zeros(self._ranks, dtype=np.int64)
        self.served = np.zeros(self._ranks, dtype=np.int64)
        self.lost = np.zeros(self._ranks, dtype=np.int64)
        self.preempted = np.zeros(self._ranks, dtype=np.int64)

    def _set_up_queues(self) -> None:
        """A queue for each priority, or one where every priority has engines of its own."""
        queues = 1 if all(self.dispatcher.has_own) else self._ranks
        self._queue_of = np.arange(self._ranks) if queues > 1 else np.zeros(self._ranks, np.int64)
        self.requests = RequestTable(self._count, queues)
        self._decode_place = queues * self._count
        self.prompts = PromptQueues(
            self.requests.prefilled_s, lower_share_min=self.engine.lower_share_min
        )
        self._came: list[list[Prompt]] = [[] for _ in range(queues)]
        self._gaps_in_s = 0.0
        self._chunk_s = np.zeros(self._count)
        self._key_tokens = np.zeros(self._count)
        self.batch_of = np.zeros((self._ranks, self._count))
        self.batch = np.zeros(self._count)
        self.load = np.zeros(self._count)
        self.busy = np.zeros(self._count)

    def admit(self, arrivals: Arrivals, rng: np.random.Generator) -> None:
        """Send arrivals to engines; what finds none with room is lost.

        A request that comes without a priority has its service's.
        """
        count = len(arrivals.at_s)
        if count == 0:
            return
        service, node = self.dispatcher.assign(
            count,
            load=self.load,
            load_max=self.engine.queue_max,
            rng=rng,
            priority=arrivals.priority,
        )
        rank = self._priority[service] if arrivals.priority is None else arrivals.priority
        self.arrived += np.bincount(rank, minlength=self._ranks)
        context, generated = arrivals.context_tokens, arrivals.generated_tokens * 1.0
        at_s = arrivals.at_s
        homeless = node < 0
        if np.count_nonzero(homeless):
            self.lost += np.bincount(rank[homeless], minlength=self._ranks)
            taken = np.flatnonzero(~homeless)
            node, rank, at_s = node[taken], rank[taken], at_s[taken]
            context, generated = context[taken], generated[taken]
        work_s = self._work_of(context)
        if self.dispatcher.is_reduced:
            # A lower quality is a smaller or terser model: less work for the prompt, fewer tokens.
            kept = self.engine.quality_work_ratio ** self.dispatcher.quality_level[node]
            generated, work_s = generated * kept, work_s * kept
        queue = self._queue_of[rank]
        rows = self.requests.add(
            node=node,
            where=queue * self._count + node,
            at_s=at_s,
            work_s=work_s,
            context=context,
            generated=np.maximum(np.rint(generated), 1.0).astype(np.int64),
            priority=rank,
        )
        columns = rows.tolist(), node.tolist(), at_s.tolist(), work_s.tolist()
        for place, prompt in zip(queue.tolist(), zip(*columns, strict=True), strict=True):
            self._came[place].append(prompt)
        self.load += np.bincount(node, minlength=self._count)

    def _work_of(self, tokens: IntArray) -> FloatArray:
        """Prefill time of prompts at full speed."""
        if tokens.max(initial=0) < WORK_TOKENS:
            return self._work_s.take(tokens)
        return self.engine.prefill_s(tokens.astype(np.float64), REFERENCE_FLOP_PER_S)

    def step(self, *, at_s: float, dt_s: float, clock_mhz: FloatArray) -> Demand:
        """Work for `dt_s` from `at_s`; returns what that asks of the GPUs."""
        table = self.requests
        ratio = clock_mhz / self._high_mhz
        speed = self._prefill_rate * self.engine.prefill_speed(ratio[PREFILL])
        # What waits before a full batch may as well wait at the router: it costs no power there.
        batch_max = np.ceil(self.engine.batch_max * self.dispatcher.batch_ratio)
        is_open = self.up & (self.batch < batch_max)
        full = None
        if len(self._came) > 1 and np.count_nonzero(is_open) < self._count:
            # Places that are made here are for those who wait for them, not for who left them.
            full = self.up & ~is_open
            self._preempt(full)
            is_open = self.up & (self.batch < batch_max)
        decoding = (self.batch > 0.0) & self.up
        key_tokens = self._key_tokens + self.batch * table.decoded
        decode = self.engine.decode_step(
            # An engine that is idle now decodes what it prefills in this step.
            batch=np.maximum(self.batch, 1.0),
            key_tokens=np.maximum(key_tokens, 0.0),
            clock_ratio=ratio[DECODE],
            byte_per_s=self._byte_per_s,
        )
        chunk_s = self._next_chunk()
        beside = self.engine.chunk_share(chunk_s=chunk_s, speed=speed, decode_s=decode.seconds)
        before_s = table.prefilled_s.copy()
        done_s = self.prompts.step(
            at_s=at_s,
            dt_s=dt_s,
            rate=speed * (1.0 - decoding * (1.0 - beside)) * is_open,
            prompts=self._came,
            marks_s=table.mark,
            closed=full,
        )
        for queue in self._came:
            queue.clear()
        share = done_s / (speed * dt_s)
        self.busy = np.maximum(share, decoding)
        # An idle engine's counter runs on: what it prefills in this step decodes in its rest.
        tokens = (1.0 - share * decoding) * self.up * dt_s / decode.seconds
        table.decoded += tokens
        self._gaps_in_s -= dt_s
        if self._gaps_in_s <= 0.0:
            self._note_gaps(chunk_s / speed, decode.seconds, done_s, tokens)
        demand = self._demand(share, chunk_s, decode, decoding)
        self._finish(at_s, dt_s, before_s, tokens)
        return demand

    def _next_chunk(self) -> FloatArray:
        """Prefill time of the chunk beside the next decode steps: all that waits, up to its limit.

        A chunk that the last step left unfinished stays as large as it was.
        """
        waiting_s = self.prompts.waiting_s().sum(axis=0)
        chunk_s = np.maximum(waiting_s, self._chunk_s * (waiting_s > 0.0))
        for queue in self._came:
            for _, node, _, work_s in queue:
                chunk_s[node] += work_s
        room = 1.0 - self.batch / self.engine.chunk_tokens
        self._chunk_s = np.minimum(chunk_s, self._chunk_max_s * np.maximum(room, 0.01))
        return self._chunk_s

    def _note_gaps(
        self, chunk_s: FloatArray, decode_s: FloatArray, done_s: FloatArray, tokens: FloatArray
    ) -> None:
        """Time between tokens: a decode step alone, or with a chunk of prompt beside it.

        One step now and then stands for those since the last: there are so many tokens.
        """
        self._gaps_in_s += GAPS_EVERY_S
        chunks = done_s / np.maximum(self._chunk_s, 1e-9)
        np.minimum(chunks, tokens, out=chunks)
        self._book.add_gaps(decode_s + chunk_s, self.batch_of * chunks)
        self._book.add_gaps(decode_s, self.batch_of * (tokens - chunks))

    def _demand(
        self, share: FloatArray, chunk_s: FloatArray, decode: DecodeStep, decoding: BoolArray
    ) -> Demand:
        """What both phases ask of the GPUs; nothing where the engine is down."""
        demand = Demand(np.empty((2, self._count)), np.empty((2, self._count)), share)
        demand.intensity[PREFILL] = self.engine.prefill_load(chunk_s * self._tokens_per_s)
        np.multiply(decode.intensity, decoding, out=demand.intensity[DECODE])
        demand.bandwidth[PREFILL] = self.engine.prefill_bandwidth
        np.multiply(decode.bandwidth, decoding, out=demand.bandwidth[DECODE])
        if self._has_opaque:
            opaque = self._opaque > 0.0
            demand.intensity[DECODE, opaque] = self._opaque[opaque]
            demand.bandwidth[DECODE, opaque] = OPAQUE_BANDWIDTH
        if np.count_nonzero(self.up) < self._count:
            demand.intensity *= self.up
            demand.bandwidth *= self.up
        return demand

    def _finish(self, at_s: float, dt_s: float, before_s: FloatArray, tokens: FloatArray) -> None:
        """Handle the requests whose mark a counter has passed."""
        table = self.requests
        passed = table.passed()
        if len(passed) == 0:
            return
        decoding = table.decoding[passed]
        first, last = passed[~decoding], passed[decoding]
        if len(first):
            where = table.where[first]
            work_s = table.mark[first] - before_s.take(where)
            reached_s = work_s / np.maximum(self.prompts.rate.take(where), 1e-9)
            part = np.minimum(np.maximum(reached_s * (1.0 / dt_s), 0.0), 1.0)
            self._first_tokens(first, at_s, dt_s, part, tokens)
            # Few tokens may be out before the step is over.
            early = table.mark[first] <= table.decoded[table.node[first]]
            if np.count_nonzero(early):
                last = np.concatenate((last, first[early]))
        if len(last):
            self._last_tokens(last, at_s, dt_s, tokens)
        self._seat(first, last)

    def _first_tokens(
        self, rows: IntArray, at_s: float, dt_s: float, part: FloatArray, tokens: FloatArray
    ) -> None:
        """Prompts are done at a `part` of the step: the first token is out, decode begins."""
        table = self.requests
        node, priority, came_s = table.node[rows], table.priority[rows], table.at_s[rows]
        when = np.maximum(at_s + dt_s * part, came_s)
        begin = table.decoded[node] - tokens[node] * (1.0 - part)
        done = table.done[rows]
        table.decoding[rows] = True
        table.where[rows] = node + self._decode_place
        table.begin[rows] = begin
        table.mark[rows] = begin + (table.generated[rows] - done - 1)
        if np.count_nonzero(done):
            fresh = done == 0
            rows, priority, when, came_s = rows[fresh], priority[fresh], when[fresh], came_s[fresh]
        table.first_s[rows] = when
        self._book.add(TTFT, priority, when - came_s)

    def _seat(self, came: IntArray, left: IntArray) -> None:
        """Sequences have come to their nodes' batches, and others have left them."""
        table = self.requests
        rows = np.concatenate((came, left))
        sign = np.ones(len(rows))
        sign[len(came) :] = -1.0
        node = table.node[rows]
        held = (table.context[rows] + table.done[rows] - table.begin[rows]) * sign
        self._key_tokens += np.bincount(node, held, minlength=self._count)
        place = table.priority[rows] * self._count + node
        seats = np.bincount(place, sign, minlength=self._ranks * self._count)
        self.batch_of += seats.reshape(self._ranks, self._count)
        self.batch = np.add.reduce(self.batch_of, axis=0)

    def _last_tokens(self, rows: IntArray, at_s: float, dt_s: float, tokens: FloatArray) -> None:
        """Requests are done."""
        table = self.requests
        node, priority = table.node[rows], table.priority[rows]
        late = (table.decoded[node] - table.mark[rows]) / np.maximum(tokens[node], 1e-12)
        when = at_s + dt_s * (1.0 - np.minimum(late, 1.0))
        after = table.generated[rows] - 1
        took = np.maximum(when - table.first_s[rows], 0.0)
        if np.count_nonzero(after) < len(after):
            several = after > 0
            self._book.add(TPOT, priority[several], took[several] / after[several])
        else:
            self._book.add(TPOT, priority, took / after)
        self._book.add(E2E, priority, when - table.at_s[rows])
        self.served += np.bincount(priority, minlength=self._ranks)
        self.load -= np.bincount(node, minlength=self._count)
        table.free(rows)

    def _preempt(self, full: BoolArray) -> None:
        """Higher prompts before a full batch take the places of its newest lower sequences."""
        waiting_s = self.prompts.waiting_s()
        for rank in range(self._ranks - 1):
            lower = self.batch_of[rank + 1 :].sum(axis=0) > 0.0
            for node in np.flatnonzero(full & lower & (waiting_s[rank] > 0.0)).tolist():
                self._make_room(node, rank)

    def _make_room(self, node: int, rank: int) -> None:
        """Preempt as many lower sequences of a node as prompts of this rank wait, and may be."""
        table = self.requests
        rows = table.in_use()
        rows = rows[table.node[rows] == node]
        seated, priority = table.decoding[rows], table.priority[rows]
        wanted = np.count_nonzero(~seated & (priority == rank))
        may_go = seated & (priority > rank)
        may_go &= table.preempted[rows] < self.engine.preemptions_max
        victims = rows[may_go]
        newest = np.lexsort((table.begin[victims], table.priority[victims]))[::-1]
        for row in victims[newest[:wanted]].tolist():
            self._send_back(row, node)

    def _send_back(self, row: int, node: int) -> None:
        """A sequence loses its keys: it is prefilled again, with what it had, before all others."""
        table = self.requests
        self._seat(NOBODY, np.array([row]))
        rank = int(table.priority[row])
        table.done[row] += 1 + int(table.decoded[node] - table.begin[row])
        table.preempted[row] += 1
        self.preempted[rank] += 1
        work_s = float(self._work_of(np.array([table.context[row] + table.done[row]]))[0])
        queue = int(self._queue_of[rank])
        mark = self.prompts.push_front(queue, node, work_s)
        table.wait_again(row, where=queue * self._count + node, mark=mark, work_s=work_s)

    def take_down(self, nodes: BoolArray) -> None:
        """Engines die: what they held is lost; the router sees it and sends nothing more."""
        table = self.requests
        self._came = [[prompt for prompt in came if not nodes[prompt[1]]] for came in self._came]
        rows = table.at_nodes(nodes)
        self.lost += np.bincount(table.priority[rows], minlength=self._ranks)
        table.free(rows)
        self.up &= ~nodes
        self.dispatcher.set_up(self.up)
        self.prompts.clear(nodes)
        self.batch_of[:, nodes] = 0.0
        self.batch[nodes] = self.load[nodes] = self._key_tokens[nodes] = 0.0

    def bring_up(self, nodes: BoolArray) -> None:
        """Engines are ready again, empty."""
        self.up |= nodes
        self.dispatcher.set_up(self.up)

    def forget_counts(self) -> None:
        """Count anew from here; requests that are already there have arrived here."""
        held = self.requests.priority[self.requests.in_use()]
        self.arrived = np.bincount(held, minlength=self._ranks)
        self.served[:] = 0
        self.lost[:] = 0
        self.preempted[:] = 0

    def queued(self) -> IntArray:
        """Requests whose prefill has not begun, per node."""
        rows = self.requests.waiting()
        counts: IntArray = np.bincount(self.requests.node[rows], minlength=self._count)
        return counts
