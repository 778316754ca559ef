"""Where an operator's command finds the broker, and what it says when it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from daemon.main import COMMANDS
from daemon.operator.place import VARIABLE, named_file
from tests.live_site import SITE, Shell, write_files
from tests.servers import HOST, take_free_port
from tests.tidy.rules import HEAVY_MODULES

OPERATORS = {
    "status", "top", "explain", "events", "contingency", "brake", "release", "cap", "drain",
    "doctor",
}  # fmt: skip


@pytest.fixture
def ampacity(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def test_without_any_file_it_says_what_to_give(
    ampacity: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    answer = ampacity("status")
    assert (answer.code, answer.out) == (78, "")
    assert "give --config file, or --site name and --broker host:port" in answer.err.lower()
    assert "/etc/ampacity/controller.yaml" in answer.err


def test_files_are_looked_for_in_order(tmp_path: Path) -> None:
    first, second = str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")
    assert named_file({}, defaults=(first, second)) is None
    Path(second).touch()
    assert named_file({}, defaults=(first, second)) == second
    Path(first).touch()
    assert named_file({}, defaults=(first, second)) == first
    assert named_file({VARIABLE: "elsewhere"}, defaults=(first, second)) == "elsewhere"


@pytest.mark.parametrize("file", ["controller.yaml", "agent.yaml"])
def test_site_and_broker_come_from_either_file_or_the_environment(
    tmp_path: Path, ampacity: Shell, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    port = take_free_port()
    write_files(tmp_path, port)
    named = f"the broker at {HOST}:{port} cannot be reached"
    assert named in ampacity("status", "--config", str(tmp_path / file)).err
    monkeypatch.setenv(VARIABLE, str(tmp_path / file))
    assert named in ampacity("status").err
    other = take_free_port()
    assert f":{other} cannot" in ampacity("status", "--broker", f"{HOST}:{other}").err


def test_a_site_file_does_not_say_where_the_broker_is(tmp_path: Path, ampacity: Shell) -> None:
    write_files(tmp_path, take_free_port())
    answer = ampacity("brake", "row-1", "--config", str(tmp_path / "site.yaml"))
    assert (answer.code, answer.out) == (78, "")
    assert "is a site file, which does not say where the broker is" in answer.err


def test_a_broken_site_file_does_not_stop_an_order(tmp_path: Path, ampacity: Shell) -> None:
    port = take_free_port()
    write_files(tmp_path, port)
    site = tmp_path / "site.yaml"
    site.write_text(site.read_text().replace("rating_w", "ratign_w"))
    answer = ampacity("brake", "row-1", "--config", str(tmp_path / "controller.yaml"))
    assert "going on with its name alone, 'lab'" in answer.err
    assert (answer.code, f":{port} cannot be reached" in answer.err) == (69, True)
    site.unlink()
    gone = ampacity("brake", "row-1", "--config", str(tmp_path / "controller.yaml"))
    assert (gone.code, "cannot be read" in gone.err) == (78, True)
    named = ("--site", SITE, "--config", str(tmp_path / "controller.yaml"))
    assert ampacity("brake", "row-1", *named).code == 69


def test_events_say_where_history_is_when_it_is_not_here(tmp_path: Path, ampacity: Shell) -> None:
    write_files(tmp_path, take_free_port())
    agent = ampacity("events", "--config", str(tmp_path / "agent.yaml"))
    assert (agent.code, agent.out) == (69, "")
    assert "or listen with --follow" in agent.err
    controller_file = tmp_path / "controller.yaml"
    empty = ampacity("events", "--config", str(controller_file))
    assert empty.code == 69
    assert "history.db: cannot be read" in empty.err
    assert not (tmp_path / "store").exists()  # reading makes nothing
    for limit in ("-1", "10001", "x"):
        assert ampacity("events", "--limit", limit).code == 2


def test_an_agents_host_loads_nothing_heavy_for_any_of_the_commands() -> None:
    modules = {command.module for command in COMMANDS if command.name in OPERATORS}
    assert len(modules) == 6
    program = f"import sys, {', '.join(sorted(modules))}\nprint(*sys.modules)"
    child = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in child.stdout.split()}
    assert loaded & HEAVY_MODULES == set()
