// SPDX-License-Identifier: Apache-2.0
/* Model-specific registers. Numbers: Intel SDM volume 4, AMD APM volume 2 appendix A, Linux
 * Documentation/virt/kvm/x86/msr.rst. Those that have no place in the vCPU read as constants to the guest and
 * are none of the vCPU's to the host (soft_msr_read false), so that what came from KVM goes back as it was.
 */
#include "hv/cpu/soft/handlers.h"
#include "hv/cpu/soft/sys.h"
#include "hv/cpu/soft/vm.h"

#define MC_BANKS 10u
#define STEAL_RESERVED 0x3eull

static bool gp0(struct soft_cpu *c)
{
    return sys_fail(c, SOFT_GP, 0);
}

/* MSRs that are a field, with the bits that a guest may set; canonical: an address. */
struct plain {
    uint32_t index;
    bool canonical;
    uint64_t bits;
    size_t at;
};
#define FIELD(i, canon, mask, name)                                                                          \
    {                                                                                                        \
        i, canon, mask, offsetof(struct soft_cpu, name)                                                      \
    }
#define ALL ~0ull
static const struct plain plains[] = {
    FIELD(0xc0000100u, true, ALL, seg[SOFT_FS].base),
    FIELD(0xc0000101u, true, ALL, seg[SOFT_GS].base),
    FIELD(0xc0000102u, true, ALL, kernel_gs_base),
    FIELD(0xc0000081u, false, ALL, star),
    FIELD(0xc0000082u, true, ALL, lstar),
    FIELD(0xc0000083u, true, ALL, cstar),
    FIELD(0xc0000084u, false, 0xffffffffu, fmask),
    FIELD(0x174, false, ALL, sysenter_cs),
    FIELD(0x175, true, ALL, sysenter_esp),
    FIELD(0x176, true, ALL, sysenter_eip),
    FIELD(0x1a0, false, ALL, misc_enable),
    FIELD(0x17a, false, 7, mcg_status),
    FIELD(0x17b, false, ALL, mcg_ctl),
};

static const struct plain *find_plain(uint32_t index)
{
    for (unsigned i = 0; i < sizeof plains / sizeof *plains; i++)
        if (plains[i].index == index)
            return &plains[i];
    return NULL;
}

/* What the guest reads from MSRs that have no state, and whether its writes are ignored. */
static const struct {
    uint32_t first, last;
    uint64_t value;
    bool writable;
} constants[] = {
    {0x17, 0x17, 0, false},
    {0x2a, 0x2a, 0, true},
    {0x34, 0x34, 0, false},
    {0x79, 0x79, 0, true},
    {0x8b, 0x8b, 1ull << 32, true},
    {0xcd, 0xcd, 3, false},
    {0xce, 0xce, 0, false},
    {0xfe, 0xfe, 0x508, false}, /* 8 variable MTRRs, fixed ones, WC */
    {0x140, 0x140, 0, true},
    {0x179, 0x179, MC_BANKS | 0x100, false},
    {0x198, 0x198, 1000 | 3ull << 40, false},
    {0x1d9, 0x1d9, 0, true},
    {0xc0010010u, 0xc0010010u, 0, true},
    {0xc0010015u, 0xc0010015u, 1u << 24, true}, /* the TSC counts at P0's frequency */
    {0xc001001fu, 0xc001001fu, 0, true},
    {0xc0010055u, 0xc0010055u, 0, true},
    {0xc0010058u, 0xc0010058u, 0, true},
    {0xc0010112u, 0xc0010113u, 0, true},
    {0xc0011020u, 0xc0011028u, 0, true},
    {0xc0011029u, 0xc0011029u, 2, true}, /* LFENCE waits */
    {0xc001102au, 0xc001102bu, 0, true},
};

static int find_constant(uint32_t index)
{
    for (unsigned i = 0; i < sizeof constants / sizeof *constants; i++)
        if (index >= constants[i].first && index <= constants[i].last)
            return (int)i;
    return -1;
}

/* Fixed-range MTRRs in the order of mtrr_fixed. */
static int fixed_mtrr(uint32_t index)
{
    if (index == 0x250)
        return 0;
    if (index == 0x258 || index == 0x259)
        return (int)(index - 0x258) + 1;
    return index >= 0x268 && index <= 0x26f ? (int)(index - 0x268) + 3 : -1;
}

static bool memory_type(unsigned t, bool pat)
{
    return t < 8 && (1u << t & (pat ? 0xf3u : 0x73u));
}

