"""`ampacity keys init|show|rotate|retire|renew`: everything secret of a site, in one folder.

Makes and replaces files in the folder that it is given, and says which file goes where. It copies
nothing to other hosts, talks to no broker, and prints nothing secret.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from daemon.config_file import read_config, shown
from daemon.exit_codes import EX_FAILED, EX_USAGE
from daemon.keys import authority
from daemon.keys.folder import CERTIFICATE_DAYS, KeysFolder, Staff
from facility.loader import load_site
from facility.signing import Role
from facility.topics import check_name

DAYS_MAX: Final = 3_650.0
SOON_DAYS: Final = 30.0
"""`show` warns of certificates that end within this."""
ROLES: Final[tuple[Role, ...]] = ("controller", "operator")

DESCRIPTION: Final = """\
Keeps the keys of a site in one folder: a certificate authority of its own, certificates for the
broker, every node, controller and operator, Ed25519 keys that sign leases and requests, the list of
those who are trusted, and Mosquitto's access list and TLS lines. Keep the folder on a machine that
is no GPU node. `docs/security.md` says who needs which file.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    verbs = parser.add_subparsers(dest="keys_verb", metavar="VERB", required=True)
    init = verbs.add_parser(
        "init", help="make what is missing; run it again when nodes or people come or go"
    )
    _add_common(init)
    _add_staff(init)
    init.add_argument("--force", action="store_true", help="make every key anew, old ones are void")

    renew = verbs.add_parser("renew", help="new certificates for the keys that there are")
    _add_common(renew)
    _add_staff(renew)

    show = verbs.add_parser("show", help="what there is, and when it ends; 1 when something must be"
                                         " renewed")  # fmt: skip
    show.add_argument("directory", metavar="DIR", type=Path)
    show.add_argument("--json", action="store_true", help="one JSON document on stdout")

    rotate = verbs.add_parser("rotate", help="a new signing key, trusted beside the old one")
    rotate.add_argument("directory", metavar="DIR", type=Path)
    rotate.add_argument("role", choices=ROLES)
    rotate.add_argument("--name", default="site", metavar="NAME", help="whose; default site")

    retire = verbs.add_parser("retire", help="trust a signing key no more")
    retire.add_argument("directory", metavar="DIR", type=Path)
    retire.add_argument("key", metavar="KEY", help="the first digits of the key, as `show` has it")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path)
    parser.add_argument("--site", required=True, metavar="FILE", help="the site file")


def _add_staff(parser: argparse.ArgumentParser) -> None:
    text = "name or address of the broker, once for each; default localhost and 127.0.0.1"
    parser.add_argument("--broker-host", action="append", metavar="HOST", help=text)
    text = "a controller, beside those in DIR; default controller"
    parser.add_argument("--controller", action="append", metavar="NAME", help=text)
    text = "an operator, beside those in DIR; default operator"
    parser.add_argument("--operator", action="append", metavar="NAME", help=text)
    text = f"how long certificates last; default {CERTIFICATE_DAYS:g}"
    parser.add_argument("--days", type=float, default=CERTIFICATE_DAYS, metavar="N", help=text)


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    verbs: dict[str, Callable[[argparse.Namespace], int]] = {
        "init": _init, "renew": _renew, "show": _show, "rotate": _rotate, "retire": _retire,
    }  # fmt: skip
    problem = _usage_problem(args)
    if problem:
        print(f"ampacity keys: {problem}", file=sys.stderr)
        return EX_USAGE
    return verbs[args.keys_verb](args)


def _usage_problem(args: argparse.Namespace) -> str:
    """What is wrong with the arguments, empty for nothing."""
    days = getattr(args, "days", 1.0)
    if not 0.0 < days <= DAYS_MAX:
        return f"--days must be above 0 and at most {DAYS_MAX:g}"
    names = [getattr(args, "name", "site")]
    names += [*(getattr(args, "controller", None) or ()), *(getattr(args, "operator", None) or ())]
    for name in names:
        try:
            check_name(name)
        except ValueError as error:
            return str(error)
    return ""


