// SPDX-License-Identifier: Apache-2.0
/* The x87. Its state is put into the host's x87 as FRSTOR's image, the instruction runs there from a table of
 * stubs, and FNSAVE takes the state out: both are non-waiting, so an unmasked exception shows as ES in the
 * status word and the next waiting instruction reports it, as on the hardware. Memory operands are copied
 * through a buffer. */
#include <string.h>

#include "hv/cpu/soft/x_simd.h"
#include "proto/wire.h"

/* Every register form (D8 C0 to DF FF), four bytes each, and every memory form with the operand at (%rdi). */
extern const uint8_t soft_x87_registers[], soft_x87_memory[];
__asm__(".pushsection .text\n"
        ".balign 16\n"
        "soft_x87_registers:\n"
        ".set op, 0xd8\n.rept 8\n.set m, 0xc0\n.rept 64\n.byte op, m, 0xc3, 0x90\n.set m, m + 1\n.endr\n.set "
        "op, op + 1\n.endr\n"
        "soft_x87_memory:\n"
        ".set op, 0xd8\n.rept 8\n.set m, 7\n.rept 8\n.byte op, m, 0xc3, 0x90\n.set m, m + 8\n.endr\n.set op, "
        "op + 1\n.endr\n"
        ".popsection\n");

#define IMAGE 108

/* The FTW of FNSAVE has two bits a register: 11 is empty; the others are worked out by FRSTOR's own reader,
 * so that any of them will do. */
static void image_out(const struct soft_fpu *f, uint8_t p[IMAGE])
{
    unsigned top = f->fsw >> 11 & 7;
    uint16_t tags = 0;
    for (unsigned i = 0; i < 8; i++)
        if (!(f->ftw >> i & 1))
            tags |= (uint16_t)(3u << (2 * i));
    memset(p, 0, 28);
    fy_put32(p, f->fcw | 0xffff0000u);
    /* ES as the exceptions say: processors differ in whether they believe a loaded ES. */
    uint32_t fsw = (f->fsw & ~0x8080u) | (simd_x87_pending(f) ? 0x8080u : 0);
    fy_put32(p + 4, fsw | 0xffff0000u);
    fy_put32(p + 8, tags | 0xffff0000u);
    for (unsigned i = 0; i < 8; i++)
        memcpy(p + 28 + 10 * i, f->st[(top + i) & 7], 10);
}

static void image_in(struct soft_fpu *f, const uint8_t p[IMAGE])
{
    f->fcw = fy_get16(p);
    f->fsw = fy_get16(p + 4);
    uint16_t tags = fy_get16(p + 8);
    unsigned top = f->fsw >> 11 & 7;
    f->ftw = 0;
    for (unsigned i = 0; i < 8; i++)
        if ((tags >> (2 * i) & 3) != 3)
            f->ftw |= (uint8_t)(1u << i);
    for (unsigned i = 0; i < 8; i++)
        memcpy(f->st[(top + i) & 7], p + 28 + 10 * i, 10);
}

/* Run a stub. flags: those that SAHF knows, in and out (FCMOV, FCOMI). */
static void run(struct soft_fpu *f, const uint8_t *stub, void *operand, uint32_t *flags)
{
    uint8_t image[IMAGE];
    uint64_t rdi = (uintptr_t)operand;
    uint64_t rax = (uint64_t)((*flags & 0xd5) | 2) << 8;
    image_out(f, image);
    /* 128: the compiler's red zone lies below the stack pointer, where the call would write. No operand may
     * be addressed by the stack pointer, then. */
    __asm__ volatile("sub $128, %%rsp\n\tfrstor (%[image])\n\tsahf\n\tcall *%[stub]\n\tlahf\n\t"
                     "fnsave (%[image])\n\tadd $128, %%rsp"
                     : "+D"(rdi), "+a"(rax)
                     : [stub] "r"(stub), [image] "r"(image)
                     : "memory", "cc", "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)");
    image_in(f, image);
    *flags = (uint32_t)(rax >> 8) & 0xd5;
}