/* MTRRs, PAT, machine checks: *p where the index is one of these, NULL. */
static uint64_t *array_msr(struct soft_cpu *c, uint32_t index)
{
    int fixed = fixed_mtrr(index);
    if (fixed >= 0)
        return &c->mtrr_fixed[fixed];
    if (index == 0x2ff)
        return &c->mtrr_def;
    if (index >= 0x200 && index < 0x210)
        return index & 1 ? &c->mtrr_mask[(index - 0x200) / 2] : &c->mtrr_base[(index - 0x200) / 2];
    if (index == 0x277)
        return &c->pat;
    if (index >= 0x400 && index < 0x400 + 4 * MC_BANKS)
        return &c->mc[index - 0x400];
    return NULL;
}

/* May a guest write v there? */
static bool array_ok(const struct soft_cpu *c, uint32_t index, uint64_t v)
{
    uint64_t frame = c->vm->phys_limit - 1;
    if (fixed_mtrr(index) >= 0 || index == 0x277) {
        for (unsigned i = 0; i < 64; i += 8)
            if (!memory_type(v >> i & 0xff, index == 0x277))
                return false;
        return true;
    }
    if (index == 0x2ff)
        return !(v & ~0xcffull) && memory_type(v & 0xff, false);
    if (index < 0x400)
        return index & 1 ? !(v & ~(frame & ~0x7ffull))
                         : !(v & ~(frame & ~0xf00ull)) && memory_type(v & 0xff, false);
    return (index & 3) != 1 || v == 0; /* a status may only be cleared */
}

/* The KVM interface: an index of 0x4b564d00.. for both names; 0: not one. */
static uint32_t kvm_msr(uint32_t index)
{
    if (index == 0x11 || index == 0x12)
        return index - 0x11 + 0x4b564d00u;
    return index >= 0x4b564d00u && index <= 0x4b564d05u ? index : 0;
}

static uint64_t *kvm_field(struct soft_cpu *c, uint32_t index, bool host)
{
    struct soft_cpuid room;
    const struct soft_cpuid *p = sys_policy(c, &room);
    switch (index) {
    case 0x4b564d00u:
        return &c->kvm_wall_clock;
    case 0x4b564d01u:
        return &c->kvm_system_time;
    case 0x4b564d02u:
        return host || p->async_pf ? &c->kvm_async_pf : NULL;
    case 0x4b564d03u:
        return &c->kvm_steal_time;
    case 0x4b564d04u:
        return host || p->pv_eoi ? &c->kvm_pv_eoi : NULL;
    default:
        return host || p->poll ? &c->kvm_poll_control : NULL;
    }
}

static bool write_kvm(struct soft_cpu *c, uint32_t index, uint64_t v, bool host)
{
    uint64_t *field = kvm_field(c, index, host);
    if (!field || (!host && index == 0x4b564d03u && (v & STEAL_RESERVED)))
        return gp0(c);
    *field = v;
    if (host)
        return true;
    if (index == 0x4b564d00u)
        sys_wall_clock(c, v);
    else if (index == 0x4b564d01u)
        sys_system_time(c, false);
    else if (index == 0x4b564d03u)
        sys_steal_time(c);
    return true;
}

static bool write_efer(struct soft_cpu *c, uint64_t v, bool host)
{
    struct soft_cpuid room;
    uint64_t change = v ^ c->efer;
    if (!host) {
        if (v & ~(sys_policy(c, &room)->efer) || ((change & SOFT_EFER_LME) && (c->cr0 & SOFT_CR0_PG)))
            return gp0(c);
        v = (v & ~(uint64_t)SOFT_EFER_LMA) | (c->efer & SOFT_EFER_LMA);
    }
    c->efer = v;
    if (change & SOFT_EFER_NXE)
        soft_tlb_flush(c);
    return true;
}

static bool write_tsc_adjust(struct soft_cpu *c, uint64_t v, bool host)
{
    if (!host && v != c->tsc_adjust)
        soft_tsc_write(c, soft_tsc(c) + v - c->tsc_adjust);
    c->tsc_adjust = v;
    return true;
}

static bool has_tsc_aux(const struct soft_cpu *c)
{
    return c->features & (1ull << SOFT_F_RDTSCP | 1ull << SOFT_F_RDPID);
}

