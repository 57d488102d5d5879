// SPDX-License-Identifier: Apache-2.0
/* A bandwidth cap shared by a job's channels; changeable while they run. */
#ifndef FERRY_MIGRATE_RATE_H
#define FERRY_MIGRATE_RATE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct fy_rate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t bytes_per_s; /* 0: no cap */
    double tokens;        /* bytes that may go now; negative: owed */
    uint64_t refilled_ns;
    bool stopped;
};

void fy_rate_init(struct fy_rate *r, uint64_t bytes_per_s);
void fy_rate_destroy(struct fy_rate *r);
/* Change the cap; waiters notice at once. Any thread. */
void fy_rate_set(struct fy_rate *r, uint64_t bytes_per_s);
/* Release all waiters for good. Any thread. */
void fy_rate_stop(struct fy_rate *r);
/* Wait until `bytes` may be sent. Any thread. */
void fy_rate_take(struct fy_rate *r, uint64_t bytes);

#endif
