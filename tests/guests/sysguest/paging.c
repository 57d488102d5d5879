// SPDX-License-Identifier: Apache-2.0
/* Page tables: permissions, accessed and dirty bits, caches of translations, faults in the middle of things.
 */
#include "guest.h"

#define P 1ull
#define W 2ull
#define U 4ull
#define PWT 8ull
#define A 0x20ull
#define D 0x40ull
#define PS 0x80ull
#define G 0x100ull
#define NX (1ull << 63)

static void flush(void)
{
    set_cr3(get_cr3());
    set_cr4(get_cr4() ^ 0x80);
    set_cr4(get_cr4() ^ 0x80);
}

/* Page n of the window is physical page n, with these bits at each level. */
static void map(unsigned n, u64 e)
{
    w_pt[n] = (PAGES + 4096ull * n) | e;
}

static void reset(void)
{
    pml4[1] = (u64)w_pdpt | 7;
    w_pdpt[0] = (u64)w_pd | 7;
    w_pdpt[1] = 0;
    w_pd[0] = (u64)w_pt | 7;
    w_pd[1] = 0;
    for (unsigned i = 0; i < 16; i++)
        map(i, 7);
    flush();
}

static const u8 *what[4];

/* A letter for each access: fine or the fault's error code; at ring 0 and 3. */
static void accesses(const char *name, u64 va)
{
    print("%s:", name);
    for (unsigned ring = 0; ring < 2; ring++) {
        print(" ring%u", ring * 3);
        for (unsigned i = 0; i < 3; i++) {
            in[S_SI] = va;
            in[S_AX] = 0xcd;
            start64(what[i], ring ? CODE64U : CODE64);
            print(" %c=", "rwx"[i]);
            if (out[S_VEC] == 14 && out[S_CR2] == va)
                print("%lx", out[S_ERR]);
            else if (out[S_VEC] == 0x20)
                print("ok");
            else
                print("vec%lx cr2=%lx", out[S_VEC], out[S_CR2]);
            fresh();
        }
    }
    print("\n");
}

static void permissions(void)
{
    static const struct {
        const char *name;
        u64 e;
    } kinds[] = {{"none", 0},        {"r_s", P},         {"w_s", P | W},
                 {"r_u", P | U},     {"w_u", P | W | U}, {"w_u_nx", P | W | U | NX},
                 {"r_s_nx", P | NX}, {"none_nx", NX}};
    u64 cr0 = get_cr0(), cr4 = get_cr4(), efer = rdmsr(0xc0000080);
    const u64 va = WINDOW + 0x2000;
    bool smep = feature("smep", has(7, 1, 7)), smap = feature("smap", has(7, 1, 20));
    for (unsigned k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        for (unsigned level = 0; level < 4; level++) {
            u64 *e[4] = {&w_pt[2], &w_pd[0], &w_pdpt[0], &pml4[1]};
            static const char *const levels[] = {"pte", "pde", "pdpte", "pml4e"};
            reset();
            *e[level] = (*e[level] & 0x000ffffffffff000ull) | kinds[k].e;
            flush();
            print("pg.%s.%s", kinds[k].name, levels[level]);
            accesses("", va);
        }
        reset();
        map(2, kinds[k].e);
        set_cr0(cr0 & ~(u64)CR0_WP);
        flush();
        print("pg.nowp.%s", kinds[k].name);
        accesses("", va);
        set_cr0(cr0);
        wrmsr(0xc0000080, efer & ~0x800ull);
        flush();
        if (kinds[k].e & NX) {
            print("pg.nonxe.%s", kinds[k].name);
            accesses("", va);
        }
        wrmsr(0xc0000080, efer);
        flush();
        if (smep) {
            set_cr4(cr4 | 1u << 20);
            flush();
            print("?smep pg.smep.%s", kinds[k].name);
            accesses("", va);
            set_cr4(cr4);
        }
        if (smap) {
            set_cr4(cr4 | 1u << 21);
            flush();
            print("?smap pg.smap.%s", kinds[k].name);
            accesses("", va);
            set_cr4(cr4);
        }
    }
    reset();
    if (smap) {
        set_cr4(cr4 | 1u << 21);
        in[S_SI] = va;
        t0("?smap pg.smap.stac",
           SNIP("stac\nmovb (%%rsi), %%al\nmovb %%al, (%%rsi)\nclac\nmovb (%%rsi), %%al"));
        in[S_SI] = va;
        in[S_FL] |= 0x40000;
        t0("?smap pg.smap.ac", SNIP("movb (%%rsi), %%al"));
        t3("?smap pg.smap.stac3", SNIP("stac"));
        set_cr0(cr0 & ~(u64)CR0_WP);
        in[S_SI] = va;
        t0("?smap pg.smap.nowp", SNIP("movb %%al, (%%rsi)"));
        set_cr0(cr0);
        set_cr4(cr4);
    }
    reset();
}

