// SPDX-License-Identifier: Apache-2.0
/* The serial port. Every byte costs an exit, so vCPU 0 sends one byte a millisecond: a dot, or the next
 * character of the status line. Lines that begin with '!' go out at once, between status lines. */
#include <stdarg.h>

#include "guest.h"

#define COM1 0x3f8
#define STATUS_MS 250
#define POLL_MS 8

static volatile int lock;
static char line[96]; /* the status line under way */
static unsigned line_at, line_len;
static uint64_t next_status;

static void take(void)
{
    while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE))
        pause();
}

static void give(void)
{
    __atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
}

static unsigned put_number(char *out, uint64_t v, unsigned base)
{
    char rev[24];
    unsigned n = 0;
    do {
        rev[n++] = "0123456789abcdef"[v % base];
        v /= base;
    } while (v);
    for (unsigned i = 0; i < n; i++)
        out[i] = rev[n - 1 - i];
    return n;
}

static unsigned format(char *out, unsigned room, const char *fmt, va_list ap)
{
    unsigned n = 0;
    for (; *fmt && n + 24 < room; fmt++) {
        if (*fmt != '%') {
            out[n++] = *fmt;
            continue;
        }
        fmt++;
        if (*fmt == 's') {
            for (const char *s = va_arg(ap, const char *); *s && n + 24 < room; s++)
                out[n++] = *s;
        } else {
            n += put_number(out + n, va_arg(ap, uint64_t), *fmt == 'x' ? 16 : 10);
        }
    }
    out[n++] = '\n';
    return n;
}

void put_line(const char *fmt, ...)
{
    char buf[200];
    va_list ap;
    va_start(ap, fmt);
    unsigned n = format(buf, sizeof buf, fmt, ap);
    va_end(ap);
    take();
    while (line_at < line_len)
        outb(COM1, (uint8_t)line[line_at++]);
    outb(COM1, '\n'); /* ends the dots */
    for (unsigned i = 0; i < n; i++)
        outb(COM1, (uint8_t)buf[i]);
    give();
}

static unsigned status_line(char *out, unsigned room, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    unsigned n = format(out, room, fmt, ap);
    va_end(ap);
    return n;
}

static void new_status(uint64_t now)
{
    uint64_t written = 0;
    uint64_t bad = 0;
    for (unsigned i = 0; i < STATUS->cpus; i++) {
        written += STATUS->cpu[i].written;
        bad += STATUS->cpu[i].bad;
    }
    line_at = 0;
    line_len = status_line(line, sizeof line, "\n#w %u %u %u %u", written, STATUS->cpu[0].position >> 32,
                           (now - tsc_start) / tsc_khz, bad);
}

/* One byte a call, on vCPU 0 each millisecond. */
void heartbeat(struct cpu *me, uint64_t now)
{
    (void)me;
    if (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE))
        return; /* another vCPU is printing: that is a sign of life too */
    if (line_at == line_len && now >= next_status) {
        next_status = now + STATUS_MS * tsc_khz;
        new_status(now);
    }
    if (opt.heartbeat) {
        outb(COM1, line_at < line_len ? (uint8_t)line[line_at++] : '.');
    } else {
        while (line_at < line_len)
            outb(COM1, (uint8_t)line[line_at++]);
    }
    give();
}

static void power_off(void)
{
    put_line("!bye");
    outl(0xf4, 0);
    outw(0x604, 0x3400); /* S5 here is 5, in QEMU's PC 0 */
    outw(0x604, 0x2000);
    trap(TRAP_STOP, 0, 0, NULL);
}

void console_poll(struct cpu *me)
{
    if (me->ticks % POLL_MS || !(inb(COM1 + 5) & 1))
        return;
    switch (inb(COM1)) {
    case 'v':
        verdict_wanted++;
        break;
    case 'q':
        power_off();
        break;
    default:
        break;
    }
}
