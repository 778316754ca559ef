"""What a doctor looks at on the host itself: Python, packages, the GPU driver, permission, disks.

It reads and asks; it never writes, and never locks a clock to see whether it may.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from collectors.nvml import NvmlHost
from collectors.nvml_gpu import BRAKE_COUNTER
from daemon.operator.checkup import Check, fail, ok, warn
from facility.ports import GpuDenied, GpuError
from facility.wire import GpuIdentity

PYTHON_MIN: Final = (3, 11)
OURS: Final = (
    "facility", "predictors", "controllers", "collectors", "actuators", "simulator", "daemon",
)  # fmt: skip
"""Our packages have short names, so somebody else may have taken one."""
DISTRIBUTION: Final = "ampacity"
BINDING: Final = "nvidia-ml-py"
CONTROLLER_MODULES: Final = ("numpy", "fastapi", "uvicorn", "prometheus_client")
CAP_SYS_ADMIN: Final = 1 << 21
FREE_BYTES_MIN: Final = 512 * 2**20
"""History stops writing at half of this, to leave room for the audit log."""


def python_checks(version: tuple[int, ...] = sys.version_info[:3]) -> list[Check]:
    """Whether this Python is new enough."""
    text = ".".join(str(part) for part in version)
    if version < PYTHON_MIN:
        needed = ".".join(str(part) for part in PYTHON_MIN)
        return [fail("python", f"Python {text}: {needed} or newer is needed")]
    return [ok("python", f"Python {text}")]


def package_checks(
    owners: Mapping[str, Sequence[str]] | None = None, installed: frozenset[str] | None = None
) -> list[Check]:
    """Whether another distribution owns a module name of ours, or shadows NVML's binding.

    Args:
        owners: distributions by module, read from this environment if left out.
        installed: names of installed distributions, likewise.
    """
    if owners is None:
        owners = importlib.metadata.packages_distributions()
    if installed is None:
        installed = frozenset(
            one.metadata["Name"].lower() for one in importlib.metadata.distributions()
        )
    found = [
        fail(
            "modules",
            f"distribution {other} also owns the module {module!r}, one of the two is broken:"
            f" uninstall {other}, or give Ampacity an environment of its own",
        )
        for module in OURS
        for other in sorted(set(owners.get(module, ())) - {DISTRIBUTION})
    ]
    if "pynvml" in installed:
        found.append(
            fail(
                "binding",
                f"the unofficial distribution pynvml shadows {BINDING}: uninstall pynvml, then"
                f" install {BINDING} again",
            )
        )
    elif BINDING not in installed:
        found.append(fail("binding", f"NVML's binding is not installed: install {BINDING}"))
    return found or [ok("modules", f"module names are ours, and NVML's binding is {BINDING}")]


def controller_checks() -> list[Check]:
    """Whether the libraries of a controller are here."""
    absent = [name for name in CONTROLLER_MODULES if importlib.util.find_spec(name) is None]
    if absent:
        text = f"{', '.join(absent)} not installed: install ampacity[controller]"
        return [fail("libraries", text)]
    return [ok("libraries", "the controller's libraries are installed")]


def gpu_checks(*, needed: bool) -> list[Check]:
    """The driver, its version, and which GPUs answer. May hang where the driver does.

    Args:
        needed: this is a GPU host, so no GPU is a failure.
    """
    host = NvmlHost()
    try:
        gpus = host.open()
        version = host.driver_version() or "unknown"
        identities = [gpu.identity() for gpu in gpus]
    except GpuError as error:
        if isinstance(error, GpuDenied):
            return [fail("gpus", f"{error}: this process may not use the GPU devices")]
        if needed:
            return [fail("gpus", f"{error}: install or load the NVIDIA driver")]
        return [warn("gpus", f"{error}: well on a controller's host, not on a GPU host")]
    finally:
        host.close()
    found = [_driver_check(version, identities)]
    sick = [one for one in identities if "open" in one.refusals]
    found += [
        fail("gpus", f"GPU {one.index} does not answer: {one.refusals['open']}") for one in sick
    ]
    models = sorted({one.model for one in identities if one not in sick})
    count = len(identities) - len(sick)
    if count:
        found.append(ok("gpus", f"{count} GPU{'s'[: count != 1]}: {', '.join(models)}"))
    elif not sick:
        grade = fail if needed else warn
        found.append(grade("gpus", "the driver is there and knows no GPU"))
    shared = [one.index for one in identities if one.mig]
    if shared:
        text = f"MIG is on for {shared}: their clocks can be locked, per-instance readings cannot"
        found.append(warn("mig", f"{text} be had"))
    return found


def _driver_check(version: str, identities: Sequence[GpuIdentity]) -> Check:
    """The driver's version, and whether its counters catch a power brake between two looks."""
    for one in identities:
        reason = one.refusals.get(BRAKE_COUNTER)
        if reason is not None:
            text = "a power brake is seen twice a second, not ten times, without"
            return warn("driver", f"NVIDIA driver {version}: {text} {BRAKE_COUNTER}: {reason}")
    return ok("driver", f"NVIDIA driver {version}, libnvidia-ml.so.1 is there")


def permission_checks(*, euid: int | None = None, capabilities: int | None = None) -> list[Check]:
    """Whether this process could lock clocks; the services have permissions of their own.

    Args:
        euid: effective user, this process's if left out.
        capabilities: effective capability bits, likewise.
    """
    euid = os.geteuid() if euid is None else euid
    bits = effective_capabilities() if capabilities is None else capabilities
    if bits & CAP_SYS_ADMIN:
        return [ok("permission", f"user {euid} with CAP_SYS_ADMIN may lock clocks")]
    if euid == 0:
        return [
            warn(
                "permission",
                "root without CAP_SYS_ADMIN: the driver may refuse to lock clocks; in a container"
                " add the capability SYS_ADMIN",
            )
        ]
    return [
        warn(
            "permission",
            f"user {euid} may read GPUs but not lock clocks: the service needs root, or"
            " CAP_SYS_ADMIN; run the doctor as it runs (sudo) to see what it sees",
        )
    ]


def effective_capabilities(status: Path = Path("/proc/self/status")) -> int:
    """The capability bits of this process, 0 where they cannot be read."""
    try:
        for line in status.read_text().splitlines():
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    except (OSError, ValueError, IndexError):
        pass
    return 0


def directory_checks(directory: Path, *, name: str) -> list[Check]:
    """Whether state can be kept in `directory`, which the service makes if it is not there."""
    there = directory
    while not there.exists() and there != there.parent:
        there = there.parent
    user = f"user {os.geteuid()}"
    if not there.is_dir():
        return [fail(name, f"{there} is no directory: remove it, or name another in the file")]
    if not os.access(there, os.W_OK | os.X_OK):
        text = f"{user} may not write to {there}"
        if os.geteuid() == 0:
            return [fail(name, f"{text}: it is read-only; name another directory in the file")]
        return [warn(name, f"{text}: well if the service runs as somebody else (try sudo)")]
    free_bytes = shutil.disk_usage(there).free
    free = f"{free_bytes / 2**30:.1f} GiB free"
    if free_bytes < FREE_BYTES_MIN:
        return [warn(name, f"{directory}: only {free}: history will stop soon; make room")]
    made = "" if there == directory else " (made at the first start)"
    return [ok(name, f"{directory}{made} is writable for {user}, {free}")]