static void reserved(void)
{
    const u64 va = WINDOW + 0x2000;
    reset();
    w_pt[2] |= 1ull << 51;
    flush();
    accesses("pg.rsvd.pte", va);
    reset();
    w_pd[0] |= 1ull << 51;
    flush();
    accesses("pg.rsvd.pde", va);
    reset();
    w_pdpt[0] |= 1ull << 51;
    flush();
    accesses("pg.rsvd.pdpte", va);
    reset();
    pml4[1] |= PS;
    flush();
    accesses("pg.rsvd.pml4e_ps", va);
    reset();
    w_pd[1] = PAGES | 0x2000 | PS | 7;
    flush();
    accesses("pg.rsvd.2m_low", WINDOW + 0x200000);
    w_pd[1] = 1ull << 51 | 0x2000;
    flush();
    accesses("pg.rsvd.not_present", WINDOW + 0x200000);
    reset();
    w_pd[1] = PAGES | PS | 7;
    flush();
    accesses("pg.2m", WINDOW + 0x200000 + 0x1008);
    w_pd[1] = PAGES | PS | 3;
    flush();
    accesses("pg.2m.s", WINDOW + 0x200000 + 0x1008);
    w_pd[1] = PAGES | PS | 0x1000 | 7; /* the PAT bit is not reserved */
    flush();
    accesses("pg.2m.pat", WINDOW + 0x200000 + 0x1008);
    if (feature("pdpe1gb", has(0x80000001, 3, 26))) {
        w_pdpt[1] = PS | 7;
        flush();
        accesses("?pdpe1gb pg.1g", WINDOW + 0x40000000 + PAGES + 0x1008);
        print("?pdpe1gb pg.1g.ad: %lx\n", w_pdpt[1] & 0xff);
        w_pdpt[1] = PS | 7 | 0x2000;
        flush();
        accesses("?pdpe1gb pg.1g.low", WINDOW + 0x40000000 + PAGES + 0x1008);
    }
    reset();
}

/* Which accesses set A and D, at which levels: a letter for each level from the top, A or D or -. */
static void show_ad(void)
{
    u64 e[4] = {pml4[1], w_pdpt[0], w_pd[0], w_pt[2]};
    /* what a walk that ends in a fault leaves at its upper levels is the processor's own business */
    print(" ");
    for (unsigned i = out[S_VEC] == 14 ? 3 : 0; i < 4; i++)
        print("%s", e[i] & D ? e[i] & A ? "D" : "d" : e[i] & A ? "A" : "-");
}

static void ad(const char *name, const u8 *code, u64 bits, unsigned cs)
{
    reset();
    map(2, bits);
    flush();
    in[S_SI] = in[S_DI] = WINDOW + 0x2000;
    in[S_BX] = 1;
    in[S_AX] = 0xcd;
    start64(code, cs);
    show(name);
    show_ad();
    print("\n");
    fresh();
}

