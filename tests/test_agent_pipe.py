"""The pipe and the child at its other end: bounded, never waited for, restarted when it fails."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.agent.child import HEALTHY_S, RESTART_S_MIN, SILENT_S, IoChild
from daemon.agent.pipe import (
    BUFFER_BYTES_MAX,
    FRAME_BYTES_MAX,
    KINDS,
    TELEMETRY_BUFFER_BYTES_MAX,
    FrameDecoder,
    PipeClosed,
    PipeEnd,
    PipeError,
    encode_frame,
)
from facility.wire import MESSAGE_BYTES_MAX

Pair = tuple[PipeEnd, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Our end, and the other side's socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    end = PipeEnd(ours)
    yield end, theirs
    end.close()
    theirs.close()


frames = st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.binary(max_size=200)), max_size=10)


@given(frames, st.integers(1, 50))
def test_frames_survive_any_cutting_of_the_stream(
    sent: list[tuple[str, bytes]], piece_bytes: int
) -> None:
    stream = b"".join(encode_frame(kind, payload) for kind, payload in sent)
    decoder = FrameDecoder()
    received = []
    for start in range(0, len(stream), piece_bytes):
        received += decoder.feed(stream[start : start + piece_bytes])
    assert received == sent


@given(st.binary(max_size=300))
def test_any_bytes_are_frames_or_an_error(data: bytes) -> None:
    try:
        received = FrameDecoder().feed(data)
    except PipeError:
        return
    assert all(kind in KINDS for kind, _ in received)


@pytest.mark.parametrize(
    "nonsense",
    [b"\0\0\0\0", (FRAME_BYTES_MAX + 1).to_bytes(4, "big"), b"\xff\xff\xff\xff", b"\0\0\0\1?"],
)
def test_what_is_no_frame_is_an_error(nonsense: bytes) -> None:
    with pytest.raises(PipeError):
        FrameDecoder().feed(nonsense)


def test_the_largest_message_fits_and_one_byte_more_does_not() -> None:
    frame = encode_frame("lease", b"x" * MESSAGE_BYTES_MAX)
    assert FrameDecoder().feed(frame) == [("lease", b"x" * MESSAGE_BYTES_MAX)]
    with pytest.raises(PipeError, match="at most"):
        encode_frame("lease", b"x" * (MESSAGE_BYTES_MAX + 1))
    with pytest.raises(PipeError, match="no frame kind"):
        encode_frame("spanner", b"")


def test_a_side_that_does_not_read_costs_telemetry_first_and_never_a_wait(pair: Pair) -> None:
    end, _ = pair
    while end.send("telemetry", b"x" * 8_000):
        assert end.waiting_bytes <= TELEMETRY_BUFFER_BYTES_MAX
    assert end.dropped == {"telemetry": 1}
    assert end.send("applied", b"x" * 8_000)
    while end.send("applied", b"x" * 8_000):
        assert end.waiting_bytes <= BUFFER_BYTES_MAX
    assert end.dropped == {"telemetry": 1, "applied": 1}


def test_what_waited_is_sent_whole_once_the_other_side_reads(pair: Pair) -> None:
    end, theirs = pair
    sent = 0
    while end.send("applied", bytes([sent % 256]) * 5_000):
        sent += 1
    decoder = FrameDecoder()
    received: list[tuple[str, bytes]] = []
    while len(received) < sent:
        received += decoder.feed(theirs.recv(65_536))
        end.flush()
    assert [payload[0] for _, payload in received] == [number % 256 for number in range(sent)]
    assert end.waiting_bytes == 0


def test_a_side_that_is_gone_is_noticed_either_way(pair: Pair) -> None:
    end, theirs = pair
    assert end.receive() == []
    theirs.close()
    with pytest.raises(PipeClosed):
        end.receive()
    with pytest.raises(PipeClosed):
        end.send("status", b"{}")


# --- the child -----------------------------------------------------------------------------------

READER = """
import socket, sys
end = socket.socket(fileno=int(sys.argv[1]))
try:
    end.sendall(bytes.fromhex(sys.argv[2]))
    while end.recv(65536):
        pass
except ConnectionError:
    pass
"""


def reader(say: bytes = b"") -> Callable[[int], subprocess.Popen[bytes]]:
    """A child that says something and then reads until its pipe ends."""

    def launch(descriptor: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", READER, str(descriptor), say.hex()]
        return subprocess.Popen(command, pass_fds=(descriptor,))

    return launch


@pytest.fixture
def made() -> Iterator[list[IoChild]]:
    """Children to be ended by the test's end."""
    children: list[IoChild] = []
    yield children
    for child in children:
        child.close(5.0)


