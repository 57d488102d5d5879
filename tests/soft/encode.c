// SPDX-License-Identifier: Apache-2.0
/* Encodings of a row, at random, checked by decoding them. */
#include <string.h>

#include "hv/cpu/soft/decode.h"
#include "hv/cpu/soft/decode_index.h"
#include "tests/soft/diff.h"

#define DATA(offset) (DIFF_DATA + (offset))

struct build {
    struct diff_rng *r;
    struct diff_stream *s;
    const struct soft_row *row;
    struct soft_form form;
    struct diff_insn out;
    uint8_t rex, vvvv;
    bool want_rex, asize32, asize16, gs, w, l;
    enum { WELL, SPOIL_VVVV, SPOIL_W, SPOIL_L, SPOIL_PREFIX } spoil; /* VEX only: what makes it #UD */
};

struct diff_insn *diff_emit(struct diff_stream *s, const uint8_t *bytes, unsigned n)
{
    struct diff_insn *i = &s->insn[s->n];
    if (s->n == DIFF_INSNS)
        return NULL;
    memset(i, 0, sizeof *i);
    memcpy(i->b, bytes, n);
    i->len = (uint8_t)n;
    i->row = UINT16_MAX;
    i->undefined = s->undefined;
    s->n++;
    return i;
}

struct diff_insn *diff_emit_mov32(struct diff_stream *s, unsigned reg, uint32_t v)
{
    uint8_t b[6] = {(uint8_t)(0x40 | (reg >> 3)), (uint8_t)(0xb8 | (reg & 7))};
    memcpy(b + 2, &v, 4);
    return diff_32 ? diff_emit(s, b + 1, 5) : diff_emit(s, b, 6);
}

static void put(struct build *b, unsigned v)
{
    if (b->out.len < 15)
        b->out.b[b->out.len] = (uint8_t)v;
    b->out.len++;
}
static void put_n(struct build *b, uint64_t v, unsigned n)
{
    for (; n--; v >>= 8)
        put(b, v & 0xff);
}

/* Where in the sandbox: usually aligned and inside, sometimes across its pages or its end. */
static uint32_t place(struct diff_rng *r)
{
    unsigned k = diff_below(r, 100);
    if (k < 70)
        return (uint32_t)DATA(64 + diff_below(r, (DIFF_DATA_BYTES - 256) / 32) * 32);
    if (k < 95)
        return (uint32_t)DATA(64 + diff_below(r, DIFF_DATA_BYTES - 256));
    if (k < 98)
        return (uint32_t)DATA(4096 - 40 + diff_below(r, 48));
    return (uint32_t)DATA(DIFF_DATA_BYTES - 40 + diff_below(r, 48));
}

static unsigned any_register(struct build *b, bool high)
{
    unsigned v = diff_below(b->r, high && !diff_32 ? 16 : 8);
    if (v == 4 && diff_chance(b->r, 85)) /* keep the stack pointer */
        v = diff_below(b->r, 4);
    return v;
}

/* ModRM's address: bytes go into `tail`. Registers that it needs are set by instructions before it. */
struct address {
    uint8_t modrm, sib, disp_len;
    bool has_sib, rip;
    int32_t disp;
    uint64_t target;
};

