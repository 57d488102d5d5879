// SPDX-License-Identifier: Apache-2.0
/* Local APIC, PIC, I/O APIC, the other processor. Ticks and orders are told, never times. */
#include "guest.h"

#define ID 0x20
#define TPR 0x80
#define PPR 0xa0
#define EOI 0xb0
#define LDR 0xd0
#define DFR 0xe0
#define SVR 0xf0
#define ISR 0x100
#define TMR 0x180
#define IRR 0x200
#define ICR 0x300
#define ICR2 0x310
#define LVT_TIMER 0x320
#define LVT_LINT0 0x350
#define COUNT 0x380
#define CURRENT 0x390
#define DIVIDE 0x3e0

extern u32 ap_cr0, ap_fl;
extern u16 ap_cs, ap_ds;

static u32 get(unsigned reg)
{
    return *(volatile u32 *)(0xfee00000u + (u64)reg);
}

static void set(unsigned reg, u32 v)
{
    *(volatile u32 *)(0xfee00000u + (u64)reg) = v;
}

static bool bit(unsigned reg, unsigned vector)
{
    return get(reg + vector / 32 * 16) >> vector % 32 & 1;
}

static struct log {
    volatile unsigned n;
    volatile u8 what[64];
} logs[2];
static volatile u64 irq_ip;
static volatile unsigned nested, other_alive, command, answer;
static volatile u64 seen; /* ISR, TMR, IRR, PPR as the handler found them */
static u8 (*volatile modified)(void);

static unsigned cpu(void)
{
    u16 tr;
    __asm__ volatile("str %0" : "=r"(tr));
    return tr == TSS64_AP;
}

static void note(unsigned c, u8 what)
{
    struct log *l = &logs[c];
    if (l->n < sizeof l->what)
        l->what[l->n] = what;
    l->n++;
}

static void ipi(u32 to, u32 low)
{
    set(ICR2, to << 24);
    set(ICR, low);
    while (get(ICR) & 0x1000)
        __asm__ volatile("pause");
}

void irq(unsigned vector, u64 *frame)
{
    unsigned c = cpu();
    note(c, (u8)vector);
    if (c) {
        if (vector != 2)
            set(EOI, 0);
        return;
    }
    irq_ip = frame[0];
    if (vector == 2) {
        if (nested) {
            nested = 0;
            ipi(get(ID) >> 24, 0x400);
            for (volatile unsigned i = 0; i < 1000; i++)
                ;
            note(c, 0xee);
        }
        return;
    }
    seen =
        (u64)bit(ISR, vector) | (u64)bit(TMR, vector) << 1 | (u64)bit(IRR, vector) << 2 | (u64)get(PPR) << 8;
    if (vector == 0x60 && nested) {
        nested = 0;
        set(ICR, 0x40050);
        set(ICR, 0x40070);
        __asm__ volatile("sti\nnop\ncli");
        note(c, 0xee);
    }
    if (vector == 0x30)
        outb(0x20, 0x20);
    else
        set(EOI, 0);
}

static void quiet(void)
{
    logs[0].n = 0;
    irq_ip = 0;
}

static void open(void)
{
    __asm__ volatile("sti\nnop\nnop\ncli" : : : "memory");
}

static void show_log(const char *name, unsigned c)
{
    print("%s:", name);
    for (unsigned i = 0; i < logs[c].n && i < 64; i++)
        print(" %x", (unsigned)logs[c].what[i]);
    print("\n");
}

/* Halt until this many interrupts have come. */
static void halt_until(unsigned n)
{
    for (;;) {
        __asm__ volatile("cli" : : : "memory");
        if (logs[0].n >= n)
            return;
        __asm__ volatile("sti\nhlt\ncli" : : : "memory");
    }
}

