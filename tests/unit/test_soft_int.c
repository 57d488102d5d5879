// SPDX-License-Identifier: Apache-2.0
/* Integer instructions where the differential test cannot go: 16-bit stacks and addresses, decimal adjustment
 * over all inputs, LOCK between threads, the seeded RDRAND, lazy flags against plain arithmetic. */
#include "tests/unit/soft_core_fixture.h"

#define LOW_CODE 0x1000u /* in reach of 16-bit addresses */

/* Unpaged, ring 0; flat segments but for SS's size. bits: 16, or 32 (protected mode). */
static struct soft_cpu *prepare(struct fix *f, unsigned cpu, unsigned bits, bool stack32)
{
    struct soft_cpu *c = f->vm->cpus[cpu];
    memset(c->gpr, 0, sizeof c->gpr);
    memset(c->seg, 0, sizeof c->seg);
    for (unsigned i = 0; i < 6; i++)
        c->seg[i] = (struct soft_segment){.limit = bits == 16 ? 0xffff : ~0u,
                                          .type = i == SOFT_CS ? 11 : 3,
                                          .present = true,
                                          .s = true,
                                          .db = bits == 32};
    c->seg[SOFT_SS].db = stack32;
    c->cr0 = SOFT_CR0_ET | (bits == 32 ? SOFT_CR0_PE : 0);
    c->cr4 = c->efer = 0;
    c->cpl = 0;
    c->exc.pending = false;
    c->retry = false;
    soft_set_rflags(c, 2);
    soft_code_drop_all(c);
    soft_tlb_flush(c);
    soft_mode_changed(c);
    return c;
}

/* Run code at LOW_CODE up to the UD2 behind it, or another exception. */
static void run_at(struct fix *f, struct soft_cpu *c, const void *code, unsigned n)
{
    uint8_t *p = fy_gmem_at(f->gmem, LOW_CODE, n + 2);
    if (memcmp(p, code, n) || memcmp(p + n, "\x0f\x0b", 2)) {
        memcpy(p, code, n);
        memcpy(p + n, "\x0f\x0b", 2);
        soft_code_drop_all(c);
    }
    c->rip = LOW_CODE;
    c->run_limit = c->insns + 100000000;
    __atomic_store_n(&c->limit, c->run_limit, __ATOMIC_SEQ_CST);
    c->exc.pending = false;
    while (!c->exc.pending && c->insns < c->limit) {
        struct soft_block *b = soft_find(c, c->rip);
        const struct soft_insn *in = b ? b->code : NULL;
        if (!b)
            return;
        c->block = b;
        c->gpr[SOFT_GPR_BLOCK] = c->rip;
        soft_bases_changed(c);
        c->insns += b->count;
        while (in)
            in = in->fn(c, in);
        c->block = &soft_unlinked;
    }
}
#define RUN(f, c, ...)                                                                                       \
    do {                                                                                                     \
        static const uint8_t code_[] = {__VA_ARGS__};                                                        \
        run_at(f, c, code_, sizeof code_);                                                                   \
    } while (0)

static uint32_t at(struct fix *f, uint32_t gpa, unsigned n)
{
    uint32_t v = 0;
    memcpy(&v, fy_gmem_at(f->gmem, gpa, n), n);
    return v;
}