static void based(struct build *b, struct address *a, uint32_t target, bool index)
{
    unsigned regs = diff_32 ? 8 : 16, base = diff_below(b->r, regs), x = 0, scale = diff_below(b->r, 4);
    bool vsib = b->row->flags & SOFT_R_VSIB;
    int32_t small = 0;
    if (base == 4)
        base = 3;
    a->disp_len = (uint8_t[]){0, 1, 4}[diff_below(b->r, 3)];
    if ((base & 7) == 5 && !a->disp_len)
        a->disp_len = 1;
    a->disp = a->disp_len == 1   ? (int32_t)diff_below(b->r, 256) - 128
              : a->disp_len == 4 ? (int32_t)diff_below(b->r, 8192) - 4096
                                 : 0;
    if (index || vsib) {
        x = vsib ? regs - 3 + diff_below(b->r, 3) : diff_below(b->r, regs);
        if (!vsib && (x == 4 || x == base))
            x = base == 1 ? 2 : 1;
        small = vsib ? 0 : (int32_t)diff_below(b->r, 64) - 16;
        if (!vsib)
            diff_emit_mov32(b->s, x, (uint32_t)(small < 0 ? -small : small));
        small = small < 0 ? -small : small;
    }
    diff_emit_mov32(b->s, base, target - (uint32_t)a->disp - ((uint32_t)small << scale));
    a->modrm = (uint8_t)(a->disp_len == 4 ? 0x80 : a->disp_len == 1 ? 0x40 : 0);
    b->rex |= base >> 3 ? 1 : 0;
    if (index || vsib || (base & 7) == 4) {
        a->has_sib = true;
        a->modrm |= 4;
        if (index || vsib) {
            a->sib = (uint8_t)(scale << 6 | (x & 7) << 3 | (base & 7));
            b->rex |= x >> 3 ? 2 : 0;
        } else {
            a->sib = (uint8_t)(0x20 | (base & 7));
        }
    } else {
        a->modrm |= base & 7;
    }
}

static struct address make_address(struct build *b)
{
    struct address a = {0};
    uint32_t target = place(b->r) - (b->gs ? (uint32_t)DIFF_GS : 0);
    unsigned k = b->row->flags & SOFT_R_VSIB ? 50 : diff_below(b->r, 100);
    if (b->asize16) {
        a.modrm = (uint8_t)(diff_below(b->r, 3) << 6 | diff_below(b->r, 8));
        a.disp_len = (uint8_t[]){(a.modrm & 7) == 6 ? 2 : 0, 1, 2}[a.modrm >> 6];
        a.disp = (int32_t)diff_rnd(b->r);
    } else if (k < 25) {
        a.modrm = 5;
        a.rip = !diff_32;
        a.disp_len = 4;
        a.disp = (int32_t)target;
        a.target = target;
    } else if (k < 35) {
        a.modrm = 4;
        a.has_sib = true;
        a.sib = 0x25;
        a.disp_len = 4;
        a.disp = (int32_t)target;
    } else if (k < 40) { /* by the stack pointer */
        a.modrm = 0x44;
        a.has_sib = true;
        a.sib = 0x24;
        a.disp_len = 1;
        a.disp = (int32_t)diff_below(b->r, 256) - 128;
    } else if (k < 97) {
        based(b, &a, target, k >= 75);
    } else { /* whatever a register holds */
        a.modrm = (uint8_t)(0x80 | diff_below(b->r, 4));
        a.disp_len = 4;
        a.disp = (int32_t)diff_rnd(b->r);
    }
    return a;
}

static void put_modrm(struct build *b, unsigned reg, bool mem, const struct address *a, unsigned rm)
{
    if (!mem) {
        put(b, 0xc0 | reg << 3 | (rm & 7));
        return;
    }
    put(b, a->modrm | reg << 3);
    if (a->has_sib)
        put(b, a->sib);
    if (a->rip) {
        b->out.fix = FIX_RIP;
        b->out.fix_at = b->out.len;
        b->out.target = a->target;
    }
    put_n(b, (uint32_t)a->disp, a->disp_len);
}