static void priorities(void)
{
    set(SVR, 0x1ff);
    set(TPR, 0);
    quiet();
    set(ICR, 0x40050);
    print("apic.self.pending: irr=%u isr=%u ppr=%x\n", bit(IRR, 0x50), bit(ISR, 0x50), get(PPR));
    open();
    show_log("apic.self", 0);
    print("apic.self.handler: isr=%x tmr=%x irr=%x ppr=%x after=%u\n", (unsigned)seen & 1,
          (unsigned)seen >> 1 & 1, (unsigned)seen >> 2 & 1, (unsigned)(seen >> 8), bit(ISR, 0x50));
    quiet();
    set(ICR, 0x40050);
    set(ICR, 0x40050);
    open();
    show_log("apic.twice", 0);
    quiet();
    set(TPR, 0x50);
    set(ICR, 0x4005f);
    open();
    print("apic.tpr.held: n=%u irr=%u ppr=%x cr8=%x\n", logs[0].n, bit(IRR, 0x5f), get(PPR),
          (unsigned)get_cr8());
    set(TPR, 0x4f);
    open();
    show_log("apic.tpr.released", 0);
    quiet();
    set_cr8(6);
    set(ICR, 0x40061);
    open();
    print("apic.cr8.held: n=%u tpr=%x\n", logs[0].n, get(TPR));
    set_cr8(5);
    open();
    show_log("apic.cr8.released", 0);
    set_cr8(0);
    quiet();
    set(ICR, 0x40050);
    set(ICR, 0x40070);
    set(ICR, 0x40060);
    set(ICR, 0x40061);
    open();
    __asm__ volatile("sti\nnop\nnop\nnop\nnop\ncli");
    show_log("apic.order", 0);
    quiet();
    nested = 1;
    set(ICR, 0x40060);
    open();
    open();
    show_log("apic.nested", 0);
    /* a vector below 16 cannot be sent */
    if (!mild) {
        quiet();
        set(ICR, 0x4000f);
        open();
        print("?strict apic.illegal_vector: n=%u\n", logs[0].n);
    }
    /* disabled by software, the local vectors are masked */
    set(LVT_TIMER, 0x41);
    quiet();
    set(SVR, 0xff);
    print("apic.disabled: lvt=%x", get(LVT_TIMER));
    set(LVT_TIMER, 0x41);
    print(" lvt=%x", get(LVT_TIMER));
    set(SVR, 0x1ff);
    print(" enabled: lvt=%x\n", get(LVT_TIMER));
}

static void shadows(void)
{
#define PENDING(name, code)                                                                                  \
    quiet();                                                                                                 \
    set(ICR, 0x40050);                                                                                       \
    {                                                                                                        \
        u64 from;                                                                                            \
        __asm__ volatile("leaq 88f(%%rip), %0\n88:" code "\ncli"                                             \
                         : "=&b"(from)                                                                       \
                         : "a"(DATA0)                                                                        \
                         : "memory", "cc");                                                                  \
        print(name ": n=%u at=+%d\n", logs[0].n, logs[0].n ? (int)(irq_ip - from) : 0);                      \
    }                                                                                                        \
    open()
    PENDING("shadow.sti", "sti\nnop\nnop");
    PENDING("shadow.sti_cli", "sti\ncli\nnop");
    PENDING("shadow.sti_hlt", "sti\nhlt\nnop");
    PENDING("shadow.popf", "pushq $0x202\npopfq\nnop\nnop");
    PENDING("shadow.sti_sti", "sti\nsti\nnop\nnop");
    PENDING("shadow.nop_sti", "nop\nsti\nmovl %%eax, %%ds\nnop");
}

