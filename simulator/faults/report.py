"""Many seeds as one report: counts, what never happened, and a command for every failure.

Seeds inside the assumptions and seeds outside are counted apart, by what truly coincided.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from simulator.faults.assumptions import ASSUMPTIONS
from simulator.faults.document import FaultsCheck, FaultsScenario
from simulator.faults.kinds import KINDS
from simulator.faults.run import SeedResult

FAILURES_MAX: Final = 50
STATES: Final = (
    "state:broker-lost-in-contingency",
    "state:broker-lost-with-feed",
    "state:controller-lost-in-contingency",
    "state:crash-under-lease",
    "state:fault-in-contingency",
    "state:node-added",
    "state:node-loose",
    "state:spike-in-contingency",
    "state:spike-without-controller",
    "state:takeover",
    "state:leader-hangs-in-partition",
)
"""What must have happened in some seed, or the machine has not tried it."""
CONTINGENCIES: Final = (
    "contingency:ups-lost",
    "contingency:air-handler-lost",
    "contingency:flow-lost",
)

Metric = int | float | str | list[str] | dict[str, int] | list[dict[str, object]]


class Report:
    """Adds up results as they come; the order of the seeds changes nothing."""

    def __init__(self, scenario: FaultsScenario) -> None:
        self._scenario = scenario
        self._results: dict[int, SeedResult] = {}

    def add(self, result: SeedResult) -> None:
        """One more seed."""
        self._results[result.seed] = result

    @property
    def sim_seconds(self) -> float:
        """Virtual time of all seeds."""
        return round(sum(item.sim_seconds for item in self._results.values()), 3)

    def _sorted(self) -> list[SeedResult]:
        return [self._results[seed] for seed in sorted(self._results)]

    def metrics(self) -> dict[str, Metric]:
        """Everything, with figures inside the assumptions first."""
        results = self._sorted()
        inside = [item for item in results if not item.outside]
        outside = [item for item in results if item.outside]
        happened = Counter[str]()
        for item in results:
            happened.update(item.counts)
        expected = [*KINDS, *CONTINGENCIES, *STATES]
        return {
            "seeds": len(results),
            "inside_seeds": len(inside),
            "trips": sum(len(item.trips) for item in inside),
            "thermal_shutdowns": sum(len(item.thermal_shutdowns) for item in inside),
            "lost_audit_records": sum(len(item.lost_audit_records) for item in inside),
            "liveness_failures": sum(bool(item.liveness_failures) for item in inside),
            "unleased_ceilings": sum(len(item.unleased_ceilings) for item in inside),
            "unramped_rises": sum(len(item.unramped_rises) for item in inside),
            "unheeded_emergencies": sum(len(item.unheeded_emergencies) for item in inside),
            "failed_cycles": sum(item.failed_cycles for item in results),
            "seeds_tripped": sum(bool(item.trips) for item in inside),
            "inside_ratio": round(len(inside) / max(len(results), 1), 4),
            "load_ratio_max": round(max((i.load_ratio_max for i in inside), default=0.0), 4),
            "outside_seeds": len(outside),
            "outside_trips": sum(bool(item.trips) for item in outside),
            "outside_trip_ratio": round(
                sum(bool(item.trips) for item in outside) / max(len(outside), 1), 4
            ),
            "outside_thermal_shutdowns": sum(bool(i.thermal_shutdowns) for i in outside),
            "outside_by_assumption": dict(
                Counter(name for item in outside for name in item.outside).most_common()
            ),
            "outside_undetected": sum(len(item.late_alarms) for item in outside),
            "outside_undetected_by_assumption": dict(
                Counter(name for item in outside for name in item.late_alarms).most_common()
            ),
            "outside_untellable": sum(len(item.untellable) for item in outside),
            "sim_hours": round(self.sim_seconds / 3_600.0, 3),
            "faults_injected": sum(n for name, n in happened.items() if name in KINDS),
            "happened": dict(sorted(happened.items())),
            "never_happened": [name for name in expected if not happened[name]],
            "assumptions": [f"{item.name}: {item.sentence}" for item in ASSUMPTIONS],
            "digest": digest_of(results),
            "failures": self.failures(),
        }

    def failed_seeds(self) -> list[int]:
        """Seeds that failed inside the assumptions, in order."""
        return [item.seed for item in self._sorted() if item.failed]

    def failures(self) -> list[dict[str, object]]:
        """The first failures inside the assumptions, each with the command that replays it."""
        bad = [item for item in self._sorted() if item.failed]
        return [
            {
                "seed": item.seed,
                "problems": item.problems[:8],
                "replay": replay(item.seed, self._scenario),
            }
            for item in bad[:FAILURES_MAX]
        ]


def digest_of(results: Iterable[SeedResult]) -> str:
    """One word for all runs: equal words, equal runs."""
    total = 0
    for item in results:
        total = (total * 1_000_003 + int(item.digest or "0", 16)) % 2**64
    return f"{total:016x}"


def replay(seed: int, scenario: FaultsScenario) -> str:
    """The command that runs one seed again."""
    plain = FaultsScenario(version=1, kind="faults", scenario=scenario.scenario)
    words = [f"ampacity simulate {scenario.scenario} --seed {seed} --json"]
    keys = ("calm_s", "storm_s", "heal_s", "nodes_max", "outside_ratio", "lease_factor")
    words += [
        f"--set {key}={getattr(scenario, key)}"
        for key in keys
        if getattr(scenario, key) != getattr(plain, key)
    ]
    if not scenario.ledger:
        words.append("--set ledger=off")
    return " ".join(words)


def judge_faults(
    checks: Iterable[FaultsCheck], metrics: dict[str, Metric]
) -> list[dict[str, object]]:
    """Hold metrics against the checks of the document."""
    found: list[dict[str, object]] = []
    for check in checks:
        value = metrics.get(check.metric)
        number = float(value) if isinstance(value, int | float) else None
        passed = (
            number is not None
            and (check.min is None or number >= check.min)
            and (check.max is None or number <= check.max)
        )
        found.append(
            {
                "name": check.name,
                "value": number,
                "band": (check.min, check.max),
                "pass": passed,
            }
        )
    return found
