// SPDX-License-Identifier: Apache-2.0
/* What the software CPU offers. The vendor, family and TSC frequency are the host's, so that a guest can move
 * between this engine and KVM on the same machine. */
#include <cpuid.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>

#include "hv/base/checked.h"
#include "hv/cpu/features.h"
#include "hv/cpu/probe.h"
#include "hv/cpu/soft/engine.h"
#include "hv/cpu/soft/vm.h"

/* The TSC is measured for as long as it takes to be right to one part in so many, within limits. */
#define CALIBRATE_NS 10000000u
#define CALIBRATE_MOST_NS 200000000u
#define CALIBRATE_PARTS 20000u
#define PHYS_BITS 46u
#define LINEAR_BITS 48u

static struct fy_cpuid *leaf(struct fy_cpu_support *s, uint32_t function, uint32_t index, bool indexed)
{
    for (size_t i = 0; i < s->cpuid_count; i++)
        if (s->cpuid[i].function == function && s->cpuid[i].index == index)
            return &s->cpuid[i];
    if (s->cpuid_count == FY_CPUID_MAX)
        return NULL;
    struct fy_cpuid *l = &s->cpuid[s->cpuid_count++];
    *l = (struct fy_cpuid){.function = function, .index = index, .indexed = indexed};
    return l;
}

bool soft_host_has(const char *name)
{
    for (size_t i = 0; i < fy_feature_count; i++) {
        const struct fy_feature_word *w = &fy_feature_words[fy_features[i].word];
        uint32_t r[4] = {0};
        if (!strcmp(name, fy_features[i].name))
            return __get_cpuid_count(w->function, w->index, &r[FY_EAX], &r[FY_EBX], &r[FY_ECX], &r[FY_EDX]) &&
                   r[w->reg] >> fy_features[i].bit & 1;
    }
    return false;
}

/* Beyond the levels: for the model `host`, so only what the host has as well. */
static bool extra(const char *name)
{
    static const char *const names[] = {"aes",  "pclmulqdq",  "rdrand",  "rdseed",    "fsgsbase", "adx",
                                        "erms", "fsrm",       "rdtscp",  "rdpid",     "pcid",     "invpcid",
                                        "smep", "smap",       "umip",    "pdpe1gb",   "xsaveopt", "xsavec",
                                        "clwb", "clflushopt", "xgetbv1", "tsc-adjust"};
    for (size_t i = 0; i < FY_ARRAY_LEN(names); i++)
        if (!strcmp(name, names[i]))
            return soft_host_has(name);
    return false;
}

/* What the models have, as far as every instruction of it is there. */
static void add_features(struct fy_cpu_support *s)
{
    for (size_t i = 0; i < fy_feature_count; i++) {
        const struct fy_feature_word *w = &fy_feature_words[fy_features[i].word];
        const char *name = fy_features[i].name;
        struct fy_cpuid *l = (fy_features[i].level || extra(name)) && soft_feature_whole(name)
                                 ? leaf(s, w->function, w->index, w->function == 7 || w->function == 0xd)
                                 : NULL;
        if (l)
            l->r[w->reg] |= 1u << fy_features[i].bit;
    }
}

static void add_host(struct fy_cpu_support *s)
{
    struct fy_cpuid host = {0};
    if (__get_cpuid(0, &host.r[0], &host.r[1], &host.r[2], &host.r[3]))
        memcpy(leaf(s, 0, 0, false)->r, host.r, sizeof host.r);
    if (__get_cpuid(1, &host.r[0], &host.r[1], &host.r[2], &host.r[3]))
        leaf(s, 1, 0, false)->r[0] = host.r[0];
    leaf(s, 0x80000001u, 0, false)->r[FY_EDX] |= leaf(s, 1, 0, false)->r[FY_EDX] & 0x0183f3ffu;
    uint32_t bits = PHYS_BITS;
    if (__get_cpuid(0x80000008u, &host.r[0], &host.r[1], &host.r[2], &host.r[3]) && (host.r[0] & 0xff) >= 36)
        bits = host.r[0] & 0xff;
    leaf(s, 0x80000008u, 0, false)->r[0] = bits | LINEAR_BITS << 8;
}

/* x87, SSE and AVX, AVX where every processor has it. */
static void add_xsave(struct fy_cpu_support *s)
{
    if (!soft_feature_whole("xsave") || !soft_feature_whole("avx"))
        return;
    struct fy_cpuid *l = leaf(s, 0xd, 0, true);
    struct fy_cpuid *avx = leaf(s, 0xd, 2, true);
    if (!l || !avx)
        return;
    l->r[0] = 7;
    l->r[1] = l->r[2] = 832;
    avx->r[0] = 256;
    avx->r[1] = 576;
}

/* One moment by both clocks; the true TSC is within width / 2 of it. */
struct moment {
    uint64_t ns, tsc, width;
};

/* This thread may be held up between two readings: the narrowest of a few counts. */
static struct moment moment(void)
{
    struct moment best = {.width = UINT64_MAX};
    for (unsigned i = 0; i < 8; i++) {
        struct timespec t;
        uint64_t before = __rdtsc();
        clock_gettime(CLOCK_MONOTONIC_RAW, &t);
        uint64_t width = __rdtsc() - before;
        if (width < best.width)
            best = (struct moment){(uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec, before + width / 2,
                                   width};
    }
    return best;
}

/* As the kernel has it, whose raw clock is the TSC by that frequency: KVM takes no guest back whose TSC it
 * would have to scale, on a processor that cannot. */
static uint32_t host_tsc_khz(void)
{
    struct moment a = moment(), b;
    do
        b = moment();
    while (b.ns - a.ns < CALIBRATE_NS ||
           (b.ns - a.ns < CALIBRATE_MOST_NS && (a.width + b.width) / 2 * CALIBRATE_PARTS > b.tsc - a.tsc));
    uint64_t khz = (uint64_t)((unsigned __int128)(b.tsc - a.tsc) * 1000000u / (b.ns - a.ns));
    return khz && khz < UINT32_MAX ? (uint32_t)khz : 1000000u;
}

void fy_soft_support(struct fy_cpu_support *out)
{
    memset(out, 0, sizeof *out);
    add_features(out);
    add_host(out);
    add_xsave(out);
    out->tsc_khz = host_tsc_khz();
    out->tsc_scales = out->tsc_offsets = out->msrs_any = true;
}

int fy_soft_probe_json(char *buf, size_t room, struct fy_err *e)
{
    struct fy_cpu_support *s = calloc(1, sizeof *s);
    if (!s)
        return fy_fail(e, FY_ERESOURCE, "no memory");
    fy_soft_support(s);
    struct fy_text t = {.p = buf, .room = room};
    fy_text_put(&t, "{\"engine\":\"soft\",\"max_vcpus\":%d,", FY_VCPUS_LIMIT);
    fy_cpu_models_json(&t, s);
    fy_text_put(&t, "}");
    free(s);
    return 0;
}
