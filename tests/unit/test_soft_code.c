// SPDX-License-Identifier: Apache-2.0
/* The software CPU: exact counts, decoded code that is written to, branches that remember where they went. */
#include <pthread.h>
#include <sched.h>

#include "tests/unit/soft_core_fixture.h"

/* -- code -- */

static void start(struct fix *f, struct soft_cpu *c, const void *code, size_t n)
{
    long_mode(f, c);
    memcpy(ram(f, CODE), code, n);
    fy_gmem_mark(f->gmem, CODE, n);
    memset(c->gpr, 0, sizeof c->gpr);
    c->rip = CODE;
    c->insns = 0;
    c->run_limit = UINT64_MAX;
}

/* 0: inc rax; 3: inc rbx; 6: dec rcx; 9: jnz 0; 11: jmp 0 */
static const uint8_t counting[] = {0x48, 0xff, 0xc0, 0x48, 0xff, 0xc3, 0x48,
                                   0xff, 0xc9, 0x75, 0xf5, 0xeb, 0xf3};

static void exact_stop(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = f->vm->cpus[0];
    start(f, c, counting, sizeof counting);
    c->gpr[SOFT_RCX] = 5;
    /* The model: which instruction runs when. */
    uint64_t rax = 0, rbx = 0, rcx = 5, rip = CODE;
    uint64_t at = 0;
    for (unsigned i = 0; i < 3000; i++) {
        uint64_t stop = at + rnd() % 40;
        for (; at < stop; at++) {
            switch (rip - CODE) {
            case 0:
                rax++, rip += 3;
                break;
            case 3:
                rbx++, rip += 3;
                break;
            case 6:
                rcx--, rip += 3;
                break;
            case 9:
                rip = rcx ? CODE : CODE + 11;
                break;
            default:
                rip = CODE;
            }
        }
        c->run_limit = stop;
        assert_int_equal(soft_loop(c), FY_VCPU_KICKED);
        assert_int_equal(c->insns, stop);
        assert_int_equal(c->rip, rip);
        assert_int_equal(c->gpr[SOFT_RAX], rax);
        assert_int_equal(c->gpr[SOFT_RBX], rbx);
        assert_int_equal(c->gpr[SOFT_RCX], rcx);
    }
}

/* Its own block: a byte store changes "inc rbx" right behind it into "inc rax"'s register form.
 * 0: mov [rdi], al; 2: inc rbx (ff c3); 5: mov [rdi], dl; 7: jmp 0. rdi points at the ModRM byte. */
static void own_block(void **state)
{
    static const uint8_t code[] = {0x88, 0x07, 0x48, 0xff, 0xc3, 0x88, 0x17, 0xeb, 0xf7};
    struct fix *f = *state;
    struct soft_cpu *c = f->vm->cpus[0];
    start(f, c, code, sizeof code);
    c->gpr[SOFT_RDI] = CODE + 4;
    c->gpr[SOFT_RAX] = 0xc6; /* inc rsi */
    c->gpr[SOFT_RDX] = 0xc3;
    c->run_limit = 4000;
    assert_int_equal(soft_loop(c), FY_VCPU_KICKED);
    assert_int_equal(c->insns, 4000);
    assert_int_equal(c->gpr[SOFT_RSI], 1000);
    assert_int_equal(c->gpr[SOFT_RBX], 0);
    assert_int_equal(c->rip, CODE);
}

static void *loop_main(void *arg)
{
    struct worker *w = arg;
    soft_loop(w->c);
    return NULL;
}

/* Another vCPU, then a device, changes the code of a running one: "inc rbx" becomes "inc rsi". */
static void other_writes(void **state)
{
    static const uint8_t code[] = {0x48, 0xff, 0xc3, 0xeb, 0xfb};
    struct fix *f = *state;
    struct soft_cpu *c = f->vm->cpus[0], *o = f->vm->cpus[1];
    long_mode(f, o);
    for (unsigned i = 0; i < 20; i++) {
        start(f, c, code, sizeof code);
        /* The other one holds a write way before the page becomes code. */
        soft_enter_guest(o);
        assert_true(soft_st8(o, CODE + 2, 0xc3));
        soft_leave_guest(o);
        struct worker w = {.f = f, .c = c};
        assert_int_equal(pthread_create(&w.id, NULL, loop_main, &w), 0);
        while (!__atomic_load_n(&f->vm->code_users[CODE / 4096], __ATOMIC_SEQ_CST))
            sched_yield();
        uint8_t modrm = 0xc6;
        if (i % 2) {
            struct fy_err e;
            assert_int_equal(fy_gmem_write(f->gmem, CODE + 2, &modrm, 1, &e), 0);
        } else {
            soft_enter_guest(o);
            assert_true(soft_st8(o, CODE + 2, modrm));
            soft_leave_guest(o);
        }
        /* It is seen: the page is decoded again. */
        while (!__atomic_load_n(&f->vm->code_users[CODE / 4096], __ATOMIC_SEQ_CST))
            sched_yield();
        soft_request(c, SOFT_REQ_KICK);
        pthread_join(w.id, NULL);
        c->requests = 0;
        c->run_limit = c->insns + 1000;
        uint64_t rbx = c->gpr[SOFT_RBX], rsi = c->gpr[SOFT_RSI];
        soft_loop(c);
        assert_int_equal(c->gpr[SOFT_RBX], rbx);
        assert_true(c->gpr[SOFT_RSI] >= rsi + 499);
    }
}

