// SPDX-License-Identifier: Apache-2.0
/* Console output and the output gate: held output is not seen, comes out by epoch and in order, is never
 * dropped by a guest that looks at its transmitter, and travels with the guest. */
#include <pthread.h>

#include "tests/unit/dev_fixture.h"

#include "hv/base/checked.h"
#include "proto/state.pb-c.h"

#define P FY_PORT_SERIAL0
enum { DATA = P, IER, IIR, LCR, MCR, LSR };
#define EMPTY 0x60u

/* A machine's part of it: serial port, console, gate, and what somebody outside has seen. */
struct side {
    struct fixture f; /* f.dev: the serial port */
    struct fy_gate *gate;
    struct fy_device console;
    uint8_t seen[4 * FY_CONSOLE_HELD];
    size_t count;
    unsigned rooms;
};

static void on_out(void *arg, const uint8_t *buf, size_t len)
{
    struct side *s = arg;
    assert_true(s->count + len <= sizeof s->seen);
    memcpy(s->seen + s->count, buf, len);
    s->count += len;
}

static void on_room(void *arg)
{
    struct side *s = arg;
    s->rooms++;
    fy_serial_output_room(&s->f.dev);
}

static struct side *side_new(void)
{
    struct side *s = calloc(1, sizeof *s);
    struct fy_err e;
    fx_init(&s->f);
    s->gate = fy_gate_new(&e);
    const struct fy_console_config c = {.gate = s->gate, .arg = s, .out = on_out, .room = on_room};
    assert_int_equal(fy_console_new(&c, &s->console, NULL), 0);
    s->f.console = &s->console;
    assert_int_equal(fy_serial_new(s->f.bus, &s->f.host, &s->f.dev, NULL), 0);
    return s;
}

static void side_free(struct side *s)
{
    fy_gate_discard(s->gate);
    fx_done(&s->f);
    s->console.ops->free(s->console.dev);
    fy_gate_free(s->gate);
    free(s);
}

static void say(struct side *s, const char *text)
{
    for (; *text; text++)
        fx_outp(&s->f, DATA, 1, (uint8_t)*text);
}

static void expect(const struct side *s, const char *text)
{
    assert_int_equal(s->count, strlen(text));
    assert_memory_equal(s->seen, text, s->count);
}

static size_t scrollback(struct side *s, uint8_t *buf, size_t room)
{
    uint64_t at;
    fy_console_lock(&s->console);
    size_t n = fy_console_scrollback(&s->console, 0, buf, room, &at);
    fy_console_unlock(&s->console);
    return n;
}

static void by_epoch(void **state)
{
    (void)state;
    struct side *s = side_new();
    struct fy_err e;
    uint8_t back[64];
    say(s, "open ");
    expect(s, "open ");
    assert_int_equal(fy_gate_hold(s->gate), 1);
    say(s, "one ");
    assert_int_equal(fy_gate_hold(s->gate), 2);
    say(s, "two ");
    expect(s, "open ");
    assert_int_equal(fy_gate_kept(s->gate), 2); /* an item an epoch, not one a byte */
    assert_int_equal(scrollback(s, back, sizeof back), 5);
    assert_int_equal(fy_gate_release(s->gate, 1, &e), 0);
    expect(s, "open one ");
    say(s, "more ");
    fy_gate_open(s->gate);
    expect(s, "open one two more ");
    say(s, "end");
    expect(s, "open one two more end");
    assert_int_equal(scrollback(s, back, sizeof back), s->count);
    side_free(s);
}

static void discarded(void **state)
{
    (void)state;
    struct side *s = side_new();
    fy_gate_hold(s->gate);
    say(s, "never");
    fy_gate_discard(s->gate);
    say(s, "later");
    fy_gate_open(s->gate);
    expect(s, "later");
    side_free(s);
}

