// SPDX-License-Identifier: Apache-2.0
/* Real mode, virtual-8086 mode, 16-bit segments, each form of paging; the way back from each is part of every
 * line. */
#include "guest.h"

static void real_more(const char *name, const u8 *code, unsigned how)
{
    start_real(code, how);
    show(name);
    print(" ax=%lx bx=%lx cx=%lx cs=%lx sp=%lx fl=%lx\n", out[S_AX], out[S_BX], out[S_CX], out[S_CS],
          out[S_SP], out[S_FL] & 0xf200);
    fresh();
}

static void real_mode(void)
{
    *(u32 *)0x1fffe = 0; /* what a lenient emulator reads past a segment's end */
    *(u32 *)0x20004 = 0xcafe1234;
    real_more("real.plain", SNIP16("movw 4, %%ax\nmovw %%cs, %%bx"), 1);
    real_more("real.wide", SNIP16("movl 4, %%eax\nmovl $0x12345678, %%ecx"), 1);
    real_more("real.segments",
              SNIP16("movw $0x2000, %%ax\nmovw %%ax, %%es\nmovw %%es:4, %%bx\nmovw $0x1fff, %%ax\nmovw %%ax, "
                     "%%fs\nmovw %%fs:0x14, %%cx"),
              1);
    real_more("real.int", SNIP16("nop\nint $0x21"), 1);
    real_more("real.de", SNIP16("xorw %%cx, %%cx\ndivw %%cx"), 1);
    real_more("real.ud", SNIP16("ud2"), 1);
    real_more("real.ud.lldt", SNIP16("lldt %%ax"), 1);
    real_more("real.ud.arpl", SNIP16("arpl %%ax, %%bx"), 1);
    real_more("real.ud.lar", SNIP16("larw %%ax, %%bx"), 1);
    real_more("real.ud.str", SNIP16("str %%ax"), 1);
    real_more("real.bound", SNIP16("movw $5, %%ax\nmovw $0, 0x100\nmovw $4, 0x102\nboundw %%ax, 0x100"), 1);
    real_more("real.into", SNIP16("movw $0x7fff, %%ax\nincw %%ax\ninto"), 1);
    real_more("real.limit.word", SNIP16("movw 0xffff, %%ax"), 1);
    real_more("real.limit.addr32", SNIP16("movl $0x10000, %%ebx\nmovb (%%ebx), %%al"), 1);
    real_more("real.limit.stack", SNIP16("movw $0xffff, %%bp\nmovw (%%bp), %%ax"), 1);
    real_more("real.wrap.push", SNIP16("movw $0, %%sp\npushw %%ax\nmovw %%sp, %%bx\nmovw $0xf000, %%sp"), 1);
    real_more("real.unreal",
              SNIP16("movl $0x620000, %%ebx\nmovl $0x5a5a, %%fs:(%%ebx)\nmovl %%fs:(%%ebx), %%ecx"), 2);
    real_more("real.unreal.reload",
              SNIP16("movw $0x2000, %%ax\nmovw %%ax, %%fs\nmovl $4, %%ebx\nmovl %%fs:(%%ebx), %%ecx"), 2);
    real_more("real.cli", SNIP16("cli"), 1);
    real_more("real.popf", SNIP16("pushw $0x7002\npopfw\npushfw\npopw %%bx\npushw $2\npopfw"), 1);
    real_more("real.far",
              SNIP16("call 9f\n9:popw %%dx\naddw $1f - 9b, %%dx\nmovw %%dx, 0x200\nmovw $0x800, "
                     "0x202\nlcallw *0x200\njmp 2f\n1:movw %%cs, %%bx\nlret\n2:incw %%cx"),
              1);
    real_more("real.far.alias",
              SNIP16("call 9f\n9:popw %%dx\naddw $1f - 9b, %%dx\naddw $0x1000, %%dx\nmovw %%dx, 0x200\nmovw "
                     "$0x700, 0x202\nljmpw *0x200\n1:movw %%cs, %%bx\nmovw $0x1234, %%cx"),
              1);
    real_more("real.smsw", SNIP16("smsw %%bx\nandw $1, %%bx"), 1);
    real_more("real.cr0", SNIP16("movl %%cr0, %%ebx\nandl $1, %%ebx"), 1);
    real_more("real.icebp", SNIP16(".byte 0xf1"), 1);
    real_more("real.salc", SNIP16("stc\n.byte 0xd6\nmovw %%ax, %%bx"), 1);
    real_more("real.aam", SNIP16("movw $0x37, %%ax\naam\nmovw %%ax, %%bx\naad"), 1);
    real_more("real.pusha", SNIP16("movw $1, %%ax\npushaw\npopaw\npushal\npopal\nmovw %%sp, %%bx"), 1);
    real_more("real.enter", SNIP16("enter $8, $0\nmovw %%sp, %%bx\nleavew"), 1);
    real_more("real.loop", SNIP16("movw $3, %%cx\n1:incw %%bx\nloop 1b"), 1);
    real_more("real.gp.length",
              SNIP16(".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90"),
              1);
    real_more("real.step", SNIP16("pushw $0x102\npopfw\nnop\nnop"), 1);
}

