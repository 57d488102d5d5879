// SPDX-License-Identifier: Apache-2.0
/* Task switches, from the task of TSS32 to a task in TEST. */
#include "guest.h"

#define OTHER (TEST + 8)
static u32 other[32], third[32];

static void make(u32 *t, const u8 *ip, u32 cs, u32 ss, u32 esp)
{
    memset(t, 0, 104);
    t[1] = ESP0;
    t[2] = DATA0;
    t[7] = (u32)(u64)pd32;
    t[8] = (u32)(u64)ip;
    t[9] = 2;
    for (unsigned i = 0; i < 8; i++)
        t[10 + i] = 0x100 + i;
    t[14] = esp;
    t[18] = ss;
    t[19] = cs;
    t[20] = t[21] = t[22] = t[23] = ss;
    t[25] = 104u << 16;
}

static void prepare(const u8 *ip)
{
    fresh();
    tss32[0] = 0;
    tss32[7] = (u32)(u64)pd32; /* a task switch does not save it */
    make(other, ip, CODE32, DATA0, STACK0 - 0x1000);
    descriptor(OTHER, segment((u32)(u64)other, 103, 0x89, 0));
    descriptor(TEST, 0x0000e50000000000 | (u64)OTHER << 16); /* a task gate for ring 3 */
    gdt[TSS32 / 8] = segment((u32)(u64)tss32, 103, 0x89, 0);
    in[S_CR3] = (u64)pd32;
    in[S_CR4] = 0x610;
    in[S_CR0] = 0x80000033;
    in[S_BX] = 0xb;
    in[S_SI] = 0x51;
}

static void tell(const char *name)
{
    u32 *t = tss32;
    print("%s: vec=%lx err=%lx tr=%lx old=%x new=%x link=%x,%x nt=%x ts=%x oldnt=%x bx=%lx si=%lx "
          "saved=%x,%x,%x,%x cr3=%s ldt=%lx\n",
          name, out[S_VEC], out[S_ERR], out[S_TR], (unsigned)(gdt[TSS32 / 8] >> 40) & 15,
          (unsigned)(gdt[OTHER / 8] >> 40) & 15, other[0] & 0xffff, t[0] & 0xffff,
          (unsigned)out[S_FL] >> 14 & 1, (unsigned)out[S_CR0] >> 3 & 1, t[9] >> 14 & 1, out[S_BX], out[S_SI],
          t[13], t[16], t[19] & 0xffff, t[18] & 0xffff, out[S_CR3] == (u64)pd32 ? "same" : "other",
          out[S_LDTR]);
}

static void task(const char *name, const u8 *from, const u8 *to, unsigned ring)
{
    if (to)
        other[8] = (u32)(u64)to;
    start32(from, ring);
    tell(name);
}

