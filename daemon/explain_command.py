"""`ampacity explain DOMAIN|NODE`: why it is as it is, in sentences and the figures behind them.

Listens for a moment to the node in question, because a lease's time is told by its frames. It
decides nothing and sends no order.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

from daemon.exit_codes import EX_FAILED
from daemon.operator.explanation import (
    DomainExplanation,
    NodeExplanation,
    explain_domain,
    explain_node,
)
from daemon.operator.history_file import last_sentence
from daemon.operator.picture import Picture
from daemon.operator.place import Place, add_place_arguments, find_place
from daemon.operator.session import Session
from daemon.operator.words import Line, mhz, table, write
from daemon.status_command import add_timeout
from facility.compiler import did_you_mean
from facility.topics import NAME_PATTERN

LISTEN_S: Final = 2.5
"""Longest wait for a frame and a fresh lease of a node that is ready: both come every second."""


class UnknownName(Exception):
    """Neither a domain nor a node. Commands exit with `exit_code`."""

    exit_code: Final = EX_FAILED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ampacity explain`."""
    parser.description = (
        "Why a domain or a node is as it is: what was decided, which ceiling holds and why, what is"
        " left of the lease, what the hardware did, and how the domains above are. With the"
        " controller's file it also knows the power tree and the controller's last sentence."
    )
    parser.epilog = "Exits with 1 when nothing has that name, 69 when the broker is not there."
    parser.add_argument("name", metavar="DOMAIN|NODE")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    add_timeout(parser)
    add_place_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print why; 1 when nothing has that name."""
    place = find_place(args, os.environ)
    found = asyncio.run(_explain(place, args.name, timeout_s=args.timeout_s))
    if args.json:
        print(msgspec.json.encode(found).decode())
    else:
        write(_lines(found), sys.stdout)
    return 0


async def _explain(
    place: Place, name: str, *, timeout_s: float
) -> DomainExplanation | NodeExplanation:
    """Look, listen to a node, explain. Raises UnknownName, BusUnavailable."""
    picture = Picture(place.site)
    session = Session(place, timeout_s=timeout_s)
    async with session:
        await picture.fill(session, node=name if NAME_PATTERN.fullmatch(name) else None)
        is_node = name in picture.statuses or name in picture.infos
        if not is_node and name not in picture.domains:
            raise UnknownName(_unknown(picture, place, name))
        status = picture.statuses.get(name)
        if status is not None and status.message.state == "ready":
            await picture.changed.until(lambda: _has_heard(picture, name), timeout_s=LISTEN_S)
    if not is_node:
        return explain_domain(picture, name, tree=place.tree, wall_s=time.time())
    return explain_node(
        picture,
        name,
        ancestors=_ancestors(place, name),
        decided=_decided(place, name),
        wall_s=time.time(),
    )


def _has_heard(picture: Picture, node: str) -> bool:
    """Whether the node has spoken and its lease was renewed since we listen."""
    lease = picture.leases.get(node)
    return node in picture.telemetry and lease is not None and not lease.retained


def _ancestors(place: Place, node: str) -> tuple[str, ...] | None:
    """All domains above a node, where a file tells them."""
    if place.tree is not None and node in place.tree.nodes:
        return place.tree.nodes[node].ancestors
    if place.agent is not None and place.agent.node == node:
        return place.agent.domains
    return None


def _decided(place: Place, node: str) -> str:
    """The controller's last sentence about a node, where its history can be read."""
    if place.controller is None or place.controller.store.kind != "sqlite":
        return ""
    return last_sentence(Path(place.controller.store.directory), node)


def _unknown(picture: Picture, place: Place, name: str) -> str:
    known = {*picture.domains, *picture.statuses, *picture.infos}
    if place.tree is not None:
        in_file = {*place.tree.domains, *place.tree.nodes}
        if name in in_file:
            return f"{name!r} is in the site file, but nothing has been heard of it on this broker"
        known |= in_file
    if not known:
        return f"nothing is known of site {place.site!r} at {place.where}"
    return f"no domain or node of site {place.site!r} is named {name!r}{did_you_mean(name, known)}"


def _lines(found: DomainExplanation | NodeExplanation) -> list[Line]:
    lines = [Line(text, "head" if place == 0 else "plain") for place, text in
             enumerate(found.sentences)]  # fmt: skip
    if isinstance(found, NodeExplanation) and found.gpus:
        rows = [
            (
                gpu.uuid,
                mhz(gpu.requested_mhz),
                mhz(gpu.accepted_mhz),
                mhz(gpu.observed_mhz),
                "-" if gpu.power_w is None else f"{gpu.power_w:.0f} W",
                "-" if gpu.temperature_c is None else f"{gpu.temperature_c:.0f} C",
                gpu.cause,
            )
            for gpu in found.gpus
        ]
        head = ("gpu", "asked", "accepted", "seen", "power", "temp", "cause")
        lines += [Line(""), *(Line(text) for text in table(head, rows, left=1))]
        armed = found.lease.contingency_ceilings_mhz
        if armed:
            held = ", ".join(f"{name} {ceiling_mhz} MHz" for name, ceiling_mhz in armed.items())
            lines.append(Line(f"prepared for: {held}"))
    return lines
