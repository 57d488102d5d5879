// SPDX-License-Identifier: Apache-2.0
/* How people name what runs a guest's vCPUs. */
#ifndef FERRY_HOST_ENGINE_H
#define FERRY_HOST_ENGINE_H

#include <stdint.h>

#include "hv/base/err.h"

struct fyd_engine {
    char name[8];       /* "auto", "kvm" or "soft" */
    uint32_t icount_ns; /* virtual nanoseconds an instruction takes; 0: no counting */
    uint64_t icount_seed;
};

/* Parse "", "auto", "kvm", "soft" or "soft,icount=NS[,seed=SEED]". FY_EUSAGE with a sentence, *out unchanged.
 * Any thread. */
int fyd_engine_parse(const char *text, struct fyd_engine *out, struct fy_err *e);

/* Whether a guest may have it that runs on `vcpus`: FY_EUSAGE where it counts instructions and has several.
 */
int fyd_engine_fits(const struct fyd_engine *engine, uint32_t vcpus, struct fy_err *e);

#endif
