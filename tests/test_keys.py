"""`ampacity keys`: what it makes, what it never touches, and what it says."""

from __future__ import annotations

import datetime
import json
import stat
from pathlib import Path

import pytest
from cryptography import x509

from daemon.keys import authority
from daemon.keys.access import access_list
from daemon.keys.folder import STAFF_NAME_LENGTH_MAX, KeysError, KeysFolder, Staff
from daemon.trust_files import read_signer, read_verifier
from facility.example import row_site, site_yaml
from tests.live_site import Shell
from tests.row import site_of

NOW = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)
SERVER, CLIENT = "1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"
STAFF = Staff(controllers=("controller",), operators=("ann",), hosts=("mq.example.net", "10.0.0.1"))


@pytest.fixture
def ampacity(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


@pytest.fixture
def site_file(tmp_path: Path) -> str:
    path = tmp_path / "site.yaml"
    path.write_text(site_yaml(row_site(site="lab", nodes=3)))
    return str(path)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def contents(directory: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_init_makes_everything_that_a_site_needs(
    ampacity: Shell, directory: Path, site_file: str
) -> None:
    answer = ampacity("keys", "init", str(directory), "--site", site_file)
    assert answer.code == 0
    files = contents(directory)
    holders = ["ca", "broker", "controllers/controller", "operators/operator"]
    holders += [f"nodes/n0{number}" for number in (1, 2, 3)]
    for holder in holders:
        assert {f"{holder}.key", f"{holder}.pem"} <= files.keys()
    assert {"trust.json", "mosquitto/ampacity.acl", "mosquitto/ampacity-tls.conf"} <= files.keys()
    for path in map(Path, answer.out.splitlines()):
        assert path.exists()
    verifier = read_verifier(str(directory / "trust.json"))
    (controller,) = (directory / "signing").glob("controller-*.key")
    (operator,) = (directory / "signing").glob("operator-*.key")
    trusted = {read_signer(str(controller), "controller").trusted,
               read_signer(str(operator), "operator").trusted}  # fmt: skip
    assert set(verifier.keys) == trusted


def test_private_keys_are_for_their_owner_alone_and_no_secret_is_printed(
    ampacity: Shell, directory: Path, site_file: str
) -> None:
    answer = ampacity("keys", "init", str(directory), "--site", site_file)
    shown = ampacity("keys", "show", str(directory))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    private = list(directory.rglob("*.key"))
    assert len(private) == 9
    for path in private:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for line in path.read_text().splitlines():
            secret = json.loads(line.split(": ", 1)[1]) if '"seed"' in line else line
            if len(secret) > 30 and not secret.startswith("-"):
                assert secret not in answer.out + answer.err + shown.out


def test_a_second_init_touches_no_key_and_adds_who_is_new(
    ampacity: Shell, directory: Path, site_file: str
) -> None:
    assert ampacity("keys", "init", str(directory), "--site", site_file).code == 0
    before = contents(directory)
    Path(site_file).write_text(site_yaml(row_site(site="lab", nodes=4)))
    words = ("keys", "init", str(directory), "--site", site_file, "--operator", "ben")
    assert ampacity(*words).code == 0
    after = contents(directory)
    kept = {name for name in before if name not in ("trust.json", "mosquitto/ampacity.acl")}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert {"nodes/n04.key", "operators/ben.key"} <= after.keys() - before.keys()
    rules = after["mosquitto/ampacity.acl"].decode()
    for account in ("n04", "operator.operator", "operator.ben", "controller.controller"):
        assert f"user {account}\n" in rules
    names = {key.name for key in read_verifier(str(directory / "trust.json")).keys}
    assert names == {"site", "operator", "ben"}


def test_force_makes_every_key_anew(ampacity: Shell, directory: Path, site_file: str) -> None:
    ampacity("keys", "init", str(directory), "--site", site_file)
    before = contents(directory)
    ampacity("keys", "init", str(directory), "--site", site_file, "--force")
    after = contents(directory)
    for name in before:
        if name.endswith((".key", ".pem")) and not name.startswith("signing/"):
            assert after[name] != before[name]
    assert before["trust.json"] != after["trust.json"]
    assert len(read_verifier(str(directory / "trust.json")).keys) == 2


def test_a_signing_key_is_changed_in_steps_that_leave_somebody_trusted(
    ampacity: Shell, directory: Path, site_file: str
) -> None:
    ampacity("keys", "init", str(directory), "--site", site_file)
    (old,) = (directory / "signing").glob("controller-*.key")
    old_key = read_signer(str(old), "controller").trusted
    answer = ampacity("keys", "retire", str(directory), old_key.key)
    assert answer.code == 1
    assert "is the last key of a controller" in answer.err
    rotated = ampacity("keys", "rotate", str(directory), "controller")
    new_key = read_signer(rotated.out.strip(), "controller").trusted
    assert f"keys retire {directory} {old_key.key}" in rotated.err
    assert {old_key, new_key} <= set(read_verifier(str(directory / "trust.json")).keys)
    assert ampacity("keys", "retire", str(directory), old_key.key[:6]).code == 0
    assert old_key not in read_verifier(str(directory / "trust.json")).keys
    assert new_key in read_verifier(str(directory / "trust.json")).keys


@pytest.mark.parametrize("prefix", ["", "zz"])
def test_retire_needs_exactly_one_key(
    ampacity: Shell, directory: Path, site_file: str, prefix: str
) -> None:
    ampacity("keys", "init", str(directory), "--site", site_file)
    before = contents(directory)
    answer = ampacity("keys", "retire", str(directory), prefix)
    assert (answer.code, contents(directory)) == (1, before)
    assert "0 keys begin with" in answer.err


def test_show_says_what_ends_soon(ampacity: Shell, directory: Path, site_file: str) -> None:
    words = ("keys", "init", str(directory), "--site", site_file)
    ampacity(*words, "--days", "29")
    answer = ampacity("keys", "show", str(directory))
    assert answer.code == 1
    assert "RENEW" in answer.out
    assert ampacity("keys", "renew", str(directory), "--site", site_file).code == 0
    report = ampacity("keys", "show", str(directory), "--json").json
    assert report["ok"]
    assert {one["account"] for one in report["certificates"]} >= {"n01", "operator.operator"}


def test_renewed_certificates_keep_their_keys_and_hosts(directory: Path) -> None:
    site, folder = site_of(), KeysFolder(directory)
    folder.make(site, STAFF, now=NOW)
    before = contents(directory)
    later = NOW + datetime.timedelta(days=300)
    nobody = Staff(controllers=("controller",), operators=("ann",), hosts=())
    folder.renew(site, nobody, now=later, days=100)
    after = contents(directory)
    for name, data in after.items():
        changed = name.endswith(".pem") and name != "ca.pem"
        assert (data != before[name]) is changed, name
    assert authority.hosts_of(after["broker.pem"]) == STAFF.hosts
    assert authority.ends(after["nodes/n01.pem"]) == later + datetime.timedelta(days=100)


def test_certificates_are_good_for_one_side_only(directory: Path) -> None:
    folder = KeysFolder(directory)
    folder.make(site_of(), STAFF, now=NOW)
    for name, purpose in (("broker", SERVER), ("nodes/n01", CLIENT)):
        found = x509.load_pem_x509_certificate((directory / f"{name}.pem").read_bytes())
        usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert [one.dotted_string for one in usage] == [purpose]
        basic = found.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert not basic.ca


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--days", "0"), "--days must be above 0"),
        (("--days", "4000"), "at most 3650"),
        (("--operator", "Ann Smith"), "is no topic level"),
        (("--controller", "a/b"), "is no topic level"),
    ],
)
def test_arguments_that_cannot_be_meant_make_nothing(
    ampacity: Shell, directory: Path, site_file: str, words: tuple[str, str], expected: str
) -> None:
    answer = ampacity("keys", "init", str(directory), "--site", site_file, *words)
    assert answer.code == 2
    assert expected in answer.err
    assert not directory.exists()


