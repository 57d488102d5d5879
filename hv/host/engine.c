// SPDX-License-Identifier: Apache-2.0
#include "hv/host/engine.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/wire.h"

#define TEXT_MAX 64

/* A number that is all of `text`, in base 10 or with 0x in 16. */
static bool number(const char *text, uint64_t *out)
{
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 0);
    return text[0] >= '0' && text[0] <= '9' && !*end && !errno;
}

static int option(struct fyd_engine *g, const char *text, const char *all, struct fy_err *e)
{
    uint64_t v;
    if (!strncmp(text, "icount=", 7)) {
        if (!number(text + 7, &v) || v < 1 || v > FY_ICOUNT_NS_MAX)
            return fy_fail(e, FY_EUSAGE, "engine %s: icount is the time of an instruction, 1 to %u ns", all,
                           FY_ICOUNT_NS_MAX);
        g->icount_ns = (uint32_t)v;
        return 0;
    }
    if (!strncmp(text, "seed=", 5)) {
        if (!number(text + 5, &v))
            return fy_fail(e, FY_EUSAGE, "engine %s: seed is a number of 64 bits", all);
        g->icount_seed = v;
        return 0;
    }
    return fy_fail(e, FY_EUSAGE, "engine %s: no option %s (icount=NS, seed=SEED)", all, text);
}

int fyd_engine_parse(const char *text, struct fyd_engine *out, struct fy_err *e)
{
    struct fyd_engine g = {.name = "auto"};
    char buf[TEXT_MAX], *at = buf, *word;
    if (strlen(text) >= sizeof buf)
        return fy_fail(e, FY_EUSAGE,
                       "no engine has a name as long (auto, kvm, soft or soft,icount=NS[,seed=SEED])");
    memcpy(buf, text, strlen(text) + 1);
    word = strsep(&at, ",");
    if (*word && strcmp(word, "auto") != 0 && strcmp(word, "kvm") != 0 && strcmp(word, "soft") != 0)
        return fy_fail(e, FY_EUSAGE, "no engine %s (auto, kvm, soft or soft,icount=NS[,seed=SEED])", text);
    if (*word)
        snprintf(g.name, sizeof g.name, "%s", word);
    if (at && strcmp(word, "soft") != 0)
        return fy_fail(e, FY_EUSAGE, "engine %s: only soft has options, which counts instructions", text);
    bool seed = false;
    while ((word = strsep(&at, ","))) {
        seed |= !strncmp(word, "seed=", 5);
        if (option(&g, word, text, e) < 0)
            return -1;
    }
    if (seed && !g.icount_ns)
        return fy_fail(e, FY_EUSAGE, "engine %s: a seed needs icount=NS", text);
    *out = g;
    return 0;
}

int fyd_engine_fits(const struct fyd_engine *engine, uint32_t vcpus, struct fy_err *e)
{
    if (engine->icount_ns && vcpus > 1)
        return fy_fail(e, FY_EUSAGE, "icount is for guests of one vCPU, this is to have %u", vcpus);
    return 0;
}
