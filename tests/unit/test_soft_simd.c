// SPDX-License-Identifier: Apache-2.0
/* Vector and x87 instructions where the differential test cannot go: what the system must have enabled, XCR0,
 * the XSAVE area's rules, gathers and masked moves that fault, unmasked exceptions with signals blocked, long
 * chains of blocks, state on its way out and in. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "hv/cpu/model.h"
#include "hv/cpu/soft/block.h"
#include "hv/cpu/soft/engine.h"
#include "hv/cpu/soft/exec.h"
#include "hv/cpu/soft/state.h"
#include "hv/cpu/soft/system.h"
#include "hv/cpu/soft/vm.h"
#include "tests/unit/memory_fixture.h"

#define RAM (4ull << 20)
#define CODE 0x1000u
#define AREA 0x4000u
#define DATA 0x6000u
#define AVX_AT 576u
#define COMPACT (1ull << 63)

struct fix {
    struct fy_gmem *gmem;
    struct fy_bus *bus;
    struct soft_vm *vm;
    struct soft_cpu *c;
};

static Ferry__CpuidEntry leaves[] = {
    {.function = 0, .eax = 0xd, .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69},
    {.function = 1, .ecx = ~0u, .edx = ~0u},
    {.function = 7, .ebx = ~0u},
    {.function = 0xd, .indexed = true, .eax = 7, .ebx = 832, .ecx = 832},
    {.function = 0xd, .indexed = true, .index = 1, .eax = 7},
    {.function = 0x80000000u, .eax = 0x80000008u},
    {.function = 0x80000001u, .ecx = ~0u, .edx = ~0u},
};
#define LEAVES (sizeof leaves / sizeof *leaves)
static Ferry__CpuidEntry *leaf_list[LEAVES];
static Ferry__CpuPolicy policy = {.n_cpuid = LEAVES, .cpuid = leaf_list, .tsc_khz = 2000000};

/* Unpaged 32-bit protected mode at ring 0, flat; AVX enabled. */
static void prepare(struct soft_cpu *c)
{
    memset(c->gpr, 0, sizeof c->gpr);
    memset(c->seg, 0, sizeof c->seg);
    for (unsigned i = 0; i < 6; i++)
        c->seg[i] = (struct soft_segment){
            .limit = ~0u, .type = i == SOFT_CS ? 11 : 3, .present = true, .s = true, .db = true};
    c->cr0 = SOFT_CR0_ET | SOFT_CR0_PE | SOFT_CR0_NE;
    c->cr4 = SOFT_CR4_OSFXSR | SOFT_CR4_OSXMMEXCPT | SOFT_CR4_OSXSAVE;
    c->efer = 0;
    c->xcr0 = 7;
    c->mxcsr = 0x1f80;
    c->fpu = (struct soft_fpu){.fcw = 0x37f};
    memset(c->ymm, 0, sizeof c->ymm);
    c->cpl = 0;
    c->run_state = 0;
    c->exc.pending = false;
    c->retry = false;
    soft_set_rflags(c, 2);
    soft_code_drop_all(c);
    soft_tlb_flush(c);
    soft_mode_changed(c);
}

static int setup(void **state)
{
    struct fix *f = calloc(1, sizeof *f);
    struct fy_err e;
    if (!soft_feature_whole("avx2")) {
        free(f);
        *state = NULL;
        return 0;
    }
    for (unsigned i = 0; i < LEAVES; i++) {
        leaves[i].base.descriptor = &ferry__cpuid_entry__descriptor;
        leaf_list[i] = &leaves[i];
    }
    policy.base.descriptor = &ferry__cpu_policy__descriptor;
    f->gmem = fx_memory(RAM, &e);
    f->bus = fy_bus_new(&e);
    struct fy_engine_config config = {.gmem = f->gmem, .bus = f->bus, .vcpus = 1, .policy = &policy};
    f->vm = soft_vm_new(&config, &e);
    assert_non_null(f->vm);
    f->c = f->vm->cpus[0];
    prepare(f->c);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fix *f = *state;
    if (!f)
        return 0;
    soft_vm_free(f->vm);
    fy_bus_free(f->bus);
    fy_gmem_free(f->gmem);
    free(f);
    return 0;
}

