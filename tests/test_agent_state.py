"""What an agent remembers on disk, and what happens when the disk is not its friend."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controllers.node_lease import EmergencyRecord, NodeMemory
from daemon.agent.state import (
    CORRUPT_FILE,
    STATE_FILE,
    DiskKeeper,
    FoundClocks,
    NodeState,
    read_state,
    write_state,
)

STATE = NodeState(
    memory=NodeMemory(
        epoch=7,
        sequence=42,
        emergencies=(EmergencyRecord(domain="ups-a", active=("ups-a-lost",), epoch=7, sequence=3),),
    ),
    found={"GPU-0": FoundClocks(clock_mhz_max=1980)},
    ceilings_mhz={"GPU-0": 1200},
)


def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for a thread of the keeper, with a deadline."""
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, "nothing happened in time"
        time.sleep(0.002)


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[DiskKeeper]:
    made = DiskKeeper(tmp_path / "state")
    yield made
    made.close()


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    write_state(tmp_path, STATE)
    assert read_state(tmp_path) == (STATE, "")


def test_a_first_start_is_no_problem(tmp_path: Path) -> None:
    assert read_state(tmp_path / "not-there") == (NodeState(), "")


def test_the_directory_is_made_for_its_owner_only(tmp_path: Path) -> None:
    write_state(tmp_path / "state", STATE)
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 4096,
        b'{"version":1,"memory":{"epoch":7',
        b"\xff\xfe",
        b'{"version":2}',
        b'{"version":1,"memory":{"epoch":-1}}',
        b'{"version":1,"ceilings_mhz":{"GPU-0":-5}}',
        b"[" * 100_000,
        b" " * 1_048_577,
    ],
)
def test_a_file_that_makes_no_sense_is_put_aside_and_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / STATE_FILE).write_bytes(content)
    state, problem = read_state(tmp_path)
    assert state == NodeState()
    assert "makes no sense" in problem
    assert "epoch floor is 0" in problem
    assert (tmp_path / CORRUPT_FILE).read_bytes() == content
    assert read_state(tmp_path) == (NodeState(), "")


def test_a_file_of_a_newer_agent_with_more_keys_is_read(tmp_path: Path) -> None:
    (tmp_path / STATE_FILE).write_bytes(b'{"version":1,"memory":{"epoch":7},"more":true}')
    assert read_state(tmp_path) == (NodeState(memory=NodeMemory(epoch=7)), "")


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / STATE_FILE).mkdir()
    state, problem = read_state(tmp_path)
    assert state == NodeState()
    assert "cannot read" in problem


def test_a_write_that_fails_leaves_the_old_state(tmp_path: Path) -> None:
    write_state(tmp_path, STATE)
    (tmp_path / f"{STATE_FILE}.part").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_state(tmp_path, NodeState())
    assert read_state(tmp_path) == (STATE, "")


def test_a_write_that_was_cut_off_leaves_the_old_state(tmp_path: Path) -> None:
    write_state(tmp_path, STATE)
    (tmp_path / f"{STATE_FILE}.part").write_bytes(b'{"version":1,"mem')
    assert read_state(tmp_path) == (STATE, "")
    write_state(tmp_path, NodeState())
    assert read_state(tmp_path) == (NodeState(), "")


def test_a_keeper_writes_what_it_is_given(keeper: DiskKeeper, tmp_path: Path) -> None:
    keeper.keep(STATE)
    until(lambda: read_state(tmp_path / "state")[0] == STATE)
    assert keeper.problem == ""


def test_closing_a_keeper_writes_what_waits(keeper: DiskKeeper, tmp_path: Path) -> None:
    for epoch in range(100):
        keeper.keep(NodeState(memory=NodeMemory(epoch=epoch)))
    keeper.close()
    assert read_state(tmp_path / "state")[0].memory.epoch == 99


def test_a_keeper_says_what_it_found_until_it_has_written(
    keeper: DiskKeeper, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / STATE_FILE).write_bytes(b"nonsense")
    assert keeper.load() == NodeState()
    assert "makes no sense" in keeper.problem
    keeper.keep(STATE)
    until(lambda: keeper.problem == "")


def test_a_full_disk_is_said_and_the_newest_state_waits(tmp_path: Path) -> None:
    # /dev/full refuses every write with "no space left", as a full disk does.
    directory = tmp_path / "state"
    directory.mkdir()
    (directory / f"{STATE_FILE}.part").symlink_to("/dev/full")
    keeper = DiskKeeper(directory)
    keeper.keep(NodeState(memory=NodeMemory(epoch=1)))
    until(lambda: "No space left" in keeper.problem)
    keeper.keep(STATE)
    (directory / f"{STATE_FILE}.part").unlink()
    keeper.close()
    assert read_state(directory) == (STATE, "")


def test_keeping_does_not_wait_for_a_disk_that_hangs(tmp_path: Path) -> None:
    # Opening a pipe for writing waits for its reader, as a sick disk waits for ever.
    directory = tmp_path / "state"
    directory.mkdir()
    os.mkfifo(directory / f"{STATE_FILE}.part")
    keeper = DiskKeeper(directory)
    began_s = time.monotonic()
    for _ in range(100):
        keeper.keep(STATE)
    assert time.monotonic() - began_s < 0.5
    assert any(thread.name == "state" for thread in threading.enumerate())
    with (directory / f"{STATE_FILE}.part").open("rb") as reader:
        reader.read()
    until(lambda: keeper.problem != "")  # a pipe cannot be synced: refused, like a disk
    (directory / f"{STATE_FILE}.part").unlink(missing_ok=True)
    keeper.close()
    assert read_state(directory) == (STATE, "")
