/* The library itself: opening, handles, what every call has in common, and the handle.py side.
 *
 * Written from NVIDIA's public interface description; nothing of NVIDIA's is in here. A symbol
 * that is not here is FUNCTION_NOT_FOUND to the Python binding, as with an old driver.
 */
#define _GNU_SOURCE
#include "calls.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;
static struct state *page; /* never unmapped: a hung call may still be inside */
static int opened;
static int generation;
static char attached[4096]; /* the page's path */

static const char *const CALL_NAMES[] = {
#define X(name) #name,
    CALLS(X)
#undef X
};

/* --- for handle.py -------------------------------------------------------------------------- */

EXPORT size_t fake_nvml_layout(int what) {
    return what == 0 ? sizeof(struct state) : sizeof(struct gpu);
}

EXPORT const char *fake_nvml_call_name(int call) {
    return call >= 0 && call < CALLS_COUNT ? CALL_NAMES[call] : NULL;
}

EXPORT void fake_nvml_start(struct state *state) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&state->mutex, &attributes);
    for (int i = 0; i < state->gpu_count; i++)
        plant_start(&state->gpus[i], model_ns(state));
    __atomic_store_n(&state->magic, MAGIC, __ATOMIC_RELEASE);
}

static void advance_all(struct state *state) {
    for (int i = 0; i < state->gpu_count; i++)
        plant_advance(&state->gpus[i], model_ns(state));
}

EXPORT void fake_nvml_hold(struct state *state) {
    hold(state);
    advance_all(state);
}

EXPORT void fake_nvml_let_go(struct state *state) { let_go(state); }

EXPORT void fake_nvml_elapse(struct state *state, int64_t ns) {
    hold(state);
    advance_all(state);
    state->offset_ns += ns;
    advance_all(state);
    let_go(state);
}

EXPORT void fake_nvml_reload(struct state *state, int64_t down_ns) {
    hold(state);
    advance_all(state);
    state->generation += 1;
    state->down_until_ns = monotonic_ns() + down_ns;
    for (int i = 0; i < state->gpu_count; i++)
        plant_reload(&state->gpus[i], model_ns(state));
    let_go(state);
}

/* --- the library ---------------------------------------------------------------------------- */

static int map_page(void) {
    const char *path = getenv("AMPACITY_NVML_STATE");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0)
        return DRIVER_NOT_LOADED;
    void *memory = mmap(NULL, sizeof(struct state), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (memory == MAP_FAILED)
        return DRIVER_NOT_LOADED;
    struct state *candidate = memory;
    if (__atomic_load_n(&candidate->magic, __ATOMIC_ACQUIRE) != MAGIC)
        return DRIVER_NOT_LOADED;
    page = candidate;
    snprintf(attached, sizeof attached, "%s", path);
    return OK;
}

/* In a test process the next test brings the next page; a user left over from the last test must
 * not keep the library at the old one. */
static int elsewhere(void) {
    const char *path = getenv("AMPACITY_NVML_STATE");
    return path && strcmp(path, attached) != 0;
}

static int down(void) { return monotonic_ns() < page->down_until_ns; }

EXPORT int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    pthread_mutex_lock(&opening);
    if (opened && elsewhere())
        opened = 0;
    int code = opened ? OK : map_page();
    if (code == OK)
        code = down() ? DRIVER_NOT_LOADED : page->init_error;
    if (code == OK) {
        if (!opened)
            generation = page->generation;
        opened += 1;
    }
    pthread_mutex_unlock(&opening);
    return code;
}

EXPORT int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

EXPORT int nvmlShutdown(void) {
    pthread_mutex_lock(&opening);
    int code = opened ? OK : UNINITIALIZED;
    opened -= opened > 0;
    pthread_mutex_unlock(&opening);
    return code;
}

static int alive(void) {
    if (!opened || !page || generation != page->generation)
        return UNINITIALIZED;
    return down() ? DRIVER_NOT_LOADED : OK;
}

static void wait_while_hung(const struct gpu *gpu, int write) {
    const struct timespec nap = {0, 2000000};
    const volatile int64_t *until =
        write ? &gpu->faults.writes_hang_until_ns : &gpu->faults.reads_hang_until_ns;
    while (monotonic_ns() < *until)
        nanosleep(&nap, NULL);
}