#define BEGIN                                                                                                \
    struct fix *f = *state;                                                                                  \
    if (!f)                                                                                                  \
        skip(); /* a host without AVX2 */                                                                    \
    struct soft_cpu *c = f->c

/* Run code up to the UD2 behind it (true), or another exception. */
static bool run_at(struct fix *f, const void *code, unsigned n)
{
    struct soft_cpu *c = f->c;
    uint8_t *p = fy_gmem_at(f->gmem, CODE, n + 2);
    memcpy(p, code, n);
    memcpy(p + n, "\x0f\x0b", 2);
    soft_code_drop_all(c);
    c->rip = CODE;
    c->run_limit = c->insns + 100000000;
    __atomic_store_n(&c->limit, c->run_limit, __ATOMIC_SEQ_CST);
    c->exc.pending = false;
    while (!c->exc.pending && c->insns < c->limit) {
        struct soft_block *b = soft_find(c, c->rip);
        const struct soft_insn *in = b ? b->code : NULL;
        if (!b)
            break;
        c->block = b;
        c->gpr[SOFT_GPR_BLOCK] = c->rip;
        soft_bases_changed(c);
        c->insns += b->count;
        while (in)
            in = in->fn(c, in);
        c->block = &soft_unlinked;
    }
    c->exc.pending = false;
    return c->exc.vector == SOFT_UD && c->rip == CODE + n;
}
/* 0xff: it ran through; else the exception's vector. */
#define RUN(...)                                                                                             \
    (__extension__({                                                                                         \
        static const uint8_t code_[] = {__VA_ARGS__};                                                        \
        run_at(f, code_, sizeof code_) ? 0xffu : (unsigned)c->exc.vector;                                    \
    }))
#define DONE 0xffu

#define VZEROUPPER 0xc5, 0xf8, 0x77
#define VADDPS 0xc5, 0xf4, 0x58, 0xd8             /* ymm3 = ymm1 + ymm0 */
#define ADDPS 0x0f, 0x58, 0xc1                    /* xmm0 += xmm1 */
#define DIVPS 0x0f, 0x5e, 0xc1                    /* xmm0 /= xmm1 */
#define VDIVPS 0xc5, 0xf4, 0x5e, 0xd8             /* ymm3 = ymm1 / ymm0 */
#define GATHER 0xc4, 0xe2, 0x69, 0x90, 0x04, 0x08 /* vpgatherdd xmm0, [eax + xmm1], xmm2 */
#define MASK_LOAD 0xc4, 0xe2, 0x6d, 0x2c, 0x00    /* vmaskmovps ymm0, ymm2, [eax] */
#define MASK_STORE 0xc4, 0xe2, 0x6d, 0x2e, 0x00   /* vmaskmovps [eax], ymm2, ymm0 */
#define XSAVE 0x0f, 0xae, 0x23                    /* [ebx] */
#define XRSTOR 0x0f, 0xae, 0x2b
#define XSAVEOPT 0x0f, 0xae, 0x33
#define XSAVEC 0x0f, 0xc7, 0x23
#define XGETBV 0x0f, 0x01, 0xd0
#define XSETBV 0x0f, 0x01, 0xd1

/* --- who may run --- */

