"""Azure's conversation week of May 2024, digitised: its rates as an envelope."""

from __future__ import annotations

import csv
from datetime import datetime
from importlib import resources
from typing import Final

import numpy as np

from simulator.loads.envelope import WEEK_S, Envelope

FILE: Final = "arrivals_per_minute_conv_2024week.csv"


def week_rates() -> Envelope:
    """Requests per second from Sunday midnight UTC, one knot each 7.2 minutes."""
    text = resources.files("simulator").joinpath("data", "azure", FILE).read_text()
    rows = list(csv.DictReader(text.splitlines()))
    at = np.array([datetime.fromisoformat(row["time_utc"]).timestamp() for row in rows])
    per_minute = np.array([float(row["req_per_min_mid_normalised"]) for row in rows])
    midnight_s = at[0] - at[0] % 86_400.0
    return Envelope(at - midnight_s, per_minute / 60.0, WEEK_S)
