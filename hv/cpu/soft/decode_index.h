// SPDX-License-Identifier: Apache-2.0
/* The opcode table, arranged for the decoder. Private to decode*.c and their tests. */
#ifndef FERRY_SOFT_DECODE_INDEX_H
#define FERRY_SOFT_DECODE_INDEX_H

#include "hv/cpu/soft/optable.h"

/* What an instruction is, one bit of each group; a candidate holds all that it takes. */
#define SOFT_C_NONE 0x0001u /* mandatory prefix; F2 and F3 go before 66 */
#define SOFT_C_66 0x0002u
#define SOFT_C_F3 0x0004u
#define SOFT_C_F2 0x0008u
#define SOFT_C_16 0x0010u /* code size */
#define SOFT_C_32 0x0020u
#define SOFT_C_64 0x0040u
#define SOFT_C_MEM 0x0080u /* ModRM.mod; without ModRM: REG */
#define SOFT_C_REG 0x0100u
#define SOFT_C_W0 0x0200u
#define SOFT_C_W1 0x0400u
#define SOFT_C_L0 0x0800u
#define SOFT_C_L1 0x1000u

/* One row, as far as an instruction is compared with it. */
struct soft_candidate {
    uint16_t takes;  /* SOFT_C_* */
    uint8_t ext, rm; /* sets of ModRM.reg and ModRM.rm (without REX); no ModRM: bit 0, and REX.B */
    uint16_t row;
    uint8_t feature;
};

struct soft_list {
    uint16_t start; /* in candidates, or in split when that is set */
    uint8_t count;  /* 0: #UD */
    bool modrm, split;
};

/* Operand sizes: fixed ones by their bytes. */
enum { SOFT_SIZE_V = 16, SOFT_SIZE_Z, SOFT_SIZE_Y };

enum soft_imm_kind {
    SOFT_IMM_NONE,
    SOFT_IMM_B,  /* a byte, zero-extended */
    SOFT_IMM_SB, /* a byte, sign-extended; also Jb */
    SOFT_IMM_W,
    SOFT_IMM_WB, /* ENTER */
    SOFT_IMM_Z,  /* 2 or 4 bytes, sign-extended; also Jz */
    SOFT_IMM_V,  /* 2, 4 or 8 bytes */
    SOFT_IMM_FAR,
    SOFT_IMM_ONE, /* the count of D0 and D1: no byte */
    SOFT_IMM_L,   /* a byte, bits 7:4 a register */
    SOFT_IMM_MOFFS
};

/* soft_form.bits */
#define SOFT_FORM_PLUS_R 0x001u
#define SOFT_FORM_BYTE_REG 0x002u
#define SOFT_FORM_BYTE_RM 0x004u
#define SOFT_FORM_MMX_REG 0x008u
#define SOFT_FORM_MMX_RM 0x010u
#define SOFT_FORM_SREG 0x020u
#define SOFT_FORM_TO_SREG 0x040u
#define SOFT_FORM_CR 0x080u /* ModRM.mod is ignored */
#define SOFT_FORM_DR 0x100u /* likewise */
#define SOFT_FORM_VVVV 0x200u
#define SOFT_FORM_CC 0x400u
#define SOFT_FORM_STRING 0x800u /* addresses memory by itself: seg and ea are wanted */
#define SOFT_FORM_MODRM 0x1000u

/* The operands of a row, parsed. */
struct soft_form {
    uint16_t bits;
    uint8_t size; /* of the first integer operand; V where there is none */
    uint8_t imm;  /* enum soft_imm_kind */
};

#define SOFT_CANDIDATES_MAX 4096
#define SOFT_SPLITS_MAX 128
#define SOFT_ROWS_MAX 4096

struct soft_index {
    struct soft_list lists[SOFT_MAPS][256];
    struct soft_list split[SOFT_SPLITS_MAX][8]; /* by ModRM.reg */
    struct soft_candidate candidates[SOFT_CANDIDATES_MAX];
    struct soft_form forms[SOFT_ROWS_MAX];
    unsigned candidate_count, split_count;
    bool full; /* a limit above is too small: rows are missing (the unit test looks) */
};

/* Made at the first call. Any thread. */
const struct soft_index *soft_index_get(void);

#endif
