// SPDX-License-Identifier: Apache-2.0
/* Exceptions in long mode. */
#include "guest.h"

#define NONCANON "movabsq $0x8000000000000000, %%rsi\n"

static unsigned steps;
static u64 step_at[40], step_dr6[40];

/* Note where each #DB is, go on. */
static int on_step(void)
{
    if (out[S_VEC] != 1 || steps == 40)
        return 0;
    step_at[steps] = out[S_IP];
    step_dr6[steps++] = get_dr6();
    set_dr6(0xffff0ff0);
    if (!(step_dr6[steps - 1] & 0x4000))
        out[S_FL] |= 0x10000;
    return 1;
}

static void stepped(const char *name, const u8 *code, unsigned cs, bool legacy_flags)
{
    steps = 0;
    hook = on_step;
    set_dr6(0xffff0ff0);
    if (legacy_flags)
        in[S_FL] |= 0x100;
    start64(code, cs);
    hook = 0;
    show(name);
    for (unsigned i = 0; i < steps; i++) {
        u64 off = step_at[i] - in[S_IP];
        print(" %x@", (unsigned)(step_dr6[i] & 0xe00f));
        if (off < 0x1000)
            print("%d", (int)off);
        else
            print("far");
    }
    print(" tf=%x\n", (unsigned)out[S_FL] >> 8 & 1);
    set_dr7(0x400);
    fresh();
}

static void arithmetic(void)
{
    in[S_AX] = 1;
    t0("ex.de.div", SNIP("nop\ndivb %%dl"));
    in[S_AX] = 0x80000000;
    in[S_DX] = 0xffffffff;
    in[S_CX] = 0xffffffff;
    t0("ex.de.idiv", SNIP("idivl %%ecx"));
    in[S_AX] = 5;
    t3("ex.de.ring3", SNIP("divl %%edx"));
    t0("ex.bp", SNIP("nop\nint3"));
    t3("ex.bp.ring3", SNIP("int3"));
    t0("ex.bp.cd", SNIP(".byte 0xcd, 3"));
    t0("ex.into64", SNIP(".byte 0xce"));
    t0("ex.ud2", SNIP("nop\nud2"));
    t0("ex.ud1", SNIP(".byte 0x0f, 0xb9, 0xc0"));
    t0("ex.ud.lock", SNIP("lock; nop"));
    t0("ex.ud.lockreg", SNIP(".byte 0xf0, 0x01, 0xc0"));
    t0("ex.ud.push_es", SNIP(".byte 0x06"));
    t0("ex.ud.movcs", SNIP(".byte 0x8e, 0xc8"));
    t0("ex.ud.aam", SNIP(".byte 0xd4, 0x0a"));
    t0("ex.ud.ljmp_direct", SNIP(".byte 0xea, 0, 0, 0, 0, 0, 0"));
    t0("ex.ud.lea_reg", SNIP(".byte 0x8d, 0xc0"));
    t0("ex.ud.cr1", SNIP(".byte 0x0f, 0x20, 0xc8"));
    t0("ex.gp.length",
       SNIP(".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90"));
    t0("ex.length15",
       SNIP(".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90"));
}

