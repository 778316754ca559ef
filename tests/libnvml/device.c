/* What the calls say about one GPU: power, clocks and locks, heat, event reasons. */
#define _GNU_SOURCE
#include "calls.h"

#include <math.h>

/* --- power ---------------------------------------------------------------------------------- */

READ_U32(nvmlDeviceGetPowerUsage, gpu->plant.average_w * 1e3)
READ_U32(nvmlDeviceGetEnforcedPowerLimit, limit_in_force_w(gpu) * 1e3)
READ_U32(nvmlDeviceGetPowerManagementLimit, gpu->plant.limit_w * 1e3)
READ_U32(nvmlDeviceGetPowerManagementDefaultLimit, gpu->constants.limit_w_max * 1e3)

EXPORT int nvmlDeviceGetPowerManagementLimitConstraints(void *device, uint32_t *low,
                                                        uint32_t *high) {
    ENTER(nvmlDeviceGetPowerManagementLimitConstraints)
    *low = (uint32_t)(gpu->constants.limit_w_min * 1e3);
    *high = (uint32_t)(gpu->constants.limit_w_max * 1e3);
    leave();
    return OK;
}

EXPORT int nvmlDeviceGetTotalEnergyConsumption(void *device, uint64_t *out) {
    ENTER(nvmlDeviceGetTotalEnergyConsumption)
    *out = (uint64_t)(gpu->plant.energy_j * 1e3);
    leave();
    return OK;
}

/* --- clocks --------------------------------------------------------------------------------- */

static int clock_info(struct gpu *gpu, int kind, double sm_mhz, uint32_t *out) {
    if (kind < 0 || kind > 3)
        return INVALID_ARGUMENT;
    *out = (uint32_t)(kind == 2 ? gpu->constants.memory_mhz : sm_mhz);
    return OK;
}

EXPORT int nvmlDeviceGetClockInfo(void *device, int kind, uint32_t *out) {
    ENTER(nvmlDeviceGetClockInfo)
    code = clock_info(gpu, kind, gpu->plant.clock_mhz, out);
    leave();
    return code;
}

EXPORT int nvmlDeviceGetMaxClockInfo(void *device, int kind, uint32_t *out) {
    ENTER(nvmlDeviceGetMaxClockInfo)
    code = clock_info(gpu, kind, gpu->constants.clock_mhz_max, out);
    leave();
    return code;
}

EXPORT int nvmlDeviceGetSupportedMemoryClocks(void *device, uint32_t *count, uint32_t *out) {
    ENTER(nvmlDeviceGetSupportedMemoryClocks)
    code = *count < 1 || !out ? INSUFFICIENT_SIZE : OK;
    if (code == OK)
        out[0] = (uint32_t)gpu->constants.memory_mhz;
    *count = 1;
    leave();
    return code;
}

EXPORT int nvmlDeviceGetSupportedGraphicsClocks(void *device, uint32_t memory_mhz, uint32_t *count,
                                                uint32_t *out) {
    ENTER(nvmlDeviceGetSupportedGraphicsClocks)
    const struct constants *k = &gpu->constants;
    uint32_t have = (uint32_t)((k->clock_mhz_max - k->clock_mhz_min) / k->clock_mhz_step) + 1;
    code = *count < have || !out ? INSUFFICIENT_SIZE : OK;
    if (memory_mhz != (uint32_t)k->memory_mhz)
        code = INVALID_ARGUMENT;
    for (uint32_t i = 0; code == OK && i < have; i++)
        out[i] = (uint32_t)(k->clock_mhz_max - i * k->clock_mhz_step);
    *count = have;
    leave();
    return code;
}

static void record_write(struct gpu *gpu, int32_t low, int32_t high) {
    struct plant *p = &gpu->plant;
    struct lock_write *write = &p->writes[p->writes_count % WRITES_KEPT];
    write->at_ns = monotonic_ns();
    write->clock_mhz_min = low;
    write->clock_mhz_max = high;
    __atomic_add_fetch(&p->writes_count, 1, __ATOMIC_RELEASE);
}

