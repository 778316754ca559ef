"""The load of the fluid level: counts and tokens per node and step, many steps at once.

Every node of a workload gets the same request rate, and each serves one priority. What is drawn
depends on seed, node and time only: not on how many nodes or steps are asked for together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.loads.envelope import FloatArray, Rate, Seed, generator
from simulator.loads.workload import TABLE, Workload

IntArray = NDArray[np.int64]

BLOCK_STEPS: Final = 1_000
"""Steps that are drawn together; an answer is put together from such blocks."""
EACH_MAX: Final = 8
"""Requests of a node in a step up to which each is drawn; of more, the sum is, by its moments."""
NODES_MAX: Final = 4_096
RATE_MAX_PER_S: Final = 10_000.0


@dataclass(frozen=True, slots=True)
class NodeDemand:
    """What arrives at each node in each step; arrays of shape (steps, nodes)."""

    arrivals: FloatArray
    prompt_tokens: FloatArray
    generated_tokens: FloatArray


class NodeLoad:
    """A workload on nodes, as counts. `scale` times its envelope is the rate of each node.

    A node draws from the lengths of its own priority. Bursts (`cv` above 1) hit all nodes together,
    as they do where a router spreads one stream. A row of fewer nodes takes the first columns.
    """

    def __init__(
        self, workload: Workload, *, priorities: Sequence[str], scale: float, seed: Seed
    ) -> None:
        """Tables and slow noise; `priorities` has one for each node.

        Raises:
            ValueError: too many nodes, a rate out of range, or a priority that the workload lacks.
        """
        peak = workload.envelope.peak_per_s * scale
        if not 0.0 < peak <= RATE_MAX_PER_S:
            raise ValueError(
                f"{peak:g} requests/s per node at peak; expected above 0, at most"
                f" {RATE_MAX_PER_S:g}"
            )
        if not 1 <= len(priorities) <= NODES_MAX:
            raise ValueError(f"{len(priorities)} nodes; expected from 1 to {NODES_MAX}")
        self._rate = Rate(workload.envelope, workload.noise, seed)
        self._scale, self._seed, self._cv = scale, seed, workload.cv
        self._count = len(priorities)
        known = {priority: place for place, priority in enumerate(dict.fromkeys(priorities))}
        self._table = np.array([known[priority] for priority in priorities])
        lengths = [workload.lengths(priority) for priority in known]
        self._prompt = np.concatenate([one.prompt_tokens for one in lengths])
        self._generated = np.concatenate([one.generated_tokens for one in lengths])
        self._moments = _Moments.of(self._prompt, self._generated)
        self._last: tuple[float, int, NodeDemand] | None = None

    def demand(self, begin_s: float, dt_s: float, steps: int) -> NodeDemand:
        """Arrivals of `steps` steps of `dt_s` from `begin_s`, which is a whole number of them.

        The answer may share memory with the next one: read it, do not write it.

        Raises:
            ValueError: a step that is not positive, none at all, or times off its grid.
        """
        if not dt_s > 0.0 or steps < 1:
            raise ValueError(f"{steps} steps of {dt_s:g} s; expected at least one above 0 s")
        first = round(begin_s / dt_s)
        if first < 0 or abs(first * dt_s - begin_s) > 1e-6 * dt_s:
            raise ValueError(f"begin_s is {begin_s:g}; expected a multiple of {dt_s:g} from 0")
        blocks = range(first // BLOCK_STEPS, (first + steps - 1) // BLOCK_STEPS + 1)
        parts = [self._block(dt_s, block) for block in blocks]
        low = first - blocks.start * BLOCK_STEPS
        return NodeDemand(
            *(
                (np.concatenate(arrays) if len(arrays) > 1 else arrays[0])[low : low + steps]
                for arrays in (
                    [part.arrivals for part in parts],
                    [part.prompt_tokens for part in parts],
                    [part.generated_tokens for part in parts],
                )
            )
        )

    def _block(self, dt_s: float, block: int) -> NodeDemand:
        if self._last is not None and self._last[:2] == (dt_s, block):
            return self._last[2]
        mean = self._mean(dt_s, block)
        # Node after node, each quantity from its own generator: more nodes change no earlier one.
        counts = generator(self._seed, 2, block).poisson(mean, (self._count, BLOCK_STEPS))
        prompt, generated = self._tokens(counts, block)
        made = NodeDemand(
            *(np.ascontiguousarray(part.T, np.float64) for part in (counts, prompt, generated))
        )
        self._last = dt_s, block, made
        return made

    def _mean(self, dt_s: float, block: int) -> FloatArray:
        """Expected requests of one node in each step, bursts included; shape (steps,)."""
        at_s = (np.arange(BLOCK_STEPS, dtype=np.float64) + (block * BLOCK_STEPS + 0.5)) * dt_s
        mean = self._rate.at(at_s) * (self._scale * dt_s)
        if self._cv > 1.0:
            total = mean * self._count
            mean = mean * burst(total, self._cv, generator(self._seed, 3, block))
        return mean

    def _tokens(self, counts: IntArray, block: int) -> tuple[IntArray, IntArray]:
        """Draw each request from the table of its node, or their sum; both (nodes, steps)."""
        many = counts > EACH_MAX
        few = np.where(many, 0, counts)
        drawn = generator(self._seed, 4, block).integers(0, TABLE, few.sum(), np.uint16)
        place = drawn + np.repeat(self._table * TABLE, few.sum(axis=1))
        ends = np.cumsum(few)
        prompt = _sums(self._prompt[place], ends).reshape(counts.shape)
        generated = _sums(self._generated[place], ends).reshape(counts.shape)
        if many.any():
            table = np.broadcast_to(self._table[:, None], counts.shape)[many]
            normal = generator(self._seed, 5, block).standard_normal((len(table), 2))
            prompt[many], generated[many] = self._moments.draw(counts[many], table, normal)
        return prompt, generated


@dataclass(frozen=True, slots=True)
class _Moments:
    """Of each table: means, variations, correlation and least lengths; shape (tables,)."""

    prompt_mean: FloatArray
    generated_mean: FloatArray
    prompt_cv: FloatArray
    generated_cv: FloatArray
    correlation: FloatArray
    prompt_min: IntArray
    generated_min: IntArray

    @classmethod
    def of(cls, prompt: IntArray, generated: IntArray) -> _Moments:
        """The moments of tables of `TABLE` pairs, one after the other."""
        prompts, answers = prompt.reshape(-1, TABLE), generated.reshape(-1, TABLE)
        means = prompts.mean(axis=1), answers.mean(axis=1)
        spreads = prompts.std(axis=1), answers.std(axis=1)
        both = (prompts * answers).mean(axis=1) - means[0] * means[1]
        return cls(
            *means,
            spreads[0] / means[0],
            spreads[1] / means[1],
            both / np.maximum(spreads[0] * spreads[1], 1e-9),
            prompts.min(axis=1),
            answers.min(axis=1),
        )

    def draw(
        self, counts: IntArray, table: IntArray, normal: FloatArray
    ) -> tuple[IntArray, IntArray]:
        """Sums over `counts` requests each, never below what so many must have."""
        shared = self.correlation[table]
        other = shared * normal[:, 0] + np.sqrt(1.0 - shared**2) * normal[:, 1]
        prompt = _gamma(
            counts * self.prompt_mean[table], self.prompt_cv[table], counts, normal[:, 0]
        )
        generated = _gamma(
            counts * self.generated_mean[table], self.generated_cv[table], counts, other
        )
        return (
            np.maximum(prompt, counts * self.prompt_min[table]),
            np.maximum(generated, counts * self.generated_min[table]),
        )


def _gamma(mean: FloatArray, cv: FloatArray, counts: IntArray, normal: FloatArray) -> IntArray:
    """Whole numbers with this mean and the spread of a sum of `counts` lengths, skewed as such.

    The cube of a normal is close to a gamma (Wilson and Hilferty 1931), and never as far below 0 as
    a normal would be.
    """
    spread = cv**2 / counts
    drawn = mean * (1.0 - spread / 9.0 + normal * np.sqrt(spread) / 3.0) ** 3
    return np.rint(drawn).astype(np.int64)


def burst(mean: FloatArray, cv: float, rng: np.random.Generator) -> FloatArray:
    """A multiplier per step that gives a Poisson count the spread of gamma inter-arrivals.

    The count of a renewal process with gamma gaps has, in a long step, the variance
    cv^2 mean + (1 - cv^4) / 6; what that is above Poisson's is laid into the rate.
    """
    spread = np.maximum(((cv**2 - 1.0) * mean + (1.0 - cv**4) / 6.0), 0.0)
    shape = np.square(mean) / np.maximum(spread, 1e-12)
    drawn: FloatArray = np.where(
        spread > 0.0, rng.standard_gamma(shape) / np.maximum(shape, 1e-12), 1.0
    )
    return drawn


def _sums(values: IntArray, ends: IntArray) -> IntArray:
    """Sums of consecutive stretches that end before `ends`; an empty stretch sums to 0."""
    before: IntArray = np.concatenate([[0], np.cumsum(values)])
    sums: IntArray = np.diff(before[ends], prepend=0)
    return sums
