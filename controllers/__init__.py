"""Snapshot and forecasts to decisions, and the node's own brain. Pure: time is an argument."""
