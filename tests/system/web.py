"""One HTTP GET, for tests that want the status as well as the body."""

from __future__ import annotations

import httpx


def get(url: str) -> tuple[int, bytes]:
    """Status and body; status 0 while nobody answers."""
    try:
        answer = httpx.get(url, timeout=5.0)
    except httpx.TransportError:
        return 0, b""
    return answer.status_code, answer.content
