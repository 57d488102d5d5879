// SPDX-License-Identifier: Apache-2.0
/* Virtual time from the count of instructions: a guest that looks at clocks, chips and page tables is the
 * same at a count however the run to it was cut, and after its state went into another machine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hv/cpu/soft/engine.h"
#include "hv/cpu/state.h"
#include "hv/mem/digest.h"
#include "tests/unit/memory_fixture.h"

#define RAM (4ull << 20)
#define ENTRY 0x100000u
#define NS 100u /* an instruction; the guest's timer comes every 200 of them */
#define ALARM_NS 7919u
#define STARTED_NS 720000u /* about: by then the guest has made its page tables and starts its timer */
#define PERIOD_NS (1251 * 16u)
#define FAR 20000u
#define TICKS 0x20004u
#define TURNS 0x20008u

extern const uint8_t icount_guest[], icount_guest_end[];

struct world {
    struct fy_gmem *gmem;
    struct fy_bus *bus;
    struct fy_engine *en;
    uint64_t alarms, alarm_sum; /* counts at which the alarm came, mixed */
    uint64_t next_alarm;
    char report[FY_REPORT_MAX];
};

static Ferry__CpuidEntry leaves[] = {
    {.function = 0, .eax = 7, .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69},
    {.function = 1, .eax = 0x6f0, .ecx = 0x40000000u, .edx = 0x0783fbffu}, /* RDRAND */
    {.function = 0x80000008u, .eax = 0x3028},
};
#define LEAVES (sizeof leaves / sizeof *leaves)
static Ferry__CpuidEntry *leaf_list[LEAVES];
static Ferry__CpuPolicy policy = {.n_cpuid = LEAVES, .cpuid = leaf_list, .tsc_khz = 3333333};

static void on_alarm(void *arg)
{
    struct world *w = arg;
    struct fy_icount_place at;
    w->en->icount->place(w->en, &at);
    w->alarms++;
    w->alarm_sum = w->alarm_sum * 31 + at.count;
    assert_true(at.now_ns >= w->next_alarm);
    w->next_alarm += ALARM_NS;
    w->en->icount->set_alarm(w->en, w->next_alarm);
}

static void make_engine(struct world *w)
{
    struct fy_err e;
    struct fy_engine_config config = {.gmem = w->gmem,
                                      .bus = w->bus,
                                      .vcpus = 1,
                                      .policy = &policy,
                                      .icount_ns = NS,
                                      .icount_seed = 42,
                                      .alarm = on_alarm,
                                      .alarm_arg = w};
    w->en = fy_soft_engine_new(&config, &e);
    assert_non_null(w->en);
    assert_non_null(w->en->icount);
}

static struct world *make(const uint8_t *code, size_t len)
{
    struct world *w = calloc(1, sizeof *w);
    struct fy_err e;
    struct fy_cpu_boot boot = {.rip = ENTRY};
    for (unsigned i = 0; i < LEAVES; i++) {
        leaves[i].base.descriptor = &ferry__cpuid_entry__descriptor;
        leaf_list[i] = &leaves[i];
    }
    policy.base.descriptor = &ferry__cpu_policy__descriptor;
    assert_non_null(w);
    w->gmem = fx_memory(RAM, &e);
    w->bus = fy_bus_new(&e);
    make_engine(w);
    assert_int_equal(fy_gmem_write(w->gmem, ENTRY, code, len, &e), 0);
    assert_int_equal(w->en->ops->vcpu_reset(w->en, 0, &boot, &e), 0);
    w->next_alarm = ALARM_NS;
    w->en->icount->set_alarm(w->en, w->next_alarm);
    return w;
}

static void unmake(struct world *w)
{
    w->en->ops->free(w->en);
    fy_bus_free(w->bus);
    fy_gmem_free(w->gmem);
    free(w);
}

static struct fy_icount_place to(struct world *w, uint64_t count)
{
    struct fy_icount_place at;
    w->en->icount->stop_at(w->en, count);
    assert_int_equal(w->en->ops->vcpu_run(w->en, 0, w->report), FY_VCPU_STOPPED);
    w->en->icount->place(w->en, &at);
    assert_int_equal(at.count, count);
    return at;
}

