/* Every call that the library answers about one GPU, and the entry that all of them share. */
#ifndef AMPACITY_FAKE_NVML_CALLS_H
#define AMPACITY_FAKE_NVML_CALLS_H

#include "state.h"

#include <stddef.h>

#define EXPORT __attribute__((visibility("default")))

enum {
    OK = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    GPU_IS_LOST = 15,
    VERSION_MISMATCH = 25,
};

/* Writes come last: everything from SetGpuLockedClocks on is a write. */
#define CALLS(X)                                                                                   \
    X(nvmlDeviceGetHandleByIndex_v2)                                                               \
    X(nvmlDeviceGetUUID)                                                                           \
    X(nvmlDeviceGetName)                                                                           \
    X(nvmlDeviceGetIndex)                                                                          \
    X(nvmlDeviceGetPciInfo_v3)                                                                     \
    X(nvmlDeviceGetFieldValues)                                                                    \
    X(nvmlDeviceGetPowerUsage)                                                                     \
    X(nvmlDeviceGetEnforcedPowerLimit)                                                             \
    X(nvmlDeviceGetPowerManagementLimit)                                                           \
    X(nvmlDeviceGetPowerManagementDefaultLimit)                                                    \
    X(nvmlDeviceGetPowerManagementLimitConstraints)                                                \
    X(nvmlDeviceGetTotalEnergyConsumption)                                                         \
    X(nvmlDeviceGetClockInfo)                                                                      \
    X(nvmlDeviceGetMaxClockInfo)                                                                   \
    X(nvmlDeviceGetSupportedMemoryClocks)                                                          \
    X(nvmlDeviceGetSupportedGraphicsClocks)                                                        \
    X(nvmlDeviceGetTemperature)                                                                    \
    X(nvmlDeviceGetTemperatureV)                                                                   \
    X(nvmlDeviceGetTemperatureThreshold)                                                           \
    X(nvmlDeviceGetMarginTemperature)                                                              \
    X(nvmlDeviceGetCurrentClocksEventReasons)                                                      \
    X(nvmlDeviceGetCurrentClocksThrottleReasons)                                                   \
    X(nvmlDeviceGetMigMode)                                                                        \
    X(nvmlDeviceGetPersistenceMode)                                                                \
    X(nvmlDeviceGetPerformanceState)                                                               \
    X(nvmlDeviceGetUtilizationRates)                                                               \
    X(nvmlDeviceGetMemoryInfo)                                                                     \
    X(nvmlDeviceGetMemoryInfo_v2)                                                                  \
    X(nvmlDeviceGetPcieThroughput)                                                                 \
    X(nvmlDeviceGetEncoderUtilization)                                                             \
    X(nvmlDeviceGetDecoderUtilization)                                                             \
    X(nvmlDeviceGetFanSpeed)                                                                       \
    X(nvmlDeviceGetComputeRunningProcesses_v3)                                                     \
    X(nvmlDeviceGetGraphicsRunningProcesses_v3)                                                    \
    X(nvmlDeviceSetGpuLockedClocks)                                                                \
    X(nvmlDeviceResetGpuLockedClocks)

#define X(name) CALL_##name,
enum call { CALLS(X) CALLS_COUNT };
#undef X

/* Checks, waits and errors that every call has; on OK the page is held and the GPU is up to date. */
int enter(enum call call, void *device, struct gpu **gpu);
void leave(void);

#define ENTER(name)                                                                                \
    struct gpu *gpu = NULL;                                                                        \
    int code = enter(CALL_##name, device, &gpu);                                                   \
    if (code)                                                                                      \
        return code;

#define READ_U32(name, expression)                                                                 \
    EXPORT int name(void *device, uint32_t *out) {                                                 \
        ENTER(name)                                                                                \
        *out = (uint32_t)(expression);                                                             \
        leave();                                                                                   \
        return OK;                                                                                 \
    }

/* One line of nvmlDeviceGetFieldValues, in NVIDIA's layout. */
struct field_value {
    uint32_t field, scope;
    int64_t timestamp_us, latency_us;
    uint32_t type, code;
    union {
        double real;
        uint32_t u32;
        int32_t s32;
        uint64_t u64;
        int64_t s64;
    } value;
};

void read_field(const struct gpu *gpu, uint32_t slowdown_counters_from, struct field_value *out);

#endif
