"""One NVIDIA GPU behind `facility.ports.GpuPort`: fields, units, and what the part refuses.

It owns the sets of fields that are read together, the bounds of every number and the memory of
refusals. It gets the loaded binding and never imports it (`collectors.nvml` does). A blank or
impossible value is missing, never a number.

Calls, fields and units: NVML API reference 13.3. One call per class of fields, because a call costs
more than a field.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from facility.ports import (
    DriverLost,
    FastReading,
    GpuDenied,
    GpuError,
    GpuInvalid,
    GpuLost,
    GpuUnsupported,
    MediumReading,
    SlowReading,
)
from facility.wire import GpuIdentity

ERRORS: Final[dict[int, type[GpuError]]] = {
    1: DriverLost,  # UNINITIALIZED: the driver was reloaded, or the host is closed
    2: GpuInvalid,  # INVALID_ARGUMENT
    3: GpuUnsupported,  # NOT_SUPPORTED
    4: GpuDenied,  # NO_PERMISSION
    9: DriverLost,  # DRIVER_NOT_LOADED
    12: DriverLost,  # LIBRARY_NOT_FOUND
    13: GpuUnsupported,  # FUNCTION_NOT_FOUND: a driver older than the call
    15: GpuLost,  # GPU_IS_LOST
    16: GpuLost,  # RESET_REQUIRED
    17: GpuDenied,  # OPERATING_SYSTEM: the container or cgroup denies the device
    18: DriverLost,  # LIB_RM_VERSION_MISMATCH: cured by a new process only
    25: GpuUnsupported,  # ARGUMENT_VERSION_MISMATCH: the driver has the call in another version
    26: GpuUnsupported,  # DEPRECATED: it has another call instead
    28: GpuLost,  # GPU_NOT_FOUND
}
"""NVML return codes by what they mean to us; any other is a plain `GpuError`, worth a retry."""

SM: Final = 1
GPU_SENSOR: Final = 0
SLOWDOWN: Final = 1
MEMORY_MAX: Final = 2
GPU_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class _Field:
    """One field value: what it is called, its unit in ours, and what it may be in our unit."""

    name: str
    scale: float
    low: float
    high: float


_COUNTER: Final = (1e-9, 0.0, 3e9)  # nanoseconds; 2^63 of them are 9e9 s and mean "blank"
_LIMIT: Final = (1e-3, 1.0, 20_000.0)

FIELDS: Final = {
    74: _Field("POWER_POLICY", *_COUNTER),
    75: _Field("THERMAL_POLICY", *_COUNTER),
    82: _Field("MEMORY_TEMP", 1.0, 1.0, 150.0),  # 0 is what parts without the sensor say
    83: _Field("TOTAL_ENERGY", 1e-3, 0.0, 1e12),
    186: _Field("POWER_INSTANT", *_LIMIT),  # no powered board draws less than a watt
    190: _Field("POWER_CURRENT_LIMIT", *_LIMIT),
    192: _Field("POWER_REQUESTED_LIMIT", *_LIMIT),
    230: _Field("RECOVERY_ACTION", 1.0, 0.0, 255.0),
    269: _Field("SW_THERMAL_SLOWDOWN", *_COUNTER),
    270: _Field("HW_THERMAL_SLOWDOWN", *_COUNTER),
    271: _Field("POWER_BRAKE", *_COUNTER),
}
BRAKE_COUNTER: Final = f"field 271 {FIELDS[271].name}"
"""The name under which an identity tells why there is no such counter."""

CELSIUS: Final = _Field("temperature", 1.0, -60.0, 150.0)
EVENT_BITS: Final = _Field("event reasons", 1, 0, 2**32)
CLOCK_MHZ_MAX: Final = 10_000
FAST: Final = (186, 190, 271, 74)
MEDIUM: Final = (82, 83, 75, 269, 270)
SLOW: Final = (192, 230)

SLOWDOWN_COUNTERS: Final = (269, 270, 271)
SLOWDOWN_COUNTERS_SINCE: Final = (580, 82)
"""The first driver in which these numbers are the counters. By NVIDIA's own bindings they were 251
to 253 in 575.51 and 580.65, where 269 to 271 are settings of power smoothing: whoever changed such
a setting would look like the brake pin. Releases before 575 have neither."""

_VALUE_MEMBERS: Final = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


class NvmlGpu:
    """One GPU. It remembers what the part refuses and does not ask again before a re-open."""

    def __init__(self, nvml: Any, handle: Any) -> None:  # noqa: ANN401 - the binding is untyped
        """Hold a device handle; `open` reads what the GPU is."""
        self._nvml = nvml
        self._handle = handle
        self._refusals: dict[str, str] = {}  # calls and fields never asked again
        self._notes: dict[str, str] = {}  # what else to know: blanks, MIG, thresholds
        self._fields = {FAST: FAST, MEDIUM: MEDIUM, SLOW: SLOW}
        self._identity = GpuIdentity(uuid="?", index=0, model="?")
        self._temperature_c_max: float | None = None
        self._memory_temperature_c_max: float | None = None

    @classmethod
    def open(cls, nvml: Any, index: int, driver_version: str) -> NvmlGpu:  # noqa: ANN401
        """Find the GPU at an index and read what does not change before the next re-open.

        Args:
            nvml: the loaded binding.
            index: the GPU's place in the driver's list.
            driver_version: settles what some field numbers mean; empty when it is not known.

        Raises:
            GpuError: the kind says what is wrong; nothing is half-open.
        """
        try:
            gpu = cls(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
        except nvml.NVMLError as error:
            raise translated("nvmlDeviceGetHandleByIndex", error) from error
        if _release_of(driver_version) < SLOWDOWN_COUNTERS_SINCE:
            gpu._drop_slowdown_counters(driver_version)
        gpu._identify(index)
        gpu._temperature_c_max = gpu._threshold(GPU_MAX) or gpu._threshold(SLOWDOWN)
        gpu._memory_temperature_c_max = gpu._threshold(MEMORY_MAX)
        return gpu

    def identity(self) -> GpuIdentity:
        """What this GPU is, with what it has refused so far."""
        still = self._identity
        return GpuIdentity(
            uuid=still.uuid,
            index=still.index,
            model=still.model,
            pci_bus_id=still.pci_bus_id,
            clocks_mhz=still.clocks_mhz,
            power_limit_w_min=still.power_limit_w_min,
            power_limit_w_max=still.power_limit_w_max,
            power_limit_w_default=still.power_limit_w_default,
            mig=still.mig,
            refusals=self._refusals | self._notes,
        )

    def read_fast(self) -> FastReading:
        """Power, clock, enforced limit, brake and power-cap counters; see `GpuPort`."""
        found = self._read_fields(FAST)
        power_w = found.get(186)
        if power_w is None:
            power_w = self._watts("nvmlDeviceGetPowerUsage")
        if power_w is None:
            raise self._without_power()
        limit_w = found.get(190)
        if limit_w is None:
            limit_w = self._watts("nvmlDeviceGetEnforcedPowerLimit")
        return FastReading(
            power_w=power_w,
            sm_clock_mhz=self._clock_mhz(),
            power_limit_w=limit_w,
            brake_s=found.get(271),
            power_throttle_s=found.get(74),
        )

    def read_medium(self) -> MediumReading:
        """Temperatures, margins, energy, thermal counters and event bits; see `GpuPort`."""
        found = self._read_fields(MEDIUM)
        temperature_c = self._temperature_c()
        memory_c = found.get(82)
        energy_j = found.get(83)
        if energy_j is None:
            energy_mj = self._optional("nvmlDeviceGetTotalEnergyConsumption")
            energy_j = self._sane("nvmlDeviceGetTotalEnergyConsumption", energy_mj, FIELDS[83])
        reasons = self._optional("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is None:  # drivers before 535 know only the old name
            reasons = self._optional("nvmlDeviceGetCurrentClocksThrottleReasons")
        return MediumReading(
            temperature_c=temperature_c,
            margin_c=self._margin_c(temperature_c),
            memory_temperature_c=memory_c,
            memory_margin_c=_difference(self._memory_temperature_c_max, memory_c),
            energy_j=energy_j,
            thermal_throttle_s=_thermal_throttle_s(found),
            event_reasons=int(self._sane("event reasons", reasons, EVENT_BITS) or 0),
        )

    def read_slow(self) -> SlowReading:
        """Requested power limit and recovery advice; see `GpuPort`."""
        found = self._read_fields(SLOW)
        action = found.get(230)
        return SlowReading(
            power_limit_requested_w=found.get(192),
            recovery_action=None if action is None else int(action),
        )

    def lock_clocks(self, *, clock_mhz_min: int, ceiling_mhz: int) -> None:
        """Ask for a range of SM clocks. Memory clocks are never written."""
        self._call("nvmlDeviceSetGpuLockedClocks", clock_mhz_min, ceiling_mhz)

    def reset_clocks(self) -> None:
        """Lift the lock."""
        self._call("nvmlDeviceResetGpuLockedClocks")

    # --- one call -----------------------------------------------------------------------------

    def _call(self, name: str, *arguments: object) -> Any:  # noqa: ANN401
        """One call on this GPU.

        Raises:
            GpuError: translated; what is not supported is remembered and not asked again.
        """
        refusal = self._refusals.get(name)
        if refusal is not None:
            raise GpuUnsupported(f"{name}: {refusal}")
        function = getattr(self._nvml, name, None)
        if function is None:
            self._refusals[name] = "the installed binding does not have it"
            raise GpuUnsupported(f"{name}: {self._refusals[name]}")
        try:
            return function(self._handle, *arguments)
        except self._nvml.NVMLError as error:
            if ERRORS.get(error.value) is GpuUnsupported:
                self._refusals[name] = f"{error} ({error.value})"
            raise translated(name, error) from error
        except UnicodeDecodeError as error:
            raise GpuError(f"{name}: the driver's text is not readable") from error

    def _optional(self, name: str, *arguments: object) -> Any:  # noqa: ANN401
        """One call, None when this part does not support it."""
        if name in self._refusals:
            return None
        try:
            return self._call(name, *arguments)
        except GpuUnsupported:
            return None

    def _read_fields(self, group: tuple[int, ...]) -> dict[int, float]:
        """The fields of one class in our units, in one call; what is missing has no key.

        Raises:
            GpuError: the call failed, or a field says that the GPU or the driver is lost.
        """
        # In pairs with the scope, 0 for the GPU: the binding takes an exception per bare number.
        asked = [(field, 0) for field in self._fields[group]]
        values = self._optional("nvmlDeviceGetFieldValues", asked) if asked else None
        found: dict[int, float] = {}
        for value in values or ():
            field = int(value.fieldId)
            if value.nvmlReturn:
                self._field_failed(group, field, int(value.nvmlReturn))
                continue
            kind = int(value.valueType)
            raw = getattr(value.value, _VALUE_MEMBERS[kind]) if kind < 7 else None
            number = self._sane(_label(field), raw, FIELDS[field])
            if number is not None:
                found[field] = number
        return found

    def _field_failed(self, group: tuple[int, ...], field: int, code: int) -> None:
        """Drop a field that the part does not know; raise when the GPU itself is in trouble."""
        name = _label(field)
        kind = ERRORS.get(code, GpuError)
        if kind in (GpuLost, DriverLost):
            raise kind(f"{name}: code {code}")
        if kind in (GpuUnsupported, GpuInvalid):  # old drivers say "invalid" to a new field
            self._fields[group] = tuple(one for one in self._fields[group] if one != field)
            also = ": power is nvmlDeviceGetPowerUsage, mostly a 1 s mean" if field == 186 else ""
            self._refusals[name] = f"not supported ({code}){also}"

    def _drop_slowdown_counters(self, driver_version: str) -> None:
        """Do without the counters: the event bits and the older thermal counter remain."""
        for group, fields in self._fields.items():
            self._fields[group] = tuple(one for one in fields if one not in SLOWDOWN_COUNTERS)
        since = ".".join(str(part) for part in SLOWDOWN_COUNTERS_SINCE)
        reason = f"another field before driver {since}, and this is {driver_version or 'unknown'}"
        self._refusals |= {_label(field): reason for field in SLOWDOWN_COUNTERS}

    def _sane(self, name: str, raw: float | None, field: _Field) -> float | None:
        """A raw value in our unit, None when it is blank; the next good value ends the blank."""
        if raw is None:
            return None
        number = raw * field.scale
        if field.low <= number <= field.high:
            self._notes.pop(name, None)
            return number
        self._notes[name] = f"blank or impossible value {raw!r}"
        return None

    # --- what the calls say -------------------------------------------------------------------

    def _identify(self, index: int) -> None:
        limits = self._optional("nvmlDeviceGetPowerManagementLimitConstraints") or (None, None)
        constraints = "nvmlDeviceGetPowerManagementLimitConstraints"
        pci = self._optional("nvmlDeviceGetPciInfo")
        mig = (self._optional("nvmlDeviceGetMigMode") or (0,))[0] == 1
        if mig:
            self._notes["mig"] = "on: power, clocks and locks are shared by all its instances"
        self._identity = GpuIdentity(
            uuid=_text(self._call("nvmlDeviceGetUUID")),
            index=index,
            model=_text(self._optional("nvmlDeviceGetName") or "unknown"),
            pci_bus_id=_text(pci.busId) if pci is not None else "",
            clocks_mhz=self._clocks_mhz(),
            power_limit_w_min=self._sane(constraints, limits[0], FIELDS[190]),
            power_limit_w_max=self._sane(constraints, limits[1], FIELDS[190]),
            power_limit_w_default=self._watts("nvmlDeviceGetPowerManagementDefaultLimit"),
            mig=mig,
        )

    def _clocks_mhz(self) -> tuple[int, ...]:
        """The SM clocks at the highest memory clock, ascending; empty when the driver is silent."""
        memory = self._optional("nvmlDeviceGetSupportedMemoryClocks")
        if not memory:
            return ()
        clocks = self._optional("nvmlDeviceGetSupportedGraphicsClocks", max(memory)) or ()
        return tuple(sorted({int(clock) for clock in clocks if 0 < clock <= CLOCK_MHZ_MAX}))

    def _clock_mhz(self) -> int:
        clock_mhz = int(self._call("nvmlDeviceGetClockInfo", SM))
        if not 0 <= clock_mhz <= CLOCK_MHZ_MAX:
            raise GpuError(f"nvmlDeviceGetClockInfo: impossible clock {clock_mhz} MHz")
        return clock_mhz

    def _watts(self, name: str) -> float | None:
        """A power call in W, None when it is unsupported or blank."""
        return self._sane(name, self._optional(name), FIELDS[190])

    def _without_power(self) -> GpuError:
        reasons = "; ".join(f"{name}: {why}" for name, why in self.identity().refusals.items())
        kind = GpuUnsupported if "nvmlDeviceGetPowerUsage" in self._refusals else GpuError
        return kind(f"no call gives this GPU's power: {reasons}")

    def _temperature_c(self) -> float | None:
        celsius = self._optional("nvmlDeviceGetTemperatureV", GPU_SENSOR)
        if celsius is None:  # drivers before 570 know only the old call
            celsius = self._optional("nvmlDeviceGetTemperature", GPU_SENSOR)
        return self._sane("temperature", celsius, CELSIUS)

    def _margin_c(self, temperature_c: float | None) -> float | None:
        """Distance to the slowdown threshold: as the driver says it, else from its threshold."""
        margin = self._optional("nvmlDeviceGetMarginTemperature")
        margin_c = self._sane("nvmlDeviceGetMarginTemperature", margin, CELSIUS)
        if margin_c is not None:
            return margin_c
        return _difference(self._temperature_c_max, temperature_c)

    def _threshold(self, which: int) -> float | None:
        """An absolute threshold in degrees, None where the driver only speaks margins."""
        name = "nvmlDeviceGetTemperatureThreshold"
        try:
            return self._sane(f"{name} {which}", self._call(name, which), CELSIUS)
        except (GpuUnsupported, GpuInvalid):
            # One threshold may be missing while its neighbour is there.
            self._notes[f"{name} {which}"] = self._refusals.pop(name, "not known to this driver")
            return None


def translated(name: str, error: Any) -> GpuError:  # noqa: ANN401
    """An NVML error as what `facility.ports` names, with the call, the text and the code."""
    return ERRORS.get(error.value, GpuError)(f"{name}: {error} ({error.value})")


def _release_of(driver_version: str) -> tuple[int, ...]:
    """Release and update of a driver as `580.82.07` tells them, () where it does not."""
    parts = driver_version.split(".")[:2]
    return tuple(int(part) for part in parts) if all(map(str.isdecimal, parts)) else ()


def _label(field: int) -> str:
    return f"field {field} {FIELDS[field].name}"


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _difference(limit_c: float | None, temperature_c: float | None) -> float | None:
    return None if limit_c is None or temperature_c is None else limit_c - temperature_c


def _thermal_throttle_s(found: dict[int, float]) -> float | None:
    """Seconds of software and hardware slowdown together; older drivers give one counter."""
    software_s, hardware_s = found.get(269), found.get(270)
    if software_s is None or hardware_s is None:
        return found.get(75)
    return software_s + hardware_s
