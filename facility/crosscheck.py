"""What one key of an agent's or a controller's file says about another.

The site file has `facility.compiler` for that. Nothing here looks at the machine: whether a file
exists or a port is free is found out by the service that needs it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from facility.config import (
    AgentConfig,
    BrokerConfig,
    ControllerConfig,
    LeadershipConfig,
    MeterConfig,
    OperatorConfig,
    StoreConfig,
    UpsConfig,
)
from facility.nut import is_nut_variable, nut_address
from facility.topology import Key, Problem

ROUTER_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]+")
"""A backend's or server's name that HAProxy knows and that cannot smuggle in a second command."""


def agent_problems(config: AgentConfig) -> tuple[Problem, ...]:
    """Everything that two keys of an agent's file contradict each other about."""
    problems = _secrets(config.broker, "broker")
    if config.brake_ceiling_mhz > config.safe_ceiling_mhz:
        text = f"must not be above safe_ceiling_mhz, {config.safe_ceiling_mhz}"
        problems.append(Problem(("brake_ceiling_mhz",), text))
    for section in ("domains", "contingencies"):
        problems += _twice(section, getattr(config, section))
    if "brake" in config.contingencies:
        place = config.contingencies.index("brake")
        text = "'brake' is always known; leave it out"
        problems.append(Problem(("contingencies", place), text))
    known = ("brake", *config.contingencies)
    for place, ups in enumerate(config.ups):
        if ups.contingency not in known:
            text = f"{ups.contingency!r} is none of this node's; expected {', '.join(known)}"
            problems.append(Problem(("ups", place, "contingency"), text))
    problems += _nut(config)
    if config.telemetry_s * config.sample_hz < 1.0:
        text = (
            f"{config.sample_hz:g} Hz gives no sample in telemetry_s, {config.telemetry_s:g} s;"
            f" expected at least {1.0 / config.telemetry_s:g}"
        )
        problems.append(Problem(("sample_hz",), text))
    return tuple(problems)


def controller_problems(config: ControllerConfig) -> tuple[Problem, ...]:
    """Everything that two keys of a controller's file contradict each other about."""
    problems = _secrets(config.broker, "broker") + _store(config.store) + _nut(config)
    if config.leadership is not None:
        problems += _leadership(config.leadership)
    if config.haproxy is not None:
        for service, backend in config.haproxy.backends.items():
            if not ROUTER_NAME.fullmatch(backend):
                text = f"{backend!r} is no HAProxy name; allowed are letters, digits and _ . : -"
                problems.append(Problem(("haproxy", "backends", service), text))
        for service in config.haproxy.requests_per_server_max:
            if service not in config.haproxy.backends:
                text = f"no backend serves {service!r}; name one in backends"
                key: Key = ("haproxy", "requests_per_server_max", service)
                problems.append(Problem(key, text))
    return tuple(problems)


def operator_problems(config: OperatorConfig) -> tuple[Problem, ...]:
    """Everything that two keys of an operator's file contradict each other about."""
    return tuple(_secrets(config.broker, "broker"))


def _twice(section: str, names: tuple[str, ...]) -> list[Problem]:
    return [
        Problem((section, place), f"{name!r} is there twice")
        for place, name in enumerate(names)
        if name in names[:place]
    ]


_SCHEMES: Final = {"nats": ("nats://", "tls://"), "etcd": ("http://", "https://")}


def _leadership(leadership: LeadershipConfig) -> list[Problem]:
    problems = _secrets(leadership, "leadership")
    allowed = _SCHEMES[leadership.kind]
    for place, server in enumerate(leadership.servers):
        if not server.startswith(allowed):
            text = f"{server!r} is no server of {leadership.kind}; expected {' or '.join(allowed)}"
            problems.append(Problem(("leadership", "servers", place), text))
    twice = _twice("servers", leadership.servers)
    return problems + [Problem(("leadership", *one.key), one.text) for one in twice]


def _secrets(section: BrokerConfig | LeadershipConfig, name: str) -> list[Problem]:
    problems = []
    pairs = (
        ("password_file", "username"),
        ("certificate_file", "key_file"),
        ("key_file", "certificate_file"),
        ("certificate_file", "ca_file"),
    )
    for given, needed in pairs:
        if getattr(section, given) is not None and getattr(section, needed) is None:
            key: Key = (name, given)
            problems.append(Problem(key, f"is of no use without {needed}; expected both"))
    return problems


def _nut(config: AgentConfig | ControllerConfig) -> list[Problem]:
    meters = config.meters if isinstance(config, ControllerConfig) else ()
    sections: dict[str, Sequence[UpsConfig | MeterConfig]] = {"ups": config.ups, "meters": meters}
    problems = []
    for section, found in sections.items():
        names = [one.name for one in found]
        for place, one in enumerate(found):
            at: Key = (section, place)
            if one.name in names[:place]:
                problems.append(Problem((*at, "name"), f"{one.name!r} is there twice"))
            try:
                nut_address(one.source)
            except ValueError as error:
                problems.append(Problem((*at, "source"), str(error)))
            if (one.username is None) != (one.password_file is None):
                key = "username" if one.password_file is None else "password_file"
                text = "is of no use alone; expected username and password_file"
                problems.append(Problem((*at, key), text))
    for place, meter in enumerate(meters):
        if not is_nut_variable(meter.variable):
            text = f"{meter.variable!r} is no NUT variable; expected one as outlet.1.realpower"
            problems.append(Problem(("meters", place, "variable"), text))
    return problems


def _store(store: StoreConfig) -> list[Problem]:
    url: Key = ("store", "url")
    if store.kind == "influxdb" and store.url is None:
        return [
            Problem(url, "is missing; kind influxdb needs the server's http:// or https:// URL")
        ]
    if store.url is not None and not store.url.startswith(("http://", "https://")):
        return [Problem(url, f"{store.url!r} is no URL; expected http://... or https://...")]
    return []
