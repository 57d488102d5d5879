// SPDX-License-Identifier: Apache-2.0
/* The decoder by hand: every field of chosen instructions, what is #UD, what goes on, what is too long; and
 * the table against itself. test_soft_zydis.c compares in bulk. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "hv/cpu/soft/cpu.h"
#include "tests/unit/soft_bytes.h"

#define ALL (~0ull)
#define F(name) (1ull << SOFT_F_##name)

struct expected {
    enum soft_mode mode;
    const char *name, *operands, *bytes;
    unsigned len;
    struct soft_insn in; /* all but fn, row, len */
};

#define CASE(m, what, letters, text, ...)                                                                    \
    {                                                                                                        \
        .mode = SOFT_##m, .name = what, .operands = letters, .bytes = text, .len = sizeof text - 1, .in = {  \
            __VA_ARGS__                                                                                      \
        }                                                                                                    \
    }
#define NO_ADDRESS .base = 16, .index = 16, .seg = SOFT_DS
#define RM(r, r_at, m, m_at) .reg = r, .reg_at = r_at, .rm = m, .rm_at = m_at
#define REG(r) .reg = r, .reg_at = 8 * (r)
#define MEM(b, i, s, d, segment) .base = b, .index = i, .scale = s, .disp = d, .seg = SOFT_##segment
#define OLD_EA .ea = SOFT_EA_SEG | SOFT_EA_LEGACY | SOFT_EA_WRAP