static void accessed_dirty(void)
{
    ad("ad.read", what[0], 7, CODE64);
    ad("ad.write", what[1], 7, CODE64);
    ad("ad.exec", what[2], 7, CODE64);
    ad("ad.read3", what[0], 7, CODE64U);
    ad("ad.write3", what[1], 7, CODE64U);
    ad("ad.write.readonly", what[1], 5, CODE64);
    ad("ad.read.supervisor", what[0], 3, CODE64U);
    ad("ad.write.supervisor", what[1], 3, CODE64U);
    ad("ad.exec.nx", what[2], 7 | NX, CODE64);
    ad("ad.notpresent", what[0], 6, CODE64);
    ad("ad.rmw", SNIP("addl $0, (%%rsi)"), 7, CODE64);
    ad("ad.rmw.readonly", SNIP("addl $0, (%%rsi)"), 5, CODE64);
    ad("ad.cmp", SNIP("cmpl $0, (%%rsi)"), 7, CODE64);
    ad("ad.xchg", SNIP("xchgl %%eax, (%%rsi)"), 7, CODE64);
    ad("ad.cmpxchg.fails", SNIP("movl (%%rsi), %%eax\nnotl %%eax\nlock cmpxchgl %%ebx, (%%rsi)"), 7, CODE64);
    ad("ad.cmpxchg.readonly", SNIP("lock cmpxchgl %%ebx, (%%rsi)"), 5, CODE64);
    ad("ad.push", SNIP("leaq 16(%%rsi), %%rsp\npushq %%rax"), 7, CODE64);
    ad("ad.pop", SNIP("leaq 16(%%rsi), %%rsp\npopq %%rax"), 7, CODE64);
    ad("ad.movs.rep0", SNIP("xorl %%ecx, %%ecx\nrep movsb"), 7, CODE64);
    ad("ad.stos", SNIP("movl $4, %%ecx\nrep stosb"), 7, CODE64);
    ad("ad.lods", SNIP("movl $4, %%ecx\nrep lodsb"), 7, CODE64);
    ad("ad.bt", SNIP("btl $3, (%%rsi)"), 7, CODE64);
    ad("ad.bts", SNIP("lock btsl $3, (%%rsi)"), 7, CODE64);
    ad("ad.invlpg", SNIP("invlpg (%%rsi)"), 7, CODE64);
    ad("ad.fxsave", SNIP("fxsave (%%rsi)"), 7, CODE64);
    ad("ad.lea", SNIP("leaq (%%rsi), %%rax"), 7, CODE64);
    ad("ad.verr", SNIP("movl $0x10, %%eax\nmovw %%ax, (%%rsi)\nverr (%%rsi)"), 7, CODE64);
    ad("ad.sgdt", SNIP("sgdt (%%rsi)"), 7, CODE64);
    ad("ad.cmov.false", SNIP("xorl %%eax, %%eax\ncmovnzl (%%rsi), %%eax"), 7, CODE64);
    ad("ad.setcc", SNIP("xorl %%eax, %%eax\nsetnz (%%rsi)"), 7, CODE64);
    /* read first, then written: D comes with the write although the translation is known */
    ad("ad.read_write", SNIP("movb (%%rsi), %%al\nmovb %%al, (%%rsi)"), 7, CODE64);
    /* A and D already there stay, and nothing else in the entry changes */
    reset();
    map(2, 7 | A | D | G | 0xe00 | 1ull << 58);
    flush();
    in[S_SI] = WINDOW + 0x2000;
    start64(what[1], CODE64);
    print("ad.ignored_bits: %lx\n", w_pt[2] & ~0x000ffffffffff000ul);
    fresh();
    reset();
    w_pd[1] = PAGES | PS | 7;
    flush();
    in[S_SI] = WINDOW + 0x200000;
    start64(what[0], CODE64);
    print("ad.2m.read: %lx", w_pd[1] & 0xff);
    in[S_SI] = WINDOW + 0x200000;
    start64(what[1], CODE64);
    print(" write: %lx\n", w_pd[1] & 0xff);
    fresh();
    reset();
}

