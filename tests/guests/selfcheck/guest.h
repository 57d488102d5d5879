// SPDX-License-Identifier: Apache-2.0
/* Private to the self-checking guest. */
#ifndef FERRY_SELFCHECK_GUEST_H
#define FERRY_SELFCHECK_GUEST_H

#include <stddef.h>
#include <stdint.h>

#include "body.h"

/* The position of the vCPU lives in registers alone (the compiler is told to keep its hands off them): a page
 * is compared with what no page holds. */
register uint64_t r_pass __asm__("r12");
register uint64_t r_index __asm__("r13");

#define STATUS ((volatile struct sc_status *)SC_STATUS)

/* From the command line. */
struct options {
    uint64_t mem_mib, dirty_mib;
    uint64_t rate; /* MiB/s over all vCPUs; UINT64_MAX: flat out */
    enum sc_mode mode;
    enum sc_fill fill;
    int heartbeat, full;
};
extern struct options opt;

/* What a vCPU keeps for itself beside its registers. */
struct cpu {
    unsigned id;
    volatile struct sc_cpu *pub;
    uint64_t next_tick; /* TSC of the next millisecond's work */
    uint64_t next_page; /* TSC at which the next page is due */
    uint64_t last_tsc, last_kvmclock;
    uint64_t ticks;
    unsigned seen; /* last verdict request taken up */
    uint64_t left; /* pages to go in the verdict's pass */
    int checking;  /* a verdict's pass is under way */
    int in_rest;
};

extern uint64_t tsc_khz, tsc_start, lapic_per_ms;
extern volatile unsigned verdict_wanted;        /* counts requests */
extern volatile unsigned verdict_done[SC_CPUS]; /* the last one each vCPU has finished */
extern volatile unsigned cpus_filled;

static inline uint64_t rdtsc(void)
{
    uint32_t lo;
    uint32_t hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi)::"memory");
    return (uint64_t)hi << 32 | lo;
}

static inline void outb(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port));
}

static inline void outw(uint16_t port, uint16_t v)
{
    __asm__ volatile("outw %0, %1" ::"a"(v), "Nd"(port));
}

static inline void outl(uint16_t port, uint32_t v)
{
    __asm__ volatile("outl %0, %1" ::"a"(v), "Nd"(port));
}

static inline uint8_t inb(uint16_t port)
{
    uint8_t v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static inline uint32_t inl(uint16_t port)
{
    uint32_t v;
    __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static inline void pause(void)
{
    __asm__ volatile("pause" ::: "memory");
}

/* Traps into ring 0 (boot.S). */
enum { TRAP_HALT, TRAP_RDMSR, TRAP_WRMSR, TRAP_CPUID, TRAP_STOP };
uint64_t trap(uint64_t fn, uint64_t a, uint64_t b, void *c);

/* console.c */
void put_line(const char *fmt, ...); /* %s %u (uint64_t) %x (uint64_t); takes the lock, adds the newline */
void heartbeat(struct cpu *me, uint64_t now);
void console_poll(struct cpu *me);

/* clock.c */
void clock_init(void);
void clock_init_cpu(unsigned id);
void clock_check(struct cpu *me, uint64_t now);
void sleep_until(uint64_t tsc);

/* memory.c */
void memory_init(uint64_t start_info);
uint64_t *page_at(uint64_t page);

/* work.c */
void run(unsigned id);
void tick(struct cpu *me, uint64_t now);

/* main.c */
void start_cpus(unsigned count);
const char *cmdline_value(const char *key);

#endif
