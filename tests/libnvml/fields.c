/* Field values, and the calls that only a monitor beside us makes: memory, use, processes. */
#define _GNU_SOURCE
#include "calls.h"

#include <math.h>
#include <time.h>

#define U32 1u
#define U64 3u
#define S32 5u

#define SMOOTHING_SETTING 10000.0 /* any: a ramp rate, say */

static void u32(struct field_value *out, double value) {
    out->type = U32;
    out->value.u32 = (uint32_t)value;
}

static void s32(struct field_value *out, double value) {
    out->type = S32;
    out->value.s32 = (int32_t)value;
}

static void u64(struct field_value *out, double value) {
    out->type = U64;
    out->value.u64 = (uint64_t)value;
}

static int power_field(const struct gpu *gpu, struct field_value *out) {
    const struct plant *p = &gpu->plant;
    const struct constants *k = &gpu->constants;
    switch (out->field) {
    case 83: u64(out, p->energy_j * 1e3); return OK;
    case 185: u32(out, p->average_w * 1e3); return OK;
    case 186: u32(out, p->instant_w * 1e3); return OK;
    case 187: u32(out, k->limit_w_min * 1e3); return OK;
    case 188:
    case 189: u32(out, k->limit_w_max * 1e3); return OK;
    case 190: u32(out, limit_in_force_w(gpu) * 1e3); return OK;
    case 192: u32(out, p->limit_w * 1e3); return OK;
    default: return NOT_SUPPORTED;
    }
}

static int other_field(const struct gpu *gpu, struct field_value *out) {
    const struct plant *p = &gpu->plant;
    const struct constants *k = &gpu->constants;
    switch (out->field) {
    case 74: u64(out, (double)p->power_ns); return OK;
    case 75: u64(out, (double)(p->sw_thermal_ns + p->hw_thermal_ns)); return OK;
    case 82: u32(out, p->memory_c); return OK;
    case 193: s32(out, k->temperature_c_max - k->shutdown_c); return OK;
    case 194: s32(out, k->temperature_c_max - k->slowdown_c); return OK;
    case 195:
    case 196: s32(out, 0); return OK;
    case 230: u32(out, gpu->faults.recovery_action); return OK;
    default: return NOT_SUPPORTED;
    }
}

/* From 575 until 580.82 the counters had the numbers of power smoothing, and 269 to 271 were three
 * of its settings; the Blackwell parts that have it answer those with a plain number. */
static int slowdown_field(const struct gpu *gpu, uint32_t from, struct field_value *out) {
    const struct plant *p = &gpu->plant;
    if (from == 251 && out->field >= 269 && out->field <= 271) {
        u32(out, SMOOTHING_SETTING);
        return OK;
    }
    switch (from ? out->field - from : 3) {
    case 0: u64(out, (double)p->sw_thermal_ns); return OK;
    case 1: u64(out, (double)p->hw_thermal_ns); return OK;
    case 2: u64(out, (double)p->brake_ns); return OK;
    default: return NOT_SUPPORTED;
    }
}

void read_field(const struct gpu *gpu, uint32_t slowdown_counters_from, struct field_value *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    out->timestamp_us = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
    out->latency_us = 1;
    int code = power_field(gpu, out);
    if (code)
        code = other_field(gpu, out);
    if (code)
        code = slowdown_field(gpu, slowdown_counters_from, out);
    if (out->field < FIELDS_MAX && gpu->faults.field_error[out->field])
        code = gpu->faults.field_error[out->field];
    if (out->field && out->field == (uint32_t)gpu->faults.blank_field)
        out->value.s64 = gpu->faults.blank_value;
    out->code = (uint32_t)code;
}

struct utilization {
    uint32_t gpu_percent, memory_percent;
};

EXPORT int nvmlDeviceGetUtilizationRates(void *device, struct utilization *out) {
    ENTER(nvmlDeviceGetUtilizationRates)
    int busy = gpu->load.intensity > 0 || gpu->load.bandwidth > 0;
    out->gpu_percent = busy ? 100 : 0;
    out->memory_percent = (uint32_t)(gpu->load.bandwidth * 100);
    leave();
    return OK;
}

#define MEMORY_BYTES (80ull << 30)

static uint64_t used_bytes(const struct gpu *gpu) {
    return gpu->load.context > 0 ? MEMORY_BYTES / 10 * 9 : MEMORY_BYTES / 100;
}

EXPORT int nvmlDeviceGetMemoryInfo(void *device, uint64_t out[3]) {
    ENTER(nvmlDeviceGetMemoryInfo)
    out[0] = MEMORY_BYTES;
    out[1] = MEMORY_BYTES - used_bytes(gpu);
    out[2] = used_bytes(gpu);
    leave();
    return OK;
}

struct memory_v2 {
    uint32_t version;
    uint64_t total, reserved, free, used;
};

EXPORT int nvmlDeviceGetMemoryInfo_v2(void *device, struct memory_v2 *out) {
    ENTER(nvmlDeviceGetMemoryInfo_v2)
    out->total = MEMORY_BYTES;
    out->reserved = 0;
    out->free = MEMORY_BYTES - used_bytes(gpu);
    out->used = used_bytes(gpu);
    leave();
    return OK;
}

EXPORT int nvmlDeviceGetPcieThroughput(void *device, int counter, uint32_t *out) {
    ENTER(nvmlDeviceGetPcieThroughput)
    (void)counter;
    *out = (uint32_t)(gpu->load.intensity * 1e6);
    leave();
    return OK;
}

EXPORT int nvmlDeviceGetEncoderUtilization(void *device, uint32_t *out, uint32_t *period_us) {
    ENTER(nvmlDeviceGetEncoderUtilization)
    *out = *period_us = 0;
    leave();
    return OK;
}

EXPORT int nvmlDeviceGetDecoderUtilization(void *device, uint32_t *out, uint32_t *period_us) {
    ENTER(nvmlDeviceGetDecoderUtilization)
    *out = *period_us = 0;
    leave();
    return OK;
}

EXPORT int nvmlDeviceGetFanSpeed(void *device, uint32_t *out) {
    ENTER(nvmlDeviceGetFanSpeed)
    (void)out;
    leave();
    return NOT_SUPPORTED; /* an SXM board has no fan of its own */
}

EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(void *device, uint32_t *count, void *out) {
    ENTER(nvmlDeviceGetComputeRunningProcesses_v3)
    (void)out;
    *count = 0;
    leave();
    return OK;
}

EXPORT int nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, uint32_t *count, void *out) {
    ENTER(nvmlDeviceGetGraphicsRunningProcesses_v3)
    (void)out;
    *count = 0;
    leave();
    return OK;
}