static bool read_rest(struct soft_cpu *c, uint32_t index, uint64_t *value, bool host)
{
    struct soft_cpuid room;
    int i;
    switch (index) {
    case 0x10:
        *value = soft_tsc(c);
        return true;
    case 0x3b:
        *value = c->tsc_adjust;
        return true;
    case 0x48:
        *value = c->spec_ctrl;
        return host || sys_policy(c, &room)->spec_ctrl || gp0(c);
    case 0x9e:
        *value = c->smbase;
        return host || gp0(c);
    case 0xc0000080u:
        *value = c->efer;
        return true;
    case 0xc0000103u:
        *value = c->tsc_aux;
        return host || has_tsc_aux(c) || gp0(c);
    default:
        break;
    }
    i = find_constant(index);
    if (i < 0 || host)
        return gp0(c);
    *value = constants[i].value;
    return true;
}

bool soft_msr_read(struct soft_cpu *c, uint32_t index, uint64_t *value, bool host)
{
    const struct plain *p = find_plain(index);
    const uint64_t *at = p ? (const uint64_t *)(const void *)((const uint8_t *)c + p->at) : NULL;
    *value = 0;
    if (!at)
        at = array_msr(c, index);
    if (!at && kvm_msr(index)) {
        at = kvm_field(c, kvm_msr(index), host);
        if (!at)
            return gp0(c);
    }
    if (at) {
        *value = *at;
        return true;
    }
    if (index == 0x1b || index == 0x6e0 || (index >= 0x800 && index < 0x900))
        return soft_lapic_msr(c, index, false, value) || gp0(c);
    return read_rest(c, index, value, host);
}

static bool write_rest(struct soft_cpu *c, uint32_t index, uint64_t v, bool host)
{
    struct soft_cpuid room;
    int i;
    switch (index) {
    case 0x10:
        soft_tsc_write(c, v);
        return true;
    case 0x3b:
        return write_tsc_adjust(c, v, host);
    case 0x48:
        if (!host && (!sys_policy(c, &room)->spec_ctrl || (v & ~7ull)))
            return gp0(c);
        c->spec_ctrl = v;
        return true;
    case 0x49:
        return (sys_policy(c, &room)->pred_cmd && !(v & ~1ull)) || gp0(c);
    case 0x9e:
        if (!host)
            return gp0(c);
        c->smbase = v;
        return true;
    case 0xc0000080u:
        return write_efer(c, v, host);
    case 0xc0000103u:
        if (!host && (!has_tsc_aux(c) || v >> 32))
            return gp0(c);
        c->tsc_aux = v;
        return true;
    default:
        break;
    }
    i = find_constant(index);
    return (i >= 0 && !host && constants[i].writable) || gp0(c);
}

static bool write_lapic(struct soft_cpu *c, uint32_t index, uint64_t v, bool host)
{
    if (host && index == 0x1b) {
        c->apic_base = v;
        return true;
    }
    return soft_lapic_msr(c, index, true, &v) || gp0(c);
}

bool soft_msr_write(struct soft_cpu *c, uint32_t index, uint64_t v, bool host)
{
    const struct plain *p = find_plain(index);
    uint64_t *array = p ? NULL : array_msr(c, index);
    if (p) {
        if (!host && ((v & ~p->bits) || (p->canonical && !soft_canonical(v))))
            return gp0(c);
        *(uint64_t *)(void *)((uint8_t *)c + p->at) = v;
        soft_bases_changed(c);
        return true;
    }
    if (array) {
        if (!host && !array_ok(c, index, v))
            return gp0(c);
        *array = v;
        return true;
    }
    if (kvm_msr(index))
        return write_kvm(c, kvm_msr(index), v, host);
    if (index == 0x1b || index == 0x6e0 || (index >= 0x800 && index < 0x900))
        return write_lapic(c, index, v, host);
    return write_rest(c, index, v, host);
}

static __attribute__((noinline)) bool rdmsr(struct soft_cpu *c)
{
    uint64_t v;
    if (!soft_msr_read(c, (uint32_t)c->gpr[SOFT_RCX], &v, false))
        return false;
    c->gpr[SOFT_RAX] = (uint32_t)v;
    c->gpr[SOFT_RDX] = v >> 32;
    return true;
}
SOFT_HANDLER(rdmsr)
{
    if (c->cpl)
        return sys_gp0(c, in);
    if (!rdmsr(c))
        return soft_fault(c, in);
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(wrmsr)
{
    uint64_t v = (uint32_t)c->gpr[SOFT_RAX] | c->gpr[SOFT_RDX] << 32;
    if (c->cpl)
        return sys_gp0(c, in);
    if (!soft_msr_write(c, (uint32_t)c->gpr[SOFT_RCX], v, false))
        return soft_fault(c, in);
    return sys_go(c, in, soft_rip_next(c, in));
}