/* An instruction across two pages, whose second page is mapped elsewhere afterwards. */
static void straddle(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = f->vm->cpus[0];
    uint64_t lin = 0x40000000ull;
    start(f, c, counting, sizeof counting);
    put64(f, 0x2008, 0x5000 | 7);
    put64(f, 0x5000, 0x6000 | 7);
    put64(f, 0x6000, CODE | 7);
    for (unsigned i = 0; i < 2; i++) {
        uint64_t page = DATA + i * 0x1000;
        /* 48 ff | c3 (inc rbx) or c6 (inc rsi); jmp to the start */
        static const uint8_t tail[2][3] = {{0xc3, 0xeb, 0xfb}, {0xc6, 0xeb, 0xfb}};
        memcpy(ram(f, page), tail[i], 3);
    }
    memcpy(ram(f, CODE + 0xffe), "\x48\xff", 2);
    fy_gmem_mark(f->gmem, CODE, 4096);
    for (unsigned i = 0; i < 6; i++) {
        put64(f, 0x6008, (DATA + i % 2 * 0x1000) | 7);
        soft_tlb_flush_page(c, lin + 0x1000);
        uint64_t rbx = c->gpr[SOFT_RBX], rsi = c->gpr[SOFT_RSI];
        c->rip = lin + 0xffe;
        c->run_limit = c->insns + 100;
        soft_loop(c);
        assert_int_equal(c->gpr[SOFT_RBX] - rbx, i % 2 ? 0 : 50);
        assert_int_equal(c->gpr[SOFT_RSI] - rsi, i % 2 ? 50 : 0);
    }
    /* Its second page goes away: the fetch faults there. */
    put64(f, 0x6008, 0);
    soft_tlb_flush_page(c, lin + 0x1000);
    c->exc.pending = false;
    assert_null(soft_find(c, lin + 0xffe));
    assert_true(c->exc.pending);
    assert_int_equal(c->exc.vector, SOFT_PFX);
    assert_int_equal(c->exc.cr2, lin + 0x1000);
}

/* CODE at 1 GiB, and DATA in the page behind it. */
static void two_pages(struct fix *f)
{
    put64(f, 0x2008, 0x5000 | 7);
    put64(f, 0x5000, 0x6000 | 7);
    put64(f, 0x6000, CODE | 7);
    put64(f, 0x6008, DATA | 7);
}

/* A loop through two pages, the second of which is written, moved elsewhere, and goes away. */
static void far_branches(void **state)
{
    static const uint8_t first[] = {0x48, 0xff, 0xc3, 0xe9, 0xf8, 0x0f, 0x00, 0x00}; /* inc rbx; jmp +4096 */
    /* inc rsi, or rdi, or rbp; jmp back */
    static const uint8_t second[3][8] = {{0x48, 0xff, 0xc6, 0xe9, 0xf8, 0xef, 0xff, 0xff},
                                         {0x48, 0xff, 0xc7, 0xe9, 0xf8, 0xef, 0xff, 0xff},
                                         {0x48, 0xff, 0xc5, 0xe9, 0xf8, 0xef, 0xff, 0xff}};
    static const unsigned counters[] = {SOFT_RSI, SOFT_RDI, SOFT_RBP};
    struct fix *f = *state;
    struct soft_cpu *c = f->vm->cpus[0];
    uint64_t lin = 0x40000000ull, v;
    start(f, c, first, sizeof first);
    two_pages(f);
    memcpy(ram(f, DATA), second[0], 8);
    memcpy(ram(f, DATA + 0x1000), second[2], 8);
    fy_gmem_mark(f->gmem, DATA, 8192);
    c->rip = lin;
    for (unsigned i = 0; i < 3; i++) {
        if (i == 1) { /* written by the guest, through another mapping */
            memcpy(&v, second[1], 8);
            assert_true(soft_st64(c, DATA, v));
        } else if (i == 2) {
            put64(f, 0x6008, (DATA + 0x1000) | 7);
            soft_tlb_flush_page(c, lin + 0x1000);
        }
        uint64_t rbx = c->gpr[SOFT_RBX], other = c->gpr[counters[i]];
        c->run_limit = c->insns + 400;
        soft_loop(c);
        assert_int_equal(c->gpr[SOFT_RBX] - rbx, 100);
        assert_int_equal(c->gpr[counters[i]] - other, 100);
        assert_int_equal(c->rip, lin);
    }
    put64(f, 0x6008, 0);
    soft_tlb_flush_page(c, lin + 0x1000);
    c->run_limit = c->insns + 400;
    soft_loop(c);
    assert_int_equal(c->rip, lin + 0x1000);
}

