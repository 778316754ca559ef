"""The vocabulary every other layer speaks: topology, readings, leases, decisions, ports, schemas.

Nothing here does I/O, keeps time or draws randomness, and nothing here imports another layer.
"""
