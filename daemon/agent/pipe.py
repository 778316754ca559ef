"""The pipe between the actuator and its I/O child: frames, bounds, and a non-blocking end of it.

A frame is a 4-byte big-endian length of what follows, one byte that says which kind, and JSON. The
actuator never waits for the pipe: what does not fit is dropped and counted, telemetry first, and a
child that sends nonsense is cut off. Nothing here decodes a message.

The child is started as `python -m daemon.agent.io --config PATH --fd N`, where N is its end of a
stream socket pair. The child sends `lease` and `emergency` as they came off the wire, `local` with
what the node's own UPSs say (`controllers.node_local.LocalTriggers`), and a `heartbeat` at least
once a second, from its main loop: `{"connected": bool, "detail": str}`. It is sent `status`,
`info`, `telemetry`, `applied` and `event` to publish unchanged, `refused` with the number of
messages refused by reason, for its metrics, and `reload` when the configuration file should be read
again. The first frame it gets is always the `status` whose session its last will must carry. End of
file means that the other side is gone: the child exits.
"""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from typing import Final

from facility.wire import MESSAGE_BYTES_MAX

KINDS: Final = {
    "lease": b"L",
    "emergency": b"E",
    "heartbeat": b"H",
    "local": b"U",
    "status": b"S",
    "info": b"I",
    "telemetry": b"T",
    "applied": b"A",
    "event": b"V",
    "reload": b"R",
    "refused": b"C",
}
_NAMES: Final = {code[0]: name for name, code in KINDS.items()}

LENGTH_BYTES: Final = 4
FRAME_BYTES_MAX: Final = MESSAGE_BYTES_MAX + 1
BUFFER_BYTES_MAX: Final = 2 * FRAME_BYTES_MAX
"""Most that waits to be sent: two of the largest messages, or minutes of small ones."""
TELEMETRY_BUFFER_BYTES_MAX: Final = 65_536
"""With more than this waiting the child is not reading: a frame of telemetry is worth nothing."""
READ_BYTES_MAX: Final = 65_536
"""Most that is read at once, so that a flooding child cannot keep the actuator from its timer."""


class PipeError(Exception):
    """The other side sends what is no frame."""


class PipeClosed(Exception):
    """The other side is gone."""


def encode_frame(kind: str, payload: bytes) -> bytes:
    """One frame, ready to be sent.

    Raises:
        PipeError: an unknown kind, or a payload over the largest message.
    """
    code = KINDS.get(kind)
    if code is None:
        raise PipeError(f"no frame kind is named {kind!r}; there are {', '.join(KINDS)}")
    if len(payload) > MESSAGE_BYTES_MAX:
        raise PipeError(f"{kind} of {len(payload)} bytes, at most {MESSAGE_BYTES_MAX} fit")
    return (len(payload) + 1).to_bytes(LENGTH_BYTES, "big") + code + payload


class FrameDecoder:
    """Turns a stream of bytes into frames; holds at most one unfinished frame."""

    def __init__(self) -> None:
        """Start with nothing received."""
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        """Add received bytes and return the frames now complete, as (kind, payload).

        Raises:
            PipeError: a length or a kind that no frame has; the stream cannot be trusted any more.
        """
        self._buffer += data
        frames: list[tuple[str, bytes]] = []
        start = 0
        while len(self._buffer) - start >= LENGTH_BYTES:
            body = start + LENGTH_BYTES
            size = int.from_bytes(self._buffer[start:body], "big")
            if not 1 <= size <= FRAME_BYTES_MAX:
                raise PipeError(f"a frame of {size} bytes, 1 to {FRAME_BYTES_MAX} are accepted")
            if len(self._buffer) - body < size:
                break
            name = _NAMES.get(self._buffer[body])
            if name is None:
                raise PipeError(f"no frame kind has the code {self._buffer[body]}")
            frames.append((name, bytes(self._buffer[body + 1 : body + size])))
            start = body + size
        del self._buffer[:start]
        return frames


class PipeEnd:
    """The actuator's end: neither sending nor receiving ever waits."""

    def __init__(self, end: socket.socket) -> None:
        """Take over one end of a stream socket pair."""
        end.setblocking(False)
        self._socket = end
        self._decoder = FrameDecoder()
        self._waiting = bytearray()
        self.dropped: Counter[str] = Counter()
        """Frames that did not fit, by kind."""

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    @property
    def waiting_bytes(self) -> int:
        """What the other side has not taken yet."""
        return len(self._waiting)

    def send(self, kind: str, payload: bytes) -> bool:
        """Send a frame, or keep it to send later; False when it was dropped and counted.

        Raises:
            PipeClosed: the other side is gone.
        """
        room = TELEMETRY_BUFFER_BYTES_MAX if kind == "telemetry" else BUFFER_BYTES_MAX
        if len(self._waiting) + len(payload) + LENGTH_BYTES + 1 > room:
            self.flush()
        if len(self._waiting) + len(payload) + LENGTH_BYTES + 1 > room:
            self.dropped[kind] += 1
            return False
        self._waiting += encode_frame(kind, payload)
        self.flush()
        return True

    def flush(self) -> None:
        """Send what waits, as far as the other side takes it. Raises PipeClosed."""
        while self._waiting:
            try:
                sent = self._socket.send(self._waiting)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                raise PipeClosed(str(error)) from error
            del self._waiting[:sent]

    def receive(self) -> list[tuple[str, bytes]]:
        """The frames that have arrived, at most READ_BYTES_MAX at once.

        Raises:
            PipeClosed: the other side is gone.
            PipeError: the other side sends what is no frame.
        """
        try:
            data = self._socket.recv(READ_BYTES_MAX)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError as error:
            raise PipeClosed(str(error)) from error
        if not data:
            raise PipeClosed("end of file")
        return self._decoder.feed(data)

    def finish(self) -> None:
        """Send no more: the other side reads what is on its way, then end of file.

        It may still write; closed at once, its next word would cost it ours.
        """
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()
