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
    )
}  # fmt: skip
"""Curves by name. `ups-strict` is the default of a feed, `breaker-low-band` of everything else."""
