"""A stand-in for the I/O process that answers every frame of telemetry with a lease.

`python -m tests.agent_child FD LOG`: the log gets one line for each lease, with the monotonic time
before it was sent. It ends with its pipe, as the real one does, and at once when LOG.halt exists.
Once LOG.flood exists it has been taken over: it sends garbage as fast as the pipe takes it.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from pathlib import Path

from daemon.agent.pipe import FrameDecoder, encode_frame
from facility.wire import Codec, Lease, NodeTelemetry, encode

CEILING_MHZ = 1800
LEASE_S = 1.5


def answer(telemetry: NodeTelemetry, epoch: int) -> Lease:
    """A lease of every GPU in the frame."""
    return Lease(
        node=telemetry.node,
        session=telemetry.session,
        basis_seq=telemetry.seq,
        epoch=epoch,
        sequence=telemetry.seq,
        decision_id=f"d{telemetry.seq}",
        lease_s=LEASE_S,
        ceilings_mhz={gpu.uuid: CEILING_MHZ for gpu in telemetry.gpus},
        contingency_ceilings_mhz={"ups-a-lost": 900},
    )


def main(descriptor: int, log: Path) -> None:
    """Serve until the pipe ends."""
    if log.with_suffix(".halt").exists():
        return
    end = socket.socket(fileno=descriptor)
    decoder, codec = FrameDecoder(), Codec()
    with log.open("a") as lines:
        while True:
            while log.with_suffix(".flood").exists():
                end.sendall(1_000 * (encode_frame("emergency", b"{}") + encode_frame("lease", b"")))
            end.sendall(encode_frame("heartbeat", b'{"connected":true,"detail":""}'))
            if not select.select([end], [], [], 0.5)[0]:
                continue
            data = end.recv(65_536)
            if not data:
                return
            for kind, payload in decoder.feed(data):
                if kind == "telemetry":
                    lease = answer(codec.decode(payload, NodeTelemetry), epoch=1)
                    lines.write(f"{time.monotonic()}\n")
                    lines.flush()
                    end.sendall(encode_frame("lease", encode(lease)))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
