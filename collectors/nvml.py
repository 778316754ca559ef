"""The NVIDIA driver of this node: the one module that imports NVML's binding, and only in `open`.

It owns the session and which GPUs there are, by UUID. It reads and writes nothing itself
(`collectors.nvml_gpu`), decides nothing and never retries.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

from collectors.nvml_gpu import ERRORS, NvmlGpu
from facility.ports import (
    DriverLost,
    FastReading,
    GpuDenied,
    GpuError,
    GpuPort,
    MediumReading,
    SlowReading,
)
from facility.wire import GpuIdentity

DISTRIBUTION: Final = "nvidia-ml-py"


class NvmlHost:
    """The NVIDIA driver of this node. After `DriverLost`, open it again."""

    def __init__(self) -> None:
        """Touch nothing: the binding and the driver are loaded by `open`."""
        self._nvml: Any = None
        self._uuids: dict[int, str] = {}

    def open(self) -> Sequence[GpuPort]:
        """Start a session and return every GPU, also one that is lost or denied to us.

        Raises:
            DriverLost: no binding, no driver, or one that does not answer; try again later.
            GpuDenied: this process may talk to no GPU.
            GpuError: the binding is not the official one, or no GPU answers.
        """
        self.close()
        nvml = _load_binding()
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            kind = ERRORS.get(error.value, DriverLost)
            kind = kind if kind is GpuDenied else DriverLost
            raise kind(f"nvmlInit: {error} ({error.value})") from error
        self._nvml = nvml
        try:
            return self._gpus(nvml.nvmlDeviceGetCount())
        except nvml.NVMLError as error:
            self.close()
            raise DriverLost(f"nvmlDeviceGetCount: {error} ({error.value})") from error
        except GpuError:
            self.close()
            raise

    def close(self) -> None:
        """End the session: a daemon that holds NVML blocks GPU resets. Never raises."""
        nvml, self._nvml = self._nvml, None
        if nvml is None:
            return
        try:
            nvml.nvmlShutdown()
        except nvml.NVMLError:
            return  # the driver went first; there is nothing left to let go of

    def driver_version(self) -> str:
        """The driver's version; empty without a session, or when the driver does not tell."""
        if self._nvml is None:
            return ""
        try:
            return str(self._nvml.nvmlSystemGetDriverVersion())
        except self._nvml.NVMLError:
            return ""

    def _gpus(self, count: int) -> Sequence[GpuPort]:
        driver_version = self.driver_version()
        opened = [self._try(index, driver_version) for index in range(count)]
        live = {gpu.identity().uuid for gpu in opened if isinstance(gpu, NvmlGpu)}
        if count and not live:
            raise next(error for error in opened if isinstance(error, GpuError))
        gpus: list[GpuPort] = []
        for index, gpu in enumerate(opened):
            if isinstance(gpu, NvmlGpu):
                self._uuids[index] = gpu.identity().uuid
                gpus.append(gpu)
            else:
                known = self._uuids.get(index, "")
                uuid = known if known and known not in live else f"unknown-{index}"
                gpus.append(_AbsentGpu(index, uuid, gpu))
        return gpus

    def _try(self, index: int, driver_version: str) -> NvmlGpu | GpuError:
        """One GPU, or why there is none: a sick one must not blind us to its neighbours."""
        try:
            return NvmlGpu.open(self._nvml, index, driver_version)
        except DriverLost:
            raise
        except GpuError as error:
            return error


class _AbsentGpu:
    """Holds the place of a GPU that did not open: it draws power, and every call says why not.

    Its UUID is the one that it had in an earlier session, else `unknown-<index>`.
    """

    def __init__(self, index: int, uuid: str, error: GpuError) -> None:
        self._index = index
        self._uuid = uuid
        self._kind = type(error)
        self._reason = str(error)

    def identity(self) -> GpuIdentity:
        """Who it was, and why it did not open."""
        return GpuIdentity(
            uuid=self._uuid, index=self._index, model="unknown", refusals={"open": self._reason}
        )

    def read_fast(self) -> FastReading:
        """Raise the error that opening raised."""
        raise self._kind(self._reason)

    def read_medium(self) -> MediumReading:
        """Raise the error that opening raised."""
        raise self._kind(self._reason)

    def read_slow(self) -> SlowReading:
        """Raise the error that opening raised."""
        raise self._kind(self._reason)

    def lock_clocks(self, *, clock_mhz_min: int, ceiling_mhz: int) -> None:  # noqa: ARG002
        """Raise the error that opening raised."""
        raise self._kind(self._reason)

    def reset_clocks(self) -> None:
        """Raise the error that opening raised."""
        raise self._kind(self._reason)


def _load_binding() -> Any:  # noqa: ANN401
    """The official binding, module `pynvml`.

    An unrelated distribution of that very name shadows it, and breaks calls in ways that look like
    a sick driver; it is found by its metadata folder, which costs no import.

    Raises:
        GpuError: the unofficial distribution is installed.
        DriverLost: no binding is installed.
    """
    for name in _site_names():
        if name.startswith("pynvml-") and name.endswith("-info"):
            raise GpuError(
                f"the unofficial distribution {name} shadows {DISTRIBUTION}: uninstall pynvml"
            )
    try:
        return importlib.import_module("pynvml")
    except ImportError as error:
        raise DriverLost(f"the binding is not installed: install {DISTRIBUTION}") from error


def _site_names() -> Iterator[str]:
    """The names in every folder that modules are imported from."""
    for folder in sys.path:
        with contextlib.suppress(OSError):  # archives and folders that are not there
            yield from os.listdir(folder or ".")