/* The 16-bit stack pointer wraps, and keeps ESP's upper half. */
static void stack16(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = prepare(f, 0, 16, false);
    c->gpr[SOFT_RSP] = 0xabcd0000;
    c->gpr[SOFT_RAX] = 0x11223344;
    RUN(f, c, 0x50); /* push ax */
    assert_int_equal(c->exc.vector, SOFT_UD);
    assert_int_equal(c->gpr[SOFT_RSP], 0xabcdfffe);
    assert_int_equal(at(f, 0xfffe, 2), 0x3344);
    RUN(f, c, 0x66, 0x50); /* push eax */
    assert_int_equal(c->gpr[SOFT_RSP], 0xabcdfffa);
    assert_int_equal(at(f, 0xfffa, 4), 0x11223344);
    c->gpr[SOFT_RBP] = 0x5555000c;
    c->gpr[SOFT_RSP] = 0x1000;
    RUN(f, c, 0xc8, 0x10, 0x00, 0x00); /* enter 16, 0 */
    assert_int_equal(c->gpr[SOFT_RSP], 0x1000 - 2 - 16);
    assert_int_equal(c->gpr[SOFT_RBP], 0x55550ffe);
    RUN(f, c, 0xc9); /* leave */
    assert_int_equal(c->gpr[SOFT_RSP], 0x1000);
    assert_int_equal(c->gpr[SOFT_RBP], 0x5555000c);
    /* A push that the segment's limit cuts in two is #SS, and changes nothing. */
    c->gpr[SOFT_RSP] = 1;
    RUN(f, c, 0x50);
    assert_int_equal(c->exc.vector, SOFT_SSF);
    assert_int_equal(c->gpr[SOFT_RSP], 1);
}

static void pusha16(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = prepare(f, 0, 16, false);
    for (unsigned i = 0; i < 8; i++)
        c->gpr[i] = 0x77770000 + 0x111 * i;
    c->gpr[SOFT_RSP] = 0x2000;
    RUN(f, c, 0x60); /* pusha */
    assert_int_equal(c->gpr[SOFT_RSP], 0x1ff0);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(at(f, 0x2000 - 2 * (i + 1), 2), i == SOFT_RSP ? 0x2000 : 0x111 * i);
    for (unsigned i = 0; i < 8; i++)
        if (i != SOFT_RSP)
            c->gpr[i] = 0x99990000;
    RUN(f, c, 0x61); /* popa */
    assert_int_equal(c->gpr[SOFT_RSP], 0x2000);
    for (unsigned i = 0; i < 8; i++)
        if (i != SOFT_RSP)
            assert_int_equal(c->gpr[i], 0x99990000 + 0x111 * i);
}

/* 16-bit string addresses wrap inside the segment; upper halves stay. */
static void string16(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = prepare(f, 0, 16, false);
    uint8_t *ram = fy_gmem_at(f->gmem, 0, 0x10000);
    for (unsigned i = 0; i < 64; i++)
        ram[0x8000 + i] = (uint8_t)(i + 1);
    c->gpr[SOFT_RSI] = 0xaaaa8000;
    c->gpr[SOFT_RDI] = 0xbbbbfff0;
    c->gpr[SOFT_RCX] = 0xcccc0020;
    RUN(f, c, 0xf3, 0xa4); /* rep movsb */
    assert_int_equal(c->exc.vector, SOFT_UD);
    assert_int_equal(c->gpr[SOFT_RSI], 0xaaaa8020);
    assert_int_equal(c->gpr[SOFT_RDI], 0xbbbb0010);
    assert_int_equal(c->gpr[SOFT_RCX], 0xcccc0000);
    for (unsigned i = 0; i < 32; i++)
        assert_int_equal(ram[(0xfff0 + i) & 0xffff], i + 1);
    /* Backwards, words, through 0; a word at 0xffff is #GP with the rest done. */
    c->gpr[SOFT_RDI] = 4;
    c->gpr[SOFT_RCX] = 4;
    c->gpr[SOFT_RAX] = 0x4241;
    RUN(f, c, 0xfd, 0xf3, 0xab); /* std; rep stosw */
    assert_int_equal(c->gpr[SOFT_RDI], 0xfffc);
    assert_int_equal(at(f, 0, 4), 0x42414241);
    assert_int_equal(at(f, 0xfffe, 2), 0x4241);
    c->gpr[SOFT_RDI] = 0xfffd;
    c->gpr[SOFT_RCX] = 3;
    RUN(f, c, 0xfc, 0xf3, 0xab);
    assert_int_equal(c->exc.vector, SOFT_GP);
    assert_int_equal(c->gpr[SOFT_RDI], 0xffff);
    assert_int_equal(c->gpr[SOFT_RCX], 2);
    assert_int_equal(c->rip, LOW_CODE + 1);
}