static void put_immediate(struct build *b, bool osize16)
{
    uint64_t v = diff_special(b->r);
    if (diff_chance(b->r, 40))
        v = diff_below(b->r, 66);
    switch (b->form.imm) {
    case SOFT_IMM_B:
    case SOFT_IMM_SB:
    case SOFT_IMM_L:
        if (b->row->flags & SOFT_R_BRANCH) {
            b->out.fix = FIX_REL8;
            b->out.fix_at = b->out.len;
        }
        put(b, v & 0xff);
        break;
    case SOFT_IMM_W: /* RET: keep the stack near */
        put_n(b, diff_chance(b->r, 90) ? diff_below(b->r, 16) * 8 : v, 2);
        break;
    case SOFT_IMM_WB:
        put_n(b, diff_chance(b->r, 90) ? diff_below(b->r, 128) : v, 2);
        put(b, diff_chance(b->r, 90) ? diff_below(b->r, 4) : (unsigned)v & 0xff);
        break;
    case SOFT_IMM_V:
        put_n(b, v, b->w && !diff_32 ? 8 : osize16 ? 2 : 4);
        break;
    case SOFT_IMM_MOFFS:
        put_n(b, place(b->r) - (b->gs ? DIFF_GS : 0), b->asize32 || diff_32 ? 4 : 8);
        break;
    case SOFT_IMM_Z:
        if (b->row->flags & SOFT_R_BRANCH) {
            b->out.fix = FIX_REL32;
            b->out.fix_at = b->out.len;
        }
        put_n(b, v, osize16 && (!b->w || diff_32) && !(b->row->flags & SOFT_R_F64) ? 2 : 4);
        break;
    default:
        break;
    }
}

static bool is_v(const struct build *b)
{
    return b->form.size >= SOFT_SIZE_V;
}

/* Prefixes, REX, opcode of a legacy row. */
static void put_legacy(struct build *b, bool osize16, bool lock, unsigned rep)
{
    const struct soft_row *row = b->row;
    if (b->asize32 || b->asize16)
        put(b, 0x67);
    if (b->gs)
        put(b, 0x65);
    else if (diff_chance(b->r, 2))
        put(b, 0x3e);
    if (osize16)
        put(b, 0x66);
    if (row->prefix > 2)
        put(b, row->prefix);
    if (lock)
        put(b, 0xf0);
    if (rep)
        put(b, rep);
    if (!diff_32 && (b->rex || b->want_rex || b->w))
        put(b, 0x40u | b->rex | (b->w ? 8u : 0));
    if (row->map != SOFT_M1)
        put(b, 0x0f);
    if (row->map == SOFT_M0F38)
        put(b, 0x38);
    if (row->map == SOFT_M0F3A)
        put(b, 0x3a);
    put(b, row->opcode);
}

static void put_vex(struct build *b)
{
    static const uint8_t pp[] = {0, 1, 2, 3};
    const struct soft_row *row = b->row;
    unsigned p = row->prefix == 0x66 ? 1 : row->prefix == 0xf3 ? 2 : row->prefix == 0xf2 ? 3 : 0;
    unsigned last = (~b->vvvv & 15u) << 3 | (b->l ? 4u : 0) | pp[p];
    if (b->asize32 || b->asize16)
        put(b, 0x67);
    if (b->gs)
        put(b, 0x65);
    if (b->spoil == SPOIL_PREFIX)
        put(b, (unsigned[]){0x66, 0xf2, 0xf3, 0xf0, 0x40}[diff_below(b->r, diff_32 ? 4 : 5)]);
    if (row->map == SOFT_V0F && !b->w && !(b->rex & 3) && diff_chance(b->r, 50)) {
        put(b, 0xc5);
        put(b, last | (b->rex & 4 ? 0 : 0x80));
    } else {
        put(b, 0xc4);
        put(b, (~(unsigned)b->rex & 7) << 5 | (row->map - SOFT_V0F + 1u));
        put(b, last | (b->w ? 0x80 : 0));
    }
    put(b, row->opcode);
}