static void fpu(void)
{
    u64 cr0 = get_cr0(), cr4 = get_cr4();
    static const struct {
        const char *name;
        u32 bits;
    } modes[] = {{"ts", CR0_TS}, {"ts_mp", CR0_TS | CR0_MP}, {"em", CR0_EM}, {"mp", CR0_MP}};
    for (unsigned i = 0; i < 4; i++) {
        set_cr0((cr0 & ~(CR0_TS | CR0_MP | CR0_EM)) | modes[i].bits);
        print("ex.nm.%s.x87", modes[i].name);
        t0("", SNIP("fninit"));
        set_cr0((cr0 & ~(CR0_TS | CR0_MP | CR0_EM)) | modes[i].bits);
        print("ex.nm.%s.wait", modes[i].name);
        t0("", SNIP("fwait"));
        set_cr0((cr0 & ~(CR0_TS | CR0_MP | CR0_EM)) | modes[i].bits);
        print("ex.nm.%s.sse", modes[i].name);
        t0("", SNIP("addps %%xmm0, %%xmm1"));
        set_cr0((cr0 & ~(CR0_TS | CR0_MP | CR0_EM)) | modes[i].bits);
        print("ex.nm.%s.mmx", modes[i].name);
        t0("", SNIP("paddb %%mm0, %%mm1"));
    }
    set_cr0(cr0);
    set_cr4(cr4 & ~0x200ull);
    t0("ex.ud.osfxsr", SNIP("addps %%xmm0, %%xmm1"));
    set_cr4(cr4);
    __asm__ volatile("fninit");
    in[S_SI] = DATA;
    *(u16 *)DATA = 0x37b; /* division by zero unmasked */
    t0("ex.mf", SNIP("fldcw (%%rsi)\nfld1\nfldz\nfdivrp\nnop\nfwait\nnop"));
    in[S_SI] = DATA;
    t0("ex.mf.next", SNIP("fnstcw 2(%%rsi)\nfld1"));
    __asm__ volatile("fninit");
    in[S_SI] = DATA;
    *(u32 *)DATA = 0x1d80;
    *(u32 *)(DATA + 4) = 0x3f800000;
    t0("ex.xm", SNIP("ldmxcsr (%%rsi)\nmovss 4(%%rsi), %%xmm1\nxorps %%xmm0, %%xmm0\ndivss %%xmm0, %%xmm1"));
    in[S_SI] = DATA;
    set_cr4(cr4 & ~0x400ull);
    t0("ex.xm.noosxmmexcpt", SNIP("xorps %%xmm0, %%xmm0\nmovss 4(%%rsi), %%xmm1\ndivss %%xmm0, %%xmm1"));
    set_cr4(cr4);
    in[S_SI] = DATA;
    *(u32 *)DATA = 0x10000;
    t0("ex.gp.mxcsr", SNIP("ldmxcsr (%%rsi)"));
    *(u32 *)DATA = 0x1f80;
    in[S_SI] = DATA;
    t0("ex.mxcsr", SNIP("ldmxcsr (%%rsi)"));
    in[S_SI] = DATA + 8;
    t0("ex.gp.movaps", SNIP("movaps (%%rsi), %%xmm0"));
}

static void alignment(void)
{
    u64 cr0 = get_cr0();
    set_cr0(cr0 | CR0_AM);
    in[S_FL] |= 0x40000;
    in[S_SI] = DATA + USER + 1;
    t3("ex.ac", SNIP("nop\nmovl (%%rsi), %%eax"));
    in[S_FL] |= 0x40000;
    in[S_SI] = DATA + USER + 1;
    t3("ex.ac.byte", SNIP("movb (%%rsi), %%al"));
    in[S_FL] |= 0x40000;
    in[S_SI] = DATA + USER + 4;
    t3("ex.ac.qword4", SNIP("movq (%%rsi), %%rax"));
    in[S_FL] |= 0x40000;
    in[S_SI] = DATA + 1;
    t0("ex.ac.ring0", SNIP("movl (%%rsi), %%eax"));
    set_cr0(cr0);
    in[S_FL] |= 0x40000;
    in[S_SI] = DATA + USER + 1;
    t3("ex.ac.noam", SNIP("movl (%%rsi), %%eax"));
}