def _staff(args: argparse.Namespace, folder: KeysFolder) -> Staff:
    """Who there is already, and who is named; somebody of each kind in any case."""
    controllers = {*folder.holders_in("controllers"), *(args.controller or ())}
    operators = {*folder.holders_in("operators"), *(args.operator or ())}
    return Staff(
        controllers=sorted(controllers or {"controller"}),
        operators=sorted(operators or {"operator"}),
        hosts=args.broker_host or (),
    )


def _init(args: argparse.Namespace) -> int:
    site = load_site(read_config(args.site), shown(args.site))
    folder = KeysFolder(args.directory)
    folder.make(site, _staff(args, folder), now=_now(), days=args.days, force=args.force)
    for name in folder.written:
        print(args.directory / name)
    print(
        f"{len(folder.written)} files written. Each node gets ca.pem, trust.json and its own two"
        " files of nodes/; docs/security.md has the rest.",
        file=sys.stderr,
    )
    return 0


def _renew(args: argparse.Namespace) -> int:
    site = load_site(read_config(args.site), shown(args.site))
    folder = KeysFolder(args.directory)
    folder.renew(site, _staff(args, folder), now=_now(), days=args.days)
    for name in folder.written:
        print(args.directory / name)
    return 0


def _show(args: argparse.Namespace) -> int:
    folder, now = KeysFolder(args.directory), _now()
    trusted = {key.public: key for key in folder.trusted()}
    files = {key.public: path for path, key in folder.signing_keys()}
    certificates = [
        {
            "file": name,
            "account": authority.common_name(pem),
            "days_left": round((authority.ends(pem) - now).total_seconds() / 86_400, 2),
        }
        for name, pem in folder.certificates()
    ]
    keys = [
        {"key": key.key, "role": key.role, "name": key.name, "file": files.get(key.public, "")}
        for key in trusted.values()
    ]
    soon = [one for one in certificates if float(str(one["days_left"])) < SOON_DAYS]
    if args.json:
        document = {"ok": not soon, "trusted": keys, "certificates": certificates}
        print(msgspec.json.encode(document).decode())
    else:
        _print(keys, certificates)
    return EX_FAILED if soon else 0


def _print(keys: list[dict[str, Any]], certificates: list[dict[str, Any]]) -> None:
    for key in keys:
        where = key["file"] or "its private half is not in this folder"
        print(f"trusted      {key['key']}  {key['role']} {key['name']}  {where}")
    for one in certificates:
        word = "ends" if one["days_left"] >= SOON_DAYS else "RENEW: ends"
        print(
            f"certificate  {one['account']}  {one['file']}  {word} in {one['days_left']:.0f} days"
        )


def _rotate(args: argparse.Namespace) -> int:
    folder = KeysFolder(args.directory)
    old = [key for key in folder.trusted() if (key.role, key.name) == (args.role, args.name)]
    path = folder.add_signing_key(args.role, args.name)
    print(path)
    who = "the controller's host" if args.role == "controller" else "the operator"
    steps = [
        f"1. copy {args.directory / 'trust.json'} to every node and controller, and reload them:"
        " both keys are trusted then",
        f"2. give {path} to {who} as signing_key_file, and reload",
        *(f"3. ampacity keys retire {args.directory} {key.key}, then step 1 again" for key in old),
    ]
    print("\n".join(steps), file=sys.stderr)
    return 0


def _retire(args: argparse.Namespace) -> int:
    folder = KeysFolder(args.directory)
    key = folder.retire(args.key)
    print(args.directory / "trust.json")
    print(
        f"{key.key} ({key.who}) is in trust.json no more: copy that to every node and controller,"
        " and reload them",
        file=sys.stderr,
    )
    return 0


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
