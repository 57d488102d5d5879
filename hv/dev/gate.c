// SPDX-License-Identifier: Apache-2.0
#include "hv/dev/gate.h"

#include <pthread.h>
#include <stdlib.h>

struct fy_gate {
    pthread_mutex_t lock;
    struct fy_gate_item *first, **last;
    uint64_t kept;
    uint64_t epoch; /* the one that goes on, or the last one */
    bool holding;
    bool letting_out; /* items that came earlier are on their way out, with the lock released */
};

struct fy_gate *fy_gate_new(struct fy_err *e)
{
    struct fy_gate *g = calloc(1, sizeof *g);
    if (!g) {
        fy_fail(e, FY_ERESOURCE, "no memory for the output gate");
        return NULL;
    }
    pthread_mutex_init(&g->lock, NULL);
    g->last = &g->first;
    return g;
}

void fy_gate_free(struct fy_gate *g)
{
    if (!g)
        return;
    fy_gate_discard(g);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

bool fy_gate_pass(struct fy_gate *g, struct fy_gate_item *item)
{
    if (!g)
        return true;
    pthread_mutex_lock(&g->lock);
    bool now = !g->holding && !g->letting_out && !g->first;
    if (!now) {
        item->next = NULL;
        item->epoch = g->holding ? g->epoch : 0;
        *g->last = item;
        g->last = &item->next;
        g->kept++;
    }
    pthread_mutex_unlock(&g->lock);
    return now;
}

/* Locked. */
static struct fy_gate_item *take(struct fy_gate *g)
{
    struct fy_gate_item *item = g->first;
    g->first = item->next;
    if (!g->first)
        g->last = &g->first;
    g->kept--;
    return item;
}

/* Let out from the front what belongs to epochs up to `epoch`; what comes meanwhile queues up behind. */
static void let_out(struct fy_gate *g, uint64_t epoch)
{
    pthread_mutex_lock(&g->lock);
    g->letting_out = true;
    while (g->first && g->first->epoch <= epoch) {
        struct fy_gate_item *item = take(g);
        pthread_mutex_unlock(&g->lock);
        item->pass(item);
        pthread_mutex_lock(&g->lock);
    }
    g->letting_out = false;
    pthread_mutex_unlock(&g->lock);
}

uint64_t fy_gate_hold(struct fy_gate *g)
{
    pthread_mutex_lock(&g->lock);
    g->holding = true;
    uint64_t epoch = ++g->epoch;
    pthread_mutex_unlock(&g->lock);
    return epoch;
}

int fy_gate_release(struct fy_gate *g, uint64_t epoch, struct fy_err *e)
{
    pthread_mutex_lock(&g->lock);
    bool ended = !g->holding || epoch < g->epoch;
    uint64_t now = g->epoch;
    pthread_mutex_unlock(&g->lock);
    if (!ended)
        return fy_fail(e, FY_EUSAGE, "output of epoch %llu cannot be released: epoch %llu goes on",
                       (unsigned long long)epoch, (unsigned long long)now);
    let_out(g, epoch);
    return 0;
}

void fy_gate_open(struct fy_gate *g)
{
    pthread_mutex_lock(&g->lock);
    g->holding = false;
    pthread_mutex_unlock(&g->lock);
    let_out(g, UINT64_MAX);
}

void fy_gate_discard(struct fy_gate *g)
{
    pthread_mutex_lock(&g->lock);
    while (g->first) {
        struct fy_gate_item *item = take(g);
        pthread_mutex_unlock(&g->lock);
        item->drop(item);
        pthread_mutex_lock(&g->lock);
    }
    pthread_mutex_unlock(&g->lock);
}

bool fy_gate_holding(struct fy_gate *g)
{
    pthread_mutex_lock(&g->lock);
    bool holding = g->holding;
    pthread_mutex_unlock(&g->lock);
    return holding;
}

uint64_t fy_gate_epoch(struct fy_gate *g)
{
    pthread_mutex_lock(&g->lock);
    uint64_t epoch = g->holding ? g->epoch : 0;
    pthread_mutex_unlock(&g->lock);
    return epoch;
}

uint64_t fy_gate_kept(struct fy_gate *g)
{
    pthread_mutex_lock(&g->lock);
    uint64_t kept = g->kept;
    pthread_mutex_unlock(&g->lock);
    return kept;
}