static void protection(void)
{
    u64 cr4 = get_cr4();
    t0("ex.gp.noncanon", SNIP(NONCANON "movb (%%rsi), %%al"));
    t0("ex.gp.noncanon.write", SNIP(NONCANON "movb %%al, (%%rsi)"));
    t0("ex.ss.rbp", SNIP("movabsq $0x8000000000000000, %%rbp\nmovb (%%rbp), %%al"));
    t0("ex.ss.pop", SNIP("movabsq $0x8000000000000000, %%rsp\npopq %%rax"));
    t0("ex.ss.push", SNIP("movabsq $0x8000000000000004, %%rsp\npushq %%rax"));
    t0("ex.gp.call", SNIP(NONCANON "call *%%rsi"));
    t0("ex.gp.ret", SNIP(NONCANON "pushq %%rsi\nret"));
    t0("ex.gp.straddle", SNIP("movabsq $0x7ffffffffffc, %%rsi\nmovq (%%rsi), %%rax"));
    t3("ex.ring3.hlt", SNIP("nop\nhlt"));
    t3("ex.ring3.cli", SNIP("cli"));
    t3("ex.ring3.sti", SNIP("sti"));
    t3("ex.ring3.in", SNIP("inb $0x80, %%al"));
    t3("ex.ring3.out", SNIP("outb %%al, $0x80"));
    t3("ex.ring3.clts", SNIP("clts"));
    t3("ex.ring3.wbinvd", SNIP("wbinvd"));
    t3("ex.ring3.invlpg", SNIP("invlpg (%%rsi)"));
    t3("ex.ring3.cr0", SNIP("movq %%cr0, %%rax"));
    t3("ex.ring3.dr7", SNIP("movq %%dr7, %%rax"));
    t3("ex.ring3.rdmsr", SNIP("rdmsr"));
    t3("ex.ring3.lgdt", SNIP("lgdt (%%rsi)"));
    t3("ex.ring3.ltr", SNIP("ltr %%ax"));
    t3("ex.ring3.lmsw", SNIP("lmsw %%ax"));
    t3("ex.ring3.rdtsc", SNIP("rdtsc"));
    set_cr4(cr4 | 4);
    t3("ex.ring3.rdtsc.tsd", SNIP("rdtsc"));
    t0("ex.ring0.rdtsc.tsd", SNIP("rdtsc"));
    set_cr4(cr4 & ~0x100ull);
    t3("ex.ring3.rdpmc", SNIP("rdpmc"));
    set_cr4(cr4);
    in[S_FL] |= 0x3000;
    t3("ex.iopl3.cli", SNIP("cli\nsti\ncli"));
    in[S_FL] |= 0x3000;
    t3("ex.iopl3.out", SNIP("outb %%al, $0x80"));
    in[S_AX] = 0x202;
    start64(SNIP("pushq %%rax\npopfq\npushfq\npopq %%rbx"), CODE64U);
    show("ex.popf.ring3");
    print(" flags=%lx\n", out[S_BX]);
    fresh();
    in[S_AX] = 0x3246;
    start64(SNIP("pushq %%rax\npopfq\npushfq\npopq %%rbx\ncli"), CODE64);
    show("ex.popf.ring0");
    print(" flags=%lx\n", out[S_BX]);
    fresh();
    in[S_AX] = 0xffffffff & ~0x100u & ~0x200u;
    start64(SNIP("pushq %%rax\npopfq\npushfq\npopq %%rbx\npushq $2\npopfq"), CODE64);
    show("ex.popf.all");
    print(" flags=%lx\n", out[S_BX] & ~0x180000ul);
    fresh();
}