void group_tasks(void)
{
    const u8 *end = SNIP32("nop"), *jump = SNIP32("ljmp $0x88, $0"), *call = SNIP32("lcall $0x88, $0");
    const u8 *gate = SNIP32("lcall $0x80, $0"), *gate_jump = SNIP32("ljmp $0x80, $0");
    prepare(end);
    task("task.jmp", jump, end, 0);
    prepare(end);
    task("task.call", call, end, 0);
    prepare(end);
    task("task.gate.call", gate, end, 0);
    prepare(end);
    task("task.gate.jmp", gate_jump, end, 0);
    prepare(end);
    task("task.gate.ring3", SNIP32("lcall $0x83, $0"), end, 3);
    prepare(end);
    task("task.jmp.ring3.dpl", jump, end, 3);
    prepare(end);
    gdt[OTHER / 8] |= 2ull << 40;
    task("task.jmp.busy", jump, end, 0);
    prepare(end);
    gdt[OTHER / 8] &= ~(1ull << 47);
    task("task.jmp.np", jump, end, 0);
    prepare(end);
    gdt[OTHER / 8] &= ~0xffull;
    task("task.jmp.limit", jump, end, 0);
    prepare(end);
    gdt[TEST / 8] = 0x0000e50000000000;
    task("task.gate.null", gate, end, 0);
    /* there and back */
    prepare(end);
    task("task.call.iret", SNIP32("lcall $0x88, $0\nnop"), SNIP32("movl $0x77, %%ebx\niret\nnop"), 0);
    prepare(end);
    task("task.call.iret.twice", SNIP32("lcall $0x88, $0\nlcall $0x88, $0\nnop"),
         SNIP32("1:incl %%ebx\niret\njmp 1b"), 0);
    prepare(end);
    task("task.jmp.jmp", SNIP32("ljmp $0x88, $0\nnop"), SNIP32("ljmp $0x68, $0"), 0);
    prepare(end);
    task("task.iret.notbusy", SNIP32("movw $0x88, tss32\npushl $0x4002\npopfl\niret"), end, 0);
    prepare(end);
    task("task.iret.null", SNIP32("movw $0, tss32\npushl $0x4002\npopfl\niret"), end, 0);
    /* what is wrong in the new task is its own fault */
    static const struct {
        const char *name;
        unsigned slot;
        u32 value;
    } bad[] = {{"cs_null", 19, 0},         {"cs_data", 19, DATA0},
               {"cs_rpl", 19, CODE32 | 3}, {"cs_limit", 19, TEST + 8 * TEST_COUNT},
               {"ss_null", 18 + 2 * 0, 0}, {"ldt", 24, DATA0},
               {"ldt_ti", 24, TEST | 4},   {"eip", 8, 0}};
    for (unsigned i = 0; i < 8; i++) {
        prepare(end);
        unsigned slot = bad[i].slot;
        if (i == 4)
            slot = 20; /* SS */
        if (i == 7)
            continue;
        other[slot] = bad[i].value;
        /* the new task cannot run a handler with a bad CS or SS: another task does */
        make(third, SNIP32("popl %%eax\nmovl other, %%edx"), CODE32, DATA0, STACK0 - 0x2000);
        descriptor(TEST + 16, segment((u32)(u64)third, 103, 0x89, 0));
        u64 saved = idt32[10];
        idt32[10] = (u64)(TEST + 16) << 16 | 0x8500ull << 32;
        start32(jump, 0);
        idt32[10] = saved;
        print("task.bad.%s: vec=%lx err=%lx tr=%lx link=%x bx=%lx\n", bad[i].name, out[S_VEC], out[S_AX],
              out[S_TR], third[0] & 0xffff, out[S_BX]);
    }
    prepare(end);
    other[21] = TEST + 8 * TEST_COUNT; /* DS */
    task("task.bad.ds", jump, 0, 0);
    prepare(end);
    other[25] |= 1;
    set_dr6(0xffff0ff0);
    start32(jump, 0);
    print("task.t_bit: vec=%lx at=%s dr6=%x tr=%lx\n", out[S_VEC],
          out[S_IP] == (u64)end ? "first" : "elsewhere", (unsigned)get_dr6() & 0xe00f, out[S_TR]);
    set_dr6(0xffff0ff0);
    /* CR3 and the LDT are the new task's */
    prepare(end);
    memcpy(pt32, pd32, 4096);
    pt32[2] = PAGES | 0x400000 | 0x87;
    *(u32 *)PAGES = 0x8888;
    *(u32 *)(PAGES + 0x400000) = 0x9999;
    other[7] = (u32)(u64)pt32;
    task("task.cr3", SNIP32("movl 0x800000, %%ebx\nljmp $0x88, $0"), SNIP32("movl 0x800000, %%ebx"), 0);
    prepare(end);
    static u64 ldt[2];
    ldt[1] = segment(DATA, 0xfff, 0x93, 4);
    descriptor(LDT, segment((u32)(u64)ldt, 15, 0x82, 0));
    other[24] = LDT;
    other[21] = 8 | 4;
    *(u32 *)DATA = 0x1234;
    task("task.ldt", jump, SNIP32("movl %%ds:0, %%ebx"), 0);
    /* a task gate in the IDT, with and without an error code */
    u64 saved6 = idt32[6], saved13 = idt32[13];
    prepare(end);
    idt32[6] = (u64)OTHER << 16 | 0x8500ull << 32;
    task("task.idt.ud", SNIP32("nop\nud2"), end, 0);
    print("task.idt.ud.old: eip=+%d rf=%x\n", (int)(tss32[8] - in[S_IP]), tss32[9] >> 16 & 1);
    prepare(end);
    task("task.idt.iret", SNIP32("nop\nud2\nnop"), SNIP32("addl $2, tss32+32\niret"), 0);
    idt32[6] = saved6;
    prepare(end);
    idt32[13] = (u64)OTHER << 16 | 0x8500ull << 32;
    task("task.idt.gp", SNIP32("movl $0x1000, %%eax\nmovl %%eax, %%fs"), SNIP32("popl %%ebx"), 0);
    prepare(end);
    task("task.idt.gp.ring3", SNIP32("movl $0x1000, %%eax\nmovl %%eax, %%fs"), SNIP32("popl %%ebx"), 3);
    idt32[13] = saved13;
    /* 16-bit TSS: the upper halves */
    prepare(end);
    u16 *t = (u16 *)other;
    memset(t, 0, 104);
    t[7] = (u16)LOWADDR(SNIP16("nop"));
    t[8] = 2;
    t[12] = 0x1111;
    t[13] = 0xf000;
    t[17] = DATA16;
    t[18] = CODE16;
    t[19] = t[20] = DATA16;
    gdt[OTHER / 8] = segment((u32)(u64)other, 43, 0x81, 0);
    start32(jump, 0);
    print("task.16: vec=%lx tr=%lx cs=%lx ss=%lx type=%x\n", out[S_VEC], out[S_TR], out[S_CS], out[S_SS],
          (unsigned)(gdt[OTHER / 8] >> 40) & 15);
    fresh();
    gdt[TSS32 / 8] = segment((u32)(u64)tss32, 103, 0x89, 0);
    memset(tss32, 0, 104);
    tss32[1] = ESP0;
    tss32[2] = DATA0;
    tss32[25] = 104 << 16;
}