static const struct expected cases[] = {
    /* operand sizes, high bytes, REX */
    CASE(64, "add", "Eb,Gb", "\x00\xe0", .opcode = 0x00, .modrm = 0xe0, .size = 1, .asize = 8, NO_ADDRESS,
         RM(4, 1, 0, 0)),
    CASE(64, "add", "Eb,Gb", "\x40\x00\xe0", .opcode = 0x00, .modrm = 0xe0, .size = 1, .asize = 8, NO_ADDRESS,
         RM(4, 32, 0, 0)),
    CASE(32, "mov", "Gb,Eb", "\x8a\xfd", .opcode = 0x8a, .modrm = 0xfd, .size = 1, .asize = 4, NO_ADDRESS,
         RM(7, 25, 5, 9)),
    CASE(64, "xor", "Gv,Ev", "\x66\x33\xc1", .opcode = 0x33, .modrm = 0xc1, .size = 2, .asize = 8, NO_ADDRESS,
         RM(0, 0, 1, 8)),
    CASE(64, "mov", "Ev,Gv", "\x66\x4d\x89\xc8", .opcode = 0x89, .modrm = 0xc8, .size = 8, .asize = 8,
         .flags = SOFT_I_REXW, NO_ADDRESS, RM(9, 72, 8, 64)),
    /* a REX that is not the last prefix is nothing */
    CASE(64, "mov", "Ev,Gv", "\x4d\x66\x89\xc8", .opcode = 0x89, .modrm = 0xc8, .size = 2, .asize = 8,
         NO_ADDRESS, RM(1, 8, 0, 0)),
    CASE(16, "mov", "Zv,Iv", "\xb8\x34\x92", .opcode = 0xb8, .size = 2, .asize = 2, .imm = 0x9234, NO_ADDRESS,
         REG(0)),
    CASE(64, "mov", "Zv,Iv", "\x49\xbf\x88\x77\x66\x55\x44\x33\x22\x91", .opcode = 0xbf, .size = 8,
         .asize = 8, .flags = SOFT_I_REXW, .imm = 0x9122334455667788, NO_ADDRESS, REG(15)),
    CASE(64, "mov", "Zb,Ib", "\xb7\xff", .opcode = 0xb7, .size = 1, .asize = 8, .imm = 0xff, NO_ADDRESS,
         .reg = 7, .reg_at = 25),
    CASE(64, "mov", "Ev,Iz", "\x48\xc7\xc0\xff\xff\xff\xff", .opcode = 0xc7, .modrm = 0xc0, .size = 8,
         .asize = 8, .flags = SOFT_I_REXW, .imm = ~0ull, NO_ADDRESS, RM(0, 0, 0, 0)),
    CASE(64, "sub", "Ev,Is", "\x83\xe8\x80", .opcode = 0x83, .modrm = 0xe8, .size = 4, .asize = 8,
         .imm = 0xffffffffffffff80, NO_ADDRESS, RM(5, 40, 0, 0)),
    CASE(64, "movzx", "Gv,Eb", "\x0f\xb6\xc4", .opcode = 0xb6, .modrm = 0xc4, .size = 4, .asize = 8,
         NO_ADDRESS, RM(0, 0, 4, 1)),
    CASE(64, "shl", "Ev,1", "\xd1\xf0", .opcode = 0xd1, .modrm = 0xf0, .size = 4, .asize = 8, .imm = 1,
         NO_ADDRESS, RM(6, 48, 0, 0)),
    /* addresses */
    CASE(64, "mov", "Gv,Ev", "\x8b\x44\x8d\xfc", .opcode = 0x8b, .modrm = 0x44, .size = 4, .asize = 8,
         .flags = SOFT_I_MEM, MEM(SOFT_RBP, SOFT_RCX, 2, -4, SS)),
    CASE(64, "mov", "Gv,Ev", "\x8b\x04\x24", .opcode = 0x8b, .modrm = 0x04, .size = 4, .asize = 8,
         .flags = SOFT_I_MEM, MEM(SOFT_RSP, 16, 0, 0, SS)),
    CASE(64, "mov", "Gv,Ev", "\x8b\x04\x25\x00\x00\x00\x80", .opcode = 0x8b, .modrm = 0x04, .size = 4,
         .asize = 8, .flags = SOFT_I_MEM, MEM(16, 16, 0, -0x80000000ll, DS)),
    CASE(64, "mov", "Gv,Ev", "\x4f\x8b\x3c\xe5\x10\x00\x00\x00", .opcode = 0x8b, .modrm = 0x3c, .size = 8,
         .asize = 8, .flags = SOFT_I_MEM | SOFT_I_REXW, MEM(16, 12, 3, 0x10, DS), REG(15)),
    CASE(64, "cmp", "Eb,Ib", "\x80\x3d\x00\x01\x00\x00\x07", .opcode = 0x80, .modrm = 0x3d, .size = 1,
         .asize = 8, .flags = SOFT_I_MEM, MEM(SOFT_GPR_BLOCK, 16, 0, 0x107, DS), .imm = 7, .reg = 7,
         .reg_at = 56),
    CASE(64, "mov", "Gv,Ev", "\x65\x48\x8b\x04\x25\x28\x00\x00\x00", .opcode = 0x8b, .modrm = 0x04, .size = 8,
         .asize = 8, .flags = SOFT_I_MEM | SOFT_I_REXW, MEM(16, 16, 0, 0x28, GS), .ea = SOFT_EA_SEG),
    CASE(64, "mov", "Gv,Ev", "\x2e\x36\x67\x8b\x03", .opcode = 0x8b, .modrm = 0x03, .size = 4, .asize = 4,
         .flags = SOFT_I_MEM, MEM(SOFT_RBX, 16, 0, 0, DS), .ea = SOFT_EA_WRAP),
    CASE(16, "mov", "Gv,Ev", "\x8b\x42\x80", .opcode = 0x8b, .modrm = 0x42, .size = 2, .asize = 2,
         .flags = SOFT_I_MEM, MEM(SOFT_RBP, SOFT_RSI, 0, -128, SS), OLD_EA),
    CASE(16, "mov", "Gv,Ev", "\x8b\x06\x00\x90", .opcode = 0x8b, .modrm = 0x06, .size = 2, .asize = 2,
         .flags = SOFT_I_MEM, MEM(16, 16, 0, -0x7000, DS), OLD_EA),
    CASE(16, "mov", "Gv,Ev", "\x66\x67\x26\x8b\x14\x85\x01\x00\x00\x00", .opcode = 0x8b, .modrm = 0x14,
         .size = 4, .asize = 4, .flags = SOFT_I_MEM, MEM(16, SOFT_RAX, 2, 1, ES), OLD_EA, REG(2)),
    CASE(32, "mov", "Gv,Ev", "\x64\x8b\x05\x10\x00\x00\x00", .opcode = 0x8b, .modrm = 0x05, .size = 4,
         .asize = 4, .flags = SOFT_I_MEM, MEM(16, 16, 0, 0x10, FS), OLD_EA),
    CASE(64, "mov_moffs_load", "rAX,Ov", "\xa1\x08\x00\x00\x00\x00\x00\x00\xff", .opcode = 0xa1, .size = 4,
         .asize = 8, .flags = SOFT_I_MEM, MEM(16, 16, 0, (int64_t)0xff00000000000008, DS)),
    CASE(32, "mov_moffs_store", "Ob,AL", "\x67\xa2\xfe\xff", .opcode = 0xa2, .size = 1, .asize = 2,
         .flags = SOFT_I_MEM, MEM(16, 16, 0, 0xfffe, DS), OLD_EA),
    CASE(64, "lea", "Gv,M", "\x48\x8d\x04\x09", .opcode = 0x8d, .modrm = 0x04, .size = 8, .asize = 8,
         .flags = SOFT_I_MEM | SOFT_I_REXW, MEM(SOFT_RCX, SOFT_RCX, 0, 0, DS)),
    /* stack and control flow */
    CASE(64, "push", "Zv", "\x41\x54", .opcode = 0x54, .size = 8, .asize = 8, NO_ADDRESS, REG(12)),
    CASE(64, "push", "Zv", "\x66\x54", .opcode = 0x54, .size = 2, .asize = 8, NO_ADDRESS, REG(4)),
    CASE(64, "push_imm", "Is", "\x6a\xff", .opcode = 0x6a, .size = 8, .asize = 8, .imm = ~0ull, NO_ADDRESS),
    CASE(64, "push_imm", "Iz", "\x66\x68\xff\x7f", .opcode = 0x68, .size = 2, .asize = 8, .imm = 0x7fff,
         NO_ADDRESS),
    CASE(64, "jmp_rel", "Jz", "\x66\xe9\xfe\xff\xff\xff", .opcode = 0xe9, .size = 8, .asize = 8,
         .imm = (uint64_t)-2, NO_ADDRESS),
    CASE(32, "jmp_rel", "Jz", "\x66\xe9\xfe\xff", .opcode = 0xe9, .size = 2, .asize = 4, .imm = (uint64_t)-2,
         NO_ADDRESS),
    CASE(64, "jle", "Jb", "\x7e\x05", .opcode = 0x7e, .size = 8, .asize = 8, .imm = 5, .cc = 14, NO_ADDRESS),
    CASE(64, "setb", "Eb", "\x40\x0f\x92\xc7", .opcode = 0x92, .modrm = 0xc7, .size = 1, .asize = 8, .cc = 2,
         NO_ADDRESS, RM(0, 0, 7, 56)),
    CASE(64, "loop", "Jb", "\x67\xe2\xfe", .opcode = 0xe2, .size = 8, .asize = 4, .imm = (uint64_t)-2,
         NO_ADDRESS),
    CASE(16, "jmp_far", "Ap", "\xea\x5b\xe0\x00\xf0", .opcode = 0xea, .size = 2, .asize = 2, .imm = 0xe05b,
         .imm2 = 0xf000, NO_ADDRESS),
    CASE(16, "jmp_far", "Ap", "\x66\xea\x00\x00\x01\x80\x08\x00", .opcode = 0xea, .size = 4, .asize = 2,
         .imm = 0x80010000, .imm2 = 8, NO_ADDRESS),
    CASE(64, "enter", "Iw,Ib", "\xc8\x10\x80\x1f", .opcode = 0xc8, .size = 8, .asize = 8, .imm = 0x8010,
         .imm2 = 0x1f, NO_ADDRESS),
    /* prefixes that mean something, and those that do not */
    CASE(64, "movs", "Yv,Xv", "\xf3\x48\xa5", .opcode = 0xa5, .size = 8, .asize = 8,
         .flags = SOFT_I_REP | SOFT_I_REXW, NO_ADDRESS),
    CASE(64, "scas", "AL,Yb", "\xf3\xf2\xae", .opcode = 0xae, .size = 1, .asize = 8, .flags = SOFT_I_REPNE,
         NO_ADDRESS),
    CASE(32, "lods", "AL,Xb", "\x2e\xac", .opcode = 0xac, .size = 1, .asize = 4, .base = 16, .index = 16,
         .seg = SOFT_CS, OLD_EA),
    CASE(64, "inc", "Ev", "\xf0\xff\x07", .opcode = 0xff, .modrm = 0x07, .size = 4, .asize = 8,
         .flags = SOFT_I_MEM | SOFT_I_LOCK, MEM(SOFT_RDI, 16, 0, 0, DS)),
    CASE(64, "nop", "", "\xf3\x90", .opcode = 0x90, .size = 4, .asize = 8, NO_ADDRESS),
    CASE(64, "xchg", "Zv,rAX", "\x41\x90", .opcode = 0x90, .size = 4, .asize = 8, NO_ADDRESS, REG(8)),
    CASE(64, "popcnt", "Gv,Ev", "\x66\xf3\x0f\xb8\xc1", .opcode = 0xb8, .modrm = 0xc1, .size = 2, .asize = 8,
         NO_ADDRESS, RM(0, 0, 1, 8)),
    CASE(64, "crc32", "Gv,Eb", "\xf2\x0f\x38\xf0\xc4", .opcode = 0xf0, .modrm = 0xc4, .size = 4, .asize = 8,
         NO_ADDRESS, RM(0, 0, 4, 1)),
    /* system */
    CASE(64, "mov_from_cr", "Rd,Cd", "\x44\x0f\x20\x00", .opcode = 0x20, .modrm = 0x00, .size = 8, .asize = 8,
         NO_ADDRESS, RM(8, 64, 0, 0)),
    CASE(16, "mov_to_cr", "Cd,Rd", "\x66\x0f\x22\xd8", .opcode = 0x22, .modrm = 0xd8, .size = 4, .asize = 2,
         NO_ADDRESS, RM(3, 24, 0, 0)),
    CASE(64, "mov_to_sreg", "Sw,Ew", "\x45\x8e\xe9", .opcode = 0x8e, .modrm = 0xe9, .size = 2, .asize = 8,
         NO_ADDRESS, RM(5, 40, 9, 72)),
    CASE(64, "lgdt", "Ms", "\x66\x0f\x01\x16", .opcode = 0x01, .modrm = 0x16, .size = 8, .asize = 8,
         .flags = SOFT_I_MEM, MEM(SOFT_RSI, 16, 0, 0, DS), REG(2)),
    CASE(64, "swapgs", "", "\x0f\x01\xf8", .opcode = 0x01, .modrm = 0xf8, .size = 4, .asize = 8, NO_ADDRESS,
         RM(7, 56, 0, 0)),
    CASE(64, "cmpxchg16b", "Mdq", "\xf0\x48\x0f\xc7\x0e", .opcode = 0xc7, .modrm = 0x0e, .size = 8,
         .asize = 8, .flags = SOFT_I_MEM | SOFT_I_LOCK | SOFT_I_REXW, MEM(SOFT_RSI, 16, 0, 0, DS), REG(1)),
    /* x87, MMX, SSE, VEX */
    CASE(64, "fadd", "ST0,STi", "\x41\xd8\xc3", .opcode = 0xd8, .modrm = 0xc3, .size = 4, .asize = 8,
         NO_ADDRESS, RM(0, 0, 3, 24)),
    CASE(64, "paddb", "Pq,Qq", "\x45\x0f\xfc\xca", .opcode = 0xfc, .modrm = 0xca, .size = 4, .asize = 8,
         NO_ADDRESS, RM(1, 8, 2, 16)),
    CASE(64, "movss", "Vss,Wss", "\x66\xf3\x44\x0f\x10\xc9", .opcode = 0x10, .modrm = 0xc9, .size = 4,
         .asize = 8, NO_ADDRESS, RM(9, 72, 1, 8)),
    CASE(64, "movq", "Vdq,Ey", "\x66\x48\x0f\x6e\xc8", .opcode = 0x6e, .modrm = 0xc8, .size = 8, .asize = 8,
         .flags = SOFT_I_REXW, NO_ADDRESS, RM(1, 8, 0, 0)),
    CASE(64, "vpaddd", "Vx,Hx,Wx", "\xc4\x41\x35\xfe\xc2", .opcode = 0xfe, .modrm = 0xc2, .size = 4,
         .asize = 8, .flags = SOFT_I_VEX | SOFT_I_VL256, .vvvv = 9, NO_ADDRESS, RM(8, 64, 10, 80)),
    CASE(32, "vpaddd", "Vx,Hx,Wx", "\xc5\xe9\xfe\x03", .opcode = 0xfe, .modrm = 0x03, .size = 4, .asize = 4,
         .flags = SOFT_I_VEX | SOFT_I_MEM, .vvvv = 2, MEM(SOFT_RBX, 16, 0, 0, DS), OLD_EA),
    CASE(32, "lds", "Gz,Mp", "\xc5\x03", .opcode = 0xc5, .modrm = 0x03, .size = 4, .asize = 4,
         .flags = SOFT_I_MEM, MEM(SOFT_RBX, 16, 0, 0, DS), OLD_EA),
    CASE(32, "bound", "Gv,Ma", "\x62\x03", .opcode = 0x62, .modrm = 0x03, .size = 4, .asize = 4,
         .flags = SOFT_I_MEM, MEM(SOFT_RBX, 16, 0, 0, DS), OLD_EA),
    CASE(64, "vblendvps", "Vx,Hx,Wx,Lx", "\xc4\xe3\x71\x4a\xc2\xc0", .opcode = 0x4a, .modrm = 0xc2, .size = 4,
         .asize = 8, .flags = SOFT_I_VEX, .vvvv = 1, .imm = 0xc0, .imm2 = 12, NO_ADDRESS, RM(0, 0, 2, 16)),
    CASE(64, "vpgatherdd", "Vx,Md,Hx", "\xc4\xe2\x71\x90\x04\xa3", .opcode = 0x90, .modrm = 0x04, .size = 4,
         .asize = 8, .flags = SOFT_I_VEX | SOFT_I_MEM, .vvvv = 1, MEM(SOFT_RBX, 4, 2, 0, DS)),
    CASE(64, "andn", "Gy,By,Ey", "\xc4\xe2\xf8\xf2\xc1", .opcode = 0xf2, .modrm = 0xc1, .size = 8, .asize = 8,
         .flags = SOFT_I_VEX | SOFT_I_REXW, NO_ADDRESS, RM(0, 0, 1, 8)),
};

