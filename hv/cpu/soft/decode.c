// SPDX-License-Identifier: Apache-2.0
/* Bytes to struct soft_insn. Prefixes, then the opcode's row, then the operands. Sources: Intel SDM volume 2,
 * chapter 2; where AMD's manual differs, Intel's way. */
#include "hv/cpu/soft/decode.h"

#include <string.h>

#include "hv/cpu/soft/cpu.h"
#include "hv/cpu/soft/decode_index.h"

#define REX_B 1u
#define REX_X 2u
#define REX_R 4u
#define REX_W 8u

#define NO_SEGMENT 0xff

/* Where the decoder is. All reads go through need(): at most `limit` bytes are looked at. */
struct cursor {
    const uint8_t *bytes;
    unsigned at, limit;
    enum soft_mode mode;
    bool rex_seen, vex;
    bool vvvv_used; /* VEX.vvvv is not 1111b */
    bool size66, size67, lock;
    uint8_t rep; /* 0, 0xf2, 0xf3: the last one */
    uint8_t rex; /* low four bits; VEX: the same bits */
    uint8_t segment;
    uint8_t vvvv, vl;
    unsigned map;
    uint8_t opcode;
};

static inline bool need(const struct cursor *c, unsigned n)
{
    return c->at + n <= c->limit;
}

/* Out of bytes: for want of them, or because the instruction is too long. */
static int cut_short(const struct cursor *c)
{
    return c->limit < SOFT_INSN_MAX ? SOFT_DECODE_MORE : SOFT_DECODE_GP;
}

static inline uint64_t take(struct cursor *c, unsigned n)
{
    uint64_t v = 0;
    const uint8_t *p = c->bytes + c->at;
    c->at += n;
    switch (n) {
    case 1:
        return *p;
    case 2:
        memcpy(&v, p, 2);
        return v;
    case 4:
        memcpy(&v, p, 4);
        return v;
    default:
        memcpy(&v, p, 8);
        return v;
    }
}

static inline uint64_t sign_extended(uint64_t v, unsigned bytes)
{
    return bytes == 1   ? (uint64_t)(int8_t)v
           : bytes == 2 ? (uint64_t)(int16_t)v
           : bytes == 4 ? (uint64_t)(int32_t)v
                        : v;
}

/* Prefixes and the byte after them. A REX that is not the last prefix counts for nothing. */
static int read_prefixes(struct cursor *c)
{
    for (;;) {
        if (!need(c, 1))
            return cut_short(c);
        uint8_t b = c->bytes[c->at++];
        switch (b) {
        case 0x26:
        case 0x2e:
        case 0x36:
        case 0x3e:
            if (c->mode != SOFT_64)
                c->segment = b >> 3 & 3; /* ES, CS, SS, DS */
            break;
        case 0x64:
        case 0x65:
            c->segment = b & 1 ? SOFT_GS : SOFT_FS;
            break;
        case 0x66:
            c->size66 = true;
            break;
        case 0x67:
            c->size67 = true;
            break;
        case 0xf0:
            c->lock = true;
            break;
        case 0xf2:
        case 0xf3:
            c->rep = b;
            break;
        default:
            if (c->mode != SOFT_64 || (b & 0xf0) != 0x40) {
                c->opcode = b;
                return 1;
            }
            c->rex = b & 15;
            c->rex_seen = true;
            continue;
        }
        c->rex = 0;
        c->rex_seen = false;
    }
}

static int read_vex(struct cursor *c)
{
    static const uint8_t reps[] = {0, 0, 0xf3, 0xf2};
    if (c->lock || c->size66 || c->rep || c->rex_seen)
        return SOFT_DECODE_UD;
    bool three = c->opcode == 0xc4;
    if (!need(c, three ? 3 : 2)) {
        c->at = c->limit;
        return cut_short(c);
    }
    uint8_t first = c->bytes[c->at++], last = first;
    unsigned map = 1;
    c->rex = first & 0x80 ? 0 : REX_R;
    if (three) {
        last = c->bytes[c->at++];
        map = first & 31;
        c->rex = (uint8_t)((~first >> 5 & 7) | (last & 0x80 ? REX_W : 0));
    }
    c->vex = true;
    c->vvvv = ~last >> 3 & 15;
    c->vvvv_used = c->vvvv != 0;
    c->vl = last >> 2 & 1;
    c->size66 = (last & 3) == 1;
    c->rep = reps[last & 3];
    if (c->mode != SOFT_64) {
        c->rex &= REX_W;
        c->vvvv &= 7;
    }
    if (map < 1 || map > 3)
        return SOFT_DECODE_UD;
    c->map = SOFT_V0F + map - 1;
    c->opcode = c->bytes[c->at++];
    return 1;
}

