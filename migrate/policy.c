// SPDX-License-Identifier: Apache-2.0
#include "migrate/policy.h"

#include "hv/base/checked.h"

/* Rounds smaller than this are dominated by their fixed cost and say little about throughput. */
#define TELLING_BYTES (8ull << 20)
/* A round must lower the rest by this factor to count as progress. */
#define PROGRESS 0.75
/* Rounds without progress before a switch that fits the budget is taken. */
#define PATIENCE 2
/* Below this share of the fixed part the rest is not worth another round. */
#define NEGLIGIBLE 0.25
/* Half round trips of a switch: the last pages there, READY back, COMMIT there. */
#define HALF_TRIPS 3
/* Rounds after which the smallest round trip is believed. */
#define BELIEVED 64
/* While the round trip is above calm_ns a switch is put off this many times: a host that is busy just now
 * would make it slow, and its forecast wrong. */
#define CALM_ROUNDS 5
/* First guess of throughput before a round has told: 0.5 GB/s. */
#define FIRST_THROUGHPUT 0.5

/* Experience beats arithmetic, unless the path alone now takes longer. */
static uint64_t fixed_part(const struct fy_policy *p)
{
    uint64_t trips = HALF_TRIPS * p->round_trip_ns / 2;
    return p->known_ns ? FY_MAX(p->known_ns, trips) : p->machine_ns + trips;
}

void fy_policy_init(struct fy_policy *p, uint64_t max_downtime_ns, uint64_t deadline_ns, unsigned vcpus,
                    uint64_t round_trip_ns, uint64_t known_ns)
{
    /* Measured on the reference machine: 2.0 to 2.6 ms from pause to resume with one vCPU and nothing to
     * send, beside the path; 0.15 to 0.3 ms a vCPU. */
    *p = (struct fy_policy){.max_downtime_ns = max_downtime_ns,
                            .deadline_ns = deadline_ns,
                            .machine_ns = 2000000ull + 200000ull * vcpus,
                            .known_ns = known_ns,
                            .round_trip_ns = round_trip_ns,
                            .throughput = FIRST_THROUGHPUT,
                            .best_left = UINT64_MAX};
    p->fixed_ns = fixed_part(p);
}

uint64_t fy_policy_forecast(const struct fy_policy *p, uint64_t left_bytes)
{
    return p->fixed_ns + (uint64_t)((double)left_bytes / p->throughput);
}

static void learn(struct fy_policy *p, const struct fy_round *r)
{
    if (!r->ns)
        return;
    /* What a small round took beyond its bytes is a round trip; the greeting's, with processes starting, was
     * a guess. */
    if (r->bytes < TELLING_BYTES) {
        uint64_t sending = (uint64_t)((double)r->bytes / p->throughput);
        uint64_t ns = r->wire_ns ? r->wire_ns : r->ns;
        p->round_trip_ns = FY_MIN(p->round_trip_ns, ns > sending ? ns - sending : 0);
    }
    p->fixed_ns = fixed_part(p);
    if (r->bytes >= TELLING_BYTES) {
        double t = (double)r->bytes / (double)r->ns;
        /* The first round holds zero pages and cold caches, later ones are like the last: they count more. */
        p->throughput = p->rounds == 0 ? t : p->throughput + 0.5 * (t - p->throughput);
    }
    double d = (double)r->left_bytes / (double)r->ns;
    p->dirty_rate = p->rounds == 0 ? d : p->dirty_rate + 0.5 * (d - p->dirty_rate);
}

/* The rest fits the budget: has waiting stopped paying? */
static bool ripe(const struct fy_policy *p, uint64_t left_bytes)
{
    uint64_t rest_ns = fy_policy_forecast(p, left_bytes) - p->fixed_ns;
    if ((double)rest_ns <= NEGLIGIBLE * (double)p->fixed_ns)
        return true;
    /* No longer falling: take a moment that is about as good as the best one seen. */
    if (p->stale >= PATIENCE && (double)left_bytes <= 1.25 * (double)p->best_left)
        return true;
    return p->stale >= 4 * PATIENCE;
}

/* A large rest tells nothing of the round trip and is too dear to send for a look. */
static bool calm(struct fy_policy *p, const struct fy_round *r)
{
    return !p->calm_ns || p->round_trip_ns <= p->calm_ns || r->left_bytes >= TELLING_BYTES ||
           p->put_off++ >= CALM_ROUNDS;
}

enum fy_decision fy_policy_round(struct fy_policy *p, const struct fy_round *r)
{
    learn(p, r);
    p->rounds++;
    if ((double)r->left_bytes < PROGRESS * (double)p->best_left)
        p->stale = 0;
    else
        p->stale++;
    p->best_left = FY_MIN(p->best_left, r->left_bytes);

    if (fy_policy_forecast(p, r->left_bytes) <= p->max_downtime_ns && ripe(p, r->left_bytes) && calm(p, r))
        return FY_DECIDE_SWITCH;
    if (p->deadline_ns && r->now_ns >= p->deadline_ns)
        return FY_DECIDE_MISSED;
    if (p->fixed_ns > p->max_downtime_ns && p->rounds >= BELIEVED)
        return FY_DECIDE_NEVER;
    return FY_DECIDE_ROUND;
}

uint64_t fy_policy_remaining_ns(const struct fy_policy *p, uint64_t left_bytes)
{
    double surplus = p->throughput - p->dirty_rate;
    if (surplus <= 0.05 * p->throughput)
        return 0;
    return (uint64_t)((double)left_bytes / surplus) + p->fixed_ns;
}

double fy_policy_fraction(struct fy_policy *p, uint64_t done_bytes, uint64_t round_bytes)
{
    /* Round k fills half of what the rounds before left over. */
    double start = 0.0;
    double span = 0.8;
    for (unsigned k = 0; k < p->rounds && k < 30; k++) {
        start += span;
        span = (0.99 - start) * 0.5;
    }
    double f =
        start + (round_bytes ? span * (double)FY_MIN(done_bytes, round_bytes) / (double)round_bytes : 0.0);
    if (f > p->fraction)
        p->fraction = f;
    return p->fraction;
}