/* Returns: to where the call was, elsewhere, through more calls than are remembered, and to address 0. */
static void returns(void **state)
{
    static const uint8_t caller[] = {0xe8, 0xfb, 0x0f, 0x00, 0x00,
                                     0x48, 0xff, 0xc3, 0xeb, 0xf6}; /* call +4096; inc rbx; jmp back */
    static const uint8_t plain[] = {0xc3};
    static const uint8_t beyond[] = {0x48, 0x83, 0x04, 0x24, 0x03, 0xc3}; /* add qword [rsp], 3; ret */
    /* dec rcx; jz +5; call itself; inc rsi; ret */
    static const uint8_t deep[] = {0x48, 0xff, 0xc9, 0x74, 0x05, 0xe8, 0xf6,
                                   0xff, 0xff, 0xff, 0x48, 0xff, 0xc6, 0xc3};
    static const uint8_t null[] = {0x6a, 0x00, 0xc3}; /* push 0; ret */
    struct fix *f = *state;
    struct soft_cpu *c = f->vm->cpus[0];
    uint64_t lin = 0x40000000ull;
    start(f, c, caller, sizeof caller);
    two_pages(f);
    c->rip = lin;
    c->gpr[SOFT_RSP] = DATA + 0x2000;
    for (unsigned i = 0; i < 3; i++) {
        memcpy(ram(f, DATA), i == 1 ? beyond : plain, i == 1 ? sizeof beyond : sizeof plain);
        fy_gmem_mark(f->gmem, DATA, 4096);
        soft_take_requests(c, true);
        uint64_t rbx = c->gpr[SOFT_RBX];
        c->run_limit = c->insns + 400;
        soft_loop(c);
        assert_int_equal(c->gpr[SOFT_RBX] - rbx, i == 1 ? 0 : 100);
        assert_int_equal(c->gpr[SOFT_RSP], DATA + 0x2000);
        assert_int_equal(c->rip, lin);
    }
    memcpy(ram(f, DATA), deep, sizeof deep);
    fy_gmem_mark(f->gmem, DATA, 4096);
    soft_take_requests(c, true);
    for (unsigned i = 0; i < 3; i++) {
        uint64_t rbx = c->gpr[SOFT_RBX], rsi = c->gpr[SOFT_RSI];
        c->gpr[SOFT_RCX] = 100;
        c->run_limit = c->insns + 1 + 100 * 4 + 99 + 2;
        soft_loop(c);
        assert_int_equal(c->gpr[SOFT_RSI] - rsi, 100);
        assert_int_equal(c->gpr[SOFT_RBX] - rbx, 1);
        assert_int_equal(c->rip, lin);
    }
    soft_calls_forget(c);
    memcpy(ram(f, 0), counting, sizeof counting);
    memcpy(ram(f, CODE + 0x100), null, sizeof null);
    fy_gmem_mark(f->gmem, CODE, 4096);
    soft_take_requests(c, true);
    c->rip = lin + 0x100;
    c->gpr[SOFT_RAX] = 0;
    c->run_limit = c->insns + 3;
    soft_loop(c);
    assert_int_equal(c->rip, 3);
    assert_int_equal(c->gpr[SOFT_RAX], 1);
}

static void kick(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = f->vm->cpus[0];
    for (unsigned i = 0; i < 200; i++) {
        start(f, c, counting, sizeof counting);
        c->run_state = i % 2 ? 3 : 0; /* halted, too */
        c->requests = 0;
        struct worker w = {.f = f, .c = c};
        assert_int_equal(pthread_create(&w.id, NULL, loop_main, &w), 0);
        if (i % 4 < 2)
            sched_yield();
        soft_request(c, SOFT_REQ_KICK);
        pthread_join(w.id, NULL);
        assert_int_equal(c->run_state, i % 2 ? 3 : 0);
        assert_int_equal(soft_loop(c), FY_VCPU_KICKED); /* it stands */
    }
    c->requests = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(exact_stop, setup, teardown),
        cmocka_unit_test_setup_teardown(own_block, setup, teardown),
        cmocka_unit_test_setup_teardown(other_writes, setup, teardown),
        cmocka_unit_test_setup_teardown(straddle, setup, teardown),
        cmocka_unit_test_setup_teardown(far_branches, setup, teardown),
        cmocka_unit_test_setup_teardown(returns, setup, teardown),
        cmocka_unit_test_setup_teardown(kick, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