static void registers(void)
{
    bool strict = feature("strict", !mild);
    u64 efer = rdmsr(0xc0000080);
    in[S_CX] = 0xdeadbeef;
    t0("ex.gp.rdmsr", SNIP("rdmsr"));
    in[S_CX] = 0xdeadbeef;
    t0("ex.gp.wrmsr", SNIP("wrmsr"));
    in[S_CX] = 0xc0000100;
    in[S_DX] = 0x80000000;
    t0("ex.gp.fsbase", SNIP("wrmsr"));
    wrmsr(0xc0000100, 0);
    in[S_CX] = 0xc0000080;
    in[S_AX] = (u32)efer | 0x200; /* reserved */
    t0("ex.gp.efer", SNIP("wrmsr"));
    wrmsr(0xc0000080, efer);
    if (strict)
        t0("?strict ex.gp.cr0.pg_nope", SNIP("movq %%cr0, %%rax\nandl $~1, %%eax\nmovq %%rax, %%cr0"));
    if (strict)
        t0("?strict ex.gp.cr0.nw",
           SNIP("movq %%cr0, %%rax\nandl $~0x40000000, %%eax\norl $0x20000000, %%eax\nmovq %%rax, %%cr0"));
    if (strict)
        t0("?strict ex.gp.cr0.high", SNIP("movq %%cr0, %%rax\nbtsq $32, %%rax\nmovq %%rax, %%cr0"));
    if (strict)
        t0("?strict ex.gp.cr0.pg_off", SNIP("movq %%cr0, %%rax\nbtrq $31, %%rax\nmovq %%rax, %%cr0"));
    if (strict)
        t0("?strict ex.gp.cr4.reserved", SNIP("movq %%cr4, %%rax\nbtsq $31, %%rax\nmovq %%rax, %%cr4"));
    if (strict)
        t0("?strict ex.gp.cr4.pae", SNIP("movq %%cr4, %%rax\nbtrq $5, %%rax\nmovq %%rax, %%cr4"));
    in[S_AX] = 16;
    t0("ex.gp.cr8", SNIP("movq %%rax, %%cr8"));
    if (strict)
        t0("?strict ex.gp.cr3.high", SNIP("movq %%cr3, %%rax\nbtsq $62, %%rax\nmovq %%rax, %%cr3"));
    in[S_AX] = 1ull << 32;
    t0("ex.gp.dr7.high", SNIP("movq %%rax, %%dr7"));
    in[S_AX] = 1ull << 32;
    t0("ex.gp.dr6.high", SNIP("movq %%rax, %%dr6"));
    set_cr4(get_cr4() | 8);
    t0("ex.ud.dr4.de", SNIP("movq %%dr4, %%rax"));
    set_cr4(get_cr4() & ~8ull);
    set_dr6(0xffff0ff0);
    start64(SNIP("movq %%dr4, %%rax\nxorl %%ecx, %%ecx\nmovq %%rcx, %%dr6\nmovq %%dr6, %%rbx\nmovq %%rcx, "
                 "%%dr7\nmovq %%dr7, %%rdx"),
            CODE64);
    show("ex.dr.fixed");
    print(" dr4=%lx dr6=%lx dr7=%lx\n", out[S_AX] & ~0x10000ul, out[S_BX] & ~0x10800ul, out[S_DX]);
    fresh();
    set_dr6(0xffff0ff0);
    in[S_AX] = 0x2400;
    start64(SNIP("movq %%rax, %%dr7\nmovq %%dr3, %%rax"), CODE64);
    show("ex.db.gd");
    print(" bd=%x gd=%x\n", (unsigned)get_dr6() & 0xe00f, (unsigned)get_dr7() & 0x2000);
    fresh();
    set_dr6(0xffff0ff0);
    t0("ex.gp.smsw.noncanon", SNIP(NONCANON "smsw (%%rsi)"));
    start64(SNIP("movl $0x8, %%eax\nlmsw %%ax\nmovq %%cr0, %%rbx\nclts"), CODE64);
    show("ex.lmsw.keeps_pe");
    print(" cr0=%x\n", (unsigned)out[S_BX] & 0xf);
    fresh();
    set_cr0(0x80010033);
    in[S_SI] = DATA;
    *(u16 *)DATA = 0xff;
    *(u64 *)(DATA + 2) = 1ull << 63;
    if (strict)
        t0("?strict ex.gp.lgdt", SNIP("lgdt (%%rsi)"));
    in[S_SI] = DATA;
    if (strict)
        t0("?strict ex.gp.lidt", SNIP("lidt (%%rsi)"));
    fresh();
    t3("ex.ring3.swapgs", SNIP("swapgs"));
}