static void enabling(void **state)
{
    BEGIN;
    assert_int_equal(RUN(VADDPS), DONE);
    c->cr4 &= ~(uint64_t)SOFT_CR4_OSXSAVE;
    assert_int_equal(RUN(VADDPS), SOFT_UD);
    assert_int_equal(RUN(ADDPS), DONE);
    c->cr0 |= SOFT_CR0_TS;
    assert_int_equal(RUN(VADDPS), SOFT_UD); /* goes before #NM */
    assert_int_equal(RUN(ADDPS), SOFT_NM);
    c->cr4 |= SOFT_CR4_OSXSAVE;
    assert_int_equal(RUN(VADDPS), SOFT_NM);
    assert_int_equal(RUN(XSAVE), SOFT_NM);
    c->cr0 &= ~(uint64_t)SOFT_CR0_TS;
    c->xcr0 = 3;
    assert_int_equal(RUN(VADDPS), SOFT_UD);
    assert_int_equal(RUN(VZEROUPPER), SOFT_UD);
    c->xcr0 = 7;
    c->cr4 &= ~(uint64_t)SOFT_CR4_OSFXSR; /* the legacy instructions' own switch */
    assert_int_equal(RUN(VADDPS), DONE);
    assert_int_equal(RUN(ADDPS), SOFT_UD);
    c->cr4 |= SOFT_CR4_OSFXSR;
    c->cr0 |= SOFT_CR0_EM;
    assert_int_equal(RUN(ADDPS), SOFT_UD);
    c->cr0 &= ~(uint64_t)SOFT_CR0_EM;
    assert_int_equal(RUN(ADDPS), DONE);
    /* what the model does not offer */
    c->features &= ~(1ull << SOFT_F_AVX);
    assert_int_equal(RUN(VADDPS), SOFT_UD);
}

static void real_mode(void **state)
{
    BEGIN;
    c->cr0 &= ~(uint64_t)SOFT_CR0_PE;
    for (unsigned i = 0; i < 6; i++) {
        c->seg[i].limit = 0xffff;
        c->seg[i].db = false;
    }
    soft_mode_changed(c);
    assert_int_equal(RUN(VADDPS), SOFT_UD);
    assert_int_equal(RUN(0xc4, 0xe2, 0x70, 0xf2, 0xc2), SOFT_UD); /* andn eax, ecx, edx */
    assert_int_equal(RUN(ADDPS), DONE);
}

static void xsetbv(void **state)
{
    BEGIN;
    static const struct {
        uint32_t ecx, eax, edx;
        unsigned want;
    } table[] = {{0, 7, 0, DONE},     {0, 3, 0, DONE},      {0, 1, 0, DONE},    {0, 0, 0, SOFT_GP},
                 {0, 6, 0, SOFT_GP},  {0, 5, 0, SOFT_GP},   {1, 7, 0, SOFT_GP}, {0, 7, 1, SOFT_GP},
                 {0, 15, 0, SOFT_GP}, {0, 0xe7, 0, SOFT_GP}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        c->xcr0 = 1;
        c->gpr[SOFT_RCX] = table[i].ecx;
        c->gpr[SOFT_RAX] = table[i].eax;
        c->gpr[SOFT_RDX] = table[i].edx;
        assert_int_equal(RUN(XSETBV), table[i].want);
        assert_int_equal(c->xcr0, table[i].want == DONE ? table[i].eax : 1);
    }
    c->gpr[SOFT_RCX] = 0;
    c->gpr[SOFT_RDX] = 55;
    c->xcr0 = 3;
    assert_int_equal(RUN(XGETBV), DONE);
    assert_int_equal(c->gpr[SOFT_RAX], 3);
    assert_int_equal(c->gpr[SOFT_RDX], 0);
    c->gpr[SOFT_RCX] = 1; /* XGETBV1: of those, what is in use */
    assert_int_equal(RUN(XGETBV), DONE);
    assert_int_equal(c->gpr[SOFT_RAX] & ~3ull, 0);
    c->gpr[SOFT_RCX] = 2;
    assert_int_equal(RUN(XGETBV), SOFT_GP);
    c->gpr[SOFT_RCX] = 0;
    c->gpr[SOFT_RAX] = 7;
    c->gpr[SOFT_RDX] = 0;
    c->cpl = 3;
    soft_mode_changed(c);
    assert_int_equal(RUN(XSETBV), SOFT_GP);
    assert_int_equal(RUN(XGETBV), DONE);
    c->cr4 &= ~(uint64_t)SOFT_CR4_OSXSAVE;
    assert_int_equal(RUN(XSETBV), SOFT_UD);
    assert_int_equal(RUN(XGETBV), SOFT_UD);
    assert_int_equal(RUN(XSAVE), SOFT_UD);
    assert_int_equal(RUN(XRSTOR), SOFT_UD);
}

