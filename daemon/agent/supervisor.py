"""The agent's main process: it runs the actuator in its own loop and minds the I/O child.

It owns clocks, signals, the child and systemd's view of the service. The loop waits for the pipe,
for hands or for the next deadline, at most 100 ms, and never for anything else. It does not decide
ceilings, and it imports nothing that speaks to a network.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec

from actuators.clocks import ClockActuator
from collectors.hwmon import HwmonSensors
from collectors.nvml import NvmlHost
from daemon.agent.actuator import Actuator
from daemon.agent.child import IoChild, Launch, launcher
from daemon.agent.configure import PYTHON, ConfigReader, ConfigRefused, read_config
from daemon.agent.hands import ThreadedHands
from daemon.agent.state import DiskKeeper
from daemon.sd_notify import Notifier
from daemon.trust_files import TrustError, read_verifier
from facility.config import AgentConfig
from facility.signing import Verifier
from facility.wire import Event, Severity, encode

log = logging.getLogger(__name__)

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_BUG: Final = 70
EXIT_CONFIG: Final = 78

CYCLE_S_MAX: Final = 0.1
"""Longest wait of the loop: heat, drift and the brake pin are looked at ten times a second."""
CYCLE_S_MIN: Final = 0.002
"""Shortest: a child that floods the pipe must not take a whole core."""
STATUS_S: Final = 1.0
"""The status sentence is sent at most this often."""
COUNTERS_S: Final = 1.0
"""And the counters of what was refused."""
EXIT_S: Final = 2.0
"""Longest wait for the writes of a clean stop, beyond the time-out of one call."""
GOODBYE_S: Final = 1.0

NEEDS_RESTART: Final = ("state_dir", "sample_hz", "call_timeout_s", "user", "sensors")
"""Keys that a running agent keeps; a reload says so. Site, node and `actuate` refuse a reload."""


def monotonic_s() -> float:
    """Seconds that also count while the machine is suspended: a lease must not outlive its time."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def run_agent(config_path: Path, *, version: str = "") -> int:
    """Become one node's agent, which runs until SIGTERM or SIGINT; SIGHUP reads the file again.

    A file that does not load is the only thing that returns: problems go to stderr. Otherwise this
    process replaces itself, keeping its id, by one that holds no command line and no parser.
    """
    try:
        config = read_config(config_path)
    except ConfigRefused as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    if os.geteuid() == 0 and config.user is None:
        text = "event=io-as-root the I/O process runs as root: name an account as `user` in %s"
        logging.getLogger(__name__).warning(text, config_path)
    descriptor = os.memfd_create("agent-config", 0)
    os.write(descriptor, msgspec.json.encode(config))
    os.lseek(descriptor, 0, os.SEEK_SET)
    # One heap instead of one per thread: the threads wait for the driver, not for memory.
    environment = os.environ | {"MALLOC_ARENA_MAX": "1"}
    level = logging.getLevelName(logging.getLogger().getEffectiveLevel()).lower()
    arguments = [*PYTHON, "-m", "daemon.agent", str(config_path), str(descriptor), version, level]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, arguments, environment)  # noqa: S606 - ourselves, no shell
    raise AssertionError("execve does not return")


def guard(config_path: Path, config: AgentConfig, *, version: str = "") -> int:
    """Run the agent in this process, unless another one has the same state directory."""
    try:
        with _only_one(Path(config.state_dir)):
            return Agent(config_path, config, version=version).run()
    except BlockingIOError:
        print(f"{config.state_dir}: another agent is running with this state", file=sys.stderr)
        return EXIT_FAILED