/* CALL, RET and branches of 16 bits; a target beyond CS's limit is #GP at the branch. */
static void flow16(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = prepare(f, 0, 16, false);
    c->gpr[SOFT_RSP] = 0x3000;
    RUN(f, c, 0xe8, 0x02, 0x00, 0xeb, 0x04, 0x40, 0xc3, 0x90, 0x90); /* call 5; jmp end; 5: inc ax; ret */
    assert_int_equal(c->exc.vector, SOFT_UD);
    assert_int_equal(c->gpr[SOFT_RAX], 1);
    assert_int_equal(c->gpr[SOFT_RSP], 0x3000);
    c->gpr[SOFT_RCX] = 0x10003;
    RUN(f, c, 0x40, 0xe2, 0xfd); /* inc ax; loop */
    assert_int_equal(c->gpr[SOFT_RAX], 4);
    assert_int_equal(c->gpr[SOFT_RCX], 0x10000);
    RUN(f, c, 0x66, 0xe9, 0x00, 0x00, 0x01, 0x00); /* jmp dword +0x10000 */
    assert_int_equal(c->exc.vector, SOFT_GP);
    assert_int_equal(c->rip, LOW_CODE);
}

/* All of AL, five AH, both carries. The sums are those of the same loop on a Zen 4 in compatibility mode. */
static void decimal(void **state)
{
    static const struct {
        uint8_t code[2], n;
        uint32_t flags;
        uint64_t sum;
    } ops[] = {
        {{0x37}, 1, 0x11, 0x81cf5831349ed1e5},     {{0x3f}, 1, 0x11, 0x7f3de705eb1009e5},
        {{0x27}, 1, 0xd5, 0x2fa559584f8f53e5},     {{0x2f}, 1, 0xd5, 0xe7a5cc3d420270e5},
        {{0xd4, 10}, 2, 0xc4, 0x97b3d6c94f2a46ed}, {{0xd5, 10}, 2, 0xc4, 0x35ac4bc4ab0c5925},
        {{0xd4, 7}, 2, 0xc4, 0x923c06cf01975bcd},  {{0xd5, 16}, 2, 0xc4, 0x42605ce70705f525},
    };
    static const unsigned highs[] = {0, 1, 9, 0x7f, 0xff};
    struct fix *f = *state;
    struct soft_cpu *c = prepare(f, 0, 32, true);
    for (unsigned o = 0; o < sizeof ops / sizeof *ops; o++) {
        uint64_t h = 0xcbf29ce484222325ull;
        for (unsigned al = 0; al < 256; al++)
            for (unsigned k = 0; k < 5; k++)
                for (unsigned fl = 0; fl < 4; fl++) {
                    c->gpr[SOFT_RAX] = al | highs[k] << 8;
                    soft_set_rflags(c, 2u | (fl & 1) | (fl & 2 ? 0x10u : 0));
                    run_at(f, c, ops[o].code, ops[o].n);
                    uint64_t v = (c->gpr[SOFT_RAX] & 0xffff) | (soft_rflags(c) & ops[o].flags) << 16;
                    h = (h ^ v) * 0x100000001b3ull;
                }
        assert_true(h == ops[o].sum);
    }
    c->gpr[SOFT_RAX] = 1;
    RUN(f, c, 0xd4, 0x00); /* aam 0 */
    assert_int_equal(c->exc.vector, SOFT_DE);
}

