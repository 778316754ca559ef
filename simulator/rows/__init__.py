"""Rows of servers under given ceilings, driven tick by tick: what both levels of the twin can be.

Whoever drives a row says per node and tick how fast it may run, and gets its power; what became of
the requests is asked at the end. A row decides nothing.
"""

from simulator.rows.request import ROW_DT_S, RequestRow
from simulator.rows.row import Row, Served, Times

__all__ = ["ROW_DT_S", "RequestRow", "Row", "Served", "Times"]