/* CPUID shows CR4.OSXSAVE and the size of what XCR0 enables. */
static void reflected(void **state)
{
    BEGIN;
    for (unsigned on = 0; on < 2; on++) {
        c->cr4 = on ? c->cr4 | SOFT_CR4_OSXSAVE : c->cr4 & ~(uint64_t)SOFT_CR4_OSXSAVE;
        c->gpr[SOFT_RAX] = 1;
        assert_int_equal(RUN(0x0f, 0xa2), DONE);
        assert_int_equal(c->gpr[SOFT_RCX] >> 27 & 1, on);
    }
    for (unsigned i = 0; i < 2; i++) {
        c->xcr0 = i ? 7 : 3;
        c->gpr[SOFT_RAX] = 0xd;
        c->gpr[SOFT_RCX] = 0;
        assert_int_equal(RUN(0x0f, 0xa2), DONE);
        assert_int_equal(c->gpr[SOFT_RBX], i ? 832 : 576);
        assert_int_equal(c->gpr[SOFT_RCX], 832);
        c->gpr[SOFT_RAX] = 0xd;
        c->gpr[SOFT_RCX] = 1;
        assert_int_equal(RUN(0x0f, 0xa2), DONE);
        assert_int_equal(c->gpr[SOFT_RBX], i ? 832 : 576);
    }
}

/* --- the XSAVE area --- */

static uint64_t *area64(struct fix *f, unsigned at)
{
    return (uint64_t *)(void *)fy_gmem_at(f->gmem, AREA + at, 8);
}

static void fill(struct fix *f)
{
    memset(fy_gmem_at(f->gmem, AREA, 1024), 0xa5, 1024);
    memset(fy_gmem_at(f->gmem, AREA + 512, 64), 0, 64);
}

static void want(struct soft_cpu *c, unsigned components)
{
    c->gpr[SOFT_RBX] = AREA;
    c->gpr[SOFT_RDX] = 0;
    c->gpr[SOFT_RAX] = components;
}
#define A5 0xa5a5a5a5a5a5a5a5ull

static void xsave(void **state)
{
    BEGIN;
    fill(f);
    want(c, 7);
    *area64(f, 512) = 0x10; /* of a component that is not asked for: stays */
    *area64(f, 520) = 0x20; /* XSAVE does not write the rest of the header */
    c->ymm[1].u64[0] = 11;
    c->ymm[1].u64[2] = 22;
    assert_int_equal(RUN(XSAVE), DONE);
    assert_int_equal(*area64(f, 512), 0x17);
    assert_int_equal(*area64(f, 520), 0x20);
    assert_int_equal(*area64(f, 160 + 16), 11);
    assert_int_equal(*area64(f, AVX_AT + 16), 22);
    assert_int_equal(*area64(f, AVX_AT + 128), A5); /* eight registers outside 64-bit mode */
    assert_int_equal((uint32_t)*area64(f, 24), 0x1f80);
    /* AVX alone: MXCSR with it, no more. */
    fill(f);
    want(c, 4);
    assert_int_equal(RUN(XSAVE), DONE);
    assert_int_equal(*area64(f, 512), 4);
    assert_int_equal(*area64(f, 0), A5);
    assert_int_equal(*area64(f, 160 + 16), A5);
    assert_int_equal((uint32_t)*area64(f, 24), 0x1f80);
    /* What is in its initial state: bit clear, XSAVEOPT does not write it (but MXCSR). */
    memset(c->ymm, 0, sizeof c->ymm);
    fill(f);
    want(c, 7);
    *area64(f, 512) = 7;
    assert_int_equal(RUN(XSAVEOPT), DONE);
    assert_int_equal(*area64(f, 512), 1);
    assert_int_equal(*area64(f, 160), A5);
    assert_int_equal(*area64(f, AVX_AT), A5);
    assert_int_equal((uint32_t)*area64(f, 24), 0x1f80);
    /* XSAVEC: the compacted header; MXCSR is SSE's. */
    fill(f);
    c->ymm[0].u64[2] = 33;
    assert_int_equal(RUN(XSAVEC), DONE);
    assert_int_equal(*area64(f, 512), 5);
    assert_true(*area64(f, 520) == (COMPACT | 7));
    assert_int_equal(*area64(f, 24), A5);
    assert_int_equal(*area64(f, AVX_AT), 33);
    c->mxcsr = 0x1fa0;
    assert_int_equal(RUN(XSAVEC), DONE);
    assert_int_equal(*area64(f, 512), 7);
    assert_int_equal((uint32_t)*area64(f, 24), 0x1fa0);
    /* XCR0 bounds what is asked for; alignment. */
    c->xcr0 = 3;
    fill(f);
    want(c, ~0u);
    assert_int_equal(RUN(XSAVE), DONE);
    assert_int_equal(*area64(f, 512) & ~3ull, 0);
    assert_int_equal(*area64(f, AVX_AT), A5);
    c->gpr[SOFT_RBX] = AREA + 16;
    assert_int_equal(RUN(XSAVE), SOFT_GP);
    assert_int_equal(RUN(XRSTOR), SOFT_GP);
}