/* Flags by 64-bit arithmetic, for all pairs of bytes and both carries, through every lazy kind. */
static uint32_t model(unsigned op, unsigned a, unsigned b, unsigned carry, unsigned *out)
{
    unsigned w = op == 0 ? a + b : op == 1 ? a - b : op == 2 ? a + b + carry : a - b - carry, r = w & 0xff;
    int sa = (int8_t)a, sb = (int8_t)b, cin = op >= 2 ? (int)carry : 0;
    int s = op & 1 ? sa - sb - cin : sa + sb + cin;
    uint32_t v = w >> 8 & 1;
    v |= __builtin_parity(r) ? 0 : 4u;
    v |= (a ^ b ^ r) & 0x10;
    v |= r ? 0 : 0x40u;
    v |= r & 0x80;
    v |= s != (int8_t)s ? 0x800u : 0;
    *out = r;
    return v;
}
static void lazy_flags(void **state)
{
    static const uint8_t ops[4] = {0x00, 0x28, 0x10, 0x18}; /* add sub adc sbb al, cl */
    struct fix *f = *state;
    struct soft_cpu *c = prepare(f, 0, 32, true);
    for (unsigned op = 0; op < 4; op++) {
        uint8_t code[2] = {ops[op], 0xc8};
        for (unsigned a = 0; a < 256; a += op < 2 ? 1 : 3)
            for (unsigned b = 0; b < 256; b += 5)
                for (unsigned carry = 0; carry < 2; carry++) {
                    unsigned want, r;
                    c->gpr[SOFT_RAX] = a;
                    c->gpr[SOFT_RCX] = b;
                    soft_set_rflags(c, 2 | carry);
                    run_at(f, c, code, 2);
                    want = model(op, a, b, carry, &r);
                    assert_int_equal(c->gpr[SOFT_RAX], r);
                    assert_int_equal(soft_cc_get(&c->cc), want);
                    for (unsigned cc = 0; cc < 16; cc++) {
                        bool cf = want & 1, zf = want & 0x40, sf = want & 0x80, of = want & 0x800,
                             pf = want & 4;
                        bool base[8] = {of, cf, zf, cf || zf, sf, pf, sf != of, zf || sf != of};
                        assert_int_equal(soft_cc_test(&c->cc, cc), base[cc >> 1] != (cc & 1));
                    }
                }
    }
}

/* CF and OF put over other flags stay apart from them. */
static void overrides(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 64; i++) {
        static const uint32_t bits[6] = {1, 4, 0x10, 0x40, 0x80, 0x800};
        uint32_t v = 0;
        for (unsigned k = 0; k < 6; k++)
            v |= i >> k & 1 ? bits[k] : 0;
        for (unsigned co = 0; co < 4; co++) {
            struct soft_flags fl = {0};
            soft_cc_set(&fl, v);
            soft_cc_put_c(&fl, co & 1);
            assert_int_equal(soft_cc_get(&fl), (v & ~1u) | (co & 1));
            soft_cc_put_o(&fl, co & 2);
            assert_int_equal(soft_cc_get(&fl), (v & ~0x801u) | (co & 1) | (co & 2 ? 0x800 : 0));
            assert_int_equal(soft_cc_test(&fl, 12), ((v & 0x80) != 0) != ((co & 2) != 0));
            soft_cc_set(&fl, v);
            soft_cc_put_co(&fl, co & 1, co & 2);
            assert_int_equal(soft_cc_get(&fl), (v & ~0x801u) | (co & 1) | (co & 2 ? 0x800 : 0));
        }
    }
}

/* -- LOCK between two vCPUs -- */

#define COUNTER 0x20000u
#define ROUNDS 20000u

static void *hammer(void *arg)
{
    struct worker *w = arg;
    struct soft_cpu *c = w->c;
    c->rip = LOW_CODE;
    c->run_limit = c->insns + 100000000;
    soft_enter_guest(c);
    while (!c->exc.pending) {
        __atomic_store_n(&c->limit, c->run_limit, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&c->requests, __ATOMIC_SEQ_CST))
            soft_take_requests(c, true);
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
    soft_leave_guest(c);
    return NULL;
}

