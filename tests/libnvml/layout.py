"""state.h in Python: the page of shared memory, field by field, and where constants come from.

The sizes are checked against the library when a page is opened, so the two cannot drift unseen.
"""

from __future__ import annotations

from ctypes import Structure, c_char, c_double, c_int32, c_int64, c_uint64
from typing import Final

from simulator.gpu import GpuConstants

GPUS_MAX: Final = 16
CALLS_MAX: Final = 64
FIELDS_MAX: Final = 512
WRITES_KEPT: Final = 64
MUTEX_BYTES: Final = 40  # pthread_mutex_t of glibc on x86-64; the size check would tell

MEMORY_MHZ: Final = 2619.0  # HBM3 of an H100, nvidia-smi dumps
MEMORY_RISE_C: Final = 5.0  # memory over die, idle: assumption within the usual 5 to 12 K
MEMORY_K_PER_W: Final = 0.04  # and under load, by the memory's own power: assumption
POWER_FILTER_S: Final = 0.06  # of the GPU's own power-cap loop: assumption


class Constants(Structure):
    """What a part is."""

    _fields_ = [
        (name, c_double)
        for name in (
            *("static_w", "context_w", "compute_w", "memory_w", "movement_w"),
            *("knee_mhz", "voltage_ratio", "clock_mhz_min", "clock_mhz_max", "clock_mhz_step"),
            *("idle_mhz", "brake_mhz", "memory_mhz", "limit_w_min", "limit_w_max"),
            *("die_k_per_w", "die_j_per_k", "sink_k_per_w", "sink_j_per_k"),
            *("memory_rise_c", "memory_k_per_w"),
            *("temperature_c_max", "slowdown_c", "shutdown_c", "memory_c_max"),
            *("filter_s", "sensor_gain"),
        )
    ]


class Load(Structure):
    """What the GPU is made to do, and its air."""

    _fields_ = [
        (name, c_double) for name in ("intensity", "bandwidth", "context", "air_c", "airflow_ratio")
    ]


class Faults(Structure):
    """What is wrong with it."""

    _fields_ = [
        ("call_error", c_int32 * CALLS_MAX),
        ("field_error", c_int32 * FIELDS_MAX),
        ("reads_hang_until_ns", c_int64),
        ("writes_hang_until_ns", c_int64),
        ("locks_ignored", c_int32),
        ("brake", c_int32),
        ("mig", c_int32),
        ("recovery_action", c_int32),
        ("blank_field", c_int32),
        ("unused", c_int32),
        ("blank_value", c_int64),
        ("clamp_mhz", c_double),
        ("foreign_limit_w", c_double),
        ("write_s", c_double),
        ("settle_s", c_double),
    ]


class RawWrite(Structure):
    """One accepted write."""

    _fields_ = [("at_ns", c_int64), ("clock_mhz_min", c_int32), ("clock_mhz_max", c_int32)]


class Plant(Structure):
    """What is true."""

    _fields_ = [
        *((name, c_int64) for name in ("at_ns", "phase_ns", "raised_at_ns", "lowered_at_ns")),
        *((name, c_double) for name in ("clock_mhz", "cap_mhz", "thermal_mhz")),
        *((name, c_double) for name in ("lock_mhz_min", "lock_mhz_max")),
        *((name, c_double) for name in ("next_mhz_min", "next_mhz_max")),
        ("next_at_ns", c_int64),
        *((name, c_double) for name in ("limit_w", "power_w", "filtered_w", "average_w")),
        *((name, c_double) for name in ("instant_w", "window_w_sum")),
        ("window_count", c_int64),
        *((name, c_double) for name in ("die_c", "sink_c", "memory_c", "energy_j")),
        *((name, c_int64) for name in ("power_ns", "sw_thermal_ns", "hw_thermal_ns", "brake_ns")),
        *((name, c_int64) for name in ("reasons", "lost", "writes_count", "writes_refused_count")),
        ("writes", RawWrite * WRITES_KEPT),
    ]


class Gpu(Structure):
    """One GPU."""

    _fields_ = [
        ("uuid", c_char * 96),
        ("name", c_char * 96),
        ("pci_bus_id", c_char * 32),
        ("constants", Constants),
        ("load", Load),
        ("faults", Faults),
        ("plant", Plant),
    ]


class State(Structure):
    """The page."""

    _fields_ = [
        ("magic", c_uint64),
        ("gpu_count", c_int32),
        ("generation", c_int32),
        ("offset_ns", c_int64),
        ("frozen_ns", c_int64),
        ("down_until_ns", c_int64),
        ("init_error", c_int32),
        ("unused", c_int32),
        ("driver_version", c_char * 32),
        ("calls_count", c_int64 * CALLS_MAX),
        ("mutex", c_char * MUTEX_BYTES),
        ("gpus", Gpu * GPUS_MAX),
    ]


def constants_of(part: GpuConstants) -> Constants:
    """What the library must know about a part."""
    return Constants(
        static_w=part.static_power_w,
        context_w=part.context_power_w,
        compute_w=part.compute_power_w,
        memory_w=part.memory_power_w,
        movement_w=part.movement_power_w,
        knee_mhz=part.knee_mhz,
        voltage_ratio=part.voltage_ratio,
        clock_mhz_min=part.clock_mhz_min,
        clock_mhz_max=part.clock_mhz_max,
        clock_mhz_step=part.clock_mhz_step,
        idle_mhz=part.idle_clock_mhz,
        brake_mhz=part.brake_clock_mhz,
        memory_mhz=MEMORY_MHZ,
        limit_w_min=part.power_limit_w_min,
        limit_w_max=part.power_limit_w,
        die_k_per_w=part.die_sink_k_per_w,
        die_j_per_k=part.die_j_per_k,
        sink_k_per_w=part.sink_air_k_per_w,
        sink_j_per_k=part.sink_j_per_k,
        memory_rise_c=MEMORY_RISE_C,
        memory_k_per_w=MEMORY_K_PER_W,
        temperature_c_max=part.operating_temperature_c_max,
        slowdown_c=part.slowdown_temperature_c,
        shutdown_c=part.shutdown_temperature_c,
        memory_c_max=part.memory_temperature_c_max,
        filter_s=POWER_FILTER_S,
        sensor_gain=1.0,
    )
