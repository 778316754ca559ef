"""`ampacity config schema|example|agent|print`: configuration as text, on stdout.

Writes no file and changes nothing. The examples are those of `facility.example`, so what is
printed is what the demo and the tests run.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

import msgspec

from daemon.config_file import read_config, shown
from facility.compiler import compile_site, did_you_mean
from facility.config import AgentConfig, BrokerConfig
from facility.example import (
    agent_config,
    agent_yaml,
    controller_config,
    controller_yaml,
    operator_config,
    operator_yaml,
    row_site,
    site_yaml,
)
from facility.loader import KINDS, ConfigError, load_any, load_site
from facility.yaml_text import to_yaml

EXIT_OK: Final = 0
EXIT_USAGE: Final = 2
EXIT_CONFIG: Final = 78

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    verbs = parser.add_subparsers(dest="config_verb", metavar="VERB", required=True)
    schema = verbs.add_parser("schema", help="the JSON Schema of a kind of file")
    schema.add_argument("kind", nargs="?", choices=sorted(KINDS), default="site")

    example = verbs.add_parser("example", help="an explained example that loads clean")
    example.add_argument("kind", nargs="?", choices=sorted(KINDS), default="site")
    example.add_argument("--nodes", type=int, default=40, metavar="N", help="default 40")
    example.add_argument(
        "--oversubscription-ratio",
        type=float,
        default=1.3,
        metavar="R",
        help="worst case of all nodes over the row's capacity; default 1.3",
    )

    agent = verbs.add_parser("agent", help="the agent file of one node of a site")
    agent.add_argument("node", metavar="NODE")
    agent.add_argument("--site", required=True, metavar="FILE", help="site file, or -")
    agent.add_argument("--broker-host", default="127.0.0.1", metavar="HOST")
    agent.add_argument("--broker-port", type=int, default=1883, metavar="PORT")

    shown_file = verbs.add_parser("print", help="a file as it is understood, with all defaults")
    shown_file.add_argument("file", metavar="FILE", help="a file, or - for standard input")
    shown_file.add_argument("--json", action="store_true", help="JSON instead of YAML")


def run(args: argparse.Namespace) -> int:
    """Print what was asked for; what is wrong goes to stderr."""
    verbs = {"schema": _schema, "example": _example, "agent": _agent, "print": _print}
    try:
        sys.stdout.write(verbs[args.config_verb](args))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    except _UsageError as error:
        print(f"ampacity config: {error}", file=sys.stderr)
        return EXIT_USAGE
    return EXIT_OK


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of a kind of configuration file: a name in `KINDS`."""
    return {"$schema": DIALECT, **msgspec.json.schema(KINDS[kind])}


class _UsageError(Exception):
    """An argument that fits the syntax but nothing else."""


def _schema(args: argparse.Namespace) -> str:
    return msgspec.json.format(msgspec.json.encode(json_schema(args.kind))).decode() + "\n"


def _example(args: argparse.Namespace) -> str:
    if args.kind == "controller":
        return controller_yaml(controller_config())
    if args.kind == "operator":
        return operator_yaml(operator_config())
    try:
        config = row_site(nodes=args.nodes, oversubscription_ratio=args.oversubscription_ratio)
    except ValueError as error:
        raise _UsageError(str(error)) from error
    if args.kind == "agent":
        site = compile_site(config)
        return agent_yaml(agent_config(site, next(iter(site.nodes))))
    return site_yaml(config)


def _agent(args: argparse.Namespace) -> str:
    site = load_site(read_config(args.site), shown(args.site))
    if args.node not in site.nodes:
        guess = did_you_mean(args.node, site.nodes)
        raise _UsageError(f"site {site.name!r} has no node {args.node!r}{guess}")
    broker = {"host": args.broker_host, "port": args.broker_port}
    try:
        checked = msgspec.convert(broker, BrokerConfig)
    except msgspec.ValidationError as error:
        raise _UsageError(f"--broker-host, --broker-port: {error}") from error
    config: AgentConfig = agent_config(site, args.node, broker=checked)
    return agent_yaml(config)


def _print(args: argparse.Namespace) -> str:
    loaded = load_any(read_config(args.file), shown(args.file))
    config = loaded[0] if isinstance(loaded, tuple) else loaded
    if args.json:
        return msgspec.json.format(msgspec.json.encode(config)).decode() + "\n"
    return to_yaml(config, defaults=True)