static void translations(void)
{
    volatile u8 *va = (volatile u8 *)(WINDOW + 0x2000);
    reset();
    *(u8 *)(PAGES + 0x2000) = 2;
    *(u8 *)(PAGES + 0x3000) = 3;
    unsigned a = *va;
    w_pt[2] = (PAGES + 0x3000) | 7;
    __asm__ volatile("invlpg (%0)" : : "r"(va) : "memory");
    unsigned b = *va;
    w_pt[2] = (PAGES + 0x2000) | 7;
    set_cr3(get_cr3());
    print("tlb.invlpg: %u %u\ntlb.cr3: %u\n", a, b, (unsigned)*va);
    /* more rights need no flush */
    map(4, 0);
    __asm__ volatile("invlpg (%0)" : : "r"(WINDOW + 0x4000) : "memory");
    in[S_SI] = WINDOW + 0x4000;
    t0("tlb.absent", what[0]);
    map(4, 5);
    in[S_SI] = WINDOW + 0x4000;
    t0("tlb.present_now", what[0]);
    in[S_SI] = WINDOW + 0x4000;
    t0("tlb.readonly", what[1]);
    map(4, 7);
    in[S_SI] = WINDOW + 0x4000;
    t0("tlb.writable_after_fault", what[1]);
    map(4, 5);
    __asm__ volatile("invlpg (%0)" : : "r"(WINDOW + 0x4fff) : "memory");
    in[S_SI] = WINDOW + 0x4000;
    t0("tlb.readonly_again", what[1]);
    /* a global page goes with INVLPG and with a change of CR4.PGE */
    set_cr4(get_cr4() | 0x80);
    map(5, 7 | G);
    *(u8 *)(PAGES + 0x5000) = 5;
    a = *(volatile u8 *)(WINDOW + 0x5000);
    w_pt[5] = (PAGES + 0x3000) | 7 | G;
    __asm__ volatile("invlpg (%0)" : : "r"(WINDOW + 0x5000) : "memory");
    b = *(volatile u8 *)(WINDOW + 0x5000);
    w_pt[5] = (PAGES + 0x5000) | 7 | G;
    set_cr4(get_cr4() & ~0x80ull);
    print("tlb.global: %u %u %u\n", a, b, (unsigned)*(volatile u8 *)(WINDOW + 0x5000));
    /* a change of rights at an upper level */
    w_pd[0] &= ~W;
    set_cr3(get_cr3());
    in[S_SI] = WINDOW + 0x2000;
    t0("tlb.pde_readonly", what[1]);
    w_pd[0] |= W;
    in[S_SI] = 0x8000000000000000;
    t0("tlb.invlpg.noncanon", SNIP("invlpg (%%rsi)"));
    t0("tlb.invlpg.reg", SNIP(".byte 0x0f, 0x01, 0xff"));
    if (feature("pcid", has(1, 2, 17))) {
        u64 cr4 = get_cr4(), cr3 = get_cr3();
        in[S_AX] = cr4 | 1u << 17;
        t0("?pcid tlb.pcid.on", SNIP("movq %%rax, %%cr4"));
        map(6, 7);
        *(u8 *)(PAGES + 0x6000) = 6;
        set_cr3(cr3 | 5);
        a = *(volatile u8 *)(WINDOW + 0x6000);
        w_pt[6] = (PAGES + 0x3000) | 7;
        set_cr3(cr3 | 6);
        b = *(volatile u8 *)(WINDOW + 0x6000);
        set_cr3(cr3 | 5);
        print("?pcid tlb.pcid: %u %u %u cr3=%x\n", a, b, (unsigned)*(volatile u8 *)(WINDOW + 0x6000),
              (unsigned)get_cr3() & 0xfff);
        in[S_AX] = cr4;
        set_cr3(cr3);
        set_cr4(cr4);
        in[S_AX] = cr4 | 1u << 17;
        set_cr3(cr3 | 8);
        t0("?pcid tlb.pcid.low_bits", SNIP("movq %%rax, %%cr4"));
        set_cr4(cr4);
        set_cr3(cr3);
    }
    reset();
}