/* One try. */
static void build(struct build *b)
{
    const struct soft_row *row = b->row;
    bool vex = row->map >= SOFT_V0F, modrm = b->form.bits & SOFT_FORM_MODRM;
    bool mem = modrm && (row->mod == 1 || (row->mod == 0 && diff_chance(b->r, 50)));
    bool memory = mem || b->form.imm == SOFT_IMM_MOFFS || (b->form.bits & SOFT_FORM_STRING);
    bool osize16 = (row->prefix == 0 || row->prefix == 2) && is_v(b) && !vex && diff_chance(b->r, 20) &&
                   !b->s->no16 &&
                   !(row->flags & (SOFT_R_F64 | SOFT_R_X87 | SOFT_R_SIMD)); /* near branches: AMD heeds 66 */
    bool lock = row->flags & SOFT_R_LOCK && mem && diff_chance(b->r, 40);
    unsigned rep = row->flags & SOFT_R_REP && diff_chance(b->r, 60) ? 0xf2 + diff_below(b->r, 2) : 0;
    unsigned reg = row->ext >= 0 ? (unsigned)row->ext : any_register(b, true);
    unsigned rm = any_register(b, true);
    struct address a = {0};
    b->asize32 = memory && !diff_32 && diff_chance(b->r, 6);
    b->asize16 = (mem || b->form.bits & SOFT_FORM_STRING) && diff_32 && diff_chance(b->r, 5) &&
                 !(row->flags & SOFT_R_VSIB);
    b->gs = mem && !diff_32 && diff_chance(b->r, 4);
    b->w = row->vex_w == 2 ? diff_chance(b->r, 45) : row->vex_w;
    b->l = row->vex_l == 2 ? diff_chance(b->r, 50) : row->vex_l;
    b->want_rex = diff_chance(b->r, 30);
    b->vvvv = b->form.bits & SOFT_FORM_VVVV ? (uint8_t)diff_below(b->r, diff_32 ? 8 : 16) : 0;
    b->w ^= b->spoil == SPOIL_W;
    b->l ^= b->spoil == SPOIL_L;
    if (b->spoil == SPOIL_VVVV)
        b->vvvv = (uint8_t)(1 + diff_below(b->r, 7));
    if (!modrm && !(b->form.bits & SOFT_FORM_PLUS_R) && row->vex_w == 2 && diff_chance(b->r, 50))
        b->w = false;
    if (row->rm >= 0)
        rm = (unsigned)row->rm;
    if (modrm && row->ext < 0 && reg >= 8)
        b->rex |= 4;
    if (mem)
        a = make_address(b);
    else if (modrm && rm >= 8)
        b->rex |= 1;
    if (b->form.bits & SOFT_FORM_PLUS_R && any_register(b, true) >= 8)
        b->rex |= 1;
    if (vex)
        put_vex(b);
    else
        put_legacy(b, osize16, lock, rep);
    if (modrm)
        put_modrm(b, reg & 7, mem, &a, rm);
    put_immediate(b, osize16);
}

/* The flags that are undefined afterwards. */
static void follow_flags(struct diff_stream *s, const struct soft_row *row)
{
    s->undefined = (uint16_t)((s->undefined & ~row->writes) | row->undefined);
}

/* Now and then a VEX encoding that is to be #UD: a source that is not one, W or L that no row has, a prefix
 * before VEX. Left out: opcodes that the host has wider forms of, by features that no model offers. */
static bool emit_spoilt(struct diff_rng *r, struct diff_stream *s, unsigned row)
{
    const struct soft_row *t = &soft_rows[row];
    unsigned start = s->n;
    struct build b = {.r = r, .s = s, .row = t, .form = soft_index_get()->forms[row]};
    struct soft_insn in;
    b.spoil = SPOIL_VVVV + diff_below(r, 4);
    if (!strncmp(t->name, "vaes", 4) || !strncmp(t->name, "vpclmul", 7) ||
        (t->map == SOFT_V0F3A && t->opcode < 2)) /* VPERMQ, VPERMPD: AMD does not heed W */
        return false;
    build(&b);
    if (b.out.len <= 15 &&
        soft_decode(b.out.b, b.out.len, diff_32 ? SOFT_32 : SOFT_64, diff_features, &in) == SOFT_DECODE_UD) {
        struct diff_insn *i = diff_emit(s, b.out.b, b.out.len);
        if (i) {
            i->fix = b.out.fix;
            i->fix_at = b.out.fix_at;
            i->target = b.out.target;
            return true;
        }
    }
    s->n = start;
    return false;
}

