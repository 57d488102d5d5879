// SPDX-License-Identifier: Apache-2.0
/* Segmentation, in protected mode and what is left of it in long mode. */
#include "guest.h"

#define LOOK                                                                                                 \
    "xorl %%eax, %%eax\nxorl %%edx, %%edx\nxorl %%ebx, %%ebx\nlarl %%ecx, %%eax\nsetz %%bl\nlsll %%ecx, "    \
    "%%edx\nsetz %%bh\nmovl %%ebx, %%esi\nxorl %%ebx, %%ebx\nverr %%cx\nsetz %%bl\nverw %%cx\nsetz %%bh"

static void look_at(u64 d, unsigned sel, const u8 *code, bool wide, bool ring3)
{
    descriptor(TEST, d);
    in[S_CX] = sel;
    if (wide)
        start64(code, ring3 ? CODE64U : CODE64);
    else
        start32(code, ring3 ? 3 : 0);
    print(" [");
    if (out[S_VEC] != 0x20)
        print("vec=%lx ", out[S_VEC]);
    if (out[S_SI] & 1)
        print("lar=%x", (unsigned)out[S_AX] & 0xf0ff00);
    print(" ");
    if (out[S_SI] & 0x100)
        print("lsl=%x", (unsigned)out[S_DX]);
    print(" %s%s]", out[S_BX] & 1 ? "r" : "-", out[S_BX] & 0x100 ? "w" : "-");
    fresh();
}

static void looks(void)
{
    const u8 *code[2] = {SNIP32(LOOK), SNIP(LOOK)};
    for (unsigned wide = 0; wide < 2; wide++) {
        for (unsigned t = 0; t < 32; t++) {
            print("look%u.%x: ", wide ? 64 : 32, t);
            for (unsigned k = 0; k < 4; k++) { /* ring 0, ring 3 with DPL 0 and 3, not present */
                unsigned access = 0x80 | (t & 16) | (t & 15) | (k == 2 ? 0x60 : 0);
                look_at(segment(0x1000, 0x12345, k == 3 ? access & 0x7f : access, k == 2 ? 0xc : 4), TEST,
                        code[wide], wide, k == 1 || k == 2);
            }
            print("\n");
        }
        print("look%u.null: ", wide ? 64 : 32);
        look_at(0, 0, code[wide], wide, false);
        look_at(0, 3, code[wide], wide, true);
        print("\nlook%u.limit: ", wide ? 64 : 32);
        look_at(0, TEST + 8 * TEST_COUNT, code[wide], wide, false);
        look_at(0, TEST + 4, code[wide], wide, false);
        print("\nlook%u.rpl: ", wide ? 64 : 32);
        look_at(segment(0, 1, 0x93, 4), TEST | 3, code[wide], wide, false);
        look_at(segment(0, 1, 0x9f, 4), TEST | 3, code[wide], wide, false);
        print("\n");
    }
}

