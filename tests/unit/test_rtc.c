// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/dev_fixture.h"

#include "hv/base/clock.h"
#include "hv/dev/rtc_time.h"

#define T0 1700000000ull /* 2023-11-14 22:13:20 UTC, a Tuesday */
#define S 1000000000ull
#define IRQ(f) ((f)->line[FY_GSI_RTC])

static int setup(void **state)
{
    struct fixture *f = malloc(sizeof *f);
    fx_init(f);
    f->realtime_ns = T0 * S;
    f->guest_ns = 5 * S;
    assert_int_equal(fy_rtc_new(f->bus, &f->host, 6ull << 30, &f->dev, NULL), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fx_done(*state);
    free(*state);
    return 0;
}

static uint8_t get(struct fixture *f, uint8_t index)
{
    fx_outp(f, 0x70, 1, index);
    return (uint8_t)fx_in(f, 0x71, 1);
}

static void put(struct fixture *f, uint8_t index, uint8_t v)
{
    fx_outp(f, 0x70, 1, index);
    fx_outp(f, 0x71, 1, v);
}

static void tick(struct fixture *f, uint64_t ns)
{
    f->realtime_ns += ns;
    f->guest_ns += ns;
}

static void reads_the_time(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(get(f, 0), 0x20);
    assert_int_equal(get(f, 2), 0x13);
    assert_int_equal(get(f, 4), 0x22);
    assert_int_equal(get(f, 6), 0x03);
    assert_int_equal(get(f, 7), 0x14);
    assert_int_equal(get(f, 8), 0x11);
    assert_int_equal(get(f, 9), 0x23);
    assert_int_equal(get(f, 0x32), 0x20);
    assert_int_equal(get(f, 13), 0x80);
    put(f, 11, 0x04); /* binary, 12 hours */
    assert_int_equal(get(f, 4), 0x80 | 10);
    assert_int_equal(get(f, 9), 23);
    /* 6 GiB: 3 below the hole, 3 above 4 GiB */
    assert_int_equal(get(f, 0x34) | get(f, 0x35) << 8, (0xc0000000u - 0x1000000) >> 16);
    assert_int_equal(get(f, 0x5b) | get(f, 0x5c) << 8, 0xc000);
}

static void every_form_of_hour(void **state)
{
    (void)state;
    for (unsigned b = 0; b < 8; b += 2)
        for (int64_t s = 951782400 - 86400; s < 951782400 + 2 * 86400; s += 1799) { /* 29 February 2000 */
            uint8_t cmos[RTC_CMOS] = {0};
            int64_t back = 0;
            cmos[RTC_B] = (uint8_t)b;
            fy_rtc_encode(cmos, s);
            assert_int_equal(fy_rtc_decode(cmos, &back), 0);
            assert_int_equal(back, s);
        }
    uint8_t bad[RTC_CMOS] = {
        [RTC_B] = 6, [RTC_MONTH] = 2, [RTC_DAY] = 30, [RTC_YEAR] = 24, [RTC_CENTURY] = 20};
    int64_t s = 7;
    assert_int_equal(fy_rtc_decode(bad, &s), -1);
    assert_int_equal(s, 7);
}

static void setting_moves_the_offset(void **state)
{
    struct fixture *f = *state;
    put(f, 11, 0x82); /* SET */
    put(f, 8, 0x02);
    put(f, 7, 0x29);
    put(f, 9, 0x24);
    tick(f, 10 * S);
    assert_int_equal(get(f, 0), 0x20); /* stands */
    put(f, 11, 0x02);
    assert_int_equal(get(f, 8), 0x02);
    assert_int_equal(get(f, 7), 0x29);
    tick(f, 3 * S);
    assert_int_equal(get(f, 0), 0x23);
    fx_same_after_load(f);
    tick(f, 86400 * S);
    assert_int_equal(get(f, 8), 0x03);
    assert_int_equal(get(f, 7), 0x01);
}

static void update_in_progress(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(get(f, 10), 0x26);
    f->realtime_ns += S - 100000;
    assert_int_equal(get(f, 10), 0xa6);
    f->realtime_ns += 100000;
    assert_int_equal(get(f, 10), 0x26);
}

static void flags_and_interrupts(void **state)
{
    struct fixture *f = *state;
    get(f, 12);
    put(f, 11, 0x12); /* UIE */
    assert_false(IRQ(f));
    tick(f, S);
    get(f, 0);
    assert_true(IRQ(f));
    assert_int_equal(get(f, 12) & 0x90, 0x90);
    assert_false(IRQ(f));
    put(f, 11, 0x22); /* alarm in five seconds */
    put(f, 1, 0x26);
    put(f, 3, 0xff);
    put(f, 5, 0xff);
    tick(f, 4 * S);
    assert_int_equal(get(f, 12) & 0xa0, 0);
    tick(f, 3 * S); /* a second that nobody looked at still counts */
    assert_int_equal(get(f, 12) & 0xa0, 0xa0);
    put(f, 11, 0x42); /* periodic, 1024 Hz of the guest's clock */
    get(f, 12);
    f->guest_ns += 400000;
    assert_int_equal(get(f, 12) & 0xc0, 0);
    f->guest_ns += 700000;
    assert_int_equal(get(f, 12) & 0xc0, 0xc0);
}

static void alarm_rings_over_a_move(void **state)
{
    struct fixture *f = *state;
    put(f, 11, 0x22);
    put(f, 1, 0x25);
    put(f, 3, 0xff);
    put(f, 5, 0xff);
    tick(f, 2 * S);
    get(f, 12);
    uint8_t *buf = NULL;
    size_t len;
    assert_int_equal(f->dev.ops->save(f->dev.dev, &buf, &len, NULL), 0);
    f->realtime_ns += 6 * S;
    assert_int_equal(f->dev.ops->load(f->dev.dev, buf, len, NULL), 0);
    assert_int_equal(get(f, 12) & 0xa0, 0xa0);
    free(buf);
}

static void states(void **state)
{
    struct fixture *f = *state;
    fx_same_after_load(f);
    fx_mutate(f);
    put(f, 11, 0x82);
    put(f, 0x40, 0x5a);
    fx_same_after_load(f);
    fx_mutate(f);
    assert_int_equal(get(f, 0x40), 0x5a);
}

struct ring {
    struct fixture *f;
    struct fy_loop *loop;
    uint64_t start;
    unsigned rung;
    bool level;
};

static uint64_t real_ns(void *arg)
{
    (void)arg;
    return fy_realtime_ns();
}

static uint64_t mono_ns(void *arg)
{
    (void)arg;
    return fy_now_ns();
}

static void ring_irq(void *arg, unsigned gsi, bool level)
{
    struct ring *r = arg;
    assert_int_equal(gsi, FY_GSI_RTC);
    if (level && !r->level) {
        r->rung++;
        fy_loop_stop(r->loop);
    }
    r->level = level;
}

static void give_up(void *arg)
{
    fy_loop_stop(arg);
}

/* The only test with real time: a periodic interrupt arrives by itself through the loop. */
static void timers_of_the_loop(void **state)
{
    (void)state;
    struct fixture f;
    fx_init(&f);
    struct ring r = {.f = &f, .loop = fy_loop_new(NULL)};
    assert_non_null(r.loop);
    f.host.arg = &r;
    f.host.irq = ring_irq;
    f.host.realtime_ns = real_ns;
    f.host.guest_ns = mono_ns;
    f.host.loop = r.loop;
    assert_int_equal(fy_rtc_new(f.bus, &f.host, 1 << 30, &f.dev, NULL), 0);
    struct fy_watch *t = fy_timer_new(r.loop, give_up, r.loop, NULL);
    put(&f, 10, 0x29); /* 128 Hz */
    put(&f, 11, 0x42);
    fy_timer_arm(t, 20000);
    for (unsigned i = 1; i <= 3; i++) {
        assert_int_equal(fy_loop_run(r.loop, NULL), 0);
        assert_int_equal(r.rung, i);
        assert_int_equal(get(&f, 12) & 0xc0, 0xc0);
    }
    fx_done(&f);
    fy_timer_arm(t, 1); /* let what the chip has posted come home */
    assert_int_equal(fy_loop_run(r.loop, NULL), 0);
    fy_watch_free(t);
    fy_loop_free(r.loop);
}

static uint64_t wake;

static void wake_at(void *arg, uint64_t ns)
{
    (void)arg;
    wake = ns;
}

/* On guest time: interrupts come at their nanosecond, and a tick that is due at a save keeps its phase. */
static void guest_time(void **state)
{
    struct fixture *f = *state;
    const uint64_t period = S / 1024, made = f->guest_ns;
    uint8_t *buf;
    size_t len;
    f->host.wake_at = wake_at;
    wake = 0;
    tick(f, period / 2);
    put(f, 11, 0x42); /* periodic interrupts, 24 hours */
    assert_true(wake == made + period);
    tick(f, wake - f->guest_ns - 1);
    fy_rtc_wake(&f->dev);
    assert_false(IRQ(f));
    assert_true(wake == made + period);
    tick(f, 1);
    fy_rtc_wake(&f->dev);
    assert_true(IRQ(f) && wake == UINT64_MAX); /* nothing new before register C is read */
    assert_int_equal(get(f, 12) & 0xc0, 0xc0);
    assert_true(!IRQ(f) && wake == made + 2 * period);
    /* Two and a half periods later it has not looked yet. */
    tick(f, 5 * period / 2);
    assert_int_equal(f->dev.ops->save(f->dev.dev, &buf, &len, NULL), 0);
    assert_int_equal(f->dev.ops->load(f->dev.dev, buf, len, NULL), 0);
    free(buf);
    assert_true(IRQ(f));
    assert_int_equal(get(f, 12) & 0xc0, 0xc0);
    assert_true(wake == made + 4 * period);
    put(f, 11, 0x12); /* update-ended interrupts instead */
    assert_true(wake == f->guest_ns + S - f->realtime_ns % S);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reads_the_time, setup, teardown),
        cmocka_unit_test(every_form_of_hour),
        cmocka_unit_test_setup_teardown(setting_moves_the_offset, setup, teardown),
        cmocka_unit_test_setup_teardown(update_in_progress, setup, teardown),
        cmocka_unit_test_setup_teardown(flags_and_interrupts, setup, teardown),
        cmocka_unit_test_setup_teardown(alarm_rings_over_a_move, setup, teardown),
        cmocka_unit_test_setup_teardown(guest_time, setup, teardown),
        cmocka_unit_test_setup_teardown(states, setup, teardown),
        cmocka_unit_test(timers_of_the_loop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
