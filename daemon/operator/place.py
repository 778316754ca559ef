"""Which site a command is about and where its broker is: from arguments, environment or files.

It reads configuration files and opens no connection. In an emergency little must be enough: a site
file that does not load costs the power tree, not the command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from daemon.config_file import read_config, shown
from daemon.exit_codes import EX_CONFIG, EX_USAGE
from facility.config import AgentConfig, BrokerConfig, ControllerConfig, OperatorConfig
from facility.loader import ConfigError, load_any, load_site
from facility.strict_yaml import parse
from facility.topics import check_name
from facility.topology import Site

VARIABLE: Final = "AMPACITY_CONFIG"
DEFAULT_FILES: Final = (
    "~/.config/ampacity/operator.yaml",
    "/etc/ampacity/operator.yaml",
    "/etc/ampacity/controller.yaml",
    "/etc/ampacity/agent.yaml",
)
PORT_DEFAULT: Final = 1883


class PlaceUnknown(Exception):
    """Nothing says where the broker is. Commands exit with `exit_code`."""

    exit_code: Final = EX_CONFIG


class UsageError(Exception):
    """An argument that cannot be meant. Commands exit with `exit_code`."""

    exit_code: Final = EX_USAGE


@dataclass(frozen=True, slots=True)
class Place:
    """A site and its broker; the rest is known only where a file says it."""

    site: str
    broker: BrokerConfig
    path: str | None = None
    tree: Site | None = None
    agent: AgentConfig | None = None
    controller: ControllerConfig | None = None
    operator: OperatorConfig | None = None

    @property
    def where(self) -> str:
        """The broker, as people write it."""
        return f"{self.broker.host}:{self.broker.port}"


def add_place_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say where the broker is."""
    group = parser.add_argument_group(
        "where the broker is",
        f"Without these: the file that {VARIABLE} names, else {', else '.join(DEFAULT_FILES)}.",
    )
    group.add_argument("--config", metavar="FILE", help="an operator's, controller's or agent's")
    group.add_argument("--site", metavar="NAME", help="the site; with --broker no file is needed")
    group.add_argument(
        "--broker", metavar="HOST:PORT", help=f"the port is {PORT_DEFAULT} if left out"
    )


def find_place(
    args: argparse.Namespace,
    environ: Mapping[str, str],
    *,
    defaults: tuple[str, ...] = DEFAULT_FILES,
) -> Place:
    """Where to go, by --config, --site and --broker, the environment, the default files.

    Raises:
        PlaceUnknown: nothing says it, or the file is of a kind that does not.
        UsageError: --site or --broker is malformed.
        ConfigError: the file does not load.
    """
    site, broker = _site(args.site), _broker(args.broker)
    path = args.config
    if path is None and site is not None and broker is not None:
        return Place(site, broker)
    path = path or named_file(environ, defaults=defaults)
    if path is None:
        raise PlaceUnknown(
            f"which broker? Give --config FILE, or --site NAME and --broker HOST:PORT, or set"
            f" {VARIABLE}; neither {' nor '.join(defaults)} is there"
        )
    found = read_place(path, site=site)
    return _overridden(found, site=site, broker=broker)


def _overridden(place: Place, *, site: str | None, broker: BrokerConfig | None) -> Place:
    """`place` with what the command line said instead."""
    return Place(
        site or place.site,
        broker or place.broker,
        place.path,
        place.tree if site in (None, place.site) else None,
        place.agent,
        place.controller,
        place.operator,
    )


def named_file(
    environ: Mapping[str, str], *, defaults: tuple[str, ...] = DEFAULT_FILES
) -> str | None:
    """The configuration file to use when no argument names one, None when there is none."""
    if environ.get(VARIABLE):
        return environ[VARIABLE]
    found = (Path(path).expanduser() for path in defaults)
    return next((str(path) for path in found if path.exists()), None)


def read_place(path: str, *, site: str | None = None) -> Place:
    """What an operator's, agent's or controller's file says. Raises ConfigError, PlaceUnknown."""
    loaded = load_any(read_config(path), shown(path))
    if isinstance(loaded, AgentConfig):
        return Place(loaded.site, loaded.broker, path, agent=loaded)
    if isinstance(loaded, ControllerConfig):
        name, tree = _site_of(path, loaded, site)
        return Place(name, loaded.broker, path, tree=tree, controller=loaded)
    if isinstance(loaded, OperatorConfig):
        return Place(loaded.site, loaded.broker, path, operator=loaded)
    raise PlaceUnknown(
        f"{shown(path)} is a site file, which does not say where the broker is: name the"
        f" controller's or an agent's file, or add --site {loaded[1].name} --broker HOST:PORT"
    )


def site_path(path: str, config: ControllerConfig) -> str:
    """Where the site file of the controller's file at `path` is."""
    return str(Path(path).parent / config.site_file)


def _site_of(path: str, config: ControllerConfig, site: str | None) -> tuple[str, Site | None]:
    """The site's name and tree; the name alone when the site file has problems."""
    file = site_path(path, config)
    try:
        text = read_config(file)
    except ConfigError:
        if site is None:
            raise
        return site, None
    try:
        tree = load_site(text, file)
    except ConfigError as error:
        name = site or _bare_name(text)
        if name is None:
            raise
        count = len(error.problems)
        print(
            f"{file} has {count} problem{'s'[: count != 1]} (`ampacity check {file}`): going on"
            f" with its name alone, {name!r}",
            file=sys.stderr,
        )
        return name, None
    return tree.name, tree


def _bare_name(text: str) -> str | None:
    """The site's name in a file that may be wrong in everything else."""
    value: Any = parse(text).value
    name = value.get("site") if isinstance(value, Mapping) else None
    try:
        return check_name(name) if isinstance(name, str) else None
    except ValueError:
        return None


def _site(text: str | None) -> str | None:
    try:
        return None if text is None else check_name(text)
    except ValueError as error:
        raise UsageError(f"--site: {error}") from error


def _broker(text: str | None) -> BrokerConfig | None:
    """`HOST`, `HOST:PORT` or `[IPV6]:PORT`."""
    if text is None:
        return None
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(PORT_DEFAULT)
    try:
        keys = {"host": host.removeprefix("[").removesuffix("]"), "port": int(port)}
        return msgspec.convert(keys, BrokerConfig)
    except (ValueError, msgspec.ValidationError) as error:
        raise UsageError(
            f"--broker {text!r} is no HOST:PORT with a port from 1 to 65535"
        ) from error
