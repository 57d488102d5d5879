// SPDX-License-Identifier: Apache-2.0
/* Output, and starting snippets in each mode. */
#include <stdarg.h>

#include "guest.h"

struct tss64 tss64[2];
u32 tss32[32];
u32 pd32[1024] __attribute__((aligned(4096))), pt32[1024] __attribute__((aligned(4096)));
u64 pae[4] __attribute__((aligned(4096))), pae_pd[2048] __attribute__((aligned(4096)));
u64 w_pdpt[512] __attribute__((aligned(4096))), w_pd[512] __attribute__((aligned(4096))),
    w_pt[512] __attribute__((aligned(4096)));
static unsigned lines, bytes;
bool mild, no_pae;
u64 start_info;

static void put(char ch)
{
    while (!(inb(0x3fd) & 0x20))
        ;
    outb(0x3f8, (u8)ch);
    bytes++;
}

static void number(u64 v, unsigned base)
{
    char text[24];
    unsigned n = 0;
    do {
        text[n++] = "0123456789abcdef"[v % base];
        v /= base;
    } while (v);
    while (n)
        put(text[--n]);
}

static void await_byte(void)
{
    while (!(inb(0x3fd) & 1))
        ;
    inb(0x3f8);
}

/* A console may lose what its reader is too slow for: every so often wait until the reader says go on. */
static void end_line(void)
{
    lines++;
    if (bytes < 1000)
        return;
    bytes = 0;
    for (const char *s = "!more\n"; *s; s++)
        put(*s);
    await_byte();
}

void print(const char *f, ...)
{
    va_list a;
    va_start(a, f);
    for (; *f; f++) {
        if (*f != '%') {
            put(*f);
            if (*f == '\n')
                end_line();
            continue;
        }
        switch (*++f) {
        case 's':
            for (const char *s = va_arg(a, const char *); *s; s++)
                put(*s);
            break;
        case 'd': {
            long v = va_arg(a, int);
            if (v < 0)
                put('-');
            number((u64)(v < 0 ? -v : v), 10);
            break;
        }
        case 'u':
            number(va_arg(a, unsigned), 10);
            break;
        case 'x':
            number(va_arg(a, unsigned), 16);
            break;
        case 'l': /* %lx */
            f++;
            number(va_arg(a, u64), 16);
            break;
        case 'c':
            put((char)va_arg(a, int));
            break;
        default:
            put('?');
        }
    }
    va_end(a);
}

void *memset(void *to, int c, unsigned long n)
{
    void *at = to;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(n) : "a"(c) : "memory");
    return to;
}

void *memcpy(void *to, const void *from, unsigned long n)
{
    void *at = to;
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(n) : : "memory");
    return to;
}

void cpuid(u32 leaf, u32 sub, u32 r[4])
{
    __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
}

bool has(u32 leaf, unsigned reg, unsigned bit)
{
    u32 r[4];
    cpuid(leaf & 0xc0000000u, 0, r);
    if (r[0] < leaf)
        return false;
    cpuid(leaf, 0, r);
    return r[reg] >> bit & 1;
}

bool feature(const char *name, bool there)
{
    if (!there)
        print("?%s absent\n", name);
    return there;
}

/* The state that every snippet starts from. */
void fresh(void)
{
    memset(in, 0, sizeof in);
    in[S_SP] = STACK0;
    in[S_FL] = 2;
    in[S_SS] = in[S_DS] = in[S_ES] = DATA0;
    in[S_CR0] = 0x33;
    in[S_CR4] = 0x600;
    in[S_TR] = TSS32;
}

static const char *const names[] = {"#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "#9",
                                    "#TS", "#NP", "#SS", "#GP", "#PF", "#15", "#MF", "#AC", "#MC", "#XM"};

