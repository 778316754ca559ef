/* The physics of one GPU: power law, its own power-cap loop, two-node heat, sensors, counters.
 *
 * The model moves only when somebody looks: a call advances its GPU by the time that has passed,
 * in 10 ms steps. Everything is deterministic; spread between GPUs is in their constants.
 */
#define _GNU_SOURCE
#include "state.h"

#include <errno.h>
#include <math.h>
#include <time.h>

#define STEP_NS 10000000ll
#define STEPS_MAX 6000       /* after a longer silence the steps grow instead, */
#define STEP_NS_MAX 250000000ll /* up to what the die's time constant of 1.4 s bears */
#define WINDOW_NS 100000000ll /* the sensor publishes once per period ... */
#define SEEN_NS 25000000ll    /* ... the mean of the last 25 ms of it */
#define RAISE_NS 50000000ll
#define COOL_NS 100000000ll

#define REASON_IDLE 0x1
#define REASON_POWER 0x4
#define REASON_HW_SLOWDOWN 0x8
#define REASON_SW_THERMAL 0x20
#define REASON_HW_THERMAL 0x40
#define REASON_BRAKE 0x80

int64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000ll + now.tv_nsec;
}

int64_t model_ns(const struct state *state) {
    return (state->frozen_ns ? state->frozen_ns : monotonic_ns()) + state->offset_ns;
}

void hold(struct state *state) {
    /* A client that was killed inside a call leaves values that the next step overwrites. */
    if (pthread_mutex_lock(&state->mutex) == EOWNERDEAD)
        pthread_mutex_consistent(&state->mutex);
}

void let_go(struct state *state) { pthread_mutex_unlock(&state->mutex); }

double limit_in_force_w(const struct gpu *gpu) {
    double foreign = gpu->faults.foreign_limit_w;
    return foreign > 0 && foreign < gpu->plant.limit_w ? foreign : gpu->plant.limit_w;
}

/* Forget what a driver forgets when it is reloaded: counters, locks and limits, never the heat. */
void plant_reload(struct gpu *gpu, int64_t now_ns) {
    struct plant *p = &gpu->plant;
    const struct constants *k = &gpu->constants;
    p->at_ns = p->raised_at_ns = p->lowered_at_ns = now_ns;
    p->cap_mhz = p->thermal_mhz = k->clock_mhz_max;
    p->lock_mhz_min = p->next_mhz_min = k->clock_mhz_min;
    p->lock_mhz_max = p->next_mhz_max = k->clock_mhz_max;
    p->next_at_ns = now_ns;
    p->limit_w = k->limit_w_max;
    p->energy_j = 0;
    p->power_ns = p->sw_thermal_ns = p->hw_thermal_ns = p->brake_ns = 0;
    p->reasons = 0;
}

void plant_start(struct gpu *gpu, int64_t now_ns) {
    struct plant *p = &gpu->plant;
    const struct constants *k = &gpu->constants;
    plant_reload(gpu, now_ns);
    p->clock_mhz = k->idle_mhz;
    p->power_w = p->filtered_w = p->average_w = p->instant_w = k->static_w;
    p->sink_c = gpu->load.air_c + k->static_w * k->sink_k_per_w;
    p->die_c = p->sink_c + k->static_w * k->die_k_per_w;
    p->memory_c = p->die_c + k->memory_rise_c;
}

static double voltage(const struct constants *k, double mhz) {
    double above = (mhz - k->knee_mhz) / (k->clock_mhz_max - k->knee_mhz);
    return (1 + (k->voltage_ratio - 1) * (above > 0 ? above : 0)) / k->voltage_ratio;
}

/* The twin's power law (simulator.gpu), which this must follow: the tests compare the two. */
static double power_w(const struct gpu *gpu) {
    const struct constants *k = &gpu->constants;
    const struct load *l = &gpu->load;
    double v = voltage(k, gpu->plant.clock_mhz);
    double dynamic = gpu->plant.clock_mhz / k->clock_mhz_max * v * v;
    double leak = 0.5 * (exp(0.018 * fmax(0, gpu->plant.die_c - 45)) - 1);
    return k->static_w * (1 + leak) + (k->context_w + k->compute_w * l->intensity) * dynamic +
           (k->memory_w + k->movement_w * v * v) * l->bandwidth;
}

/* The GPU's own loops: power cap (1 to 4 steps down at once, one up), and thermal slowdown. */
static void limiters(struct gpu *gpu, double step_s) {
    struct plant *p = &gpu->plant;
    const struct constants *k = &gpu->constants;
    double limit_w = limit_in_force_w(gpu);
    p->filtered_w += (p->power_w - p->filtered_w) * (1 - exp(-step_s / k->filter_s));
    if (p->filtered_w > limit_w) {
        double steps = fmin(4, ceil((p->filtered_w / limit_w - 1) * 20));
        double from = fmin(p->cap_mhz, p->clock_mhz);
        p->cap_mhz = fmax(k->clock_mhz_min, from - steps * k->clock_mhz_step);
        p->raised_at_ns = p->at_ns;
    } else if (p->filtered_w < 0.98 * limit_w && p->at_ns - p->raised_at_ns >= RAISE_NS) {
        p->cap_mhz = fmin(k->clock_mhz_max, p->cap_mhz + k->clock_mhz_step);
        p->raised_at_ns = p->at_ns;
    }
    if (p->at_ns - p->lowered_at_ns >= COOL_NS) {
        int hot = p->die_c > k->temperature_c_max || p->memory_c > k->memory_c_max;
        double next = p->thermal_mhz + (hot ? -k->clock_mhz_step : k->clock_mhz_step);
        p->thermal_mhz = fmin(k->clock_mhz_max, fmax(k->clock_mhz_min, next));
        p->lowered_at_ns = p->at_ns;
    }
}