static void image(struct fix *f, uint64_t bv, uint64_t comp)
{
    fill(f);
    memset(fy_gmem_at(f->gmem, AREA, 512), 0, 512);
    *area64(f, 0) = 0x37f;
    *area64(f, 24) = 0x1fc0;
    *area64(f, 160) = 44;
    *area64(f, AVX_AT) = 55;
    *area64(f, 512) = bv;
    *area64(f, 520) = comp;
}

static void xrstor_refuses(void **state)
{
    BEGIN;
    want(c, 7);
    c->ymm[0].u64[0] = 1;
    static const struct {
        uint64_t bv, comp;
    } bad[] = {{8, 0}, {7, 1}, {7, COMPACT | 3}, {3, COMPACT | 0xf}, {0x20, COMPACT | 0x27}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        image(f, bad[i].bv, bad[i].comp);
        assert_int_equal(RUN(XRSTOR), SOFT_GP);
    }
    image(f, 7, 0);
    *area64(f, 528) = 1; /* reserved in either format */
    assert_int_equal(RUN(XRSTOR), SOFT_GP);
    image(f, 7, 0);
    *area64(f, 536) = 1; /* in the compacted one only */
    assert_int_equal(RUN(XRSTOR), DONE);
    image(f, 7, COMPACT | 7);
    *area64(f, 536) = 1;
    assert_int_equal(RUN(XRSTOR), SOFT_GP);
    image(f, 7, 0);
    c->ymm[0].u64[0] = 1;
    *area64(f, 24) = 0x10000; /* reserved bits of MXCSR */
    assert_int_equal(RUN(XRSTOR), SOFT_GP);
    assert_int_equal(c->ymm[0].u64[0], 1);
    /* A processor without XSAVEC knows no compacted format. */
    image(f, 7, COMPACT | 7);
    assert_int_equal(RUN(XRSTOR), DONE);
    c->features &= ~(1ull << SOFT_F_XSAVEC);
    assert_int_equal(RUN(XRSTOR), SOFT_GP);
}

static void xrstor_loads(void **state)
{
    BEGIN;
    want(c, 7);
    image(f, 7, 0);
    c->ymm[8].u64[2] = 9;
    assert_int_equal(RUN(XRSTOR), DONE);
    assert_int_equal(c->ymm[0].u64[0], 44);
    assert_int_equal(c->ymm[0].u64[2], 55);
    assert_int_equal(c->ymm[8].u64[2], 9); /* not of this mode */
    assert_int_equal(c->mxcsr, 0x1fc0);
    /* Clear bits: initial values; MXCSR all the same is the area's. */
    image(f, 0, 0);
    assert_int_equal(RUN(XRSTOR), DONE);
    assert_int_equal(c->ymm[0].u64[0], 0);
    assert_int_equal(c->ymm[0].u64[2], 0);
    assert_int_equal(c->fpu.fcw, 0x37f);
    assert_int_equal(c->mxcsr, 0x1fc0);
    /* Compacted: MXCSR is SSE's. */
    image(f, 4, COMPACT | 7);
    assert_int_equal(RUN(XRSTOR), DONE);
    assert_int_equal(c->ymm[0].u64[0], 0);
    assert_int_equal(c->ymm[0].u64[2], 55);
    assert_int_equal(c->mxcsr, 0x1f80);
    /* What is not asked for stays. */
    c->ymm[0].u64[0] = 77;
    image(f, 7, 0);
    *area64(f, AVX_AT) = 66;
    want(c, 4);
    assert_int_equal(RUN(XRSTOR), DONE);
    assert_int_equal(c->ymm[0].u64[0], 77);
    assert_int_equal(c->ymm[0].u64[2], 66);
}

