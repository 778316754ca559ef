"""What `ampacity doctor` finds on a host: each check from its good and its bad side."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from daemon.operator.checkup import Check, ok, within
from daemon.operator.host_checks import (
    CAP_SYS_ADMIN,
    directory_checks,
    package_checks,
    permission_checks,
    python_checks,
)
from daemon.operator.link_checks import clock_checks
from tests.libnvml.handle import FakeNvml
from tests.live_site import Shell, write_files
from tests.servers import HOST, Mosquitto, take_free_port

pytest_plugins = ["tests.libnvml.fixtures"]

BINDING = frozenset({"nvidia-ml-py"})


@pytest.fixture
def ampacity(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def grades(checks: list[Check]) -> list[str]:
    return [check.grade for check in checks]


@pytest.mark.parametrize(
    ("version", "grade"),
    [((3, 10, 14), "fail"), ((3, 11, 0), "ok"), ((3, 12, 1), "ok"), ((4, 0, 0), "ok")],
)
def test_python_3_11_is_the_oldest(version: tuple[int, ...], grade: str) -> None:
    assert grades(python_checks(version)) == [grade]


def test_another_owner_of_a_module_name_fails() -> None:
    (found,) = package_checks({"daemon": ["python-daemon", "ampacity"]}, BINDING)
    assert found.grade == "fail"
    assert "python-daemon also owns the module 'daemon'" in found.sentence
    assert grades(package_checks({"daemon": ["ampacity", "ampacity"]}, BINDING)) == ["ok"]


def test_the_unofficial_or_a_missing_binding_fails() -> None:
    (shadowed,) = package_checks({}, BINDING | {"pynvml"})
    assert (shadowed.grade, "uninstall pynvml" in shadowed.sentence) == ("fail", True)
    (absent,) = package_checks({}, frozenset())
    assert (absent.grade, "install nvidia-ml-py" in absent.sentence) == ("fail", True)


def test_this_environment_is_well() -> None:
    assert grades(package_checks()) == ["ok"]


@pytest.mark.parametrize(
    ("euid", "capabilities", "grade", "said"),
    [
        (0, CAP_SYS_ADMIN, "ok", "may lock clocks"),
        (1_000, CAP_SYS_ADMIN | 1, "ok", "may lock clocks"),
        (0, CAP_SYS_ADMIN - 1, "warn", "in a container add the capability SYS_ADMIN"),
        (1_000, 0, "warn", "the service needs root"),
    ],
)
def test_permission_to_lock_clocks(euid: int, capabilities: int, grade: str, said: str) -> None:
    (found,) = permission_checks(euid=euid, capabilities=capabilities)
    assert found.grade == grade
    assert said in found.sentence


def test_a_state_directory_may_be_made_but_not_where_a_file_is(tmp_path: Path) -> None:
    assert grades(directory_checks(tmp_path, name="state")) == ["ok"]
    (coming,) = directory_checks(tmp_path / "a" / "b", name="state")
    assert (coming.grade, "made at the first start" in coming.sentence) == ("ok", True)
    assert not (tmp_path / "a").exists()  # looking makes nothing
    (tmp_path / "file").touch()
    (blocked,) = directory_checks(tmp_path / "file" / "b", name="state")
    assert (blocked.grade, "is no directory" in blocked.sentence) == ("fail", True)


def test_a_directory_that_cannot_be_written_is_not_ok() -> None:
    (found,) = directory_checks(Path("/proc/self"), name="state")
    assert found.grade == ("fail" if os.geteuid() == 0 else "warn")


@pytest.mark.parametrize(
    ("offsets", "grade", "said"),
    [
        ({}, "warn", "nobody spoke"),
        ({"n1": 2.0, "n2": -2.0, "n3": 0.0}, "ok", "within 2 s of 3 senders"),
        ({"n1": 2.1, "n2": 0.0, "n3": 0.0}, "warn", "n1 differ by more than 2 s"),
        ({"n1": 2.1, "n2": 2.2, "n3": 0.0}, "warn", "this host is about 2.1 s behind"),
        ({"n1": -9.0}, "warn", "this host is about 9.0 s ahead of"),
    ],
)
def test_clocks_are_compared_with_most_of_the_others(
    offsets: dict[str, float], grade: str, said: str
) -> None:
    (found,) = clock_checks(offsets, skew_s_max=2.0)
    assert found.grade == grade
    assert said in found.sentence


def test_a_check_that_hangs_fails_and_holds_nothing_up() -> None:
    released = threading.Event()

    def hangs() -> list[Check]:
        released.wait(30.0)
        return []

    began_s = time.monotonic()
    (found,) = within(hangs, name="gpus", timeout_s=0.05)
    released.set()
    assert (found.grade, "does not answer" in found.sentence) == ("fail", True)
    assert time.monotonic() - began_s < 5.0
    assert grades(within(lambda: [ok("gpus", "8 GPUs")], name="gpus", timeout_s=5.0)) == ["ok"]


def test_a_gpu_host_with_driver_and_broker_is_well(
    fake: FakeNvml, tmp_path: Path, ampacity: Shell
) -> None:
    with Mosquitto(tmp_path / "broker") as server:
        write_files(tmp_path, server.port)
        answer = ampacity("doctor", "--json", "--config", str(tmp_path / "agent.yaml"))
    checks = {check["name"]: check for check in answer.json["checks"]}
    assert answer.code == 0, answer
    assert answer.json["ok"] is True
    assert checks["driver"]["sentence"].startswith("NVIDIA driver ")
    assert "8 GPUs: " in checks["gpus"]["sentence"]
    assert checks["broker"]["grade"] == "ok"
    assert checks["clock"]["grade"] == "warn"  # nobody else speaks there
    assert not (tmp_path / "var").exists()
    assert fake.truth(0).writes_count == 0  # it never locked anything to see


def test_a_driver_without_a_brake_counter_is_told_with_what_it_costs(
    fake: FakeNvml, ampacity: Shell
) -> None:
    fake.reload_driver(version="575.57.08")
    checks = {check["name"]: check for check in ampacity("doctor", "--json").json["checks"]}
    assert checks["driver"]["grade"] == "warn"
    assert "575.57.08: a power brake is seen twice a second" in checks["driver"]["sentence"]
    assert "8 GPUs: " in checks["gpus"]["sentence"]
    fake.reload_driver(version="580.82.07")
    checks = {check["name"]: check for check in ampacity("doctor", "--json").json["checks"]}
    assert checks["driver"]["grade"] == "ok"


def test_a_gpu_host_without_driver_or_broker_fails_each(tmp_path: Path, ampacity: Shell) -> None:
    port = take_free_port()
    write_files(tmp_path, port)
    answer = ampacity("doctor", "--config", str(tmp_path / "agent.yaml"))
    assert answer.code == 1
    lines = answer.out.splitlines()
    assert any(line.startswith("fail  broker") and f"{HOST}:{port}" in line for line in lines)
    assert any(line.startswith(("fail  gpus", "ok    gpus")) for line in lines)
    assert answer.err == ""


def test_every_problem_of_a_file_is_a_failure(tmp_path: Path, ampacity: Shell) -> None:
    write_files(tmp_path, take_free_port())
    path = tmp_path / "agent.yaml"
    path.write_text(path.read_text().replace("safe_ceiling_mhz", "safe_cieling_mhz"))
    answer = ampacity("doctor", "--json", "--config", str(path))
    found = [one for one in answer.json["checks"] if one["name"] == "config"]
    assert answer.code == 1
    assert {one["grade"] for one in found} == {"fail"}
    assert any("agent.yaml:" in one["sentence"] for one in found)


def test_a_controllers_broken_site_file_fails(tmp_path: Path, ampacity: Shell) -> None:
    write_files(tmp_path, take_free_port())
    site = tmp_path / "site.yaml"
    site.write_text(site.read_text().replace("rating_w", "ratign_w"))
    answer = ampacity("doctor", "--json", "--config", str(tmp_path / "controller.yaml"))
    checks = {check["name"]: check for check in answer.json["checks"]}
    assert checks["config"]["grade"] == "fail"
    assert "`ampacity check` names them" in checks["config"]["sentence"]


def test_a_missing_secret_fails_with_its_file(tmp_path: Path, ampacity: Shell) -> None:
    write_files(tmp_path, take_free_port())
    path = tmp_path / "agent.yaml"
    text = path.read_text().replace(
        f"  host: {HOST}", f"  host: {HOST}\n  username: n01\n  password_file: {tmp_path}/nothing"
    )
    path.write_text(text)
    answer = ampacity("doctor", "--json", "--config", str(path))
    checks = {check["name"]: check for check in answer.json["checks"]}
    assert checks["broker"]["grade"] == "fail"
    assert f"{tmp_path}/nothing" in checks["broker"]["sentence"]
