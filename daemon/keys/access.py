"""What the broker lets whom do: Mosquitto's access list, and the lines that switch TLS on.

Accounts are the common names of certificates. A node's is its name; those of controllers and
operators have a dot, which no node's name has, so that neither can pose as the other. Text only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from facility.topics import Topics
from facility.topology import Site

NODE_WRITES: Final = ("status", "info", "telemetry", "applied")
PORT: Final = 8_883


def controller_account(name: str) -> str:
    """The account of a controller."""
    return f"controller.{name}"


def operator_account(name: str) -> str:
    """The account of an operator."""
    return f"operator.{name}"


def access_list(site: Site, *, controllers: Sequence[str], operators: Sequence[str]) -> str:
    """Mosquitto's `acl_file` of a site: what is not granted here is denied."""
    topics = Topics(site.name)
    lines = [
        f"# Who may say and hear what at site {site.name}. Written by `ampacity keys`:",
        "# write it anew when nodes, controllers or operators come or go.",
        "",
        "# A node, which %u is, speaks about itself and hears its own lease.",
        *(f"pattern write {topics.node('%u', what)}" for what in NODE_WRITES),
        f"pattern read {topics.node('%u', 'lease')}",
    ]
    for name, node in site.nodes.items():
        lines += ["", f"user {name}", f"topic write {topics.event}"]
        lines += [f"topic read {topics.domain(domain, 'emergency')}" for domain in node.ancestors]
    for name in controllers:
        lines += ["", f"user {controller_account(name)}", *_controller_lines(topics)]
    for name in operators:
        lines += ["", f"user {operator_account(name)}", *_operator_lines(topics)]
    return "\n".join(lines) + "\n"


def _controller_lines(topics: Topics) -> list[str]:
    return [
        *(f"topic read {topics.node('+', what)}" for what in NODE_WRITES),
        f"topic write {topics.node('+', 'lease')}",
        f"topic readwrite {topics.domain('+', 'emergency')}",
        f"topic write {topics.domain('+', 'state')}",
        f"topic write {topics.service_routing('+')}",
        f"topic readwrite {topics.controller_status('+')}",
        f"topic read {topics.request('+')}",
        f"topic write {topics.response('+')}",
        f"topic readwrite {topics.event}",
    ]


def _operator_lines(topics: Topics) -> list[str]:
    return [
        f"topic read {topics.prefix}/#",
        f"topic write {topics.request('+')}",
        f"topic write {topics.domain('+', 'emergency')}",
    ]


def broker_lines(directory: str, *, port: int = PORT) -> str:
    """The part of mosquitto.conf that stands in place of the listener of this machine only."""
    return f"""\
# TLS with client certificates, and the access list. Written by `ampacity keys`. It takes the place
# of `listener` and `allow_anonymous` in ampacity.conf: leave no other listener open.
listener {port}
cafile {directory}/ca.pem
certfile {directory}/broker.pem
keyfile {directory}/broker.key
tls_version tlsv1.3
# Whoever has no certificate of this site, or an expired one, does not get in; the account is its
# common name.
require_certificate true
use_identity_as_username true
allow_anonymous false
acl_file {directory}/ampacity.acl
"""