#define SAME(field) assert_int_equal(in.field, x->in.field)

static void fields(void **state)
{
    (void)state;
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct expected *x = &cases[i];
        struct soft_insn in;
        int len = soft_decode((const uint8_t *)x->bytes, x->len, x->mode, ALL, &in);
        if (len > 0 && (strcmp(soft_rows[in.row].name, x->name) != 0 ||
                        strcmp(soft_rows[in.row].operands, x->operands) != 0))
            print_message("case %u: %s %s, expected %s %s\n", i, soft_rows[in.row].name,
                          soft_rows[in.row].operands, x->name, x->operands);
        assert_int_equal(len, x->len);
        assert_string_equal(soft_rows[in.row].name, x->name);
        assert_string_equal(soft_rows[in.row].operands, x->operands);
        SAME(disp);
        SAME(imm);
        SAME(imm2);
        SAME(off);
        SAME(size);
        SAME(asize);
        SAME(flags);
        SAME(ea);
        SAME(seg);
        SAME(base);
        SAME(index);
        SAME(scale);
        SAME(reg);
        SAME(rm);
        SAME(reg_at);
        SAME(rm_at);
        SAME(vvvv);
        SAME(cc);
        SAME(opcode);
        SAME(modrm);
        assert_null(in.fn);
        assert_int_equal(in.len, len);
        for (unsigned n = 0; n < x->len; n++)
            assert_int_equal(soft_decode((const uint8_t *)x->bytes, n, x->mode, ALL, &in), SOFT_DECODE_MORE);
    }
}

