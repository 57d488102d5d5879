// SPDX-License-Identifier: Apache-2.0
#include "migrate/rate.h"

#include <time.h>

#include "hv/base/clock.h"

/* A quiet channel may burst for this long at the cap. */
#define BURST_S 0.02

void fy_rate_init(struct fy_rate *r, uint64_t bytes_per_s)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->changed, &attr);
    pthread_condattr_destroy(&attr);
    r->bytes_per_s = bytes_per_s;
    r->tokens = 0;
    r->refilled_ns = fy_now_ns();
    r->stopped = false;
}

void fy_rate_destroy(struct fy_rate *r)
{
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->lock);
}

void fy_rate_set(struct fy_rate *r, uint64_t bytes_per_s)
{
    pthread_mutex_lock(&r->lock);
    r->bytes_per_s = bytes_per_s;
    r->tokens = 0;
    r->refilled_ns = fy_now_ns();
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

void fy_rate_stop(struct fy_rate *r)
{
    pthread_mutex_lock(&r->lock);
    r->stopped = true;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

static void refill(struct fy_rate *r)
{
    uint64_t now = fy_now_ns();
    double limit = (double)r->bytes_per_s * BURST_S;
    r->tokens += (double)(now - r->refilled_ns) / 1e9 * (double)r->bytes_per_s;
    if (r->tokens > limit)
        r->tokens = limit;
    r->refilled_ns = now;
}

void fy_rate_take(struct fy_rate *r, uint64_t bytes)
{
    pthread_mutex_lock(&r->lock);
    while (r->bytes_per_s && !r->stopped) {
        refill(r);
        if (r->tokens >= 0) {
            r->tokens -= (double)bytes;
            break;
        }
        uint64_t until = r->refilled_ns + (uint64_t)(-r->tokens / (double)r->bytes_per_s * 1e9) + 1;
        struct timespec ts = {.tv_sec = (time_t)(until / 1000000000), .tv_nsec = (long)(until % 1000000000)};
        pthread_cond_timedwait(&r->changed, &r->lock, &ts);
    }
    pthread_mutex_unlock(&r->lock);
}
