"""What `ampacity check` says of a controller's file with a `leadership` section.

It needs the site's timings, so it reads the site file that the controller's file names; when that
cannot be read it says so instead. It asks no server.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from controllers.leadership import takeover, takeover_sentence
from daemon.config_file import STDIN, read_config
from facility.config import ControllerConfig
from facility.loader import ConfigError, load_site


def leadership_report(path: str, config: ControllerConfig) -> dict[str, Any]:
    """The keys that a controller's report gets; none when it leads alone."""
    if config.leadership is None:
        return {}
    beside = Path() if path == STDIN else Path(path).parent
    site_path = str(beside / config.site_file)
    try:
        control = load_site(read_config(site_path), site_path).control
    except ConfigError:
        said = f"whether a standby is in time is unknown: {site_path} does not load"
        return {"leadership": {"in_time": None, "sentence": said}}
    ttl_s = config.leadership.ttl_s
    found = takeover(control, ttl_s)
    return {
        "leadership": {
            **asdict(found),
            "in_time": found.in_time,
            "sentence": takeover_sentence(control, ttl_s),
        }
    }


def leadership_lines(report: dict[str, Any]) -> list[str]:
    """The same for people."""
    found = report.get("leadership")
    if found is None:
        return []
    return [f"{'' if found['in_time'] else 'WARNING: '}{found['sentence']}"]