/* From the first byte after the prefixes to the last opcode byte. */
static int read_opcode(struct cursor *c)
{
    uint8_t b = c->opcode;
    c->map = SOFT_M1;
    if (b == 0x0f) {
        if (!need(c, 1))
            return cut_short(c);
        c->opcode = c->bytes[c->at++];
        c->map = SOFT_M0F;
        if (c->opcode == 0x38 || c->opcode == 0x3a) {
            if (!need(c, 1))
                return cut_short(c);
            c->map = c->opcode == 0x38 ? SOFT_M0F38 : SOFT_M0F3A;
            c->opcode = c->bytes[c->at++];
        }
    } else if (b == 0xc4 || b == 0xc5 || b == 0x62) {
        if (c->mode != SOFT_64) {
            if (!need(c, 1))
                return cut_short(c);
            if (c->bytes[c->at] < 0xc0) /* LES, LDS, BOUND */
                return 1;
        }
        return b == 0x62 ? SOFT_DECODE_UD : read_vex(c);
    }
    return 1;
}

static const struct soft_candidate *find_row(const struct cursor *c, const struct soft_index *t,
                                             const struct soft_list *list, unsigned modrm, uint64_t features)
{
    unsigned is, reg = modrm >> 3 & 7, rm = modrm & 7;
    if (list->modrm) {
        is = modrm >= 0xc0 ? SOFT_C_REG : SOFT_C_MEM;
    } else {
        is = SOFT_C_REG;
        reg = 0;
        rm = c->rex & REX_B;
    }
    is |= c->rep ? (c->rep == 0xf3 ? SOFT_C_F3 : SOFT_C_F2) : c->size66 ? SOFT_C_66 : SOFT_C_NONE;
    is |= SOFT_C_16 << c->mode;
    is |= c->rex & REX_W ? SOFT_C_W1 : SOFT_C_W0;
    is |= c->vl ? SOFT_C_L1 : SOFT_C_L0;
    if (list->split)
        list = &t->split[list->start][reg];
    const struct soft_candidate *k = &t->candidates[list->start], *end = k + list->count;
    for (; k < end; k++)
        if (!(is & ~k->takes) && k->ext >> reg & 1 && k->rm >> rm & 1 && features >> k->feature & 1)
            return k;
    return NULL;
}

static unsigned operand_size(const struct cursor *c, unsigned kind, unsigned flags)
{
    if (kind < SOFT_SIZE_V)
        return kind;
    if (kind == SOFT_SIZE_Y)
        return c->mode == SOFT_64 && (c->rex & REX_W || flags & SOFT_R_F64) ? 8 : 4;
    unsigned size;
    if (c->mode != SOFT_64)
        size = (c->mode == SOFT_16) == c->size66 ? 4 : 2;
    else if (flags & SOFT_R_F64 || c->rex & REX_W)
        size = 8;
    else
        size = c->size66 ? 2 : flags & SOFT_R_D64 ? 8 : 4;
    return kind == SOFT_SIZE_Z && size == 8 ? 4 : size;
}

/* Displacement of `n` bytes, sign-extended. */
static bool take_disp(struct cursor *c, unsigned n, int64_t *disp)
{
    if (!need(c, n))
        return false;
    *disp = n ? (int64_t)sign_extended(take(c, n), n) : 0;
    return true;
}

static int address16(struct cursor *c, struct soft_insn *out)
{
    static const uint8_t bases[] = {SOFT_RBX, SOFT_RBX, SOFT_RBP, SOFT_RBP,
                                    SOFT_RSI, SOFT_RDI, SOFT_RBP, SOFT_RBX};
    static const uint8_t indexes[] = {SOFT_RSI, SOFT_RDI, SOFT_RSI, SOFT_RDI};
    unsigned mod = out->modrm >> 6, rm = out->modrm & 7, n = mod;
    out->base = bases[rm];
    if (rm < 4)
        out->index = indexes[rm];
    if (mod == 0 && rm == 6) {
        out->base = SOFT_GPR_ZERO;
        n = 2;
    }
    out->seg = out->base == SOFT_RBP ? SOFT_SS : SOFT_DS;
    return take_disp(c, n, &out->disp) ? 1 : cut_short(c);
}