/* Loads of each kind of descriptor into DS and SS; the type afterwards shows the accessed bit. */
static void loads(void)
{
    const u8 *ds[2] = {SNIP32("movl %%ecx, %%ds"), SNIP("movl %%ecx, %%ds")};
    const u8 *ss[2] = {SNIP32("movl %%ecx, %%ss\nnop"), SNIP("movl %%ecx, %%ss\nnop")};
    for (unsigned wide = 0; wide < 2; wide++)
        for (unsigned t = 0; t < 32; t++) {
            print("load%u.%x:", wide ? 64 : 32, t);
            for (unsigned k = 0; k < 6; k++) {
                /* DPL 0 in ring 0, DPL 3 in ring 3 with RPL 3, DPL 0 in ring 3, not present, RPL 3 for DPL 0,
                 * DPL 3 for ring 0 */
                bool ring3 = k == 1 || k == 2, dpl3 = k == 1 || k == 5;
                unsigned sel = TEST | (k == 1 || k == 4 ? 3 : 0);
                unsigned access = (k == 3 ? 0 : 0x80) | (t & 31) | (dpl3 ? 0x60 : 0);
                for (unsigned into = 0; into < 2; into++) {
                    const u8 *code = into ? ss[wide] : ds[wide];
                    descriptor(TEST, segment(0, (t & 0x1c) == 0x14 ? 0 : 0xfffff, access, 0xc));
                    in[S_CX] = sel;
                    if (wide)
                        start64(code, ring3 ? CODE64U : CODE64);
                    else
                        start32(code, ring3 ? 3 : 0);
                    print(into ? "," : " ");
                    if (out[S_VEC] == 0x20)
                        print("ok%x", (unsigned)(gdt[TEST / 8] >> 40) & 1);
                    else
                        print("%lx(%lx)", out[S_VEC], out[S_ERR]);
                    fresh();
                }
            }
            print("\n");
        }
    in[S_CX] = 3;
    p0("load.null.ds", SNIP32("movl %%ecx, %%ds"));
    in[S_CX] = 0;
    p0("load.null.use", SNIP32("movl %%ecx, %%ds\nmovl 0x620000, %%eax"));
    in[S_CX] = 0;
    p0("load.null.ss", SNIP32("movl %%ecx, %%ss"));
    in[S_CX] = TEST + 8 * TEST_COUNT;
    p0("load.limit", SNIP32("movl %%ecx, %%ds"));
    in[S_CX] = TEST | 4;
    p0("load.no_ldt", SNIP32("movl %%ecx, %%ds"));
    in[S_CX] = TEST | 4;
    p0("load.no_ldt.lar", SNIP32("larl %%ecx, %%eax\njz 1f\nud2\n1:"));
    in[S_CX] = CODE32;
    p0("load.cs", SNIP32(".byte 0x8e, 0xc9"));
    p0("load.lss", SNIP32("pushl $0x10\npushl $0x600000\nlss (%%esp), %%esp"));
    p0("load.lds.null", SNIP32("pushl $0\npushl $5\nlds (%%esp), %%eax"));
    p0("load.lds.reg", SNIP32(".byte 0xc5, 0xc0"));
}

static void access(const char *name, u64 d, u64 at, const u8 *code)
{
    descriptor(TEST, d);
    in[S_DS] = TEST;
    in[S_SI] = at;
    p0(name, code);
}

