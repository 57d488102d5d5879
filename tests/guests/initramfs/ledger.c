// SPDX-License-Identifier: Apache-2.0
/* The checker in a stock Linux guest, its /init: a worker on every CPU rewrites blocks of a file in tmpfs and
 * keeps their checksums in its own memory; a clock thread wanders over the CPUs and compares clocks. Speaks
 * on the serial console as the self-checking guest does (tests/guests/README.md). Options from the kernel's
 * command line: ferry.mem=MIB (64), ferry.rate=MIB/S (50; 0 none). */
#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <linux/rtc.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 65536
#define CPUS_MAX 64
#define STATUS_MS 250
#define CLOCK_STEP_NS 2000000
#define DEBT_NS 100000000ull

struct worker {
    unsigned id;
    int fd;
    uint64_t blocks;
    uint64_t *sums;
    pthread_t thread;
    /* read by the main thread */
    uint64_t pass, written, bad;
    unsigned acked;
};

static struct worker workers[CPUS_MAX];
static unsigned cpus;
static uint64_t rate_mib = 50, mem_mib = 64, start_ns;
static unsigned wanted; /* verdicts asked for */
static unsigned clock_faults;
static pthread_mutex_t out_lock = PTHREAD_MUTEX_INITIALIZER;

#define GET(x) __atomic_load_n(&(x), __ATOMIC_ACQUIRE)
#define SET(x, v) __atomic_store_n(&(x), v, __ATOMIC_RELEASE)

static void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *fmt, ...)
{
    char line[256];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line - 1, fmt, ap);
    va_end(ap);
    if (n > (int)sizeof line - 2)
        n = sizeof line - 2;
    line[n++] = '\n';
    pthread_mutex_lock(&out_lock);
    for (int at = 0; at < n;) {
        ssize_t w = write(STDOUT_FILENO, line + at, (size_t)(n - at));
        if (w <= 0 && errno != EINTR)
            break;
        at += w > 0 ? (int)w : 0;
    }
    pthread_mutex_unlock(&out_lock);
}

static uint64_t ns_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void sleep_ns(uint64_t ns)
{
    struct timespec t = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
    nanosleep(&t, NULL);
}