@contextlib.contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    """Hold the directory against a second agent; two would fight over every clock.

    A directory that cannot be written is no reason not to guard the GPUs: the keeper says so.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        log.error("event=state-unusable directory=%s error=%r", directory, str(error))
        yield
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


class Agent:
    """One run of the agent: built from a configuration that is valid, then `run` once."""

    def __init__(
        self,
        config_path: Path,
        config: AgentConfig,
        *,
        version: str = "",
        launch: Launch | None = None,
    ) -> None:
        """Put the parts together; nothing is started. `launch` starts another child than ours."""
        self._config_path = config_path
        self._config = config
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._actuator = Actuator(
            config,
            live_hands(config, self._wake),
            DiskKeeper(Path(config.state_dir)),
            session=f"{config.node[:40]}-{os.urandom(8).hex()}",
            version=version,
        )
        self._news = [self._trust(config)]
        self._child = IoChild(launch or launcher(str(config_path), config.user))
        self._notifier = Notifier(os.environ)
        self._signals: set[int] = set()
        self._reader: ConfigReader | None = None
        self._is_ready = False
        self._counted: tuple[int, dict[str, int]] = (0, {})
        self._counted_s = -COUNTERS_S
        self._cycle_s = self._alive_s = self._told_s = -CYCLE_S_MAX
        self._told = ""

    def _trust(self, config: AgentConfig) -> tuple[str, bytes]:
        """Learn whom to believe, and say so; with a file that cannot be used that is nobody.

        An agent that did not start would leave its clocks where they are: this one starts, and
        stays at the safe ceiling.
        """
        event, level = "trust", logging.INFO
        severity: Severity = "info"
        try:
            verifier = read_verifier(config.trust_file)
            names = ", ".join(key.who for key in verifier.keys) or "nobody"
            text = f"leases and emergencies are believed when signed by {names}"
            if not verifier.asks:
                event, level, severity = "trust-everybody", logging.WARNING, "warning"
                text = "there is no trust_file: whoever reaches the broker may command this node"
        except TrustError as error:
            verifier = Verifier(())
            event, level, severity = "trust-nobody", logging.CRITICAL, "critical"
            text = f"every lease is refused until this is mended: {error}"
        self._actuator.trust(verifier)
        log.log(level, "event=%s %s", event, text)
        return "event", encode(
            Event(
                event=event,
                severity=severity,
                at_s=time.time(),
                source=f"node/{config.node}",
                sentence=text[:1_024],
            )
        )

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"w")

    def run(self) -> int:
        """Run until told to stop. A bug ends in safe ceilings and exit code 70."""
        with self._handling_signals():
            self._actuator.start()
            try:
                self._loop()
            except Exception:
                log.critical("event=bug action=safe-ceiling", exc_info=True)
                self._stop()
                return EXIT_BUG
            self._notifier.tell(STOPPING="1")
            self._stop()
        return EXIT_OK

    @contextlib.contextmanager
    def _handling_signals(self) -> Iterator[None]:
        def note(number: int, _frame: FrameType | None) -> None:
            self._signals.add(number)
            self._wake()

        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = [signal.signal(number, note) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def _loop(self) -> None:
        while not self._signals & {signal.SIGTERM, signal.SIGINT}:
            now_s = self._cycle_s = monotonic_s()
            self._reload(now_s)
            incoming = self._child.receive(now_s)
            messages = self._actuator.cycle(now_s, time.time(), incoming)
            self._child.send(messages, now_s)
            if self._news and self._child.is_heard:
                self._child.send(self._news, now_s)
                self._news = []
            self._count(now_s)
            self._child.tend(now_s)
            self._tell_systemd(now_s)
            self._wait()

    def _count(self, now_s: float) -> None:
        """Tell the I/O process what was refused, for its metrics: each new child, and news."""
        refused = dict(self._actuator.refused)
        news = (self._child.starts_count, refused)
        if news == self._counted or now_s - self._counted_s < COUNTERS_S:
            return
        if self._child.is_heard:
            self._counted, self._counted_s = news, now_s
            self._child.send([("refused", msgspec.json.encode(refused))], now_s)

    def _wait(self) -> None:
        """Wait for the pipe, for hands or a signal, or until the next deadline."""
        wait_s = self._actuator.next_deadline_s() - monotonic_s()
        pipe = self._child.pipe
        readers: list[int] = [self._wake_read]
        writers: list[int] = []
        if pipe is not None:
            readers.append(pipe.fileno())
            writers += [pipe.fileno()] if pipe.waiting_bytes else []
        ready = select.select(readers, writers, [], min(max(wait_s, CYCLE_S_MIN), CYCLE_S_MAX))
        if ready[1]:
            self._child.flush(monotonic_s())
        if self._wake_read in ready[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4_096)
        early_s = self._cycle_s + CYCLE_S_MIN - monotonic_s()
        if early_s > 0.0:
            time.sleep(early_s)

    def _tell_systemd(self, now_s: float) -> None:
        """After a finished cycle: alive, ready once, and the sentence when it has changed."""
        if self._notifier.watchdog_s and now_s - self._alive_s >= self._notifier.watchdog_s / 4.0:
            self._alive_s = now_s
            self._notifier.tell(WATCHDOG="1")
        if not self._is_ready and self._actuator.is_ready:
            self._is_ready = True
            self._notifier.tell(READY="1")
            log.info("event=ready state=%r", self._actuator.sentence(now_s))
        if now_s - self._told_s >= STATUS_S:
            self._told_s = now_s
            sentence = self._actuator.sentence(now_s)
            if sentence != self._told:
                self._told = sentence
                self._notifier.tell(STATUS=sentence)

    def _reload(self, now_s: float) -> None:
        """After SIGHUP read the file again; swap it in whole, or keep the old one and say why."""
        try:
            if signal.SIGHUP in self._signals and self._reader is None:
                self._signals.discard(signal.SIGHUP)
                microseconds = str(time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000)
                self._notifier.tell(RELOADING="1", MONOTONIC_USEC=microseconds)
                self._reader = ConfigReader(self._config_path, now_s)
            found = self._reader.result(now_s) if self._reader is not None else None
            if found is None:
                return
            self._swap(found, now_s)
        except (OSError, ValueError, TrustError) as error:
            log.error("event=reload-refused kept=old error=%r", str(error))
        self._reader = None
        self._notifier.tell(READY="1")

    def _swap(self, found: AgentConfig, now_s: float) -> None:
        kept = {key: getattr(self._config, key) for key in NEEDS_RESTART}
        changed = [key for key, value in kept.items() if getattr(found, key) != value]
        config = msgspec.structs.replace(found, **kept)
        verifier = read_verifier(config.trust_file)  # before anything changes
        self._actuator.reconfigure(config)
        self._actuator.trust(verifier)
        self._config = config
        self._child.send([("reload", b"{}")], now_s)
        log.info("event=reloaded needs_restart=%s", ",".join(changed) or "none")

    def _stop(self) -> None:
        """Leave the ceilings as the policy says, say goodbye, let go; each within its time."""
        now_s = monotonic_s()
        until_s = now_s + self._config.call_timeout_s + EXIT_S
        self._child.send(self._actuator.stop(now_s), now_s)
        while not self._actuator.stopped(now_s) and now_s < until_s:
            select.select([self._wake_read], [], [], CYCLE_S_MAX)
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4_096)
            now_s = monotonic_s()
        self._child.flush(now_s)
        self._child.close(GOODBYE_S)
        self._actuator.close()
        log.info("event=stopped on_exit=%s", self._config.on_exit)


def live_hands(config: AgentConfig, wake: Callable[[], None]) -> ThreadedHands:
    """Hands over this machine's NVIDIA driver and chassis sensors."""
    sensors = config.sensors
    meter = sensors.node_power_file is not None or sensors.inlet_temperature_file is not None
    return ThreadedHands(
        NvmlHost(),
        sample_hz=config.sample_hz,
        call_timeout_s=config.call_timeout_s,
        make_writer=ClockActuator,
        clock=monotonic_s,
        sensors=(
            HwmonSensors(
                node_power_file=sensors.node_power_file,
                inlet_temperature_file=sensors.inlet_temperature_file,
            )
            if meter
            else None
        ),
        wake=wake,
    )