/* --- access by element --- */

static void gather_restart(void **state)
{
    BEGIN;
    uint32_t *data = (uint32_t *)(void *)fy_gmem_at(f->gmem, DATA, 4096);
    for (unsigned i = 0; i < 1024; i++)
        data[i] = 1000 + i;
    c->gpr[SOFT_RAX] = DATA;
    for (unsigned i = 0; i < 8; i++) {
        c->ymm[0].u32[i] = 7;
        c->ymm[2].u32[i] = i == 1 ? 0x7fffffff : 0x80000000;
    }
    c->ymm[1].u32[0] = 4;
    c->ymm[1].u32[1] = 0x7fffffff; /* not chosen: no fault */
    c->ymm[1].u32[2] = 0x3000;     /* beyond the segment */
    c->ymm[1].u32[3] = 8;
    c->seg[SOFT_DS].limit = 0x8fff;
    soft_mode_changed(c);
    assert_int_equal(RUN(GATHER), SOFT_GP);
    assert_int_equal(c->rip, CODE);
    assert_int_equal(c->ymm[0].u32[0], 1001);
    assert_int_equal(c->ymm[0].u32[1], 7);
    assert_int_equal(c->ymm[0].u32[2], 7);
    assert_int_equal(c->ymm[0].u32[3], 7);
    assert_int_equal(c->ymm[2].u32[0], 0);
    assert_int_equal(c->ymm[2].u32[2], 0x80000000);
    assert_int_equal(c->ymm[2].u32[3], 0x80000000);
    /* Put right and begun again: what is loaded is not loaded again. */
    data[1] = 1;
    c->ymm[1].u32[2] = 12;
    assert_int_equal(RUN(GATHER), DONE);
    assert_int_equal(c->ymm[0].u32[0], 1001);
    assert_int_equal(c->ymm[0].u32[1], 7);
    assert_int_equal(c->ymm[0].u32[2], 1003);
    assert_int_equal(c->ymm[0].u32[3], 1002);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(c->ymm[2].u64[i], 0);
        assert_int_equal(i < 2 ? 0 : c->ymm[0].u64[i], 0);
    }
}

static void masked_moves(void **state)
{
    BEGIN;
    uint32_t *data = (uint32_t *)(void *)fy_gmem_at(f->gmem, 0x8ff0, 64);
    memset(data, 0, 64);
    data[0] = 5;
    data[3] = 6;
    c->seg[SOFT_DS].limit = 0x8fff;
    soft_mode_changed(c);
    c->gpr[SOFT_RAX] = 0x8ff0;
    for (unsigned i = 0; i < 8; i++) {
        c->ymm[0].u32[i] = 9;
        c->ymm[2].u32[i] = i < 4 && i != 1 ? 0xffffffff : 0x7fffffff;
    }
    assert_int_equal(RUN(MASK_LOAD), DONE);
    assert_int_equal(c->ymm[0].u32[0], 5);
    assert_int_equal(c->ymm[0].u32[1], 0);
    assert_int_equal(c->ymm[0].u32[3], 6);
    assert_int_equal(c->ymm[0].u64[2] | c->ymm[0].u64[3], 0);
    for (unsigned i = 0; i < 8; i++)
        c->ymm[0].u32[i] = 100 + i;
    assert_int_equal(RUN(MASK_STORE), DONE);
    assert_int_equal(data[0], 100);
    assert_int_equal(data[1], 0);
    assert_int_equal(data[3], 103);
    /* A chosen element that faults: nothing is stored, nothing loaded. */
    c->ymm[2].u32[4] = 0x80000000;
    for (unsigned i = 0; i < 8; i++)
        c->ymm[0].u32[i] = 200 + i;
    assert_int_equal(RUN(MASK_STORE), SOFT_GP);
    assert_int_equal(data[0], 100);
    assert_int_equal(RUN(MASK_LOAD), SOFT_GP);
    assert_int_equal(c->ymm[0].u32[0], 200);
    /* No element at all: not even the address counts. */
    memset(&c->ymm[2], 0, 32);
    c->gpr[SOFT_RAX] = 0xfffffff8;
    assert_int_equal(RUN(MASK_LOAD), DONE);
    assert_int_equal(RUN(MASK_STORE), DONE);
}