/* Settle the clock for the next step, and say which limiter holds it. */
static void set_clock(struct gpu *gpu, int64_t step_ns) {
    struct plant *p = &gpu->plant;
    const struct constants *k = &gpu->constants;
    const struct load *l = &gpu->load;
    int idle = l->context <= 0 && l->intensity <= 0 && l->bandwidth <= 0;
    if (p->at_ns >= p->next_at_ns) {
        p->lock_mhz_min = p->next_mhz_min;
        p->lock_mhz_max = p->next_mhz_max;
    }
    double wanted = fmin(fmax(idle ? k->idle_mhz : k->clock_mhz_max, p->lock_mhz_min),
                         p->lock_mhz_max);
    if (gpu->faults.clamp_mhz > 0)
        wanted = fmin(wanted, gpu->faults.clamp_mhz);
    double clock = fmin(wanted, fmin(p->cap_mhz, p->thermal_mhz));
    p->reasons = idle ? REASON_IDLE : 0;
    if (p->cap_mhz < wanted) {
        p->reasons |= REASON_POWER;
        p->power_ns += step_ns;
    }
    if (p->thermal_mhz < wanted) {
        p->reasons |= REASON_SW_THERMAL;
        p->sw_thermal_ns += step_ns;
    }
    if (p->die_c >= k->slowdown_c) {
        clock /= 2;
        p->reasons |= REASON_HW_THERMAL | REASON_HW_SLOWDOWN;
        p->hw_thermal_ns += step_ns;
    }
    if (gpu->faults.brake) {
        clock = fmin(clock, k->brake_mhz);
        p->reasons |= REASON_BRAKE | REASON_HW_SLOWDOWN;
        p->brake_ns += step_ns;
    }
    double grid = floor((clock - k->clock_mhz_min) / k->clock_mhz_step) * k->clock_mhz_step;
    p->clock_mhz = k->clock_mhz_min + fmax(0, grid);
    if (p->die_c >= k->shutdown_c)
        p->lost = 1;
}

static void heat(struct gpu *gpu, double step_s) {
    struct plant *p = &gpu->plant;
    const struct constants *k = &gpu->constants;
    double airflow = fmax(gpu->load.airflow_ratio, 0.02); /* still air carries a little */
    double flow_w = (p->die_c - p->sink_c) / k->die_k_per_w;
    double out_w = (p->sink_c - gpu->load.air_c) / (k->sink_k_per_w * pow(airflow, -0.8));
    p->die_c += (p->power_w - flow_w) / k->die_j_per_k * step_s;
    p->sink_c += (flow_w - out_w) / k->sink_j_per_k * step_s;
    p->memory_c =
        p->die_c + k->memory_rise_c + k->memory_k_per_w * k->memory_w * gpu->load.bandwidth;
}

/* What the meter shows: 25 ms out of every 100 ms, a slow average, and an energy counter. */
static void sense(struct gpu *gpu, int64_t step_ns) {
    struct plant *p = &gpu->plant;
    double step_s = (double)step_ns * 1e-9;
    double seen_w = p->power_w * gpu->constants.sensor_gain;
    int64_t before = (p->at_ns + p->phase_ns) / WINDOW_NS;
    int64_t after = (p->at_ns + step_ns + p->phase_ns) / WINDOW_NS;
    if ((p->at_ns + p->phase_ns) % WINDOW_NS >= WINDOW_NS - SEEN_NS - STEP_NS / 2) {
        p->window_w_sum += seen_w;
        p->window_count += 1;
    }
    if (after > before) {
        p->instant_w = p->window_count > 0 ? p->window_w_sum / (double)p->window_count : seen_w;
        p->window_w_sum = 0;
        p->window_count = 0;
    }
    p->average_w += (seen_w - p->average_w) * (1 - exp(-step_s));
    p->energy_j += seen_w * step_s;
}

void plant_advance(struct gpu *gpu, int64_t now_ns) {
    struct plant *p = &gpu->plant;
    int64_t step_ns = (now_ns - p->at_ns) / STEPS_MAX;
    step_ns = step_ns < STEP_NS ? STEP_NS : step_ns > STEP_NS_MAX ? STEP_NS_MAX : step_ns;
    if (now_ns - p->at_ns > STEPS_MAX * STEP_NS_MAX)
        p->at_ns = now_ns - STEPS_MAX * STEP_NS_MAX; /* long steady by then */
    while (!p->lost && now_ns - p->at_ns >= step_ns) {
        double step_s = (double)step_ns * 1e-9;
        set_clock(gpu, step_ns);
        p->power_w = power_w(gpu);
        limiters(gpu, step_s);
        heat(gpu, step_s);
        sense(gpu, step_ns);
        p->at_ns += step_ns;
    }
}
