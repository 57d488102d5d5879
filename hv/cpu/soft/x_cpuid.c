// SPDX-License-Identifier: Apache-2.0
/* CPUID, from the machine's policy; and what else the policy decides. */
#include <stdlib.h>

#include "hv/cpu/features.h"
#include "hv/cpu/soft/handlers.h"
#include "hv/cpu/soft/sys.h"
#include "hv/cpu/soft/vm.h"

#define XSAVE_LEGACY 576u
#define AVX_BYTES 256u

static bool has(const struct soft_cpu *c, const char *name)
{
    return fy_cpu_has(c->vm->policy, name);
}

static uint64_t cr4_bits(const struct soft_cpu *c)
{
    static const struct {
        const char *name;
        uint32_t bits;
    } table[] = {{"vme", SOFT_CR4_VME | SOFT_CR4_PVI},
                 {"tsc", SOFT_CR4_TSD},
                 {"de", SOFT_CR4_DE},
                 {"pse", SOFT_CR4_PSE},
                 {"pae", SOFT_CR4_PAE},
                 {"mce", SOFT_CR4_MCE},
                 {"pge", SOFT_CR4_PGE},
                 {"fxsr", SOFT_CR4_OSFXSR},
                 {"sse", SOFT_CR4_OSXMMEXCPT},
                 {"umip", SOFT_CR4_UMIP},
                 {"fsgsbase", SOFT_CR4_FSGSBASE},
                 {"pcid", SOFT_CR4_PCIDE},
                 {"xsave", SOFT_CR4_OSXSAVE},
                 {"smep", SOFT_CR4_SMEP},
                 {"smap", SOFT_CR4_SMAP}};
    uint64_t bits = SOFT_CR4_PCE;
    for (unsigned i = 0; i < sizeof table / sizeof *table; i++)
        if (has(c, table[i].name))
            bits |= table[i].bits;
    return bits;
}

static void fill(const struct soft_cpu *c, struct soft_cpuid *p)
{
    p->count = fy_cpu_leaves(c->vm->policy, c->index, c->vm->vcpus, p->leaf);
    p->cr4 = cr4_bits(c);
    p->efer = (has(c, "syscall") ? SOFT_EFER_SCE : 0) | (has(c, "nx") ? SOFT_EFER_NXE : 0) |
              (has(c, "lm") ? SOFT_EFER_LME | SOFT_EFER_LMA : 0);
    p->spec_ctrl = has(c, "spec-ctrl") || has(c, "stibp") || has(c, "ssbd") || has(c, "ibrs") ||
                   has(c, "amd-stibp") || has(c, "amd-ssbd");
    p->pred_cmd = has(c, "spec-ctrl") || has(c, "ibpb");
    for (size_t i = 0; i < p->count; i++) {
        const struct fy_cpuid *l = &p->leaf[i];
        if (l->function == 0)
            p->intel = l->r[FY_EBX] == 0x756e6547u; /* "Genu" */
        if (l->function == 0x40000001u) {
            p->async_pf = l->r[FY_EAX] >> 4 & 1;
            p->pv_eoi = l->r[FY_EAX] >> 6 & 1;
            p->poll = l->r[FY_EAX] >> 12 & 1;
        }
    }
}

const struct soft_cpuid *sys_policy(struct soft_cpu *c, struct soft_cpuid *room)
{
    if (SOFT_LIKELY(c->cpuid != NULL))
        return c->cpuid;
    c->cpuid = calloc(1, sizeof *c->cpuid);
    if (c->cpuid) {
        fill(c, c->cpuid);
        return c->cpuid;
    }
    memset(room, 0, sizeof *room);
    fill(c, room);
    return room;
}

static const struct fy_cpuid *find(const struct soft_cpuid *p, uint32_t function, uint32_t index)
{
    for (size_t i = 0; i < p->count; i++)
        if (p->leaf[i].function == function && (!p->leaf[i].indexed || p->leaf[i].index == index))
            return &p->leaf[i];
    return NULL;
}

/* Bits that follow the machine's state. */
static void fill_volatile(const struct soft_cpu *c, uint32_t function, uint32_t index, uint32_t r[4])
{
    if (function == 1) {
        r[FY_ECX] &= ~(1u << 27);
        r[FY_ECX] |= c->cr4 & SOFT_CR4_OSXSAVE ? 1u << 27 : 0;
        if (!(c->apic_base & 0x800))
            r[FY_EDX] &= ~(1u << 9);
    } else if (function == 0xd && index == 0) {
        r[FY_EBX] = r[FY_EAX] ? XSAVE_LEGACY + (c->xcr0 & 4 ? AVX_BYTES : 0) : 0;
    } else if (function == 0xd && index == 1) {
        r[FY_EBX] = r[FY_EAX] & 0xa ? XSAVE_LEGACY + (c->xcr0 & 4 ? AVX_BYTES : 0) : 0;
    }
}

/* Beyond the last leaf an Intel processor answers with the highest basic one, AMD's with zeros. */
static __attribute__((noinline)) void cpuid(struct soft_cpu *c)
{
    struct soft_cpuid room;
    const struct soft_cpuid *p = sys_policy(c, &room);
    uint32_t function = (uint32_t)c->gpr[SOFT_RAX], index = (uint32_t)c->gpr[SOFT_RCX], r[4] = {0};
    const struct fy_cpuid *l = find(p, function, index), *class = find(p, function & 0xc0000000u, 0);
    const struct fy_cpuid *basic = find(p, 0, 0);
    bool beyond =
        function < 0x40000000u || function >= 0x80000000u ? !class || function > class->r[FY_EAX] : false;
    if (!l && beyond && p->intel && basic) {
        function = basic->r[FY_EAX];
        l = find(p, function, index);
    }
    if (l)
        memcpy(r, l->r, sizeof r);
    else if (function == 0xb) {
        const struct fy_cpuid *first = find(p, 0xb, 0);
        r[FY_ECX] = first ? index & 0xff : 0;
        r[FY_EDX] = first ? first->r[FY_EDX] : 0;
    }
    fill_volatile(c, function, index, r);
    c->gpr[SOFT_RAX] = r[0];
    c->gpr[SOFT_RBX] = r[1];
    c->gpr[SOFT_RCX] = r[2];
    c->gpr[SOFT_RDX] = r[3];
}

SOFT_HANDLER(cpuid)
{
    cpuid(c);
    SOFT_NEXT(c, in);
}
