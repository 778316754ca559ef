"""The fluid level of the twin: rates instead of requests, for weeks of many rows at once."""