static int try(const char *bytes, unsigned n, enum soft_mode mode, uint64_t features)
{
    struct soft_insn in;
    return soft_decode((const uint8_t *)bytes, n, mode, features, &in);
}
#define TRY(text, mode, features) try(text, sizeof text - 1, mode, features)
#define IS_UD(text, mode) assert_int_equal(TRY(text, mode, ALL), SOFT_DECODE_UD)

static void undefined(void **state)
{
    (void)state;
    IS_UD("\x06", SOFT_64);                     /* PUSH ES */
    IS_UD("\x62\xf1\x7c\x48\x10\x00", SOFT_64); /* EVEX */
    IS_UD("\x62\xf1\x7c\x48\x10\x00", SOFT_32);
    IS_UD("\xf0\x90", SOFT_64);     /* LOCK NOP */
    IS_UD("\xf0\x01\xc0", SOFT_64); /* LOCK, no memory */
    IS_UD("\xf0\x03\x00", SOFT_64); /* LOCK, memory is the source */
    IS_UD("\xf0\x39\x00", SOFT_64); /* LOCK CMP */
    IS_UD("\x8d\xc0", SOFT_64);     /* LEA of a register */
    IS_UD("\x8e\xc8", SOFT_32);     /* MOV CS */
    IS_UD("\x8e\xf0", SOFT_32);     /* no segment register 6 */
    IS_UD("\x8c\xf8", SOFT_32);
    IS_UD("\x0f\x20\xc8", SOFT_32);         /* CR1 */
    IS_UD("\x44\x0f\x20\xc8", SOFT_64);     /* CR9 */
    IS_UD("\x44\x0f\x21\xc0", SOFT_64);     /* DR8 */
    IS_UD("\xd9\xd1", SOFT_32);             /* no FNOP */
    IS_UD("\x66\xc5\xf9\xfe\xc0", SOFT_64); /* 66, F2, F3, REX, LOCK before VEX */
    IS_UD("\xf2\xc5\xf9\xfe\xc0", SOFT_64);
    IS_UD("\xf3\xc5\xf9\xfe\xc0", SOFT_64);
    IS_UD("\x48\xc5\xf9\xfe\xc0", SOFT_64);
    IS_UD("\xf0\xc5\xf9\xfe\xc0", SOFT_64);
    IS_UD("\xc5\xf1\x6f\xc0", SOFT_64);             /* VMOVDQA: vvvv is not 1111b */
    IS_UD("\xc4\xe4\x79\x6f\xc0", SOFT_64);         /* VEX map 4 */
    IS_UD("\xc4\xe2\x71\x90\x03", SOFT_64);         /* gather without SIB */
    IS_UD("\xc4\xe2\x71\x90\x0c\xa3", SOFT_64);     /* gather: destination is the mask */
    IS_UD("\xc4\xe2\x71\x90\x04\x8b", SOFT_64);     /* gather: index is the mask */
    IS_UD("\x67\xc4\xe2\x71\x90\x04\xa3", SOFT_32); /* gather, 16-bit address */
    IS_UD("\x0f\x0a", SOFT_64);                     /* nothing */
    IS_UD("\x8f\xe8\x78\xc0\xc0\x01", SOFT_64);     /* XOP */
}

