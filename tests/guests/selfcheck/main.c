// SPDX-License-Identifier: Apache-2.0
/* The self-checking guest: see tests/guests/README.md. */
#include "guest.h"

#define TRAMPOLINE 0x6000ull
#define LAPIC(reg) (*(volatile uint32_t *)(0xfee00000ull + (reg)))
#define ICR_LOW 0x300
#define ICR_HIGH 0x310
#define AP_WAIT_MS 200

extern uint64_t start_info;
extern volatile uint64_t ap_number;
extern const uint8_t trampoline[], trampoline_end[];
extern const uint32_t fault_entries[32];
extern uint64_t idt[512];
void trap_entry(void);
void timer_entry(void);
void spurious_entry(void);
void idt_fill(void);
void fault_report(const uint64_t *frame, uint64_t cr2);
void guest_main(void);

struct options opt;
static char cmdline[512];

void *memset(void *to, int v, size_t n)
{
    void *at = to;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(n) : "a"(v) : "memory");
    return to;
}

void *memcpy(void *to, const void *from, size_t n)
{
    void *at = to;
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(n)::"memory");
    return to;
}

/* In ring 0. */
static void gate(unsigned vector, uint64_t entry)
{
    idt[2 * vector] = (entry & 0xffff) | 0x08ull << 16 | 0x8eull << 40 | (entry >> 16 & 0xffff) << 48;
    idt[2 * vector + 1] = entry >> 32;
}

void idt_fill(void)
{
    for (unsigned i = 0; i < 32; i++)
        gate(i, fault_entries[i]);
    gate(0x40, (uint64_t)timer_entry);
    gate(6, (uint64_t)trap_entry);
    gate(0xff, (uint64_t)spurious_entry);
}

/* In ring 0, frame: vector, error code, rip, cs, rflags, rsp, ss. The vCPU stops behind it. */
void fault_report(const uint64_t *frame, uint64_t cr2)
{
    put_line("!fault %u error %x rip %x cs %x rflags %x rsp %x cr2 %x", frame[0], frame[1], frame[2],
             frame[3], frame[4], frame[5], cr2);
}

/* The value of key=value on the command line, or NULL. */
const char *cmdline_value(const char *key)
{
    const char *at = cmdline;
    while (*at) {
        const char *k = key;
        while (*k && *at == *k) {
            at++;
            k++;
        }
        if (!*k && *at == '=')
            return at + 1;
        while (*at && *at != ' ')
            at++;
        while (*at == ' ')
            at++;
    }
    return NULL;
}

static uint64_t number(const char *key, uint64_t otherwise)
{
    const char *v = cmdline_value(key);
    if (!v)
        return otherwise;
    if (v[0] == 'm' && v[1] == 'a' && v[2] == 'x')
        return UINT64_MAX;
    uint64_t n = 0;
    while (*v >= '0' && *v <= '9')
        n = n * 10 + (uint64_t)(*v++ - '0');
    return n;
}

/* Which of `names` (separated by commas) the value of key is; 0 where it is none of them. */
static unsigned choice(const char *key, const char *names, unsigned otherwise)
{
    const char *v = cmdline_value(key);
    if (!v)
        return otherwise;
    for (unsigned n = 0; *names; n++) {
        const char *x = v;
        while (*names && *names != ',' && *x == *names) {
            x++;
            names++;
        }
        if ((!*names || *names == ',') && (!*x || *x == ' '))
            return n;
        while (*names && *names != ',')
            names++;
        if (*names)
            names++;
    }
    return otherwise;
}

static void read_options(void)
{
    const char *from = (const char *)((const uint64_t *)start_info)[3]; /* cmdline_paddr */
    for (unsigned i = 0; from && i + 1 < sizeof cmdline && from[i]; i++)
        cmdline[i] = from[i];
    opt.mem_mib = number("mem", 64);
    opt.dirty_mib = number("dirty", opt.mem_mib);
    opt.rate = number("rate", 100);
    opt.mode = choice("mode", "idle,seq,random,flip", SC_SEQ);
    opt.fill = choice("fill", "text,random,zero,mixed", SC_TEXT);
    opt.heartbeat = number("hb", 1) != 0;
    opt.full = choice("verify", "sample,full", 0) != 0;
    if (opt.mode == SC_IDLE)
        opt.rate = 0;
    if (!opt.rate)
        opt.mode = SC_IDLE;
}

