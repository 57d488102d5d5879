// SPDX-License-Identifier: Apache-2.0
/* What a processor may have or not. */
#include "guest.h"

void group_x2apic(void);

void group_odds(void)
{
    u64 cr4 = get_cr4();
    u64 *m = (u64 *)DATA;
    if (feature("cx16", has(1, 2, 13))) {
        m[0] = 1;
        m[1] = 2;
        in[S_AX] = 1;
        in[S_DX] = 2;
        in[S_BX] = 3;
        in[S_CX] = 4;
        in[S_SI] = DATA;
        start64(SNIP("lock cmpxchg16b (%%rsi)\nsetz %%al"), CODE64);
        show("?cx16 odd.cx16");
        print(" mem=%lx,%lx zf=%lx\n", m[0], m[1], out[S_AX] & 0xff);
        fresh();
        in[S_SI] = DATA;
        start64(SNIP("cmpxchg16b (%%rsi)"), CODE64);
        show("?cx16 odd.cx16.differs");
        print(" ax=%lx dx=%lx\n", out[S_AX], out[S_DX]);
        fresh();
        in[S_SI] = DATA + 8;
        t0("?cx16 odd.cx16.unaligned", SNIP("cmpxchg16b (%%rsi)"));
    }
    if (feature("rdtscp", has(0x80000001, 3, 27))) {
        wrmsr(0xc0000103, 0x1234);
        start64(SNIP("rdtscp"), CODE64U);
        show("?rdtscp odd.rdtscp");
        print(" cx=%lx\n", out[S_CX]);
        fresh();
        set_cr4(cr4 | 4);
        t3("?rdtscp odd.rdtscp.tsd", SNIP("rdtscp"));
        set_cr4(cr4);
    }
    if (feature("rdpid", has(7, 2, 22))) {
        start64(SNIP(".byte 0xf3, 0x0f, 0xc7, 0xf8"), CODE64U);
        show("?rdpid odd.rdpid");
        print(" ax=%lx\n", out[S_AX]);
        fresh();
    }
    if (feature("fsgsbase", has(7, 1, 0))) {
        t3("?fsgsbase odd.fsgsbase.off", SNIP("rdfsbase %%rax"));
        set_cr4(cr4 | 0x10000);
        start64(
            SNIP("movl $0x12345678, %%eax\nwrfsbase %%rax\nwrgsbase %%eax\nrdfsbase %%rbx\nrdgsbase %%rdx"),
            CODE64U);
        show("?fsgsbase odd.fsgsbase");
        print(" fs=%lx gs=%lx msr=%lx\n", out[S_BX], out[S_DX], rdmsr(0xc0000100));
        fresh();
        t3("?fsgsbase odd.fsgsbase.noncanon", SNIP("movabsq $0x8000000000000000, %%rax\nwrfsbase %%rax"));
        tc3("?fsgsbase odd.fsgsbase.compat", SNIP32(".byte 0xf3, 0x0f, 0xae, 0xc0"));
        set_cr4(cr4);
        wrmsr(0xc0000100, 0);
        wrmsr(0xc0000101, 0);
    }
    if (feature("umip", has(7, 2, 2))) {
        set_cr4(cr4 | 0x800);
        in[S_SI] = DATA + USER;
        t3("?umip odd.umip.sgdt", SNIP("sgdt (%%rsi)"));
        t3("?umip odd.umip.str", SNIP("str %%ax"));
        t3("?umip odd.umip.smsw", SNIP("smsw %%ax"));
        t3("?umip odd.umip.sldt", SNIP("sldt %%ax"));
        t0("?umip odd.umip.ring0", SNIP("str %%ax\nsmsw %%ax"));
        set_cr4(cr4);
    }
    in[S_SI] = DATA + USER;
    t3("odd.sgdt.ring3", SNIP("sgdt (%%rsi)\nstr %%ax\nsmsw %%ax"));
    if (feature("xsave", has(1, 2, 26))) {
        t0("?xsave odd.xgetbv.off", SNIP("xorl %%ecx, %%ecx\nxgetbv"));
        set_cr4(cr4 | 0x40000);
        in[S_AX] = 1;
        t0("?xsave odd.xsetbv", SNIP("xsetbv"));
        t0("?xsave odd.xsetbv.no_x87", SNIP("xsetbv"));
        in[S_AX] = 5;
        t0("?xsave odd.xsetbv.avx_without_sse", SNIP("xsetbv"));
        in[S_AX] = 1;
        in[S_DX] = 0x80000000;
        t0("?xsave odd.xsetbv.reserved", SNIP("xsetbv"));
        in[S_AX] = 1;
        in[S_CX] = 1;
        t0("?xsave odd.xsetbv.xcr1", SNIP("xsetbv"));
        in[S_AX] = 1;
        t3("?xsave odd.xsetbv.ring3", SNIP("xsetbv"));
        in[S_SI] = DATA + 8;
        in[S_AX] = 1;
        t0("?xsave odd.xsave.unaligned", SNIP("xsave (%%rsi)"));
        print("?xsave odd.osxsave: %u\n", has(1, 2, 27));
        set_cr4(cr4);
        print("?xsave odd.osxsave.off: %u\n", has(1, 2, 27));
    }
    t0("odd.cmpxchg8b.reg", SNIP(".byte 0x0f, 0xc7, 0xc8"));
    t0("odd.lock.cmpxchg8b.reg", SNIP(".byte 0xf0, 0x0f, 0xc7, 0xc8"));
    start64(SNIP("movl $0x80000000, %%eax\nmovl $0xffffffff, %%edx\nmovl %%eax, %%ebx\nsarl $31, %%ebx\nmovl "
                 "%%eax, %%ecx\nbswapl %%ecx"),
            CODE64);
    print("odd.upper_halves: bx=%lx cx=%lx dx=%lx\n", out[S_BX], out[S_CX], out[S_DX]);
    fresh();
    group_x2apic();
}