static void too_long(void **state)
{
    (void)state;
    /* 15 bytes are an instruction, 16 are not; prefixes alone neither. */
    assert_int_equal(TRY("\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x90", SOFT_64, ALL), 15);
    assert_int_equal(TRY("\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x90", SOFT_64, ALL),
                     SOFT_DECODE_GP);
    assert_int_equal(TRY("\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66", SOFT_64, ALL),
                     SOFT_DECODE_MORE);
    assert_int_equal(TRY("\x2e\x2e\x2e\x2e\x2e\x81\x84\x00\x78\x56\x34\x12\x78\x56\x34\x12", SOFT_32, ALL),
                     SOFT_DECODE_GP);
    assert_int_equal(TRY("\x2e\x2e\x2e\x2e\x81\x84\x00\x78\x56\x34\x12\x78\x56\x34\x12", SOFT_32, ALL), 15);
}

static void features(void **state)
{
    struct soft_insn in;
    (void)state;
    assert_int_equal(TRY("\xf3\x0f\xb8\xc1", SOFT_64, ALL & ~F(POPCNT)), SOFT_DECODE_UD);
    assert_int_equal(TRY("\x9f", SOFT_64, ALL & ~F(LAHF64)), SOFT_DECODE_UD);
    assert_int_equal(TRY("\x9f", SOFT_32, ALL & ~F(LAHF64)), 1);
    assert_int_equal(TRY("\xc5\xfd\xfe\xc0", SOFT_64, ALL & ~F(AVX2)), SOFT_DECODE_UD);
    assert_int_equal(TRY("\xc5\xf9\xfe\xc0", SOFT_64, ALL & ~F(AVX2)), 4);
    /* F3 BSF and F3 BSR are older than TZCNT and LZCNT */
    assert_int_equal(soft_decode((const uint8_t *)"\xf3\x0f\xbc\xc1", 4, SOFT_64, ALL & ~F(BMI1), &in), 4);
    assert_string_equal(soft_rows[in.row].name, "bsf");
    assert_int_equal(soft_decode((const uint8_t *)"\xf3\x0f\xbc\xc1", 4, SOFT_64, ALL, &in), 4);
    assert_string_equal(soft_rows[in.row].name, "tzcnt");
    assert_int_equal(soft_decode((const uint8_t *)"\xf3\x0f\xbd\xc1", 4, SOFT_64, ALL & ~F(LZCNT), &in), 4);
    assert_string_equal(soft_rows[in.row].name, "bsr");
}

