// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "hv/base/checked.h"
#include "hv/cpu/features.h"
#include "hv/cpu/model.h"

#define MSRS_MAX 512
/* The guest's and the host's frequency count as one below this: calibration alone differs by as much. */
#define TSC_TOLERANCE_PPM 1000u

/* Leaves that a policy may have. The engine gives a guest nothing that is not checked here. */
static const uint32_t known_functions[] = {
    0,           1,           2,           4,           6,           7,           0xb,
    0xd,         0x40000000u, 0x40000001u, 0x40000010u, 0x80000000u, 0x80000001u, 0x80000002u,
    0x80000003u, 0x80000004u, 0x80000005u, 0x80000006u, 0x80000007u, 0x80000008u,
};

static const Ferry__CpuidEntry *entry(const Ferry__CpuPolicy *p, uint32_t function, uint32_t index)
{
    for (size_t i = 0; i < p->n_cpuid; i++)
        if (p->cpuid[i]->function == function && p->cpuid[i]->index == index)
            return p->cpuid[i];
    return NULL;
}

static uint32_t entry_reg(const Ferry__CpuidEntry *c, unsigned reg)
{
    if (!c)
        return 0;
    return reg == FY_EAX ? c->eax : reg == FY_EBX ? c->ebx : reg == FY_ECX ? c->ecx : c->edx;
}

static uint32_t have_reg(const struct fy_cpu_support *s, uint32_t function, uint32_t index, unsigned reg)
{
    for (size_t i = 0; i < s->cpuid_count; i++)
        if (s->cpuid[i].function == function && (!s->cpuid[i].indexed || s->cpuid[i].index == index))
            return s->cpuid[i].r[reg];
    return 0;
}

static int check_form(const Ferry__CpuPolicy *p, struct fy_err *e)
{
    if (p->n_cpuid == 0 || p->n_cpuid > FY_CPUID_MAX || p->n_msrs > MSRS_MAX)
        return fy_fail(e, FY_ECORRUPT, "CPU policy: %zu CPUID leaves, %zu MSRs", p->n_cpuid, p->n_msrs);
    if (p->tsc_khz < 1000 || p->tsc_khz > 100000000)
        return fy_fail(e, FY_ECORRUPT, "CPU policy: TSC of %u kHz", p->tsc_khz);
    for (size_t i = 0; i < p->n_cpuid; i++) {
        bool known = false;
        for (size_t k = 0; k < FY_ARRAY_LEN(known_functions); k++)
            known |= p->cpuid[i]->function == known_functions[k];
        if (!known)
            return fy_fail(e, FY_ECORRUPT, "CPU policy: unknown CPUID leaf 0x%x", p->cpuid[i]->function);
        if (entry(p, p->cpuid[i]->function, p->cpuid[i]->index) != p->cpuid[i])
            return fy_fail(e, FY_ECORRUPT, "CPU policy: CPUID leaf 0x%x twice", p->cpuid[i]->function);
    }
    return 0;
}

static void check_features(const Ferry__CpuPolicy *p, const struct fy_cpu_support *s, struct fy_err *why)
{
    for (size_t w = 0; w < fy_feature_word_count; w++) {
        const struct fy_feature_word *f = &fy_feature_words[w];
        uint32_t want = entry_reg(entry(p, f->function, f->index), f->reg) & ~f->volatile_;
        uint32_t missing = want & ~(have_reg(s, f->function, f->index, f->reg) & ~f->never);
        for (unsigned bit = 0; bit < 32; bit++) {
            if (!(missing >> bit & 1))
                continue;
            const char *name = fy_feature_name(w, bit);
            fy_reason_add(why, FY_EREFUSED, "%s needs %s (CPUID %s bit %u)", p->model,
                          name ? name : "a feature", f->name, bit);
        }
    }
}

static void check_vendor(const Ferry__CpuPolicy *p, const struct fy_cpu_support *s, struct fy_err *why)
{
    const Ferry__CpuidEntry *v = entry(p, 0, 0);
    uint32_t want[3] = {entry_reg(v, FY_EBX), entry_reg(v, FY_EDX), entry_reg(v, FY_ECX)};
    uint32_t have[3] = {have_reg(s, 0, 0, FY_EBX), have_reg(s, 0, 0, FY_EDX), have_reg(s, 0, 0, FY_ECX)};
    if (memcmp(want, have, sizeof want) != 0)
        fy_reason_add(why, FY_EREFUSED, "the guest's processor vendor is %.12s, this host's %.12s",
                      (const char *)want, (const char *)have);
    uint32_t guest = entry_reg(entry(p, 0x80000008u, 0), FY_EAX), host = have_reg(s, 0x80000008u, 0, FY_EAX);
    if ((guest & 0xff) > (host & 0xff) || (guest >> 8 & 0xff) > (host >> 8 & 0xff))
        fy_reason_add(why, FY_EREFUSED, "the guest has addresses of %u/%u bits, this host of %u/%u",
                      guest & 0xff, guest >> 8 & 0xff, host & 0xff, host >> 8 & 0xff);
}