static void pin(unsigned cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

/* Order-dependent and cheap: a rotated multiply-add over words. */
static uint64_t checksum(const uint64_t *p, size_t words)
{
    uint64_t h = 0x9e3779b97f4a7c15ull;
    for (size_t i = 0; i < words; i++)
        h = (h << 7 | h >> 57) * 0xff51afd7ed558ccdull + p[i];
    return h;
}

/* New content of a block: half of it compressible. */
static void fill(uint64_t *p, uint64_t seed)
{
    uint64_t x = seed * 0x9e3779b97f4a7c15ull | 1;
    for (size_t i = 0; i < BLOCK / 8; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        p[i] = i & 1 ? x : seed;
    }
}

static void report(struct worker *w, uint64_t block, const char *what)
{
    if (!w->bad)
        say("!corrupt");
    if (GET(w->bad) < 8)
        say("!bad file %u block %llu: %s", w->id, (unsigned long long)block, what);
    SET(w->bad, w->bad + 1);
}

/* Compare block b with the ledger. */
static void verify(struct worker *w, uint64_t b, uint64_t *buf)
{
    if (pread(w->fd, buf, BLOCK, (off_t)(b * BLOCK)) != BLOCK)
        report(w, b, "cannot be read");
    else if (checksum(buf, BLOCK / 8) != w->sums[b])
        report(w, b, "checksum differs");
}

static void rewrite(struct worker *w, uint64_t b, uint64_t *buf)
{
    fill(buf, w->pass << 32 | b << 8 | w->id);
    w->sums[b] = checksum(buf, BLOCK / 8);
    if (pwrite(w->fd, buf, BLOCK, (off_t)(b * BLOCK)) != BLOCK)
        report(w, b, "cannot be written");
    SET(w->written, w->written + BLOCK / 4096);
}

static void *work(void *arg)
{
    struct worker *w = arg;
    static __thread uint64_t buf[BLOCK / 8];
    uint64_t ns_per_block = rate_mib ? 1000000000ull * cpus * BLOCK / (rate_mib << 20) : 0;
    uint64_t due = ns_of(CLOCK_MONOTONIC);
    unsigned asked = 0;
    uint64_t left = 0;
    pin(w->id);
    for (uint64_t b = 0;; b = (b + 1) % w->blocks) {
        if (!b)
            SET(w->pass, w->pass + 1);
        verify(w, b, buf);
        if (rate_mib)
            rewrite(w, b, buf);
        if (left && !--left)
            SET(w->acked, asked);
        if (!left && asked != GET(wanted)) {
            asked = GET(wanted);
            left = w->blocks;
        }
        if (left)
            continue; /* a verdict is wanted: no pauses */
        uint64_t now = ns_of(CLOCK_MONOTONIC);
        if (!rate_mib) {
            sleep_ns(10000000);
            continue;
        }
        due += ns_per_block;
        if (due + DEBT_NS < now)
            due = now - DEBT_NS;
        if (due > now)
            sleep_ns(due - now);
    }
    return NULL;
}

static void compare(const char *name, uint64_t *last, uint64_t now, unsigned cpu)
{
    if (now < *last) {
        SET(clock_faults, clock_faults + 1);
        say("!clock backwards %s %llu %llu cpu %u", name, (unsigned long long)*last, (unsigned long long)now,
            cpu);
    }
    *last = now;
}

static uint64_t rtc_seconds(int fd)
{
    struct rtc_time t;
    if (fd < 0 || ioctl(fd, RTC_RD_TIME, &t))
        return 0;
    struct tm tm = {.tm_sec = t.tm_sec,
                    .tm_min = t.tm_min,
                    .tm_hour = t.tm_hour,
                    .tm_mday = t.tm_mday,
                    .tm_mon = t.tm_mon,
                    .tm_year = t.tm_year};
    return (uint64_t)timegm(&tm);
}

/* One thread over all CPUs in turn: what one CPU says must not be before what the last one said. */
static void *watch_clocks(void *arg)
{
    (void)arg;
    uint64_t mono = 0;
    uint64_t boot = 0;
    uint64_t real = 0;
    uint64_t rtc = 0;
    uint64_t next_rtc = 0;
    int fd = open("/dev/rtc0", O_RDONLY | O_CLOEXEC);
    for (unsigned cpu = 0;; cpu = (cpu + 1) % cpus) {
        pin(cpu);
        compare("monotonic", &mono, ns_of(CLOCK_MONOTONIC), cpu);
        compare("boottime", &boot, ns_of(CLOCK_BOOTTIME), cpu);
        compare("realtime", &real, ns_of(CLOCK_REALTIME), cpu);
        if (mono >= next_rtc) {
            next_rtc = mono + 1000000000u;
            compare("rtc", &rtc, rtc_seconds(fd), cpu);
        }
        sleep_ns(CLOCK_STEP_NS);
    }
    return NULL;
}

static void read_options(void)
{
    char text[4096] = "";
    int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    text[n > 0 ? n : 0] = 0;
    close(fd);
    for (char *save = NULL, *word = strtok_r(text, " \n", &save); word; word = strtok_r(NULL, " \n", &save)) {
        if (!strncmp(word, "ferry.mem=", 10))
            mem_mib = strtoull(word + 10, NULL, 10);
        if (!strncmp(word, "ferry.rate=", 11))
            rate_mib = strtoull(word + 11, NULL, 10);
    }
    if (!mem_mib)
        mem_mib = 1;
}

static void mount_all(void)
{
    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    mkdir("/dev", 0755);
    mkdir("/work", 0755);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    mount("tmpfs", "/work", "tmpfs", 0, "size=95%");
}

static void open_console(void)
{
    int fd = open("/dev/console", O_RDWR | O_NOCTTY);
    if (fd < 0)
        return;
    for (int i = 0; i < 3; i++)
        dup2(fd, i);
    struct termios t;
    if (tcgetattr(0, &t) == 0) {
        cfmakeraw(&t);
        t.c_oflag |= OPOST | ONLCR;
        tcsetattr(0, TCSANOW, &t);
    }
}

static void load_module(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    syscall(SYS_finit_module, fd, "", 0);
    close(fd);
}

static bool start_worker(unsigned id)
{
    struct worker *w = &workers[id];
    char path[32];
    static uint64_t buf[BLOCK / 8];
    snprintf(path, sizeof path, "/work/file%u", id);
    w->id = id;
    w->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    w->blocks = (mem_mib << 20) / BLOCK / cpus;
    w->blocks += !w->blocks;
    w->sums = calloc(w->blocks, sizeof *w->sums);
    if (w->fd < 0 || !w->sums)
        return false;
    for (uint64_t b = 0; b < w->blocks; b++)
        rewrite(w, b, buf);
    w->written = 0;
    return true;
}

static void verdict(void)
{
    uint64_t passes = UINT64_MAX;
    uint64_t written = 0;
    uint64_t bad = 0;
    for (unsigned i = 0; i < cpus; i++) {
        passes = GET(workers[i].pass) < passes ? GET(workers[i].pass) : passes;
        written += GET(workers[i].written);
        bad += GET(workers[i].bad);
    }
    say("!verdict %s passes=%llu pages=%llu bad=%llu clock=%u",
        bad || GET(clock_faults) ? "corrupt" : "intact", (unsigned long long)passes,
        (unsigned long long)written, (unsigned long long)bad, GET(clock_faults));
}

static void status(void)
{
    uint64_t written = 0;
    uint64_t bad = 0;
    for (unsigned i = 0; i < cpus; i++) {
        written += GET(workers[i].written);
        bad += GET(workers[i].bad);
    }
    say("#w %llu %llu %llu %llu", (unsigned long long)written, (unsigned long long)GET(workers[0].pass),
        (unsigned long long)((ns_of(CLOCK_MONOTONIC) - start_ns) / 1000000), (unsigned long long)bad);
}

static void power_off(const char *why)
{
    say("%s", why);
    tcdrain(STDOUT_FILENO);
    reboot(RB_POWER_OFF);
    for (;;)
        pause();
}

static void on_input(int fd, unsigned *asked)
{
    char c;
    if (read(fd, &c, 1) != 1)
        return;
    if (c == 'v') {
        SET(wanted, wanted + 1);
        *asked = wanted;
    }
    if (c == 'q')
        power_off("!bye");
}

static void on_button(int fd)
{
    struct input_event ev;
    if (read(fd, &ev, sizeof ev) == sizeof ev && ev.type == EV_KEY && ev.code == KEY_POWER && ev.value)
        power_off("!power-button");
}

static bool all_acked(unsigned asked)
{
    for (unsigned i = 0; i < cpus; i++)
        if (GET(workers[i].acked) != asked)
            return false;
    return true;
}

int main(void)
{
    mount_all();
    open_console();
    say("!init");
    /* kernel messages off the console: our lines stay whole */
    syscall(SYS_syslog, 8, NULL, 1);
    load_module("/modules/button.ko");
    load_module("/modules/evdev.ko");
    read_options();
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    cpus = n < 1 ? 1 : n > CPUS_MAX ? CPUS_MAX : (unsigned)n;
    start_ns = ns_of(CLOCK_MONOTONIC);
    for (unsigned i = 0; i < cpus; i++)
        if (!start_worker(i))
            say("!bad file %u cannot be made: %s", i, strerror(errno));
    say("!start ledger cpus=%u pages=%llu rate=%llu", cpus, (unsigned long long)(mem_mib << 8),
        (unsigned long long)rate_mib);
    pthread_t clocks;
    for (unsigned i = 0; i < cpus; i++)
        pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    pthread_create(&clocks, NULL, watch_clocks, NULL);
    say("!filled %llu pages", (unsigned long long)(mem_mib << 8));
    struct pollfd fds[2] = {{.fd = STDIN_FILENO, .events = POLLIN},
                            {.fd = open("/dev/input/event0", O_RDONLY | O_CLOEXEC), .events = POLLIN}};
    unsigned asked = 0;
    unsigned told = 0;
    uint64_t next = 0;
    for (;;) {
        poll(fds, 2, 20);
        if (fds[0].revents & POLLIN)
            on_input(fds[0].fd, &asked);
        if (fds[1].revents & POLLIN)
            on_button(fds[1].fd);
        if (asked != told && all_acked(asked)) {
            told = asked;
            verdict();
        }
        if (ns_of(CLOCK_MONOTONIC) >= next) {
            next = ns_of(CLOCK_MONOTONIC) + STATUS_MS * 1000000ull;
            status();
        }
    }
}
