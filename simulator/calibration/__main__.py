"""`python -m simulator.calibration`: fits, writes the constants and the table of errors.

Exit status: 0 if all is well, 1 if an error passes its bound or, with `--check`, if the shipped
constants are not what the fit yields, 69 if the measurements cannot be read.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Final

import msgspec

from simulator.calibrated import FILE_NAME, Calibrated, decode_calibrated
from simulator.calibration.files import DataError
from simulator.calibration.fit import fit
from simulator.calibration.report import placed, table

HERE: Final = Path(__file__).resolve().parent
SHIPPED: Final = HERE.parent / FILE_NAME
DOCUMENT: Final = HERE.parents[1] / "docs" / "calibration.md"
OK, FAILED, UNAVAILABLE = 0, 1, 69
SAME: Final = 2e-4
"""Relative difference of two figures that are the same but for rounding on another machine."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _options(arguments)
    try:
        found = fit(options.data)
        text = encoded(found.constants)
        if options.check:
            for line in differences(options.constants, text):
                sys.stderr.write(f"event=calibration_differs at={line}\n")
                return FAILED
        else:
            options.constants.write_bytes(text)
        # The twin reads the constants when it is imported: only now are they there.
        from simulator.calibration.twin import twin_rows

        rows = (*found.rows, *twin_rows(options.data))
    except DataError as error:
        sys.stderr.write(f"event=calibration_without_data cause={error}\n")
        return UNAVAILABLE
    sys.stdout.write(table(rows))
    if not options.check and options.document.exists():
        document = options.document.read_text(encoding="utf-8")
        options.document.write_text(placed(document, rows), encoding="utf-8")
    missed = [row.quantity for row in rows if not row.holds]
    for quantity in missed:
        sys.stderr.write(f"event=calibration_bound_missed quantity={quantity!r}\n")
    return FAILED if missed else OK


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m simulator.calibration",
        description="Fit the twin's constants to measurements, and say how well they hold.",
    )
    parser.add_argument(
        "--data", type=Path, default=HERE / "data", metavar="DIR", help="where measurements lie"
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if what is shipped differs"
    )
    parser.add_argument(
        "--constants", type=Path, default=SHIPPED, metavar="FILE", help="the file of constants"
    )
    parser.add_argument(
        "--document", type=Path, default=DOCUMENT, metavar="FILE",
        help="where the table of errors goes, between its markers",
    )  # fmt: skip
    return parser.parse_args(arguments)


def encoded(constants: Calibrated) -> bytes:
    """The text of the file: one figure a line, keys in a fixed order."""
    return msgspec.json.format(msgspec.json.encode(constants), indent=1) + b"\n"


def differences(shipped: Path, text: bytes) -> list[str]:
    """Where the shipped file differs from a fit's text; nothing if only by rounding."""
    try:
        old = decode_calibrated(shipped.read_bytes(), str(shipped))
    except (OSError, ValueError) as error:
        return [f"{shipped}: {error}"]
    new = decode_calibrated(text)
    return _differ("", msgspec.to_builtins(old), msgspec.to_builtins(new))


def _differ(where: str, old: object, new: object) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        odd = [f"{where}.{key}" for key in sorted(old.keys() ^ new.keys())]
        both = sorted(old.keys() & new.keys())
        return odd + [
            line for key in both for line in _differ(f"{where}.{key}", old[key], new[key])
        ]
    if isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for place, (a, b) in pairs for line in _differ(f"{where}[{place}]", a, b)]
    if isinstance(old, float) and isinstance(new, float):
        return [] if math.isclose(old, new, rel_tol=SAME) else [f"{where}: {old:g} is now {new:g}"]
    return [] if old == new else [f"{where}: {old!r} is now {new!r}"]


if __name__ == "__main__":
    sys.exit(main())
