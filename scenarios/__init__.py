"""Experiments as YAML: what the simulator runs, and what a result must show. No code lives here."""