static void v86_more(const char *name, const u8 *code, unsigned iopl)
{
    start_v86(code, iopl);
    show(name);
    print(" ax=%lx bx=%lx cx=%lx vm=%x cs=%lx ss=%lx ds=%lx es=%lx fs=%lx gs=%lx sp=%lx hds=%s stack=%s "
          "iopl=%x if=%x\n",
          out[S_AX] & 0xffff, out[S_BX] & 0xffff, out[S_CX] & 0xffff, (unsigned)out[S_FL] >> 17 & 1,
          out[S_CS], out[S_SS], out[S_DS], out[S_ES], out[S_FS], out[S_GS], out[S_SP],
          out[S_HSS] == DATA0 ? "ok" : "bad", out[S_HSP] == ESP0 ? "esp0" : "other",
          (unsigned)out[S_FL] >> 12 & 3, (unsigned)out[S_FL] >> 9 & 1);
    fresh();
}

static void v86_mode(void)
{
    *(u32 *)0x20004 = 0xcafe1234;
    for (unsigned iopl = 0; iopl < 4; iopl += 3) {
        static const char *const names[] = {"ud2", "int",  "int3",  "into",   "iret", "pushf", "popf",
                                            "cli", "sti",  "hlt",   "clts",   "cr0",  "lgdt",  "str",
                                            "in",  "load", "limit", "pushfd", "far",  "arpl",  "int1"};
        const u8 *code[] = {SNIP16("movw 4, %%ax\nud2"),
                            SNIP16("int $0x20"),
                            SNIP16("int3"),
                            SNIP16("movw $0x7fff, %%ax\nincw %%ax\ninto"),
                            SNIP16("call 9f\n9:popw %%dx\naddw $1f - 9b, %%dx\npushw $0x3002\npushw "
                                   "%%cs\npushw %%dx\niretw\nud2\n1:ud2"),
                            SNIP16("pushfw\npopw %%bx\nud2"),
                            SNIP16("pushw $0x0202\npopfw\npushfw\npopw %%bx\nud2"),
                            SNIP16("cli\nud2"),
                            SNIP16("sti\nud2"),
                            SNIP16("hlt"),
                            SNIP16("clts"),
                            SNIP16("movl %%cr0, %%eax"),
                            SNIP16("lgdt 0"),
                            SNIP16("str %%ax"),
                            SNIP16("inb $0x80, %%al"),
                            SNIP16("movw $0x2000, %%ax\nmovw %%ax, %%es\nmovw %%es:4, %%bx\nud2"),
                            SNIP16("movw 0xffff, %%ax"),
                            SNIP16("pushfl\npopl %%ebx\nud2"),
                            SNIP16("call 9f\n9:popw %%dx\naddw $1f - 9b, %%dx\naddw $0x1000, %%dx\nmovw "
                                   "%%dx, 0x200\nmovw $0x700, 0x202\nljmpw *0x200\n1:ud2"),
                            SNIP16("arpl %%ax, %%bx"),
                            SNIP16("int $0x21")};
        for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
            print("v86.iopl%u.%s", iopl, names[i]);
            v86_more("", code[i], iopl);
        }
    }
    in[S_CR3] = (u64)pd32;
    in[S_CR4] = 0x610;
    in[S_CR0] = 0x80000033;
    v86_more("v86.paging", SNIP16("movw 4, %%ax\nud2"), 3);
    in[S_CR3] = (u64)pd32;
    in[S_CR4] = 0x610;
    in[S_CR0] = 0x80000033;
    pd32[0] &= ~4u;
    v86_more("v86.paging.supervisor", SNIP16("movw 4, %%ax\nud2"), 3);
    pd32[0] |= 4;
    in[S_FL] |= 0x100;
    v86_more("v86.step", SNIP16("nop\nnop\nud2"), 3);
}

