// SPDX-License-Identifier: Apache-2.0
/* SSE4.2 text comparison, and what else takes an immediate that the host's instruction wants encoded:
 * MPSADBW, PCLMULQDQ, AESKEYGENASSIST. */
#include "hv/cpu/soft/x_simd.h"

SIMD_IMM(pclmulqdq, 18, "pclmulqdq $simd_i, %xmm1, %xmm0");
SIMD_IMM(aeskeygenassist, 256, "aeskeygenassist $simd_i, %xmm1, %xmm0");
SIMD_IMM(mpsadbw, 8, "mpsadbw $simd_i, %xmm1, %xmm0");

SIMD_PAIR(pclmulqdq)
{
    return simd_run(c, in, SIMD_IMM_OP(pclmulqdq, in->imm & 0x11), 0, false);
}

SIMD_PAIR(aeskeygenassist)
{
    return simd_run(c, in, SIMD_IMM_OP(aeskeygenassist, in->imm & 0xff), 0, false);
}

/* Bits 2:0 are for the low lane, 5:3 for the high one. */
SIMD_PAIR(mpsadbw)
{
    union soft_vec room, a;
    if (!simd_ok(c, in))
        return false;
    const union soft_vec *b = simd_rm(c, in, simd_vl(in), simd_align(in), &room);
    if (!b)
        return false;
    a = c->ymm[simd_first(in)];
    SIMD_IMM_OP(mpsadbw, in->imm & 7)(&a.lane[0], &b->lane[0]);
    if (in->flags & SOFT_I_VL256)
        SIMD_IMM_OP(mpsadbw, in->imm >> 3 & 7)(&a.lane[1], &b->lane[1]);
    simd_put(c, in, in->reg, in->flags & SOFT_I_VL256, &a);
    return true;
}

/* Operands and results of a text comparison; offsets are known to the stubs. */
struct text {
    struct soft_lane a, b;
    uint64_t a_len, b_len; /* 32, 40: of the explicit forms */
    uint64_t index, flags; /* 48, 56 */
};
typedef void text_op(struct text *t);

/* 64 bytes each; bit 7 of the immediate means nothing. */
#define TEXT_STUBS(name)                                                                                     \
    __asm__(".pushsection .text\n.balign 64\nsimd_text_" #name ":\n.set simd_i, 0\n.rept 128\n.balign 64\n"  \
            "movdqu (%rdi), %xmm0\nmovdqu 16(%rdi), %xmm1\nmov 32(%rdi), %rax\nmov 40(%rdi), %rdx\n" #name   \
            " $simd_i, %xmm1, %xmm0\npushfq\npopq 56(%rdi)\nmov %rcx, 48(%rdi)\nmovdqu %xmm0, (%rdi)\nret\n" \
            ".set simd_i, simd_i + 1\n.endr\n.popsection\n");                                                \
    extern const uint8_t simd_text_##name[] __asm__("simd_text_" #name)
TEXT_STUBS(pcmpestrm);
TEXT_STUBS(pcmpestri);
TEXT_STUBS(pcmpistrm);
TEXT_STUBS(pcmpistri);

/* A length counts up to 16 elements, either side of zero; so the 32-bit form will do for 64 bits. */
static uint64_t length(uint64_t v, bool is64)
{
    int64_t n = is64 ? (int64_t)v : (int32_t)v;
    return (uint64_t)(n > 16 ? 16 : n < -16 ? -16 : n);
}

static bool text(struct soft_cpu *c, const struct soft_insn *in, const uint8_t *stubs, bool mask)
{
    union soft_vec room, r = {0};
    if (!simd_ok(c, in))
        return false;
    /* Unlike all others these want no alignment (SDM 2A, 4.1.2). */
    const union soft_vec *b = simd_rm(c, in, 16, 0, &room);
    if (!b)
        return false;
    bool is64 = in->flags & SOFT_I_REXW && c->mode == SOFT_64;
    struct text t = {.a = c->ymm[in->reg].lane[0],
                     .b = b->lane[0],
                     .a_len = length(c->gpr[SOFT_RAX], is64),
                     .b_len = length(c->gpr[SOFT_RDX], is64)};
    ((text_op *)(uintptr_t)(stubs + 64 * (in->imm & 0x7f)))(&t);
    if (mask) {
        r.lane[0] = t.a;
        simd_put(c, in, 0, false, &r);
    } else {
        c->gpr[SOFT_RCX] = (uint32_t)t.index;
    }
    soft_cc_set(&c->cc, (uint32_t)t.flags & (SOFT_FL_C | SOFT_FL_Z | SOFT_FL_S | SOFT_FL_O));
    return true;
}

SIMD_PAIR(pcmpestrm)
{
    return text(c, in, simd_text_pcmpestrm, true);
}

SIMD_PAIR(pcmpestri)
{
    return text(c, in, simd_text_pcmpestri, false);
}

SIMD_PAIR(pcmpistrm)
{
    return text(c, in, simd_text_pcmpistrm, true);
}

SIMD_PAIR(pcmpistri)
{
    return text(c, in, simd_text_pcmpistri, false);
}
