"""Processes and wiring: agent, controller, bus, store, page and command line."""