/* Accesses across pages of which the second is not there: nothing may be written, registers stay. */
static void crossing(void)
{
    static const u8 *code[12];
    static const char *const names[] = {"write4", "write8",    "read8",  "add", "xchg", "push",
                                        "movups", "cmpxchg8b", "movnti", "inc", "shl",  "call"};
    code[0] = SNIP("movl %%eax, (%%rsi)");
    code[1] = SNIP("movq %%rax, (%%rsi)");
    code[2] = SNIP("movq (%%rsi), %%rax");
    code[3] = SNIP("addq %%rax, (%%rsi)");
    code[4] = SNIP("xchgq %%rax, (%%rsi)");
    code[5] = SNIP("leaq 8(%%rsi), %%rsp\npushq %%rax");
    code[6] = SNIP("movups %%xmm0, (%%rsi)");
    code[7] = SNIP("lock cmpxchg8b (%%rsi)");
    code[8] = SNIP("movntiq %%rax, (%%rsi)");
    code[9] = SNIP("incq (%%rsi)");
    code[10] = SNIP("shlq (%%rsi)");
    code[11] = SNIP("leaq 8(%%rsi), %%rsp\ncall 1f\n1:nop");
    for (unsigned i = 0; i < 12; i++) {
        for (unsigned first = 0; first < 2; first++) {
            reset();
            map(3 - first, 0);
            flush();
            u64 *at = (u64 *)(PAGES + 0x2ff8);
            at[0] = 0x1111111111111111;
            at[1] = 0x2222222222222222;
            in[S_SI] = WINDOW + 0x2ffe;
            in[S_AX] = 0xabcdef0123456789;
            in[S_SP] = WINDOW + 0x2ffe + 8;
            start64(code[i], CODE64);
            print("cross.%s.%s", names[i], first ? "first" : "second");
            show("");
            print(" rax=%lx rsp=%lx mem=%lx,%lx\n", out[S_AX], out[S_SP], at[0], at[1]);
            fresh();
        }
    }
    reset();
    map(3, 0);
    flush();
    /* an instruction whose end is not there */
    u8 *at = (u8 *)PAGES + 0x2ffe;
    at[0] = 0xb8;
    at[1] = 1;
    in[S_SI] = WINDOW + 0x2ffe;
    start64(what[2], CODE64);
    print("cross.fetch: vec=%lx err=%lx cr2=%lx rip=%lx\n", out[S_VEC], out[S_ERR], out[S_CR2], out[S_IP]);
    fresh();
    at[0] = 0x90;
    at[1] = 0x90;
    in[S_SI] = WINDOW + 0x2ffe;
    start64(what[2], CODE64);
    print("cross.fetch.next: vec=%lx err=%lx cr2=%lx rip=%lx\n", out[S_VEC], out[S_ERR], out[S_CR2],
          out[S_IP]);
    fresh();
    /* a bad instruction that is known before its end */
    at[0] = 0x0f;
    at[1] = 0x0b;
    in[S_SI] = WINDOW + 0x2ffe;
    start64(what[2], CODE64);
    print("cross.fetch.ud2: vec=%lx rip=%lx\n", out[S_VEC], out[S_IP]);
    fresh();
    reset();
}

/* REP that faults in the middle. */
static void rep(const char *name, const u8 *code, u64 si, u64 di, u64 cx, unsigned cs)
{
    reset();
    map(3, 0);
    map(5, 5);
    flush();
    for (unsigned i = 0; i < 64; i++)
        ((u8 *)PAGES)[0x2fc0 + i] = (u8)i;
    memset((void *)(PAGES + 0x4fc0), 0, 64);
    in[S_SI] = si;
    in[S_DI] = di;
    in[S_CX] = cx;
    in[S_AX] = 0x7777777777777777;
    start64(code, cs);
    show(name);
    print(" err=%lx rcx=%lx rsi=%lx rdi=%lx last=%x\n", out[S_ERR], out[S_CX], out[S_SI], out[S_DI],
          *(u8 *)(PAGES + 0x4fff));
    fresh();
}

