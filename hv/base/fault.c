// SPDX-License-Identifier: Apache-2.0
#include "hv/base/fault.h"

#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "hv/base/log.h"

enum action { ACT_KILL, ACT_FAIL, ACT_STOP, ACT_DELAY };

struct armed {
    int point;
    enum action action;
    unsigned delay_ms;
    atomic_uint left; /* arrivals until it fires */
};

#define MAX_ARMED 16
#define EVERY UINT_MAX
static struct armed armed[MAX_ARMED];
static int armed_count;

static bool parse_one(char *word, struct armed *a)
{
    char *save = NULL;
    char *num = strtok_r(word, ":", &save);
    char *act = strtok_r(NULL, ":", &save);
    char *count = strtok_r(NULL, ":", &save);
    if (!num || !act)
        return false;
    char *end;
    a->point = (int)strtol(num, &end, 10);
    if (*end)
        return false;
    if (!strcmp(act, "kill"))
        a->action = ACT_KILL;
    else if (!strcmp(act, "fail"))
        a->action = ACT_FAIL;
    else if (!strcmp(act, "stop"))
        a->action = ACT_STOP;
    else if (!strncmp(act, "delay=", 6)) {
        a->action = ACT_DELAY;
        a->delay_ms = (unsigned)strtoul(act + 6, &end, 10);
        if (*end)
            return false;
    } else
        return false;
    unsigned n = 1;
    if (count && !strcmp(count, "every")) {
        n = EVERY;
    } else if (count) {
        n = (unsigned)strtoul(count, &end, 10);
        if (*end || n == 0)
            return false;
    }
    atomic_store(&a->left, n);
    return true;
}

void fy_fault_init(void)
{
    const char *env = getenv("FERRY_FAULT");
    if (!env || !*env)
        return;
    char buf[256];
    if ((size_t)snprintf(buf, sizeof buf, "%s", env) >= sizeof buf) {
        fy_warn("FERRY_FAULT is too long and is ignored");
        return;
    }
    char *save = NULL;
    for (char *w = strtok_r(buf, ",", &save); w && armed_count < MAX_ARMED; w = strtok_r(NULL, ",", &save)) {
        char copy[64];
        snprintf(copy, sizeof copy, "%s", w);
        if (parse_one(copy, &armed[armed_count]))
            armed_count++;
        else
            fy_warn("FERRY_FAULT: cannot read \"%s\" (NUMBER:kill|fail|stop|delay=MS[:COUNT])", w);
    }
}

static void wait_ms(unsigned ms)
{
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    while (nanosleep(&ts, &ts) < 0)
        continue;
}

bool fy_fault_armed(enum fy_fault point)
{
    for (int i = 0; i < armed_count; i++)
        if (armed[i].point == (int)point)
            return true;
    return false;
}

bool fy_fault_hit(enum fy_fault point)
{
    if (__builtin_expect(armed_count == 0, 1))
        return false;
    for (int i = 0; i < armed_count; i++) {
        struct armed *a = &armed[i];
        if (a->point != (int)point)
            continue;
        unsigned left = atomic_load(&a->left);
        while (left && left != EVERY && !atomic_compare_exchange_weak(&a->left, &left, left - 1))
            continue;
        if (left != 1 && left != EVERY)
            continue;
        fy_info("fault point %d fires", (int)point);
        switch (a->action) {
        case ACT_KILL:
            raise(SIGKILL);
            break;
        case ACT_STOP:
            raise(SIGSTOP);
            break;
        case ACT_DELAY:
            wait_ms(a->delay_ms);
            break;
        case ACT_FAIL:
            return true;
        }
    }
    return false;
}
