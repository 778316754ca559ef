"""The test's hand on the fake driver: builds it, loads the GPUs, breaks them, and sees the truth.

It owns the page of shared memory that the C library reads (state.h); it never answers an NVML call
itself. Constants of the part come from the twin's table, so that both have one source.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import mmap
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from ctypes import c_int64, c_size_t, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from simulator.gpu import H100_SXM, GpuConstants
from tests.libnvml.layout import WRITES_KEPT, Faults, Gpu, Load, State, constants_of

LIBRARY: Final = "libnvidia-ml.so.1"
STATE_VARIABLE: Final = "AMPACITY_NVML_STATE"
SOURCES: Final = ("library.c", "device.c", "fields.c", "model.c")


@dataclass(frozen=True, slots=True)
class LockWrite:
    """One accepted write; 0 and 0 stand for a reset. `at_ns` is CLOCK_MONOTONIC."""

    at_ns: int
    clock_mhz_min: int
    ceiling_mhz: int


@dataclass(frozen=True, slots=True)
class Truth:
    """What is really so on one GPU; the lock is the last one accepted, in force after settling."""

    clock_mhz: int
    lock_mhz_min: int
    ceiling_mhz: int
    power_w: float
    temperature_c: float
    memory_temperature_c: float
    energy_j: float
    event_reasons: int
    lost: bool
    writes_count: int
    writes_refused_count: int
    last_write_ns: int


def build(directory: Path, *, omit: Sequence[str] = ()) -> Path:
    """Compile the library into `directory` with gcc; symbols in `omit` are as if never written.

    Raises:
        RuntimeError: gcc is missing or refused, with what it said.
    """
    source = Path(__file__).parent
    target = directory / LIBRARY
    script = directory / "symbols.map"
    hidden = f"local: {'; '.join(omit)};" if omit else ""
    script.write_text(f"{{ {hidden} }};\n")
    command = [
        *("gcc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"),
        *("-fvisibility=hidden", f"-Wl,-soname,{LIBRARY}", f"-Wl,--version-script={script}"),
        *("-o", str(target), *(str(source / name) for name in SOURCES), "-lm", "-lpthread"),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except FileNotFoundError as error:
        raise RuntimeError("gcc is not installed: the fake NVML library cannot be built") from error
    if done.returncode != 0:
        raise RuntimeError(f"gcc refused the fake NVML library:\n{done.stderr}")
    return target


@functools.cache
def shared_library() -> Path:
    """The whole library, compiled once per process and removed at its end.

    The real binding finds a library by its soname, and of several with the same one it gets the
    first that was loaded: one process must never load two.
    """
    directory = tempfile.mkdtemp(prefix="ampacity-libnvml-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return build(Path(directory))


class FakeNvml:
    """A driver with GPUs, shared by this test and every process started with `environment()`.

    `gpu` is an index, or None for all of them. Faults stay until `heal`. Wattages, clocks and
    temperatures are the model's own until somebody looks: looking advances it by the time passed.
    """

    def __init__(self, path: Path, library: Path) -> None:
        """Map an existing page; use `create` to make one."""
        self.path = path
        self.library = library
        self._library = ctypes.CDLL(str(library))
        self._library.fake_nvml_layout.restype = c_size_t
        self._library.fake_nvml_call_name.restype = ctypes.c_char_p
        for name in ("start", "hold", "let_go"):
            getattr(self._library, f"fake_nvml_{name}").argtypes = [c_void_p]
        for name in ("elapse", "reload"):
            getattr(self._library, f"fake_nvml_{name}").argtypes = [c_void_p, c_int64]
        sizes = [self._library.fake_nvml_layout(what) for what in (0, 1)]
        if sizes != [ctypes.sizeof(State), ctypes.sizeof(Gpu)]:
            raise RuntimeError(f"state.h and handle.py differ: {sizes} bytes in C")
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), ctypes.sizeof(State))
        self._state = State.from_buffer(self._memory)
        self._at = c_void_p(ctypes.addressof(self._state))
        self._calls = self._call_names()

    @classmethod
    def create(
        cls,
        path: Path,
        library: Path,
        *,
        gpu_count: int = 8,
        constants: GpuConstants = H100_SXM,
        write_s: float = 0.005,
        settle_s: float = 0.02,
        frozen: bool = False,
        driver_version: str = "580.159.04",
    ) -> FakeNvml:
        """Make the page at `path` with `gpu_count` idle GPUs in air of 25 degrees.

        `write_s` is how long a clock write takes and `settle_s` how long the clock takes after it:
        medians of a published V100 set, constant here so that a test repeats. When `frozen`, model
        time stands still between calls of `elapse`; hangs and write times stay real. Field numbers
        mean what NVIDIA's headers of `driver_version` say.
        """
        path.write_bytes(bytes(ctypes.sizeof(State)))
        fake = cls(path, library)
        fake._state.gpu_count = gpu_count
        fake._state.driver_version = driver_version.encode()
        fake._state.frozen_ns = _monotonic_ns() if frozen else 0
        for index, gpu in enumerate(fake._state.gpus[:gpu_count]):
            gpu.uuid = f"GPU-{uuid.uuid5(uuid.NAMESPACE_URL, f'{path}#{index}')}".encode()
            gpu.name = constants.name.encode()
            gpu.pci_bus_id = f"00000000:{0x10 + index:02X}:00.0".encode()
            gpu.constants = constants_of(constants)
            gpu.load = Load(0.0, 0.0, 0.0, 25.0, 1.0)
            gpu.faults.write_s = write_s
            gpu.faults.settle_s = settle_s
            gpu.plant.phase_ns = index * 13_000_000  # sensors of a node are not in step
        fake._library.fake_nvml_start(fake._at)
        return fake

    def environment(self) -> dict[str, str]:
        """Variables with which a child process finds this driver; merge them into its own."""
        before = os.environ.get("LD_LIBRARY_PATH", "")
        paths = [str(self.library.parent), *([before] if before else [])]
        return {STATE_VARIABLE: str(self.path), "LD_LIBRARY_PATH": ":".join(paths)}

    # --- what the GPUs do ---------------------------------------------------------------------

    def load(
        self,
        gpu: int | None,
        *,
        a: float | None = None,
        m: float | None = None,
        c: float | None = None,
    ) -> None:
        """Set intensity `a`, bandwidth use `m` and live context `c`, each 0 to 1."""
        with self.held(gpu) as gpus:
            for one in gpus:
                one.load.intensity = one.load.intensity if a is None else a
                one.load.bandwidth = one.load.bandwidth if m is None else m
                one.load.context = one.load.context if c is None else c

    def air(self, gpu: int | None, *, temperature_c: float, airflow_ratio: float = 1.0) -> None:
        """Set the air that reaches the heat sink."""
        with self.held(gpu) as gpus:
            for one in gpus:
                one.load.air_c, one.load.airflow_ratio = temperature_c, airflow_ratio

    def heat(self, gpu: int | None, *, temperature_c: float) -> None:
        """Put die and sink at a temperature; physics goes on from there."""
        with self.held(gpu) as gpus:
            for one in gpus:
                one.plant.die_c = one.plant.sink_c = temperature_c
                one.plant.memory_c = temperature_c + one.constants.memory_rise_c

    def elapse(self, seconds: float) -> None:
        """Let model time pass at once: no test has to sleep for physics."""
        self._library.fake_nvml_elapse(self._at, int(seconds * 1e9))

    # --- what is wrong ------------------------------------------------------------------------

    def refuse(self, gpu: int | None, call: str, code: int) -> None:
        """Let a call of NVML return `code`; `call` is the symbol, `*` all and `Set*` the writes."""
        names = [name for name in self._calls if _matches(name, call)]
        if not names:
            raise ValueError(f"the fake library has no call {call!r}: {', '.join(self._calls)}")
        with self.held(gpu) as gpus:
            for one in gpus:
                for name in names:
                    one.faults.call_error[self._calls.index(name)] = code

    def refuse_field(self, gpu: int | None, field: int, code: int) -> None:
        """Let one field value return `code`."""
        with self.held(gpu) as gpus:
            for one in gpus:
                one.faults.field_error[field] = code

    def refuse_init(self, code: int) -> None:
        """Let nvmlInit return `code`, 0 for no fault."""
        self._state.init_error = code

    def lose(self, gpu: int | None) -> None:
        """Let the GPU fall off the bus: every call returns GPU_IS_LOST."""
        self.refuse(gpu, "*", 15)

    def deny_writes(self, gpu: int | None = None) -> None:
        """Let every write return NO_PERMISSION."""
        self.refuse(gpu, "Set*", 4)

    def hang(self, gpu: int | None, *, reads_s: float = 0.0, writes_s: float = 0.0) -> None:
        """Let calls of a group block, from now on for so many seconds; 0 ends it at once."""
        now_ns = _monotonic_ns()
        with self.held(gpu) as gpus:
            for one in gpus:
                one.faults.reads_hang_until_ns = now_ns + int(reads_s * 1e9)
                one.faults.writes_hang_until_ns = now_ns + int(writes_s * 1e9)

    def ignore_locks(self, gpu: int | None) -> None:
        """Let locks succeed without effect."""
        with self.held(gpu) as gpus:
            for one in gpus:
                one.faults.locks_ignored = 1

    def unlock_behind(self, gpu: int | None) -> None:
        """Lift the lock as another program would: no write of ours is counted."""
        with self.held(gpu) as gpus:
            for one in gpus:
                one.plant.next_mhz_min = one.constants.clock_mhz_min
                one.plant.next_mhz_max = one.constants.clock_mhz_max

    def clamp(self, gpu: int | None, *, clock_mhz: float) -> None:
        """Hold the clock at or below a value whatever is locked, without a word."""
        with self.held(gpu) as gpus:
            for one in gpus:
                one.faults.clamp_mhz = clock_mhz

    def limit(self, gpu: int | None, *, foreign_w: float) -> None:
        """Let somebody else limit power; 0 lifts it."""
        with self.held(gpu) as gpus:
            for one in gpus:
                one.faults.foreign_limit_w = foreign_w

    def brake(self, gpu: int | None, *, on: bool) -> None:
        """Assert or release the power brake pin."""
        with self.held(gpu) as gpus:
            for one in gpus:
                one.faults.brake = int(on)

    def mig(self, gpu: int | None, *, on: bool) -> None:
        """Switch multi-instance mode."""
        with self.held(gpu) as gpus:
            for one in gpus:
                one.faults.mig = int(on)

    def recovery(self, gpu: int | None, *, action: int) -> None:
        """Set what the driver advises: 0 none, 1 GPU reset, 2 node reboot, 4 drain and reset."""
        with self.held(gpu) as gpus:
            for one in gpus:
                one.faults.recovery_action = action

    def blank(self, gpu: int | None, field: int, value: int) -> None:
        """Let a field report a blank value as if it were a number; field 0 ends it."""
        with self.held(gpu) as gpus:
            for one in gpus:
                one.faults.blank_field, one.faults.blank_value = field, value

    def latency(self, gpu: int | None, *, write_s: float, settle_s: float) -> None:
        """Set how long a clock write takes, and the clock after it."""
        with self.held(gpu) as gpus:
            for one in gpus:
                one.faults.write_s, one.faults.settle_s = write_s, settle_s

    def heal(self, gpu: int | None = None) -> None:
        """End every fault; latencies, load and heat stay."""
        with self.held(gpu) as gpus:
            for one in gpus:
                kept = one.faults.write_s, one.faults.settle_s
                ctypes.memset(ctypes.addressof(one.faults), 0, ctypes.sizeof(Faults))
                one.faults.write_s, one.faults.settle_s = kept
                one.plant.lost = 0

    def reload_driver(self, *, down_s: float = 0.0, version: str | None = None) -> None:
        """Reload the driver: handles are void, counters restart, locks are gone.

        `version` is the driver that comes up, the same one if left out.
        """
        if version is not None:
            self._state.driver_version = version.encode()
        self._library.fake_nvml_reload(self._at, int(down_s * 1e9))

    # --- what is true -------------------------------------------------------------------------

    @property
    def gpu_count(self) -> int:
        """How many GPUs there are."""
        return int(self._state.gpu_count)

    def gpu_uuid(self, gpu: int) -> str:
        """The UUID of one GPU: the same for the same path and index."""
        return bytes(self._state.gpus[gpu].uuid).decode()

    def truth(self, gpu: int) -> Truth:
        """What is really so on one GPU, now."""
        with self.held(gpu) as (one,):
            plant = one.plant
            last = (plant.writes_count - 1) % WRITES_KEPT
            return Truth(
                clock_mhz=int(plant.clock_mhz),
                lock_mhz_min=int(plant.next_mhz_min),
                ceiling_mhz=int(plant.next_mhz_max),
                power_w=plant.power_w,
                temperature_c=plant.die_c,
                memory_temperature_c=plant.memory_c,
                energy_j=plant.energy_j,
                event_reasons=plant.reasons,
                lost=bool(plant.lost),
                writes_count=plant.writes_count,
                writes_refused_count=plant.writes_refused_count,
                last_write_ns=plant.writes[last].at_ns if plant.writes_count else 0,
            )

    def truths(self) -> list[Truth]:
        """What is really so on every GPU."""
        return [self.truth(gpu) for gpu in range(self.gpu_count)]

    def writes(self, gpu: int) -> list[LockWrite]:
        """The last accepted writes to one GPU, oldest first, at most 64."""
        with self.held(gpu) as (one,):
            count = one.plant.writes_count
            kept = [
                one.plant.writes[number % WRITES_KEPT]
                for number in range(max(0, count - WRITES_KEPT), count)
            ]
            return [
                LockWrite(write.at_ns, write.clock_mhz_min, write.clock_mhz_max) for write in kept
            ]

    def calls_count(self, call: str) -> int:
        """How often a call came from any process."""
        return int(self._state.calls_count[self._calls.index(call)])

    # ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def held(self, gpu: int | None) -> Iterator[list[Gpu]]:
        """The page locked and up to date, and the GPUs meant: every client waits meanwhile."""
        count = self.gpu_count
        if gpu is not None and not 0 <= gpu < count:
            raise ValueError(f"there is no GPU {gpu}: 0 to {count - 1}")
        self._library.fake_nvml_hold(self._at)
        try:
            yield [self._state.gpus[index] for index in (range(count) if gpu is None else (gpu,))]
        finally:
            self._library.fake_nvml_let_go(self._at)

    def _call_names(self) -> list[str]:
        names: list[str] = []
        while (name := self._library.fake_nvml_call_name(len(names))) is not None:
            names.append(name.decode())
        return names


def _matches(name: str, pattern: str) -> bool:
    if pattern == "Set*":
        return name.startswith(("nvmlDeviceSet", "nvmlDeviceReset"))
    return pattern in ("*", name)


def _monotonic_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