/* Everything that is saved, but the messages' own memory. */
struct saved {
    Ferry__Icount icount;
    Ferry__Clock clock;
    uint64_t tsc;
    Ferry__Vcpu *vcpu;
    Ferry__IrqChips *chips;
    Ferry__Pit *pit;
};

static void save(struct world *w, struct saved *s)
{
    struct fy_err e;
    ferry__icount__init(&s->icount);
    ferry__clock__init(&s->clock);
    s->vcpu = w->en->ops->vcpu_save(w->en, 0, &e);
    assert_non_null(s->vcpu);
    assert_int_equal(w->en->ops->clock_save(w->en, &s->clock, &s->tsc, &e), 0);
    assert_int_equal(w->en->ops->chips_save(w->en, &s->chips, &s->pit, &e), 0);
    w->en->icount->save(w->en, &s->icount);
}

static void free_saved(struct saved *s)
{
    ferry__vcpu__free_unpacked(s->vcpu, NULL);
    ferry__irq_chips__free_unpacked(s->chips, NULL);
    ferry__pit__free_unpacked(s->pit, NULL);
}

static void same_message(const ProtobufCMessage *a, const ProtobufCMessage *b, const char *what)
{
    size_t n = protobuf_c_message_get_packed_size(a);
    uint8_t *x = malloc(n + 1), *y = malloc(n + 1);
    assert_non_null(x);
    assert_non_null(y);
    if (n != protobuf_c_message_get_packed_size(b))
        fail_msg("%s differs in length", what);
    protobuf_c_message_pack(a, x);
    protobuf_c_message_pack(b, y);
    if (memcmp(x, y, n) != 0)
        fail_msg("%s differs", what);
    free(x);
    free(y);
}

static void same_saved(const struct saved *x, const struct saved *y)
{
    same_message(&x->icount.base, &y->icount.base, "icount");
    same_message(&x->vcpu->base, &y->vcpu->base, "vcpu");
    same_message(&x->clock.base, &y->clock.base, "clock");
    same_message(&x->chips->base, &y->chips->base, "irqchip");
    same_message(&x->pit->base, &y->pit->base, "pit");
    assert_int_equal(x->tsc, y->tsc);
}

static void same(struct world *a, struct world *b)
{
    struct saved x, y;
    uint64_t p, q;
    struct fy_err e;
    save(a, &x);
    save(b, &y);
    same_saved(&x, &y);
    assert_int_equal(fy_gmem_digest(a->gmem, &p, &e), 0);
    assert_int_equal(fy_gmem_digest(b->gmem, &q, &e), 0);
    assert_true(p == q);
    assert_int_equal(a->alarms, b->alarms);
    assert_true(a->alarm_sum == b->alarm_sum);
    free_saved(&x);
    free_saved(&y);
}

/* The state goes into a new engine; the memory stays. */
static void move(struct world *w)
{
    struct saved s, loaded;
    struct fy_err e;
    uint64_t elapsed;
    char warning[FY_ERR_TEXT];
    save(w, &s);
    w->en->ops->free(w->en);
    policy.n_msrs = s.vcpu->n_msrs;
    make_engine(w);
    assert_int_equal(w->en->icount->load(w->en, &s.icount, &e), 0);
    assert_int_equal(w->en->ops->clock_load(w->en, &s.clock, &s.tsc, &elapsed, warning, &e), 0);
    assert_int_equal(elapsed, 0);
    assert_int_equal(w->en->ops->vcpu_load(w->en, 0, s.vcpu, &e), 0);
    assert_int_equal(w->en->ops->chips_load(w->en, s.chips, s.pit, &e), 0);
    w->en->icount->set_alarm(w->en, w->next_alarm);
    save(w, &loaded);
    same_saved(&loaded, &s);
    free_saved(&loaded);
    free_saved(&s);
}

