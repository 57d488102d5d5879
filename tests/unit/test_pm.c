// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/dev_fixture.h"

static int setup(void **state)
{
    struct fixture *f = malloc(sizeof *f);
    fx_init(f);
    assert_int_equal(fy_pm_new(f->bus, &f->host, &f->dev, NULL), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fx_done(*state);
    free(*state);
    return 0;
}

static void power_button(void **state)
{
    struct fixture *f = *state;
    fy_pm_power_button(&f->dev);
    assert_false(f->line[FY_GSI_SCI]);
    assert_int_equal(fx_in(f, FY_PORT_PM1_EVENT, 2), 0x100);
    fx_outp(f, FY_PORT_PM1_EVENT + 2, 2, 0xffff);
    assert_true(f->line[FY_GSI_SCI]);
    assert_int_equal(fx_in(f, FY_PORT_PM1_EVENT + 2, 2), 0x520);
    fx_outp(f, FY_PORT_PM1_EVENT, 2, 0x001); /* another bit does not clear it */
    assert_true(f->line[FY_GSI_SCI]);
    fx_same_after_load(f);
    fx_mutate(f);
    fx_outp(f, FY_PORT_PM1_EVENT + 1, 1, 0x01); /* by its byte */
    assert_false(f->line[FY_GSI_SCI]);
    assert_int_equal(fx_in(f, FY_PORT_PM1_EVENT, 4), 0x05200000);
}

static void soft_off(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(fx_in(f, FY_PORT_PM1_CONTROL, 2), 1); /* SCI_EN stands */
    fx_outp(f, FY_PORT_PM1_CONTROL, 2, 5 << 10);
    assert_int_equal(f->power_offs, 0);
    fx_outp(f, FY_PORT_PM1_CONTROL, 2, 1 << 13 | 1 << 10); /* S1 is not offered */
    assert_int_equal(f->power_offs, 0);
    fx_outp(f, FY_PORT_PM1_CONTROL, 2, 1 << 13 | 5 << 10);
    assert_int_equal(f->power_offs, 1);
    assert_int_equal(fx_in(f, FY_PORT_PM1_CONTROL, 2), 5 << 10 | 1);
}

static void timer_follows_the_guest_clock(void **state)
{
    struct fixture *f = *state;
    f->guest_ns = 1000000000;
    assert_int_equal(fx_in(f, FY_PORT_PM_TIMER, 4), 3579545);
    f->guest_ns = 4687235472; /* 2^24 ticks last 4.68691…s */
    uint64_t ticks = (uint64_t)((unsigned __int128)f->guest_ns * 3579545 / 1000000000);
    assert_true(ticks > 0xffffff);
    assert_int_equal(fx_in(f, FY_PORT_PM_TIMER, 4), ticks & 0xffffff);
}

static void resets(void **state)
{
    struct fixture *f = *state;
    fx_outp(f, FY_PORT_RESET, 1, 0x02);
    assert_int_equal(f->resets, 0);
    fx_outp(f, FY_PORT_RESET, 1, FY_RESET_VALUE);
    assert_int_equal(f->resets, 1);
    fx_outp(f, FY_PORT_I8042_COMMAND, 1, 0xaa);
    assert_int_equal(f->resets, 1);
    fx_outp(f, FY_PORT_I8042_COMMAND, 1, 0xfe);
    assert_int_equal(f->resets, 2);
    f->dev.ops->reset(f->dev.dev);
    assert_int_equal(fx_in(f, FY_PORT_RESET, 1), 0);
    /* no controller: output full for ever, never busy with input */
    assert_int_equal(fx_in(f, FY_PORT_I8042_COMMAND, 1) & 3, 1);
}

static void debug_exit_status(void **state)
{
    struct fixture *f = *state;
    struct fy_device d;
    assert_int_equal(fy_debug_exit_new(f->bus, &f->host, &d, NULL), 0);
    fx_outp(f, FY_PORT_DEBUG_EXIT, 1, 3);
    assert_int_equal(f->exits, 0);
    fx_outp(f, FY_PORT_DEBUG_EXIT, 4, 3);
    assert_int_equal(f->exits, 1);
    assert_int_equal(f->status, 7);
    uint8_t *buf = NULL;
    size_t len = 1;
    assert_int_equal(d.ops->save(d.dev, &buf, &len, NULL), 0);
    assert_int_equal(len, 0);
    assert_int_equal(d.ops->load(d.dev, buf, len, NULL), 0);
    free(buf);
    d.ops->free(d.dev);
}

/* A general-purpose event: its status stays until it is cleared, the line follows status and enable. */
static void events(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(fx_in(f, FY_PORT_GPE0, 1), 0xff); /* there is none in revision 1 */
    assert_int_equal(fy_pm_add_events(f->bus, &f->dev, NULL), 0);
    assert_int_equal(fx_in(f, FY_PORT_GPE0, 2), 0);
    fy_pm_event(&f->dev, 3);
    assert_false(f->line[FY_GSI_SCI]);
    fx_outp(f, FY_PORT_GPE0 + 1, 1, 8);
    assert_true(f->line[FY_GSI_SCI]);
    assert_int_equal(fx_in(f, FY_PORT_GPE0, 2), 0x0808);
    fx_same_after_load(f);
    fx_mutate(f);
    fx_outp(f, FY_PORT_GPE0, 1, 0xf7);
    assert_true(f->line[FY_GSI_SCI]);
    fx_outp(f, FY_PORT_GPE0, 1, 8);
    assert_false(f->line[FY_GSI_SCI]);
    assert_int_equal(fx_in(f, FY_PORT_GPE0, 2), 0x0800);
    f->dev.ops->reset(f->dev.dev);
    assert_int_equal(fx_in(f, FY_PORT_GPE0, 2), 0);
}

static void generation(void **state)
{
    struct fixture *f = *state;
    struct fy_device g, pm = f->dev;
    uint8_t first[FY_VMGENID_BYTES], id[FY_VMGENID_BYTES];
    assert_int_equal(fy_pm_add_events(f->bus, &f->dev, NULL), 0);
    assert_int_equal(fy_vmgenid_new(f->bus, NULL, &g, NULL), 0);
    fy_vmgenid_get(&g, first);
    for (unsigned i = 0; i < sizeof first; i += 4) {
        uint32_t part;
        memcpy(&part, first + i, 4);
        assert_int_equal(fy_bus_read(f->bus, FY_SPACE_MMIO, FY_VMGENID_ADDRESS + i, 4), part);
    }
    fy_bus_write(f->bus, FY_SPACE_MMIO, FY_VMGENID_ADDRESS, 8, 0);
    assert_int_equal(fy_bus_read(f->bus, FY_SPACE_MMIO, FY_VMGENID_ADDRESS + 64, 8), 0);
    g.ops->reset(g.dev);
    fy_vmgenid_get(&g, id);
    assert_memory_equal(id, first, sizeof id); /* neither a write nor a reset changes it */
    fx_outp(f, FY_PORT_GPE0 + 1, 1, 1 << FY_GPE_VMGENID);
    assert_false(f->line[FY_GSI_SCI]);
    assert_int_equal(fy_vmgenid_change(&g, &pm, NULL), 0);
    assert_true(f->line[FY_GSI_SCI]);
    fy_vmgenid_get(&g, id);
    assert_memory_not_equal(id, first, sizeof id);
    f->dev = g;
    fx_same_after_load(f);
    fx_mutate(f);
    f->dev = pm;
    fy_vmgenid_get(&g, first);
    assert_memory_equal(id, first, sizeof id);
    g.ops->free(g.dev);
}

static uint64_t clock_word(struct fixture *f, unsigned at, unsigned size)
{
    return fy_bus_read(f->bus, FY_SPACE_MMIO, FY_VMCLOCK_ADDRESS + at, size);
}

/* Offsets of Linux's vmclock-abi.h. */
static void vmclock(void **state)
{
    struct fixture *f = *state;
    struct fy_device c, pm = f->dev;
    uint8_t *saved;
    size_t len;
    assert_int_equal(fy_vmclock_new(f->bus, false, &c, NULL), 0);
    assert_int_equal(clock_word(f, 0, 4), 0x4b4c4356);
    assert_int_equal(clock_word(f, 4, 4), 4096);
    assert_int_equal(clock_word(f, 8, 2), 1);
    assert_int_equal(clock_word(f, 10, 1), 0xff); /* no counter: no time is offered */
    assert_int_equal(clock_word(f, 24, 8), 0x100);
    assert_int_equal(clock_word(f, 12, 4), 0);
    assert_int_equal(clock_word(f, 16, 8), 0);
    for (unsigned at = 0; at < FY_VMCLOCK_WINDOW; at += 8)
        fy_bus_write(f->bus, FY_SPACE_MMIO, FY_VMCLOCK_ADDRESS + at, 8, UINT64_MAX);
    c.ops->reset(c.dev);
    assert_int_equal(clock_word(f, 16, 8), 0); /* neither a write nor a reset disturbs it */
    fy_vmclock_copied(&c);
    assert_int_equal(clock_word(f, 12, 4), 2);
    assert_int_equal(clock_word(f, 16, 8), 1);
    assert_int_equal(clock_word(f, 104, 8), 1);
    c.ops->resume(c.dev);
    assert_int_equal(clock_word(f, 16, 8), 1);
    /* Going on from a loaded state is a disturbance, and no copy. */
    assert_int_equal(c.ops->save(c.dev, &saved, &len, NULL), 0);
    fy_vmclock_copied(&c);
    assert_int_equal(c.ops->load(c.dev, saved, len, NULL), 0);
    assert_int_equal(clock_word(f, 16, 8), 1);
    c.ops->resume(c.dev);
    assert_int_equal(clock_word(f, 12, 4), 4);
    assert_int_equal(clock_word(f, 16, 8), 2);
    assert_int_equal(clock_word(f, 104, 8), 1);
    assert_int_equal(clock_word(f, 4088, 8), 0);
    free(saved);
    f->dev = c;
    fx_mutate(f);
    f->dev = pm;
    c.ops->free(c.dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(vmclock, setup, teardown),
        cmocka_unit_test_setup_teardown(power_button, setup, teardown),
        cmocka_unit_test_setup_teardown(soft_off, setup, teardown),
        cmocka_unit_test_setup_teardown(timer_follows_the_guest_clock, setup, teardown),
        cmocka_unit_test_setup_teardown(resets, setup, teardown),
        cmocka_unit_test_setup_teardown(debug_exit_status, setup, teardown),
        cmocka_unit_test_setup_teardown(events, setup, teardown),
        cmocka_unit_test_setup_teardown(generation, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
