"""The tables of the history file and every statement that touches them.

Roll-ups are keyed by time first: a commit then appends to one end of the table instead of touching
a page per domain and node (1,250 nodes: 0.1 MB a second instead of 5). Reading one name walks the
buckets of the interval and looks each up, so its cost does not grow with the number of nodes.
"""

from __future__ import annotations

from typing import Any, Final

from daemon.store.database import Schema
from daemon.store.rollups import MODES, DomainRollup, NodeRollup, Period
from facility.wire import Event

ROWS_MAX: Final = {
    "event": 20_000,
    "sentence": 20_000,
    "domain_rollup": 50_000,
    "node_rollup": 50_000,
    "raw": 4_096,
}
"""Rows that wait in memory while the file cannot be written: some 60 MB at most."""

_EVENT: Final = """CREATE TABLE event (
    id INTEGER PRIMARY KEY, at_s REAL NOT NULL, event TEXT NOT NULL, severity TEXT NOT NULL,
    source TEXT NOT NULL, subject TEXT NOT NULL, sentence TEXT NOT NULL, decision_id TEXT NOT NULL
) STRICT"""

_SENTENCE: Final = """CREATE TABLE sentence (
    id INTEGER PRIMARY KEY, subject TEXT NOT NULL, at_s REAL NOT NULL, kind TEXT NOT NULL,
    decision_id TEXT NOT NULL, mode TEXT NOT NULL, sentence TEXT NOT NULL
) STRICT"""

_DOMAIN_ROLLUP: Final = """CREATE TABLE domain_rollup (
    period_s INTEGER NOT NULL, at_s INTEGER NOT NULL, domain TEXT NOT NULL,
    power_w REAL NOT NULL, power_w_max REAL NOT NULL, forecast_w_max REAL NOT NULL,
    exposure_w_max REAL NOT NULL, capacity_w_min REAL NOT NULL, mode INTEGER NOT NULL,
    temperature_c_max REAL, nodes_missing_count_max INTEGER NOT NULL, cycles_count INTEGER NOT NULL,
    PRIMARY KEY (period_s, at_s, domain)
) STRICT, WITHOUT ROWID"""

_NODE_ROLLUP: Final = """CREATE TABLE node_rollup (
    period_s INTEGER NOT NULL, at_s INTEGER NOT NULL, node TEXT NOT NULL,
    power_w REAL NOT NULL, power_w_max REAL NOT NULL, meter_power_w REAL,
    temperature_c_max REAL, inlet_temperature_c_max REAL, ceiling_mhz_min INTEGER NOT NULL,
    gpus_missing_count_max INTEGER NOT NULL, frames_count INTEGER NOT NULL,
    metered_count INTEGER NOT NULL,
    PRIMARY KEY (period_s, at_s, node)
) STRICT, WITHOUT ROWID"""

_RAW: Final = """CREATE TABLE raw (
    id INTEGER PRIMARY KEY, gpu TEXT NOT NULL, minute_s INTEGER NOT NULL, part INTEGER NOT NULL,
    node TEXT NOT NULL, samples_count INTEGER NOT NULL, data BLOB NOT NULL,
    UNIQUE (gpu, minute_s, part)
) STRICT"""

HISTORY: Final = Schema(
    what="history",
    application_id=0x416D7048,  # "AmpH"
    version=1,
    statements=(
        _EVENT,
        "CREATE INDEX event_at ON event (at_s)",
        _SENTENCE,
        "CREATE INDEX sentence_subject ON sentence (subject, at_s)",
        "CREATE INDEX sentence_at ON sentence (at_s)",
        _DOMAIN_ROLLUP,
        _NODE_ROLLUP,
        _RAW,
        "CREATE INDEX raw_minute ON raw (minute_s)",
    ),
    synchronous="normal",
)