/* Gates: which selector the error code names, and what becomes #DF. */
static void gates(void)
{
    t3("ex.int.dpl", SNIP("nop\nint $0x21"));
    t0("ex.int.dpl.ring0", SNIP("int $0x21"));
    idt[2 * 0x22] &= ~(1ull << 47);
    t0("ex.int.np", SNIP("int $0x22"));
    t3("ex.int.np.ring3", SNIP("int $0x22"));
    idt[2 * 0x22] |= 1ull << 47 | 3ull << 45;
    idt[2 * 0x22] &= ~(1ull << 47);
    t3("ex.int.np.dpl3", SNIP("int $0x22"));
    gate64(0x22, (u64)stubs64 + 16 * 0x22, CODE64, 12, 3, 1);
    t0("ex.int.callgate", SNIP("int $0x22"));
    gate64(0x22, (u64)stubs64 + 16 * 0x22, CODE64, 5, 3, 1);
    t0("ex.int.taskgate", SNIP("int $0x22"));
    gate64(0x22, (u64)stubs64 + 16 * 0x22, CODE32, 14, 3, 1);
    t0("ex.int.code32", SNIP("int $0x22"));
    gate64(0x22, (u64)stubs64 + 16 * 0x22, DATA0, 14, 3, 1);
    t0("ex.int.data", SNIP("int $0x22"));
    gate64(0x22, (u64)stubs64 + 16 * 0x22, 0, 14, 3, 1);
    t0("ex.int.null", SNIP("int $0x22"));
    gate64(0x22, (u64)stubs64 + 16 * 0x22, TEST + 8 * TEST_COUNT, 14, 3, 1);
    t0("ex.int.limit", SNIP("int $0x22"));
    gate64(0x22, 1ull << 63 | (u64)stubs64, CODE64, 14, 3, 1);
    t0("ex.int.noncanon", SNIP("int $0x22"));
    gate64(0x22, (u64)stubs64 + 16 * 0x22, CODE64U & ~3u, 14, 3, 1);
    t0("ex.int.outer", SNIP("int $0x22"));
    gate64(0x22, (u64)stubs64 + 16 * 0x22, CODE64 | 3, 14, 3, 1);
    t3("ex.int.rpl_ignored", SNIP("int $0x22"));
    descriptor(TEST, segment(0, 0xfffff, 0x1b, 0xa));
    gate64(0x22, (u64)stubs64 + 16 * 0x22, TEST, 14, 3, 1);
    t0("ex.int.np_segment", SNIP("int $0x22"));
    idt_pointer.limit = 0x22 * 16 + 14;
    gate64(0x22, (u64)stubs64 + 16 * 0x22, CODE64, 14, 3, 1);
    __asm__ volatile("lidt %0" : : "m"(idt_pointer));
    t0("ex.int.idt_limit", SNIP("int $0x22"));
    t0("ex.int.idt_limit.low", SNIP("int $0x21"));
    idt_pointer.limit = 4095;
    __asm__ volatile("lidt %0" : : "m"(idt_pointer));
    /* a fault while one is delivered */
    idt[2 * 6] &= ~(1ull << 47);
    t0("ex.ud.gate_np", SNIP("ud2"));
    gate64(6, (u64)stubs64 + 16 * 6, 0, 14, 0, 1);
    t0("ex.ud.gate_null", SNIP("ud2"));
    default_gates();
    idt[2 * 13] &= ~(1ull << 47);
    t0("ex.gp.gate_np", SNIP(NONCANON "nop\nmovb (%%rsi), %%al"));
    idt[2 * 13] |= 1ull << 47;
    idt[0] &= ~(1ull << 47);
    t0("ex.de.gate_np", SNIP("nop\ndivl %%edx"));
    default_gates();
    idt[2 * 14] &= ~(1ull << 47);
    in[S_SI] = WINDOW;
    t0("ex.pf.gate_np", SNIP("nop\nmovb (%%rsi), %%al"));
    default_gates();
    gate64(3, (u64)stubs64 + 16 * 3, 0, 14, 3, 1);
    t0("ex.bp.gate_null", SNIP("int3"));
    default_gates();
    /* the handler's stack does not exist */
    tss64[0].ist[2] = WINDOW + 0x1000;
    gate64(6, (u64)stubs64 + 16 * 6, CODE64, 14, 0, 3);
    t0("ex.ud.stack_pf", SNIP("ud2"));
    tss64[0].ist[2] = 1ull << 63;
    t0("ex.ud.stack_noncanon", SNIP("ud2"));
    gate64(6, (u64)stubs64 + 16 * 6, CODE64, 14, 0, 1);
    gate64(14, (u64)stubs64 + 16 * 14, CODE64, 14, 0, 3);
    tss64[0].ist[2] = WINDOW + 0x1000;
    in[S_SI] = WINDOW;
    t0("ex.pf.stack_pf", SNIP("movb (%%rsi), %%al"));
    tss64[0].ist[2] = IST3;
    default_gates();
    gate64(6, (u64)stubs64 + 16 * 6, CODE64, 14, 0, 0);
    in[S_SP] = WINDOW + 0x1000;
    t0("ex.ud.own_stack_pf", SNIP("ud2"));
    default_gates();
}