static void limits(void)
{
    const u8 *b = SNIP32("movb (%%esi), %%al"), *l = SNIP32("movl (%%esi), %%eax"),
             *w = SNIP32("movb %%al, (%%esi)");
    const u8 *h = SNIP32("movw (%%esi), %%ax");
    u64 up = segment(DATA, 0xf, 0x93, 4), down = segment(DATA, 0xf, 0x97, 0),
        down32 = segment(0, 0x61ffff >> 12, 0x97, 0xc);
    access("limit.up.last", up, 0xf, b);
    access("limit.up.beyond", up, 0x10, b);
    access("limit.up.dword", up, 0xc, l);
    access("limit.up.dword_over", up, 0xd, l);
    access("limit.up.wrap", up, 0xffffffff, h);
    access("limit.up.wrap4g", segment(DATA, 0xfffff, 0x93, 0xc), 0xfffffffd, l);
    access("limit.up.page", segment(DATA, 0, 0x93, 0xc), 0xfff, b);
    access("limit.up.page_over", segment(DATA, 0, 0x93, 0xc), 0x1000, b);
    access("limit.down.at", down, 0xf, b);
    access("limit.down.above", down, 0x10, b);
    access("limit.down.straddle", down, 0xf, h);
    access("limit.down.top", down, 0xffff, b);
    access("limit.down.over", down, 0xffff, h);
    access("limit.down.beyond", down, 0x10000, b);
    access("limit.down32.low", down32, 0x61ffff, b);
    access("limit.down32.above", down32, 0x620000, b);
    access("limit.readonly.read", segment(0, 0xfffff, 0x91, 0xc), DATA, b);
    access("limit.readonly.write", segment(0, 0xfffff, 0x91, 0xc), DATA, w);
    access("limit.code.read", segment(0, 0xfffff, 0x9b, 0xc), DATA, b);
    access("limit.code.write", segment(0, 0xfffff, 0x9b, 0xc), DATA, w);
    descriptor(TEST, segment(0, 0xfffff, 0x99, 0xc)); /* execute only */
    p0("limit.xonly.cs_read", SNIP32("ljmp $0x80, $1f\n1:movl %%cs:0x620000, %%eax"));
    p0("limit.code.cs_read", SNIP32("movl %%cs:0x620000, %%eax"));
    p0("limit.code.cs_write", SNIP32("movl %%eax, %%cs:0x620000"));
    descriptor(TEST, segment(DATA, 0xff, 0x93, 4));
    in[S_BX] = TEST;
    p0("limit.ss.pop", SNIP32("movl %%ebx, %%ss\nmovl $0xfe, %%esp\npopl %%eax"));
    in[S_BX] = TEST;
    p0("limit.ss.ebp",
       SNIP32("movl %%ebx, %%ss\nmovl $0xf0, %%esp\nmovl $0x200, %%ebp\nmovl (%%ebp), %%eax"));
    descriptor(TEST, segment(0, 0x1f, 0x9b, 4));
    p0("limit.cs.ljmp", SNIP32("ljmp $0x80, $0x20"));
    p0("limit.cs.ljmp.null", SNIP32("ljmp $0, $0x20"));
    p0("limit.cs.ljmp.data", SNIP32("ljmp $0x10, $0x20"));
    p0("limit.cs.ljmp.outer", SNIP32("ljmp $0x20, $0x20"));
    p3("limit.cs.ljmp.inner", SNIP32("ljmp $0x18, $0x20"));
    p3("limit.cs.ljmp.rpl", SNIP32("ljmp $0x23, $1f\n1:"));
    *(u32 *)DATA = 10;
    *(u32 *)(DATA + 4) = 20;
    in[S_SI] = DATA;
    in[S_AX] = 15;
    p0("bound.inside", SNIP32("bound %%eax, (%%esi)"));
    in[S_SI] = DATA;
    in[S_AX] = 21;
    p0("bound.over", SNIP32("bound %%eax, (%%esi)"));
    in[S_SI] = DATA;
    in[S_AX] = 9;
    p3("bound.under", SNIP32("nop\nbound %%eax, (%%esi)"));
    p0("into.clear", SNIP32("xorl %%eax, %%eax\ninto"));
    p0("into.set", SNIP32("movl $0x7fffffff, %%eax\nincl %%eax\ninto"));
    p3("into.ring3", SNIP32("movl $0x7fffffff, %%eax\nincl %%eax\ninto"));
    in[S_AX] = 0x20;
    in[S_BX] = 0x13;
    start32(SNIP32("arpl %%bx, %%ax\nsetz %%cl"), 0);
    show("arpl.raise");
    print(" ax=%lx zf=%lx\n", out[S_AX], out[S_CX] & 1);
    fresh();
    in[S_AX] = 0x22;
    in[S_BX] = 0x11;
    start32(SNIP32("arpl %%bx, %%ax\nsetz %%cl"), 3);
    show("arpl.keep");
    print(" ax=%lx zf=%lx\n", out[S_AX], out[S_CX] & 1);
    fresh();
    in[S_AX] = 0x20;
    in[S_SI] = DATA;
    p0("pf.code.lea_reg", SNIP32(".byte 0x8d, 0xc0"));
    /* single step and POP SS */
    in[S_FL] |= 0x100;
    start32(SNIP32("pushl %%ss\npopl %%ss\nnop\nnop"), 0);
    show("db32.first");
    print(" dr6=%x\n", (unsigned)get_dr6() & 0xe00f);
    u64 sp = out[S_SP];
    set_dr6(0xffff0ff0);
    fresh();
    const u8 *code = SNIP32("popl %%ss\nnop\nnop");
    *(u32 *)sp = DATA0;
    in[S_SP] = sp;
    in[S_FL] |= 0x100;
    start32(code, 0);
    show("db32.pop_ss");
    print("\n");
    set_dr6(0xffff0ff0);
    fresh();
}

