"""The agent's numbers in Prometheus' text format, and the small server that shows them.

Base units, as Prometheus wants: this is the one place in the agent where MHz become hertz. It
listens on loopback only, answers `GET /metrics`, and decodes telemetry only when it is asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from daemon.bus import Bus
from facility.wire import GpuReading, NodeTelemetry

LOG = logging.getLogger(__name__)

HOST: Final = "127.0.0.1"
REQUEST_TIMEOUT_S: Final = 2.0
REQUEST_BYTES_MAX: Final = 8_192
CONNECTIONS_MAX: Final = 8
HERTZ_PER_MHZ: Final = 1_000_000

Sample = tuple[Mapping[str, str], float | None]
"""Labels and value; a None is left out: a missing reading is not a zero."""

_GPU: Final[tuple[tuple[str, str, str, Callable[[GpuReading], float | None]], ...]] = (
    ("power_watts", "gauge", "Mean power over the last frame.", lambda gpu: gpu.power_w),
    ("power_max_watts", "gauge", "Largest sample of the last frame.", lambda gpu: gpu.power_w_max),
    ("power_limit_watts", "gauge", "Enforced power limit.", lambda gpu: gpu.power_limit_w),
    ("energy_joules_total", "counter", "Energy since driver load.", lambda gpu: gpu.energy_j),
    (
        "sm_clock_hertz",
        "gauge",
        "SM clock.",
        lambda gpu: gpu.sm_clock_mhz * HERTZ_PER_MHZ,
    ),
    (
        "clock_limit_hertz",
        "gauge",
        "Ceiling that the agent asked for, 0 for none.",
        lambda gpu: gpu.ceiling_mhz * HERTZ_PER_MHZ,
    ),
    ("temperature_celsius", "gauge", "Core temperature.", lambda gpu: gpu.temperature_c),
    ("thermal_margin_celsius", "gauge", "Distance to slowdown.", lambda gpu: gpu.margin_c),
    (
        "memory_temperature_celsius",
        "gauge",
        "Memory temperature.",
        lambda gpu: gpu.memory_temperature_c,
    ),
    (
        "power_throttle_seconds_total",
        "counter",
        "Time held down by the power limit.",
        lambda gpu: gpu.power_throttle_s,
    ),
    (
        "thermal_throttle_seconds_total",
        "counter",
        "Time held down by temperature.",
        lambda gpu: gpu.thermal_throttle_s,
    ),
    (
        "brake_seconds_total",
        "counter",
        "Time held down by the power brake.",
        lambda gpu: gpu.brake_s,
    ),
)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> list[str]:
    """Return the lines of one metric, none when it has no value at all."""
    lines = []
    for labels, value in samples:
        if value is None:
            continue
        inner = ",".join(f'{key}="{_escaped(labels[key])}"' for key in labels)
        lines.append(f"{name}{{{inner}}} {value:.12g}" if inner else f"{name} {value:.12g}")
    if not lines:
        return []
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *lines]


def bus_lines(bus: Bus) -> list[str]:
    """Return the metrics of a bus."""
    counters = bus.counters
    dropped = {
        "sample": counters.dropped_samples,
        "command": counters.dropped_commands,
        "state": counters.dropped_states,
        "expired": counters.expired,
    }
    totals = (
        ("published", "Messages sent to the broker.", counters.published),
        ("received", "Messages received from the broker.", counters.received),
        ("reconnects", "Connections after the first.", counters.reconnects),
        ("connect_failures", "Attempts to connect that failed.", counters.failed_attempts),
        ("subscriptions_refused", "Subscriptions that the broker denied.", counters.refused),
        ("oversized", "Incoming messages above the size limit.", counters.oversized),
    )
    prefix = "ampacity_agent_bus"
    lines = family(f"{prefix}_connected", "gauge", "1 while connected.", [({}, bus.connected)])
    for name, text, value in totals:
        lines += family(f"{prefix}_{name}_total", "counter", text, [({}, value)])
    return lines + family(
        f"{prefix}_dropped_total",
        "counter",
        "Messages given up unsent.",
        [({"kind": kind}, count) for kind, count in dropped.items()],
    )


def frame_lines(
    sent: Mapping[str, int], delivered: Mapping[str, int], dropped: Mapping[str, int]
) -> list[str]:
    """Return the frames that went from the actuator to the broker, and back, by kind."""
    text = "Frames between actuator and broker."
    samples: list[Sample] = [({"kind": kind, "to": "broker"}, sent[kind]) for kind in sorted(sent)]
    samples += [({"kind": kind, "to": "actuator"}, delivered[kind]) for kind in sorted(delivered)]
    lost: list[Sample] = [({"kind": kind}, dropped[kind]) for kind in sorted(dropped)]
    lines = family("ampacity_agent_frames_total", "counter", text, samples)
    text = "Frames for the actuator that a newer one replaced in a flood."
    return lines + family("ampacity_agent_frames_dropped_total", "counter", text, lost)


def refused_lines(refused: Mapping[str, int]) -> list[str]:
    """Return what the actuator did not believe or not obey, by reason."""
    text = "Leases and emergencies that the actuator refused."
    samples: list[Sample] = [({"reason": reason}, refused[reason]) for reason in sorted(refused)]
    return family("ampacity_agent_messages_refused_total", "counter", text, samples)


def telemetry_lines(telemetry: NodeTelemetry, *, age_s: float) -> list[str]:
    """Return the metrics of one frame of telemetry that came `age_s` ago."""
    node = {"node": telemetry.node}
    lines = family(
        "ampacity_telemetry_age_seconds", "gauge", "Age of the last frame.", [(node, age_s)]
    )
    lines += family(
        "ampacity_node_power_watts",
        "gauge",
        "Power of the node by its own meter.",
        [(node, telemetry.node_power_w)],
    )
    lines += family(
        "ampacity_node_inlet_temperature_celsius",
        "gauge",
        "Air at the inlet.",
        [(node, telemetry.inlet_temperature_c)],
    )
    for name, kind, text, value in _GPU:
        samples = [({**node, "uuid": gpu.uuid}, value(gpu)) for gpu in telemetry.gpus]
        lines += family(f"ampacity_gpu_{name}", kind, text, samples)
    return lines


class MetricsServer:
    """Answers `GET /metrics` on loopback; one request per connection."""

    def __init__(self, port: int, render: Callable[[], str]) -> None:
        """Remember the port and what makes the text; `start` listens."""
        self._port = port
        self._render = render
        self._server: asyncio.Server | None = None
        self._open_count = 0

    async def start(self) -> bool:
        """Listen; False, and an error in the log, when the port cannot be had.

        Metrics are no reason for an agent not to run.
        """
        try:
            self._server = await asyncio.start_server(
                self._answer, HOST, self._port, limit=REQUEST_BYTES_MAX
            )
        except OSError as error:
            LOG.error(
                "event=metrics-unavailable host=%s port=%d reason=%r", HOST, self._port, str(error)
            )
            return False
        LOG.info("event=metrics-listening host=%s port=%d", HOST, self._port)
        return True

    async def stop(self) -> None:
        """Stop listening; does nothing when it never did."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open_count += 1
        try:
            if self._open_count <= CONNECTIONS_MAX:
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._response(head))
                    await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            LOG.debug("event=metrics-bad-request")
        finally:
            self._open_count -= 1
            writer.close()

    def _response(self, head: bytes) -> bytes:
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if words[:2] == [b"GET", b"/metrics"]:
            return _http("200 OK", "text/plain; version=0.0.4; charset=utf-8", self._render())
        return _http("404 Not Found", "text/plain; charset=utf-8", "only GET /metrics is here\n")


def _http(status: str, content_type: str, text: str) -> bytes:
    body = text.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
