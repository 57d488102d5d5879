// SPDX-License-Identifier: Apache-2.0
/* Code that changes: itself, through another mapping, and while another processor runs it. */
#include "guest.h"

unsigned run_other(u8 (*f)(void));

static void told(const char *name, const u8 *code, unsigned cs)
{
    start64(code, cs);
    show(name);
    print(" eax=%lx\n", out[S_AX]);
    fresh();
}

/* mov $n, %eax; ret */
static void write(u8 *at, u8 n)
{
    at[0] = 0xb8;
    at[1] = n;
    at[2] = at[3] = at[4] = 0;
    at[5] = 0xc3;
}

static unsigned call(u64 at)
{
    return ((u8(*)(void))at)();
}

void group_smc(void)
{
    u8 *page = (u8 *)PAGES;
    for (unsigned i = 0; i < 16; i++)
        w_pt[i] = (PAGES + 4096ull * i) | 7;
    set_cr3(get_cr3());
    told("smc.jump", SNIP("leaq 1f(%%rip), %%rsi\nmovb $2, 1(%%rsi)\njmp 1f\n1:movl $1, %%eax"), CODE64);
    told("smc.ring3", SNIP("leaq 1f(%%rip), %%rsi\nmovb $2, 1(%%rsi)\njmp 1f\n1:movl $1, %%eax"), CODE64U);
    told("smc.loop",
         SNIP("movl $5, %%ecx\nxorl %%ebx, %%ebx\nleaq 1f(%%rip), %%rsi\n2:incb 1(%%rsi)\njmp 1f\n1:movl $0, "
              "%%eax\naddl %%eax, %%ebx\ndecl %%ecx\njnz 2b\nmovl %%ebx, %%eax"),
         CODE64);
    told("smc.rep",
         SNIP("leaq 1f(%%rip), %%rdi\nincq %%rdi\nmovl $1, %%ecx\nmovb $7, %%al\nrep stosb\njmp 1f\n1:movl "
              "$1, %%eax"),
         CODE64);
    told("smc.push",
         SNIP("leaq 1f(%%rip), %%rsp\naddq $10, %%rsp\nmovabsq $0x20cd00000009b890, %%rax\npushq %%rax\nmovl "
              "$0x600000, %%esp\njmp 1f\nnop\n1:.byte 0x90, 0x90, 0x90, 0xb8, 1, 0, 0, 0, 0xcd, 0x20, 0x90, "
              "0x90"),
         CODE64);
    told("smc.compat", SNIP32("movl $1f, %%esi\nmovb $2, 1(%%esi)\njmp 1f\n1:movl $1, %%eax"), CODE32);
    /* through another mapping */
    write(page, 1);
    unsigned a = call(WINDOW);
    write(page, 2);
    print("smc.alias: %u %u\n", a, call(WINDOW));
    /* across pages: the opcode on one, its operand on the next */
    write(page + 0xfff, 3);
    a = call(WINDOW + 0xfff);
    page[0x1000] = 4;
    print("smc.across: %u %u\n", a, call(WINDOW + 0xfff));
    *(volatile u8 *)(WINDOW + 0x1000) = 5;
    print("smc.across.same: %u\n", call(WINDOW + 0xfff));
    /* the second page is exchanged */
    write(page + 0x1fff, 6);
    a = call(WINDOW + 0x1fff);
    memcpy(page + 0x4000, page + 0x2000, 4096);
    page[0x4000] = 7;
    w_pt[2] = (PAGES + 0x4000) | 7;
    __asm__ volatile("invlpg (%0)" : : "r"(WINDOW + 0x2000) : "memory");
    print("smc.remap.second: %u %u\n", a, call(WINDOW + 0x1fff));
    w_pt[2] = (PAGES + 0x2000) | 7;
    __asm__ volatile("invlpg (%0)" : : "r"(WINDOW + 0x2000) : "memory");
    print("smc.remap.back: %u\n", call(WINDOW + 0x1fff));
    write(page + 0x5000, 8);
    write(page + 0x6000, 9);
    a = call(WINDOW + 0x5000);
    w_pt[5] = (PAGES + 0x6000) | 7;
    set_cr3(get_cr3());
    print("smc.remap: %u %u\n", a, call(WINDOW + 0x5000));
    /* a page that was written, run, written */
    unsigned sum = 0;
    for (unsigned i = 0; i < 100; i++) {
        page[0x7001] = (u8)i;
        write(page + 0x7000, (u8)i);
        sum += call(WINDOW + 0x7000);
    }
    print("smc.often: %u\n", sum);
    /* data beside code */
    sum = 0;
    for (unsigned i = 0; i < 100; i++) {
        page[0x7100] = (u8)i;
        sum += call(WINDOW + 0x7000) + page[0x7100];
    }
    print("smc.beside: %u\n", sum);
    /* the other processor runs what is changed here */
    sum = 0;
    for (unsigned i = 0; i < 100; i++) {
        write(page + 0x8000, (u8)(i + 1));
        sum += run_other((u8(*)(void))(WINDOW + 0x8000));
    }
    print("smc.cross.alias: %u\n", sum);
    sum = 0;
    for (unsigned i = 0; i < 100; i++) {
        write((u8 *)WINDOW + 0x9ffe, (u8)(i + 1));
        sum += run_other((u8(*)(void))(WINDOW + 0x9ffe));
        sum += call(WINDOW + 0x9ffe);
    }
    print("smc.cross.pages: %u\n", sum);
}
