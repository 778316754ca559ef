"""The systemd units: they parse, they say what they must, and they agree with the defaults."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from facility.config import AgentConfig, StoreConfig

UNITS: Final = Path(__file__).resolve().parents[1] / "deploy" / "systemd"
NAMES: Final = ("agent", "controller")
EXPOSURE_MAX: Final = {"agent": 30, "controller": 15}
"""`systemd-analyze security` times ten: 0 is locked up, 100 is wide open."""

DIRECTIVES: Final = {
    "Unit": "Description Documentation Wants After StartLimitIntervalSec",
    "Service": "Type NotifyAccess ExecStart ExecReload Restart RestartSec RestartPreventExitStatus"
    " WatchdogSec TimeoutStartSec TimeoutStopSec OOMScoreAdjust DynamicUser StateDirectory"
    " StateDirectoryMode ConfigurationDirectory LoadCredential SupplementaryGroups"
    " CapabilityBoundingSet AmbientCapabilities NoNewPrivileges DevicePolicy DeviceAllow"
    " PrivateDevices PrivateTmp ProtectSystem ProtectHome ProtectClock ProtectControlGroups"
    " ProtectHostname ProtectKernelLogs ProtectKernelModules ProtectKernelTunables ProtectProc"
    " ProcSubset RestrictAddressFamilies RestrictNamespaces RestrictRealtime RestrictSUIDSGID"
    " LockPersonality MemoryDenyWriteExecute RemoveIPC UMask SystemCallArchitectures"
    " SystemCallFilter SystemCallErrorNumber",
    "Install": "WantedBy",
}
"""The directives in use, each spelt as systemd.unit(5), .service(5) and .exec(5) spell it."""


def parse(text: str) -> list[tuple[str, str, str]]:
    """A unit as (section, key, value), in order.

    Raises:
        ValueError: a line that is no section, no setting and no comment, or an unknown key.
    """
    section, found = "", []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line[0] in "#;":
            continue
        if head := re.fullmatch(r"\[(\w+)\]", line):
            section = head[1]
            continue
        setting = re.fullmatch(r"(\w+)=(.*)", line)
        if setting is None or setting[1] not in DIRECTIVES.get(section, "").split():
            raise ValueError(f"line {number}: {line!r} is no directive of [{section}]")
        found.append((section, setting[1], setting[2]))
    return found


def service(name: str) -> dict[str, str]:
    """The [Service] section of a unit; the last of repeated keys counts."""
    text = (UNITS / f"ampacity-{name}.service").read_text()
    return {key: value for section, key, value in parse(text) if section == "Service"}


def judge(text: str, folder: Path) -> str:
    """What `systemd-analyze verify` says about a unit whose program exists; nothing is good.

    Its exit status is 0 for an unknown key and for a wrong value: only its words tell. A machine
    without systemd has no judge, and there `parse` is the only one.
    """
    if shutil.which("systemd-analyze") is None:
        return ""
    unit = folder / "ampacity-judged.service"
    unit.write_text(text.replace("/opt/ampacity/bin/ampacity", sys.executable))
    run = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return run.stdout + run.stderr


@pytest.mark.parametrize("name", NAMES)
def test_the_unit_is_accepted_without_a_word(name: str, tmp_path: Path) -> None:
    text = (UNITS / f"ampacity-{name}.service").read_text()
    assert parse(text)
    assert judge(text, tmp_path) == ""


@pytest.mark.parametrize("line", ["WatchdogSek=5", "just words", "WantedBy=multi-user.target"])
def test_a_mistake_in_a_unit_is_found(line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(line)):
        parse(f"[Service]\n{line}\n")


@pytest.mark.parametrize("name", NAMES)
def test_the_unit_starts_our_command_and_waits_for_ready(name: str) -> None:
    unit = service(name)
    assert (
        unit["ExecStart"] == f"/opt/ampacity/bin/ampacity {name} --config /etc/ampacity/{name}.yaml"
    )
    assert unit["Type"] == "notify"
    assert unit["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert float(unit["WatchdogSec"]) > 0


@pytest.mark.parametrize("name", NAMES)
def test_only_a_wrong_configuration_ends_the_restarts(name: str) -> None:
    unit = service(name)
    assert unit["Restart"] == "always"
    assert unit["RestartPreventExitStatus"] == "78"
    assert "\nStartLimitIntervalSec=0\n" in (UNITS / f"ampacity-{name}.service").read_text()


def test_the_agent_keeps_its_hands_on_the_gpus_and_on_little_else() -> None:
    unit = service("agent")
    assert "PrivateDevices" not in unit
    assert unit["DevicePolicy"] == "closed"
    assert unit["DeviceAllow"] == "char-nvidia* rw"
    assert "CAP_SYS_ADMIN" in unit["CapabilityBoundingSet"].split()
    assert unit["NoNewPrivileges"] == "yes"


def test_the_controller_has_no_privilege_at_all() -> None:
    unit = service("controller")
    assert unit["CapabilityBoundingSet"] == ""
    assert unit["DynamicUser"] == unit["PrivateDevices"] == unit["NoNewPrivileges"] == "yes"


def test_state_goes_where_the_defaults_say_and_not_into_each_others_folder() -> None:
    """One host may run both, and their users differ."""
    agent = AgentConfig(
        version=1, site="s", node="n", domains=(), safe_ceiling_mhz=1_000, brake_ceiling_mhz=500
    )
    assert agent.state_dir == f"/var/lib/{service('agent')['StateDirectory']}"
    assert StoreConfig().directory == f"/var/lib/{service('controller')['StateDirectory']}"
    assert service("agent")["StateDirectory"] != service("controller")["StateDirectory"]


@pytest.mark.parametrize("name", NAMES)
def test_the_unit_stays_locked_up(name: str, tmp_path: Path) -> None:
    """Judged by systemd where it is there; what it judges by is asserted everywhere."""
    unit = service(name)
    for key in ("ProtectHome", "ProtectKernelModules", "RestrictNamespaces", "LockPersonality"):
        assert unit[key] == "yes"
    assert unit["ProtectSystem"] == "strict"
    if shutil.which("systemd-analyze"):
        copy = shutil.copy(UNITS / f"ampacity-{name}.service", tmp_path)
        run = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--no-pager",
             f"--threshold={EXPOSURE_MAX[name]}", str(copy)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert run.returncode == 0, run.stdout[-300:] + run.stderr