static void paging_modes(void)
{
    static const struct {
        const char *name;
        u64 cr0, cr4;
        int pae;
    } modes[] = {{"off", 0x33, 0x600, 0},
                 {"pse", 0x80010033, 0x610, 0},
                 {"pse.nowp", 0x80000033, 0x610, 0},
                 {"pt", 0x80010033, 0x600, 0},
                 {"pae", 0x80010033, 0x620, 1}};
    const u8 *code[] = {SNIP32("movl (%%esi), %%ebx"), SNIP32("movl %%eax, (%%esi)"), SNIP32("jmp *%%esi")};
    static u32 one[1024] __attribute__((aligned(4096)));
    bool with_pae = feature("pae", !no_pae && has(1, 3, 6));
    for (unsigned m = 0; m < (with_pae ? 5 : 4); m++)
        for (unsigned kind = 0; kind < 5; kind++) {
            static const char *const kinds[] = {"w_u", "r_u", "w_s", "absent", "rsvd"};
            static const u32 bits[] = {7, 5, 3, 6, 7};
            if (!m && kind)
                break;
            print("%smode.%s.%s:", modes[m].pae ? "?pae " : "", modes[m].name, kinds[kind]);
            for (unsigned ring = 0; ring < 2; ring++)
                for (unsigned i = 0; i < 3; i++) {
                    /* the page at PAGES, through whatever the mode has */
                    u32 pse2 = pd32[2];
                    u64 pae4 = pae_pd[4];
                    *(u16 *)PAGES = 0x20cd;
                    if (m == 3) {
                        for (unsigned p = 0; p < 1024; p++)
                            pt32[p] = p << 12 | 7;
                        for (unsigned p = 0; p < 1024; p++)
                            one[p] = (PAGES + (p << 12)) | 7;
                        one[0] = PAGES | bits[kind];
                        static u32 top[1024] __attribute__((aligned(4096)));
                        top[0] = (u32)(u64)pt32 | 7;
                        top[1] = (u32)(u64)pt32 | 7;
                        static u32 second[1024] __attribute__((aligned(4096)));
                        for (unsigned p = 0; p < 1024; p++)
                            second[p] = (0x400000 + (p << 12)) | 7;
                        top[1] = (u32)(u64)second | 7;
                        top[2] = (u32)(u64)one | 7;
                        in[S_CR3] = (u64)top;
                    } else if (modes[m].pae) {
                        pae_pd[4] = PAGES | 0x80 | bits[kind] | (kind == 4 ? 1ull << 51 : 0);
                        in[S_CR3] = (u64)pae;
                    } else {
                        pd32[2] = PAGES | 0x80 | bits[kind] | (kind == 4 ? 1u << 21 : 0);
                        in[S_CR3] = (u64)pd32;
                    }
                    in[S_CR0] = modes[m].cr0;
                    in[S_CR4] = modes[m].cr4;
                    in[S_SI] = PAGES;
                    in[S_AX] = 0x20cd;
                    start32(code[i], ring * 3);
                    if (out[S_VEC] == 0x20)
                        print(" ok");
                    else
                        print(" %lx(%lx)@%lx", out[S_VEC], out[S_ERR], out[S_CR2]);
                    pd32[2] = pse2;
                    pae_pd[4] = pae4;
                    fresh();
                }
            print("\n");
        }
    if (!with_pae)
        return;
    /* no execution in PAE mode, EFER.NXE being on */
    pae_pd[4] |= 1ull << 63;
    in[S_CR0] = 0x80010033;
    in[S_CR4] = 0x620;
    in[S_CR3] = (u64)pae;
    in[S_SI] = PAGES;
    start32(code[2], 0);
    print("?pae mode.pae.nx: vec=%lx err=%lx\n", out[S_VEC], out[S_ERR]);
    pae_pd[4] &= ~(1ull << 63);
    fresh();
    in[S_CR0] = 0x80010033;
    in[S_CR4] = 0x620;
    in[S_CR3] = (u64)pae;
    start32(SNIP32("movl $3, pae+8\nmovl %%cr3, %%eax\nmovl %%eax, %%cr3"), 0);
    show("?pae mode.pae.pdpte_rsvd");
    print("\n");
    pae[1] = ((u64)pae_pd + 4096) | 1;
    fresh();
}

