"""Exit codes of every command, by their sysexits names; `--help` and the service units say them."""

from __future__ import annotations

from typing import Final

EX_FAILED: Final = 1
"""The command ran and the answer is no: a check found problems."""
EX_USAGE: Final = 2
EX_UNAVAILABLE: Final = 69
"""Something that is needed is not there: the broker, a port."""
EX_SOFTWARE: Final = 70
"""A bug."""
EX_NOPERM: Final = 77
EX_CONFIG: Final = 78
"""Starting again would not help: the configuration or the state on disk is wrong."""
