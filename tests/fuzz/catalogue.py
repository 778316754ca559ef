"""The list of everything that is fuzzed."""

from __future__ import annotations

from tests.fuzz import edges, files, messages, recordings, signatures
from tests.fuzz.target import Kind


def catalogue() -> dict[str, Kind]:
    """Every kind of target by name. `weight` shares a family's count out among its kinds."""
    kinds = (
        Kind("wire", "message", "json", messages.WireTarget, messages.wire_seeds(), 4.0),
        Kind("inbox", "message", "json", messages.InboxTarget, messages.inbox_seeds(), 3.0),
        Kind(
            "actuator", "message", "json", messages.ActuatorTarget, messages.actuator_seeds(), 2.0
        ),
        Kind("pipe", "message", "bytes", messages.PipeTarget, messages.pipe_seeds(), 1.0),
        Kind(
            "signing", "message", "json", signatures.SigningTarget, signatures.signing_seeds(), 1.0
        ),
        Kind("config", "file", "text", files.ConfigTarget, files.config_seeds(), 7.0),
        Kind("reload", "file", "text", files.ReloadTarget, files.reload_seeds(), 1.0),
        Kind("state", "file", "json", files.StateTarget, files.state_seeds(), 1.0),
        Kind("trace", "file", "text", recordings.TraceTarget, recordings.trace_seeds(), 1.0),
        Kind("haproxy", "other", "text", edges.HaproxyTarget, edges.haproxy_seeds(), 2.0),
        Kind("nut", "other", "text", edges.NutTarget, edges.nut_seeds(), 2.0),
        Kind("lines", "other", "json", edges.LinesTarget, edges.lines_seeds(), 2.0),
        Kind("http", "other", "text", edges.HttpTarget, edges.http_seeds(), 1.0),
    )
    return {kind.name: kind for kind in kinds}
