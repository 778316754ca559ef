"""The promise, against anything: no ceiling above the safe one without a lease."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from facility.ports import GpuDenied, GpuLost
from facility.wire import Emergency, Lease
from tests.node_fakes import (
    BRAKE_MHZ,
    SAFE_MHZ,
    Bench,
    emergency,
    lease,
    leased,
)


@dataclass(frozen=True)
class Offer:
    """A lease relative to where the story is: mostly sound, sometimes wrong in one way."""

    ceiling_mhz: int
    frames_ago: int
    sequence_step: int
    epoch: int
    session: str
    lease_s: float
    gpus: tuple[str, ...]
    table_mhz: dict[str, int]

    def to_lease(self, seq: int, sequence: int) -> Lease:
        return lease(
            self.ceiling_mhz,
            basis_seq=max(seq - self.frames_ago, 0),
            sequence=max(sequence + self.sequence_step, 0),
            epoch=self.epoch,
            session=self.session,
            lease_s=self.lease_s,
            gpus=self.gpus,
            contingency_ceilings_mhz=self.table_mhz,
        )


both = ("GPU-0", "GPU-1")
offers = st.builds(
    Offer,
    st.sampled_from([1800, 1800, 1980, 1500, 900, 0]),
    st.sampled_from([0, 0, 0, 1, 2, 5, -1]),
    st.sampled_from([1, 1, 1, 2, 0, -1]),
    st.sampled_from([1, 1, 1, 2, 0]),
    st.sampled_from(["s1"] * 5 + ["s0"]),
    st.sampled_from([4.0, 4.0, 2.0, 0.5]),
    st.sampled_from([both, both, both, ("GPU-0",), ("GPU-0", "GPU-9")]),
    st.dictionaries(st.sampled_from(["a", "b", "brake"]), st.sampled_from([600, 900, 1900])),
)
emergencies = st.builds(
    emergency,
    st.booleans(),
    contingency=st.sampled_from(["a", "b", "brake", "c"]),
    domain=st.sampled_from(["ups-a", "r1", "ups-b"]),
    epoch=st.integers(0, 3),
    sequence=st.integers(0, 6),
)
faults = st.sampled_from(["away", "back", "deny", "allow", "lose", "find", "hot", "cool", "brake"])
moments = st.lists(
    st.tuples(
        st.sampled_from([0.1, 0.3, 1.0, 1.2, 2.5]),
        st.lists(offers, max_size=1),
        st.sampled_from([0, 0, 0, 0, 1]).flatmap(
            lambda count: st.lists(emergencies, min_size=count, max_size=count)
        ),
        st.sampled_from([None, None, None, None, True]).flatmap(
            lambda any_fault: faults if any_fault else st.none()
        ),
    ),
    min_size=5,
    max_size=25,
)


def befall(bench: Bench, fault: str | None) -> None:
    """Let something happen to the hardware."""
    gpu = bench.host.gpus[0]
    if fault == "away":
        bench.host.go_away()
    elif fault == "back":
        bench.host.come_back()
    elif fault in ("deny", "allow"):
        gpu.write_error = GpuDenied("no") if fault == "deny" else None
    elif fault in ("lose", "find"):
        gpu.read_error = GpuLost("gone") if fault == "lose" else None
    elif fault in ("hot", "cool"):
        gpu.margin_c = 1.0 if fault == "hot" else 40.0
    elif fault == "brake":
        gpu.brake_s += 0.1


class Story:
    """A brain, what happens to it, and an account of what could be in force, kept apart from it.

    A lease of this session that answers a frame sent may hold for `lease_s` from that frame;
    everything else may not. Whether an older lease was replaced is left open, so that the account
    shares no logic with the brain: it may allow too much, never too little.
    """

    def __init__(self) -> None:
        self.bench = Bench()
        self.now_s = 0.0
        self.granted: list[tuple[Lease, float]] = []
        self.sequence = 0
        self.bench.step(0.0)

    def goes_on(
        self, wait_s: float, offered: list[Offer], alarms: list[Emergency], fault: str | None
    ) -> None:
        self.now_s += wait_s
        befall(self.bench, fault)
        sampled_s = {frame.seq: frame.sampled_at_s for frame in self.bench.frames}
        messages = [offer.to_lease(len(sampled_s), self.sequence) for offer in offered]
        for message in messages:
            self.sequence = max(self.sequence, message.sequence)
            if message.session == "s1" and message.basis_seq in sampled_s:
                self.granted.append((message, sampled_s[message.basis_seq]))
        self.bench.step(self.now_s, leases=messages, emergencies=alarms)

    def allowed_mhz(self, uuid: str) -> int:
        held = [
            granted.ceilings_mhz.get(uuid, SAFE_MHZ)
            for granted, sampled_s in self.granted
            if self.now_s < sampled_s + granted.lease_s
        ]
        return max(SAFE_MHZ, *held, SAFE_MHZ)


@given(moments)
def test_no_ceiling_above_the_safe_one_is_asked_for_or_held_without_a_lease(
    moments: list[tuple[float, list[Offer], list[Emergency], str | None]],
) -> None:
    story = Story()
    bench = story.bench
    for moment in moments:
        count = len(bench.requests)
        story.goes_on(*moment)
        for _, write in bench.requests[count:]:
            assert 0 < write.ceiling_mhz <= story.allowed_mhz(write.uuid)
        for gpu in bench.host.gpus:
            if bench.brain.view.writable and gpu.read_error is None:
                held_mhz = bench.brain.ceilings_mhz[gpu.uuid]
                assert held_mhz <= story.allowed_mhz(gpu.uuid)
                if "brake" in bench.brain.contingencies.active:
                    assert held_mhz <= BRAKE_MHZ
    assert all(0 not in gpu.locks_mhz for gpu in bench.host.gpus)


@given(moments)
def test_whatever_happened_silence_ends_at_or_below_the_safe_ceiling(
    moments: list[tuple[float, list[Offer], list[Emergency], str | None]],
) -> None:
    story = Story()
    for moment in moments:
        story.goes_on(*moment)
    story.bench.host.come_back()
    story.bench.run(story.now_s + 0.1, story.now_s + 40.0, 0.25)
    assert all(0 < ceiling_mhz <= SAFE_MHZ for ceiling_mhz in story.bench.ceilings())


def test_a_lease_that_knows_a_contingency_holds_under_it_and_its_table_without_a_lease() -> None:
    """What was decided under a failure is the lease's; without one the worst case must fit."""
    bench = leased()
    bench.step(1.5, leases=[replace(lease(1500, sequence=2), active=("ups-a-lost",))])
    bench.step(2.0, emergencies=[emergency()])
    assert bench.ceilings() == [1500, 1500]
    assert bench.applied[-1].reason == "contingency:ups-a-lost"
    bench.run(2.1, 8.0)
    assert bench.brain.lease is None
    assert bench.ceilings() == [900, 900]


def test_a_lease_that_does_not_know_a_contingency_is_capped_by_it() -> None:
    bench = leased()
    bench.step(1.5, leases=[replace(lease(1500, sequence=2), active=("other",))])
    bench.step(2.0, emergencies=[emergency()])
    assert bench.ceilings() == [900, 900]