static void tables(void)
{
    const struct {
        const char *name;
        u64 d;
        unsigned sel;
    } t[] = {{"null", 0, 0},
             {"null_rpl", 0, 3},
             {"ti", 0, TEST | 4},
             {"limit", 0, TEST + 8 * TEST_COUNT},
             {"data", 0x00cf93000000ffff, TEST},
             {"tss", segment((u32)(u64)&tss64[0], 0x67, 0x89, 0), TEST},
             {"tss_busy", 0x00008b0000000067, TEST},
             {"tss16", 0x000081000000002b, TEST},
             {"tss16_busy", 0x000083000000002b, TEST},
             {"ldt", 0x0000820000000007, TEST},
             {"tss_np", 0x0000090000000067, TEST},
             {"ldt_np", 0x0000020000000007, TEST},
             {"gate", 0x00008c0000180000, TEST}};
    const u8 *ltr[2] = {SNIP32("ltr %%cx"), SNIP("ltr %%cx")},
             *lldt[2] = {SNIP32("lldt %%cx"), SNIP("lldt %%cx")};
    for (unsigned wide = 0; wide < 2; wide++)
        for (unsigned i = 0; i < sizeof t / sizeof *t; i++) {
            bool fatal = i < 2 || (wide && i == 7); /* taken by a lenient emulator, and then missed */
            if (mild && fatal)
                continue;
            print("%sltr%u.%s:", fatal ? "?strict " : "", wide ? 64 : 32, t[i].name);
            for (unsigned k = 0; k < 2; k++) {
                descriptor(TEST, t[i].d);
                descriptor(TEST + 8, 0);
                in[S_CX] = t[i].sel;
                if (wide)
                    start64(k ? lldt[wide] : ltr[wide], CODE64);
                else
                    start32(k ? lldt[wide] : ltr[wide], 0);
                print(k ? " lldt" : " ltr");
                if (out[S_VEC] == 0x20)
                    print(" ok type=%x", (unsigned)(gdt[TEST / 8] >> 40) & 0xff);
                else
                    print(" %lx(%lx)", out[S_VEC], out[S_ERR]);
                fresh();
                ((u8 *)gdt)[TSS64 + 5] &= (u8)~2;
                __asm__ volatile("ltr %w0\nlldt %w1" : : "r"(TSS64), "r"(0));
            }
            print("\n");
        }
    descriptor(TEST, 0x0000890000000067);
    descriptor(TEST + 8, 0x0000000080000000 | 1ull << 31);
    in[S_CX] = TEST;
    if (mild) {
        fresh();
    } else {
        t0("?strict ltr64.noncanon", ltr[1]);
    }
    ((u8 *)gdt)[TSS64 + 5] &= (u8)~2;
    __asm__ volatile("ltr %w0" : : "r"(TSS64));
}

/* Call gates: TEST is the gate, TEST + 0x10 the code behind it. */
static void called(const char *name, const u8 *code, unsigned ring, bool wide)
{
    if (wide)
        start64(code, ring ? CODE64U : CODE64);
    else
        start32(code, ring);
    show(name);
    print(" cs=%lx ss=%lx", out[S_CS], out[S_SS]);
    u64 top = wide ? RSP0 : ESP0;
    if (out[S_SP] <= top && out[S_SP] > top - 64)
        print(" inner-%x", (unsigned)(top - out[S_SP]));
    else
        print(" sp%s", out[S_SP] < STACK0 + 16 && out[S_SP] > STACK0 - 64 ? "0" : "3");
    print("\n");
    fresh();
}