static uint8_t checksum(const uint8_t *p, uint32_t n)
{
    uint8_t sum = 0;
    while (n--)
        sum = (uint8_t)(sum + *p++);
    return sum;
}

static const uint8_t *find_madt(void)
{
    const uint8_t *rsdp = (const uint8_t *)((const uint64_t *)start_info)[4];
    if (!rsdp || *(const uint64_t *)rsdp != 0x2052545020445352ull)
        return NULL;
    int wide = rsdp[15] >= 2;
    const uint8_t *sdt =
        (const uint8_t *)(wide ? *(const uint64_t *)(rsdp + 24) : (uint64_t) * (const uint32_t *)(rsdp + 16));
    uint32_t len = *(const uint32_t *)(sdt + 4);
    for (uint32_t at = 36; at + (wide ? 8 : 4) <= len; at += wide ? 8 : 4) {
        const uint8_t *t = (const uint8_t *)(wide ? *(const uint64_t *)(sdt + at)
                                                  : (uint64_t) * (const uint32_t *)(sdt + at));
        if (*(const uint32_t *)t == 0x43495041) { /* "APIC" */
            if (checksum(t, *(const uint32_t *)(t + 4)))
                put_line("!bad checksum of the MADT");
            return t;
        }
    }
    return NULL;
}

static void start_cpu(unsigned number_, uint8_t apic_id)
{
    ap_number = number_;
    LAPIC(ICR_HIGH) = (uint32_t)apic_id << 24;
    LAPIC(ICR_LOW) = 0x4500; /* INIT */
    sleep_until(rdtsc() + tsc_khz / 10);
    LAPIC(ICR_HIGH) = (uint32_t)apic_id << 24;
    LAPIC(ICR_LOW) = 0x4600 | (uint32_t)(TRAMPOLINE >> 12);
    uint64_t until = rdtsc() + AP_WAIT_MS * tsc_khz;
    while (!STATUS->cpu[number_].state && rdtsc() < until)
        pause();
    if (!STATUS->cpu[number_].state)
        put_line("!bad vcpu %u did not start", (uint64_t)number_);
}

/* Start what the MADT lists, one after the other; vCPUs are numbered in its order. */
static unsigned start_all(void)
{
    unsigned cpus = 1;
    const uint8_t *madt = find_madt();
    if (!madt)
        return cpus;
    uint64_t self = LAPIC(0x20) >> 24;
    memcpy((void *)TRAMPOLINE, trampoline, (size_t)(trampoline_end - trampoline));
    uint32_t len = *(const uint32_t *)(madt + 4);
    for (uint32_t at = 44; at + 2 <= len && madt[at + 1] >= 2 && cpus < SC_CPUS; at += madt[at + 1]) {
        if (madt[at] || !(madt[at + 4] & 1) || madt[at + 3] == self)
            continue;
        start_cpu(cpus, madt[at + 3]);
        cpus += STATUS->cpu[cpus].state ? 1 : 0;
    }
    return cpus;
}

/* In ring 3 from here on. */
void guest_main(void)
{
    memset((void *)SC_STATUS, 0, sizeof(struct sc_status));
    read_options();
    memory_init(start_info);
    sc_body_init();
    clock_init();
    unsigned cpus = start_all();
    STATUS->cpus = cpus;
    STATUS->mode = opt.mode;
    STATUS->fill = opt.fill;
    STATUS->tsc_khz = tsc_khz;
    uint64_t pages = STATUS->pages;
    uint64_t dirty = opt.rate ? opt.dirty_mib << 8 : 0;
    if (dirty > pages)
        dirty = pages;
    for (unsigned i = 0; i < cpus; i++) {
        STATUS->cpu[i].first = pages * i / cpus;
        STATUS->cpu[i].pages = pages * (i + 1) / cpus - pages * i / cpus;
        STATUS->cpu[i].dirty = dirty * (i + 1) / cpus - dirty * i / cpus;
        if (STATUS->cpu[i].dirty > STATUS->cpu[i].pages)
            STATUS->cpu[i].dirty = STATUS->cpu[i].pages;
    }
    put_line("!start selfcheck cpus=%u pages=%u tsc_khz=%u lapic_per_ms=%u", (uint64_t)cpus, pages, tsc_khz,
             lapic_per_ms);
    __atomic_store_n(&STATUS->magic, SC_MAGIC, __ATOMIC_RELEASE);
    run(0);
}