static bool emit_checked(struct diff_rng *r, struct diff_stream *s, unsigned row)
{
    unsigned start = s->n;
    if (soft_rows[row].map >= SOFT_V0F && diff_chance(r, 3))
        emit_spoilt(r, s, row);
    start = s->n;
    for (unsigned tries = 0; tries < 40; tries++) {
        struct build b = {.r = r, .s = s, .row = &soft_rows[row], .form = soft_index_get()->forms[row]};
        struct soft_insn in;
        struct diff_insn *i;
        build(&b);
        if (b.out.len <= 15 &&
            soft_decode(b.out.b, b.out.len, diff_32 ? SOFT_32 : SOFT_64, diff_features, &in) == b.out.len &&
            in.row == row) {
            i = diff_emit(s, b.out.b, b.out.len);
            if (!i)
                return false;
            i->fix = b.out.fix;
            i->fix_at = b.out.fix_at;
            i->target = b.out.target;
            i->row = (uint16_t)row;
            i->branch = soft_rows[row].flags & SOFT_R_BRANCH;
            if (i->branch)
                i->target = s->n + diff_below(r, 4);
            follow_flags(s, &soft_rows[row]);
            return true;
        }
        s->n = start;
    }
    return false;
}

/* -- what an instruction needs before it ----------------------------------------------------------------- */

static bool is(const char *name, const char *list)
{
    size_t n = strlen(name);
    for (const char *p = strstr(list, name); p; p = strstr(p + n, name))
        if ((p == list || p[-1] == ' ') && (p[n] == ' ' || !p[n]))
            return true;
    return false;
}

static void emit_code_address(struct diff_rng *r, struct diff_stream *s, unsigned reg, unsigned after)
{
    uint8_t b[10] = {(uint8_t)(0x48 | (reg >> 3)), (uint8_t)(0xb8 | (reg & 7))};
    struct diff_insn *i = diff_32 ? diff_emit(s, b + 1, 5) : diff_emit(s, b, 10);
    if (!i)
        return;
    i->fix = diff_32 ? FIX_CODE32 : FIX_CODE64;
    i->fix_at = diff_32 ? 1 : 2;
    i->target = s->n + after + diff_below(r, 3);
}

/* CMP defines every flag. */
static void define_flags(struct diff_stream *s)
{
    static const uint8_t cmp[] = {0x48, 0x83, 0xf8, 0x05};
    diff_emit(s, cmp + diff_32, 4 - diff_32);
    s->undefined = 0;
}

static void prepare_string(struct diff_rng *r, struct diff_stream *s)
{
    unsigned count = diff_chance(r, 5) ? diff_below(r, 9000) : diff_below(r, 40);
    diff_emit_mov32(s, 6, diff_chance(r, 90) ? (uint32_t)DATA(600 + diff_below(r, 6500)) : place(r));
    if (diff_chance(r, 30)) { /* close together: overlaps */
        uint8_t lea[] = {0x48, 0x8d, 0x7e, (uint8_t)diff_below(r, 32)};
        diff_emit(s, lea + diff_32, 4 - diff_32);
    } else {
        diff_emit_mov32(s, 7, diff_chance(r, 90) ? (uint32_t)DATA(600 + diff_below(r, 6500)) : place(r));
    }
    diff_emit_mov32(s, 1, count);
    if (diff_chance(r, 30))
        diff_emit(s, (const uint8_t[]){0xfc | (uint8_t)diff_below(r, 2)}, 1);
}