static unsigned reads_of(const char *bytes, unsigned n)
{
    struct soft_insn in;
    assert_int_equal(soft_decode((const uint8_t *)bytes, n, SOFT_64, ALL, &in), n);
    return soft_insn_reads(&in);
}

static void flags_read(void **state)
{
    (void)state;
    assert_int_equal(reads_of("\xc1\xe0\x05", 3), 0);          /* SHL by 5 */
    assert_int_equal(reads_of("\xc1\xe0\x20", 3), SOFT_ARITH); /* by 32, which is 0 */
    assert_int_equal(reads_of("\x48\xc1\xe0\x20", 4), 0);      /* 64 bits: by 32 */
    assert_int_equal(reads_of("\xc1\xd0\x05", 3), SOFT_CF);    /* RCL */
    assert_int_equal(reads_of("\xd3\xe0", 2), SOFT_ARITH);     /* by CL */
    assert_int_equal(reads_of("\x0f\xa4\xc8\x05", 4), 0);      /* SHLD */
    assert_int_equal(reads_of("\xa6", 1), 0);                  /* CMPS */
    assert_int_equal(reads_of("\xf3\xa6", 2), SOFT_ARITH);     /* may run no time at all */
    assert_int_equal(reads_of("\x72\x00", 2), SOFT_CF);        /* JB */
    assert_int_equal(reads_of("\x0f\x4f\xc0", 3), SOFT_ZF | SOFT_SF | SOFT_OF);
}