static void timer(void)
{
    set(DIVIDE, 0xb);
    quiet();
    set(LVT_TIMER, 0x41);
    set(COUNT, 20000);
    halt_until(1);
    print("timer.oneshot: n=%u current=%u\n", logs[0].n, get(CURRENT));
    set(LVT_TIMER, 0x42);
    set(COUNT, 200000);
    halt_until(2);
    show_log("timer.oneshot.next", 0);
    quiet();
    set(LVT_TIMER, 0x20043);
    set(COUNT, 100000);
    halt_until(5);
    set(COUNT, 0);
    print("timer.periodic: first=%x fifth=%x current=%u\n", (unsigned)logs[0].what[0],
          (unsigned)logs[0].what[4], get(CURRENT));
    open();
    quiet();
    set(LVT_TIMER, 0x42);
    set(COUNT, 300000);
    halt_until(1);
    show_log("timer.periodic.stopped", 0);
    quiet();
    set(LVT_TIMER, 0x10044);
    set(COUNT, 20000);
    while (get(CURRENT))
        __asm__ volatile("pause");
    open();
    print("timer.masked: n=%u irr=%u\n", logs[0].n, bit(IRR, 0x44));
    if (!mild) {
        set(LVT_TIMER, 0x45);
        open();
    }
    if (!mild)
        print("?strict timer.unmasked_late: n=%u\n", logs[0].n);
    /* a count written anew starts anew */
    quiet();
    set(LVT_TIMER, 0x46);
    set(COUNT, 0x7fffffff);
    set(COUNT, 20000);
    halt_until(1);
    show_log("timer.rewritten", 0);
    /* priority between the timer and an IPI */
    quiet();
    set(LVT_TIMER, 0x75);
    set(COUNT, 1000);
    while (!bit(IRR, 0x75))
        __asm__ volatile("pause");
    set(ICR, 0x40051);
    open();
    open();
    show_log("timer.before_ipi", 0);
    if (feature("tscdeadline", has(1, 2, 24))) {
        quiet();
        set(LVT_TIMER, 0x40047);
        u32 a, d;
        __asm__ volatile("mfence\nrdtsc" : "=a"(a), "=d"(d));
        wrmsr(0x6e0, (a | (u64)d << 32) + 300000);
        halt_until(1);
        print("?tscdeadline timer.deadline: %x msr=%lx\n", (unsigned)logs[0].what[0], rdmsr(0x6e0));
        quiet();
        wrmsr(0x6e0, 1);
        halt_until(1);
        print("?tscdeadline timer.deadline.past: %x\n", (unsigned)logs[0].what[0]);
        wrmsr(0x6e0, ~0ull);
        wrmsr(0x6e0, 0);
        set(COUNT, 1000);
        print("?tscdeadline timer.deadline.off: msr=%lx current=%u\n", rdmsr(0x6e0), get(CURRENT));
    }
    set(LVT_TIMER, 0x10000);
}

static void pit(unsigned count)
{
    outb(0x43, 0x30);
    outb(0x40, (u8)count);
    outb(0x40, (u8)(count >> 8));
}

static void io_set(u32 reg, u32 v)
{
    *(volatile u32 *)0xfec00000u = reg;
    *(volatile u32 *)0xfec00010u = v;
}

static u32 io_get(u32 reg)
{
    *(volatile u32 *)0xfec00000u = reg;
    return *(volatile u32 *)0xfec00010u;
}

static void routing(void)
{
    /* the PIC, through LINT0 */
    outb(0x20, 0x11);
    outb(0x21, 0x30);
    outb(0x21, 4);
    outb(0x21, 1);
    outb(0xa0, 0x11);
    outb(0xa1, 0x38);
    outb(0xa1, 2);
    outb(0xa1, 1);
    outb(0xa1, 0xff);
    for (unsigned i = 0; i < 24; i++)
        io_set(0x10 + 2 * i, 0x10000);
    set(LVT_LINT0, 0x700);
    quiet();
    outb(0x21, 0xff);
    pit(500);
    outb(0x20, 0x0a);
    while (!(inb(0x20) & 1))
        __asm__ volatile("pause");
    open();
    print("pic.masked: n=%u irr=1\n", logs[0].n);
    outb(0x21, 0xfe);
    halt_until(1);
    show_log("pic.unmasked", 0);
    quiet();
    pit(500);
    halt_until(1);
    outb(0x20, 0x0b);
    print("pic.pit: %x isr=%x\n", (unsigned)logs[0].what[0], (unsigned)inb(0x20) & 1);
    outb(0x21, 0xff);
    set(LVT_LINT0, 0x10700);
    /* the I/O APIC */
    quiet();
    io_set(0x11, (get(ID) >> 24) << 24);
    io_set(0x15, (get(ID) >> 24) << 24);
    pit(500);
    set(LVT_TIMER, 0x42);
    set(COUNT, 0x1000000);
    halt_until(1);
    show_log("ioapic.masked", 0);
    quiet();
    io_set(0x10, 0x31); /* the PIT is at pin 0, or at 2 as the machine's tables say */
    io_set(0x14, 0x31);
    print("ioapic.entry: %x\n", io_get(0x14) & 0x1ffff);
    quiet();
    pit(500);
    halt_until(1);
    print("ioapic.pit: %x isr=%x tmr=%x\n", (unsigned)logs[0].what[0], (unsigned)seen & 1,
          (unsigned)seen >> 1 & 1);
    quiet();
    pit(500);
    halt_until(1);
    show_log("ioapic.again", 0);
    io_set(0x10, 0x10031);
    io_set(0x14, 0x10031);
    set(LVT_TIMER, 0x10000);
}

