"""The MQTT bus of a process: a connection that comes back by itself and never blocks its user."""

from daemon.bus.client import SecretsError
from daemon.bus.connection import Bus
from daemon.bus.inbound import Handler
from daemon.bus.limits import BusLimits, BusUnavailable, LastWords
from daemon.bus.outbox import BusCounters

__all__ = [
    "Bus",
    "BusCounters",
    "BusLimits",
    "BusUnavailable",
    "Handler",
    "LastWords",
    "SecretsError",
]