/* Bytes of the memory operand of D8+i /reg; negative: written. 0: environments, dealt with apart. */
static const int operand_bytes[8][8] = {
    {4, 4, 4, 4, 4, 4, 4, 4},       {4, 0, -4, -4, 0, 2, 0, -2},     {4, 4, 4, 4, 4, 4, 4, 4},
    {4, -4, -4, -4, 0, 10, 0, -10}, {8, 8, 8, 8, 8, 8, 8, 8},        {8, -8, -8, -8, 0, 0, 0, -2},
    {2, 2, 2, 2, 2, 2, 2, 2},       {2, -2, -2, -2, 10, 8, -10, -8},
};

/* An image through the host's x87 and out again: reserved bits, ES and the full tag word as the hardware has
 * them. */
static void normalise(uint8_t image[IMAGE])
{
    __asm__ volatile("frstor (%0)\n\tfnsave (%0)"
                     :
                     : "r"(image)
                     : "memory", "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)");
}

static bool environment(struct soft_cpu *c, const struct soft_insn *in, unsigned reg)
{
    bool whole = in->opcode == 0xdd, store = reg == 6;
    bool narrow = in->size == 2;
    unsigned env = narrow ? 14 : 28, bytes = env + (whole ? 80 : 0);
    uint8_t image[IMAGE], mem[IMAGE];
    uint64_t lin;
    if (!soft_ea(c, in, bytes, store ? SOFT_WRITE : SOFT_READ, &lin))
        return false;
    if (!store) {
        if (!soft_probe(c, lin, bytes, SOFT_READ))
            return false;
        for (unsigned i = 0; i < bytes; i++)
            if (!soft_ld8(c, lin + i, &mem[i]))
                return false;
        image_out(&c->fpu, image);
        for (unsigned i = 0; i < 3; i++)
            fy_put32(image + 4 * i, fy_get16(mem + (narrow ? 2 : 4) * i) | 0xffff0000u);
        if (whole)
            memcpy(image + 28, mem + env, 80);
        else { /* the registers stay where they physically are, whatever TOP becomes */
            unsigned top = fy_get16(image + 4) >> 11 & 7;
            for (unsigned i = 0; i < 8; i++)
                memcpy(image + 28 + 10 * i, c->fpu.st[(top + i) & 7], 10);
        }
        normalise(image);
        image_in(&c->fpu, image);
        c->fpu.fip = narrow ? fy_get16(mem + 6) : fy_get32(mem + 12);
        c->fpu.fdp = narrow ? fy_get16(mem + 10) : fy_get32(mem + 20);
        c->fpu.fop = narrow ? 0 : fy_get16(mem + 18) & 0x7ff;
        c->fpu.fcs = fy_get16(mem + (narrow ? 8 : 16));
        c->fpu.fds = fy_get16(mem + (narrow ? 12 : 24));
        return true;
    }
    uint8_t host[IMAGE];
    image_out(&c->fpu, host);
    normalise(host);
    memset(mem, 0, sizeof mem);
    for (unsigned i = 0; i < 3; i++) {
        if (narrow)
            fy_put16(mem + 2 * i, fy_get16(host + 4 * i));
        else
            fy_put32(mem + 4 * i, fy_get16(host + 4 * i) | 0xffff0000u);
    }
    if (narrow) {
        fy_put16(mem + 6, (uint16_t)c->fpu.fip);
        fy_put16(mem + 8, c->fpu.fcs);
        fy_put16(mem + 10, (uint16_t)c->fpu.fdp);
        fy_put16(mem + 12, c->fpu.fds);
    } else {
        fy_put32(mem + 12, (uint32_t)c->fpu.fip);
        fy_put32(mem + 16, (uint32_t)c->fpu.fop << 16 | c->fpu.fcs);
        fy_put32(mem + 20, (uint32_t)c->fpu.fdp);
        fy_put32(mem + 24, 0xffff0000u | c->fpu.fds);
    }
    memcpy(mem + env, host + 28, 80);
    if (!soft_probe(c, lin, bytes, SOFT_WRITE))
        return false;
    for (unsigned i = 0; i < bytes; i++)
        if (!soft_st8(c, lin + i, mem[i]))
            return false;
    if (whole)
        /* As FNINIT: the registers are empty, not zero. */
        c->fpu.fcw = 0x37f, c->fpu.fsw = 0, c->fpu.ftw = 0, c->fpu.fop = 0, c->fpu.fip = 0, c->fpu.fdp = 0,
        c->fpu.fcs = 0, c->fpu.fds = 0;
    else
        c->fpu.fcw |= 0x3f, c->fpu.fsw &= (uint16_t)~0x8080;
    return true;
}

