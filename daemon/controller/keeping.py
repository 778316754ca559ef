"""Standing orders on disk: written when they have changed, told of when they cannot be.

It decides nothing; the file itself is `orders_file`'s.
"""

from __future__ import annotations

from collections.abc import Callable

from controllers.operator import OrdersState
from facility.wire import Event


def forget(_orders: OrdersState) -> str:
    """Keep nothing: a demo's orders end with it."""
    return ""


class OrdersKeeper:
    """What was last put on disk."""

    def __init__(
        self,
        orders: OrdersState,
        write: Callable[[OrdersState], str],
        tell: Callable[[Event], None],
    ) -> None:
        """Start with what is there; `write` returns what went wrong, empty for nothing."""
        self.orders = orders
        self._write = write
        self._tell = tell

    def keep(self, orders: OrdersState, wall_s: float) -> None:
        """Put the standing orders on disk when they have changed."""
        if orders == self.orders:
            return
        self.orders = orders
        problem = self._write(orders)
        if problem:
            self._tell(
                Event(
                    event="orders-not-kept",
                    severity="critical",
                    at_s=wall_s,
                    source="controller",
                    sentence=problem[:1024],
                )
            )
