"""The command `ampacity`: which subcommand, which logger, which exit code.

Each subcommand's module is imported only when it is called, so that an agent never carries what a
controller needs. Data goes to stdout, talk to stderr.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from daemon.exit_codes import EX_CONFIG, EX_FAILED, EX_SOFTWARE, EX_UNAVAILABLE
from daemon.logs import set_up_logging
from daemon.version import VERSION

EPILOG: Final = """\
Exit codes: 0 done; 1 the answer is no, or problems were found; 2 usage; 69 the broker or a port is
not available; 70 a bug; 77 no permission; 78 configuration; 128+N ended by signal N.
`ampacity COMMAND --help` explains each command.
"""


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand: its module has `add_arguments(parser)` and `run(args) -> int`."""

    name: str
    module: str
    help: str
    log_level: str = "warning"


COMMANDS: Final = (
    Command(
        "demo",
        "daemon.demo.command",
        "the whole system on a simulated row, with a verdict",
        log_level="critical",  # it tells its own story; --log-level info adds the services' lines
    ),
    Command("agent", "daemon.agent_command", "the service on a GPU host", log_level="info"),
    Command("controller", "daemon.controller_command", "the service that decides", "info"),
    Command("simulate", "daemon.simulate_command", "run an experiment offline, policies compared"),
    Command("status", "daemon.status_command", "how the site is; exit code 1 when it is not well"),
    Command("top", "daemon.top_command", "the same, live on a terminal"),
    Command("explain", "daemon.explain_command", "why a domain or a node is as it is"),
    Command("events", "daemon.events_command", "what has happened, and what happens"),
    Command("contingency", "daemon.operator_command", "say that a failure has begun or is over"),
    Command("brake", "daemon.operator_command", "take a domain to its brake ceiling"),
    Command("release", "daemon.operator_command", "end a brake"),
    Command("cap", "daemon.operator_command", "lower the capacity of a domain"),
    Command("drain", "daemon.operator_command", "send no new requests to a node"),
    Command("doctor", "daemon.doctor_command", "what is wrong with this host, and what to do"),
    Command("check", "daemon.check_command", "check configuration files, whole"),
    Command("keys", "daemon.keys_command", "the keys, certificates and access list of a site"),
    Command("config", "daemon.config_command", "schemas, examples, an agent's file"),
    Command("version", "daemon.version_command", "which Ampacity this is"),
)


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, Command]:
    """The arguments of the one subcommand that was asked for; exits with 2 on wrong usage."""
    parser = argparse.ArgumentParser(
        prog="ampacity",
        description="Runs more GPUs behind the same breakers.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=VERSION)
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error", "critical"),
        default=None,
        help="what is logged to stderr (default: info for services, warning or less for the rest)",
    )
    table = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    known = {command.name for command in COMMANDS}
    asked = next((word for word in arguments if word in known), "")
    for command in COMMANDS:
        sub = table.add_parser(command.name, help=command.help)
        if command.name == asked:
            importlib.import_module(command.module).add_arguments(sub)
    args = parser.parse_args(arguments)
    return args, next(command for command in COMMANDS if command.name == args.command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    try:
        args, command = parse(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        return _not_installed(error)
    set_up_logging(args.log_level or command.log_level)
    try:
        code = importlib.import_module(command.module).run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; saying so would fail again.
        sys.stderr.close()
        return 141
    except Exception as error:  # noqa: BLE001 - the last stop: a line or a trace, never silence
        return _failed(command, error)
    assert isinstance(code, int)
    return code


def _not_installed(error: ModuleNotFoundError) -> int:
    """A GPU host has the agent alone: say which extra brings the rest."""
    print(
        f"ampacity: this command needs {error.name}, which is not installed: install"
        " ampacity[controller], and ampacity[sim] for demo and simulate",
        file=sys.stderr,
    )
    return EX_UNAVAILABLE


def _failed(command: Command, error: Exception) -> int:
    """An error that a command did not answer itself: expected ones in a line, bugs in full."""
    if isinstance(error, ModuleNotFoundError):
        return _not_installed(error)
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        print(f"ampacity {command.name}: {error}", file=sys.stderr)
        return code
    if type(error).__name__ == "ConfigError":
        print(error, file=sys.stderr)
        return EX_CONFIG
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        print(f"ampacity {command.name}: cannot write the output: no space left", file=sys.stderr)
        return EX_FAILED
    if isinstance(error, OSError) and error.filename is not None:
        print(f"ampacity {command.name}: {error.filename}: {error.strerror}", file=sys.stderr)
        return EX_CONFIG
    import traceback

    traceback.print_exception(error)
    print(f"ampacity {command.name}: this is a bug, please report it", file=sys.stderr)
    return EX_SOFTWARE


if __name__ == "__main__":
    sys.exit(main())
