"""Which of several controllers may speak, through a consensus store that a site has already."""

from __future__ import annotations

from daemon.leadership.campaign import Campaign, open_store

__all__ = ["Campaign", "open_store"]
