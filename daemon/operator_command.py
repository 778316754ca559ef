"""`ampacity contingency|brake|release|cap|drain`: an operator's order, sent and answered.

Says what was done on stdout, what was refused on stderr. It asks a person at a terminal before it
slows a whole domain, and decides nothing: the controller does, and audits it.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from daemon.exit_codes import EX_FAILED, EX_USAGE
from daemon.operator.asking import ask, brake_directly, transaction, who
from daemon.operator.place import Place, add_place_arguments, find_place
from daemon.trust_files import read_signer
from facility.signing import Signer
from facility.topics import check_name
from facility.wire import Request, Response

TIMEOUT_S: Final = 5.0
TIMEOUT_S_MAX: Final = 600.0
BY_LENGTH_MAX: Final = 200

Values = dict[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class Verb:
    """One order: its arguments, what they become on the wire, and the words around it.

    `asks` says whether it slows a whole domain; `told` puts the answer into words, given whether
    it was only tried.
    """

    describes: str
    example: str
    declare: Callable[[argparse.ArgumentParser], object]
    values: Callable[[argparse.Namespace], Values]
    asks: Callable[[argparse.Namespace], bool]
    told: Callable[[Values, bool], str]


def _declare_contingency(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="as in the site file: ups-a-lost")
    parser.add_argument("switch", choices=("on", "off"))


def _declare_cap(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("domain", metavar="DOMAIN")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("cap_w", metavar="W", nargs="?", type=_watts, help="watts")
    which.add_argument("--clear", action="store_true", help="lift the cap")


def _declare_drain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("node", metavar="NODE")
    parser.add_argument("--off", action="store_true", help="send requests there again")


def _declare_domain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("domain", metavar="DOMAIN")


def _watts(text: str) -> float:
    cap_w = float(text)
    if not math.isfinite(cap_w) or cap_w <= 0.0:
        raise ValueError
    return cap_w


_watts.__name__ = "number of watts"  # argparse: "invalid number of watts value: 'x'"


def _cap_values(args: argparse.Namespace) -> Values:
    wanted: Values = {"clear": True} if args.clear else {"cap_w": args.cap_w}
    return {"domain": args.domain, **wanted}


def _contingency_told(data: Values, tried: bool) -> str:
    state = "on" if data.get("active") else "off"
    return f"contingency {data.get('contingency')} {'would be' if tried else 'is'} {state}"


def _brake_told(data: Values, tried: bool) -> str:
    if data.get("direct"):
        known = "" if data.get("known") else " (nobody has told of it here: is its name right?)"
        return (
            f"brake {data.get('domain')}{known}: the broker has it, signed by this key; `ampacity"
            " status` shows which nodes obey"
        )
    count = data.get("nodes")
    would = "would go" if tried else "go"
    return f"brake {data.get('domain')}: its {_nodes(count)} {would} to the brake ceiling"


def _release_told(data: Values, tried: bool) -> str:
    would = "would rise" if tried else "rise"
    return f"release {data.get('domain')}: its {_nodes(data.get('nodes'))} {would} step by step"


def _cap_told(data: Values, tried: bool) -> str:
    capacity_w = data.get("capacity_w")
    shown = f"{capacity_w:,.0f} W" if isinstance(capacity_w, int | float) else "?"
    return f"cap {data.get('domain')}: capacity {'would be' if tried else 'is'} {shown}"


def _drain_told(data: Values, tried: bool) -> str:
    if data.get("drained"):
        return f"drain {data.get('node')}: it {'would get' if tried else 'gets'} no new requests"
    return f"drain {data.get('node')}: it {'would get' if tried else 'gets'} requests again"


def _nodes(count: object) -> str:
    """How many nodes, as far as the answer says."""
    return "1 node" if count == 1 else f"{count} nodes" if isinstance(count, int) else "nodes"


VERBS: Final = {
    "contingency": Verb(
        "Says that a declared failure has begun or is over. Capacities change at once, and agents"
        " act from the ceilings already in their leases.",
        "ampacity contingency ups-a-lost on",
        _declare_contingency,
        lambda args: {"contingency": args.name, "on": args.switch == "on"},
        lambda args: bool(args.switch == "on"),
        _contingency_told,
    ),
    "brake": Verb(
        "Takes every node of a domain to its brake ceiling, the lowest, until `release`.",
        "ampacity brake row-1",
        _declare_domain,
        lambda args: {"domain": args.domain},
        lambda _args: True,
        _brake_told,
    ),
    "release": Verb(
        "Ends an operator's `brake`. Nodes rise step by step, as far as their domains allow.",
        "ampacity release row-1",
        _declare_domain,
        lambda args: {"domain": args.domain},
        lambda _args: False,
        _release_told,
    ),
    "cap": Verb(
        "Lowers the capacity of a domain to W watts until --clear. It never raises one.",
        "ampacity cap rack-3 20000",
        _declare_cap,
        _cap_values,
        lambda _args: False,
        _cap_told,
    ),
    "drain": Verb(
        "Sends no new requests to a node, until --off. Its clocks stay under control.",
        "ampacity drain gpu-7",
        _declare_drain,
        lambda args: {"node": args.node, "on": not args.off},
        lambda _args: False,
        _drain_told,
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb that `parser` is named after: `ampacity VERB`."""
    verb = VERBS[parser.prog.split()[-1]]
    parser.description = verb.describes
    parser.epilog = (
        f"Example: {verb.example} --dry-run. Exits with 1 when the controller refuses, 69 when the"
        " broker or every controller is silent."
    )
    verb.declare(parser)
    if parser.prog.split()[-1] == "brake":
        parser.add_argument(
            "--direct",
            action="store_true",
            help="tell the nodes without a controller; needs a signing key, and only a controller"
            " ends it",
        )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")
    parser.add_argument("--json", action="store_true", help="the answer as JSON on stdout")
    parser.add_argument("--yes", action="store_true", help="do not ask, even at a terminal")
    parser.add_argument(
        "--by", metavar="NAME", default=None, help="who orders it, for the audit (user@host)"
    )
    parser.add_argument(
        "--key-file",
        metavar="FILE",
        default=None,
        help="private key that signs the request (default: the operator's file names it)",
    )
    parser.add_argument(
        "--timeout-s",
        type=float,
        default=TIMEOUT_S,
        metavar="S",
        help=f"longest wait for the broker and for the answer (default {TIMEOUT_S:g})",
    )
    add_place_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Send the order and say what became of it; returns the exit code."""
    name: str = args.command
    verb = VERBS[name]
    request = Request(
        verb=name,
        transaction=transaction(),
        by=(who() if args.by is None else args.by)[:BY_LENGTH_MAX],
        dry_run=args.dry_run,
        args=verb.values(args),
    )
    problem = _usage_problem(args, request)
    if problem:
        print(f"ampacity {name}: {problem}", file=sys.stderr)
        return EX_USAGE
    place = find_place(args, os.environ)
    signer = _signer(args, place)
    if verb.asks(args) and not args.dry_run and not args.yes and _at_terminal():
        trial = msgspec.structs.replace(request, transaction=transaction(), dry_run=True)
        tried = asyncio.run(ask(place, trial, timeout_s=args.timeout_s, signer=signer))
        if tried.status == "error":
            return _tell(args, place, tried)
        if not _agreed(verb.told(tried.data, True)):
            print(f"ampacity {name}: nothing was done", file=sys.stderr)
            return EX_FAILED
    if getattr(args, "direct", False):
        return _directly(args, place, request.by, signer)
    answer = asyncio.run(ask(place, request, timeout_s=args.timeout_s, signer=signer))
    return _tell(args, place, answer)


def _directly(args: argparse.Namespace, place: Place, by: str, signer: Signer | None) -> int:
    """Brake without a controller; returns the exit code."""
    try:
        check_name(args.domain)
    except ValueError as error:
        print(f"ampacity brake: {error}", file=sys.stderr)
        return EX_USAGE
    if signer is None or args.dry_run:
        what = "has no --dry-run" if args.dry_run else "needs a signing key: --key-file"
        print(f"ampacity brake: --direct {what}", file=sys.stderr)
        return EX_USAGE
    answer = asyncio.run(
        brake_directly(place, args.domain, by=by, timeout_s=args.timeout_s, signer=signer)
    )
    return _tell(args, place, answer)


def _signer(args: argparse.Namespace, place: Place) -> Signer | None:
    """Who speaks: by the option, else by the operator's file. Raises TrustError."""
    path = args.key_file
    if path is None and place.operator is not None:
        path = place.operator.signing_key_file
    return None if path is None else read_signer(path, "operator")


def _usage_problem(args: argparse.Namespace, request: Request) -> str:
    """What is wrong with the arguments, empty for nothing."""
    if not 0.0 < args.timeout_s <= TIMEOUT_S_MAX:
        return f"--timeout-s must be above 0 and at most {TIMEOUT_S_MAX:g}"
    try:
        msgspec.json.encode(request)
    except UnicodeEncodeError:
        return "an argument is not UTF-8 text"
    return ""


def _at_terminal() -> bool:
    """Whether there is a person to ask."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def _agreed(what: str) -> bool:
    """Ask on stderr, so that stdout stays data; no answer is no."""
    print(f"{what}. Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _tell(args: argparse.Namespace, place: Place, response: Response) -> int:
    """Print the answer; returns the exit code."""
    if args.json:
        document = {
            "site": place.site,
            "verb": response.verb,
            "status": response.status,
            "dry_run": args.dry_run,
            "transaction": response.transaction,
            "error": response.error,
            "data": response.data,
        }
        print(msgspec.json.encode(document).decode())
    if response.status == "error":
        print(f"ampacity {response.verb}: {response.error}", file=sys.stderr)
        return EX_FAILED
    if not args.json:
        print(VERBS[response.verb].told(response.data, args.dry_run))
    return 0