WRITES: Final = {
    "event": "INSERT INTO event (at_s, event, severity, source, subject, sentence, decision_id)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)",
    "sentence": "INSERT INTO sentence (subject, at_s, kind, decision_id, mode, sentence)"
    " VALUES (?, ?, ?, ?, ?, ?)",
    "domain_rollup": """
        INSERT INTO domain_rollup VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (period_s, at_s, domain) DO UPDATE SET
            power_w = (power_w * cycles_count + excluded.power_w * excluded.cycles_count)
                / (cycles_count + excluded.cycles_count),
            power_w_max = max(power_w_max, excluded.power_w_max),
            forecast_w_max = max(forecast_w_max, excluded.forecast_w_max),
            exposure_w_max = max(exposure_w_max, excluded.exposure_w_max),
            capacity_w_min = min(capacity_w_min, excluded.capacity_w_min),
            mode = max(mode, excluded.mode),
            temperature_c_max = max(
                coalesce(temperature_c_max, excluded.temperature_c_max),
                coalesce(excluded.temperature_c_max, temperature_c_max)),
            nodes_missing_count_max
                = max(nodes_missing_count_max, excluded.nodes_missing_count_max),
            cycles_count = cycles_count + excluded.cycles_count""",
    "node_rollup": """
        INSERT INTO node_rollup VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (period_s, at_s, node) DO UPDATE SET
            power_w = (power_w * frames_count + excluded.power_w * excluded.frames_count)
                / (frames_count + excluded.frames_count),
            power_w_max = max(power_w_max, excluded.power_w_max),
            meter_power_w = CASE
                WHEN metered_count = 0 THEN excluded.meter_power_w
                WHEN excluded.metered_count = 0 THEN meter_power_w
                ELSE (meter_power_w * metered_count
                    + excluded.meter_power_w * excluded.metered_count)
                    / (metered_count + excluded.metered_count) END,
            temperature_c_max = max(
                coalesce(temperature_c_max, excluded.temperature_c_max),
                coalesce(excluded.temperature_c_max, temperature_c_max)),
            inlet_temperature_c_max = max(
                coalesce(inlet_temperature_c_max, excluded.inlet_temperature_c_max),
                coalesce(excluded.inlet_temperature_c_max, inlet_temperature_c_max)),
            ceiling_mhz_min = min(ceiling_mhz_min, excluded.ceiling_mhz_min),
            gpus_missing_count_max = max(gpus_missing_count_max, excluded.gpus_missing_count_max),
            frames_count = frames_count + excluded.frames_count,
            metered_count = metered_count + excluded.metered_count""",
    "raw": """
        INSERT INTO raw (gpu, minute_s, part, node, samples_count, data) VALUES (?, ?, ?, ?, ?, ?)
        ON CONFLICT (gpu, minute_s, part) DO UPDATE SET
            samples_count = excluded.samples_count, data = excluded.data""",
}
"""One statement per kind of row, in the order in which they are written."""

RETENTION: Final = (
    (
        "DELETE FROM event WHERE id IN (SELECT id FROM event WHERE at_s < ? ORDER BY at_s LIMIT ?)",
        0,
    ),
    (
        "DELETE FROM sentence WHERE id IN"
        " (SELECT id FROM sentence WHERE at_s < ? ORDER BY at_s LIMIT ?)",
        0,
    ),
    (
        "DELETE FROM domain_rollup WHERE (period_s, at_s, domain) IN (SELECT period_s, at_s, domain"
        " FROM domain_rollup WHERE period_s = 60 AND at_s < ? ORDER BY at_s LIMIT ?)",
        0,
    ),
    (
        "DELETE FROM node_rollup WHERE (period_s, at_s, node) IN (SELECT period_s, at_s, node"
        " FROM node_rollup WHERE period_s = 60 AND at_s < ? ORDER BY at_s LIMIT ?)",
        0,
    ),
    (
        "DELETE FROM domain_rollup WHERE (period_s, at_s, domain) IN (SELECT period_s, at_s, domain"
        " FROM domain_rollup WHERE period_s = 1 AND at_s < ? ORDER BY at_s LIMIT ?)",
        1,
    ),
    (
        "DELETE FROM node_rollup WHERE (period_s, at_s, node) IN (SELECT period_s, at_s, node"
        " FROM node_rollup WHERE period_s = 1 AND at_s < ? ORDER BY at_s LIMIT ?)",
        1,
    ),
    (
        "DELETE FROM raw WHERE id IN"
        " (SELECT id FROM raw WHERE minute_s < ? ORDER BY minute_s LIMIT ?)",
        1,
    ),
)
"""Each statement, which takes cutoff and limit, and 1 for fine data: raw samples, 1 s roll-ups."""

