// SPDX-License-Identifier: Apache-2.0
/* A vCPU's state from outside. The first byte chooses the CPU policy; the rest is the message. */
#include <string.h>

#include "hv/cpu/model.h"
#include "hv/cpu/state.h"
#include "proto/wire.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/loads.h"
#include "tests/fuzz/message.h"
#include "tests/fuzz/still.h"

static void within_ranges(const Ferry__Vcpu *v, const Ferry__CpuPolicy *p)
{
    MUST(v->n_gpr == 16 && v->n_segments == 8 && v->n_dr == 6 && v->n_xcr == 1);
    MUST(v->n_pdptr == 0 || v->n_pdptr == 4);
    MUST(v->lapic.len == FY_LAPIC_LEN && v->xsave.len >= FY_XSAVE_MIN && v->xsave.len <= FY_XSAVE_MAX);
    MUST(!(fy_get64(v->xsave.data + 512) & ~7ull) && !(v->xcr[0] & ~fy_cpu_xcr0(p)) && v->xcr[0] & 1);
    MUST(v->exception_vector < 32 && v->interrupt_vector < 256 && v->run_state <= 4 && !v->smm);
    MUST(v->n_msrs == p->n_msrs);
    for (size_t i = 0; i < p->n_msrs; i++)
        MUST(v->msrs[i]->index == p->msrs[i]);
}

const struct fuzz_loads fuzz_loads = {
    .head = 1, .kinds = 1, .kind = {{"vcpu", &ferry__vcpu__descriptor, NULL}}};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fy_err e = {0};
    if (!size)
        return 0;
    const Ferry__CpuPolicy *policy = still_policy(data[0] & 1);
    unsigned index = data[0] >> 1 & 1;
    Ferry__Vcpu *v = ferry__vcpu__unpack(NULL, size - 1, data + 1);
    if (!v)
        return 0;
    int r = fy_vcpu_validate(v, index, policy, &e);
    fuzz_load_tried(0, data + 1, size - 1, r == 0);
    if (r < 0) {
        MUST((e.code == FY_ECORRUPT || e.code == FY_EUNSUPPORTED) && e.text[0]);
    } else {
        within_ranges(v, policy);
        fuzz_forget_unknown(&v->base);
        size_t len = ferry__vcpu__get_packed_size(v);
        uint8_t *once = malloc(len);
        uint8_t *twice = malloc(len);
        MUST(once && twice && ferry__vcpu__pack(v, once) == len);
        Ferry__Vcpu *again = ferry__vcpu__unpack(NULL, len, once);
        MUST(again && fy_vcpu_validate(again, index, policy, &e) == 0);
        MUST(ferry__vcpu__get_packed_size(again) == len && ferry__vcpu__pack(again, twice) == len);
        MUST(!memcmp(once, twice, len));
        MUST(fy_vcpu_validate(again, index + 1, policy, &e) < 0);
        ferry__vcpu__free_unpacked(again, NULL);
        free(once);
        free(twice);
    }
    ferry__vcpu__free_unpacked(v, NULL);
    return 0;
}
