"""Loads of the twin: what is asked of it, request by request or as counts per node.

Recordings are read here, workloads are described and drawn here. Who serves a request, and what
that costs, is somebody else's.
"""

from simulator.loads.nodes import NodeDemand, NodeLoad

__all__ = ["NodeDemand", "NodeLoad"]
