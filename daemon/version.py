"""Which Ampacity this is, from the installed distribution."""

from __future__ import annotations

import importlib.metadata

DISTRIBUTION = "ampacity"


def _version() -> str:
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "0+uninstalled"


VERSION = _version()