static void call_gates(void)
{
    const u8 *target = SNIP32("nop\nnop"), *target64 = SNIP("nop\nnop");
    const u8 *call = SNIP32("pushl $1\npushl $2\nlcall $0x83, $0"), *jump = SNIP32("ljmp $0x83, $0");
    u64 gate = ((u64)target & 0xffff) | (u64)CODE32 << 16 | 0xecull << 40 | ((u64)target >> 16) << 48;
    descriptor(TEST, gate);
    called("gate32.call.ring3", call, 3, false);
    called("gate32.call.ring0", call, 0, false);
    called("gate32.jmp.ring0", jump, 0, false);
    called("gate32.jmp.ring3", jump, 3, false);
    descriptor(TEST, gate | 2ull << 32);
    start32(call, 3);
    u32 *s = (u32 *)ESP0;
    print("gate32.params: %x %x ss=%x sp=%s\n", s[-3], s[-4], s[-1] & 0xffff,
          s[-2] == STACK3 - 8 ? "same" : "other");
    fresh();
    called("gate32.params.ring0", call, 0, false);
    descriptor(TEST, gate & ~(3ull << 45));
    called("gate32.dpl", call, 3, false);
    descriptor(TEST, gate & ~(1ull << 47));
    called("gate32.np", call, 3, false);
    descriptor(TEST, (gate & ~0xffff0000ull) | 0);
    called("gate32.null", call, 3, false);
    descriptor(TEST, (gate & ~0xffff0000ull) | DATA0 << 16);
    called("gate32.data", call, 3, false);
    descriptor(TEST, (gate & ~0xffff0000ull) | 0x20 << 16);
    called("gate32.same_ring", call, 3, false);
    called("gate32.outer", call, 0, false);
    descriptor(TEST + 16, segment(0, 0xfffff, 0x1b, 0xc));
    descriptor(TEST, (gate & ~0xffff0000ull) | (TEST + 16) << 16);
    called("gate32.code_np", call, 3, false);
    descriptor(TEST + 16, segment(0, 0xfffff, 0x9f, 0xc));
    called("gate32.conforming", call, 3, false);
    descriptor(TEST + 16, segment(0, 0x10, 0x9b, 0x4));
    called("gate32.limit", call, 3, false);
    /* #TS: the inner stack's selector */
    static const struct {
        const char *name;
        u32 ss;
    } bad[] = {{"null", 0},
               {"code", CODE32},
               {"rpl", DATA0 | 3},
               {"ring3", DATA3},
               {"limit", TEST + 8 * TEST_COUNT},
               {"np", TEST + 24}};
    descriptor(TEST + 24, segment(0, 0xfffff, 0x13, 0xc));
    descriptor(TEST, gate);
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        /* the handler needs a stack of its own level: only the call is made with a bad one, so it comes
         * through a task */
        tss32[2] = bad[i].ss;
        descriptor(TEST + 32, segment(DATA, 0x67, 0x89, 0));
        u64 saved = idt32[10], saved12 = idt32[12];
        u32 *t = (u32 *)DATA;
        memset(t, 0, 104);
        const u8 *end = SNIP32("popl %%eax\nstr %%ecx\nmovl %%eax, %%edx");
        t[7] = (u32)(u64)pd32;
        t[8] = (u32)(u64)end;
        t[9] = 2;
        t[14] = STACK0 - 0x400;
        t[18] = t[20] = t[21] = DATA0;
        t[19] = CODE32;
        t[25] = 104u << 16;
        idt32[10] = idt32[12] = (u64)(TEST + 32) << 16 | 0x8500ull << 32;
        start32(call, 3);
        print("gate32.ts.%s: vec=%lx err=%lx tr=%lx\n", bad[i].name, out[S_VEC], out[S_DX], out[S_TR]);
        idt32[10] = saved;
        idt32[12] = saved12;
        fresh();
    }
    tss32[2] = DATA0;
    /* far returns */
    p0("retf.outer",
       SNIP32("pushl $0x2b\npushl $0x610000\npushl $0x23\npushl $1f\nlret\n1:movl %%cs, %%eax"));
    p0("retf.same", SNIP32("pushl $0x18\npushl $1f\nlret\n1:"));
    p0("retf.null", SNIP32("pushl $0\npushl $1f\nlret\n1:"));
    p0("retf.data", SNIP32("pushl $0x10\npushl $1f\nlret\n1:"));
    p3("retf.inner", SNIP32("pushl $0x18\npushl $1f\nlret\n1:"));
    p0("retf.outer_ss", SNIP32("pushl $0x10\npushl $0x610000\npushl $0x23\npushl $1f\nlret\n1:"));
    start32(SNIP32("movl $0x10, %%eax\nmovl %%eax, %%es\npushl $0x2b\npushl $0x610000\npushl $0x23\npushl "
                   "$1f\nlret\n1:"),
            0);
    show("retf.outer.data");
    print(" es=%lx\n", out[S_ES]);
    fresh();
    start32(SNIP32("pushl $0x2b\npushl $0x610000\npushl $9\npushl $7\npushl $0x23\npushl $1f\nlret $8\n1:"),
            0);
    show("retf.outer.params");
    print(" esp=%lx\n", out[S_SP]);
    fresh();
    p0("iret32.outer", SNIP32("pushl $0x2b\npushl $0x610000\npushl $2\npushl $0x23\npushl $1f\niret\n1:"));
    p0("iret32.null", SNIP32("pushl $2\npushl $0\npushl $1f\niret\n1:"));
    p3("iret32.inner", SNIP32("pushl $2\npushl $0x18\npushl $1f\niret\n1:"));
    p0("iret32.limit", SNIP32("pushl $2\npushl $0x1000\npushl $1f\niret\n1:"));
    /* in long mode a gate has 16 bytes */
    gate = ((u64)target64 & 0xffff) | (u64)CODE64 << 16 | 0xecull << 40 | ((u64)target64 >> 16) << 48;
    descriptor(TEST, gate);
    descriptor(TEST + 8, 0);
    const u8 *call64 = SNIP("leaq 1f(%%rip), %%rsi\nlcall *(%%rsi)\nnop\nint $0x20\n1:.long 0\n.word 0x83");
    const u8 *jump64 = SNIP("leaq 1f(%%rip), %%rsi\nljmp *(%%rsi)\nnop\nint $0x20\n1:.long 0\n.word 0x83");
    called("gate64.call.ring3", call64, 3, true);
    called("gate64.call.ring0", call64, 0, true);
    called("gate64.jmp.ring0", jump64, 0, true);
    called("gate64.jmp.ring3", jump64, 3, true);
    descriptor(TEST, gate & ~(3ull << 45));
    called("gate64.dpl", call64, 3, true);
    descriptor(TEST, gate & ~(1ull << 47));
    called("gate64.np", call64, 3, true);
    descriptor(TEST, (gate & ~0xffff0000ull) | CODE32 << 16);
    called("gate64.code32", call64, 3, true);
    descriptor(TEST, gate);
    descriptor(TEST + 8, 1ull << 31);
    called("gate64.noncanon", call64, 3, true);
    descriptor(TEST + 8, 1ull << 40);
    called("gate64.upper_type", call64, 3, true);
    descriptor(TEST, segment(0, 0xfffff, 0x9f, 0xa));
    start64(SNIP("leaq 1f(%%rip), %%rax\npushq $0x80\npushq %%rax\nlretq\n1:"), CODE64);
    show("retf64.conforming");
    print(" cs=%lx\n", out[S_CS]);
    fresh();
    t0("retf64.compat",
       SNIP("leaq 1f(%%rip), %%rax\npushq $0x18\npushq %%rax\nlretq\n.code32\n1:incl %%eax"));
    t0("retf64.outer", SNIP("leaq 1f(%%rip), %%rax\nbtsq $30, %%rax\npushq $0x2b\npushq $0x40610000\npushq "
                            "$0x33\npushq %%rax\nlretq\n1:"));
    t0("compat.ljmp64", SNIP("pushq $0x18\nleaq 1f(%%rip), %%rax\npushq %%rax\nlretq\n.code32\n1:ljmp $0x08, "
                             "$2f\n.code64\n2:incq %%r8\n"));
    tc3("compat.ring3.inc", SNIP32("incl %%eax\ndecl %%eax"));
    tc3("compat.into", SNIP32("movl $0x7fffffff, %%eax\nincl %%eax\ninto"));
    in[S_SI] = DATA + USER;
    tc3("compat.bound", SNIP32("movl $1, (%%esi)\nmovl $2, 4(%%esi)\nbound %%eax, (%%esi)"));
    tc3("compat.arpl", SNIP32("arpl %%ax, %%bx"));
    tc3("compat.cs_limit", SNIP32("ljmp $0x1b, $0"));
}