static int address32(struct cursor *c, struct soft_insn *out, bool vsib)
{
    unsigned mod = out->modrm >> 6, rm = out->modrm & 7, n = mod == 2 ? 4 : mod;
    if (rm == 4) {
        if (!need(c, 1))
            return cut_short(c);
        unsigned sib = c->bytes[c->at++], index = (sib >> 3 & 7) | (c->rex & REX_X ? 8 : 0);
        rm = sib & 7;
        out->index = (uint8_t)(index == 4 && !vsib ? SOFT_GPR_ZERO : index);
        out->scale = index == 4 && !vsib ? 0 : (uint8_t)(sib >> 6);
        if (mod == 0 && rm == 5) {
            rm = 16;
            n = 4;
        }
    } else if (vsib) {
        return SOFT_DECODE_UD;
    } else if (mod == 0 && rm == 5) {
        rm = c->mode == SOFT_64 ? 17 : 16;
        n = 4;
    }
    out->base = (uint8_t)(rm >= 16         ? (rm == 17 ? SOFT_GPR_BLOCK : SOFT_GPR_ZERO)
                          : c->rex & REX_B ? rm + 8
                                           : rm);
    out->seg = out->base == SOFT_RSP || out->base == SOFT_RBP ? SOFT_SS : SOFT_DS;
    return take_disp(c, n, &out->disp) ? 1 : cut_short(c);
}

/* Segment override, and what the address needs beyond a sum. */
static void finish_address(const struct cursor *c, struct soft_insn *out)
{
    if (c->segment != NO_SEGMENT)
        out->seg = c->segment;
    if (out->asize != 8)
        out->ea |= SOFT_EA_WRAP;
    if (c->mode != SOFT_64)
        out->ea |= SOFT_EA_SEG | SOFT_EA_LEGACY;
    else if (out->seg >= SOFT_FS)
        out->ea |= SOFT_EA_SEG;
}

static uint8_t register_at(const struct cursor *c, unsigned reg, bool byte)
{
    if (byte && !c->rex_seen && reg >= 4)
        return (uint8_t)((reg - 4) * 8 + 1);
    return (uint8_t)(reg * 8);
}

/* ModRM's two operands. */
static int read_modrm(struct cursor *c, struct soft_insn *out, unsigned form, unsigned flags)
{
    unsigned reg = (out->modrm >> 3 & 7) | (c->rex & REX_R ? 8 : 0);
    unsigned rm = (out->modrm & 7) | (c->rex & REX_B ? 8 : 0);
    if (form & (SOFT_FORM_MMX_REG | SOFT_FORM_SREG))
        reg &= 7;
    out->reg = (uint8_t)reg;
    out->reg_at = register_at(c, reg, form & SOFT_FORM_BYTE_REG);
    if (out->modrm >= 0xc0 || form & (SOFT_FORM_CR | SOFT_FORM_DR)) {
        if (form & SOFT_FORM_MMX_RM)
            rm &= 7;
        out->rm = (uint8_t)rm;
        out->rm_at = register_at(c, rm, form & SOFT_FORM_BYTE_RM);
        return 1;
    }
    out->flags |= SOFT_I_MEM;
    if (out->asize == 2 && flags & SOFT_R_VSIB)
        return SOFT_DECODE_UD;
    int r = out->asize == 2 ? address16(c, out) : address32(c, out, flags & SOFT_R_VSIB);
    finish_address(c, out);
    return r;
}

static int read_immediate(struct cursor *c, struct soft_insn *out, unsigned kind)
{
    unsigned n;
    switch (kind) {
    case SOFT_IMM_NONE:
        return 1;
    case SOFT_IMM_ONE:
        out->imm = 1;
        return 1;
    case SOFT_IMM_B:
    case SOFT_IMM_SB:
    case SOFT_IMM_L:
        n = 1;
        break;
    case SOFT_IMM_W:
        n = 2;
        break;
    case SOFT_IMM_WB:
        n = 3;
        break;
    case SOFT_IMM_V:
        n = out->size;
        break;
    case SOFT_IMM_FAR:
        n = out->size + 2u;
        break;
    case SOFT_IMM_MOFFS:
        n = out->asize;
        break;
    default:
        n = out->size == 2 ? 2 : 4;
        break;
    }
    if (!need(c, n))
        return cut_short(c);
    switch (kind) {
    case SOFT_IMM_SB:
    case SOFT_IMM_Z:
        out->imm = sign_extended(take(c, n), n);
        break;
    case SOFT_IMM_L:
        out->imm = take(c, 1);
        out->imm2 = (uint16_t)(out->imm >> 4 & (c->mode == SOFT_64 ? 15 : 7));
        break;
    case SOFT_IMM_WB:
        out->imm = take(c, 2);
        out->imm2 = (uint16_t)take(c, 1);
        break;
    case SOFT_IMM_FAR:
        out->imm = take(c, out->size);
        out->imm2 = (uint16_t)take(c, 2);
        break;
    case SOFT_IMM_MOFFS:
        out->disp = (int64_t)take(c, n);
        out->flags |= SOFT_I_MEM;
        finish_address(c, out);
        break;
    default:
        out->imm = take(c, n);
        break;
    }
    return 1;
}