static void check_xsave(const Ferry__CpuPolicy *p, const struct fy_cpu_support *s, struct fy_err *why)
{
    uint32_t want = entry_reg(entry(p, 0xd, 0), FY_EAX), have = have_reg(s, 0xd, 0, FY_EAX);
    if (want & ~have)
        fy_reason_add(why, FY_EREFUSED, "%s needs XSAVE components 0x%x, this host lacks 0x%x", p->model,
                      want, want & ~have);
    for (unsigned i = 2; i < 32; i++) {
        const Ferry__CpuidEntry *c = entry(p, 0xd, i);
        if (!(want & have & 1u << i))
            continue;
        if (!c || c->eax != have_reg(s, 0xd, i, FY_EAX) || c->ebx != have_reg(s, 0xd, i, FY_EBX))
            fy_reason_add(why, FY_EREFUSED, "XSAVE component %u lies elsewhere on this host", i);
    }
}

static void check_msrs(const Ferry__CpuPolicy *p, const struct fy_cpu_support *s, struct fy_err *why)
{
    for (size_t i = 0; !s->msrs_any && i < p->n_msrs; i++) {
        bool found = false;
        for (size_t k = 0; k < s->msr_count && !found; k++)
            found = s->msrs[k] == p->msrs[i];
        if (!found)
            fy_reason_add(why, FY_EREFUSED,
                          "MSR 0x%x travels with the guest and this host's KVM cannot load it", p->msrs[i]);
    }
}

int fy_cpu_check(const Ferry__CpuPolicy *p, const struct fy_cpu_support *s, struct fy_err *e)
{
    if (check_form(p, e) < 0)
        return -1;
    struct fy_err why = {.code = 0};
    check_vendor(p, s, &why);
    check_features(p, s, &why);
    check_xsave(p, s, &why);
    check_msrs(p, s, &why);
    uint64_t diff = p->tsc_khz > s->tsc_khz ? p->tsc_khz - s->tsc_khz : s->tsc_khz - p->tsc_khz;
    if (!s->tsc_scales && diff * 1000000 > (uint64_t)s->tsc_khz * TSC_TOLERANCE_PPM)
        fy_reason_add(&why, FY_EREFUSED,
                      "the guest's TSC runs at %u kHz, this host's at %u kHz and it cannot scale", p->tsc_khz,
                      s->tsc_khz);
    if (why.code) {
        if (e)
            *e = why;
        return -1;
    }
    return 0;
}

uint64_t fy_cpu_xcr0(const Ferry__CpuPolicy *p)
{
    uint64_t xcr0 = entry_reg(entry(p, 0xd, 0), FY_EAX);
    return xcr0 ? xcr0 : 3;
}

bool fy_cpu_has(const Ferry__CpuPolicy *p, const char *name)
{
    for (size_t i = 0; i < fy_feature_count; i++) {
        const struct fy_feature_word *f = &fy_feature_words[fy_features[i].word];
        if (!strcmp(fy_features[i].name, name))
            return entry_reg(entry(p, f->function, f->index), f->reg) >> fy_features[i].bit & 1;
    }
    return false;
}

/* One socket of `vcpus` cores; the APIC id is the vCPU's number. */
static void fill_topology(struct fy_cpuid *l, unsigned vcpu, unsigned vcpus)
{
    unsigned bits = 0;
    while (1u << bits < vcpus)
        bits++;
    switch (l->function) {
    case 1:
        l->r[FY_EBX] = (l->r[FY_EBX] & 0xff00) | vcpus << 16 | vcpu << 24;
        l->r[FY_EDX] |= vcpus > 1 ? 1u << 28 : 0;
        break;
    case 4:
        if (l->r[FY_EAX] & 0x1f)
            l->r[FY_EAX] = (l->r[FY_EAX] & 0x3fff) | (vcpus - 1) << 26 |
                           (((l->r[FY_EAX] >> 5 & 7) == 3 ? vcpus - 1 : 0) << 14);
        break;
    case 0xb:
        l->r[FY_EAX] = l->index ? bits : 0;
        l->r[FY_EBX] = l->index ? vcpus : 1;
        l->r[FY_ECX] = l->index ? 0x201 : 0x100;
        l->r[FY_EDX] = vcpu;
        break;
    case 0x80000001u:
        l->r[FY_ECX] |= vcpus > 1 ? 1u << 1 : 0;
        break;
    case 0x80000008u:
        l->r[FY_ECX] = bits << 12 | (vcpus - 1);
        break;
    default:
        break;
    }
}

size_t fy_cpu_leaves(const Ferry__CpuPolicy *p, unsigned vcpu, unsigned vcpus,
                     struct fy_cpuid out[FY_CPUID_MAX])
{
    size_t n = FY_MIN(p->n_cpuid, (size_t)FY_CPUID_MAX);
    for (size_t i = 0; i < n; i++) {
        const Ferry__CpuidEntry *c = p->cpuid[i];
        out[i] = (struct fy_cpuid){c->function, c->index, c->indexed, {c->eax, c->ebx, c->ecx, c->edx}};
        fill_topology(&out[i], vcpu, vcpus);
    }
    return n;
}