/* --- exceptions --- */

/* As in a vCPU's thread, with all signals blocked. */
static void *unmasked(void *arg)
{
    struct fix *f = arg;
    struct soft_cpu *c = f->c;
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    for (unsigned i = 0; i < 8; i++) {
        c->ymm[0].f32[i] = i < 4 ? 1 : 0;
        c->ymm[1].f32[i] = i < 4 ? 0 : 1;
        c->ymm[3].f32[i] = 5;
    }
    c->mxcsr = 0x1d80; /* zero-divide */
    assert_int_equal(RUN(DIVPS), SOFT_XM);
    assert_int_equal(c->mxcsr, 0x1d84);
    assert_true(c->ymm[0].f32[0] == 1);
    c->mxcsr = 0x1d80;
    assert_int_equal(RUN(VDIVPS), SOFT_XM); /* in the upper lane: the whole destination stays */
    assert_int_equal(c->mxcsr, 0x1d84);
    assert_true(c->ymm[3].f32[0] == 5);
    c->cr4 &= ~(uint64_t)SOFT_CR4_OSXMMEXCPT;
    assert_int_equal(RUN(DIVPS), SOFT_UD);
    c->cr4 |= SOFT_CR4_OSXMMEXCPT;
    /* A tiny result that is exact: underflow only where it is unmasked. */
    for (unsigned i = 0; i < 4; i++) {
        c->ymm[0].f32[i] = 0x1p-126f;
        c->ymm[1].f32[i] = 2;
    }
    c->mxcsr = 0x1f80;
    assert_int_equal(RUN(DIVPS), DONE);
    assert_int_equal(c->mxcsr, 0x1f80);
    assert_true(c->ymm[0].u32[0] == 0x400000);
    c->ymm[0].f32[0] = c->ymm[0].f32[1] = c->ymm[0].f32[2] = c->ymm[0].f32[3] = 0x1p-126f;
    c->mxcsr = 0x1780;
    assert_int_equal(RUN(DIVPS), SOFT_XM);
    assert_int_equal(c->mxcsr, 0x1790);
    assert_true(c->ymm[0].f32[0] == 0x1p-126f);
    return NULL;
}

static void exceptions(void **state)
{
    BEGIN;
    pthread_t thread;
    (void)c;
    assert_int_equal(pthread_create(&thread, NULL, unmasked, f), 0);
    pthread_join(thread, NULL);
}

static void zero_upper(void **state)
{
    BEGIN;
    memset(c->ymm, 0xff, sizeof c->ymm);
    assert_int_equal(RUN(VZEROUPPER), DONE);
    for (unsigned i = 0; i < 16; i++) {
        assert_true(c->ymm[i].u64[1] == ~0ull);
        assert_true(c->ymm[i].u64[2] == (i < 8 ? 0 : ~0ull));
    }
    assert_int_equal(RUN(0xc5, 0xfc, 0x77), DONE); /* vzeroall */
    for (unsigned i = 0; i < 16; i++)
        assert_true(c->ymm[i].u64[0] == (i < 8 ? 0 : ~0ull));
}

