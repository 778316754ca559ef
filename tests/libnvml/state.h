/* The page of shared memory that every process sees: eight GPUs, their faults and their physics.
 *
 * layout.py mirrors these structs field by field, handle.py checks their sizes through
 * fake_nvml_layout(). Nothing here is in NVIDIA's layout: that is calls.h's business.
 */
#ifndef AMPACITY_FAKE_NVML_STATE_H
#define AMPACITY_FAKE_NVML_STATE_H

#include <pthread.h>
#include <stdint.h>

#define GPUS_MAX 16
#define CALLS_MAX 64
#define FIELDS_MAX 512
#define WRITES_KEPT 64
#define MAGIC 0x616d706163697479ull /* "ampacity" */

/* What a part is; handle.py writes it from the twin's table of parts. */
struct constants {
    double static_w, context_w, compute_w, memory_w, movement_w; /* power law */
    double knee_mhz, voltage_ratio, clock_mhz_min, clock_mhz_max, clock_mhz_step;
    double idle_mhz, brake_mhz, memory_mhz;
    double limit_w_min, limit_w_max;
    double die_k_per_w, die_j_per_k, sink_k_per_w, sink_j_per_k; /* heat path */
    double memory_rise_c, memory_k_per_w;
    double temperature_c_max, slowdown_c, shutdown_c, memory_c_max;
    double filter_s, sensor_gain;
};

/* What the GPU is made to do, and the air that reaches it. */
struct load {
    double intensity, bandwidth; /* of the SMs and of memory, each 0 to 1 */
    double context;              /* 1 while a process holds one: the clock then stays up */
    double air_c, airflow_ratio;
};

/* What is wrong with it. */
struct faults {
    int32_t call_error[CALLS_MAX];   /* return code of each call, 0 for none */
    int32_t field_error[FIELDS_MAX]; /* return code of each field, 0 for none */
    int64_t reads_hang_until_ns, writes_hang_until_ns; /* CLOCK_MONOTONIC */
    int32_t locks_ignored, brake, mig, recovery_action;
    int32_t blank_field; /* this field reads blank_value, 0 for none */
    int32_t unused;
    int64_t blank_value;
    double clamp_mhz;       /* the clock never passes this, whatever was locked; 0 for none */
    double foreign_limit_w; /* somebody else's power limit; 0 for none */
    double write_s, settle_s; /* how long a write takes, and the clock after it */
};

struct lock_write {
    int64_t at_ns; /* CLOCK_MONOTONIC when the write was accepted */
    int32_t clock_mhz_min, clock_mhz_max; /* 0 and 0 for a reset */
};

/* What is true. */
struct plant {
    int64_t at_ns, phase_ns, raised_at_ns, lowered_at_ns; /* model time */
    double clock_mhz, cap_mhz, thermal_mhz;
    double lock_mhz_min, lock_mhz_max; /* in force */
    double next_mhz_min, next_mhz_max; /* in force from next_at_ns on */
    int64_t next_at_ns;
    double limit_w; /* asked for */
    double power_w, filtered_w, average_w, instant_w, window_w_sum;
    int64_t window_count;
    double die_c, sink_c, memory_c;
    double energy_j;
    int64_t power_ns, sw_thermal_ns, hw_thermal_ns, brake_ns;
    int64_t reasons;
    int64_t lost;
    int64_t writes_count, writes_refused_count;
    struct lock_write writes[WRITES_KEPT]; /* ring: write n is at n % WRITES_KEPT */
};

struct gpu {
    char uuid[96], name[96], pci_bus_id[32];
    struct constants constants;
    struct load load;
    struct faults faults;
    struct plant plant;
};

struct state {
    uint64_t magic;
    int32_t gpu_count, generation; /* the generation rises when the driver is reloaded */
    int64_t offset_ns;             /* model time is CLOCK_MONOTONIC plus this, */
    int64_t frozen_ns;             /* or, when this is not 0, this plus the offset */
    int64_t down_until_ns;         /* CLOCK_MONOTONIC until which the driver is not loaded */
    int32_t init_error, unused;    /* return code of nvmlInit, 0 for none */
    char driver_version[32];       /* it settles what some field numbers mean */
    int64_t calls_count[CALLS_MAX];
    pthread_mutex_t mutex; /* process-shared and robust: clients are killed in tests */
    struct gpu gpus[GPUS_MAX];
};

int64_t monotonic_ns(void);
int64_t model_ns(const struct state *state);
void hold(struct state *state);
void let_go(struct state *state);
void plant_start(struct gpu *gpu, int64_t now_ns);
void plant_reload(struct gpu *gpu, int64_t now_ns);
void plant_advance(struct gpu *gpu, int64_t now_ns);
double limit_in_force_w(const struct gpu *gpu);

#endif