/* inc, xadd, cmpxchg loop, bts at several sizes and one split over two pages: nothing is lost. */
static void locked(void **state)
{
    static const uint8_t code[] = {
        0xf0, 0xff, 0x05, 0x00, 0x00, 0x02, 0x00,             /* lock inc dword [20000] */
        0xb8, 0x01, 0x00, 0x00, 0x00,                         /* mov eax, 1 */
        0xf0, 0x0f, 0xc1, 0x05, 0x08, 0x00, 0x02, 0x00,       /* lock xadd [20008], eax */
        0xf0, 0x83, 0x05, 0xfe, 0x0f, 0x02, 0x00, 0x01,       /* lock add dword [20ffe], 1: over two pages */
        0xf0, 0x66, 0x83, 0x15, 0x10, 0x00, 0x02, 0x00, 0x01, /* lock adc word [20010], 1 (CF is 0) */
        0xa1, 0x18, 0x00, 0x02, 0x00,                         /* again: mov eax, [20018] */
        0x8d, 0x50, 0x01,                                     /* lea edx, [eax + 1] */
        0xf0, 0x0f, 0xb1, 0x15, 0x18, 0x00, 0x02, 0x00,       /* lock cmpxchg [20018], edx */
        0x75, 0xee,                                           /* jnz again */
        0x49, 0x75, 0xc6,                                     /* dec ecx; jnz start */
        0x0f, 0x0b};
    struct fix *f = *state;
    struct worker w[CPUS];
    pthread_t t[CPUS];
    memset(fy_gmem_at(f->gmem, COUNTER, 0x2000), 0, 0x2000);
    memcpy(fy_gmem_at(f->gmem, LOW_CODE, sizeof code), code, sizeof code);
    for (unsigned i = 0; i < CPUS; i++) {
        w[i] = (struct worker){.f = f, .c = prepare(f, i, 32, true)};
        w[i].c->gpr[SOFT_RCX] = ROUNDS;
    }
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(pthread_create(&t[i], NULL, hammer, &w[i]), 0);
    for (unsigned i = 0; i < CPUS; i++)
        pthread_join(t[i], NULL);
    for (unsigned i = 0; i < CPUS; i++) {
        assert_int_equal(w[i].c->exc.vector, SOFT_UD);
        assert_int_equal(w[i].c->gpr[SOFT_RCX], 0);
    }
    assert_int_equal(at(f, COUNTER, 4), CPUS * ROUNDS);
    assert_int_equal(at(f, COUNTER + 8, 4), CPUS * ROUNDS);
    assert_int_equal(at(f, COUNTER + 0xffe, 4), CPUS * ROUNDS);
    assert_int_equal(at(f, COUNTER + 0x10, 2), (CPUS * ROUNDS) & 0xffff);
    assert_int_equal(at(f, COUNTER + 0x18, 4), CPUS * ROUNDS);
}

/* RDRAND by the seed: the same at the same count, however the blocks are cut; different at others. */
static void seeded(void **state)
{
    static const uint8_t code[] = {0x0f, 0xc7, 0xf0, 0x0f, 0xc7, 0xf3, 0x0f, 0xc7, 0xf1}; /* eax, ebx, ecx */
    struct fix *f = *state;
    struct soft_cpu *c = prepare(f, 0, 32, true);
    uint64_t first[3], from = 1000;
    f->vm->icount = true;
    f->vm->icount_seed = 42;
    for (unsigned round = 0; round < 2; round++) {
        c->insns = from;
        run_at(f, c, code, sizeof code);
        assert_true(soft_rflags(c) & 1);
        if (!round) {
            first[0] = c->gpr[SOFT_RAX];
            first[1] = c->gpr[SOFT_RBX];
            first[2] = c->gpr[SOFT_RCX];
        }
        assert_int_equal(c->gpr[SOFT_RAX], first[0]);
        assert_int_equal(c->gpr[SOFT_RBX], first[1]);
        assert_int_equal(c->gpr[SOFT_RCX], first[2]);
    }
    assert_true(first[0] != first[1] && first[1] != first[2]);
    /* From the second on, as a run that was stopped there does it. */
    c->insns = from + 1;
    run_at(f, c, code + 3, sizeof code - 3);
    assert_int_equal(c->gpr[SOFT_RBX], first[1]);
    assert_int_equal(c->gpr[SOFT_RCX], first[2]);
    f->vm->icount = false;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stack16),   cmocka_unit_test(pusha16), cmocka_unit_test(string16),
        cmocka_unit_test(flow16),    cmocka_unit_test(decimal), cmocka_unit_test(lazy_flags),
        cmocka_unit_test(overrides), cmocka_unit_test(locked),  cmocka_unit_test(seeded),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
