// SPDX-License-Identifier: Apache-2.0
#include "hv/cpu/model.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/checked.h"
#include "hv/cpu/features.h"

#define MAX_BASIC 0xdu
#define MAX_HYPERVISOR 0x40000010u
#define MAX_EXTENDED 0x80000008u
/* 80000001.EDX repeats these bits of 1.EDX on AMD's processors (APM volume 3, E.4.2). */
#define AMD_REPEATED 0x0183f3ffu
/* x87, SSE, AVX, AVX-512 and protection keys: the user components whose area fits FY_XSAVE_MAX. */
#define XCR0_HOST 0x2e7u
#define APIC_BUS_KHZ 1000000u

const char *const fy_cpu_models[] = {"host", "x86-64-v1", "x86-64-v2", "x86-64-v3", NULL};

struct build {
    struct fy_cpuid leaves[FY_CPUID_MAX];
    size_t count;
};

static const struct fy_cpuid *find(const struct fy_cpuid *leaves, size_t n, uint32_t function, uint32_t index)
{
    for (size_t i = 0; i < n; i++)
        if (leaves[i].function == function && (!leaves[i].indexed || leaves[i].index == index))
            return &leaves[i];
    return NULL;
}

static struct fy_cpuid *leaf(struct build *b, uint32_t function, uint32_t index, bool indexed)
{
    for (size_t i = 0; i < b->count; i++)
        if (b->leaves[i].function == function && b->leaves[i].index == index)
            return &b->leaves[i];
    struct fy_cpuid *l = &b->leaves[b->count++];
    *l = (struct fy_cpuid){.function = function, .index = index, .indexed = indexed};
    return l;
}

static uint32_t *word(struct build *b, size_t w)
{
    const struct fy_feature_word *f = &fy_feature_words[w];
    return &leaf(b, f->function, f->index, f->function == 7 || f->function == 0xd)->r[f->reg];
}

static void put(struct build *b, uint32_t function, uint32_t eax, uint32_t ebx, uint32_t ecx, uint32_t edx)
{
    struct fy_cpuid *l = leaf(b, function, 0, false);
    l->r[0] = eax;
    l->r[1] = ebx;
    l->r[2] = ecx;
    l->r[3] = edx;
}

void fy_reason_add(struct fy_err *e, int code, const char *fmt, ...)
{
    e->code = code;
    size_t at = strlen(e->text);
    if (at && at + 1 < sizeof e->text)
        e->text[at++] = '\n';
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->text + at, sizeof e->text - at, fmt, ap);
    va_end(ap);
}

static bool is_amd(const struct fy_cpuid *vendor)
{
    return vendor && vendor->r[1] == 0x68747541u; /* "Auth" */
}

static void add_features(struct build *b, unsigned level, const struct fy_cpu_support *s)
{
    for (size_t w = 0; w < fy_feature_word_count; w++) {
        const struct fy_feature_word *f = &fy_feature_words[w];
        uint32_t *r = word(b, w);
        if (level) {
            for (size_t i = 0; i < fy_feature_count; i++)
                if (fy_features[i].word == w && fy_features[i].level && fy_features[i].level <= level)
                    *r |= 1u << fy_features[i].bit;
        } else {
            const struct fy_cpuid *have = find(s->cpuid, s->cpuid_count, f->function, f->index);
            *r = have ? have->r[f->reg] & ~f->never & ~f->volatile_ : 0;
        }
    }
}

static void add_xsave(struct build *b, unsigned level, const struct fy_cpu_support *s)
{
    struct fy_cpuid *l = leaf(b, 0xd, 0, true);
    if (level) {
        if (level < 3)
            return;
        l->r[0] = 7;
        l->r[1] = l->r[2] = 832;
        struct fy_cpuid *avx = leaf(b, 0xd, 2, true);
        avx->r[0] = 256;
        avx->r[1] = 576;
        return;
    }
    const struct fy_cpuid *have = find(s->cpuid, s->cpuid_count, 0xd, 0);
    const struct fy_cpuid *w1 = find(s->cpuid, s->cpuid_count, 1, 0);
    if (!have || !w1 || !(w1->r[FY_ECX] >> 26 & 1))
        return;
    uint32_t xcr0 = have->r[0] & XCR0_HOST, size = 576;
    for (unsigned i = 2; i < 32; i++) {
        const struct fy_cpuid *c = find(s->cpuid, s->cpuid_count, 0xd, i);
        if (!(xcr0 >> i & 1) || !c)
            continue;
        struct fy_cpuid *to = leaf(b, 0xd, i, true);
        to->r[0] = c->r[0];
        to->r[1] = c->r[1];
        size = FY_MAX(size, c->r[0] + c->r[1]);
    }
    l = leaf(b, 0xd, 0, true);
    l->r[0] = xcr0;
    l->r[1] = l->r[2] = size;
}

static void add_brand(struct build *b, const char *model, const struct fy_cpu_support *s)
{
    char name[49];
    memset(name, 0, sizeof name);
    snprintf(name, sizeof name, "Ferry %s", model);
    for (uint32_t i = 0; i < 3; i++) {
        const struct fy_cpuid *have = find(s->cpuid, s->cpuid_count, 0x80000002u + i, 0);
        struct fy_cpuid *l = leaf(b, 0x80000002u + i, 0, false);
        memcpy(l->r, name + i * 16, 16);
        if (!strcmp(model, "host") && have && have->r[0])
            memcpy(l->r, have->r, 16);
    }
}