/* ---- the table against itself ---- */

/* Two rows of one opcode may both fit an instruction only where one fits a part of what the other fits, and
 * then that part's comes first. */
static bool ambiguous(const struct soft_candidate *a, const struct soft_candidate *b)
{
    unsigned takes = a->takes & b->takes;
    bool meet = takes & (SOFT_C_NONE | SOFT_C_66 | SOFT_C_F3 | SOFT_C_F2) &&
                takes & (SOFT_C_16 | SOFT_C_32 | SOFT_C_64) && takes & (SOFT_C_MEM | SOFT_C_REG) &&
                takes & (SOFT_C_W0 | SOFT_C_W1) && takes & (SOFT_C_L0 | SOFT_C_L1) && a->ext & b->ext &&
                a->rm & b->rm;
    if (!meet)
        return false;
    bool inside = takes == a->takes && !(a->ext & ~b->ext) && !(a->rm & ~b->rm);
    bool same = a->takes == b->takes && a->ext == b->ext && a->rm == b->rm;
    return !inside || same;
}

static void table(void **state)
{
    const struct soft_index *t = soft_index_get();
    (void)state;
    assert_false(t->full);
    for (unsigned m = 0; m < SOFT_MAPS; m++)
        for (unsigned op = 0; op < 256; op++)
            for (unsigned reg = 0; reg < (t->lists[m][op].split ? 8u : 1u); reg++) {
                const struct soft_list *l = &t->lists[m][op];
                if (l->split)
                    l = &t->split[l->start][reg];
                const struct soft_candidate *c = &t->candidates[l->start];
                for (unsigned i = 0; i < l->count; i++) {
                    /* An opcode has a ModRM byte or has none. */
                    assert_int_equal((t->forms[c[i].row].bits & SOFT_FORM_MODRM) != 0, t->lists[m][op].modrm);
                    for (unsigned k = i + 1; k < l->count; k++)
                        if (ambiguous(&c[i], &c[k])) {
                            print_message("%s %s and %s %s overlap\n", soft_rows[c[i].row].name,
                                          soft_rows[c[i].row].operands, soft_rows[c[k].row].name,
                                          soft_rows[c[k].row].operands);
                            fail();
                        }
                }
            }
}

