// SPDX-License-Identifier: Apache-2.0
/* FXSAVE, FXRSTOR, XSAVE and its relatives, XRSTOR (Intel SDM volume 1, chapters 10.5 and 13). The area is
 * built or read whole in a buffer, so that a fault leaves the registers as they were. */
#include <string.h>

#include "hv/cpu/soft/x_simd.h"
#include "proto/wire.h"

#define LEGACY 512
#define AVX_AT 576
#define AVX_BYTES 256
#define X87 1u
#define SSE 2u
#define AVX 4u
#define COMPACT (1ull << 63)

static void legacy_out(const struct soft_cpu *c, uint8_t *p, uint64_t what, bool mxcsr, bool long_form)
{
    const struct soft_fpu *f = &c->fpu;
    unsigned top = f->fsw >> 11 & 7;
    if (what & X87) {
        fy_put16(p, f->fcw);
        fy_put16(p + 2, f->fsw);
        p[4] = f->ftw;
        p[5] = 0;
        fy_put16(p + 6, f->fop);
        fy_put64(p + 8, long_form ? f->fip : (uint32_t)f->fip | (uint64_t)f->fcs << 32);
        fy_put64(p + 16, long_form ? f->fdp : (uint32_t)f->fdp | (uint64_t)f->fds << 32);
        for (unsigned i = 0; i < 8; i++) {
            memset(p + 32 + 16 * i, 0, 16);
            memcpy(p + 32 + 16 * i, f->st[(top + i) & 7], 10);
        }
    }
    if (mxcsr) {
        fy_put32(p + 24, c->mxcsr);
        fy_put32(p + 28, 0xffff);
    }
    for (unsigned i = 0; what & SSE && i < (c->mode == SOFT_64 ? 16u : 8u); i++)
        memcpy(p + 160 + 16 * i, &c->ymm[i], 16);
}

static void x87_in(struct soft_cpu *c, const uint8_t *p, bool long_form)
{
    struct soft_fpu *f = &c->fpu;
    f->fcw = fy_get16(p);
    f->fsw = fy_get16(p + 2);
    f->ftw = p[4];
    f->fop = fy_get16(p + 6) & 0x7ff;
    f->fip = long_form ? fy_get64(p + 8) : fy_get32(p + 8);
    f->fdp = long_form ? fy_get64(p + 16) : fy_get32(p + 16);
    f->fcs = long_form ? 0 : fy_get16(p + 12);
    f->fds = long_form ? 0 : fy_get16(p + 20);
    unsigned top = f->fsw >> 11 & 7;
    for (unsigned i = 0; i < 8; i++)
        memcpy(f->st[(top + i) & 7], p + 32 + 16 * i, 10);
    /* ES and B follow the exceptions that are not masked. */
    f->fsw &= (uint16_t)~0x8080;
    if (f->fsw & ~f->fcw & 0x3f)
        f->fsw |= 0x8080;
}

static void sse_in(struct soft_cpu *c, const uint8_t *p)
{
    for (unsigned i = 0; i < (c->mode == SOFT_64 ? 16u : 8u); i++)
        memcpy(&c->ymm[i], p + 160 + 16 * i, 16);
}

static bool gp(struct soft_cpu *c)
{
    soft_exc_error(c, SOFT_GP, 0);
    return false;
}

static bool area(struct soft_cpu *c, const struct soft_insn *in, unsigned bytes, unsigned align,
                 enum soft_access how, uint64_t *lin)
{
    if (!soft_ea(c, in, bytes, how, lin))
        return false;
    if (*lin & (align - 1))
        return gp(c);
    return soft_probe(c, *lin, bytes, how);
}

static bool copy_in(struct soft_cpu *c, uint64_t lin, uint8_t *p, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i += 8)
        if (!soft_ld(c, lin + i, 8, p + i))
            return false;
    return true;
}

static bool copy_out(struct soft_cpu *c, uint64_t lin, const uint8_t *p, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i += 8)
        if (!soft_st(c, lin + i, 8, p + i))
            return false;
    return true;
}

static bool allowed(struct soft_cpu *c)
{
    if (c->cr0 & (SOFT_CR0_EM | SOFT_CR0_TS)) {
        soft_exc(c, SOFT_NM);
        return false;
    }
    return true;
}

SIMD_HANDLER(fxsave)
{
    uint8_t p[LEGACY];
    uint64_t lin;
    /* Bytes 464 to 511 are the software's own and stay; so does the SSE part where the system does not use
     * it. */
    if (!allowed(c) || !area(c, in, LEGACY, 16, SOFT_WRITE, &lin) || !copy_in(c, lin, p, LEGACY))
        return false;
    legacy_out(c, p, X87 | (c->cr4 & SOFT_CR4_OSFXSR ? SSE : 0), true, in->flags & SOFT_I_REXW);
    if (!copy_out(c, lin, p, 464))
        return false;
    return true;
}