def test_a_name_that_no_certificate_can_carry_makes_nothing(directory: Path) -> None:
    for length, well in ((STAFF_NAME_LENGTH_MAX, True), (STAFF_NAME_LENGTH_MAX + 1, False)):
        staff = Staff(controllers=("c" * length,), operators=("ann",), hosts=())
        folder = KeysFolder(directory / str(length))
        if well:
            folder.make(site_of(), staff, now=NOW)
            continue
        with pytest.raises(KeysError, match="longer than"):
            folder.make(site_of(), staff, now=NOW)
        assert not folder.directory.exists()


def test_a_damaged_trust_list_stops_everything_and_stays_as_it_is(
    ampacity: Shell, directory: Path, site_file: str
) -> None:
    ampacity("keys", "init", str(directory), "--site", site_file)
    (directory / "trust.json").write_text("{")
    before = contents(directory)
    for words in (("init", str(directory), "--site", site_file), ("rotate", str(directory),
                  "controller"), ("show", str(directory))):  # fmt: skip
        answer = ampacity("keys", *words)
        assert answer.code == 78
        assert "trust.json" in answer.err
    kept = contents(directory)
    assert kept == before


def test_renew_without_an_authority_says_what_to_do(
    ampacity: Shell, directory: Path, site_file: str
) -> None:
    answer = ampacity("keys", "renew", str(directory), "--site", site_file)
    assert answer.code == 1
    assert "`ampacity keys init` first" in answer.err


def test_no_account_of_staff_can_be_a_node() -> None:
    """A node's name has no dot, so no `user` line of staff is ever a node's."""
    site = site_of()
    rules = access_list(site, controllers=("n01",), operators=("n01",))
    users = [line.removeprefix("user ") for line in rules.splitlines() if line.startswith("user")]
    assert len(users) == len(set(users))
    assert [user for user in users if "." not in user] == list(site.nodes)