/* What is #UD although the row fits. */
static bool valid(const struct cursor *c, const struct soft_insn *out, unsigned form, unsigned flags)
{
    if (c->lock && !(out->flags & SOFT_I_LOCK))
        return false;
    if (c->vvvv_used && !(form & SOFT_FORM_VVVV))
        return false;
    if (form & SOFT_FORM_SREG && (out->reg > SOFT_GS || (form & SOFT_FORM_TO_SREG && out->reg == SOFT_CS)))
        return false;
    if (form & SOFT_FORM_CR && (out->reg > 8 || !(1u << out->reg & 0x11d)))
        return false;
    if (form & SOFT_FORM_DR && out->reg > 7)
        return false;
    return !(flags & SOFT_R_VSIB) ||
           (out->index != out->reg && out->index != out->vvvv && out->reg != out->vvvv);
}

static int read_operands(struct cursor *c, struct soft_insn *out, const struct soft_form *form)
{
    unsigned flags = soft_rows[out->row].flags;
    out->size = (uint8_t)operand_size(c, form->size, flags);
    if (form->bits & SOFT_FORM_MODRM) {
        int r = read_modrm(c, out, form->bits, flags);
        if (r <= 0)
            return r;
    } else if (form->bits & SOFT_FORM_PLUS_R) {
        out->reg = (uint8_t)((c->opcode & 7) | (c->rex & REX_B ? 8 : 0));
        out->reg_at = register_at(c, out->reg, form->bits & SOFT_FORM_BYTE_REG);
    } else if (form->bits & SOFT_FORM_STRING) {
        finish_address(c, out);
    }
    int r = read_immediate(c, out, form->imm);
    if (r <= 0)
        return r;
    if (c->lock && flags & SOFT_R_LOCK && out->flags & SOFT_I_MEM)
        out->flags |= SOFT_I_LOCK;
    if (flags & SOFT_R_REP && c->rep)
        out->flags |= c->rep == 0xf3 ? SOFT_I_REP : SOFT_I_REPNE;
    if (form->bits & SOFT_FORM_CC)
        out->cc = c->opcode & 15;
    if (out->base == SOFT_GPR_BLOCK)
        out->disp += c->at;
    return valid(c, out, form->bits, flags) ? 1 : SOFT_DECODE_UD;
}

static int decode(struct cursor *c, uint64_t features, struct soft_insn *out)
{
    const struct soft_index *t = soft_index_get();
    int r = read_prefixes(c);
    if (r <= 0)
        return r;
    r = read_opcode(c);
    if (r <= 0)
        return r;
    const struct soft_list *list = &t->lists[c->map][c->opcode];
    if (!list->count)
        return SOFT_DECODE_UD;
    if (list->modrm) {
        if (!need(c, 1))
            return cut_short(c);
        out->modrm = c->bytes[c->at++];
    }
    const struct soft_candidate *k = find_row(c, t, list, out->modrm, features);
    if (!k)
        return SOFT_DECODE_UD;
    out->row = k->row;
    out->opcode = c->opcode;
    out->base = out->index = SOFT_GPR_ZERO;
    out->seg = c->segment != NO_SEGMENT ? c->segment : SOFT_DS;
    out->asize = c->mode == SOFT_64 ? (c->size67 ? 4 : 8) : (c->mode == SOFT_16) == c->size67 ? 4 : 2;
    out->vvvv = c->vvvv;
    out->flags = (uint8_t)((c->rex & REX_W ? SOFT_I_REXW : 0) | (c->vex ? SOFT_I_VEX : 0) |
                           (c->vl ? SOFT_I_VL256 : 0));
    return read_operands(c, out, &t->forms[k->row]);
}

int soft_decode(const uint8_t *bytes, unsigned avail, enum soft_mode mode, uint64_t features,
                struct soft_insn *out)
{
    struct cursor c = {.bytes = bytes,
                       .limit = avail < SOFT_INSN_MAX ? avail : SOFT_INSN_MAX,
                       .mode = mode,
                       .segment = NO_SEGMENT};
    memset(out, 0, sizeof *out);
    int r = decode(&c, features, out);
    out->len = (uint8_t)c.at;
    return r > 0 ? (int)c.at : r;
}
