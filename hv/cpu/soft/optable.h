// SPDX-License-Identifier: Apache-2.0
/* The opcode table: one row an encoding. The decoder, the binding of handlers, the instruction generator of
 * the differential test and a later translator are all made from it. Sources: Intel SDM volume 2, appendix A;
 * AMD APM volume 3, appendix A. */
#ifndef FERRY_SOFT_OPTABLE_H
#define FERRY_SOFT_OPTABLE_H

#include "hv/cpu/soft/insn.h"

/* Opcode maps. Legacy and VEX maps are apart. */
enum soft_map { SOFT_M1, SOFT_M0F, SOFT_M0F38, SOFT_M0F3A, SOFT_V0F, SOFT_V0F38, SOFT_V0F3A, SOFT_MAPS };

/* soft_row.flags */
#define SOFT_R_LOCK 0x0001u   /* LOCK allowed with a memory destination */
#define SOFT_R_NO64 0x0002u   /* #UD in 64-bit mode */
#define SOFT_R_ONLY64 0x0004u /* #UD elsewhere */
#define SOFT_R_D64 0x0008u    /* operand size defaults to 64 in 64-bit mode (PUSH, POP, ...) */
#define SOFT_R_F64 0x0010u    /* operand size is 64 in 64-bit mode, 66 ignored (near branches) */
#define SOFT_R_END 0x0020u    /* ends a block: control flow, or a change of the machine's mode */
#define SOFT_R_PRIV 0x0040u   /* CPL 0 only (the handler checks; the generator skips it) */
#define SOFT_R_REP 0x0080u    /* string instruction: F3/F2 are REP */
#define SOFT_R_FAULTS 0x0100u /* may fault though no operand is memory (DIV, SYSCALL, IN, x87, ...) */
#define SOFT_R_BRANCH 0x0200u /* near relative branch: imm is its displacement */
#define SOFT_R_REP_OK 0x0400u /* reserved for rows that ignore F2/F3 where others would make it #UD */
#define SOFT_R_X87 0x0800u    /* x87 row */
#define SOFT_R_SIMD 0x1000u   /* MMX/SSE/AVX row */
#define SOFT_R_VSIB 0x2000u   /* gather: index is a vector register */
#define SOFT_R_NODIFF 0x4000u /* not for the differential test; the reason is in a comment */
#define SOFT_R_NOMEM 0x8000u  /* the memory operand is an address only, nothing is accessed (LEA, NOP) */

/* Arithmetic flags, as EFLAGS bits: what the row reads, writes, leaves undefined. */
#define SOFT_CF 0x001u
#define SOFT_PF 0x004u
#define SOFT_AF 0x010u
#define SOFT_ZF 0x040u
#define SOFT_SF 0x080u
#define SOFT_OF 0x800u
#define SOFT_ARITH (SOFT_CF | SOFT_PF | SOFT_AF | SOFT_ZF | SOFT_SF | SOFT_OF)

struct soft_row {
    const char *name;     /* mnemonic, lower case: "add", "vpaddd"; the handler's name may differ */
    const char *operands; /* Intel's appendix A letters: "Eb,Gb", "Gv,Ev", "Vx,Hx,Wx"; and: Is: a byte,
                           * sign-extended; Z: the register in the opcode's low three bits; Mt: 80 bits */
    uint8_t map;          /* enum soft_map */
    uint8_t opcode;
    uint8_t prefix;       /* mandatory: 0x66, 0xf3, 0xf2; 0: any or none (66 is the operand size); 1: none of
                           * the three; 2: neither F2 nor F3 (66 is the operand size) */
    int8_t ext;           /* ModRM.reg of a group, -1 any */
    int8_t rm;            /* ModRM.rm that a register form must have, -1 any; opcodes without ModRM: REX.B */
    uint8_t mod;          /* 0 any, 1 memory only, 2 register only */
    uint8_t feature;      /* enum soft_feature */
    uint8_t vex_w, vex_l; /* 0 or 1, 2: any; vex_w is REX.W in the legacy maps */
    uint16_t flags;
    uint16_t reads, writes, undefined; /* arithmetic flags. A flag may be both written and undefined (AND's
                                        * AF): its old value is gone; one that is undefined but not written
                                        * keeps its value on some CPUs (BSF's CF) */
    uint8_t exec;                      /* reserved */
    soft_fn handler; /* soft_x_NAME: right for every form of the row; binding may choose a faster one */
};

extern const struct soft_row soft_rows[];
extern const unsigned soft_row_count;

/* The arithmetic flags that this very instruction reads: soft_row.reads, but without what a shift only keeps
 * when its immediate count is 0, or a string instruction when REP runs 0 times. */
unsigned soft_insn_reads(const struct soft_insn *in);

#endif