static const char *where(u64 sp)
{
    switch (sp) {
    case RSP0:
        return "rsp0";
    case IST1:
        return "ist1";
    case IST3:
        return "ist3";
    case STACK0:
        return "same";
    case STACK0 - 16:
        return "same-16";
    default:
        return "elsewhere";
    }
}

static void frame(const char *name, const u8 *code, unsigned cs)
{
    start64(code, cs);
    show(name);
    print(" stack=%s ss=%lx cs=%lx oldss=%lx if=%x tf=%x nt=%x\n", where(out[S_HSP]), out[S_HSS], out[S_CS],
          out[S_SS], (unsigned)out[S_HFL] >> 9 & 1, (unsigned)out[S_HFL] >> 8 & 1,
          (unsigned)out[S_HFL] >> 14 & 1);
    fresh();
}

static void stacks(void)
{
    frame("st.ist1", SNIP("ud2"), CODE64);
    gate64(6, (u64)stubs64 + 16 * 6, CODE64, 14, 0, 3);
    frame("st.ist3", SNIP("ud2"), CODE64);
    frame("st.ist3.ring3", SNIP("ud2"), CODE64U);
    gate64(6, (u64)stubs64 + 16 * 6, CODE64, 14, 0, 0);
    frame("st.ring3", SNIP("ud2"), CODE64U);
    frame("st.compat3", SNIP32("ud2"), CODE32U);
    frame("st.compat0", SNIP32("ud2"), CODE32);
    frame("st.ring0", SNIP("ud2"), CODE64);
    in[S_SP] = STACK0 - 7;
    frame("st.ring0.aligned", SNIP("ud2"), CODE64);
    in[S_SS] = 0;
    frame("st.ring0.null_ss", SNIP("ud2"), CODE64);
    in[S_FL] |= 0x200;
    frame("st.gate.interrupt", SNIP("ud2"), CODE64);
    gate64(6, (u64)stubs64 + 16 * 6, CODE64, 15, 0, 0);
    in[S_FL] |= 0x200;
    frame("st.gate.trap", SNIP("ud2"), CODE64);
    in[S_FL] |= 0x200;
    frame("st.gate.trap.ring3", SNIP("ud2"), CODE64U);
    frame("st.nt", SNIP("pushq $0x4002\npopfq\nud2"), CODE64);
    descriptor(TEST, segment(0, 0xfffff, 0x9f, 0xa)); /* conforming */
    gate64(6, (u64)stubs64 + 16 * 6, TEST, 14, 0, 0);
    frame("st.conforming.ring0", SNIP("ud2"), CODE64);
    default_gates();
}

