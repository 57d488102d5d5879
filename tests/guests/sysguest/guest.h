// SPDX-License-Identifier: Apache-2.0
#ifndef SYSGUEST_GUEST_H
#define SYSGUEST_GUEST_H
#include <stdbool.h>
#include <stdint.h>

#include "layout.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

extern u64 in[S_COUNT], out[S_COUNT], gdt[TEST / 8 + TEST_COUNT], idt[512], idt32[512];
extern u64 pml4[512], pdpt[512], pd[2048];
extern int (*hook)(void);
extern u8 boot_stack_end[], stubs64[], stubs32[], stubs_irq[], low_start[], low_end[], low_in[], low_out[],
    real_stubs[], ap_ax[], run64_iret[];
extern struct {
    u16 limit;
    u64 base;
} __attribute__((packed)) idt_pointer;
void *memset(void *to, int c, unsigned long n);
void *memcpy(void *to, const void *from, unsigned long n);
void run64(void);
void run32(void);

/* A snippet of code; it ends with int 0x20. */
#define CODE_IN(section, bits, end, ...)                                                                     \
    ({                                                                                                       \
        const u8 *code_;                                                                                     \
        __asm__ volatile(".pushsection " section "\n.code" bits "\n77:" __VA_ARGS__ "\n" end                 \
                         "\n.code64\n.popsection\nmovl $77b, %k0"                                            \
                         : "=r"(code_));                                                                     \
        code_;                                                                                               \
    })
#define SNIP(...) CODE_IN(".snip,\"ax\"", "64", "int $0x20", __VA_ARGS__)
#define SNIP32(...) CODE_IN(".snip,\"ax\"", "32", "int $0x20", __VA_ARGS__)
#define SNIP16(...) CODE_IN(".low16,\"awx\"", "16", "int $0x20", __VA_ARGS__)
#define LOWADDR(p) ((u64)(p) - (u64)low_start + LOW)
#define LOWOFF(p) ((u64)(p) - (u64)low_start)

void print(const char *format, ...) __attribute__((format(printf, 1, 2)));
void fresh(void);
void show(const char *name);
void start64(const u8 *code, unsigned cs);
void start32(const u8 *code, unsigned ring);
void start_v86(const u8 *code, unsigned iopl);
void start_real(const u8 *code, unsigned how);
/* Run and show, then fresh(). */
void t0(const char *name, const u8 *code);  /* long mode, ring 0 */
void t3(const char *name, const u8 *code);  /* long mode, ring 3 */
void tc0(const char *name, const u8 *code); /* compatibility mode */
void tc3(const char *name, const u8 *code);
void p0(const char *name, const u8 *code); /* 32-bit protected mode */
void p3(const char *name, const u8 *code);
void v86(const char *name, const u8 *code, unsigned iopl);
void real(const char *name, const u8 *code);

void gate64(unsigned vector, u64 handler, unsigned sel, unsigned type, unsigned dpl, unsigned ist);
void gate32(unsigned vector, u64 word);
void default_gates(void);
u64 segment(u32 base, u32 limit, unsigned access, unsigned flags);
void descriptor(unsigned sel, u64 d);
extern struct tss64 {
    u32 none;
    u64 rsp[3], none2, ist[7], none3;
    u16 none4, map;
} __attribute__((packed)) tss64[2];
extern u32 tss32[32];
extern u32 pd32[1024], pt32[1024];
extern u64 pae[4], pae_pd[2048];

bool has(u32 leaf, unsigned reg, unsigned bit);
extern bool no_pae; /* the command line again */
extern bool mild;   /* the command line says so: leave out what kills a lenient emulator */
bool feature(const char *name, bool there);
void cpuid(u32 leaf, u32 sub, u32 r[4]);

static inline void outb(u16 port, u8 v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}
static inline u8 inb(u16 port)
{
    u8 v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline u64 rdmsr(u32 msr)
{
    u32 a, d;
    __asm__ volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(msr) : "memory");
    return a | (u64)d << 32;
}
static inline void wrmsr(u32 msr, u64 v)
{
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}
#define REGISTER(name)                                                                                       \
    static inline u64 get_##name(void)                                                                       \
    {                                                                                                        \
        u64 v;                                                                                               \
        __asm__ volatile("movq %%" #name ", %0" : "=r"(v) : : "memory");                                     \
        return v;                                                                                            \
    }                                                                                                        \
    static inline void set_##name(u64 v)                                                                     \
    {                                                                                                        \
        __asm__ volatile("movq %0, %%" #name : : "r"(v) : "memory");                                         \
    }
REGISTER(cr0)
REGISTER(cr2)
REGISTER(cr3)
REGISTER(cr4)
REGISTER(cr8)
REGISTER(dr0)
REGISTER(dr6)
REGISTER(dr7)

#define CR0_MP 2u
#define CR0_EM 4u
#define CR0_TS 8u
#define CR0_NE 0x20u
#define CR0_WP 0x10000u
#define CR0_AM 0x40000u
#define CR0_PG 0x80000000u

/* Where tests put things. */
#define STACK0 0x600000u
#define STACK3 0x610000u
#define DATA 0x620000u /* a page of nothing in particular */
#define RSP0 0x630000u
#define IST1 0x640000u
#define IST2 0x650000u
#define IST3 0x660000u
#define ESP0 0x670000u
#define PAGES 0x800000u /* physical pages behind the window */
#define WINDOW 0x8000000000ull
extern u64 w_pdpt[512], w_pd[512], w_pt[512];

void group_modes(void);
void group_exceptions(void);
void group_segments(void);
void group_paging(void);
void group_smc(void);
void group_tasks(void);
void group_apic(void);
void group_odds(void);
void start_other(void);
void irq(unsigned vector, u64 *frame);
#endif