void show(const char *name)
{
    unsigned v = (unsigned)out[S_VEC] & 0xff;
    u64 off = out[S_IP] - in[S_IP];
    print("%s: ", name);
    if (v < sizeof names / sizeof *names)
        print("%s", names[v]);
    else if (v == 0x20)
        print("done");
    else
        print("int%x", v);
    if (v == 8 || (v >= 10 && v <= 14) || v == 17)
        print("(%lx)", out[S_ERR] & 0xffffffff);
    if (off < 0x1000)
        print(" +%d", (int)off);
    else
        print(" elsewhere");
    if (v == 14 && out[S_CR2] - LOW < 0x2000)
        print(" cr2=low");
    else if (v == 14)
        print(" cr2=%lx", out[S_CR2]);
}

void start64(const u8 *code, unsigned cs)
{
    in[S_CS] = cs;
    in[S_IP] = (u64)code;
    if (cs & 3) {
        in[S_IP] += USER;
        if (in[S_SP] == STACK0)
            in[S_SP] = STACK3 + USER;
        if (in[S_SS] == DATA0)
            in[S_SS] = DATA3;
        in[S_DS] = in[S_ES] = DATA3;
    }
    memset(out, 0, sizeof out);
    run64();
}

static void go32(void)
{
    u32 *ivt = (u32 *)0;
    __asm__("" : "+r"(ivt));
    for (unsigned i = 0; i < 0x30; i++)
        ivt[i] = (u32)LOW_SEG << 16 | (u32)LOWOFF(real_stubs + 8 * i);
    ((u8 *)gdt)[TSS32 + 5] &= (u8)~2;
    memset(out, 0, sizeof out);
    memcpy((void *)LOW, low_start, (u64)(low_end - low_start));
    memcpy((void *)LOWADDR(low_in), in, sizeof in);
    memset((void *)LOWADDR(low_out), 0, sizeof out);
    run32();
    if (in[S_HOW])
        memcpy(out, (void *)LOWADDR(low_out), sizeof out);
}

void start32(const u8 *code, unsigned ring)
{
    in[S_IP] = (u64)code;
    if (!in[S_CS])
        in[S_CS] = ring ? CODE32U : CODE32;
    if (ring && in[S_SP] == STACK0) {
        in[S_SP] = STACK3;
        in[S_SS] = in[S_DS] = in[S_ES] = DATA3;
    }
    go32();
}

void start_v86(const u8 *code, unsigned iopl)
{
    in[S_IP] = LOWOFF(code);
    in[S_CS] = LOW_SEG;
    in[S_FL] |= 0x20002 | iopl << 12;
    in[S_SP] = 0xf000;
    in[S_SS] = 0x1000;
    if (in[S_DS] == DATA0)
        in[S_DS] = 0x2000;
    in[S_ES] = 0x3000;
    in[S_FS] = 0x4000;
    in[S_GS] = 0x5000;
    go32();
}

void start_real(const u8 *code, unsigned how)
{
    in[S_IP] = LOWOFF(code);
    in[S_CS] = LOW_SEG;
    in[S_SP] = 0xf000;
    in[S_SS] = 0x1000;
    in[S_DS] = 0x2000;
    in[S_ES] = 0x3000;
    in[S_FS] = 0x4000;
    in[S_GS] = 0x5000;
    in[S_HOW] = how;
    go32();
}

static void end(const char *name)
{
    show(name);
    print("\n");
    fresh();
}

void t0(const char *name, const u8 *code)
{
    start64(code, CODE64);
    end(name);
}
void t3(const char *name, const u8 *code)
{
    start64(code, CODE64U);
    end(name);
}
void tc0(const char *name, const u8 *code)
{
    start64(code, CODE32);
    end(name);
}
void tc3(const char *name, const u8 *code)
{
    start64(code, CODE32U);
    end(name);
}
void p0(const char *name, const u8 *code)
{
    start32(code, 0);
    end(name);
}
void p3(const char *name, const u8 *code)
{
    start32(code, 3);
    end(name);
}
void v86(const char *name, const u8 *code, unsigned iopl)
{
    start_v86(code, iopl);
    end(name);
}
void real(const char *name, const u8 *code)
{
    start_real(code, 1);
    end(name);
}