static void add_caches(struct build *b, const struct fy_cpu_support *s)
{
    static const uint32_t functions[] = {2, 4, 0x80000005u, 0x80000006u};
    for (size_t i = 0; i < s->cpuid_count; i++)
        for (size_t f = 0; f < FY_ARRAY_LEN(functions); f++)
            if (s->cpuid[i].function == functions[f] && b->count < FY_CPUID_MAX - 8)
                *leaf(b, s->cpuid[i].function, s->cpuid[i].index, s->cpuid[i].indexed) = s->cpuid[i];
}

static void add_leaves(struct build *b, const char *model, unsigned level, const struct fy_cpu_support *s)
{
    const struct fy_cpuid *vendor = find(s->cpuid, s->cpuid_count, 0, 0);
    const struct fy_cpuid *sig = find(s->cpuid, s->cpuid_count, 1, 0);
    const struct fy_cpuid *phys = find(s->cpuid, s->cpuid_count, 0x80000008u, 0);
    uint32_t v[4] = {0};
    if (vendor)
        memcpy(v, vendor->r, sizeof v);
    add_features(b, level, s);
    if (is_amd(vendor))
        leaf(b, 0x80000001u, 0, false)->r[FY_EDX] |= leaf(b, 1, 0, false)->r[FY_EDX] & AMD_REPEATED;
    put(b, 0, MAX_BASIC, v[1], v[2], v[3]);
    leaf(b, 1, 0, false)->r[FY_EAX] = sig ? sig->r[0] : 0x60fb1;
    leaf(b, 1, 0, false)->r[FY_EBX] = 8u << 8; /* CLFLUSH line of 64 bytes */
    put(b, 6, 4, 0, 0, 0);                     /* the APIC timer always runs */
    leaf(b, 7, 0, true)->r[FY_EAX] = leaf(b, 7, 1, true)->r[FY_EAX] ? 1 : 0;
    leaf(b, 0xb, 0, true);
    leaf(b, 0xb, 1, true);
    add_xsave(b, level, s);
    put(b, 0x40000000u, MAX_HYPERVISOR, 0x4b4d564bu, 0x564b4d56u, 0x4du); /* KVMKVMKVM */
    put(b, 0x40000010u, s->tsc_khz, APIC_BUS_KHZ, 0, 0);
    put(b, 0x80000000u, MAX_EXTENDED, v[1], v[2], v[3]);
    leaf(b, 0x80000001u, 0, false)->r[FY_EAX] = is_amd(vendor) && sig ? sig->r[0] : 0;
    add_brand(b, model, s);
    leaf(b, 0x80000008u, 0, false)->r[FY_EAX] = phys ? phys->r[0] & 0xffff : 0x3028;
    if (!level)
        add_caches(b, s);
}

static int to_policy(const struct build *b, const char *model, uint32_t tsc_khz, Ferry__CpuPolicy *out,
                     struct fy_err *e)
{
    out->model = strdup(model);
    out->tsc_khz = tsc_khz;
    out->cpuid = calloc(b->count, sizeof *out->cpuid);
    if (!out->model || !out->cpuid)
        return fy_fail(e, FY_ERESOURCE, "no memory for a CPU policy");
    for (size_t i = 0; i < b->count; i++) {
        Ferry__CpuidEntry *c = malloc(sizeof *c);
        if (!c)
            return fy_fail(e, FY_ERESOURCE, "no memory for a CPU policy");
        ferry__cpuid_entry__init(c);
        c->function = b->leaves[i].function;
        c->index = b->leaves[i].index;
        c->indexed = b->leaves[i].indexed;
        c->eax = b->leaves[i].r[0];
        c->ebx = b->leaves[i].r[1];
        c->ecx = b->leaves[i].r[2];
        c->edx = b->leaves[i].r[3];
        out->cpuid[out->n_cpuid++] = c;
    }
    return 0;
}

static int level_of(const char *model)
{
    for (int i = 0; fy_cpu_models[i]; i++)
        if (!strcmp(model, fy_cpu_models[i]))
            return i;
    return -1;
}

const char *fy_cpu_default_model(const struct fy_cpu_support *s)
{
    struct fy_err e;
    Ferry__CpuPolicy *p = malloc(sizeof *p);
    if (!p)
        return "x86-64-v1";
    ferry__cpu_policy__init(p);
    bool v2 = fy_cpu_resolve("x86-64-v2", s, p, &e) == 0;
    ferry__cpu_policy__free_unpacked(p, NULL);
    return v2 ? "x86-64-v2" : "x86-64-v1";
}

int fy_cpu_resolve(const char *model, const struct fy_cpu_support *s, Ferry__CpuPolicy *out, struct fy_err *e)
{
    if (!*model)
        model = fy_cpu_default_model(s);
    int level = level_of(model);
    if (level < 0)
        return fy_fail(e, FY_EUSAGE, "no CPU model \"%s\" (host, x86-64-v1, x86-64-v2, x86-64-v3)", model);
    struct build b = {.count = 0};
    add_leaves(&b, model, (unsigned)level, s);
    if (to_policy(&b, model, s->tsc_khz, out, e) < 0)
        return -1;
    return fy_cpu_check(out, s, e);
}
