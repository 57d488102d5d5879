// SPDX-License-Identifier: Apache-2.0
/* A token bucket: so many bytes a second on average, short bursts above it. Plain values; time comes from the
 * caller, so that it can be any monotonic clock. One thread at a time. */
#ifndef FERRY_DEV_TOKENS_H
#define FERRY_DEV_TOKENS_H

#include <stdbool.h>
#include <stdint.h>

struct fy_tokens {
    uint64_t rate;  /* bytes/s; 0: no limit */
    uint64_t burst; /* bytes that may pass at once after a rest */
    int64_t have;   /* below 0: a debt, which the last taker made */
    uint64_t at_ns; /* when `have` was right */
};

#define FY_TOKENS_RATE_MIN 1024u        /* bytes/s: less is a mistake */
#define FY_TOKENS_RATE_MAX (1ull << 40) /* bytes/s */

/* Set the rate (at most FY_TOKENS_RATE_MAX is taken), full. burst is a twentieth of a second's worth, 64 KiB
 * at least: no less than a frame, no less than a timer of milliseconds can hand out. */
void fy_tokens_set(struct fy_tokens *t, uint64_t rate, uint64_t now_ns);
/* May something pass now? 0: yes, then fy_tokens_take. Else ns until it may. */
uint64_t fy_tokens_wait(struct fy_tokens *t, uint64_t now_ns);
/* `bytes` have passed. Goes into debt rather than to refuse, so that a frame larger than the burst passes. */
void fy_tokens_take(struct fy_tokens *t, uint64_t bytes);

#endif