static struct world *guest(void)
{
    return make(icount_guest, (size_t)(icount_guest_end - icount_guest));
}

/* The run that the others must equal does what it is for. */
static void straight(void **state)
{
    (void)state;
    struct world *w = guest();
    struct fy_icount_place at = to(w, FAR);
    uint32_t ticks, turns;
    struct fy_err e;
    assert_int_equal(fy_gmem_read(w->gmem, TICKS, &ticks, 4, &e), 0);
    assert_int_equal(fy_gmem_read(w->gmem, TURNS, &turns, 4, &e), 0);
    assert_true(ticks > 50 && turns > 50);
    /* Time has passed in HLT, and timers that are due one after the other come one by one. */
    assert_true(at.now_ns > FAR * (uint64_t)NS);
    assert_in_range(ticks, (at.now_ns - STARTED_NS) / PERIOD_NS - 1,
                    (at.now_ns - STARTED_NS) / PERIOD_NS + 1);
    assert_in_range(w->alarms, at.now_ns / ALARM_NS, at.now_ns / ALARM_NS + 1);
    unmake(w);
}

/* Cut after every instruction. */
static void stepped(void **state)
{
    (void)state;
    struct world *a = guest(), *b = guest();
    unsigned halts = 0, shadows = 0;
    for (uint64_t n = 1; n <= FAR; n++) {
        struct fy_icount_place at = to(b, n);
        halts += at.halted;
        shadows += at.shadow;
        if (n % 1999 == 0) {
            to(a, n);
            same(a, b);
        }
    }
    assert_true(halts > 5 && shadows > 5);
    to(a, FAR);
    same(a, b);
    unmake(a);
    unmake(b);
}

/* Saved and loaded at every count of a stretch, then now and then. */
static void moved(void **state)
{
    (void)state;
    struct world *a = guest(), *b = guest();
    for (uint64_t n = 1; n <= FAR; n += n > 7000 && n < 10000 ? 1 : 61) {
        to(b, n);
        move(b);
        struct fy_icount_place at;
        b->en->icount->place(b->en, &at);
        assert_int_equal(at.count, n);
    }
    to(a, FAR);
    to(b, FAR);
    same(a, b);
    unmake(a);
    unmake(b);
}

/* A stop while others are asked for: nothing is delivered at a stop, and the same one is met again. */
static void stands(void **state)
{
    (void)state;
    struct world *w = guest();
    struct fy_icount_place a = to(w, 777), b = to(w, 777);
    assert_true(a.rip == b.rip && a.now_ns == b.now_ns);
    unmake(w);
}

static void bad_state(void **state)
{
    (void)state;
    struct world *w = guest();
    struct fy_err e;
    Ferry__Icount i = FERRY__ICOUNT__INIT;
    i.count = FY_ICOUNT_MAX;
    assert_int_equal(w->en->icount->load(w->en, &i, &e), -1);
    assert_int_equal(e.code, FY_ECORRUPT);
    i.count = 5;
    i.warp_ns = UINT64_MAX;
    assert_int_equal(w->en->icount->load(w->en, &i, &e), -1);
    i.warp_ns = 0;
    i.pit_due_ns = FY_ICOUNT_NEVER - 1;
    assert_int_equal(w->en->icount->load(w->en, &i, &e), -1);
    struct fy_icount_place at;
    w->en->icount->place(w->en, &at);
    assert_int_equal(at.count, 0);
    unmake(w);
}

static void one_vcpu(void **state)
{
    (void)state;
    struct world *w = guest();
    struct fy_err e;
    struct fy_engine_config config = {
        .gmem = w->gmem, .bus = w->bus, .vcpus = 2, .policy = &policy, .icount_ns = 1};
    assert_null(fy_soft_engine_new(&config, &e));
    assert_int_equal(e.code, FY_EUSAGE);
    unmake(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(straight), cmocka_unit_test(stepped),   cmocka_unit_test(moved),
        cmocka_unit_test(stands),   cmocka_unit_test(bad_state), cmocka_unit_test(one_vcpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