static void sixteen(void)
{
    /* a 16-bit code segment in protected mode, entered and left by far jumps */
    const u8 *inner =
        SNIP16("movw $0x1234, %%ax\nmovl $0x89abcdef, %%ebx\npushw %%ax\npopw %%cx\nljmpl $0x18, $pm_back");
    (void)inner;
    in[S_AX] = LOWADDR(inner);
    in[S_SS] = DATA16;
    in[S_SP] = 0xfff0;
    start32(SNIP32("pushw $0x38\npushw %%ax\nlretw\n.globl pm_back\npm_back:nop"), 0);
    print("pm16: vec=%lx ax=%lx bx=%lx cx=%lx cs=%lx sp=%lx\n", out[S_VEC], out[S_AX] & 0xffff, out[S_BX],
          out[S_CX], out[S_CS], out[S_SP]);
    fresh();
    /* SP alone moves with a 16-bit stack */
    in[S_SS] = DATA16;
    in[S_SP] = 0x0000fff0;
    start32(
        SNIP32("movl $0x12340004, %%esp\npushl %%eax\npushl %%eax\nmovl %%esp, %%ebx\nmovl $0xfff0, %%esp"),
        0);
    print("pm16.stack: vec=%lx esp=%lx\n", out[S_VEC], out[S_BX]);
    fresh();
    /* a 16-bit interrupt gate */
    const u8 *handler = SNIP16("popw %%cx\npopw %%dx\npopw %%bx\nljmpl $0x18, $pm_back2");
    u64 saved = idt32[0x21];
    idt32[0x21] = LOWADDR(handler) | CODE16 << 16 | 0x8600ull << 32;
    start32(SNIP32("int $0x21\n.globl pm_back2\npm_back2:nop"), 0);
    print("pm16.gate: vec=%lx cs=%lx fl=%lx\n", out[S_VEC], out[S_DX] & 0xffff, out[S_BX] & 0xffff);
    idt32[0x21] = saved;
    fresh();
}

void group_modes(void)
{
    real_mode();
    v86_mode();
    sixteen();
    paging_modes();
    /* and round again */
    t0("modes.long", SNIP("movq %%rax, %%rbx"));
    real("modes.real", SNIP16("nop"));
    p0("modes.protected", SNIP32("nop"));
    tc0("modes.compat", SNIP32("nop"));
    t3("modes.long3", SNIP("nop"));
}
