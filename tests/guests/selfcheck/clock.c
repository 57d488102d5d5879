// SPDX-License-Identifier: Apache-2.0
/* TSC, kvmclock and the LAPIC timer. */
#include "guest.h"

#define MSR_KVMCLOCK 0x4b564d01
#define PM_TIMER 0x608
#define PM_TIMER_KHZ 3580 /* 3.579545 MHz */
#define LAPIC(reg) (*(volatile uint32_t *)(0xfee00000ull + (reg)))
#define LAPIC_SPURIOUS 0xf0
#define LAPIC_TIMER 0x320
#define LAPIC_INITIAL 0x380
#define LAPIC_CURRENT 0x390
#define LAPIC_DIVIDE 0x3e0
#define TIMER_VECTOR 0x40
#define SPURIOUS_VECTOR 0xff

/* The page that KVM writes (Linux Documentation/virt/kvm/x86/msr.rst). */
struct pvclock {
    volatile uint32_t version;
    uint32_t pad;
    volatile uint64_t tsc_timestamp, system_time;
    volatile uint32_t mul;
    volatile int8_t shift;
    volatile uint8_t flags;
    uint8_t pad2[2];
};

static struct pvclock pvclock[SC_CPUS] __attribute__((aligned(64)));
static int have_kvmclock;
uint64_t tsc_khz, tsc_start, lapic_per_ms;

static uint64_t kvmclock_read(struct pvclock *p)
{
    uint32_t version;
    uint64_t ns;
    do {
        version = p->version & ~1u;
        __asm__ volatile("" ::: "memory");
        uint64_t delta = rdtsc() - p->tsc_timestamp;
        delta = p->shift < 0 ? delta >> -p->shift : delta << p->shift;
        ns = p->system_time + (uint64_t)((unsigned __int128)delta * p->mul >> 32);
        __asm__ volatile("" ::: "memory");
    } while (version != p->version);
    return ns;
}

static uint64_t khz_from_pm_timer(void)
{
    uint32_t first = inl(PM_TIMER);
    uint64_t t0 = rdtsc();
    uint32_t ticks;
    do
        ticks = (inl(PM_TIMER) - first) & 0xffffff;
    while (ticks < PM_TIMER_KHZ * 30);
    return (rdtsc() - t0) * PM_TIMER_KHZ / ticks;
}

static uint64_t find_tsc_khz(void)
{
    uint32_t r[4];
    if (have_kvmclock && pvclock[0].mul) {
        uint64_t khz = (1000000ull << 32) / pvclock[0].mul;
        return pvclock[0].shift < 0 ? khz << -pvclock[0].shift : khz >> pvclock[0].shift;
    }
    trap(TRAP_CPUID, 0x40000000, 0, r);
    if (r[0] >= 0x40000010 && r[0] < 0x40010000) {
        trap(TRAP_CPUID, 0x40000010, 0, r);
        if (r[0])
            return r[0];
    }
    return khz_from_pm_timer();
}

void clock_init_cpu(unsigned id)
{
    if (have_kvmclock)
        trap(TRAP_WRMSR, MSR_KVMCLOCK, (uint64_t)&pvclock[id] | 1, NULL);
    LAPIC(LAPIC_SPURIOUS) = 0x100 | SPURIOUS_VECTOR;
    LAPIC(LAPIC_DIVIDE) = 0xb; /* by 1 */
    LAPIC(LAPIC_TIMER) = TIMER_VECTOR;
}

void clock_init(void)
{
    uint32_t r[4];
    trap(TRAP_CPUID, 0x40000000, 0, r);
    if (r[1] == 0x4b4d564b) { /* "KVMK" */
        trap(TRAP_CPUID, 0x40000001, 0, r);
        have_kvmclock = r[0] >> 3 & 1;
    }
    outb(0x21, 0xff); /* firmware may have left the PIC ready to interrupt */
    outb(0xa1, 0xff);
    clock_init_cpu(0);
    tsc_khz = find_tsc_khz();
    uint64_t t0 = rdtsc();
    LAPIC(LAPIC_INITIAL) = 0xffffffff;
    while (rdtsc() - t0 < 5 * tsc_khz)
        pause();
    uint32_t left = LAPIC(LAPIC_CURRENT);
    uint64_t t1 = rdtsc();
    LAPIC(LAPIC_INITIAL) = 0;
    lapic_per_ms = (uint64_t)(0xffffffff - left) * tsc_khz / (t1 - t0);
    tsc_start = rdtsc();
}

void clock_check(struct cpu *me, uint64_t now)
{
    if (now < me->last_tsc)
        put_line("!clock backwards tsc %u %u cpu %u", me->last_tsc, now, (uint64_t)me->id);
    me->last_tsc = now;
    if (!have_kvmclock)
        return;
    uint64_t ns = kvmclock_read(&pvclock[me->id]);
    if (ns < me->last_kvmclock)
        put_line("!clock backwards kvmclock %u %u cpu %u", me->last_kvmclock, ns, (uint64_t)me->id);
    me->last_kvmclock = ns;
}

/* Halt until the TSC reaches `tsc`, or spin where that is too near to be worth a halt. */
void sleep_until(uint64_t tsc)
{
    uint64_t now = rdtsc();
    if (now >= tsc)
        return;
    uint64_t wait = tsc - now;
    if (wait < tsc_khz / 16) {
        while (rdtsc() < tsc)
            pause();
        return;
    }
    uint64_t count = wait * lapic_per_ms / tsc_khz;
    LAPIC(LAPIC_INITIAL) = count > 0xffffffff ? 0xffffffff : (uint32_t)count;
    trap(TRAP_HALT, 0, 0, NULL);
}