def heard(child: IoChild, now_s: float) -> list[tuple[str, bytes]]:
    """What the child says, waited for."""
    assert child.pipe is not None
    select.select([child.pipe.fileno()], [], [], 5.0)
    return child.receive(now_s)


def test_a_child_is_started_and_told_the_state_of_the_node(made: list[IoChild]) -> None:
    kept: list[socket.socket] = []

    def launch(descriptor: int) -> subprocess.Popen[bytes]:
        kept.append(socket.socket(fileno=os.dup(descriptor)))
        return reader()(descriptor)

    child = IoChild(launch)
    made.append(child)
    child.send([("applied", b"1"), ("status", b"2"), ("event", b"lost"), ("info", b"3")], 0.0)
    child.tend(0.0)
    child.send([("telemetry", b"4")], 0.1)
    received = FrameDecoder().feed(kept[0].recv(4_096, socket.MSG_PEEK))
    assert received == [("status", b"2"), ("info", b"3"), ("applied", b"1"), ("telemetry", b"4")]
    kept[0].close()


def kill(child: IoChild, now_s: float, number: int = signal.SIGKILL) -> None:
    """End the child's process and wait until its owner has noticed."""
    process_id = child.process_id
    assert process_id is not None
    os.kill(process_id, number)
    end_s = time.monotonic() + 5.0
    while child.process_id is not None:
        assert time.monotonic() < end_s, "the end of the child was not noticed"
        time.sleep(0.002)
        child.tend(now_s)


def test_a_child_that_dies_is_started_again_after_a_growing_wait(made: list[IoChild]) -> None:
    child = IoChild(reader())
    made.append(child)
    now_s, waits_s = 0.0, []
    child.tend(now_s)
    for _ in range(4):
        kill(child, now_s)
        began_s = now_s
        while child.process_id is None:
            now_s += 0.125
            child.tend(now_s)
        waits_s.append(now_s - began_s)
    assert waits_s == [0.5, 1.0, 2.0, 4.0]
    assert child.starts_count == 5


def test_a_child_that_ran_well_for_a_while_is_started_again_at_once(made: list[IoChild]) -> None:
    child = IoChild(reader(encode_frame("heartbeat", b"{}")))
    made.append(child)
    child.tend(0.0)
    kill(child, 0.0)
    child.tend(RESTART_S_MIN)
    assert heard(child, HEALTHY_S) == []
    kill(child, HEALTHY_S + 1.0)
    child.tend(HEALTHY_S + 1.0 + RESTART_S_MIN)
    assert child.starts_count == 3


def test_a_silent_child_is_killed_and_one_that_beats_is_not(made: list[IoChild]) -> None:
    child = IoChild(reader(encode_frame("heartbeat", b"{}")))
    made.append(child)
    child.tend(0.0)
    assert heard(child, 5.0) == []
    child.tend(5.0 + SILENT_S)
    assert child.process_id is not None
    child.tend(5.0 + SILENT_S + 0.1)
    assert child.process_id is None


def test_a_stopped_child_is_killed_too(made: list[IoChild]) -> None:
    child = IoChild(reader())
    made.append(child)
    child.tend(0.0)
    process_id = child.process_id
    assert process_id is not None
    os.kill(process_id, signal.SIGSTOP)
    child.tend(SILENT_S + 0.1)
    assert child.process_id is None
    with contextlib.suppress(ChildProcessError):  # its owner has reaped it already
        assert os.waitid(os.P_PID, process_id, os.WEXITED) is not None


def test_leases_and_emergencies_come_through_and_heartbeats_do_not(made: list[IoChild]) -> None:
    say = encode_frame("heartbeat", b"{}") + encode_frame("lease", b"1")
    child = IoChild(reader(say + encode_frame("emergency", b"2")))
    made.append(child)
    child.tend(0.0)
    assert heard(child, 0.1) == [("lease", b"1"), ("emergency", b"2")]


def test_a_child_that_sends_nonsense_is_cut_off(made: list[IoChild]) -> None:
    child = IoChild(reader(b"\xff" * 100))
    made.append(child)
    child.tend(0.0)
    assert heard(child, 0.1) == []
    assert child.process_id is None


def test_a_child_that_cannot_be_started_is_tried_again(made: list[IoChild]) -> None:
    def launch(descriptor: int) -> subprocess.Popen[bytes]:
        raise OSError(f"no more processes for {descriptor}")

    child = IoChild(launch)
    made.append(child)
    child.tend(0.0)
    child.send([("status", b"{}")], 0.0)
    child.tend(0.1)
    assert child.process_id is None
    assert child.starts_count == 0
