"""Keys on disk: what may be read by whom, and what an error says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daemon.trust_files import KEY_BYTES_MAX, TrustError, read_signer, read_verifier, trust_events
from facility.signing import Verifier
from tests.signatures import CONTROLLER, OPERATOR, TRUSTED, signing_key, write_key, write_trust


def test_keys_are_read(tmp_path: Path) -> None:
    path = write_key(tmp_path / "c.key", signing_key("controller"))
    assert read_signer(path, "controller").trusted == CONTROLLER.trusted
    assert read_verifier(write_trust(tmp_path / "trust.json", *TRUSTED)).keys == TRUSTED
    assert not read_verifier(None).asks


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o777])
def test_a_private_key_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = write_key(tmp_path / "c.key", signing_key("controller"))
    Path(path).chmod(mode)
    with pytest.raises(TrustError, match=r"mode 0\d{3}: others may read it.*chmod"):
        read_signer(path, "controller")


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700])
def test_a_private_key_of_the_owner_alone_is_used(tmp_path: Path, mode: int) -> None:
    path = write_key(tmp_path / "c.key", signing_key("controller"))
    Path(path).chmod(mode)
    assert read_signer(path, "controller").trusted.role == "controller"


@pytest.mark.parametrize(("mode", "inside", "well"), [
    (0o440, True, True), (0o440, False, False), (0o444, True, False),
])  # fmt: skip
def test_systemd_hands_credentials_over_by_an_access_list(
    tmp_path: Path, mode: int, inside: bool, well: bool
) -> None:
    path = write_key(tmp_path / "c.key", signing_key("controller"))
    Path(path).chmod(mode)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path if inside else tmp_path / "other")}
    if well:
        assert read_signer(path, "controller", environ=environ).trusted == CONTROLLER.trusted
        return
    with pytest.raises(TrustError, match="others may read it"):
        read_signer(path, "controller", environ=environ)


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_trust_file_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = write_trust(tmp_path / "trust.json", *TRUSTED)
    Path(path).chmod(mode)
    with pytest.raises(TrustError, match="others may write it"):
        read_verifier(path)


def test_a_key_of_another_role_is_refused(tmp_path: Path) -> None:
    path = write_key(tmp_path / "o.key", signing_key("operator"))
    with pytest.raises(TrustError, match="for the role 'operator', not 'controller'"):
        read_signer(path, "controller")


def test_an_error_names_the_file_and_repeats_nothing_of_a_secret(tmp_path: Path) -> None:
    path = tmp_path / "c.key"
    path.write_text('{"version":1,"role":"controller","seed":"c2VjcmV0"}')
    path.chmod(0o600)
    with pytest.raises(TrustError) as wrong:
        read_signer(str(path), "controller")
    assert str(path) in str(wrong.value)
    assert "c2VjcmV0" not in str(wrong.value)
    assert "secret" not in str(wrong.value)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, expected in (
        (tmp_path / "none", "No such file"),
        (tmp_path, "directory"),
        (pipe, "no regular file"),
    ):
        with pytest.raises(TrustError, match=expected):
            read_verifier(str(path))


def test_a_file_has_a_largest_size(tmp_path: Path) -> None:
    path = tmp_path / "c.key"
    path.write_bytes(b" " * (KEY_BYTES_MAX + 1))
    path.chmod(0o600)
    with pytest.raises(TrustError, match="larger than"):
        read_signer(str(path), "controller")


def test_a_controller_says_what_is_missing() -> None:
    both = trust_events(Verifier(None), None, at_s=1.0)
    assert ["no trust_file" in both[0].sentence, "no signing_key_file" in both[1].sentence] == [
        True,
        True,
    ]
    assert {event.severity for event in both} == {"warning"}
    assert not trust_events(Verifier(TRUSTED), CONTROLLER, at_s=1.0)
    (stranger,) = trust_events(Verifier((OPERATOR.trusted,)), CONTROLLER, at_s=1.0)
    assert "is not in the trust file" in stranger.sentence
