"""A real VictoriaMetrics on 127.0.0.1 for tests: it takes InfluxDB v2 writes and gives them back.

Started by the test that needs it, ended by the same; its data live in the test's directory.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

PROGRAM: Final = "victoria-metrics"
READY_S_MAX: Final = 15.0
VISIBLE_S_MAX: Final = 15.0
POLL_S: Final = 0.05


class Victoria:
    """One server process. `start` after `kill` uses the same port and data."""

    def __init__(self, directory: Path, *, port: int) -> None:
        """Nothing runs until `start`."""
        self.url = f"http://127.0.0.1:{port}"
        self._address = f"127.0.0.1:{port}"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run the server and wait until it answers."""
        program = shutil.which(PROGRAM, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        assert program, f"{PROGRAM} is missing: apt-get install {PROGRAM}"
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    program,
                    f"-httpListenAddr={self._address}",
                    f"-storageDataPath={self._directory / 'data'}",
                    "-retentionPeriod=100y",
                    "-search.latencyOffset=0s",
                    "-memory.allowedBytes=64MiB",
                ],
                stdout=log,
                stderr=log,
            )
        deadline_s = time.monotonic() + READY_S_MAX
        while not self._answers():
            log_tail = (self._directory / "log").read_text()[-2_000:]
            assert self._process.poll() is None, f"{PROGRAM} ended: {log_tail}"
            assert time.monotonic() < deadline_s, f"{PROGRAM} does not answer: {log_tail}"
            time.sleep(POLL_S)

    def kill(self) -> None:
        """End the server as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the server, if it runs."""
        self._end(signal.SIGTERM)

    def export(self, selector: str) -> list[dict[str, Any]]:
        """All series that match, each with its labels (`metric`), `values` and `timestamps`."""
        self._get("/internal/force_flush")
        query = urllib.parse.urlencode({"match[]": selector})
        return [json.loads(row) for row in self._get(f"/api/v1/export?{query}").splitlines()]

    def wait_for(
        self, selector: str, complete: Callable[[list[dict[str, Any]]], bool]
    ) -> list[dict[str, Any]]:
        """The export once it is complete; fails with what there is when it never becomes so."""
        deadline_s = time.monotonic() + VISIBLE_S_MAX
        while True:
            found = self.export(selector)
            if complete(found):
                return found
            assert time.monotonic() < deadline_s, f"only {found} matches {selector}"
            time.sleep(POLL_S)

    def _answers(self) -> bool:
        try:
            return self._get("/health") == b"OK"
        except OSError:
            return False

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=5.0) as answer:
            body: bytes = answer.read()
        return body

    def _end(self, with_signal: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(with_signal)
            process.wait(timeout=15.0)