/* A guest that waits for the transmitter loses nothing, and what is held stays within its bound. */
static void busy_when_full(void **state)
{
    (void)state;
    struct side *s = side_new();
    struct fixture *f = &s->f;
    size_t sent = 0;
    fx_outp(f, MCR, 1, 0x08);
    fx_outp(f, IER, 1, 0x02);
    fy_gate_hold(s->gate);
    while (fx_in(f, LSR, 1) & EMPTY) {
        for (unsigned i = 0; i < 16; i++) /* as a driver fills a FIFO */
            fx_outp(f, DATA, 1, (uint8_t)(sent++ * 7));
        assert_true(sent <= FY_CONSOLE_HELD);
    }
    assert_true(sent > FY_CONSOLE_HELD - FY_CONSOLE_LOW - 16);
    assert_int_equal(fx_in(f, LSR, 1), 0);
    assert_int_equal(fx_in(f, IIR, 1) & 0x0f, 1);
    assert_false(f->line[FY_GSI_SERIAL0]);
    fx_outp(f, IER, 1, 0);
    fx_outp(f, IER, 1, 0x02); /* no interrupt of a transmitter that is not empty */
    assert_false(f->line[FY_GSI_SERIAL0]);
    assert_int_equal(s->rooms, 0);
    fx_same_after_load(f);
    fx_mutate(f);
    assert_int_equal(s->count, 0);
    fy_gate_open(s->gate);
    assert_int_equal(s->rooms, 1);
    assert_true(f->line[FY_GSI_SERIAL0]);
    assert_int_equal(fx_in(f, LSR, 1), EMPTY);
    assert_int_equal(s->count, sent);
    for (size_t i = 0; i < sent; i++)
        assert_int_equal(s->seen[i], (uint8_t)(i * 7));
    side_free(s);
}

/* Many epochs that nobody releases: no memory is taken for them, the transmitter is busy. */
static void many_epochs(void **state)
{
    (void)state;
    struct side *s = side_new();
    struct fixture *f = &s->f;
    unsigned sent = 0;
    for (unsigned i = 0; i < 1000; i++) {
        fy_gate_hold(s->gate);
        if (!(fx_in(f, LSR, 1) & EMPTY))
            continue;
        fx_outp(f, DATA, 1, (uint8_t)sent);
        sent++;
    }
    assert_in_range(sent, 32, 999);
    fy_gate_open(s->gate);
    assert_int_equal(fx_in(f, LSR, 1), EMPTY);
    for (unsigned i = 0; i < s->count; i++)
        assert_int_equal(s->seen[i], (uint8_t)i);
    assert_int_equal(s->count, sent);
    side_free(s);
}

static void move(struct side *from, struct side *to)
{
    struct fy_device *a[2] = {&from->console, &from->f.dev}, *b[2] = {&to->console, &to->f.dev};
    for (int i = 0; i < 2; i++) {
        uint8_t *buf;
        size_t len;
        struct fy_err e;
        assert_int_equal(a[i]->ops->save(a[i]->dev, &buf, &len, &e), 0);
        for (int twice = 0; twice < 2; twice++)
            if (b[i]->ops->load(b[i]->dev, buf, len, &e) < 0)
                fail_msg("%s", e.text);
        free(buf);
    }
}

static void resume(struct side *s)
{
    s->console.ops->resume(s->console.dev);
    s->f.dev.ops->resume(s->f.dev.dev);
}

/* What was held when the state was saved comes out where the guest goes on, once, and there by its gate. */
static void travels(void **state)
{
    (void)state;
    for (int held_there = 0; held_there < 2; held_there++) {
        struct side *s = side_new(), *t = side_new();
        fx_outp(&s->f, MCR, 1, 0x08);
        fx_outp(&s->f, IER, 1, 0x02);
        say(s, "seen ");
        fy_gate_hold(s->gate);
        say(s, "held ");
        move(s, t);
        fx_same_after_load(&t->f);
        expect(t, "");
        if (held_there)
            fy_gate_hold(t->gate);
        resume(t);
        say(t, "more");
        expect(t, held_there ? "" : "held more");
        fy_gate_open(t->gate);
        expect(t, "held more");
        uint8_t back[64];
        assert_int_equal(scrollback(t, back, sizeof back), 14);
        assert_memory_equal(back, "seen held more", 14);
        expect(s, "seen ");
        /* The one that stays behind goes on as if nothing had been. */
        fy_gate_open(s->gate);
        expect(s, "seen held ");
        side_free(s);
        side_free(t);
    }
}

