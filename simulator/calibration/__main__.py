"""`python -m simulator.calibration`: fits, writes the constants and the table of errors."""

from __future__ import annotations

from pathlib import Path

import msgspec

from simulator.calibration.fit import fit

if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    found = fit(here / "data")
    text = msgspec.json.format(msgspec.json.encode(found.constants), indent=1)
    (here.parent / "calibrated.json").write_bytes(text + b"\n")
    for row in found.rows:
        print(row)