void ap_main(void);
void ap_main(void)
{
    set(SVR, 0x1ff);
    set(LDR, 2u << 24);
    other_alive++;
    for (;;) {
        __asm__ volatile("sti\nnop\nnop\ncli" : : : "memory");
        unsigned c = command;
        if (c == 1)
            ipi(0, 0x4000 | 0x52);
        else if (c == 2)
            ipi(0, 0x4400);
        else if (c == 3) {
            u32 r[4];
            cpuid(0, 0, r); /* serialises */
            answer = modified();
        } else if (c == 4) { /* halt until an interrupt has come */
            unsigned n = logs[1].n;
            answer = 1;
            while (logs[1].n == n)
                __asm__ volatile("sti\nhlt\ncli" : : : "memory");
        }
        if (c) {
            command = 0;
            __asm__ volatile("" : : : "memory");
        } else {
            __asm__ volatile("pause");
        }
    }
}

static void ask(unsigned c)
{
    command = c;
    while (command)
        __asm__ volatile("pause");
}

static void await_log(unsigned n)
{
    while (logs[1].n < n)
        __asm__ volatile("pause");
}

static void sipi(void)
{
    ipi(1, 0x4608);
}

/* INIT takes time, and a SIPI before its end is lost. */
static void start_until(unsigned n)
{
    while (other_alive < n) {
        sipi();
        for (unsigned i = 0; i < 1000 && other_alive < n; i++)
            __asm__ volatile("pause");
    }
}