static void lock_clocks(struct gpu *gpu, double low, double high) {
    if (gpu->faults.locks_ignored)
        return; /* success without effect, as seen in the field */
    gpu->plant.next_mhz_min = low;
    gpu->plant.next_mhz_max = high;
    gpu->plant.next_at_ns = gpu->plant.at_ns + (int64_t)(gpu->faults.settle_s * 1e9);
}

static int on_grid(const struct constants *k, uint32_t mhz) {
    return mhz >= k->clock_mhz_min && mhz <= k->clock_mhz_max &&
           fmod(mhz - k->clock_mhz_min, k->clock_mhz_step) == 0;
}

EXPORT int nvmlDeviceSetGpuLockedClocks(void *device, uint32_t low, uint32_t high) {
    ENTER(nvmlDeviceSetGpuLockedClocks)
    const struct constants *k = &gpu->constants;
    code = low <= high && on_grid(k, low) && on_grid(k, high) ? OK : INVALID_ARGUMENT;
    if (code == OK) {
        lock_clocks(gpu, low, high);
        record_write(gpu, (int32_t)low, (int32_t)high);
    } else {
        gpu->plant.writes_refused_count += 1;
    }
    leave();
    return code;
}

EXPORT int nvmlDeviceResetGpuLockedClocks(void *device) {
    ENTER(nvmlDeviceResetGpuLockedClocks)
    lock_clocks(gpu, gpu->constants.clock_mhz_min, gpu->constants.clock_mhz_max);
    record_write(gpu, 0, 0);
    leave();
    return OK;
}

/* --- heat ----------------------------------------------------------------------------------- */

EXPORT int nvmlDeviceGetTemperature(void *device, int sensor, uint32_t *out) {
    ENTER(nvmlDeviceGetTemperature)
    code = sensor == 0 ? OK : INVALID_ARGUMENT;
    *out = (uint32_t)gpu->plant.die_c;
    leave();
    return code;
}

struct temperature {
    uint32_t version, sensor;
    int32_t celsius;
};

EXPORT int nvmlDeviceGetTemperatureV(void *device, struct temperature *out) {
    ENTER(nvmlDeviceGetTemperatureV)
    code = out->version == 0x100000C ? OK : VERSION_MISMATCH;
    out->celsius = (int32_t)gpu->plant.die_c;
    leave();
    return code;
}

EXPORT int nvmlDeviceGetTemperatureThreshold(void *device, int which, uint32_t *out) {
    ENTER(nvmlDeviceGetTemperatureThreshold)
    const struct constants *k = &gpu->constants;
    const double limits[] = {k->shutdown_c, k->slowdown_c, k->memory_c_max, k->temperature_c_max};
    code = which >= 0 && which < 4 ? OK : NOT_SUPPORTED;
    if (code == OK)
        *out = (uint32_t)limits[which];
    leave();
    return code;
}

struct margin {
    uint32_t version;
    int32_t celsius;
};

EXPORT int nvmlDeviceGetMarginTemperature(void *device, struct margin *out) {
    ENTER(nvmlDeviceGetMarginTemperature)
    code = out->version == 0x1000008 ? OK : VERSION_MISMATCH;
    out->celsius = (int32_t)gpu->constants.temperature_c_max - (int32_t)gpu->plant.die_c;
    leave();
    return code;
}

EXPORT int nvmlDeviceGetCurrentClocksEventReasons(void *device, uint64_t *out) {
    ENTER(nvmlDeviceGetCurrentClocksEventReasons)
    *out = (uint64_t)gpu->plant.reasons;
    leave();
    return OK;
}

EXPORT int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, uint64_t *out) {
    ENTER(nvmlDeviceGetCurrentClocksThrottleReasons)
    *out = (uint64_t)gpu->plant.reasons;
    leave();
    return OK;
}

/* --- what others ask ------------------------------------------------------------------------ */

READ_U32(nvmlDeviceGetPersistenceMode, 1)
READ_U32(nvmlDeviceGetPerformanceState, 0)

EXPORT int nvmlDeviceGetMigMode(void *device, uint32_t *current, uint32_t *pending) {
    ENTER(nvmlDeviceGetMigMode)
    *current = *pending = (uint32_t)gpu->faults.mig;
    leave();
    return OK;
}