SIMD_HANDLER(fxrstor)
{
    uint8_t p[LEGACY];
    uint64_t lin;
    if (!allowed(c) || !area(c, in, LEGACY, 16, SOFT_READ, &lin) || !copy_in(c, lin, p, LEGACY))
        return false;
    if (fy_get32(p + 24) & ~0xffffu)
        return gp(c);
    x87_in(c, p, in->flags & SOFT_I_REXW);
    if (c->cr4 & SOFT_CR4_OSFXSR) {
        c->mxcsr = fy_get32(p + 24);
        sse_in(c, p);
    }
    return true;
}

/* --- XSAVE --- */

static bool xsave_ok(struct soft_cpu *c)
{
    if (!(c->cr4 & SOFT_CR4_OSXSAVE)) {
        soft_exc(c, SOFT_UD);
        return false;
    }
    if (c->cr0 & SOFT_CR0_TS) {
        soft_exc(c, SOFT_NM);
        return false;
    }
    return true;
}

static uint64_t asked(const struct soft_cpu *c)
{
    return c->xcr0 & ((uint32_t)c->gpr[SOFT_RAX] | c->gpr[SOFT_RDX] << 32);
}

/* Components that differ from their initial state. */
static uint64_t in_use(const struct soft_cpu *c)
{
    uint64_t v = X87;
    for (unsigned i = 0; i < 16; i++) {
        v |= c->ymm[i].u64[0] | c->ymm[i].u64[1] ? SSE : 0;
        v |= c->ymm[i].u64[2] | c->ymm[i].u64[3] ? AVX : 0;
    }
    return v;
}

static bool save(struct soft_cpu *c, const struct soft_insn *in, bool compact, bool only_used)
{
    uint8_t p[AVX_AT + AVX_BYTES];
    uint64_t lin;
    if (!xsave_ok(c))
        return false;
    uint64_t want = asked(c), used = in_use(c);
    /* MXCSR is a part of SSE only in the compacted format (SDM volume 1, 13.10). */
    if (compact && c->mxcsr != 0x1f80)
        used |= SSE;
    uint64_t write = only_used ? want & used : want;
    unsigned bytes = want & AVX ? AVX_AT + AVX_BYTES : AVX_AT;
    if (!area(c, in, bytes, 64, SOFT_WRITE, &lin) || !copy_in(c, lin, p, bytes))
        return false;
    legacy_out(c, p, write, compact ? write & SSE : want & (SSE | AVX), in->flags & SOFT_I_REXW);
    fy_put64(p + 512, compact ? write : (fy_get64(p + 512) & ~want) | (want & used));
    if (compact) {
        fy_put64(p + 520, want | COMPACT);
        memset(p + 528, 0, 48);
    }
    for (unsigned i = 0; write & AVX && i < (c->mode == SOFT_64 ? 16u : 8u); i++)
        memcpy(p + AVX_AT + 16 * i, c->ymm[i].u8 + 16, 16);
    return copy_out(c, lin, p, bytes);
}

SIMD_HANDLER(xsave)
{
    return save(c, in, false, false);
}

SIMD_HANDLER(xsaveopt)
{
    return save(c, in, false, true);
}

SIMD_HANDLER(xsavec)
{
    return save(c, in, true, true);
}

SIMD_HANDLER(xrstor)
{
    uint8_t p[AVX_AT + AVX_BYTES];
    uint64_t lin;
    if (!xsave_ok(c))
        return false;
    uint64_t want = asked(c);
    unsigned bytes = want & AVX ? AVX_AT + AVX_BYTES : AVX_AT;
    if (!area(c, in, bytes, 64, SOFT_READ, &lin) || !copy_in(c, lin, p, bytes))
        return false;
    uint64_t bv = fy_get64(p + 512), comp = fy_get64(p + 520);
    bool compact = comp & COMPACT && c->features >> SOFT_F_XSAVEC & 1;
    bool bad = bv & ~c->xcr0 || (compact ? comp & ~COMPACT & ~c->xcr0 || bv & ~comp : comp != 0);
    for (unsigned i = 528; i < 576; i++)
        bad |= p[i] != 0 && (compact || i < 536);
    uint32_t mxcsr = fy_get32(p + 24);
    bool takes_mxcsr = compact ? want & bv & SSE : want & (SSE | AVX);
    if (bad || (takes_mxcsr && mxcsr & ~0xffffu))
        return gp(c);
    if (want & X87) {
        if (bv & X87)
            x87_in(c, p, in->flags & SOFT_I_REXW);
        else
            c->fpu = (struct soft_fpu){.fcw = 0x37f};
    }
    if (takes_mxcsr)
        c->mxcsr = mxcsr;
    else if (compact && want & SSE)
        c->mxcsr = 0x1f80;
    for (unsigned i = 0; i < (c->mode == SOFT_64 ? 16u : 8u); i++) {
        if (want & SSE && !(bv & SSE))
            memset(&c->ymm[i], 0, 16);
        if (want & AVX)
            memset(c->ymm[i].u8 + 16, 0, 16);
        if (want & bv & AVX)
            memcpy(c->ymm[i].u8 + 16, p + AVX_AT + 16 * i, 16);
    }
    if (want & bv & SSE)
        sse_in(c, p);
    return true;
}
