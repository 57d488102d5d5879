// SPDX-License-Identifier: Apache-2.0
#include "hv/dev/tokens.h"

#include "hv/base/checked.h"

#define SECOND 1000000000ull
#define BURST_MIN 65536ull

void fy_tokens_set(struct fy_tokens *t, uint64_t rate, uint64_t now_ns)
{
    t->rate = FY_MIN(rate, FY_TOKENS_RATE_MAX);
    t->burst = FY_MAX(t->rate / 20, BURST_MIN);
    t->have = (int64_t)t->burst;
    t->at_ns = now_ns;
}

/* Bytes that come in `ns`, and no more than fills the bucket from the deepest debt. */
static uint64_t worth(const struct fy_tokens *t, uint64_t ns)
{
    unsigned __int128 n = (unsigned __int128)t->rate * ns / SECOND;
    uint64_t room = (uint64_t)((int64_t)t->burst - t->have);
    return n > room ? room : (uint64_t)n;
}

uint64_t fy_tokens_wait(struct fy_tokens *t, uint64_t now_ns)
{
    if (!t->rate)
        return 0;
    if (now_ns > t->at_ns) {
        uint64_t more = worth(t, now_ns - t->at_ns);
        /* Time that was worth less than a byte is not lost: it stays to be counted. */
        if (more) {
            t->have += (int64_t)more;
            t->at_ns = now_ns;
        } else if (t->have == (int64_t)t->burst) {
            t->at_ns = now_ns;
        }
    }
    if (t->have > 0)
        return 0;
    unsigned __int128 ns = ((unsigned __int128)(1 - t->have) * SECOND + t->rate - 1) / t->rate;
    return (uint64_t)FY_MIN(ns, (unsigned __int128)UINT64_MAX);
}

void fy_tokens_take(struct fy_tokens *t, uint64_t bytes)
{
    const int64_t deepest = -(int64_t)(1ull << 62);
    if (!t->rate)
        return;
    t->have = bytes > (uint64_t)(t->have - deepest) ? deepest : t->have - (int64_t)bytes;
}