static void row_fields(void **state)
{
    (void)state;
    for (unsigned i = 0; i < soft_row_count; i++) {
        const struct soft_row *r = &soft_rows[i];
        const char *o = r->operands;
        bool memory = strchr("EMQW", o[0]) && *o;
        assert_true(r->map < SOFT_MAPS && r->feature < SOFT_F_COUNT && r->mod <= 2 && r->vex_w <= 2 &&
                    r->vex_l <= 2);
        assert_true(!(r->flags & SOFT_R_LOCK) || memory);
        assert_false(r->flags & SOFT_R_NO64 && r->flags & (SOFT_R_ONLY64 | SOFT_R_D64 | SOFT_R_F64));
        assert_true(!(r->flags & (SOFT_R_X87 | SOFT_R_SIMD | SOFT_R_END)) || r->flags & SOFT_R_FAULTS);
        assert_int_equal((r->reads | r->writes | r->undefined) & ~SOFT_ARITH, 0);
    }
}

/* Every row is what some bytes decode to, and the rows' own encodings do not go elsewhere unseen. */
static void reachable(void **state)
{
    static bool reached[SOFT_ROWS_MAX];
    struct sb_random r = {0x1dea};
    unsigned n = 0;
    (void)state;
    for (unsigned i = 0; i < soft_row_count; i++)
        for (unsigned k = 0; k < 300 && !reached[i]; k++) {
            uint8_t b[32];
            struct soft_insn in;
            enum soft_mode mode = (enum soft_mode)(sb_next(&r) % 3);
            for (unsigned j = 0; j < sizeof b; j++)
                b[j] = (uint8_t)sb_next(&r);
            sb_encode(&r, &soft_rows[i], mode, b);
            if (soft_decode(b, sizeof b, mode, ALL, &in) > 0)
                reached[in.row] = true;
        }
    for (unsigned i = 0; i < soft_row_count; i++) {
        if (reached[i])
            n++;
        else
            print_message("not reached: %s %s\n", soft_rows[i].name, soft_rows[i].operands);
    }
    print_message("rows reached: %u of %u\n", n, soft_row_count);
    assert_int_equal(n, soft_row_count);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields),     cmocka_unit_test(undefined),  cmocka_unit_test(too_long),
        cmocka_unit_test(features),   cmocka_unit_test(flags_read), cmocka_unit_test(table),
        cmocka_unit_test(row_fields), cmocka_unit_test(reachable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
