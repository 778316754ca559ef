"""Decisions to the world: clocks and routers, each checked after it acts."""