static void flags(void)
{
    static const struct {
        const char *name;
    } names[] = {{"ud2"}, {"int3"}, {"gp"}, {"int"}, {"pf"}};
    const u8 *code[] = {SNIP("ud2"), SNIP("int3"), SNIP(NONCANON "movb (%%rsi), %%al"), SNIP("int $0x20"),
                        SNIP("movabsq $0x8000000000, %%rsi\nmovb (%%rsi), %%al")};
    for (unsigned i = 0; i < 5; i++) {
        start64(code[i], CODE64);
        print("ex.rf.%s", names[i].name);
        show("");
        print(" rf=%x\n", (unsigned)out[S_FL] >> 16 & 1);
        fresh();
    }
    stepped("db.step.nops", SNIP("nop\nnop\nnop"), CODE64, true);
    stepped("db.step.ring3", SNIP("nop\nmovl %%eax, %%ebx\nnop"), CODE64U, true);
    in[S_AX] = DATA0;
    stepped("db.step.movss", SNIP("nop\nmovl %%eax, %%ss\nnop\nnop"), CODE64, true);
    in[S_AX] = DATA0;
    stepped("db.step.movds", SNIP("nop\nmovl %%eax, %%ds\nnop\nnop"), CODE64, true);
    stepped("db.step.popf", SNIP("pushq $0x102\npopfq\nnop\npushq $2\npopfq\nnop"), CODE64, false);
    stepped("db.step.jump", SNIP("jmp 1f\nnop\n1:nop"), CODE64, true);
    stepped("db.step.call", SNIP("call 1f\nnop\n1:popq %%rax"), CODE64, true);
    stepped("db.step.ud2", SNIP("nop\nud2"), CODE64, true);
    stepped("db.step.int3", SNIP("nop\nint3"), CODE64, true);
    stepped("db.step.cpuid", SNIP("cpuid\nnop"), CODE64, true);
    in[S_CX] = 3;
    in[S_SI] = DATA;
    in[S_DI] = DATA + 64;
    stepped("db.step.rep", SNIP("nop\nrep movsb\nnop"), CODE64, true);
    in[S_SI] = DATA;
    in[S_DI] = DATA + 64;
    stepped("db.step.rep0", SNIP("rep movsb\nnop"), CODE64, true);
    in[S_FL] |= 0x3000;
    stepped("db.step.sti", SNIP("sti\nnop\ncli\nnop"), CODE64U, true);
    stepped("db.step.pushf", SNIP("pushfq\npopq %%rbx\nnop"), CODE64, true);
    stepped("db.icebp", SNIP("nop\n.byte 0xf1\nnop"), CODE64, false);
    /* breakpoints */
    const u8 *at = SNIP("nop\nnop\nnop\nnop");
    set_dr0((u64)at + 2);
    set_dr7(0x401);
    stepped("db.exec", at, CODE64, false);
    set_dr0((u64)at);
    set_dr7(0x401);
    stepped("db.exec.first", at, CODE64, false);
    set_dr0((u64)at);
    set_dr7(0x401);
    in[S_FL] |= 0x10000;
    stepped("db.exec.rf", at, CODE64, false);
    set_dr0((u64)at + 2);
    set_dr7(0x402);
    stepped("db.exec.global", at, CODE64, false);
    set_dr0((u64)at + 2);
    set_dr7(0x400);
    stepped("db.exec.off", at, CODE64, false);
    in[S_SI] = DATA;
    set_dr0(DATA + 8);
    set_dr7(0xd0401); /* write, 4 bytes */
    stepped(
        "db.write",
        SNIP("movl 8(%%rsi), %%eax\nmovb %%al, 7(%%rsi)\nmovb %%al, 12(%%rsi)\nmovb %%al, 11(%%rsi)\nnop"),
        CODE64, false);
    in[S_SI] = DATA;
    set_dr0(DATA + 8);
    set_dr7(0x90401); /* write, 8 bytes */
    stepped("db.write8", SNIP("movb %%al, 15(%%rsi)\nmovb %%al, 16(%%rsi)\nnop"), CODE64, false);
    in[S_SI] = DATA;
    set_dr0(DATA + 8);
    set_dr7(0xf0401); /* any access, 4 bytes */
    stepped(
        "db.access",
        SNIP("movl 4(%%rsi), %%eax\nmovl 8(%%rsi), %%eax\nmovq 4(%%rsi), %%rax\nmovb %%al, 9(%%rsi)\nnop"),
        CODE64, false);
    in[S_SI] = DATA;
    in[S_AX] = DATA0;
    set_dr0(DATA + 8);
    set_dr7(0xd0401);
    stepped("db.write.push", SNIP("leaq 16(%%rsi), %%rsp\npushq %%rax\nnop"), CODE64, false);
    in[S_CX] = 4;
    in[S_DI] = DATA + 6;
    set_dr0(DATA + 8);
    set_dr7(0x10401); /* write, 1 byte */
    stepped("db.write.rep", SNIP("rep stosb\nnop"), CODE64, false);
    set_dr7(0x400);
}