static bool memory_form(struct soft_cpu *c, const struct soft_insn *in)
{
    unsigned row = in->opcode - 0xd8u, reg = in->modrm >> 3 & 7;
    int bytes = operand_bytes[row & 7][reg];
    unsigned n = bytes < 0 ? (unsigned)-bytes : (unsigned)bytes;
    uint8_t buf[32] = {0}; /* room for the widest copy the compiler may think of */
    uint64_t lin;
    uint32_t flags = 0;
    bool control = (row == 1 && reg >= 4) || (row == 5 && reg >= 4);
    bool waits = !(row == 1 && reg >= 6) && !(row == 5 && reg >= 6);
    if (!simd_x87_ok(c, waits))
        return false;
    if (!bytes)
        return environment(c, in, reg);
    if (!soft_ea(c, in, n, bytes < 0 ? SOFT_WRITE : SOFT_READ, &lin) ||
        (bytes > 0 && !soft_ld(c, lin, n, buf)) || (bytes < 0 && !soft_probe(c, lin, n, SOFT_WRITE)))
        return false;
    struct soft_fpu was = c->fpu;
    run(&c->fpu, soft_x87_memory + 4 * (row * 8 + reg), buf, &flags);
    /* A store whose unmasked exception (invalid, overflow, underflow) keeps it from storing leaves memory
     * alone. */
    bool stored = bytes < 0 && (control || !(~c->fpu.fcw & c->fpu.fsw & 0x19));
    if (stored && !soft_st(c, lin, n, buf)) {
        c->fpu = was;
        return false;
    }
    if (!control) {
        c->fpu.fip = soft_rip(c, in);
        c->fpu.fcs = c->seg[SOFT_CS].sel;
        c->fpu.fdp = in->ea & SOFT_EA_SEG ? lin - c->seg[in->seg].base : lin;
        c->fpu.fds = c->seg[in->seg].sel;
        c->fpu.fop = (uint16_t)((in->opcode & 7) << 8 | in->modrm);
    }
    return true;
}

SIMD_HANDLER(x87)
{
    if (in->flags & SOFT_I_MEM)
        return memory_form(c, in);
    unsigned at = (in->opcode & 7u) * 64 + (in->modrm & 63u);
    bool fnstsw = in->opcode == 0xdf && in->modrm == 0xe0;
    bool control = fnstsw || (in->opcode == 0xdb && in->modrm >= 0xe0 && in->modrm <= 0xe4);
    if (!simd_x87_ok(c, !control))
        return false;
    if (fnstsw) {
        c->gpr[SOFT_RAX] = (c->gpr[SOFT_RAX] & ~0xffffull) | c->fpu.fsw;
        return true;
    }
    if (in->opcode == 0xdb && in->modrm == 0xe3) /* FNINIT: the rest is as FRSTOR and FNSAVE have it */
        c->fpu.fip = c->fpu.fdp = c->fpu.fop = c->fpu.fcs = c->fpu.fds = 0;
    bool cmov = in->opcode == 0xda || (in->opcode == 0xdb && in->modrm < 0xe0);
    bool comi = (in->opcode == 0xdb || in->opcode == 0xdf) && in->modrm >= 0xe8 && in->modrm < 0xf8;
    /* A comparison to flags clears SF and AF where it sets them at all: not on each processor when an
     * unmasked exception comes of it. */
    uint32_t flags = cmov ? soft_cc_get(&c->cc) : SOFT_FL_S | SOFT_FL_A;
    run(&c->fpu, soft_x87_registers + 4 * at, NULL, &flags);
    if (comi && !(flags & SOFT_FL_S))
        soft_cc_set(&c->cc, flags);
    if (!control) {
        c->fpu.fip = soft_rip(c, in);
        c->fpu.fcs = c->seg[SOFT_CS].sel;
        c->fpu.fop = (uint16_t)((in->opcode & 7) << 8 | in->modrm);
    }
    return true;
}

SIMD_HANDLER(fwait)
{
    if ((c->cr0 & (SOFT_CR0_MP | SOFT_CR0_TS)) == (SOFT_CR0_MP | SOFT_CR0_TS))
        soft_exc(c, SOFT_NM);
    else if (simd_x87_pending(&c->fpu))
        soft_exc(c, SOFT_MF);
    else
        return true;
    return false;
}