static void wait_for_write(const struct gpu *gpu) {
    double seconds = gpu->faults.write_s;
    struct timespec nap = {(time_t)seconds, (long)(fmod(seconds, 1) * 1e9)};
    if (seconds > 0)
        nanosleep(&nap, NULL);
}

int enter(enum call call, void *device, struct gpu **out) {
    int code = alive();
    if (code)
        return code;
    intptr_t index = (intptr_t)device - 1 - (intptr_t)generation * GPUS_MAX;
    if (index < 0 || index >= page->gpu_count)
        return INVALID_ARGUMENT;
    struct gpu *gpu = &page->gpus[index];
    int write = call >= CALL_nvmlDeviceSetGpuLockedClocks;
    __atomic_add_fetch(&page->calls_count[call], 1, __ATOMIC_RELAXED);
    wait_while_hung(gpu, write);
    if (write)
        wait_for_write(gpu);
    code = alive();
    if (code)
        return code;
    hold(page);
    plant_advance(gpu, model_ns(page));
    code = gpu->plant.lost ? GPU_IS_LOST : gpu->faults.call_error[call];
    if (code) {
        gpu->plant.writes_refused_count += write;
        let_go(page);
        return code;
    }
    *out = gpu;
    return OK;
}

void leave(void) { let_go(page); }

EXPORT int nvmlDeviceGetCount_v2(uint32_t *count) {
    int code = alive();
    if (!code)
        *count = (uint32_t)page->gpu_count;
    return code;
}

/* Where the headers of this driver's release put the slowdown counters; 0 before there were any. */
static uint32_t slowdown_counters_from(void) {
    int release = 0, update = 0;
    sscanf(page->driver_version, "%d.%d", &release, &update);
    if (release > 580 || (release == 580 && update >= 82))
        return 269;
    return release >= 575 ? 251 : 0;
}

EXPORT int nvmlDeviceGetFieldValues(void *device, int count, struct field_value *values) {
    ENTER(nvmlDeviceGetFieldValues)
    for (int i = 0; i < count; i++)
        read_field(gpu, slowdown_counters_from(), &values[i]);
    leave();
    return OK;
}

EXPORT int nvmlSystemGetDriverVersion(char *out, uint32_t size) {
    int code = alive();
    if (!code)
        snprintf(out, size, "%s", page->driver_version);
    return code;
}

EXPORT int nvmlSystemGetNVMLVersion(char *out, uint32_t size) {
    int code = alive();
    if (!code)
        snprintf(out, size, "13.%s", page->driver_version);
    return code;
}

EXPORT int nvmlSystemGetCudaDriverVersion_v2(int *out) {
    *out = 13000;
    return alive();
}

EXPORT const char *nvmlErrorString(int code) {
    (void)code;
    return "error of the test library";
}

EXPORT int nvmlDeviceGetHandleByIndex_v2(uint32_t index, void **out) {
    struct gpu *gpu;
    void *device = (void *)((intptr_t)index + 1 + (intptr_t)generation * GPUS_MAX);
    int code = enter(CALL_nvmlDeviceGetHandleByIndex_v2, device, &gpu);
    if (code)
        return code;
    *out = device;
    leave();
    return OK;
}

#define READ_TEXT(name, member)                                                                    \
    EXPORT int name(void *device, char *out, uint32_t size) {                                      \
        ENTER(name)                                                                                \
        snprintf(out, size, "%s", gpu->member);                                                    \
        leave();                                                                                   \
        return OK;                                                                                 \
    }

READ_TEXT(nvmlDeviceGetUUID, uuid)
READ_TEXT(nvmlDeviceGetName, name)
READ_U32(nvmlDeviceGetIndex, gpu - page->gpus)

struct pci_info {
    char legacy_id[16];
    uint32_t domain, bus, device, device_id, subsystem_id;
    char id[32];
};

EXPORT int nvmlDeviceGetPciInfo_v3(void *device, struct pci_info *out) {
    ENTER(nvmlDeviceGetPciInfo_v3)
    memset(out, 0, sizeof *out);
    snprintf(out->id, sizeof out->id, "%s", gpu->pci_bus_id);
    snprintf(out->legacy_id, sizeof out->legacy_id, "%.12s", gpu->pci_bus_id + 4);
    sscanf(gpu->pci_bus_id, "%x:%x:%x", &out->domain, &out->bus, &out->device);
    out->device_id = 0x233010de;
    leave();
    return OK;
}