static void iret(void)
{
#define IRET(ss, sp, fl, cs, ip)                                                                             \
    "leaq " ip "(%%rip), %%rcx\npushq $" ss "\npushq " sp "\npushq $" fl "\npushq $" cs                      \
    "\npushq %%rcx\niretq\nnop\n1:"
    t0("iret.same", SNIP("movq %%rsp, %%rax\n" IRET("0x10", "%%rax", "2", "0x08", "1f") "nop"));
    t0("iret.null_cs", SNIP("movq %%rsp, %%rax\n" IRET("0x10", "%%rax", "2", "0", "1f")));
    t0("iret.null_cs3", SNIP("movq %%rsp, %%rax\n" IRET("0x10", "%%rax", "2", "3", "1f")));
    t0("iret.data_cs", SNIP("movq %%rsp, %%rax\n" IRET("0x10", "%%rax", "2", "0x10", "1f")));
    t0("iret.null_ss", SNIP("movq %%rsp, %%rax\n" IRET("0", "%%rax", "2", "0x08", "1f")));
    t0("iret.null_ss.ring3", SNIP("movq %%rsp, %%rax\n" IRET("0", "%%rax", "2", "0x33", "1f")));
    t0("iret.ss3.ring3", SNIP("movq %%rsp, %%rax\n" IRET("3", "%%rax", "2", "0x33", "1f")));
    t0("iret.ss_rpl", SNIP("movq %%rsp, %%rax\n" IRET("0x10", "%%rax", "2", "0x33", "1f")));
    t0("iret.ss_code", SNIP("movq %%rsp, %%rax\n" IRET("0x08", "%%rax", "2", "0x08", "1f")));
    t0("iret.cs_dpl", SNIP("movq %%rsp, %%rax\n" IRET("0x2b", "%%rax", "2", "0x0b", "1f")));
    t3("iret.inner", SNIP("movq %%rsp, %%rax\n" IRET("0x2b", "%%rax", "2", "0x08", "1f")));
    t3("iret.same3", SNIP("movq %%rsp, %%rax\n" IRET("0x2b", "%%rax", "2", "0x33", "1f")));
    t0("iret.nt", SNIP("pushq $0x4002\npopfq\nmovq %%rsp, %%rax\n" IRET("0x10", "%%rax", "2", "0x08", "1f")));
    t0("iret.limit", SNIP("movq %%rsp, %%rax\n" IRET("0x10", "%%rax", "2", "0x7fff8", "1f")));
    t0("iret.gdt_limit", SNIP("movq %%rsp, %%rax\n" IRET("0x10", "%%rax", "2", "0x1000", "1f")));
    t0("iret.noncanon", SNIP("movq %%rsp, %%rax\nmovabsq $0x8000000000000000, %%rcx\npushq $0x10\npushq "
                             "%%rax\npushq $2\npushq $8\npushq %%rcx\niretq"));
    descriptor(TEST, segment(0, 0xfffff, 0x9b, 0xe)); /* L and D */
    t0("iret.l_and_d", SNIP("movq %%rsp, %%rax\n" IRET("0x10", "%%rax", "2", "0x80", "1f")));
    descriptor(TEST, segment(0, 0xfffff, 0x1b, 0xa));
    t0("iret.np", SNIP("movq %%rsp, %%rax\n" IRET("0x10", "%%rax", "2", "0x80", "1f")));
    descriptor(TEST, segment(0, 0xfffff, 0x13, 0xc));
    t0("iret.ss_np", SNIP("movq %%rsp, %%rax\n" IRET("0x80", "%%rax", "2", "0x08", "1f")));
    t0("iret.compat", SNIP("movq %%rsp, %%rax\n" IRET("0x10", "%%rax", "2", "0x18",
                                                      "1f") ".code32\nincl %%edx\ndecl %%edx\n"));
    t0("iret32.same",
       SNIP("movl %%esp, %%eax\nleaq 1f(%%rip), %%rcx\nleaq -32(%%rsp), %%rsp\nmovl %%ecx, (%%rsp)\nmovl $8, "
            "4(%%rsp)\nmovl $2, 8(%%rsp)\nmovl %%eax, 12(%%rsp)\nmovl $0x10, 16(%%rsp)\niretl\n1:nop"));
    start64(SNIP("movq %%rsp, %%rax\n" IRET("0x10", "%%rax", "0x247ed7", "0x08",
                                            "1f") "pushfq\npopq %%rbx\npushq $2\npopfq"),
            CODE64);
    show("iret.flags.ring0");
    print(" flags=%lx\n", out[S_BX]);
    fresh();
    start64(SNIP("movq %%rsp, %%rax\n" IRET("0x2b", "%%rax", "0x247ed7", "0x33",
                                            "1f") "pushfq\npopq %%rbx\npushq $2\npopfq"),
            CODE64U);
    show("iret.flags.ring3");
    print(" flags=%lx\n", out[S_BX]);
    fresh();
}

void group_exceptions(void)
{
    arithmetic();
    fpu();
    alignment();
    protection();
    registers();
    gates();
    stacks();
    flags();
    iret();
}
