// SPDX-License-Identifier: Apache-2.0
/* When to send another round, when to switch, what to tell the operator. Pure functions of what was measured:
 * no I/O, no clock. */
#ifndef FERRY_MIGRATE_POLICY_H
#define FERRY_MIGRATE_POLICY_H

#include <stdbool.h>
#include <stdint.h>

/* A finished round as measured. Bytes are guest bytes. */
struct fy_round {
    uint64_t bytes;      /* dealt with in the round (holes not counted) */
    uint64_t ns;         /* from its first take to the target's having applied it */
    uint64_t wire_ns;    /* of it, from the first byte sent on; 0: not told apart */
    uint64_t left_bytes; /* dirty when it ended */
    uint64_t now_ns;     /* since the job's start */
};

enum fy_decision {
    FY_DECIDE_ROUND,  /* send another round */
    FY_DECIDE_SWITCH, /* pause and send the rest */
    FY_DECIDE_MISSED, /* the deadline passed */
    FY_DECIDE_NEVER,  /* the budget is below what a switch costs even with nothing left to send */
};

struct fy_policy {
    uint64_t max_downtime_ns;
    uint64_t deadline_ns;   /* since the job's start; 0: none */
    uint64_t machine_ns;    /* pause, state, load and resume of the machine */
    uint64_t known_ns;      /* what fixed_ns was in the last moves to this peer; 0: there were none */
    uint64_t round_trip_ns; /* smallest seen: of the greeting and of every round */
    uint64_t calm_ns;       /* a round trip that needs no second look; 0: any */
    uint64_t fixed_ns;      /* downtime that does not depend on memory: pause, state, load, resume, latency */
    /* kept between rounds */
    double throughput;  /* bytes/ns, moving average over rounds large enough to tell */
    double dirty_rate;  /* bytes/ns */
    uint64_t best_left; /* smallest left_bytes so far */
    unsigned rounds;
    unsigned put_off; /* switches put off for want of calm */
    unsigned stale;   /* rounds in a row that did not lower best_left notably */
    double fraction;  /* progress shown; never falls */
};

/* What the last moves to this peer showed (known_ns; 0: none) sets the fixed part, else vcpus and the control
 * channel's measured round trip. */
void fy_policy_init(struct fy_policy *p, uint64_t max_downtime_ns, uint64_t deadline_ns, unsigned vcpus,
                    uint64_t round_trip_ns, uint64_t known_ns);

/* Downtime if the guest were paused with left_bytes to send. */
uint64_t fy_policy_forecast(const struct fy_policy *p, uint64_t left_bytes);

/* Account for a round and say what comes next. Switches when the forecast is within the budget and waiting
 * has stopped paying: the best moment, not the first. */
enum fy_decision fy_policy_round(struct fy_policy *p, const struct fy_round *r);

/* Expected time until the switch in ns, from left_bytes; 0 when it cannot be told (not converging). */
uint64_t fy_policy_remaining_ns(const struct fy_policy *p, uint64_t left_bytes);

/* Progress for people: done and left bytes of the current round, never falling, 1 only at the end. */
double fy_policy_fraction(struct fy_policy *p, uint64_t done_bytes, uint64_t round_bytes);

#endif