static void others(void)
{
    memcpy((void *)LOW, low_start, (u64)(low_end - low_start));
    gate64(2, (u64)stubs_irq + 16 * 2, CODE64, 14, 0, 2);
    ipi(1, 0xc500);
    ipi(1, 0x8500);
    start_until(1);
    sipi(); /* a second one does nothing */
    ask(9);
    u32 *low = (u32 *)LOWADDR(&ap_ax);
    __asm__("" : "+r"(low));
    print("ap.start: alive=%u ax=%x cr0=%x fl=%x cs=%x ds=%x\n", other_alive, low[0], low[1], low[2],
          low[3] & 0xffff, low[3] >> 16);
    logs[1].n = 0;
    ipi(1, 0x4053);
    await_log(1);
    ipi(1, 0x4054);
    await_log(2);
    show_log("ap.fixed", 1);
    logs[1].n = 0;
    ipi(1, 0x4400);
    await_log(1);
    show_log("ap.nmi", 1);
    /* halted, woken by each */
    logs[1].n = 0;
    answer = 0;
    command = 4;
    while (!answer)
        __asm__ volatile("pause");
    ipi(1, 0x4055);
    while (command)
        __asm__ volatile("pause");
    show_log("ap.hlt.fixed", 1);
    logs[1].n = 0;
    answer = 0;
    command = 4;
    while (!answer)
        __asm__ volatile("pause");
    ipi(1, 0x4400);
    while (command)
        __asm__ volatile("pause");
    show_log("ap.hlt.nmi", 1);
    /* shorthands and logical destinations */
    quiet();
    logs[1].n = 0;
    set(ICR, 0xc4000 | 0x56); /* all but self */
    await_log(1);
    open();
    print("ap.all_but_self: self=%u other=%x\n", logs[0].n, (unsigned)logs[1].what[0]);
    logs[1].n = 0;
    set(ICR, 0x84000 | 0x57); /* all */
    await_log(1);
    open();
    print("ap.all: self=%x other=%x\n", (unsigned)logs[0].what[0], (unsigned)logs[1].what[0]);
    quiet();
    logs[1].n = 0;
    set(LDR, 1u << 24);
    ipi(2, 0x4858);
    await_log(1);
    open();
    print("ap.logical.other: self=%u other=%x\n", logs[0].n, (unsigned)logs[1].what[0]);
    logs[1].n = 0;
    ipi(3, 0x4859);
    await_log(1);
    open();
    print("ap.logical.both: self=%x other=%x\n", (unsigned)logs[0].what[0], (unsigned)logs[1].what[0]);
    quiet();
    logs[1].n = 0;
    ipi(1, 0x485a);
    open();
    ask(9);
    print("ap.logical.self: self=%x other=%u\n", (unsigned)logs[0].what[0], logs[1].n);
    quiet();
    ask(1);
    open();
    while (!logs[0].n)
        open();
    show_log("ap.sends", 0);
    /* an NMI ends a halt with interrupts off */
    quiet();
    command = 2;
    __asm__ volatile("cli" : : : "memory");
    while (!logs[0].n)
        __asm__ volatile("pause");
    show_log("ap.sends.nmi", 0);
    quiet();
    nested = 1;
    ipi(0, 0x4400);
    while (logs[0].n < 3)
        __asm__ volatile("pause");
    show_log("nmi.masked_until_iret", 0);
    /* INIT, then a SIPI: it starts anew; a SIPI without INIT does nothing */
    ipi(1, 0xc500);
    ipi(1, 0x8500);
    start_until(2);
    ask(9);
    print("ap.again: alive=%u\n", other_alive);
}

unsigned run_other(u8 (*f)(void));
unsigned run_other(u8 (*f)(void))
{
    modified = f;
    ask(3);
    return answer;
}

static void x2apic(void)
{
    u64 base = rdmsr(0x1b);
    print("apic.base: %lx\n", base & 0xd00);
    if (!feature("x2apic", has(1, 2, 21)))
        return;
    in[S_CX] = 0x802;
    t0("?x2apic x2.off", SNIP("rdmsr"));
    wrmsr(0x1b, base | 0xc00);
    quiet();
    print("?x2apic x2.id: %lx svr=%lx ldr=%lx\n", rdmsr(0x802), rdmsr(0x80f), rdmsr(0x80d));
    wrmsr(0x83f, 0x50);
    open();
    print("?x2apic x2.self: n=%u irr=%lx\n", logs[0].n, rdmsr(0x822));
    wrmsr(0x80b, 0);
    in[S_CX] = 0x80e;
    t0("?x2apic x2.dfr", SNIP("rdmsr"));
    in[S_CX] = 0x831;
    t0("?x2apic x2.icr2", SNIP("rdmsr"));
    in[S_CX] = 0x80b;
    in[S_AX] = 1;
    t0("?x2apic x2.eoi_nonzero", SNIP("wrmsr"));
    in[S_CX] = 0x83f;
    t0("?x2apic x2.self_read", SNIP("rdmsr"));
    in[S_CX] = 0x802;
    t0("?x2apic x2.id_write", SNIP("wrmsr"));
    in[S_CX] = 0x1b;
    in[S_AX] = (u32)(base | 0x800);
    t0("?x2apic x2.back", SNIP("wrmsr"));
    wrmsr(0x1b, base & ~0xc00ull);
    wrmsr(0x1b, base);
    set(SVR, 0x1ff);
}

void group_apic(void)
{
    priorities();
    shadows();
    timer();
    routing();
    others();
}

void group_x2apic(void);
void group_x2apic(void)
{
    x2apic();
}