/* The handlers go from one to the next by jumps: a chain of blocks takes no stack, however long. */
static void chains(void **state)
{
    BEGIN;
    c->gpr[SOFT_RAX] = AREA;
    c->gpr[SOFT_RCX] = 1000000;
    assert_int_equal(
        RUN(ADDPS, VADDPS, 0xc5, 0xed, 0xfe, 0xd0, /* vpaddd */ 0x0f, 0x10, 0x20,          /* movups load */
            0x0f, 0x11, 0x20, /* and store */ 0x0f, 0xfe, 0xc1, /* paddd mm */ 0xd9, 0xe8, /* fld1 */
            0xdd, 0xd8, /* fstp */ 0x49, /* dec ecx */ 0x75, 0xe5),
        DONE);
    assert_int_equal(c->gpr[SOFT_RCX], 0);
}

static void travel(void **state)
{
    BEGIN;
    struct fy_err e;
    for (unsigned i = 0; i < 16; i++)
        for (unsigned k = 0; k < 4; k++)
            c->ymm[i].u64[k] = 0x100 * i + k + 1;
    union soft_vec was[16];
    memcpy(was, c->ymm, sizeof was);
    c->mxcsr = 0x9fc1;
    c->fpu.fcw = 0x27f;
    Ferry__Vcpu *v = soft_vcpu_save((struct fy_engine *)(void *)f->vm, 0, &e);
    assert_non_null(v);
    assert_int_equal(v->n_xcr, 1);
    assert_int_equal(v->xcr[0], 7);
    assert_int_equal(v->xsave.len, 832);
    assert_int_equal(v->xsave.data[512], 7);
    assert_memory_equal(v->xsave.data + 160 + 16 * 5, &was[5], 16);
    assert_memory_equal(v->xsave.data + AVX_AT + 16 * 5, was[5].u8 + 16, 16);
    memset(c->ymm, 0, sizeof c->ymm);
    c->xcr0 = 1;
    c->mxcsr = 0x1f80;
    assert_int_equal(soft_vcpu_load((struct fy_engine *)(void *)f->vm, 0, v, &e), 0);
    assert_memory_equal(c->ymm, was, sizeof was);
    assert_int_equal(c->xcr0, 7);
    assert_int_equal(c->mxcsr, 0x9fc1);
    assert_int_equal(c->fpu.fcw, 0x27f);
    /* From KVM a component may be left out for being in its initial state. */
    v->xsave.data[512] = 3;
    assert_int_equal(soft_vcpu_load((struct fy_engine *)(void *)f->vm, 0, v, &e), 0);
    assert_memory_equal(&c->ymm[5], &was[5], 16);
    assert_int_equal(c->ymm[5].u64[2] | c->ymm[5].u64[3], 0);
    ferry__vcpu__free_unpacked(v, NULL);
}

/* All levels are offered where the host's vector units are those of x86-64-v3. */
static void models(void **state)
{
    BEGIN;
    static struct fy_cpu_support s;
    static const char *const names[] = {"x86-64-v1", "x86-64-v2", "x86-64-v3", "host"};
    struct fy_err e;
    fy_soft_support(&s);
    assert_string_equal(fy_cpu_default_model(&s), "x86-64-v2");
    (void)c;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        Ferry__CpuPolicy *p = malloc(sizeof *p);
        ferry__cpu_policy__init(p);
        assert_int_equal(fy_cpu_resolve(names[i], &s, p, &e), 0);
        assert_int_equal(fy_cpu_has(p, "avx2"), i >= 2);
        assert_int_equal(fy_cpu_has(p, "popcnt"), i >= 1);
        assert_int_equal(fy_cpu_xcr0(p), i >= 2 ? 7 : 3);
        if (fy_cpu_has(p, "aes"))
            assert_true(i == 3 && soft_host_has("aes"));
        assert_false(fy_cpu_has(p, "avx512f"));
        ferry__cpu_policy__free_unpacked(p, NULL);
    }
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(enabling),       T(real_mode),    T(xsetbv),         T(reflected),    T(xsave),
        T(xrstor_refuses), T(xrstor_loads), T(gather_restart), T(masked_moves), T(exceptions),
        T(zero_upper),     T(chains),       T(travel),         T(models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
