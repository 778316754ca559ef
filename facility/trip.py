"""What a domain's protection tolerates: trip curves, and where their numbers come from.

A curve answers one question, how long a load is tolerated, and always errs towards sooner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class TripCurve:
    """Load ratios and the seconds that each is tolerated, from a standard or a maker's manual.

    `points` are (load ratio, seconds), ratios ascending and above 1, seconds not ascending. The
    ratio is over the capacity of the domain. A breaker's own curve is over its rating: entered
    unchanged for a derated domain it is the safe side.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    source: str

    def __post_init__(self) -> None:
        """Refuse a curve that could be read two ways."""
        if not self.points:
            raise ValueError(f"trip curve {self.name}: no points")
        last_ratio, last_s = 1.0, math.inf
        for ratio, seconds in self.points:
            if not (math.isfinite(ratio) and ratio > last_ratio):
                raise ValueError(
                    f"trip curve {self.name}: ratios must ascend from above 1, got {ratio}"
                )
            if not (math.isfinite(seconds) and 0.0 <= seconds <= last_s):
                raise ValueError(
                    f"trip curve {self.name}: seconds must be 0 or more and not ascend,"
                    f" got {seconds}"
                )
            last_ratio, last_s = ratio, seconds

    def patience_s(self, load_ratio: float) -> float:
        """How long `load_ratio` is tolerated, in seconds; infinite up to 1, 0 above the last point.

        Between points the next higher one counts: no interpolation can then be too generous.
        Not a number means no patience.
        """
        if load_ratio <= 1.0:
            return math.inf
        for ratio, seconds in self.points:
            if load_ratio <= ratio:
                return seconds
        return 0.0

    def load_ratio_for(self, patience_s: float) -> float:
        """The highest load ratio that is tolerated for `patience_s`; 1 when no overload is.

        The inverse of `patience_s`: up to the returned ratio the patience is at least as long.
        """
        tolerated = [ratio for ratio, seconds in self.points if seconds >= patience_s]
        return max(tolerated, default=1.0)


BUILT_IN: Final = {
    curve.name: curve
    for curve in (
        TripCurve(
            "ups-strict",
            ((1.10, 600.0), (1.30, 60.0), (1.50, 3.0)),
            "Huawei UPS2000-G user manual: 105-110 % 10 min, 110-130 % 1 min, 130-150 % 3 s",
        ),
        TripCurve(
            "ups-tolerant",
            ((1.10, 3600.0), (1.25, 600.0), (1.50, 60.0)),
            "Liebert APM user manual: 110 % 60 min, 125 % 10 min, 150 % 60 s, above 200 ms",
        ),
        TripCurve(
            "ups-aged-battery",
            ((1.33, 10.0),),
            "Flex, ISCA 2021 (from memory): 133 % for about 10 s at the end of battery life",
        ),
        TripCurve(
            "breaker-low-band",
            ((1.10, 107.0), (1.15, 58.0), (1.25, 30.0), (1.33, 21.0), (1.40, 16.0), (1.50, 12.0),
             (2.00, 5.0)),
            "thermal model, trip state 1.1236, time constant 120 s, from full load (assumption: "
            "lower edge of a moulded-case breaker's band)",
        ),
        TripCurve(
            "breaker-nominal",
            ((1.10, 1011.0), (1.15, 253.0), (1.25, 113.0), (1.33, 77.0), (1.40, 60.0),
             (1.50, 45.0), (2.00, 18.0)),
            "thermal model fitted to 10 % for 17 min and 40 % for 60 s (Facebook Dynamo, ISCA "
            "2016, from memory)",
        ),
        TripCurve(
            "breaker-iec60898",
            ((1.13, 3600.0), (1.25, 30.0), (1.33, 21.0), (1.40, 16.0), (1.50, 12.0), (2.00, 5.0)),
            "IEC 60898: must hold 1.13 for an hour; above that the standard only says when it must "
            "have tripped, so breaker-low-band",
        ),
        TripCurve(
            "breaker-ul489",
            ((1.10, 107.0), (1.15, 58.0), (1.25, 30.0), (1.33, 21.0), (1.40, 16.0), (1.50, 12.0),
             (2.00, 5.0)),
            "UL 489: must hold 1.00 and have tripped at 1.35 and 2.00; between it promises nothing,"
            " so breaker-low-band",
        ),
        TripCurve(
            "breaker-electronic-2s",
            ((1.25, 46.0), (1.50, 32.0), (2.00, 18.0), (3.00, 8.0), (6.00, 2.0)),
            "electronic trip unit, long-time I2t with its shortest delay, 2 s at 6 x the setting "
            "(from memory); the short-time and instantaneous settings must be above it",
        ),
        TripCurve(
            "switchboard-main",
            ((1.05, 120.0), (1.15, 60.0)),
            "main switchboard, 5 % for 2 min and 15 % for 60 s (Facebook Dynamo, ISCA 2016, from "
            "memory)",
        ),
        TripCurve(
            "ups-liebert-610",
            ((1.25, 600.0), (1.50, 30.0)),
            "Liebert 610 user manual: 125 % 10 min, 150 % 30 s",
        ),
        TripCurve(
            "ups-staco",
            ((1.10, 120.0), (1.25, 30.0)),
            "Staco user manual: 110 % 2 min, 125 % 30 s",
        ),
        TripCurve(
            "air-aisle",
            ((10.0, 40.0),),
            "a 700 W GPU without any air flow warms by 0.65 K/s: 40 s from 60 C to its slowdown "
            "threshold (derived from its heat capacities), however little cooling is left",
        ),
        TripCurve(
            "liquid-loop",
            ((10.0, 8.0),),
            "700 to 1200 W into 360 J/K without any flow: 8 to 14 s to the slowdown threshold "
            "(derived); the shorter",
        ),
    )
}  # fmt: skip
"""Curves by name. `ups-strict` is the default of a feed, `air-aisle` of a zone, `breaker-low-band`
of everything else."""
