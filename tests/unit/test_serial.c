// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/dev_fixture.h"

#include "proto/state.pb-c.h"

#define P FY_PORT_SERIAL0
enum { DATA = P, IER, IIR, LCR, MCR, LSR, MSR, SCR };
#define IRQ(f) ((f)->line[FY_GSI_SERIAL0])

static int setup(void **state)
{
    struct fixture *f = malloc(sizeof *f);
    fx_init(f);
    assert_int_equal(fy_serial_new(f->bus, &f->host, &f->dev, NULL), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fx_done(*state);
    free(*state);
    return 0;
}

static void output_in_order(void **state)
{
    struct fixture *f = *state;
    for (unsigned i = 0; i < 300; i++)
        fx_outp(f, DATA, 1, i & 0xff);
    assert_int_equal(f->out_len, 300);
    for (unsigned i = 0; i < 300; i++)
        assert_int_equal(f->out[i], i & 0xff);
    assert_int_equal(fx_in(f, LSR, 1), 0x60);
}

static void divisor_latch(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(fx_in(f, LSR, 1), 0x60);
    fx_outp(f, LCR, 1, 0x83);
    fx_outp(f, DATA, 1, 0x34);
    fx_outp(f, IER, 1, 0x12);
    assert_int_equal(fx_in(f, DATA, 1), 0x34);
    assert_int_equal(fx_in(f, IER, 1), 0x12);
    assert_int_equal(fx_in(f, DATA, 2), 0x1234); /* a wide access is split */
    fx_outp(f, LCR, 1, 0x03);
    assert_int_equal(fx_in(f, IER, 1), 0);
    assert_int_equal(f->out_len, 0);
    fx_outp(f, SCR, 1, 0xa5);
    assert_int_equal(fx_in(f, SCR, 1), 0xa5);
}

static void thre_interrupt(void **state)
{
    struct fixture *f = *state;
    fx_outp(f, MCR, 1, 0x08);
    assert_int_equal(fx_in(f, IIR, 1), 0x01);
    fx_outp(f, IER, 1, 0x02); /* enabling it with an empty transmitter raises it */
    assert_true(IRQ(f));
    assert_int_equal(fx_in(f, IIR, 1), 0x02); /* and the read acknowledges it */
    assert_false(IRQ(f));
    assert_int_equal(fx_in(f, IIR, 1), 0x01);
    fx_outp(f, DATA, 1, 'x');
    assert_true(IRQ(f));
    fx_outp(f, IER, 1, 0x00);
    assert_false(IRQ(f));
}

static void receive_and_trigger(void **state)
{
    struct fixture *f = *state;
    const uint8_t text[] = "0123456789";
    fx_outp(f, MCR, 1, 0x08);
    fx_outp(f, IIR, 1, 0x81); /* FIFOs, trigger at 8 */
    fx_outp(f, IER, 1, 0x01);
    assert_int_equal(fy_serial_input(&f->dev, text, 10), 10);
    assert_true(IRQ(f));
    assert_int_equal(fx_in(f, IIR, 1), 0xc4);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(fx_in(f, DATA, 1), '0' + i);
    assert_int_equal(fx_in(f, IIR, 1), 0xcc); /* seven wait below the trigger: timeout */
    for (unsigned i = 3; i < 10; i++) {
        assert_int_equal(fx_in(f, LSR, 1), 0x61);
        assert_int_equal(fx_in(f, DATA, 1), '0' + i);
    }
    assert_false(IRQ(f));
    assert_int_equal(fx_in(f, IIR, 1), 0xc1);
    assert_int_equal(fx_in(f, LSR, 1), 0x60);
}

static void input_queue_is_bounded(void **state)
{
    struct fixture *f = *state;
    static uint8_t big[6000];
    for (size_t i = 0; i < sizeof big; i++)
        big[i] = (uint8_t)(i * 7);
    fx_outp(f, IIR, 1, 0x01);
    size_t taken = fy_serial_input(&f->dev, big, sizeof big);
    assert_int_equal(taken, 4096);
    assert_int_equal(fy_serial_input_room(&f->dev), 16);
    assert_int_equal(fy_serial_input(&f->dev, big + taken, 100), 16);
    assert_int_equal(fy_serial_input(&f->dev, big, 1), 0);
    assert_int_equal(f->rooms, 0);
    for (size_t i = 0; i < 4112; i++)
        assert_int_equal(fx_in(f, DATA, 1), big[i]);
    assert_true(f->rooms > 0);
    assert_int_equal(fx_in(f, LSR, 1), 0x60);
}

static void loopback_and_priority(void **state)
{
    struct fixture *f = *state;
    fx_outp(f, MCR, 1, 0x18);
    fx_in(f, MSR, 1);
    fx_outp(f, IIR, 1, 0x01);
    fx_outp(f, IER, 1, 0x0f);
    for (unsigned i = 0; i < 17; i++)
        fx_outp(f, DATA, 1, i);
    fx_outp(f, MCR, 1, 0x1b); /* DTR and RTS up: DSR and CTS with their deltas */
    assert_int_equal(f->out_len, 0);
    assert_false(IRQ(f)); /* loopback cuts OUT2 off */
    assert_int_equal(fx_in(f, IIR, 1), 0xc6);
    assert_int_equal(fx_in(f, LSR, 1), 0x63); /* overrun, cleared by the read */
    assert_int_equal(fx_in(f, IIR, 1), 0xc4);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(fx_in(f, DATA, 1), i);
    assert_int_equal(fx_in(f, IIR, 1), 0xc2);
    assert_int_equal(fx_in(f, IIR, 1), 0xc0);
    assert_int_equal(fx_in(f, MSR, 1), 0xb3);
    assert_int_equal(fx_in(f, IIR, 1), 0xc1);
    fx_outp(f, MCR, 1, 0x1f); /* OUT1 up: RI, no delta */
    assert_int_equal(fx_in(f, MSR, 1), 0xf0);
    fx_outp(f, MCR, 1, 0x1b); /* down: the trailing edge */
    assert_int_equal(fx_in(f, MSR, 1), 0xb4);
}

static void fifo_clears(void **state)
{
    struct fixture *f = *state;
    fx_outp(f, IIR, 1, 0x01);
    fy_serial_input(&f->dev, (const uint8_t *)"abc", 3);
    fx_outp(f, IIR, 1, 0x03);
    assert_int_equal(fx_in(f, LSR, 1), 0x60);
    fy_serial_input(&f->dev, (const uint8_t *)"d", 1);
    assert_int_equal(fx_in(f, DATA, 1), 'd');
}

static void state_round_trip(void **state)
{
    struct fixture *f = *state;
    fx_same_after_load(f);
    fx_outp(f, MCR, 1, 0x08);
    fx_outp(f, IIR, 1, 0x41);
    fx_outp(f, IER, 1, 0x03);
    fy_serial_input(&f->dev, (const uint8_t *)"0123456789abcdefXYZ", 19);
    fx_same_after_load(f);
    fx_mutate(f);
    f->line[FY_GSI_SERIAL0] = false;
    fx_same_after_load(f); /* the load drives the line again */
    assert_true(IRQ(f));
    for (unsigned i = 0; i < 19; i++)
        assert_int_equal(fx_in(f, DATA, 1), "0123456789abcdefXYZ"[i]);
}

static void state_relations(void **state)
{
    struct fixture *f = *state;
    Ferry__Serial16550 good = FERRY__SERIAL16550__INIT;
    good.divisor = 1;
    good.iir = 1;
    good.lsr = 0x60;
    good.msr = 0xb0;
    uint8_t seventeen[17] = {0};
    for (unsigned i = 0; i < 9; i++) {
        Ferry__Serial16550 m = good;
        uint8_t buf[256];
        switch (i) {
        case 1:
            m.lsr = 0x61;
            break; /* data ready without data */
        case 2:
            m.iir = 0x04;
            break; /* an interrupt without cause */
        case 3:
            m.divisor = 0x10000;
            break;
        case 4:
            m.ier = 0x10;
            break;
        case 5:
            m.msr = 0x30;
            break; /* carrier is always there */
        case 6:
            m.fcr = 0x40;
            break; /* trigger without FIFOs */
        case 7:
            m.rx.data = seventeen;
            m.rx.len = 17;
            m.fcr = 1;
            m.lsr = 0x61;
            m.iir = 0xc1;
            break;
        case 8:
            m.rx.data = seventeen;
            m.rx.len = 2;
            m.lsr = 0x61;
            break; /* two without FIFOs */
        default:
            break;
        }
        size_t len = ferry__serial16550__pack(&m, buf);
        assert_int_equal(f->dev.ops->load(f->dev.dev, buf, len, NULL), i ? -1 : 0);
    }
}

static void console_keeps_the_last(void **state)
{
    (void)state;
    struct fy_device c;
    static uint8_t buf[FY_CONSOLE_SCROLLBACK];
    const struct fy_console_config config = {.gate = NULL};
    assert_int_equal(fy_console_new(&config, &c, NULL), 0);
    uint8_t line[100];
    unsigned total = 0;
    while (total < 3 * FY_CONSOLE_SCROLLBACK) {
        for (unsigned i = 0; i < sizeof line; i++)
            line[i] = (uint8_t)((total + i) % 251);
        fy_console_put(&c, line, sizeof line);
        total += sizeof line;
    }
    uint64_t at;
    assert_int_equal(fy_console_scrollback(&c, 0, buf, sizeof buf, &at), sizeof buf);
    assert_int_equal(at, total - sizeof buf);
    for (unsigned i = 0; i < sizeof buf; i++)
        assert_int_equal(buf[i], (total - sizeof buf + i) % 251);
    uint8_t *s = NULL;
    size_t len;
    struct fy_device d;
    assert_int_equal(c.ops->save(c.dev, &s, &len, NULL), 0);
    assert_int_equal(fy_console_new(&config, &d, NULL), 0);
    assert_int_equal(d.ops->load(d.dev, s, len, NULL), 0);
    fy_console_put(&d, (const uint8_t *)"!", 1);
    /* Places in all output go on where another process took it up. */
    assert_int_equal(fy_console_scrollback(&d, total - 4, buf, sizeof buf, &at), 5);
    assert_int_equal(at, total - 4);
    assert_int_equal(buf[4], '!');
    assert_int_equal(fy_console_scrollback(&d, UINT64_MAX, buf, sizeof buf, &at), 0);
    assert_int_equal(at, total + 1);
    assert_int_equal(fy_console_scrollback(&d, 0, buf, 10, &at), 10);
    assert_int_equal(buf[9], '!');
    assert_int_equal(buf[8], (total - 1) % 251);
    free(s);
    c.ops->free(c.dev);
    d.ops->free(d.dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(output_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(divisor_latch, setup, teardown),
        cmocka_unit_test_setup_teardown(thre_interrupt, setup, teardown),
        cmocka_unit_test_setup_teardown(receive_and_trigger, setup, teardown),
        cmocka_unit_test_setup_teardown(input_queue_is_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(loopback_and_priority, setup, teardown),
        cmocka_unit_test_setup_teardown(fifo_clears, setup, teardown),
        cmocka_unit_test_setup_teardown(state_round_trip, setup, teardown),
        cmocka_unit_test_setup_teardown(state_relations, setup, teardown),
        cmocka_unit_test(console_keeps_the_last),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