void gate64(unsigned vector, u64 handler, unsigned sel, unsigned type, unsigned dpl, unsigned ist)
{
    idt[2 * vector] = (handler & 0xffff) | (u64)sel << 16 | (u64)ist << 32 | (u64)type << 40 |
                      (u64)dpl << 45 | 1ull << 47 | (handler >> 16 & 0xffff) << 48;
    idt[2 * vector + 1] = handler >> 32;
}

void gate32(unsigned vector, u64 word)
{
    idt32[vector] = word;
}

u64 segment(u32 base, u32 limit, unsigned access, unsigned flags)
{
    return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)access << 40 |
           (u64)(limit >> 16 & 15) << 48 | (u64)flags << 52 | (u64)(base >> 24) << 56;
}

void descriptor(unsigned sel, u64 d)
{
    gdt[sel >> 3] = d;
}

void default_gates(void)
{
    for (unsigned i = 0; i < 256; i++) {
        if (i < 0x30)
            gate64(i, (u64)stubs64 + 16 * i, CODE64, 14, i == 3 || i == 4 || i == 0x20 ? 3 : 0,
                   i == 2 ? 2 : 1);
        else
            gate64(i, (u64)stubs_irq + 16 * i, CODE64, 14, 0, 0);
    }
    for (unsigned i = 0; i < 0x30; i++) {
        u64 h = (u64)stubs32 + 16 * i;
        u64 dpl = i == 3 || i == 4 || i == 0x20 ? 3 : 0;
        gate32(i, (h & 0xffff) | CODE32 << 16 | 0x8e00ull << 32 | dpl << 45 | (h >> 16 & 0xffff) << 48);
    }
}

static void init(void)
{
    default_gates();
    for (unsigned i = 0; i < 2; i++) {
        struct tss64 *t = &tss64[i];
        t->rsp[0] = RSP0 + 0x80000 * i;
        t->ist[0] = IST1 + 0x80000 * i;
        t->ist[1] = IST2 + 0x80000 * i;
        t->ist[2] = IST3 + 0x80000 * i;
        t->map = sizeof *t;
        gdt[TSS64 / 8 + 2 * i] = segment((u32)(u64)t, sizeof *t - 1, 0x89, 0);
    }
    tss32[1] = ESP0;
    tss32[2] = DATA0;
    tss32[25] = 104 << 16;
    descriptor(TSS32, segment((u32)(u64)tss32, 103, 0x89, 0));
    for (unsigned i = 0; i < 1024; i++)
        pd32[i] = i << 22 | 0x87;
    for (unsigned i = 0; i < 2048; i++)
        pae_pd[i] = (u64)i << 21 | 0x87;
    for (unsigned i = 0; i < 4; i++)
        pae[i] = ((u64)pae_pd + 4096 * i) | 1;
    pml4[1] = (u64)w_pdpt | 7;
    w_pdpt[0] = (u64)w_pd | 7;
    w_pd[0] = (u64)w_pt | 7;
    memcpy((void *)LOW, low_start, (u64)(low_end - low_start));
    __asm__ volatile("lidt %0" : : "m"(idt_pointer));
    __asm__ volatile("ltr %w0" : : "r"(TSS64));
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
}

static void power_off(void)
{
    outb(0xf4, 0);                                                 /* debug exit */
    __asm__ volatile("outw %w0, %w1" : : "a"(0x2000), "d"(0x604)); /* QEMU's PIIX4 and Ferry */
    __asm__ volatile("outw %w0, %w1" : : "a"(0x3400), "d"(0x604));
}

/* Is this word part of the command line? */
static bool said(const char *word)
{
    for (const char *at = *(const char **)(start_info + 24); at && *at; at++) {
        const char *a = at, *w = word;
        while (*w && *a == *w)
            a++, w++;
        if (!*w)
            return true;
    }
    return false;
}

void main(void);
void main(void)
{
    mild = said("mild");
    no_pae = said("nopae");
    init();
    fresh();
    print("!begin\n");
    group_exceptions();
    group_paging();
    group_segments();
    group_modes();
    group_apic();
    group_tasks();
    group_smc();
    group_odds();
    print("!done %u\n", lines);
    await_byte();
    power_off();
}