static void syscalls(void)
{
    u64 efer = rdmsr(0xc0000080);
    t3("syscall.off", SNIP("syscall"));
    if (!feature("syscall", has(0x80000001, 3, 11)))
        return;
    const u8 *target = SNIP("nop");
    wrmsr(0xc0000080, efer | 1);
    wrmsr(0xc0000081, (u64)CODE64 << 32 | (u64)CODE32U << 48);
    wrmsr(0xc0000082, (u64)target);
    wrmsr(0xc0000084, 0x247dd5 & ~0x100u);
    in[S_FL] |= 0xcd5;
    start64(SNIP("nop\nsyscall"), CODE64U);
    print("?syscall syscall: vec=%lx to=%s cs=%lx ss=%lx rcx=+%d flags=%lx sp=%s\n", out[S_VEC],
          out[S_IP] == (u64)target + 3 ? "lstar" : "elsewhere", out[S_CS], out[S_SS],
          (int)(out[S_CX] - in[S_IP]), out[S_FL] & ~2ul, out[S_SP] == in[S_SP] ? "same" : "other");
    fresh();
    start64(SNIP("syscall"), CODE64);
    print("?syscall syscall.ring0: vec=%lx cs=%lx ss=%lx\n", out[S_VEC], out[S_CS], out[S_SS]);
    fresh();
    in[S_SP] = STACK3 + USER;
    start64(SNIP("leaq 1f(%%rip), %%rcx\nbtsq $30, %%rcx\nmovl $0x3002, %%r11d\nsysretq\nnop\n1:pushfq\npopq "
                 "%%rdx"),
            CODE64);
    print("?syscall sysretq: vec=%lx cs=%lx ss=%lx flags=%lx\n", out[S_VEC], out[S_CS], out[S_SS], out[S_DX]);
    fresh();
    start64(
        SNIP("leaq 1f(%%rip), %%rcx\nbtsq $30, %%rcx\nmovl $2, %%r11d\nsysretl\nnop\n.code32\n1:incl %%eax"),
        CODE64);
    print("?syscall sysretl: vec=%lx cs=%lx ss=%lx\n", out[S_VEC], out[S_CS], out[S_SS]);
    fresh();
    t3("?syscall sysret.ring3", SNIP("sysretq"));
    wrmsr(0xc0000080, efer);
    t0("?syscall sysret.off", SNIP("sysretq"));
    /* in long mode only Intel's processors have it */
    u32 r[4];
    cpuid(0, 0, r);
    if (!feature("sep", has(1, 3, 11) && r[1] == 0x756e6547))
        return;
    wrmsr(0x174, 0);
    t3("?sep sysenter.null", SNIP("sysenter"));
    t3("?sep sysexit.ring3", SNIP("sysexitq"));
}

void group_segments(void)
{
    looks();
    loads();
    limits();
    tables();
    call_gates();
    syscalls();
}