/* A busy transmitter's interrupt comes on the other side. */
static void travels_busy(void **state)
{
    (void)state;
    struct side *s = side_new(), *t = side_new();
    size_t sent = 0;
    fx_outp(&s->f, MCR, 1, 0x08);
    fx_outp(&s->f, IER, 1, 0x02);
    fy_gate_hold(s->gate);
    for (; fx_in(&s->f, LSR, 1) & EMPTY; sent++)
        fx_outp(&s->f, DATA, 1, 'x');
    move(s, t);
    assert_false(t->f.line[FY_GSI_SERIAL0]);
    resume(t);
    assert_true(t->f.line[FY_GSI_SERIAL0]);
    assert_int_equal(fx_in(&t->f, LSR, 1), EMPTY);
    assert_int_equal(t->count, sent);
    side_free(s);
    side_free(t);
}

static void states(void **state)
{
    (void)state;
    struct side *s = side_new(), *t = side_new();
    say(s, "abc");
    fy_gate_hold(s->gate);
    say(s, "defg");
    move(s, t);
    struct fixture c = {.dev = t->console};
    fx_mutate(&c);
    resume(t);
    expect(t, "defg");
    side_free(s);
    side_free(t);
}

/* A count of output that would wrap round is refused. */
static void count_ends(void **state)
{
    (void)state;
    struct side *s = side_new();
    struct fy_err e;
    uint8_t bytes[16];
    Ferry__Console m = FERRY__CONSOLE__INIT;
    m.total = INT64_MAX;
    size_t len = ferry__console__pack(&m, bytes);
    assert_int_equal(s->console.ops->load(s->console.dev, bytes, len, &e), 0);
    m.total++;
    len = ferry__console__pack(&m, bytes);
    assert_int_equal(s->console.ops->load(s->console.dev, bytes, len, &e), -1);
    assert_int_equal(e.code, FY_ECORRUPT);
    side_free(s);
}

/* Epochs released on another thread than the guest prints on. */
#define BYTES 200000u

static void *print_all(void *arg)
{
    struct side *s = arg;
    for (unsigned i = 0; i < BYTES; i++) {
        while (!(fx_in(&s->f, LSR, 1) & EMPTY))
            sched_yield();
        fx_outp(&s->f, DATA, 1, (uint8_t)(i * 13 >> 3));
    }
    return NULL;
}

static void two_threads(void **state)
{
    (void)state;
    struct side *s = side_new();
    pthread_t t;
    struct fy_err e;
    bool ended = false;
    uint64_t epoch = fy_gate_hold(s->gate);
    assert_int_equal(pthread_create(&t, NULL, print_all, s), 0);
    while (!ended) {
        uint64_t next = fy_gate_hold(s->gate);
        assert_int_equal(fy_gate_release(s->gate, epoch, &e), 0);
        epoch = next;
        fy_console_lock(&s->console);
        ended = s->count == BYTES;
        fy_console_unlock(&s->console);
    }
    pthread_join(t, NULL);
    for (unsigned i = 0; i < BYTES; i++)
        assert_int_equal(s->seen[i], (uint8_t)(i * 13 >> 3));
    side_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_epoch),    cmocka_unit_test(discarded),  cmocka_unit_test(busy_when_full),
        cmocka_unit_test(many_epochs), cmocka_unit_test(travels),    cmocka_unit_test(travels_busy),
        cmocka_unit_test(states),      cmocka_unit_test(count_ends), cmocka_unit_test(two_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