static void restarts(void)
{
    const u64 end = WINDOW + 0x3000, to = WINDOW + 0x5000;
    rep("rep.movsb.source", SNIP("rep movsb"), end - 10, WINDOW + 0x6000, 20, CODE64);
    rep("rep.movsb.target", SNIP("rep movsb"), end - 20, to - 10, 20, CODE64);
    rep("rep.movsb.both", SNIP("rep movsb"), end - 10, to - 10, 20, CODE64);
    rep("rep.movsq.cross", SNIP("rep movsq"), end - 20, WINDOW + 0x6000, 20, CODE64);
    rep("rep.movsq.target", SNIP("rep movsq"), end - 64, to - 20, 8, CODE64);
    rep("rep.movsb.ring3", SNIP("rep movsb"), end - 10, WINDOW + 0x6000, 20, CODE64U);
    rep("rep.movsb.down", SNIP("std\nrep movsb"), WINDOW + 0x4005, WINDOW + 0x6010, 20, CODE64);
    rep("rep.stosb", SNIP("rep stosb"), 0, to - 3, 9, CODE64);
    rep("rep.stosq", SNIP("rep stosq"), 0, to - 12, 9, CODE64);
    rep("rep.lodsb", SNIP("rep lodsb"), end - 5, 0, 9, CODE64);
    rep("rep.scasb", SNIP("repne scasb"), 0, end - 5, 9, CODE64);
    rep("rep.cmpsb", SNIP("repe cmpsb"), end - 5, end - 5, 9, CODE64);
    rep("rep.movsb.addr32", SNIP("addr32 rep movsb"), 0x100000000ull | DATA, 0x100000000ull | (DATA + 64),
        0x100000003ull, CODE64);
    rep("movsb.source", SNIP("movsb"), end, WINDOW + 0x6000, 1, CODE64);
    rep("movsb.target", SNIP("movsb"), WINDOW + 0x2000, to, 1, CODE64);
    rep("rep.outsb", SNIP("movl $0x80, %%edx\nrep outsb"), end - 2, 0, 5, CODE64);
    rep("rep.insb", SNIP("movl $0x84, %%edx\nrep insb"), 0, end - 2, 5, CODE64);
    rep("enter", SNIP("leaq 8(%%rsi), %%rsp\nmovq %%rdi, %%rbp\nenter $0x1010, $0"), end + 0x1000, 0, 0,
        CODE64);
    rep("leave", SNIP("movq %%rsi, %%rbp\nmovl $0x600000, %%esp\nleave"), end, 0, 0, CODE64);
    rep("pop.mem", SNIP("movl $0x620000, %%esp\npopq (%%rsi)"), to, 0, 0, CODE64);
    rep("pop.mem.rsp", SNIP("leaq -8(%%rsi), %%rsp\npopq (%%rsp)"), to, 0, 0, CODE64);
    rep("cmpxchg.readonly", SNIP("lock cmpxchgb %%cl, (%%rsi)"), to, 0, 0, CODE64);
    rep("xadd.readonly", SNIP("lock xaddl %%ecx, (%%rsi)"), to, 0, 7, CODE64);
    rep("ret.absent", SNIP("movq %%rsi, %%rsp\nret"), end, 0, 0, CODE64);
    rep("call.readonly", SNIP("leaq 8(%%rsi), %%rsp\ncall 1f\n1:nop"), to, 0, 0, CODE64);
    rep("bts.far", SNIP("movl $0x8000, %%eax\nlock btsl %%eax, (%%rsi)"), WINDOW + 0x2000, 0, 0, CODE64);
}

void group_paging(void)
{
    what[0] = SNIP("movb (%%rsi), %%al");
    what[1] = SNIP("movb %%al, (%%rsi)");
    what[2] = SNIP("jmp *%%rsi");
    for (unsigned i = 0; i < 0x10; i++) {
        u8 *p = (u8 *)PAGES + 0x1000 * i;
        memset(p, 0xcd, 4096);
        p[0] = p[8] = 0xcd; /* int 0x20 */
        p[1] = p[9] = 0x20;
    }
    permissions();
    reserved();
    for (unsigned i = 0; i < 0x10; i++) {
        u8 *p = (u8 *)PAGES + 0x1000 * i;
        p[0] = p[8] = 0xcd;
        p[1] = p[9] = 0x20;
    }
    accessed_dirty();
    translations();
    crossing();
    restarts();
}