READ_EVENTS: Final = """
    SELECT at_s, event, severity, source, subject, sentence, decision_id FROM event
    WHERE at_s BETWEEN :since_s AND :until_s
        AND :severity IN ('', severity) AND :event IN ('', event)
        AND :subject IN ('', subject) AND :source IN ('', source)
    ORDER BY at_s DESC, id DESC LIMIT :limit"""

READ_SENTENCES: Final = """
    SELECT kind, subject, at_s, decision_id, mode, sentence FROM sentence
    WHERE subject = :subject ORDER BY at_s DESC, id DESC LIMIT :limit"""

READ_RAW: Final = "SELECT data, samples_count FROM raw WHERE gpu = :gpu AND minute_s = :minute_s"

READ_DOMAIN_ROLLUPS: Final = """
    WITH RECURSIVE bucket (at_s) AS (
        SELECT :first UNION ALL SELECT at_s + :period_s FROM bucket WHERE at_s < :last)
    SELECT at_s, power_w, power_w_max, forecast_w_max, exposure_w_max, capacity_w_min, mode,
        temperature_c_max, nodes_missing_count_max, cycles_count
    FROM bucket CROSS JOIN domain_rollup USING (at_s) WHERE period_s = :period_s AND domain = :name
    ORDER BY at_s"""

READ_NODE_ROLLUPS: Final = """
    WITH RECURSIVE bucket (at_s) AS (
        SELECT :first UNION ALL SELECT at_s + :period_s FROM bucket WHERE at_s < :last)
    SELECT at_s, power_w, power_w_max, meter_power_w, temperature_c_max, inlet_temperature_c_max,
        ceiling_mhz_min, gpus_missing_count_max, frames_count, metered_count
    FROM bucket CROSS JOIN node_rollup USING (at_s) WHERE period_s = :period_s AND node = :name
    ORDER BY at_s"""


def event_row(event: Event) -> tuple[Any, ...]:
    """Parameters of the statement that writes an event."""
    return (
        event.at_s,
        event.event,
        event.severity,
        event.source,
        event.subject,
        event.sentence,
        event.decision_id,
    )


def domain_rollup_row(one: DomainRollup) -> tuple[Any, ...]:
    """Parameters of the statement that writes a domain's roll-up."""
    return (
        one.period_s,
        one.at_s,
        one.domain,
        one.power_w,
        one.power_w_max,
        one.forecast_w_max,
        one.exposure_w_max,
        one.capacity_w_min,
        MODES.index(one.mode),
        one.temperature_c_max,
        one.nodes_missing_count_max,
        one.cycles_count,
    )


def node_rollup_row(one: NodeRollup) -> tuple[Any, ...]:
    """Parameters of the statement that writes a node's roll-up."""
    return (
        one.period_s,
        one.at_s,
        one.node,
        one.power_w,
        one.power_w_max,
        one.meter_power_w,
        one.temperature_c_max,
        one.inlet_temperature_c_max,
        one.ceiling_mhz_min,
        one.gpus_missing_count_max,
        one.frames_count,
        one.metered_count,
    )


def domain_rollup(domain: str, period_s: Period, row: tuple[Any, ...]) -> DomainRollup:
    """A roll-up from a row of `READ_DOMAIN_ROLLUPS`."""
    at_s, power_w, power_w_max, forecast_w_max, exposure_w_max, capacity_w_min, mode, *rest = row
    temperature_c_max, nodes_missing_count_max, cycles_count = rest
    return DomainRollup(
        domain=domain,
        at_s=at_s,
        period_s=period_s,
        power_w=power_w,
        power_w_max=power_w_max,
        forecast_w_max=forecast_w_max,
        exposure_w_max=exposure_w_max,
        capacity_w_min=capacity_w_min,
        mode=MODES[mode],
        temperature_c_max=temperature_c_max,
        nodes_missing_count_max=nodes_missing_count_max,
        cycles_count=cycles_count,
    )


def node_rollup(node: str, period_s: Period, row: tuple[Any, ...]) -> NodeRollup:
    """A roll-up from a row of `READ_NODE_ROLLUPS`."""
    at_s, *values = row
    return NodeRollup(node, at_s, period_s, *values)