static void prepare(struct diff_rng *r, struct diff_stream *s, const struct soft_row *row)
{
    const char *n = row->name;
    uint32_t at = place(r);
    if (is(n, "movs cmps stos lods scas") && row->map == SOFT_M1)
        prepare_string(r, s);
    else if (!strcmp(n, "xlat"))
        diff_emit_mov32(s, 3, at);
    else if (is(n, "leave"))
        diff_emit_mov32(s, 5, at);
    else if (is(n, "maskmovq maskmovdqu vmaskmovdqu"))
        diff_emit_mov32(s, 7, at);
    else if (is(n, "div idiv") && diff_chance(r, 75))
        diff_emit_mov32(s, 2, diff_chance(r, 60) ? 0 : diff_below(r, 200));
    else if (is(n, "bt bts btr btc") && diff_chance(r, 60))
        for (unsigned i = 0; i < (diff_32 ? 8 : 16); i++)
            i == 4 || diff_chance(r, 60) ? NULL : diff_emit_mov32(s, i, diff_below(r, 600));
    else if (is(n, "loop loope loopne jcxz jecxz jrcxz"))
        diff_emit_mov32(s, 1, diff_below(r, 3));
    else if (is(n, "popf") || is(n, "popfq"))
        diff_emit(s, (const uint8_t[]){0x68, (uint8_t)diff_rnd(r), (uint8_t)(diff_rnd(r) & 0x4e), 0, 0}, 5);
    else if (!strcmp(n, "bound"))
        for (unsigned i = 0; i < 8; i++)
            i == 4 || diff_chance(r, 50) ? NULL : diff_emit_mov32(s, i, diff_below(r, 600));
    else if (!strncmp(n, "cmpxchg", 7) && diff_chance(r, 50))
        diff_emit(s, (const uint8_t[]){0x31, 0xc0}, 2), s->undefined |= SOFT_AF;
}

/* Indirect branches and returns: to an instruction of the stream, mostly. */
static bool emit_indirect(struct diff_rng *r, struct diff_stream *s, unsigned row)
{
    static const uint8_t push_rax[] = {0x50};
    const struct soft_row *t = &soft_rows[row];
    struct diff_insn *i;
    uint8_t b[4] = {0xff, (uint8_t)(0xc0 | (t->ext & 7) << 3)};
    unsigned n = 2, reg = diff_below(r, 4);
    if (diff_chance(r, 6))
        return emit_checked(r, s, row);
    if (is(t->name, "jmp_ind call_ind")) {
        emit_code_address(r, s, reg, 1);
        b[1] |= (uint8_t)reg;
    } else {
        emit_code_address(r, s, 0, 2);
        diff_emit(s, push_rax, 1);
        b[0] = t->opcode;
        n = 1;
        if (t->opcode == 0xc2) {
            b[1] = (uint8_t)(diff_below(r, 8) * 8);
            n = 3;
            b[2] = 0;
        }
    }
    i = diff_emit(s, b, n);
    if (!i)
        return false;
    i->row = (uint16_t)row;
    i->branch = true;
    return true;
}

/* No 16-bit operands where vendors differ. SHLD and SHRD by more than 16: even the result is undefined. */
static bool prepare_no16(struct diff_rng *r, struct diff_stream *s, const struct soft_row *row)
{
    bool wide = diff_chance(r, 70);
    if (!strncmp(row->name, "shld_cl", 7) || !strncmp(row->name, "shrd_cl", 7)) {
        if (!wide)
            diff_emit_mov32(s, 1, diff_below(r, 16));
        return wide;
    }
    return is(row->name, "shld shrd movsxd"); /* MOVSXD: AMD reads 32 bits, Intel 16 */
}

bool diff_emit_row(struct diff_rng *r, struct diff_stream *s, unsigned row)
{
    const struct soft_row *t = &soft_rows[row];
    bool ends = t->flags & (SOFT_R_BRANCH | SOFT_R_END);
    if (s->n + 24 >= DIFF_INSNS)
        return false;
    if (s->undefined && (ends || t->reads & s->undefined || is(t->name, "lahf pushf pushfq")))
        define_flags(s);
    prepare(r, s, t);
    if (s->undefined && (ends || t->reads & s->undefined))
        define_flags(s);
    s->no16 = prepare_no16(r, s, t);
    s->no16 = prepare_no16(r, s, t);
    if (is(t->name, "jmp_ind call_ind ret ret_imm"))
        return emit_indirect(r, s, row);
    return emit_checked(r, s, row);
}
